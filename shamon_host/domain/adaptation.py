"""What a policy has to take over from a peer's so that wanted types may be shared: the least that does, or why nothing.

A policy can take types, conflict sets (`apart` in a definition is one) and labels from the peer. A label is taken as
far as both sides mean the same by its types, under its own name where that is free. Nothing is taken away, and the peer
stays as it is. docs/information-flow.md proves what this module rests on:

* Types and conflict sets leave no choice. A wanted type needs the same flows on both sides, so every type at the far
  end of one of the peer's must be there and mean the same.
* A label that is taken adds no flow that the peer denies. So if the labels all together do not suffice, or a flow is
  denied even then, no selection of them will do: that is the proof that there is no adaptation.
* What is left is to choose few labels. Any choice that suffices has at least one label out of each *demand*: the labels
  that could carry on a chain which does not arrive yet. The search branches on the smallest demand.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import reduce
from itertools import accumulate, chain, count, islice
from operator import and_

from shamon_host.domain.compatibility import Answer, Joined, compatibility
from shamon_host.domain.errors import BadInput, Refused
from shamon_host.domain.flows import RESOURCE, Bundle, FlowLabel, FlowSystem, Reachability, bits
from shamon_host.domain.labels import TypeName
from shamon_host.domain.policy import TypeDefinition

MOST_CHOSEN = 12
"""Up to so many labels, beside those without which it cannot be, the smallest choice is searched for."""
MOST_WORK = 1_000_000
"""Of the search, in types and labels looked at, some microseconds each; beyond it the choice is only minimal."""
_MOST_DEMANDS = 2_000
"""Demands that are looked at before the search, for labels without which it cannot be and for how few may do."""

Flow = tuple[TypeName, TypeName]


class Minimality(StrEnum):
    """In which sense an adaptation is the least."""

    SMALLEST = "smallest"
    """No adaptation has fewer additions."""
    MINIMAL = "minimal"
    """None of its additions can be left out; another one may have fewer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WallAddition:
    """A conflict set to take over."""

    members: frozenset[str]
    apart_of: TypeName | None
    """The type in whose definition the peer says so, as `apart`; None: it is a conflict set by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Addition:
    """One line to add to this policy, under this policy's names."""

    what: TypeDefinition | WallAddition | FlowLabel
    taken_from: str
    """What it is called in the peer's policy."""
    flows: tuple[Flow, ...] = ()
    """What it permits that was not permitted before, given the additions before it."""
    releases: tuple[Flow, ...] = ()
    """What it releases, as a downgrader that both types name."""
    signers: frozenset[TypeName]
    """Types whose owners must sign: both ends of what it permits or releases, or the types that it is about."""

    def __str__(self) -> str:
        match self.what:
            case TypeDefinition():
                return f"type {self.what.name}"
            case WallAddition():
                apart = self.what.apart_of
                return f"apart of {apart}" if apart else f"conflict set {', '.join(sorted(self.what.members))}"
            case FlowLabel():
                reads, writes = (", ".join(sorted(names)) for names in (self.what.reads, self.what.writes))
                return f"label {self.what.name}: reads {reads}; writes {writes}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Adaptation:
    """The additions, or the proof that there are none."""

    wanted: frozenset[TypeName]
    additions: tuple[Addition, ...] = ()
    """In an order in which they can be made."""
    minimality: Minimality = Minimality.SMALLEST
    adapted: FlowSystem | None = None
    """This policy with the additions; None: no adaptation exists."""
    obstacle: Answer | None = None
    """Why none exists: the answer for a wanted type with everything taken over that can be."""

    @property
    def possible(self) -> bool:
        return self.adapted is not None


def adapt(own: FlowSystem, peer: FlowSystem, wanted: Iterable[TypeName]) -> Adaptation:
    """The least additions to `own` under which all `wanted` types may be shared (names of either side, own first).

    Raises BadInput for a wanted type that neither side knows.
    """
    wanted, joined = frozenset(wanted), Joined(own, peer)
    for name in sorted(wanted - own.definitions.keys() - peer.definitions.keys()):
        raise BadInput("an unknown type is wanted", expected="a type of either policy", found=repr(name[:80]))
    names = sorted(joined.own.names.get(name) or joined.peer.names[name] for name in wanted)
    needed = _Needed(joined, names)
    for name in (*names, *sorted(needed.types)):
        if name in joined.matching.ambiguous or name not in joined.peer.local:
            return Adaptation(wanted=wanted, obstacle=joined.answer(name))
    base = needed.base()
    joined = Joined(base, peer)
    candidates = _candidates(joined, needed)
    most = Joined(_with_labels(base, candidates), peer)
    for name in names:
        if not most.shareable(most.index.number[name]):
            return Adaptation(wanted=wanted, obstacle=most.answer(name))
    chosen, minimality = _Search(joined, needed, candidates).least()
    adapted = _with_labels(base, chosen)
    missing = {*names} - {*compatibility(adapted, peer).common.values()}
    if missing:  # nothing above is believed without this
        raise Refused("an adaptation does not do what it is for", found=", ".join(sorted(missing)))
    additions = (*needed.additions(base), *_label_additions(joined, chosen))
    return Adaptation(wanted=wanted, additions=additions, minimality=minimality, adapted=adapted)


class _Needed:
    """What every adaptation takes over: types and conflict sets."""

    def __init__(self, joined: Joined, names: Sequence[TypeName]) -> None:
        """`names`: the wanted types, by the names that both sides use."""
        self.joined = joined
        own, peer = joined.own, joined.peer
        self.wanted = self.down = self.up = joined.index.mask(names)
        """Bits of the wanted types; with what they reach on the peer's side; with what reaches them there."""
        for number in bits(self.wanted):
            self.down |= peer.reach.successors[number]
            self.up |= peer.reach.predecessors[number]
        alike = self.down | self.up
        self.releases = self._releases()
        """What the peer releases and own has to release too: bit of the source, label, bits of the targets."""
        for _, _, to in self.releases:
            alike |= to
        self.types = set(joined.index.types(alike & peer.known & ~own.known))
        """Types to take over: those that have to mean the same to both, and those that what is taken over names."""
        about = {
            members
            for name in joined.index.types(alike & peer.known)
            for members in peer.system.walls_about(peer.local[name])
        }
        sets = {self._local(members) for members in about} - own.system.wall_sets
        new = [*self.types, *self._unknown(chain.from_iterable(sets))]
        while new:
            self.types.update(new)
            new = self._unknown(chain.from_iterable(self.definition(name).apart for name in new))
        apart = (frozenset({name, wall}) for name in self.types for wall in self.definition(name).apart)
        self.walls = sets.difference(apart)
        """Conflict sets to take over, beside those that come with definitions; under own's names."""

    def _releases(self) -> list[tuple[int, str, int]]:
        """Those of what comes through a wanted type to where that type may not flow."""
        peer, found = self.joined.peer, []
        near = [peer.reach.successors[number] | 1 << number for number in bits(self.wanted)]
        for number, labels in peer.releases.items():
            permitted = [types for types in near if types >> number & 1]
            if permitted:
                everywhere = reduce(and_, permitted)
                found += [(number, name, to & ~everywhere) for name, to in labels.items() if to & ~everywhere]
        return found

    def _local(self, members: Iterable[str]) -> frozenset[str]:
        """A conflict set of the peer's under own's names."""
        common, local = self.joined.matching.common, self.joined.own.local
        return frozenset(local.get(common.get(each, TypeName(each)), each) for each in members)

    def _unknown(self, names: Iterable[str]) -> list[TypeName]:
        """Those of these names that are types of the peer's which own does not have and would not have yet."""
        theirs, mine = self.joined.peer.system.definitions, self.joined.own.system.definitions
        types = (TypeName(name) for name in set(names))
        return sorted(name for name in types if name in theirs and name not in mine and name not in self.types)

    def definition(self, name: TypeName) -> TypeDefinition:
        """The peer's definition of a type that own does not have, under own's names."""
        found = self.joined.peer.system.definitions[name]
        return replace(found, apart=self._local(found.apart))

    def base(self) -> FlowSystem:
        """Own with these types and conflict sets."""
        own, peer = self.joined.own.system, self.joined.peer.system
        definitions = {**own.definitions, **{name: self.definition(name) for name in self.types}}
        conflict_sets = set(own.conflict_sets)
        for wall in self._wall_additions():
            if wall.apart_of is None:
                conflict_sets.add(wall.members)
            else:
                definition = definitions[wall.apart_of]
                apart = definition.apart | (wall.members - {wall.apart_of})
                definitions[wall.apart_of] = replace(definition, apart=apart)
        return FlowSystem(
            definitions=definitions,
            owners={**own.owners, **{name: peer.owners.get(name, ()) for name in self.types}},
            labels=own.labels,
            conflict_sets=frozenset(conflict_sets),
        )

    def _wall_additions(self) -> list[WallAddition]:
        peer = self.joined.peer
        declared = {self._local(members) for members in peer.system.conflict_sets}
        apart_of = {
            self._local({name, wall}): self.joined.own.local.get(peer.names[name], name)
            for name, each in sorted(peer.system.definitions.items(), reverse=True)
            for wall in each.apart
        }
        return [
            WallAddition(members=members, apart_of=None if members in declared else apart_of[members])
            for members in sorted(self.walls, key=sorted)
        ]

    def additions(self, base: FlowSystem) -> list[Addition]:
        """The lines that make own into `base`."""
        found = [
            Addition(what=self.definition(name), taken_from=name, signers=frozenset({name}))
            for name in sorted(self.types)
        ]
        for wall in self._wall_additions():
            about = frozenset(name for name in base.definitions if wall.members in base.walls_about(name))
            found.append(Addition(what=wall, taken_from=", ".join(sorted(wall.members)), signers=about))
        return found


# Labels


@dataclass(frozen=True, slots=True, kw_only=True)
class _Candidate:
    """A label to take over, as own would have it. Masks are bits of the index that both sides use."""

    label: FlowLabel
    taken_from: str
    chains: tuple[tuple[int, int], ...]
    """Bundles: sources, targets."""
    releases: tuple[int, int]

    def leads_out_of(self, inside: int) -> bool:
        """Whether it has an edge from one of these types to another type."""
        return any(sources & inside and targets & ~inside for sources, targets in self.chains)

    def leads_into(self, inside: int) -> bool:
        """Whether it has an edge to one of these types from another type."""
        return any(targets & inside and sources & ~inside for sources, targets in self.chains)


def _with_labels(system: FlowSystem, chosen: Iterable[_Candidate]) -> FlowSystem:
    return replace(system, labels={**system.labels, **{each.label.name: each.label for each in chosen}})


def _candidates(joined: Joined, needed: _Needed) -> list[_Candidate]:
    """The peer's labels that could be of use: those with few flows first, and of several with one effect one."""
    taken = _taken_names(joined.own.system, joined.peer.system)
    found: dict[object, _Candidate] = {}
    for label in joined.peer.system.labels.values():
        if label.joins:
            each = _candidate(joined, label, taken(label.name))
            if _gains(joined, needed, each) and not _spoils(joined, needed, each):
                sources, targets = each.releases
                effect = tuple((s & needed.down, t & needed.down, s & needed.up, t & needed.up) for s, t in each.chains)
                released = (each.label.name, sources & needed.down, targets) if sources & needed.down else ()
                kept = found.setdefault((effect, released), each)
                found[effect, released] = min(kept, each, key=_width)
    return sorted(found.values(), key=_width)


def _width(candidate: _Candidate) -> tuple[int, str]:
    return len(candidate.label.reads) * len(candidate.label.writes), candidate.taken_from


def _taken_names(own: FlowSystem, peer: FlowSystem) -> Callable[[str], str]:
    """Own's name for a label of the peer's: the same where it is free, as downgraders go by name; else one that no
    type names a downgrader."""
    downgraders = chain.from_iterable(
        each.downgraders for each in (*own.definitions.values(), *peer.definitions.values())
    )
    used = {*own.labels, *peer.labels, *downgraders}

    def taken(name: str) -> str:
        if name not in own.labels and not name.startswith(RESOURCE):
            return name
        stem = name.removeprefix(RESOURCE)[:56]
        fresh = next(each for number in count(2) if (each := f"{stem}-{number}") not in used)
        used.add(fresh)
        return fresh

    return taken


def _candidate(joined: Joined, label: FlowLabel, name: str) -> _Candidate:
    """The label as far as both sides mean the same by its types."""
    own, peer, index = joined.own, joined.peer, joined.index
    ends = []
    for side in (label.reads, label.writes):
        mask = index.mask(peer.names[each] for each in side) & joined.same
        ends.append(frozenset(own.local[each] for each in index.types(mask)))
    taken = FlowLabel(name=name, reads=ends[0], writes=ends[1])
    split = own.system.split(taken)

    def masks(bundle: Bundle) -> tuple[int, int]:
        return index.mask(own.names[each] for each in bundle[0]), index.mask(own.names[each] for each in bundle[1])

    chains = tuple(masks(bundle) for bundle in split.chains)
    return _Candidate(label=taken, taken_from=label.name, chains=chains, releases=masks(split.releases))


def _gains(joined: Joined, needed: _Needed, each: _Candidate) -> bool:
    """Whether it adds something about the wanted types."""
    own = joined.own
    for sources, targets in each.chains:
        for number in bits(sources & needed.down):
            if targets & ~(own.reach.successors[number] | 1 << number):
                return True
        for number in bits(targets & needed.up):
            if sources & ~(own.reach.predecessors[number] | 1 << number):
                return True
    sources, targets = each.releases
    return any(
        targets & ~(own.releases.get(number, {}).get(each.label.name, 0) | 1 << number)
        for number in bits(sources & needed.down)
    )


def _spoils(joined: Joined, needed: _Needed, each: _Candidate) -> bool:
    """Whether it adds a flow from or to a wanted type that the peer denies."""
    if each.label.name == each.taken_from:
        return False  # under its own name its edges are those of the peer; under another, a release becomes a flow
    reach = joined.peer.reach
    return any(
        each.leads_out_of(reach.successors[number] | 1 << number)
        or each.leads_into(reach.predecessors[number] | 1 << number)
        for number in bits(needed.wanted)
    )


def _label_additions(joined: Joined, chosen: Sequence[_Candidate]) -> list[Addition]:
    """The lines for these labels, with what each permits after those before it."""
    local, index, reach = joined.own.local, joined.index, joined.own.reach.copy()
    found = []
    for each in chosen:
        before = reach.successors.copy()
        for bundle in each.chains:
            reach.add(*bundle)
        new = [(number, to & ~before[number]) for number, to in enumerate(reach.successors) if to != before[number]]
        sources, targets = each.releases
        out = [(number, targets & ~(1 << number)) for number in bits(sources)]
        flows, releases = (
            tuple((local[index.names[number]], local[end]) for number, to in pairs for end in index.types(to))
            for pairs in (new, out)
        )
        signers = frozenset(chain.from_iterable((*flows, *releases)))
        found.append(
            Addition(what=each.label, taken_from=each.taken_from, flows=flows, releases=releases, signers=signers)
        )
    return found


class _Search:
    """Which candidates to take. A set of candidates is an integer, with the bits of their numbers."""

    def __init__(self, joined: Joined, needed: _Needed, candidates: Sequence[_Candidate]) -> None:
        self.candidates = candidates
        self.wanted = bits(needed.wanted)
        self.own, self.peer = joined.own.reach, joined.peer.reach
        self._out_of: dict[int, int] = {}
        self._into: dict[int, int] = {}
        self.releases = [
            self._releasing(source, target, name)
            for source, name, to in needed.releases
            for target in bits(to & ~joined.own.releases.get(source, {}).get(name, 0))
        ]
        """For each thing that own has yet to release: the candidates that do."""
        self.work = MOST_WORK
        self.node_work = 1 + len(joined.index.names) // 10 + len(self.wanted) + len(candidates)

    def least(self) -> tuple[list[_Candidate], Minimality]:
        """The choice, and whether it is known that none is smaller. All candidates together must suffice."""
        forced = self._forced()
        start = self._with(forced)
        found = self._greedy(start, forced)
        size, most = self._bound(self._some(start, forced, _MOST_DEMANDS)), (found & ~forced).bit_count()
        while size < most and size <= MOST_CHOSEN:
            smaller = self._within(size, start, forced, 0)
            if smaller is not None:
                found = smaller
                break
            if self.work < 0:
                return self._labels(found), Minimality.MINIMAL
            size += 1
        else:
            if size < most:
                return self._labels(found), Minimality.MINIMAL
        return self._labels(found), Minimality.SMALLEST

    def _labels(self, chosen: int) -> list[_Candidate]:
        return [self.candidates[number] for number in bits(chosen)]

    def _with(self, chosen: int, onto: Reachability | None = None) -> Reachability:
        """What is reached with these candidates, on top of own or of `onto`."""
        reach = (self.own if onto is None else onto).copy()
        for number in bits(chosen):
            for sources, targets in self.candidates[number].chains:
                reach.add(sources, targets)
        return reach

    def _demands(self, reach: Reachability, chosen: int) -> Iterator[int]:
        """Sets of candidates of each of which every choice that suffices and includes `chosen` has one more."""
        for number in self.wanted:
            itself, after, before = 1 << number, reach.successors[number], reach.predecessors[number]
            lacking = self.peer.successors[number] & ~after
            if lacking:
                yield self._leaving(after | itself)
            for end in bits(lacking):
                yield self._entering(reach.predecessors[end] | 1 << end)
            lacking = self.peer.predecessors[number] & ~before
            if lacking:
                yield self._entering(before | itself)
            for end in bits(lacking):
                yield self._leaving(reach.successors[end] | 1 << end)
        yield from (releasing for releasing in self.releases if not releasing & chosen)

    def _some(self, reach: Reachability, chosen: int, most: int = 48) -> set[int]:
        """The first demands: as many as pay at one node."""
        return set(islice(self._demands(reach, chosen), most))

    def _suffices(self, reach: Reachability, chosen: int) -> bool:
        return next(self._demands(reach, chosen), None) is None

    def _leaving(self, inside: int) -> int:
        """Candidates that lead out of a set of types."""
        if inside not in self._out_of:
            self._out_of[inside] = self._those(each.leads_out_of(inside) for each in self.candidates)
        return self._out_of[inside]

    def _entering(self, inside: int) -> int:
        """Candidates that lead into a set of types."""
        if inside not in self._into:
            self._into[inside] = self._those(each.leads_into(inside) for each in self.candidates)
        return self._into[inside]

    @staticmethod
    def _those(whether: Iterable[bool]) -> int:
        return sum(1 << number for number, holds in enumerate(whether) if holds)

    def _releasing(self, source: int, target: int, name: str) -> int:
        """Candidates of this name that release from one type to another."""
        return self._those(
            each.label.name == name and bool(each.releases[0] >> source & each.releases[1] >> target & 1)
            for each in self.candidates
        )

    def _forced(self) -> int:
        """Candidates that every choice has."""
        forced, more, reach = 0, -1, self.own
        while more:
            more = 0
            for demand in self._some(reach, forced, _MOST_DEMANDS):
                if demand.bit_count() == 1:
                    more |= demand
            forced, reach = forced | more, self._with(more, reach)
        return forced

    def _greedy(self, reach: Reachability, forced: int) -> int:
        """A choice of which nothing can be left out."""
        start, chosen, picked = reach, forced, list[int]()
        while demands := self._some(reach, chosen):
            votes = Counter(number for demand in demands for number in bits(demand))
            best = max(sorted(votes), key=votes.__getitem__)
            picked.append(best)
            chosen, reach = chosen | 1 << best, self._with(1 << best, reach)
        return forced | self._thinned(start, forced, picked)

    def _thinned(self, reach: Reachability, chosen: int, picked: Sequence[int]) -> int:
        """As many of `picked` as it takes beside `chosen`, of which none can be left out (Junker 2004, QuickXplain)."""
        if not picked or self._suffices(reach, chosen):
            return 0
        if len(picked) == 1:
            return 1 << picked[0]
        half = len(picked) // 2
        first = sum(1 << number for number in picked[:half])
        second = self._thinned(self._with(first, reach), chosen | first, picked[half:])
        return second | self._thinned(self._with(second, reach), chosen | second, picked[:half])

    @staticmethod
    def _bound(demands: Collection[int]) -> int:
        """How many more there must be at least: as many as demands without a common candidate, and so many that even
        those in most demands are in as many as there are."""
        disjoint = taken = 0
        for demand in sorted(demands, key=int.bit_count):
            if not demand & taken:
                disjoint, taken = disjoint + 1, taken | demand
        votes = Counter(number for demand in demands for number in bits(demand))
        met = accumulate((count for _, count in votes.most_common()), initial=0)
        return max(disjoint, sum(1 for each in met if each < len(demands)))

    def _within(self, size: int, reach: Reachability, chosen: int, banned: int) -> int | None:
        """A choice with at most `size` more, none of them banned, or None. Proves nothing if `work` fell below 0."""
        self.work -= self.node_work
        demands = [demand & ~banned for demand in self._some(reach, chosen)]
        if not demands:
            return chosen
        if self.work < 0 or 0 in demands or self._bound(demands) > size:
            return None
        for number in bits(min(demands, key=int.bit_count)):
            found = self._within(size - 1, self._with(1 << number, reach), chosen | 1 << number, banned)
            if found is not None:
                return found
            banned |= 1 << number  # every choice with it has been tried
        return None
