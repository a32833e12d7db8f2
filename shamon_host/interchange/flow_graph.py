"""A policy as a graph that can be drawn: types, the labels that join them, whose they are, and what is kept apart.

`graphviz` and `svg` draw it. Edges lead between a type and a label: information goes from one type to another where it
may go into a label and out of it again.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from shamon_host.domain.flows import RESOURCE
from shamon_host.domain.labels import UNLABELLED, TypeName, VmLabel
from shamon_host.domain.policy import Policy, TpmDemand


class OwnerKind(StrEnum):
    ORGANISATION = "organisation"
    DEPARTMENT = "department"
    ASSUMED = "not declared"
    """The first part of types' names, where the policy declares no organisations."""


class LabelKind(StrEnum):
    VM = "label"
    DISK = "disk"
    NETWORK = "network"


class Direction(StrEnum):
    """Which way information goes between a type and a label, as the label sees it."""

    BOTH = "receives and sends"
    IN = "only receives"
    OUT = "only sends"


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """A cluster of types; `above` names the owner of which it is a part, None for one that stands alone."""

    name: str
    kind: OwnerKind
    above: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TypeNode:
    name: str
    owner: str
    confidentiality: int = 0
    integrity: int = 0
    hardware_tpm: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelNode:
    """A label of VMs, or a resource that several types may use. `key` is unique among all of them."""

    key: str
    name: str
    kind: LabelKind = LabelKind.VM
    walls: tuple[str, ...] = ()
    """Its own Chinese Wall types."""
    vms: tuple[str, ...] = ()
    downgrades: bool = False
    """Whether it lets something pass from one type to another that both name it as their downgrader."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """An edge between a type and a label. `release`: the type names the label as its downgrader, and it is one."""

    type: str
    label: str
    """Key of the label."""
    direction: Direction
    release: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Conflict:
    """Chinese Wall types of which a host runs at most one: types, owners, walls. `apart`: it is a type's own wish."""

    name: str
    members: tuple[str, ...]
    apart: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowGraph:
    """Sorted by name, but that departments come after everything that they are part of."""

    coalition: str
    version: int
    owners: tuple[Owner, ...]
    types: tuple[TypeNode, ...]
    labels: tuple[LabelNode, ...]
    flows: tuple[Flow, ...]
    conflicts: tuple[Conflict, ...]
    walls: tuple[str, ...] = ()
    """Chinese Wall types that are neither types nor owners."""
    unlabelled: tuple[str, ...] = ()
    """VMs that share with nobody."""


def flow_graph(policy: Policy) -> FlowGraph:
    """The graph of a policy. Resources are in it only if they let information go between types."""
    owners = {name: Owner(name=name, kind=OwnerKind.ORGANISATION) for name in sorted(policy.organisations)}
    owners |= _departments(policy)
    types = []
    for name, each in sorted(policy.definitions.items()):
        owner = each.owner or name.partition("/")[0]
        owners.setdefault(owner, Owner(name=owner, kind=OwnerKind.ASSUMED))
        types.append(
            TypeNode(
                name=name,
                owner=owner,
                confidentiality=each.confidentiality,
                integrity=each.integrity,
                hardware_tpm=each.tpm is TpmDemand.HARDWARE,
            )
        )
    vms: dict[str, list[str]] = {}
    for vm, entry in sorted(policy.vms.items()):
        vms.setdefault(entry.label, []).append(vm)
    labels, flows = [], []
    for key, kind, label in _labels(policy):
        naming = _naming(policy, label) if kind is LabelKind.VM else frozenset[TypeName]()
        labels.append(
            LabelNode(
                key=key,
                name=label.name,
                kind=kind,
                walls=tuple(sorted(label.walls)),
                vms=tuple(vms.get(label.name, ())) if kind is LabelKind.VM else (),
                downgrades=bool(naming),
            )
        )
        flows += [
            Flow(type=name, label=key, direction=_direction(label, name), release=name in naming)
            for name in sorted(label.types)
        ]
    return FlowGraph(
        coalition=policy.coalition,
        version=policy.version,
        owners=tuple(owners.values()),
        types=tuple(types),
        labels=tuple(labels),
        flows=tuple(flows),
        conflicts=tuple(
            Conflict(name=name, members=tuple(sorted(members)), apart=name not in policy.conflict_sets)
            for name, members in sorted(policy.wall_sets.items())
        ),
        walls=tuple(sorted(policy.walls - policy.types)),
        unlabelled=tuple(vms.get(UNLABELLED.name, ())),
    )


def _departments(policy: Policy) -> Mapping[str, Owner]:
    """All departments, each after what it is part of."""
    below: dict[str, list[str]] = {}
    for name, department in sorted(policy.departments.items()):
        below.setdefault(department.of, []).append(name)
    found: dict[str, Owner] = {}
    waiting = sorted(policy.organisations)
    while waiting:
        above = waiting.pop()
        for name in below.get(above, ()):
            found[name] = Owner(name=name, kind=OwnerKind.DEPARTMENT, above=above)
            waiting.append(name)
    return found


def _labels(policy: Policy) -> Iterator[tuple[str, LabelKind, VmLabel]]:
    """Key, kind and label; a resource as the label that it acts as (`flows.flow_system`)."""
    for name, label in sorted(policy.vm_labels.items()):
        yield name, LabelKind.VM, label
    for name, resource in sorted(policy.resource_labels.items()):
        if len(resource.types) > 1 and not resource.inaccessible and not resource.pinned:
            yield RESOURCE + name, LabelKind(resource.kind.value), VmLabel(name=name, types=resource.types)


def _naming(policy: Policy, label: VmLabel) -> frozenset[TypeName]:
    """The types of a label that name it as their downgrader, if something passes between two of them."""
    naming = frozenset(name for name in label.types if label.name in policy.definitions[name].downgraders)
    sources, targets = naming & label.reads, naming & label.writes
    passes = bool(sources and targets) and (len(targets) > 1 or sources != targets)
    return naming if passes else frozenset()


def _direction(label: VmLabel, name: TypeName) -> Direction:
    if name in label.read_only:
        return Direction.IN
    return Direction.OUT if name in label.write_only else Direction.BOTH
