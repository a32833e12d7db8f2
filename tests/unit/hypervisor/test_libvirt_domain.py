"""The XML that libvirt is given, and what is read back from it."""

import xml.etree.ElementTree as ET

import pytest

from shamon_host.domain.labels import SelinuxContext, VmName
from shamon_host.hypervisor.libvirt_domain import Platform, disk_in, domain_xml, interfaces_in
from shamon_host.hypervisor.ports import VmInterface, VmSpec

SPEC = VmSpec(
    name=VmName("web"),
    uuid="00000000-0000-4000-8000-000000000001",
    context=SelinuxContext(user="system_u", role="system_r", type="svirt_t", categories=frozenset({1, 512, 513})),
    disk="/var/lib/overlays/web.qcow2",
    interfaces=(
        VmInterface(device="tap0", bridge="br-red", mac="52:54:00:00:00:01"),
        VmInterface(device="tap1", bridge="br-blue", mac="52:54:00:00:00:02"),
    ),
    kernel="/vmlinux",
    initrd="/initrd",
    cmdline='quiet app.name="<web>"',
)
KVM = Platform(virt_type="kvm", qboot=True)


def _domain(spec: VmSpec = SPEC, platform: Platform = KVM) -> ET.Element:
    return ET.fromstring(domain_xml(spec, platform))


def test_static_label() -> None:
    label = _domain().find("seclabel")
    assert label is not None
    assert label.attrib == {"type": "static", "model": "selinux", "relabel": "yes"}
    assert label.findtext("label") == "system_u:system_r:svirt_t:s0:c1,c512,c513"


def test_reads_back_what_it_wrote() -> None:
    assert tuple(interfaces_in(_domain())) == SPEC.interfaces
    assert disk_in(_domain()) == SPEC.disk
    assert _domain().findtext("os/cmdline") == SPEC.cmdline


def test_nothing_but_disk_cards_and_console() -> None:
    devices = _domain().find("devices")
    assert devices is not None
    assert [device.tag for device in devices] == [
        "disk",
        "interface",
        "interface",
        "serial",
        "controller",
        "video",
        "memballoon",
    ]
    for path in ("controller", "memballoon"):
        element = devices.find(path)
        assert element is not None
        assert element.get("model") == "none"


@pytest.mark.parametrize(
    ("platform", "kernel", "loader", "cpu"),
    [
        (KVM, "/vmlinux", True, "host-passthrough"),
        (Platform(virt_type="qemu", qboot=True), "/vmlinux", True, None),
        (Platform(virt_type="kvm", qboot=False), "/vmlinux", False, "host-passthrough"),
        (KVM, "", False, "host-passthrough"),
    ],
)
def test_fits_the_platform(platform: Platform, kernel: str, loader: bool, cpu: str | None) -> None:
    """The small firmware boots a kernel and nothing else; the host's own processor needs KVM."""
    spec = VmSpec(name=SPEC.name, uuid=SPEC.uuid, context=SPEC.context, disk=SPEC.disk, interfaces=(), kernel=kernel)
    domain = _domain(spec, platform)
    assert domain.get("type") == platform.virt_type
    assert (domain.find("os/loader") is not None) is loader
    found = domain.find("cpu")
    assert (None if found is None else found.get("mode")) == cpu
    assert domain.find("os/initrd") is None


def test_domain_of_somebody_else() -> None:
    other = ET.fromstring("<domain><devices><interface type='user'/></devices></domain>")
    assert disk_in(other) == ""
    assert tuple(interfaces_in(other)) == (VmInterface(device="", bridge="", mac=""),)
