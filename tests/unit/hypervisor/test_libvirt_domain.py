"""The XML that libvirt is given, and what is read back from it."""

import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from shamon_host.domain.labels import SelinuxContext, VmName
from shamon_host.hypervisor.libvirt_domain import (
    Platform,
    boot_in,
    cid_in,
    disk_in,
    disks_in,
    domain_xml,
    has_own_tpm,
    interfaces_in,
    tpm_xml,
    xen_domain_xml,
)
from shamon_host.hypervisor.ports import DomainBoot, VmDisk, VmInterface, VmSpec

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
    assert boot_in(_domain()) == DomainBoot(kernel=SPEC.kernel, initrd=SPEC.initrd, cmdline=SPEC.cmdline)
    assert boot_in(ET.fromstring(xen_domain_xml(SPEC))) == boot_in(_domain())


def test_further_disks_keep_their_labels() -> None:
    disks = (VmDisk(path="/disks/one.raw", read_only=False), VmDisk(path="/disks/two.raw", read_only=True))
    domain = _domain(replace(SPEC, disks=disks))
    assert tuple(disks_in(domain)) == disks
    assert disk_in(domain) == SPEC.disk
    _, *further = domain.findall("devices/disk")
    assert [target.get("dev") for target in domain.findall("devices/disk/target")] == ["vda", "vdb", "vdc"]
    for element in further:
        models = [label.get("model") for label in element.findall("source/seclabel")]
        assert models == (["selinux"] if element.find("readonly") is None else ["selinux", "dac"])
        assert {label.get("relabel") for label in element.findall("source/seclabel")} == {"no"}
        driver = element.find("driver")
        assert driver is not None
        assert driver.get("type") == "raw", "an image that may name another file would let a VM have that file"


def test_whatever_was_attached_by_hand_is_read_back() -> None:
    domain = _domain()
    devices = domain.find("devices")
    assert devices is not None
    devices.append(ET.fromstring("<disk type='file' device='cdrom'><source file='/x.iso'/><readonly/></disk>"))
    devices.append(ET.fromstring("<disk type='block' device='disk'><source dev='/dev/sda'/></disk>"))
    devices.append(
        ET.fromstring("<disk type='file' device='disk'><driver type='qcow2'/><source file='/disks/one.raw'/></disk>")
    )
    assert tuple(disks_in(domain)) == (
        VmDisk(path="/x.iso", read_only=True, format=""),
        VmDisk(path="", read_only=False, format=""),
        VmDisk(path="/disks/one.raw", read_only=False, format="qcow2"),
    )


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
    assert boot_in(other) == DomainBoot()
    assert tuple(interfaces_in(other)) == (VmInterface(device="", bridge="", mac=""),)


@pytest.mark.parametrize(("cid", "then"), [(None, "restart"), (20007, "destroy")])
def test_a_guest_that_reboots(cid: int | None, then: str) -> None:
    """With a TPM, what ran before is in no log any more: it is not to go on with its ports up."""
    assert _domain(replace(SPEC, cid=cid)).findtext("on_reboot") == then


def test_a_tpm_and_an_address_for_who_is_attested() -> None:
    domain = _domain(replace(SPEC, cid=20007))
    assert (cid_in(domain), has_own_tpm(domain)) == (20007, True)
    backend = domain.find("devices/tpm/backend")
    assert backend is not None
    assert backend.attrib == {"type": "emulator", "version": "2.0", "persistent_state": "yes"}
    cid = domain.find("devices/vsock/cid")
    assert cid is not None
    assert cid.attrib == {"auto": "no", "address": "20007"}
    assert (cid_in(_domain()), has_own_tpm(_domain())) == (None, False)


@pytest.mark.parametrize(
    "tpm",
    [
        '<backend type="passthrough"><device path="/dev/tpm0"/></backend>',
        '<backend type="emulator" version="2.0"/>',
        "",
    ],
)
def test_what_is_no_tpm_of_its_own(tpm: str) -> None:
    root = ET.fromstring(f'<domain><devices><tpm>{tpm}</tpm><vsock><cid address="-1"/></vsock></devices></domain>')
    assert (cid_in(root), has_own_tpm(root)) == (None, False)


def test_the_definition_by_which_a_tpm_is_removed_starts_nothing() -> None:
    root = ET.fromstring(tpm_xml(SPEC.name, SPEC.uuid))
    assert (root.findtext("uuid"), has_own_tpm(root)) == (SPEC.uuid, True)
    assert root.findtext("name") == "web+tpm", "no name that a VM can have"
    assert not root.findall("devices/disk") + root.findall("devices/interface")
