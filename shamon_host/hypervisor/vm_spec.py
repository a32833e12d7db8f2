"""What a VM is started with, from the policy, the label map and the host's own settings: a pure function of them."""

import hashlib
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from shamon_host.domain.contexts import vm_context
from shamon_host.domain.label_map import VM_CATEGORIES, LabelMap
from shamon_host.domain.labels import HostName, TypeName, VmName
from shamon_host.domain.policy import Policy
from shamon_host.hypervisor.ports import VmDisk, VmInterface, VmSpec

TAP_PREFIX = "shvm"
GUEST_CIDS = range(20000, 20000 + len(VM_CATEGORIES) // 2)
"""Addresses of VMs on vsock: one for each pair of categories."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VmSettings:
    """What a host's own configuration says of a VM: how it is booted, nothing that bears on its label."""

    memory_mib: int = 128
    vcpus: int = 1
    kernel: str = ""
    initrd: str = ""
    cmdline: str = ""


def vm_spec(
    policy: Policy,
    label_map: LabelMap,
    vm: VmName,
    *,
    disk: str,
    disks: tuple[VmDisk, ...],
    settings: VmSettings,
    bridge_of: Callable[[TypeName], str],
    wired: tuple[VmInterface, ...] = (),
) -> VmSpec:
    """A VM of the policy as it is to run on the host with this label map; `wired`: interfaces beside those of its
    label's types. Raises KeyError."""
    host, devices = policy.vms[vm].host, tap_devices(policy, label_map, vm)
    return VmSpec(
        name=vm,
        uuid=vm_uuid(policy, vm),
        context=vm_context(policy, label_map, vm),
        disk=disk,
        disks=disks,
        interfaces=(
            *(
                VmInterface(
                    device=devices[index],
                    bridge=bridge_of(name),
                    mac=interface_mac(policy.coalition, host, vm, index),
                )
                for index, name in enumerate(policy.interfaces_of(vm))
            ),
            *wired,
        ),
        memory_mib=settings.memory_mib,
        vcpus=settings.vcpus,
        kernel=settings.kernel,
        initrd=settings.initrd,
        cmdline=settings.cmdline,
        cid=guest_cid(policy, label_map, vm),
    )


def vm_uuid(policy: Policy, vm: VmName) -> str:
    """The UUID of a VM's domain: the same at each start."""
    return str(uuid.uuid5(uuid.NAMESPACE_DNS, f"{vm}.{policy.coalition}"))


def guest_cid(policy: Policy, label_map: LabelMap, vm: VmName) -> int | None:
    """The address of a VM on vsock, no other VM's on the host with this label map; None for one that is not attested.
    Raises KeyError."""
    return None if policy.attested(vm) is None else GUEST_CIDS[_serial(label_map, vm)]


def tap_devices(policy: Policy, label_map: LabelMap, vm: VmName) -> tuple[str, ...]:
    """The taps that a VM's interfaces have on the host with this label map, in order. Raises KeyError."""
    serial = _serial(label_map, vm)
    return tuple(f"{TAP_PREFIX}{serial}-{index}" for index in range(len(policy.interfaces_of(vm))))


def _serial(label_map: LabelMap, vm: VmName) -> int:
    return (label_map.vms[vm][0] - VM_CATEGORIES.start) // 2


def interface_mac(coalition: str, host: HostName, vm: VmName, index: int) -> str:
    """The stable, locally administered address of a VM's interface, whatever its type is called. `host`: the one that
    the policy gives the VM to. Where another policy gives a VM of this name to another host, that is another VM."""
    digest = hashlib.sha256(f"{coalition}/{host}/{vm}/{index}".encode()).digest()
    return ":".join(f"{byte:02x}" for byte in (0x52, 0x54, *digest[:4]))
