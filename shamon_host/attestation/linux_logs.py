"""The measurement logs of the running Linux kernel, from securityfs: the `MeasurementLogs` port on a real host.

The Attester sends the firmware's log once a boot and IMA's log in increments, so `ima_log` starts at an offset. Both
files are sequence files: every read gives about a page of whole records, and a position in them is found by running
through the records before it, which costs the kernel about a millisecond for a thousand entries.

Source: Linux security/integrity/ima/ima_fs.c, drivers/char/tpm/eventlog/common.c, fs/seq_file.c.
"""

from pathlib import Path

from shamon_host.domain.errors import BackendFailed

SECURITYFS = Path("/sys/kernel/security")
HYPERVISOR_TYPE = Path("/sys/hypervisor/type")
EVENT_LOG = "tpm0/binary_bios_measurements"
IMA_LOG = "ima/binary_runtime_measurements"
IMA_COUNT = "ima/runtime_measurements_count"

MAX_EVENT_LOG_BYTES = 4 * 1024 * 1024
MAX_IMA_LOG_BYTES = 64 * 1024 * 1024
"""Half a million entries: a host that has so many does not run a policy of executions."""
_CHUNK_BYTES = 1024 * 1024
_MAX_COUNT_BYTES = 32


class LinuxMeasurementLogs:
    """Reads the logs anew on each call; holds nothing open. `securityfs` is where the kernel shows them,
    `hypervisor_type` where it says which hypervisor it runs on."""

    def __init__(self, securityfs: Path = SECURITYFS, hypervisor_type: Path = HYPERVISOR_TYPE) -> None:
        self._hypervisor_type = hypervisor_type
        self._event_log = securityfs / EVENT_LOG
        self._ima_log = securityfs / IMA_LOG
        self._ima_count = securityfs / IMA_COUNT

    def event_log(self) -> bytes:
        """The firmware's TCG event log; empty in dom0 of Xen, whose kernel the firmware does not hand it to.

        Raises BackendFailed when there is none elsewhere (no TPM driver, no UEFI log).
        """
        if not self._event_log.exists() and self._on_xen():
            return b""
        log = _read(
            self._event_log,
            limit=MAX_EVENT_LOG_BYTES,
            kind="event log",
            remedy="The host has to be booted by UEFI with its TPM, and securityfs to be mounted.",
        )
        if not log:
            raise BackendFailed("the event log is empty", where=str(self._event_log))
        return log

    def _on_xen(self) -> bool:
        """It decides nothing: a Verifier compares PCR values, and a log explains them at best."""
        try:
            return self._hypervisor_type.read_text("ascii").strip() == "xen"
        except (OSError, UnicodeDecodeError):
            return False

    def ima_log(self, offset: int) -> bytes:
        """IMA's binary log from byte `offset` (an entry's boundary) to its end; empty from behind its end.

        Raises BackendFailed.
        """
        if offset < 0:
            raise BackendFailed("no such place in the IMA log", where=str(self._ima_log), found=f"offset {offset}")
        return _read(
            self._ima_log,
            limit=MAX_IMA_LOG_BYTES,
            kind="IMA log",
            remedy="The kernel needs IMA (CONFIG_IMA), and securityfs to be mounted.",
            offset=offset,
        )

    def measurement_count(self) -> int:
        """Number of entries in the IMA log. Raises BackendFailed."""
        text = _read(self._ima_count, limit=_MAX_COUNT_BYTES, kind="IMA measurement count").strip()
        if not text.isdigit():
            raise BackendFailed("the IMA measurement count is no number", where=str(self._ima_count), found=repr(text))
        return int(text)


def _read(path: Path, *, limit: int, kind: str, remedy: str = "", offset: int = 0) -> bytes:
    """All of a file behind `offset`, in one pass. Unbuffered: a buffered seek could start at another byte."""
    found = bytearray()
    try:
        with path.open("rb", buffering=0) as file:
            if offset:
                file.seek(offset)
            while chunk := file.read(_CHUNK_BYTES):
                found += chunk
                if len(found) > limit:
                    raise BackendFailed(f"the {kind} is too long", where=str(path), expected=f"at most {limit} bytes")
    except OSError as error:
        raise BackendFailed(
            f"cannot read the {kind}", where=str(path), found=error.strerror or type(error).__name__, remedy=remedy
        ) from error
    return bytes(found)
