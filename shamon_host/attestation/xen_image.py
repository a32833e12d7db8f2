"""What the boot of a unified image of Xen leaves in the PCRs, computed from the image alone.

Hypervisor, FLASK policy, command lines, dom0's kernel and initramfs are sections of one EFI file, which the firmware
loads and measures as a whole; neither Xen nor dom0 measures anything further into the PCRs of the boot, and dom0 sees
no event log. The sequence is that of OVMF which boots a file from an EFI system partition: it announces the boot, ends
the PCRs of the firmware by separators, and then loads the image.

Words that the boot manager hands over can name another section of the configuration, which is refused here, or be added
to Xen's options: they are in PCR 1 (the boot option), not in PCR 4, so they count by the PCR 1 that was recorded.

Source: Xen docs/misc/efi.pandoc (unified image), xen/common/efi/boot.c (`read_section`); edk2
MdeModulePkg/Library/UefiBootManagerLib/BmBoot.c, SecurityPkg/Tcg/Tcg2Dxe.
"""

from configparser import ConfigParser
from configparser import Error as ConfigParserError

from shamon_host.attestation.authenticode import PeImage
from shamon_host.attestation.event_model import Event, EventType
from shamon_host.attestation.pcr import Bank, initial_value, replay
from shamon_host.attestation.uki import BOOT_LOADER_PCR, CALLING_APPLICATION, KERNEL_PCR, SEPARATOR, UKI_PCR, UkiError
from shamon_host.domain.errors import NotTrusted

_WORDS = {"options", "kernel", "ramdisk"}
_SECTIONS_OF_CONFIG = ("global", "the one to boot")
SECTIONS = (".config", ".xsm", ".kernel", ".ramdisk")
"""What must be in the file: a part that Xen does not find there it takes from the partition, where nobody measures."""


def is_xen_image(image: bytes) -> bool:
    """Whether an EFI file is Xen with a kernel in it. Raises `PeError`."""
    return PeImage.parse(image).content(".kernel") is not None


def expected_pcr4_events(image: bytes, *, banks: tuple[Bank, ...] = (Bank.SHA256,)) -> tuple[Event, ...]:
    """The events of PCR 4 in order: the firmware's boot action, the separator, the image.

    Raises `PeError`, and `UkiError` for an image that would read something from beside it.
    """
    parsed = PeImage.parse(image)
    for name in SECTIONS:
        if not parsed.content(name):
            raise UkiError("the image of Xen is not whole", expected=f"a section {name}")
    command_lines(image)
    application = EventType.EV_EFI_BOOT_SERVICES_APPLICATION
    digests = {bank: parsed.authenticode(bank) for bank in banks}
    return (
        Event.measuring(BOOT_LOADER_PCR, EventType.EV_EFI_ACTION, CALLING_APPLICATION, banks=banks),
        Event.measuring(BOOT_LOADER_PCR, EventType.EV_SEPARATOR, SEPARATOR, banks=banks),
        Event(pcr=BOOT_LOADER_PCR, type=application, digests=digests, data=b""),
    )


def command_lines(image: bytes) -> tuple[str, str]:
    """Xen's options and dom0's command line, as the configuration in the image has them.

    Raises `PeError`, and `UkiError` for a configuration that says anything else than what to boot: with further words
    (`chain`, `ucode`, `xsm`) Xen reads files that nobody measures.
    """
    text = (PeImage.parse(image).content(".config") or b"").rstrip(b"\0").decode("utf-8", "replace")
    config = ConfigParser(interpolation=None, delimiters=("=",), comment_prefixes=("#",), strict=True)
    try:
        config.read_string(text)
        chosen = dict(config["global"])
        section = dict(config[chosen.pop("default")])
    except (ConfigParserError, KeyError) as error:
        raise UkiError("the configuration of Xen cannot be read", where=".config", found=str(error)[:200]) from error
    if chosen or set(section) != _WORDS or len(config.sections()) != len(_SECTIONS_OF_CONFIG):
        raise UkiError(
            "the configuration of Xen says more, or less, than what to boot",
            where=".config",
            expected=f"[global] with default, and one section with {', '.join(sorted(_WORDS))}",
            found=", ".join(sorted({*chosen, *section, *config.sections()}))[:200],
        )
    _, _, words = section["kernel"].partition(" ")
    return section["options"].strip(), words.strip()


def require_command_line(image: bytes, found: str) -> None:
    """Raises NotTrusted unless the running dom0 has the command line that is in the image."""
    _, expected = command_lines(image)
    if expected != found.strip():
        raise NotTrusted(
            "dom0 was booted with other words than the image has",
            where="command line of dom0",
            expected=expected,
            found=found.strip()[:1000],
            remedy="Take what it adds out of the firmware's boot option.",
        )


def pcr_values(image: bytes, bank: Bank = Bank.SHA256) -> dict[int, bytes]:
    """The PCRs that the image determines: 4, and 9 and 11, into which nobody measures. Raises as the events do."""
    events = expected_pcr4_events(image, banks=(bank,))
    start = initial_value(bank, BOOT_LOADER_PCR)
    return {
        BOOT_LOADER_PCR: replay(bank, (event.digests[bank] for event in events), start),
        KERNEL_PCR: initial_value(bank, KERNEL_PCR),
        UKI_PCR: initial_value(bank, UKI_PCR),
    }
