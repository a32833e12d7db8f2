"""Labels of the peer's that an adaptation may choose from, as this policy would have them (`adaptation`)."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain, count

from shamon_host.domain.adaptation_needs import Needed
from shamon_host.domain.additions import Addition
from shamon_host.domain.compatibility import Joined
from shamon_host.domain.flows import RESOURCE, Bundle, FlowLabel, FlowSystem, bits


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
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


def with_labels(system: FlowSystem, chosen: Iterable[Candidate]) -> FlowSystem:
    return replace(system, labels={**system.labels, **{each.label.name: each.label for each in chosen}})


def candidates(joined: Joined, needed: Needed) -> list[Candidate]:
    """The peer's labels that could be of use: those with few flows first, and of several with one effect one."""
    taken = _taken_names(joined.own.system, joined.peer.system)
    found: dict[object, Candidate] = {}
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


def _width(candidate: Candidate) -> tuple[int, str]:
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


def _candidate(joined: Joined, label: FlowLabel, name: str) -> Candidate:
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
    return Candidate(label=taken, taken_from=label.name, chains=chains, releases=masks(split.releases))


def _gains(joined: Joined, needed: Needed, each: Candidate) -> bool:
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


def _spoils(joined: Joined, needed: Needed, each: Candidate) -> bool:
    """Whether it adds a flow from or to a wanted type that the peer denies."""
    if each.label.name == each.taken_from:
        return False  # under its own name its edges are those of the peer; under another, a release becomes a flow
    reach = joined.peer.reach
    return any(
        each.leads_out_of(reach.successors[number] | 1 << number)
        or each.leads_into(reach.predecessors[number] | 1 << number)
        for number in bits(needed.wanted)
    )


def label_additions(joined: Joined, chosen: Sequence[Candidate]) -> list[Addition]:
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
