"""The label map of a host for a policy, and which context a VM or a disk of the policy has under it."""

from shamon_host.domain.flask_labels import flask_context
from shamon_host.domain.label_map import EMPTY, LabelMap, allocate
from shamon_host.domain.labels import HostName, SelinuxContext, VmContext, VmName
from shamon_host.domain.policy import HypervisorKind, Policy


def allocate_for(policy: Policy, host: HostName, current: LabelMap = EMPTY) -> LabelMap:
    """Categories for everything that the policy gives to a host, after those that it has given already: also for VMs
    that may be moved to it, so that none has to be found when one comes.

    A host that the policy does not know has none. Raises BackendFailed when the categories do not suffice.
    """
    types = policy.hosts[host].types if host in policy.hosts else frozenset()
    return allocate(current, types, policy.possible_on(host), policy.disks_on(host))


def vm_context(policy: Policy, label_map: LabelMap, vm: VmName) -> VmContext:
    """What the VM runs under on its host: on Xen its label's FLASK context, else the sVirt context that the map gives.
    Raises KeyError where the policy, or the map, knows it or something of it not."""
    if policy.hypervisor_of(policy.host_of(vm)) is HypervisorKind.XEN:
        return flask_context(policy.label_of(vm).name)
    return label_map.vm_context(vm, policy.label_of(vm).types, policy.disks_of(vm))


def disk_context(policy: Policy, label_map: LabelMap, disk: str) -> SelinuxContext:
    """What the file of a disk is labelled. Raises KeyError as `vm_context` does."""
    return label_map.disk_context(disk, pinned=policy.resource_labels[disk].pinned)
