"""libvirt's XML for a domain: what is asked for, and what is read back."""

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from string import ascii_lowercase

from shamon_host.domain.labels import VmName
from shamon_host.hypervisor.ports import DomainBoot, VmDisk, VmInterface, VmSpec

FORGETTING = "+tpm"
"""Behind the name of a VM whose TPM is removed, in the name of the definition that this takes: no VM's name has it."""
QBOOT = Path("/usr/share/qemu/qboot.rom")
"""Firmware that does nothing but boot a kernel that QEMU hands over; it takes no disk."""
_QEMU_NAMESPACE = "http://libvirt.org/schemas/domain/qemu/1.0"
ET.register_namespace("qemu", _QEMU_NAMESPACE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    """What this host's QEMU can do. `virt_type` is `kvm` or `qemu`; `qboot` says whether that firmware is there."""

    virt_type: str
    qboot: bool


def domain_xml(spec: VmSpec, platform: Platform, *, incoming: bool = False) -> str:
    """The domain as libvirt wants it: its disks, interfaces on their bridges, a serial pty, a static label, no more.

    A guest that crashes is destroyed: what is to follow is decided by the caller, not by the hypervisor. So is one with
    a TPM that reboots: what it ran is gone from the TPM then, and each of its boots is to begin with its ports down.
    `incoming`: it does not boot, but waits for the memory that another machine had; libvirt has no word of its own for
    that without a connection from another libvirtd.
    """
    root = ET.Element("domain", type=platform.virt_type)
    _text(root, "name", spec.name)
    _text(root, "uuid", spec.uuid)
    _text(root, "memory", str(spec.memory_mib), unit="MiB")
    _text(root, "vcpu", str(spec.vcpus))
    boot = ET.SubElement(root, "os")
    _text(boot, "type", "hvm", arch="x86_64", machine="pc")
    if spec.kernel:
        if platform.qboot:
            _text(boot, "loader", str(QBOOT), readonly="yes", type="rom")
        _text(boot, "kernel", spec.kernel)
        if spec.initrd:
            _text(boot, "initrd", spec.initrd)
        if spec.cmdline:
            _text(boot, "cmdline", spec.cmdline)
    if platform.virt_type == "kvm":
        ET.SubElement(root, "cpu", mode="host-passthrough")
    features = ET.SubElement(root, "features")
    ET.SubElement(features, "acpi")
    ET.SubElement(features, "apic")
    _text(root, "on_reboot", "restart" if spec.cid is None else "destroy")
    _text(root, "on_crash", "destroy")
    devices = ET.SubElement(root, "devices")
    disk = ET.SubElement(devices, "disk", type="file", device="disk")
    ET.SubElement(disk, "driver", name="qemu", type="qcow2")
    ET.SubElement(disk, "source", file=spec.disk)
    ET.SubElement(disk, "target", dev="vda", bus="virtio")
    for number, further in enumerate(spec.disks):
        _further_disk(devices, further, f"vd{ascii_lowercase[number + 1]}")
    for interface in spec.interfaces:
        element = _bridged(devices, interface)
        ET.SubElement(element, "model", type="virtio")
        ET.SubElement(element, "rom", enabled="no")
    serial = ET.SubElement(devices, "serial", type="pty")
    ET.SubElement(serial, "target", port="0")
    ET.SubElement(devices, "controller", type="usb", model="none")
    ET.SubElement(ET.SubElement(devices, "video"), "model", type="none")
    ET.SubElement(devices, "memballoon", model="none")
    if spec.cid is not None:
        _own_tpm(devices, spec.cid)
    label = ET.SubElement(root, "seclabel", type="static", model="selinux", relabel="yes")
    _text(label, "label", str(spec.context))
    if incoming:
        command_line = ET.SubElement(root, f"{{{_QEMU_NAMESPACE}}}commandline")
        for argument in ("-incoming", "defer"):
            ET.SubElement(command_line, f"{{{_QEMU_NAMESPACE}}}arg", value=argument)
    return ET.tostring(root, encoding="unicode")


def xen_domain_xml(spec: VmSpec) -> str:
    """A paravirtualised domain of Xen. No device model runs for it; its disks and interfaces are with dom0's kernel.

    A guest that reboots is destroyed: libxl would start another domain in its place, running, under whatever label the
    hypervisor then knows.
    """
    root = ET.Element("domain", type="xen")
    _text(root, "name", spec.name)
    _text(root, "uuid", spec.uuid)
    _text(root, "memory", str(spec.memory_mib), unit="MiB")
    _text(root, "vcpu", str(spec.vcpus))
    boot = ET.SubElement(root, "os")
    _text(boot, "type", "linux")
    for tag, text in (("kernel", spec.kernel), ("initrd", spec.initrd), ("cmdline", spec.cmdline)):
        if text:
            _text(boot, tag, text)
    _text(root, "on_reboot", "destroy")
    _text(root, "on_crash", "destroy")
    devices = ET.SubElement(root, "devices")
    for letter, disk in zip(ascii_lowercase, (VmDisk(path=spec.disk, read_only=False), *spec.disks), strict=False):
        element = ET.SubElement(devices, "disk", type="file", device="disk")
        ET.SubElement(element, "driver", name="phy", type="raw")
        ET.SubElement(element, "source", file=disk.path)
        ET.SubElement(element, "target", dev=f"xvd{letter}", bus="xen")
        if disk.read_only:
            ET.SubElement(element, "readonly")
    for interface in spec.interfaces:
        _bridged(devices, interface)
    ET.SubElement(ET.SubElement(devices, "console", type="pty"), "target", type="xen", port="0")
    label = ET.SubElement(root, "seclabel", type="static", model="flask", relabel="no")
    _text(label, "label", str(spec.context))
    return ET.tostring(root, encoding="unicode")


def interfaces_in(root: ET.Element) -> Iterator[VmInterface]:
    """The interfaces of a domain's XML, in its order."""
    for element in root.findall("./devices/interface"):
        yield VmInterface(
            device=_attribute(element, "target", "dev"),
            bridge=_attribute(element, "source", "bridge"),
            mac=_attribute(element, "mac", "address"),
        )


def _own_tpm(devices: ET.Element, cid: int) -> None:
    """A TPM whose state libvirt keeps when the domain ends, and a way to ask the guest that no other VM has."""
    tpm = ET.SubElement(devices, "tpm", model="tpm-crb")
    ET.SubElement(tpm, "backend", type="emulator", version="2.0", persistent_state="yes")
    ET.SubElement(ET.SubElement(devices, "vsock", model="virtio"), "cid", auto="no", address=str(cid))


def tpm_xml(name: VmName, uuid: str) -> str:
    """A domain that is never started, with the TPM of another one that has the same UUID: libvirt removes the state of
    a TPM with the definition of a domain alone."""
    root = ET.Element("domain", type="qemu")
    _text(root, "name", f"{name}{FORGETTING}")
    _text(root, "uuid", uuid)
    _text(root, "memory", "16", unit="MiB")
    _text(ET.SubElement(root, "os"), "type", "hvm", arch="x86_64", machine="pc")
    tpm = ET.SubElement(ET.SubElement(root, "devices"), "tpm", model="tpm-crb")
    ET.SubElement(tpm, "backend", type="emulator", version="2.0", persistent_state="yes")
    return ET.tostring(root, encoding="unicode")


def boot_in(root: ET.Element) -> DomainBoot:
    """What a domain's XML boots from beside its disk."""
    found = {tag: (root.findtext(f"./os/{tag}") or "").strip() for tag in ("kernel", "initrd", "cmdline")}
    return DomainBoot(**found)


def cid_in(root: ET.Element) -> int | None:
    """The address on vsock in a domain's XML; None where it has none."""
    text = _attribute(root, "./devices/vsock/cid", "address")
    return int(text) if text.isdecimal() else None


def has_own_tpm(root: ET.Element) -> bool:
    """Whether a domain's XML has a TPM of its own, and one whose state is kept."""
    backend = root.find("./devices/tpm/backend")
    return backend is not None and (backend.get("type"), backend.get("persistent_state")) == ("emulator", "yes")


def disk_in(root: ET.Element) -> str:
    """Path of the first disk of a domain's XML; empty when there is none."""
    return _attribute(root, "./devices/disk[@device='disk']/source", "file")


def disks_in(root: ET.Element) -> Iterator[VmDisk]:
    """What a domain's XML has beside its first disk, CD-ROMs and the like included."""
    first = root.find("./devices/disk[@device='disk']")
    for element in root.findall("./devices/disk"):
        if element is not first:
            yield VmDisk(
                path=_attribute(element, "source", "file"),
                read_only=element.find("readonly") is not None,
                format=_attribute(element, "driver", "type"),
            )


def _further_disk(devices: ET.Element, disk: VmDisk, target: str) -> None:
    """Its label is the caller's affair: libvirt would give the file this domain's, and take it away at the end. So is
    the owner of a file that is only read: libvirt would give it to QEMU's user for good."""
    element = ET.SubElement(devices, "disk", type="file", device="disk")
    ET.SubElement(element, "driver", name="qemu", type="raw")
    source = ET.SubElement(element, "source", file=disk.path)
    ET.SubElement(source, "seclabel", model="selinux", relabel="no")
    if disk.read_only:
        ET.SubElement(source, "seclabel", model="dac", relabel="no")
    ET.SubElement(element, "target", dev=target, bus="virtio")
    if disk.read_only:
        ET.SubElement(element, "readonly")


def _bridged(devices: ET.Element, interface: VmInterface) -> ET.Element:
    element = ET.SubElement(devices, "interface", type="bridge")
    ET.SubElement(element, "mac", address=interface.mac)
    ET.SubElement(element, "source", bridge=interface.bridge)
    ET.SubElement(element, "target", dev=interface.device)
    return element


def _text(parent: ET.Element, tag: str, text: str, **attributes: str) -> None:
    ET.SubElement(parent, tag, attributes).text = text


def _attribute(root: ET.Element, path: str, name: str) -> str:
    element = root.find(path)
    return "" if element is None else element.get(name, "")
