"""A host that measures itself, in memory: firmware, kernel and IMA over a software TPM, with real log bytes.

Boots a `BootImage` the way OVMF, systemd's stub and Linux do (which PCR gets what: `attestation.uki`), then measures
what runs, is loaded or is read by the daemon, once for each file and digest, as IMA does.
"""

import hashlib
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

from shamon_host.attestation.event_log import encode_event_log
from shamon_host.attestation.event_model import Event, EventType
from shamon_host.attestation.ima_entry import ImaEntry
from shamon_host.attestation.ima_log import (
    boot_aggregate,
    encode_ima_log,
    ima_buf_entry,
    ima_sig_entry,
    violation_entry,
)
from shamon_host.attestation.pcr import Bank
from shamon_host.attestation.uki import (
    BOOT_LOADER_PCR,
    expected_pcr4_events,
    expected_pcr9_events,
    expected_pcr11_events,
)
from shamon_host.attestation.xen_image import expected_pcr4_events as expected_xen_events
from shamon_host.domain.errors import BackendFailed
from shamon_host.testing.tpm import MemoryTpm
from shamon_host.testing.uki_file import uki_file, xen_file

_BANKS = (Bank.SHA1, Bank.SHA256)
_SEPARATOR = bytes(4)
_SEPARATED_PCRS = range(8)
_SECURE_BOOT_OFF = b"".join(
    (
        bytes.fromhex("61dfe48bca93d211aa0d00e098032b8c"),  # EFI_GLOBAL_VARIABLE
        (10).to_bytes(8, "little"),
        (1).to_bytes(8, "little"),
        "SecureBoot".encode("utf-16-le"),
        b"\0",
    )
)
IMA_POLICY = "/etc/ima/ima-policy"
_DAEMON_ENTRY = "/opt/shamon/lib/python3.11/site-packages/shamon_host/__init__.py"


@dataclass(frozen=True, slots=True, kw_only=True)
class BootImage:
    """What a host boots, in as many bytes as it takes to tell one from another."""

    firmware: bytes = b"firmware"
    uki: bytes = b"stub"
    """The stub's code; `file` puts the image together."""
    kernel: bytes = b"kernel"
    initrd: bytes = b"initrd"
    cmdline: str = "root=/dev/vda security=selinux enforcing=1 ima_policy=tcb|critical_data"
    load_options: str = ""
    """Not empty: somebody replaced the embedded command line."""
    xen: bytes = b""
    """Not empty: the hypervisor below, which the firmware boots with FLASK policy, kernel and initrd in one image."""
    flask_policy: bytes = b"flask policy"
    selinux_policy: bytes = b"selinux policy"
    early_files: tuple[tuple[str, bytes], ...] = (
        ("/usr/lib/systemd/systemd", b"\x7fELF systemd"),
        ("/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2", b"\x7fELF ld.so"),
        ("/usr/lib/x86_64-linux-gnu/libc.so.6", b"\x7fELF libc"),
    )
    """Run or read before SELinux's policy is loaded, in this order."""
    files: tuple[tuple[str, bytes], ...] = (
        (IMA_POLICY, b"measure func=BPRM_CHECK\n"),
        ("/usr/sbin/libvirtd", b"\x7fELF libvirtd"),
        ("/opt/shamon/bin/python3", b"\x7fELF python"),
        (_DAEMON_ENTRY, b"# the daemon"),
        ("/etc/shamon/host.toml", b"# the host's configuration"),
    )
    """Run or read after that in the course of every boot, in this order; systemd loads the IMA policy first."""

    def file(self) -> bytes:
        """The unified image, of the kernel or of Xen, as the PE file that firmware would load."""
        if self.xen:
            return xen_file(
                xen=self.xen, flask=self.flask_policy, kernel=self.kernel, initrd=self.initrd, cmdline=self.cmdline
            )
        return uki_file(stub=self.uki, kernel=self.kernel, initrd=self.initrd, cmdline=self.cmdline)


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


@dataclass(kw_only=True)
class MeasuredMachine:
    """The machine. `logs` and `tpm` are what the Attester sees of it. It must `boot` before anything else."""

    clock_s: Callable[[], float] = lambda: 0.0
    tpm: MemoryTpm = field(init=False)
    logs: "MemoryLogs" = field(init=False)
    boot_id: str = field(init=False, default="")
    enforcing: bool = field(init=False, default=False)
    _measured: set[tuple[str, bytes]] = field(init=False, default_factory=set)

    def __post_init__(self) -> None:
        self.tpm = MemoryTpm(clock_s=self.clock_s)
        self.logs = MemoryLogs()

    def boot(self, image: BootImage | None = None) -> None:
        """Boot, or boot again, and bring user space up to the running daemon."""
        image = image or BootImage()
        self.tpm.reset()
        self.boot_id = str(uuid.UUID(bytes=sha256(f"boot {self.tpm.reset_count}".encode())[:16]))
        self._measured.clear()
        events = boot_events(image)
        for event in events:
            self.tpm.extend(event.pcr, event.digests[Bank.SHA256])
        self.logs.present = True
        self.logs.events, self.logs.entries = () if image.xen else events, []
        self.logs.on_xen = bool(image.xen)
        self._append(ima_sig_entry("boot_aggregate", boot_aggregate(Bank.SHA256, self.tpm.pcrs)))
        self._append(ima_buf_entry("kernel_version", b"6.1.0-memory"))
        for path, content in image.early_files:
            self.run_program(path, content)
        self.enforcing = True
        self._selinux_state()
        self._append(ima_buf_entry("selinux-policy-hash", sha256(image.selinux_policy)))
        for path, content in image.files:
            self.run_program(path, content)

    def run_program(self, path: str, content: bytes) -> None:
        """Execute or map a file, or read it as the daemon does: one entry the first time."""
        digest = sha256(content)
        if (path, digest) not in self._measured:
            self._measured.add((path, digest))
            self._append(ima_sig_entry(path, digest))

    def load_module(self, path: str, content: bytes) -> None:
        """finit_module of a file: measured like any other."""
        self.run_program(path, content)

    def read_by_daemon(self, path: str, content: bytes) -> None:
        """The daemon's domain reads a file: measured like any other."""
        self.run_program(path, content)

    def setenforce(self, enforcing: bool) -> None:
        """`setenforce`: one entry for each state, the first time."""
        self.enforcing = enforcing
        self._selinux_state()

    def race(self, path: str) -> None:
        """A file was open for writing while it was measured: a violation."""
        self._append(violation_entry(path))

    def _selinux_state(self) -> None:
        state = f"initialized=1;enforcing={int(self.enforcing)};checkreqprot=0;network_peer_controls=1;"
        content = state.encode()
        if ("selinux-state", content) not in self._measured:
            self._measured.add(("selinux-state", content))
            self._append(ima_buf_entry("selinux-state", content))

    def _append(self, entry: ImaEntry) -> None:
        self.tpm.extend(entry.pcr, entry.pcr_digest(Bank.SHA256))
        self.logs.entries.append(entry)


@dataclass(kw_only=True)
class MemoryLogs:
    """`attestation.ports.MeasurementLogs` of a machine."""

    present: bool = False
    on_xen: bool = False
    """In dom0, which sees no log of the firmware."""
    events: tuple[Event, ...] = ()
    entries: list[ImaEntry] = field(default_factory=list)

    def event_log(self) -> bytes:
        self._require()
        return b"" if self.on_xen else encode_event_log(self.events, banks=_BANKS)

    def ima_log(self, offset: int) -> bytes:
        self._require()
        if offset < 0:
            raise BackendFailed("bad offset into the IMA log", expected="0 or more", found=str(offset))
        return encode_ima_log(self.entries)[offset:]

    def measurement_count(self) -> int:
        self._require()
        return len(self.entries)

    def _require(self) -> None:
        if not self.present:
            raise BackendFailed("this host has no measurement logs")


def boot_events(image: BootImage) -> tuple[Event, ...]:
    """What firmware, stub and kernel measure.

    PCR 0 the firmware, 4 the images, 7 Secure Boot, 9 command line and initrd, 11 the image's sections, 12 load options
    that replace the command line. An image of Xen is measured by the firmware alone.
    """

    def measuring(pcr: int, kind: EventType, data: bytes, measured: bytes | None = None) -> Event:
        return Event.measuring(pcr, kind, data, banks=_BANKS, measured=measured)

    file = image.file()
    by_firmware = [
        measuring(0, EventType.EV_S_CRTM_VERSION, "1.0".encode("utf-16-le") + b"\0\0"),
        measuring(0, EventType.EV_EFI_PLATFORM_FIRMWARE_BLOB, bytes(16), image.firmware),
        measuring(7, EventType.EV_EFI_VARIABLE_DRIVER_CONFIG, _SECURE_BOOT_OFF),
        *(measuring(pcr, EventType.EV_SEPARATOR, _SEPARATOR) for pcr in _SEPARATED_PCRS if pcr != BOOT_LOADER_PCR),
        *(expected_xen_events if image.xen else expected_pcr4_events)(file, banks=_BANKS),
    ]
    if image.xen:
        return tuple(by_firmware)
    by_stub = list(expected_pcr11_events(file, banks=_BANKS))
    options, initrd = expected_pcr9_events(file, banks=_BANKS)
    if image.load_options:
        replaced = image.load_options.encode("utf-16-le") + b"\0\0"
        by_stub.append(measuring(12, EventType.EV_IPL, replaced))
        options = measuring(9, EventType.EV_EVENT_TAG, options.data, replaced)
    return (*by_firmware, *by_stub, options, initrd)
