"""The information flow that a policy permits, and what its types mean: what hosts with different policies compare.

A label lets information go from every type that it reads to every other type that it writes. A policy permits the flows
in the transitive closure of these edges, and no others. Where both types name the label as their downgrader, the edge
is a *release*: what comes out counts as the target's own, so no chain goes on over it. docs/information-flow.md has the
definitions and what is proved from them.
"""

from collections import deque
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import NamedTuple

from shamon_host.domain.canonical import canonical_digest
from shamon_host.domain.labels import TypeName
from shamon_host.domain.policy import Policy, TypeDefinition

RESOURCE = "resource:"
"""Begins the flow label of a resource. No label of a VM can have such a name, so no type can name it a downgrader."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowLabel:
    """What lets information go from each type that it reads to each other type that it writes."""

    name: str
    reads: frozenset[TypeName]
    writes: frozenset[TypeName]

    @property
    def joins(self) -> bool:
        """Whether it lets anything go from one type to another."""
        return bool(self.reads and self.writes) and (len(self.writes) > 1 or self.reads != self.writes)


class Bundle(NamedTuple):
    """Edges from each of `sources` to each other one of `targets`. Either may be empty."""

    sources: frozenset[TypeName]
    targets: frozenset[TypeName]


class SplitLabel(NamedTuple):
    """The edges of a label: those that a chain may go over, and its releases."""

    chains: tuple[Bundle, ...]
    releases: Bundle


@dataclass(frozen=True, kw_only=True)
class FlowSystem:
    """What of a policy decides who may share which types with it. Types that labels name are all defined."""

    definitions: Mapping[TypeName, TypeDefinition]
    owners: Mapping[TypeName, tuple[str, ...]] = field(default_factory=dict)
    """Type → its owner, the department above it, and so on to the organisation; no entry: nobody is declared."""
    labels: Mapping[str, FlowLabel]
    conflict_sets: frozenset[frozenset[str]] = frozenset()
    """Chinese Wall types that never run together, without those that follow from `apart`."""

    @cached_property
    def wall_sets(self) -> frozenset[frozenset[str]]:
        """Every conflict set, those that follow from `apart` in definitions too."""
        apart = (frozenset({name, wall}) for name, each in self.definitions.items() for wall in each.apart)
        return self.conflict_sets.union(apart)

    @cached_property
    def wall_sets_by_member(self) -> Mapping[str, tuple[frozenset[str], ...]]:
        """Chinese Wall type → the conflict sets that name it."""
        found: dict[str, list[frozenset[str]]] = {}
        for members in self.wall_sets:
            for member in members:
                found.setdefault(member, []).append(members)
        return {member: tuple(sets) for member, sets in found.items()}

    def walls_about(self, name: TypeName) -> frozenset[frozenset[str]]:
        """The conflict sets that keep a type apart from something: they name it or one of its owners."""
        by_member = self.wall_sets_by_member
        return frozenset(chain.from_iterable(by_member.get(each, ()) for each in (name, *self.owners.get(name, ()))))

    def split(self, label: FlowLabel) -> SplitLabel:
        """The edges of a label, by whether both ends name it as their downgrader."""
        inside = [name for name in label.reads | label.writes if label.name in self.definitions[name].downgraders]
        if not inside:
            return SplitLabel((Bundle(label.reads, label.writes),), Bundle(frozenset(), frozenset()))
        # All pairs of which at least one end is outside.
        ordinary = Bundle(label.reads.difference(inside), label.writes)
        entering = Bundle(label.reads.intersection(inside), label.writes.difference(inside))
        return SplitLabel((ordinary, entering), Bundle(label.reads & {*inside}, label.writes & {*inside}))


def flow_system(policy: Policy) -> FlowSystem:
    """The flow system of a policy: its types, the labels of its VMs, and its resources.

    A resource that several types may use lets information go between all of them: a VM of one writes it, one of
    another reads it. So it counts as a label that reads and writes them; one with pinned content nobody writes.
    """
    labels = {
        name: FlowLabel(name=name, reads=label.reads, writes=label.writes) for name, label in policy.vm_labels.items()
    }
    for name, resource in policy.resource_labels.items():
        if not resource.inaccessible and not resource.pinned:
            key = RESOURCE + name
            labels[key] = FlowLabel(name=key, reads=resource.types, writes=resource.types)
    return FlowSystem(
        definitions=policy.definitions,
        owners={name: policy.owners_of(name) for name in policy.definitions},
        labels=labels,
        conflict_sets=frozenset(policy.conflict_sets.values()),
    )


# What a type means


@dataclass(frozen=True, slots=True, kw_only=True)
class Meaning:
    """What a host does for a type, beside its flows. Two hosts share a type only if it means the same to both."""

    name: str
    owner: str | None
    """The organisation that it belongs to in the end."""
    confidentiality: int
    integrity: int
    tpm: str
    downgraders: tuple[str, ...]
    """Sorted."""
    walls: tuple[tuple[str, ...], ...]
    """Members of each conflict set about it, `apart` included; all sorted."""

    @property
    def digest(self) -> str:
        """SHA-256 over the canonical form, hexadecimal: what hosts compare."""
        return canonical_digest({name: getattr(self, name) for name in self.__slots__})

    def differing(self, other: "Meaning") -> tuple[str, ...]:
        """The fields that differ. Equivalent types have different names, and so may have different owners."""
        compared = self.__slots__ if self.name == other.name else self.__slots__[2:]
        return tuple(name for name in compared if getattr(self, name) != getattr(other, name))


def meaning(system: FlowSystem, name: TypeName, common: Mapping[str, TypeName] | None = None) -> Meaning:
    """What a type of the system means. `common`: names of equivalent types → the one name for both, in walls."""
    definition, owners = system.definitions[name], system.owners.get(name, ())
    walls: Iterable[Iterable[str]] = system.walls_about(name)
    if common:
        walls = ([common.get(member, member) for member in members] for members in walls)
    return Meaning(
        name=name,
        owner=owners[-1] if owners else None,
        confidentiality=definition.confidentiality,
        integrity=definition.integrity,
        tpm=definition.tpm.value,
        downgraders=tuple(sorted(definition.downgraders)),
        walls=tuple(sorted(tuple(sorted(members)) for members in walls)),
    )


# Reachability


class TypeIndex:
    """Types as bits of an integer."""

    def __init__(self, names: Iterable[TypeName]) -> None:
        self.names: Sequence[TypeName] = sorted(set(names))
        self.number: Mapping[TypeName, int] = {name: number for number, name in enumerate(self.names)}

    def mask(self, names: Iterable[TypeName]) -> int:
        """The bits of these types, all of which are in the index."""
        found = 0
        for name in names:
            found |= 1 << self.number[name]
        return found

    def types(self, mask: int) -> Iterator[TypeName]:
        """The types of these bits, by name."""
        return (self.names[number] for number in bits(mask))


def bits(mask: int) -> Sequence[int]:
    """The numbers of the bits that are set, ascending."""
    if mask.bit_count() * 8 > mask.bit_length():
        return [number for number, digit in enumerate(bin(mask)[:1:-1]) if digit == "1"]
    found = []
    while mask:
        low = mask & -mask
        found.append(low.bit_length() - 1)
        mask ^= low
    return found


class Reachability:
    """A transitive closure over `size` types that grows by bundles: per type, the others it reaches and is reached by.

    A bundle costs as many operations on integers as types are before or behind it; one that adds nothing, as many as it
    has sources.
    """

    def __init__(self, size: int) -> None:
        self.successors = [0] * size
        self.predecessors = [0] * size

    def copy(self) -> "Reachability":
        """The same closure, which grows on its own."""
        copied = Reachability(0)
        copied.successors, copied.predecessors = self.successors.copy(), self.predecessors.copy()
        return copied

    def add(self, sources: int, targets: int) -> None:
        """Close over the edges from each of `sources` to each other one of `targets`."""
        if all(not targets & ~(self.successors[number] | 1 << number) for number in bits(sources)):
            return
        before, behind = sources, targets
        for number in bits(sources):
            before |= self.predecessors[number]
        for number in bits(targets):
            behind |= self.successors[number]
        for number in bits(before):
            self.successors[number] |= behind & ~(1 << number)
        for number in bits(behind):
            self.predecessors[number] |= before & ~(1 << number)


# Paths


class Step(NamedTuple):
    """One edge, and whose label it is."""

    source: TypeName
    label: str
    side: str
    target: TypeName


def rendered(steps: Sequence[Step]) -> str:
    """A chain of at least one step, as people read it: `a -(label@side)-> b -(label@side)-> c`."""
    return steps[0].source + "".join(f" -({step.label}@{step.side})-> {step.target}" for step in steps)


class Way(NamedTuple):
    """Where one label leads from a type, or where it leads to a type from."""

    label: str
    ends: Sequence[TypeName]


def ways(system: FlowSystem, *, backwards: bool = False) -> Mapping[TypeName, Sequence[Way]]:
    """Type → the ways that a chain may take from it (`backwards`: may have come to it), by the labels' names."""
    found: dict[TypeName, list[Way]] = {}
    for name, label in sorted(system.labels.items()):
        for bundle in system.split(label).chains if label.joins else ():
            starts, ends = (bundle.targets, bundle.sources) if backwards else bundle
            way = Way(name, sorted(ends))
            for start in starts:
                found.setdefault(start, []).append(way)
    return found


def nearest(
    start: TypeName, goals: Container[TypeName], ways_from: Mapping[TypeName, Sequence[Way]]
) -> tuple[tuple[TypeName, str, TypeName], ...]:
    """The shortest chain (type, label, type), ... from `start` to one of `goals`, `start` aside; empty: none."""
    came: dict[TypeName, tuple[TypeName, str]] = {}
    tried: set[int] = set()
    queue = deque([start])
    while queue:
        current = queue.popleft()
        for way in ways_from.get(current, ()):
            if id(way) in tried:  # whoever came first went to all its ends
                continue
            tried.add(id(way))
            for end in way.ends:
                if end in came or end in (start, current):
                    continue
                came[end] = (current, way.label)
                if end in goals:
                    return _unwound(end, start, came)
                queue.append(end)
    return ()


def _unwound(
    end: TypeName, start: TypeName, came: Mapping[TypeName, tuple[TypeName, str]]
) -> tuple[tuple[TypeName, str, TypeName], ...]:
    steps: list[tuple[TypeName, str, TypeName]] = []
    while end != start:
        source, label = came[end]
        steps.append((source, label, end))
        end = source
    return tuple(reversed(steps))
