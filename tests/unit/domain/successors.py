"""Next versions of a policy: one that renames and changes nothing else, and ones that change whatever they like."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from hypothesis import strategies as st

from shamon_host.domain.consistency import inconsistencies
from shamon_host.domain.labels import UNLABELLED, TypeName
from shamon_host.domain.policy import Policy, Renames, TpmDemand
from shamon_host.domain.policy_form import with_digest
from tests.unit.domain.generated import Choices


def renaming(policy: Policy, types: Mapping[TypeName, TypeName], labels: Mapping[str, str] | None = None) -> Policy:
    """The next version, in which everything is as it is, but that types and labels have other names."""
    names = dict(labels or {})

    def follow(old: Iterable[TypeName]) -> frozenset[TypeName]:
        return frozenset(types.get(name, name) for name in old)

    def walls(old: Iterable[str]) -> frozenset[str]:
        return frozenset(types.get(TypeName(name), name) for name in old)

    definitions = {
        types.get(name, name): replace(
            each,
            name=types.get(name, name),
            apart=walls(each.apart),
            downgraders=frozenset(names.get(label, label) for label in each.downgraders),
            equivalent=follow(each.equivalent),
        )
        for name, each in policy.definitions.items()
    }
    vm_labels = {
        names.get(name, name): replace(
            each,
            name=names.get(name, name),
            types=follow(each.types),
            read_only=follow(each.read_only),
            write_only=follow(each.write_only),
            walls=walls(each.walls),
        )
        for name, each in policy.vm_labels.items()
    }
    hosts = {
        name: replace(each, types=follow(each.types), starting=None if each.starting is None else follow(each.starting))
        for name, each in policy.hosts.items()
    }
    vms = {
        name: replace(
            each,
            label=names.get(each.label, each.label),
            interfaces=None
            if each.interfaces is None
            else tuple(types.get(interface, interface) for interface in each.interfaces),
            addresses={types.get(interface, interface): own for interface, own in each.addresses.items()},
        )
        for name, each in policy.vms.items()
    }
    return with_digest(
        replace(
            policy,
            version=policy.version + 1,
            parent=policy.digest,
            definitions=definitions,
            vm_labels=vm_labels,
            resource_labels={
                name: replace(each, types=follow(each.types)) for name, each in policy.resource_labels.items()
            },
            conflict_sets={name: walls(members) for name, members in policy.conflict_sets.items()},
            hosts=hosts,
            vms=vms,
            overlays={
                name: replace(each, label=names.get(each.label, each.label)) for name, each in policy.overlays.items()
            },
            renames=Renames(types=types, labels=names),
        )
    )


@st.composite
def only_renamed(draw: st.DrawFn, policy: Policy) -> Policy:
    """The next version, with other names for some types and labels, which may sort otherwise."""
    choose, version = Choices.drawn(draw), policy.version + 1
    types = {
        name: TypeName(f"{name.partition('/')[0]}/{choose.one('uas')}{version}.{number}")
        for number, name in enumerate(choose.some(sorted(policy.types)))
    }
    labels = {name: f"{choose.one('uas')}{version}.{name}" for name in choose.some(sorted(policy.vm_labels))}
    return renaming(policy, types, labels)


@st.composite
def successors(draw: st.DrawFn, policy: Policy) -> Policy:
    """The next version, with renames and other changes; it hangs together."""
    following = draw(only_renamed(policy))
    choose = Choices.drawn(draw)
    start = choose.number(0, len(CHANGES) - 1)
    for change in (CHANGES[start:] + CHANGES[:start])[: choose.one([1, 0, 2, 3])]:
        changed = with_digest(change(choose, following))
        if next(inconsistencies(changed), None) is None:
            following = changed
    return following


def _without_a_vm(choose: Choices, policy: Policy) -> Policy:
    gone = choose.one([None, *sorted(policy.vms)])
    overlays = {
        name: replace(each, peers=None if each.peers is None else each.peers - {gone})
        for name, each in policy.overlays.items()
    }
    return replace(policy, vms={name: vm for name, vm in policy.vms.items() if name != gone}, overlays=overlays)


def _move_a_vm(choose: Choices, policy: Policy) -> Policy:
    return _vm(choose, policy, lambda: {"host": choose.one(sorted(policy.hosts))})


def _relabel_a_vm(choose: Choices, policy: Policy) -> Policy:
    return _vm(
        choose,
        policy,
        lambda: {
            "label": choose.one([UNLABELLED.name, *sorted(policy.vm_labels)]),
            "resources": (),
            "interfaces": choose.one([None, ()]),
        },
    )


def _rewire_a_vm(choose: Choices, policy: Policy) -> Policy:
    return _vm(choose, policy, lambda: {"interfaces": tuple(choose.some(sorted(policy.types, reverse=True)))})


def _vm(choose: Choices, policy: Policy, change: Callable[[], Mapping[str, object]]) -> Policy:
    if not policy.vms:
        return policy
    name = choose.one(sorted(policy.vms))
    return replace(policy, vms={**policy.vms, name: replace(policy.vms[name], **change())})  # type: ignore[arg-type]


def _change_a_label(choose: Choices, policy: Policy) -> Policy:
    name = choose.one(sorted(policy.vm_labels))
    label = replace(
        policy.vm_labels[name],
        types=frozenset(choose.some(sorted(policy.types), least=1)),
        read_only=frozenset(),
        write_only=frozenset(),
    )
    return replace(policy, vm_labels={**policy.vm_labels, name: label})


def _direct_a_label(choose: Choices, policy: Policy) -> Policy:
    name = choose.one(sorted(policy.vm_labels))
    label = policy.vm_labels[name]
    label = replace(label, read_only=frozenset(choose.some(sorted(label.types))), write_only=frozenset())
    return replace(policy, vm_labels={**policy.vm_labels, name: label})


def _another_conflict_set(choose: Choices, policy: Policy) -> Policy:
    """Of something that one label has and something that another one has."""
    members = frozenset(
        choose.one(sorted(policy.walls_of(policy.vm_labels[choose.one(sorted(policy.vm_labels))]))) for _ in range(2)
    )
    return replace(policy, conflict_sets={**policy.conflict_sets, "new": members})


def _demand_hardware(choose: Choices, policy: Policy) -> Policy:
    name = choose.one(sorted(policy.types))
    definition = replace(policy.definitions[name], tpm=TpmDemand.HARDWARE)
    return replace(policy, definitions={**policy.definitions, name: definition})


def _lock_a_resource(choose: Choices, policy: Policy) -> Policy:
    """Whoever used it does no more."""
    name = choose.one([*sorted(policy.resource_labels), ""])
    if not name:
        return policy
    label = replace(policy.resource_labels[name], types=frozenset(), inaccessible=True)
    vms = {
        vm: replace(entry, resources=tuple(each for each in entry.resources if each != name))
        for vm, entry in policy.vms.items()
    }
    return replace(policy, resource_labels={**policy.resource_labels, name: label}, vms=vms)


def _narrow_a_host(choose: Choices, policy: Policy) -> Policy:
    """VMs that it may run no more are gone."""
    name = choose.one(sorted(policy.hosts))
    types = frozenset(choose.some(sorted(policy.hosts[name].types), least=1))
    host = replace(policy.hosts[name], types=types, starting=None)
    gone = {vm for vm, each in policy.vms.items() if each.host == name and policy.label_of(vm).types - types}
    return replace(
        policy,
        hosts={**policy.hosts, name: host},
        vms={vm: each for vm, each in policy.vms.items() if vm not in gone},
        overlays={
            each: replace(overlay, peers=None if overlay.peers is None else overlay.peers - gone)
            for each, overlay in policy.overlays.items()
        },
    )


def _without_a_host(choose: Choices, policy: Policy) -> Policy:
    """Its VMs go to another one."""
    gone = choose.one(sorted(policy.hosts))
    hosts = {name: host for name, host in policy.hosts.items() if name != gone}
    if not hosts:
        return policy
    other = min(hosts)
    vms = {
        vm: replace(each, host=home, may_move_to=each.may_move_to - {gone, home})
        for vm, each in policy.vms.items()
        for home in [other if each.host == gone else each.host]
    }
    return replace(policy, hosts=hosts, vms=vms)


def _readdress_a_host(choose: Choices, policy: Policy) -> Policy:
    name = choose.one(sorted(policy.hosts))
    return replace(policy, hosts={**policy.hosts, name: replace(policy.hosts[name], address="192.0.2.99")})


CHANGES = (
    _without_a_vm,
    _move_a_vm,
    _relabel_a_vm,
    _rewire_a_vm,
    _change_a_label,
    _direct_a_label,
    _another_conflict_set,
    _demand_hardware,
    _lock_a_resource,
    _narrow_a_host,
    _without_a_host,
    _readdress_a_host,
)
