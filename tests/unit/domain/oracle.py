"""The policy language's definitions in words, as slow and plain as can be: what the tests hold the domain against.

Only what a policy says is looked at, never a method of it, and no function of the domain is called.
"""

from collections.abc import Collection, Iterable, Mapping
from itertools import combinations, product

from shamon_host.domain.decision import Rule
from shamon_host.domain.labels import HostName, ResourceKind, ResourceLabel, TypeName, VmLabel, VmName
from shamon_host.domain.policy import Policy
from shamon_host.domain.results import TpmKind

NO_LABEL = "unlabelled"


def receives(label: VmLabel, name: TypeName) -> bool:
    """A VM with the label may receive what comes through the type: it is one of its `types` or of its `reads`."""
    return name in label.types and name not in label.write_only


def sends(label: VmLabel, name: TypeName) -> bool:
    """A VM with the label may send through the type: it is one of its `types` or of its `writes`."""
    return name in label.types and name not in label.read_only


def frames_go(policy: Policy, sender: VmLabel, receiver: VmLabel) -> set[TypeName]:
    """Through which types frames go from one to the other: the one may send through it, the other receive."""
    return {name for name in policy.definitions if sends(sender, name) and receives(receiver, name)}


def label(policy: Policy, vm: VmName) -> VmLabel:
    """What is written at the VM; the reserved name stands for a label with nothing."""
    name = policy.vms[vm].label
    return VmLabel(name=name, types=frozenset()) if name == NO_LABEL else policy.vm_labels[name]


def usable(using: VmLabel, resource: ResourceLabel) -> bool:
    mine = using.types - using.write_only if resource.kind is ResourceKind.DISK else using.types
    return not resource.inaccessible and any(one == other for one in mine for other in resource.types)


def disks(policy: Policy, vm: VmName) -> list[str]:
    """What a VM has beside its own disk."""
    used = policy.vms[vm].resources
    return [name for name, each in policy.resource_labels.items() if name in used and each.kind is ResourceKind.DISK]


def grants(policy: Policy, vm: VmName) -> set[tuple[str, bool, str]]:
    """Each of these with whether the VM writes it, and with its pinned content."""
    own = label(policy, vm)
    return {
        (name, not each.sha256 and any(sends(own, of) and receives(own, of) for of in each.types), each.sha256)
        for name in disks(policy, vm)
        for each in [policy.resource_labels[name]]
    }


def owner(policy: Policy, vm: VmName) -> HostName:
    """Where it was moved to, if that is one of the hosts that are written at it; else where it is at home."""
    moved = policy.moved.get(vm)
    return moved if moved in policy.vms[vm].may_move_to else policy.vms[vm].host


def owners(policy: Policy, name: TypeName) -> list[str]:
    """Who owns the type, whom that department belongs to, and so on."""
    found = []
    owner = policy.definitions[name].owner
    while owner is not None:
        found.append(owner)
        owner = policy.departments[owner].of if owner in policy.departments else None
    return found


def walls(policy: Policy, of: VmLabel) -> set[str]:
    """Chinese Wall types of a label: its types, its own walls, and the owners of its types with all above them."""
    found = set(of.walls)
    for name in of.types:
        found |= {name, *owners(policy, name)}
    return found


def never_together(policy: Policy) -> set[frozenset[str]]:
    """Every two Chinese Wall types that are in one conflict set, or of which one is to be apart from the other."""
    pairs = {frozenset(pair) for members in policy.conflict_sets.values() for pair in combinations(sorted(members), 2)}
    return pairs | {frozenset({name, wall}) for name, each in policy.definitions.items() for wall in each.apart}


def meet(policy: Policy, one: VmLabel, other: VmLabel) -> bool:
    """Two labels may not run on one host: some Chinese Wall type of one never runs beside some of the other."""
    pairs = never_together(policy)
    return any({mine, theirs} in pairs for mine, theirs in product(walls(policy, one), walls(policy, other)))


def reasons_against(
    policy: Policy,
    vm: VmName,
    host: HostName,
    running: Mapping[VmName, VmLabel],
    *,
    tpm: TpmKind,
    admitted: bool = True,
) -> list[Rule]:
    """Every rule by which the VM may not start on the host, in the order in which they are named."""
    own, entry, place = label(policy, vm), policy.vms[vm], policy.hosts[host]
    others = [other for name, other in running.items() if name != vm]
    unusable = any(not usable(own, policy.resource_labels[name]) for name in entry.resources)
    two_rules = [
        (Rule.CHINESE_WALL, any(meet(policy, own, other) for other in others)),
        (Rule.STE, unusable),
    ]
    if policy.primary == "ste":
        two_rules.reverse()
    against = [
        (Rule.ASSIGNMENT, owner(policy, vm) != host),
        (Rule.MANAGEMENT_LABEL, any(name not in place.types for name in own.types)),
        (
            Rule.MANAGEMENT_LABEL,
            not admitted and place.starting is not None and any(name not in place.starting for name in own.types),
        ),
        (Rule.TPM_KIND, tpm != "hardware" and demands_hardware(policy, own.types)),
        *two_rules,
    ]
    return [rule for rule, denies in against if denies]


def demands_hardware(policy: Policy, types: Iterable[TypeName]) -> bool:
    return any(policy.definitions[name].tpm == "hardware" for name in types)


def interfaces(policy: Policy, vm: VmName) -> list[TypeName]:
    """The type of each interface: as they are written down, else the label's types by name."""
    chosen = policy.vms[vm].interfaces
    return sorted(label(policy, vm).types) if chosen is None else list(chosen)


def in_conflict(policy: Policy, labels: Collection[VmLabel]) -> bool:
    """Some two of what runs together never may."""
    return any(meet(policy, one, other) for one, other in combinations(labels, 2))
