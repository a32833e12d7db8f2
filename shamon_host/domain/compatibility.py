"""Which types two hosts may share although their policies differ: as many as keep what both policies promise.

Sharing a type joins what is of that type on both sides. A type may be shared if and only if it means the same to both,
has the same flows to and from the same types on both sides, and what comes through it is released to the same types on
both. What a side does not know, it does not permit.

Theorem (docs/information-flow.md has the proof). A chain is forbidden if it crosses from one side to the other, leads
from a type a to another type b, and a side that knows a or b does not permit a to flow to b. If each type of a set may
be shared on its own, then sharing all of them makes no forbidden chain. So the answer is per type, and the types with
the answer yes are the one largest set that is safe.

Sketch: cut a chain at its crossings. Each piece starts or ends at a shared type, so it is a flow of both sides, because
that type has the same flows on both. Both sides then permit the whole chain, because what they permit is transitive.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from itertools import chain
from typing import NamedTuple

from shamon_host.domain.flows import (
    FlowSystem,
    Reachability,
    Step,
    TypeIndex,
    Way,
    bits,
    meaning,
    nearest,
    rendered,
    ways,
)
from shamon_host.domain.labels import TypeName


class Side(StrEnum):
    """Whose policy."""

    OWN = "own"
    PEER = "peer"


class Reason(StrEnum):
    """Why a type may not be shared."""

    UNKNOWN = "unknown"
    """Only one side has it."""
    AMBIGUOUS = "ambiguous"
    """It and several types of the other side declare each other equivalent."""
    MEANING = "meaning"
    """Its definitions differ."""
    FLOW = "flow"
    """One side permits a flow to or from it that the other does not."""
    RELEASE = "release"
    """A downgrader of one side releases what came through it to where the other neither releases nor lets it flow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Whether one type may be shared, and why not."""

    own: TypeName | None
    """Its name on this side, or None where it has none."""
    peer: TypeName | None
    """Its name on the other side."""
    reason: Reason | None = None
    """None: it may be shared."""
    denied_by: Side | None = None
    """Who does not know the type, or does not permit the witness."""
    fields: tuple[str, ...] = ()
    """Fields of `flows.Meaning` that differ: of this type, or of the type at the far end of the witness."""
    witness: tuple[Step, ...] = ()
    """A shortest forbidden chain from or to this type, on the side that permits it; the crossing is at this type."""

    @property
    def shareable(self) -> bool:
        return self.reason is None

    def __str__(self) -> str:
        name = self.own or self.peer
        match self.reason:
            case None:
                return f"{name} may be shared"
            case Reason.UNKNOWN:
                return f"{name} is unknown to {self.denied_by}"
            case Reason.AMBIGUOUS:
                return f"{name} and several types of the other side declare each other equivalent"
            case Reason.MEANING:
                return f"{name} means something else to each side: {', '.join(self.fields)}"
            case Reason.FLOW | Reason.RELEASE:
                why = f", where {', '.join(self.fields)} of its far end differ" if self.fields else ""
                return f"{name}: {self.denied_by} does not permit the {self.reason} {rendered(self.witness)}{why}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Matching:
    """Which types of the two sides are the same type: those of one name, and those that declare each other equivalent.

    Symmetric, and one to one: a type with the same name on the other side has no other match, and of several equivalent
    types none is taken.
    """

    common: Mapping[str, TypeName]
    """Every type that both sides have under different names → the first of its two names."""
    ambiguous: frozenset[TypeName]

    @classmethod
    def of(cls, own: FlowSystem, peer: FlowSystem) -> "Matching":
        mutual = [
            (mine, theirs)
            for mine, definition in own.definitions.items()
            if definition.equivalent and mine not in peer.definitions
            for theirs in definition.equivalent
            if theirs in peer.definitions and theirs not in own.definitions
            if mine in peer.definitions[theirs].equivalent
        ]
        seen: dict[TypeName, int] = {}
        for name in chain.from_iterable(mutual):
            seen[name] = seen.get(name, 0) + 1
        single = [pair for pair in mutual if seen[pair[0]] == seen[pair[1]] == 1]
        matched: dict[str, TypeName] = {name: min(pair) for pair in single for name in pair}
        return cls(common=matched, ambiguous=frozenset(seen).difference(matched))


class View:
    """One side's types, flows and releases, under the names and the bits that both sides use."""

    def __init__(self, system: FlowSystem, names: Mapping[TypeName, TypeName], index: TypeIndex) -> None:
        """`names`: each type → the name that both sides use."""
        self.system = system
        self.names = names
        self.local: Mapping[TypeName, TypeName] = {name: local for local, name in names.items()}
        self.known = index.mask(self.local)
        self.reach = Reachability(len(index.names))
        self.releases: dict[int, dict[str, int]] = {}
        """Bit of a type → label → types that the label releases its information to."""
        for label in system.labels.values():
            if not label.joins:
                continue
            split = system.split(label)
            for bundle in split.chains:
                sources, targets = (index.mask(names[each] for each in ends) for ends in bundle)
                self.reach.add(sources, targets)
            sources, targets = (index.mask(names[each] for each in ends) for ends in split.releases)
            for number in bits(sources):
                if targets & ~(1 << number):
                    self.releases.setdefault(number, {})[label.name] = targets & ~(1 << number)

    @cached_property
    def onwards(self) -> Mapping[TypeName, Sequence[Way]]:
        return ways(self.system)

    @cached_property
    def backwards(self) -> Mapping[TypeName, Sequence[Way]]:
        return ways(self.system, backwards=True)


class Joined:
    """Two systems side by side. Bits are those of `index`, whose names are those that both sides use."""

    def __init__(self, own: FlowSystem, peer: FlowSystem) -> None:
        self.matching = Matching.of(own, peer)
        common = self.matching.common
        names = [{name: common.get(name, name) for name in system.definitions} for system in (own, peer)]
        self.index = TypeIndex(chain.from_iterable(each.values() for each in names))
        self.own, self.peer = View(own, names[0], self.index), View(peer, names[1], self.index)
        self.differing: dict[TypeName, tuple[str, ...]] = {}
        """Types that both sides know and that differ → fields in which they do."""
        for name, mine in self.own.local.items():
            if (theirs := self.peer.local.get(name)) is not None:
                fields = meaning(own, mine, common).differing(meaning(peer, theirs, common))
                if fields:
                    self.differing[name] = fields
        self.same = self.own.known & self.peer.known & ~self.index.mask(self.differing)
        """What both know and mean the same by."""

    @property
    def sides(self) -> tuple[tuple[Side, View, View], ...]:
        """Each side with its view, and the other's view."""
        return (Side.OWN, self.own, self.peer), (Side.PEER, self.peer, self.own)

    @cached_property
    def unanswered(self) -> Mapping[Side, Mapping[int, Mapping[str, int]]]:
        """Side → bit of a type → label → types to which it releases there and, under this name, not on the other."""
        return {side: dict(self._unanswered(view, other)) for side, view, other in self.sides}

    def _unanswered(self, view: View, other: View) -> Iterator[tuple[int, Mapping[str, int]]]:
        for number, labels in view.releases.items():
            theirs = other.releases.get(number, {})
            only_here = {name: to & ~(self.same & theirs.get(name, 0)) for name, to in labels.items()}
            if any(only_here.values()):
                yield number, {name: to for name, to in only_here.items() if to}

    @cached_property
    def _leaking(self) -> tuple[int, Mapping[int, int]]:
        """Types with an unanswered release on either side, and for the bit of each to where."""
        found: dict[int, int] = {}
        for number, labels in chain.from_iterable(side.items() for side in self.unanswered.values()):
            for to in labels.values():
                found[number] = found.get(number, 0) | to
        return sum(1 << number for number in found), found

    def shareable(self, number: int) -> bool:
        """Whether the type of this bit may be shared."""
        own, peer, itself = self.own.reach, self.peer.reach, 1 << number
        after, before = own.successors[number], own.predecessors[number]
        if (after, before) != (peer.successors[number], peer.predecessors[number]):
            return False
        if (after | before | itself) & ~self.same:
            return False
        leaking, to = self._leaking
        return not any(to[each] & ~(after | itself) for each in bits((after | itself) & leaking))

    def answer(self, name: TypeName) -> Answer:
        """The answer for a type, by the name that both sides use. Raises KeyError for a type that neither knows."""
        number = self.index.number[name]
        own, peer = self.own.local.get(name), self.peer.local.get(name)
        if own is None or peer is None:
            reason = Reason.AMBIGUOUS if name in self.matching.ambiguous else Reason.UNKNOWN
            return Answer(own=own, peer=peer, reason=reason, denied_by=Side.OWN if own is None else Side.PEER)
        if name in self.differing:
            return Answer(own=own, peer=peer, reason=Reason.MEANING, fields=self.differing[name])
        if self.shareable(number):
            return Answer(own=own, peer=peer)
        # Flows before releases, so that both sides give the same reason; then own's before the peer's.
        found = min(self._forbidden(name, number), key=lambda each: (len(each.steps), each.reason is Reason.RELEASE))
        return Answer(
            own=own,
            peer=peer,
            reason=found.reason,
            denied_by=Side.PEER if found.side is Side.OWN else Side.OWN,
            fields=self.differing.get(found.far, ()),
            witness=found.steps,
        )

    def _forbidden(self, name: TypeName, number: int) -> Iterator["_Forbidden"]:
        """The shortest forbidden chain of each kind, on each side, that crosses at this type and goes no further."""
        for side, view, other in self.sides:
            start = view.local[name]
            after, before = view.reach.successors[number], view.reach.predecessors[number]
            goals = self._local(view, after & ~(other.reach.successors[number] & self.same))
            if goals:
                steps = nearest(start, goals, view.onwards)
                yield _Forbidden(Reason.FLOW, side, _steps(side, steps), view.names[steps[-1][2]])
            goals = self._local(view, before & ~(other.reach.predecessors[number] & self.same))
            if goals:
                steps = nearest(start, goals, view.backwards)
                onwards = tuple((source, label, target) for target, label, source in reversed(steps))
                yield _Forbidden(Reason.FLOW, side, _steps(side, onwards), view.names[steps[-1][2]])
            permitted = other.reach.successors[number] & self.same | 1 << number
            denied = {
                each: [(label, to & ~permitted) for label, to in sorted(labels.items()) if to & ~permitted]
                for each, labels in self.unanswered[side].items()
                if (after | 1 << number) >> each & 1
            }
            goals = self._local(view, sum(1 << each for each, labels in denied.items() if labels))
            if goals:
                steps = () if start in goals else nearest(start, goals, view.onwards)
                last = steps[-1][2] if steps else start
                label, to = denied[self.index.number[view.names[last]]][0]
                target = next(iter(self.index.types(to)))
                yield _Forbidden(
                    Reason.RELEASE, side, _steps(side, (*steps, (last, label, view.local[target]))), target
                )

    def _local(self, view: View, mask: int) -> frozenset[TypeName]:
        return frozenset(view.local[name] for name in self.index.types(mask))


class _Forbidden(NamedTuple):
    reason: Reason
    side: Side
    """Where the chain is."""
    steps: tuple[Step, ...]
    far: TypeName
    """The end of the chain that is not the type asked about, by the name that both sides use."""


def _steps(side: Side, edges: Iterable[tuple[TypeName, str, TypeName]]) -> tuple[Step, ...]:
    return tuple(Step(source=source, label=label, side=side, target=target) for source, label, target in edges)


@dataclass(frozen=True, slots=True, kw_only=True)
class Compatibility:
    """What two policies may share."""

    shared: Mapping[TypeName, TypeName]
    """Name on this side → name on the other side, for each type that may be shared."""
    common: Mapping[TypeName, TypeName]
    """Name on this side → the one name that both sides use on the wire, for each type that may be shared."""
    joined: Joined = field(repr=False, compare=False)

    def answer(self, name: TypeName) -> Answer:
        """The answer for one type, by its name on either side (own first). Raises KeyError if neither knows it."""
        known = self.joined.own.names.get(name)
        return self.joined.answer(self.joined.peer.names[name] if known is None else known)

    def answers(self) -> Mapping[TypeName, Answer]:
        """The answer for each type of either side, by the name that both sides use. Each witness costs a search."""
        return {name: self.joined.answer(name) for name in self.joined.index.names}


def compatibility(own: FlowSystem, peer: FlowSystem) -> Compatibility:
    """What may be shared. The same pairs come out from either side: `compatibility(peer, own)` inverts `shared`."""
    joined = Joined(own, peer)
    names = [joined.index.names[number] for number in bits(joined.same) if joined.shareable(number)]
    return Compatibility(
        shared={joined.own.local[name]: joined.peer.local[name] for name in names},
        common={joined.own.local[name]: name for name in names},
        joined=joined,
    )
