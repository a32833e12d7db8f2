"""What the boot of a unified image of Xen leaves in the PCRs, computed from the image alone.

Hypervisor, FLASK policy, command lines, dom0's kernel and initramfs are sections of one EFI file, which the firmware
loads and measures as a whole; neither Xen nor dom0 measures anything further into the PCRs of the boot, and dom0 sees
no event log. The sequence is that of OVMF which boots a file from an EFI system partition: it announces the boot, ends
the PCRs of the firmware by separators, and then loads the image.

Source: Xen docs/misc/efi.pandoc (unified image), xen/common/efi/boot.c (`read_section`); edk2
MdeModulePkg/Library/UefiBootManagerLib/BmBoot.c, SecurityPkg/Tcg/Tcg2Dxe.
"""

from shamon_host.attestation.authenticode import PeImage
from shamon_host.attestation.event_model import Event, EventType
from shamon_host.attestation.pcr import Bank, initial_value, replay
from shamon_host.attestation.uki import BOOT_LOADER_PCR, CALLING_APPLICATION, KERNEL_PCR, SEPARATOR, UKI_PCR, UkiError

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
    application = EventType.EV_EFI_BOOT_SERVICES_APPLICATION
    digests = {bank: parsed.authenticode(bank) for bank in banks}
    return (
        Event.measuring(BOOT_LOADER_PCR, EventType.EV_EFI_ACTION, CALLING_APPLICATION, banks=banks),
        Event.measuring(BOOT_LOADER_PCR, EventType.EV_SEPARATOR, SEPARATOR, banks=banks),
        Event(pcr=BOOT_LOADER_PCR, type=application, digests=digests, data=b""),
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
