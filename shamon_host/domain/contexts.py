"""The label map of a host for a policy, and which SELinux context a VM or a disk of the policy has under it."""

from shamon_host.domain.label_map import EMPTY, LabelMap, allocate
from shamon_host.domain.labels import HostName, SelinuxContext, VmName
from shamon_host.domain.policy import Policy


def allocate_for(policy: Policy, host: HostName, current: LabelMap = EMPTY) -> LabelMap:
    """Categories for everything that the policy gives to a host, after those that it has given already.

    A host that the policy does not know has none. Raises BackendFailed when the categories do not suffice.
    """
    types = policy.hosts[host].types if host in policy.hosts else frozenset()
    return allocate(current, types, policy.vms_of(host), policy.disks_on(host))


def vm_context(policy: Policy, label_map: LabelMap, vm: VmName) -> SelinuxContext:
    """What the VM runs under. Raises KeyError where the policy, or the map, knows it or something of it not."""
    return label_map.vm_context(vm, policy.label_of(vm).types, policy.disks_of(vm))


def disk_context(policy: Policy, label_map: LabelMap, disk: str) -> SelinuxContext:
    """What the file of a disk is labelled. Raises KeyError as `vm_context` does."""
    return label_map.disk_context(disk, pinned=policy.resource_labels[disk].pinned)
