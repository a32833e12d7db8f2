"""What runs on a host, held against a policy that is to come: every violation, exactly.

Before a host agrees to a new version it replays what is there now, VMs, ports, links and resources, as if each were
asked for under the new version. Renamed types and labels are followed, so a rename alone breaks nothing, but on Xen,
where the name of a label is in the context that a VM runs under. The host that
runs a VM forbidden by the new version answers no, and says which VM and why; nobody stops anything for an update.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from shamon_host.domain.chinese_wall import conflicts
from shamon_host.domain.disk_grants import disk_grants, grants_differ
from shamon_host.domain.flask_labels import seclabel
from shamon_host.domain.label_map import LabelMap
from shamon_host.domain.labels import HostName, TypeName, VmLabel, VmName
from shamon_host.domain.policy import HostEntry, HypervisorKind, Policy, Renames
from shamon_host.domain.results import TpmKind
from shamon_host.domain.rules import not_runnable, unassigned
from shamon_host.domain.ste import listed


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """What is there on one host, under the policy in force."""

    host: HostName
    tpm: TpmKind
    vms: Mapping[VmName, tuple[TypeName, ...]]
    """VMs that run or are suspended → the type of each of their interfaces, in order."""
    links: Mapping[HostName, frozenset[TypeName]] = field(default_factory=dict)
    """Peer → types that are carried to it."""


def renamed(name: TypeName, renames: Renames) -> TypeName:
    """The name of a type in the version that has these renames."""
    return renames.types.get(name, name)


def renamed_label(label: VmLabel, renames: Renames) -> VmLabel:
    """The label of a running VM as the version with these renames has to have it."""

    def follow(types: frozenset[TypeName]) -> frozenset[TypeName]:
        return frozenset(renamed(name, renames) for name in types)

    return VmLabel(
        name=renames.labels.get(label.name, label.name),
        types=follow(label.types),
        read_only=follow(label.read_only),
        write_only=follow(label.write_only),
        walls=label.walls,
        quarantine=label.quarantine,
    )


def renamed_map(label_map: LabelMap, renames: Renames) -> LabelMap:
    """The label map with every category under its type's new name, so that what runs keeps its context."""
    return replace(label_map, types={renamed(name, renames): category for name, category in label_map.types.items()})


def violations(new: Policy, current: Policy, running: Running) -> tuple[str, ...]:
    """Everything that runs and that `new` would forbid, in sentences; none: the host may agree."""
    return tuple(dict.fromkeys(_violations(new, current, running)))


def _installed_by_hand(new: HostEntry, current: HostEntry) -> Iterator[str]:
    for what in ("address", "hypervisor", "mac_vm"):
        if getattr(new, what) != getattr(current, what):
            yield f"the {what} of {new.name} changes: stop its daemon, and install the policy by hand"


def flask_label_changes(current: Policy, new: Policy, vm: VmName) -> str:
    """On Xen a VM's context follows from the name of its label, which cannot change while the VM runs. Empty where it
    does not."""
    before, after = current.label_of(vm).name, new.label_of(vm).name
    kinds = {policy.hypervisor_of(policy.host_of(vm)) for policy in (current, new)}
    if kinds != {HypervisorKind.XEN} or before == after:
        return ""
    return f"runs as {seclabel(before)} and would have {seclabel(after)}"


def _violations(new: Policy, current: Policy, running: Running) -> Iterator[str]:
    host = running.host
    if host not in new.hosts:
        if running.vms:
            yield f"{host} is no host any more and runs {', '.join(sorted(running.vms))}"
        return
    yield from _installed_by_hand(new.hosts[host], current.hosts[host])
    labels = {vm: new.label_of(vm) for vm in running.vms if vm in new.vms}
    for vm, types in sorted(running.vms.items()):
        yield from (f"{vm}: {deny.reason} ({deny.rule})" for deny in unassigned(new, vm, host))
        if vm not in new.vms:
            continue
        # The start is judged without the others: what is in conflict is told once, below.
        alone = not_runnable(new, vm, host, {}, host_tpm=running.tpm)
        yield from (f"{vm}: {deny.reason} ({deny.rule})" for deny in alone)
        wanted = renamed_label(current.label_of(vm), new.renames)
        if labels[vm].types != wanted.types:
            yield (
                f"{vm} runs with the types {listed(wanted.types)} and would have {listed(labels[vm].types)}: "
                "stop it first"
            )
        relabelled = flask_label_changes(current, new, vm)
        if relabelled:
            yield f"{vm} {relabelled}: stop it first"
        ports = tuple(renamed(name, new.renames) for name in types)
        if new.interfaces_of(vm) != ports:
            yield (
                f"{vm} runs with interfaces for {', '.join(ports) or 'none'} and would have "
                f"{', '.join(new.interfaces_of(vm)) or 'none'}: stop it first"
            )
        differ = grants_differ(disk_grants(current, vm), disk_grants(new, vm))
        if differ:
            yield f"{vm}: {differ}: stop it first"
        conflict = conflicts(new, labels[vm], (other for name, other in labels.items() if name != vm))
        if conflict is not None:
            yield f"{conflict} run together on {host}"
    for peer, carried in sorted(running.links.items()):
        for name in sorted(renamed(old, new.renames) for old in carried):
            if peer not in new.hosts:
                yield f"{name} is carried to {peer}, which is no host any more"
            elif name not in new.hosts[host].types & new.hosts[peer].types:
                # A link is no promise: it is closed when the version is. Only a VM that needs it is a violation.
                users = sorted(vm for vm, label in labels.items() if name in label.types)
                if users:
                    yield f"{name} is carried to {peer} for {', '.join(users)}, and could not be any more"
