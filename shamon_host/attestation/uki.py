"""What the boot of a unified kernel image leaves in the PCRs, computed from the image alone.

Reference Values for PCR 4, 9 and 11 need no known-good boot: the image says what OVMF, systemd's stub and the kernel
will measure. The sequence is that of OVMF started with `-kernel image.efi`: the image is loaded before the firmware
announces that it boots, and the stub then has the firmware load the kernel out of the image.

Source: edk2 OvmfPkg/Library/PlatformBootManagerLib/QemuKernel.c, SecurityPkg/Tcg/Tcg2Dxe; systemd
src/boot/efi/stub.c and src/fundamental/tpm-pcr.c (release 252); Linux drivers/firmware/efi/libstub/efi-stub-helper.c
(`efi_measure_tagged_event`).
"""

from collections.abc import Mapping

from shamon_host.attestation.authenticode import PeImage, authenticode_digest
from shamon_host.attestation.event_model import Event, EventType
from shamon_host.attestation.pcr import Bank, initial_value, replay
from shamon_host.domain.errors import BadInput

BOOT_LOADER_PCR = 4
KERNEL_PCR = 9
UKI_PCR = 11

CALLING_APPLICATION = b"Calling EFI Application from Boot Option"
SEPARATOR = bytes(4)

MEASURED_SECTIONS = (".linux", ".osrel", ".cmdline", ".initrd", ".splash", ".dtb", ".pcrpkey")
"""The order in which the stub of systemd 252 measures sections, whatever their order in the file.

`.pcrsig` is left out, since it signs the result; later releases measure `.uname` and `.sbat` behind `.dtb` too.
"""

_LOAD_OPTIONS_TAG = b"\xed\x22\x3b\x8f"
_INITRD_TAG = b"\xec\x22\x3b\x8f"
_SHA_BANKS = (Bank.SHA256,)


class UkiError(BadInput):
    """The image is no unified kernel image."""


def expected_pcr4_events(uki: bytes, *, banks: tuple[Bank, ...] = _SHA_BANKS) -> tuple[Event, ...]:
    """The events of PCR 4 in order: the image, the firmware's boot action, the separator, the embedded kernel.

    Raises `PeError` or `UkiError`.
    """
    image = PeImage.parse(uki)
    kernel = _section(image, ".linux")
    return pcr4_events(
        {bank: image.authenticode(bank) for bank in banks}, {bank: authenticode_digest(kernel, bank) for bank in banks}
    )


def pcr4_events(image: Mapping[Bank, bytes], kernel: Mapping[Bank, bytes]) -> tuple[Event, ...]:
    """The events of PCR 4 by the Authenticode digests of the image and of the kernel in it."""
    banks = tuple(image)
    application = EventType.EV_EFI_BOOT_SERVICES_APPLICATION
    return (
        Event(pcr=BOOT_LOADER_PCR, type=application, digests=image, data=b""),
        Event.measuring(BOOT_LOADER_PCR, EventType.EV_EFI_ACTION, CALLING_APPLICATION, banks=banks),
        Event.measuring(BOOT_LOADER_PCR, EventType.EV_SEPARATOR, SEPARATOR, banks=banks),
        Event(pcr=BOOT_LOADER_PCR, type=application, digests=kernel, data=b""),
    )


def expected_pcr9_events(uki: bytes, *, banks: tuple[Bank, ...] = _SHA_BANKS) -> tuple[Event, ...]:
    """The events of PCR 9, by the kernel's EFI stub: the command line (UTF-16, terminated), then the initrd.

    Raises `PeError` or `UkiError`.
    """
    image = PeImage.parse(uki)
    options = _section(image, ".cmdline").rstrip(b"\0").decode("utf-8", "replace").encode("utf-16-le") + b"\0\0"
    return (
        _tagged(_LOAD_OPTIONS_TAG, b"LOADED_IMAGE::LoadOptions\0", options, banks),
        _tagged(_INITRD_TAG, b"Linux initrd\0", _section(image, ".initrd"), banks),
    )


def expected_pcr11_events(
    uki: bytes, *, banks: tuple[Bank, ...] = _SHA_BANKS, sections: tuple[str, ...] = MEASURED_SECTIONS
) -> tuple[Event, ...]:
    """The stub's events of PCR 11: for each section its name (with its NUL), then its content.

    Boot phases, which systemd-pcrphase extends later where it runs, are not among them: see `pcr11_value`.
    Raises `PeError` or `UkiError`.
    """
    image = PeImage.parse(uki)
    _section(image, ".linux")
    events: list[Event] = []
    for name in sections:
        content = image.content(name)
        if content is None:
            continue
        said = (name + "\0").encode("utf-16-le")
        for measured in (name.encode() + b"\0", content):
            events.append(Event.measuring(UKI_PCR, EventType.EV_IPL, said, banks=banks, measured=measured))
    return tuple(events)


def pcr4_value(uki: bytes, bank: Bank = Bank.SHA256) -> bytes:
    """PCR 4 after a boot of the image. Raises `PeError` or `UkiError`."""
    return _value(expected_pcr4_events(uki, banks=(bank,)), bank)


def pcr9_value(uki: bytes, bank: Bank = Bank.SHA256) -> bytes:
    """PCR 9 after a boot of the image. Raises `PeError` or `UkiError`."""
    return _value(expected_pcr9_events(uki, banks=(bank,)), bank)


def pcr11_value(uki: bytes, bank: Bank = Bank.SHA256, *, phases: tuple[str, ...] = ()) -> bytes:
    """PCR 11 after a boot of the image and the given systemd-pcrphase words, e.g. `enter-initrd`, `ready`.

    Raises `PeError` or `UkiError`.
    """
    value = _value(expected_pcr11_events(uki, banks=(bank,)), bank)
    return replay(bank, (bank.digest(phase.encode()) for phase in phases), value)


def _value(events: tuple[Event, ...], bank: Bank) -> bytes:
    return replay(bank, (event.digests[bank] for event in events), initial_value(bank, events[0].pcr))


def _section(image: PeImage, name: str) -> bytes:
    content = image.content(name)
    if not content:
        raise UkiError("the image is no unified kernel image", expected=f"a section {name}")
    return content


def _tagged(tag: bytes, text: bytes, measured: bytes, banks: tuple[Bank, ...]) -> Event:
    data = tag + len(text).to_bytes(4, "little") + text
    return Event.measuring(KERNEL_PCR, EventType.EV_EVENT_TAG, data, banks=banks, measured=measured)
