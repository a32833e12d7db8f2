"""The TPM, what the firmware says of the boot, and units that would extend PCRs."""

import os
import select
import stat

from shamon_host.attestation.ek import EkKind
from shamon_host.attestation.event_log import EventLog, EventLogError, parse_event_log
from shamon_host.attestation.linux_logs import EVENT_LOG, MAX_EVENT_LOG_BYTES, SECURITYFS
from shamon_host.attestation.tpm_structures import TpmFormatError, tpm_command, tpm_response
from shamon_host.doctor.facts import TpmAnswer, TpmFacts
from shamon_host.doctor.host_files import HostFiles
from shamon_host.doctor.look import Look

DEVICE = "/dev/tpmrm0"
UNITS = ("systemd-pcrphase.service", "systemd-pcrphase-sysinit.service", "systemd-pcrmachine.service")
"""Those that extend PCRs while a host starts or runs."""
_EFI = "/sys/firmware/efi"
_SECURE_BOOT = f"{_EFI}/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
"""UEFI Specification, 3.3: EFI_GLOBAL_VARIABLE."""
_STUB = f"{_EFI}/efivars/StubInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
"""What systemd's stub, which a unified kernel image begins with, says of itself (systemd-stub(7))."""
_BANK = "/sys/class/tpm/tpm0/pcr-sha256"
_ANSWER_LIMIT_S = 10.0
_MAX_RESPONSE = 4096
_GET_CAPABILITY = 0x17A
_CAP_HANDLES, _CAP_PROPERTIES = 1, 6
_FAMILY = 0x100
"""TPM_PT_FAMILY_INDICATOR: four characters, `2.0` and a zero."""
_INDEXES = 0x01C00000
_MOST = 64


def read_tpm(files: HostFiles) -> TpmFacts:
    efi = files.there(_EFI)
    variables = files.names(f"{_EFI}/efivars")
    units = {unit: state for unit in UNITS if (state := _unit(files, unit))}
    return TpmFacts(
        answer=_answer(files),
        bank=files.there(_BANK),
        pcr_10=files.text(f"{_BANK}/10"),
        event_log=files.data(SECURITYFS / EVENT_LOG, MAX_EVENT_LOG_BYTES).then(_events),
        efi=efi,
        secure_boot=files.data(_SECURE_BOOT, 64),
        stub=files.there(_STUB) if variables.value else Look(unread=variables.unread),
        units=units,
    )


def question(capability: int, first: int) -> bytes:
    """TPM2_GetCapability (TCG TPM 2.0 Library Part 3, 30.2)."""
    return tpm_command(_GET_CAPABILITY, b"".join(number.to_bytes(4, "big") for number in (capability, first, _MOST)))


def capability_values(response: bytes, capability: int) -> list[tuple[int, ...]]:
    """Handles, each alone, or properties with their values. Raises TpmFormatError."""
    refusal, reader = tpm_response(response)
    if refusal:
        raise TpmFormatError("the TPM refuses the question", found=f"{refusal:#x}")
    reader.u8("moreData")
    if reader.u32("capability") != capability:
        raise TpmFormatError("an answer to another question")
    count = reader.u32("count")
    if count > _MOST:
        raise TpmFormatError("more values than were asked for", found=str(count))
    words = 1 if capability == _CAP_HANDLES else 2
    return [tuple(reader.u32("value") for _ in range(words)) for _ in range(count)]


def answer_of(properties: bytes, handles: bytes) -> Look[TpmAnswer]:
    """From the two responses."""
    try:
        told = {entry[0]: entry[1] for entry in capability_values(properties, _CAP_PROPERTIES)}
        indexes = {entry[0] for entry in capability_values(handles, _CAP_HANDLES)}
    except TpmFormatError as error:
        return Look(bad=str(error))
    family = told.get(_FAMILY, 0).to_bytes(4, "big").rstrip(b"\0").decode("ascii", "replace")
    return Look(TpmAnswer(family=family, ek_certificate=any(kind.certificate_index in indexes for kind in EkKind)))


def _answer(files: HostFiles) -> Look[TpmAnswer]:
    """Opens the device, which must be the one that the kernel has given to its TPM, and asks."""
    try:
        descriptor = os.open(files.path(DEVICE), os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        return Look.failed(error)
    try:
        found = os.fstat(descriptor)
        number = f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}"
        own = files.text("/sys/class/tpmrm/tpmrm0/dev").value
        if not stat.S_ISCHR(found.st_mode) or number != own:
            return Look(
                bad=f"{DEVICE} is not the TPM's device (it has number {number}, the kernel's TPM {own or 'none'})"
            )
        return answer_of(
            _exchange(descriptor, question(_CAP_PROPERTIES, _FAMILY)),
            _exchange(descriptor, question(_CAP_HANDLES, _INDEXES)),
        )
    except OSError as error:
        return Look(unread=error.strerror or type(error).__name__)
    finally:
        os.close(descriptor)


def _exchange(descriptor: int, command: bytes) -> bytes:
    """One command to its response. Raises OSError, TimeoutError among them."""
    os.write(descriptor, command)
    ready, _, _ = select.select([descriptor], [], [], _ANSWER_LIMIT_S)
    if not ready:
        raise TimeoutError(f"no answer within {_ANSWER_LIMIT_S:.0f} s")
    return os.read(descriptor, _MAX_RESPONSE)


def _events(data: bytes) -> Look[EventLog]:
    if not data:
        return Look(bad="it is empty")
    try:
        return Look(parse_event_log(data))
    except EventLogError as error:
        return Look(bad=str(error))


def _unit(files: HostFiles, unit: str) -> str:
    """`masked` or `there`; "" where the host has no such unit."""
    own = f"/etc/systemd/system/{unit}"
    if files.link(own) == "/dev/null":
        return "masked"
    places = (own, f"/run/systemd/system/{unit}", f"/usr/lib/systemd/system/{unit}", f"/lib/systemd/system/{unit}")
    return "there" if any(files.there(place).value for place in places) else ""
