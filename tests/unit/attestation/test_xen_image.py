"""What the boot of Xen's unified image leaves in the PCRs."""

import hashlib

import pytest

from shamon_host.attestation.authenticode import PeError
from shamon_host.attestation.pcr import Bank
from shamon_host.attestation.uki import UkiError
from shamon_host.attestation.xen_image import SECTIONS, expected_pcr4_events, is_xen_image, pcr_values
from shamon_host.testing.machine import BootImage
from tests.unit.attestation.xen_images import xen_image


def test_firmware_announces_the_boot_before_it_loads_the_image() -> None:
    events = expected_pcr4_events(xen_image())
    assert [event.type_name for event in events] == [
        "EV_EFI_ACTION",
        "EV_SEPARATOR",
        "EV_EFI_BOOT_SERVICES_APPLICATION",
    ]
    value = bytes(32)
    for event in events:
        value = hashlib.sha256(value + event.digests[Bank.SHA256]).digest()
    assert pcr_values(xen_image()) == {4: value, 9: bytes(32), 11: bytes(32)}


def test_every_part_of_the_image_counts() -> None:
    assert pcr_values(xen_image())[4] != pcr_values(xen_image(policy=b"other!"))[4]


@pytest.mark.parametrize("section", SECTIONS)
def test_what_is_not_in_the_image_nobody_measures(section: str) -> None:
    with pytest.raises(UkiError, match="not whole") as caught:
        pcr_values(xen_image(without=section))
    assert section in caught.value.expected


def test_images_are_told_apart() -> None:
    assert is_xen_image(xen_image())
    assert not is_xen_image(BootImage().file())
    with pytest.raises(PeError):
        is_xen_image(b"MZ")
