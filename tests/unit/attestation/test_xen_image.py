"""What the boot of Xen's unified image leaves in the PCRs."""

import hashlib
from dataclasses import replace

import pytest

from shamon_host.attestation.authenticode import PeError, PeImage
from shamon_host.attestation.pcr import Bank
from shamon_host.attestation.uki import UkiError
from shamon_host.attestation.xen_image import (
    SECTIONS,
    command_lines,
    expected_pcr4_events,
    is_xen_image,
    pcr_values,
    require_command_line,
)
from shamon_host.domain.errors import NotTrusted
from shamon_host.testing.machine import BootImage
from shamon_host.testing.uki_file import pe_file

XEN = BootImage(xen=b"hypervisor")
IMAGE = XEN.file()


def test_firmware_announces_the_boot_before_it_loads_the_image() -> None:
    events = expected_pcr4_events(IMAGE)
    assert [event.type_name for event in events] == [
        "EV_EFI_ACTION",
        "EV_SEPARATOR",
        "EV_EFI_BOOT_SERVICES_APPLICATION",
    ]
    value = bytes(32)
    for event in events:
        value = hashlib.sha256(value + event.digests[Bank.SHA256]).digest()
    assert pcr_values(IMAGE) == {4: value, 9: bytes(32), 11: bytes(32)}


def test_every_part_of_the_image_counts() -> None:
    assert pcr_values(IMAGE)[4] != pcr_values(replace(XEN, flask_policy=b"another").file())[4]


@pytest.mark.parametrize("section", SECTIONS)
def test_what_is_not_in_the_image_nobody_measures(section: str) -> None:
    parsed = PeImage.parse(IMAGE)
    without = pe_file({name: parsed.content(name) or b"" for name in (".text", *SECTIONS) if name != section})
    with pytest.raises(UkiError, match="not whole") as caught:
        pcr_values(without)
    assert section in caught.value.expected


def test_images_are_told_apart() -> None:
    assert is_xen_image(IMAGE)
    assert not is_xen_image(BootImage().file())
    with pytest.raises(PeError):
        is_xen_image(b"MZ")


CONFIG = (
    b"[global]\ndefault=x\n[x]\noptions=flask=enforcing com1=1,8n1\nkernel=vmlinuz root=/dev/vda a=b\nramdisk=initrd\n"
)


def with_config(config: bytes) -> bytes:
    parsed = PeImage.parse(IMAGE)
    return pe_file(
        {name: config if name == ".config" else parsed.content(name) or b"" for name in (".text", *SECTIONS)}
    )


def test_command_lines_are_those_of_the_configuration() -> None:
    image = with_config(CONFIG)
    assert command_lines(image) == ("flask=enforcing com1=1,8n1", "root=/dev/vda a=b")
    require_command_line(image, "root=/dev/vda a=b\n")
    with pytest.raises(NotTrusted, match="other words than the image has"):
        require_command_line(image, "root=/dev/vda a=b init=/bin/sh\n")


@pytest.mark.parametrize(
    "config",
    [
        b"",
        b"[x]\nkernel=vmlinuz\n",
        CONFIG + b"ucode=other\n",
        CONFIG + b"xsm=other\n",
        CONFIG + b"[y]\noptions=flask=permissive\n",
        CONFIG.replace(b"default=x", b"default=x\nchain=other.cfg"),
        CONFIG.replace(b"ramdisk=initrd\n", b""),
        b"\xff\n" + CONFIG,
    ],
)
def test_a_configuration_that_reads_more_than_the_image(config: bytes) -> None:
    with pytest.raises(UkiError, match=r"configuration of Xen|not whole"):
        pcr_values(with_config(config))
