"""The bench's own answers, computed as plainly as the definitions read: sets of names, no bits, no cache.

A fast wrong answer is worth nothing, so what is measured is compared with these. They serve as baselines too.
"""

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Any

from shamon_host.domain.flows import FlowLabel, FlowSystem
from shamon_host.domain.labels import TypeName
from tests.bench.big_policies import walls_of

Edges = Mapping[TypeName, Set[TypeName]]


def shared_types(own: FlowSystem, peer: FlowSystem) -> frozenset[TypeName]:
    """The types that both may share, by the theorem of `compatibility`. Without equivalent types."""
    mine, theirs = _Side.of(own), _Side.of(peer)
    known = own.definitions.keys() & peer.definitions.keys()
    meanings = [{name: _meaning(system, name) for name in known} for system in (own, peer)]
    same = {name for name in known if meanings[0][name] == meanings[1][name]}
    leaking = _leaking(mine, theirs, same) | _leaking(theirs, mine, same)
    return frozenset(
        name
        for name in same
        if mine.after[name] == theirs.after[name]
        and mine.before[name] == theirs.before[name]
        and mine.after[name] | mine.before[name] <= same
        and not (mine.after[name] | {name}) & leaking
    )


def in_conflict(system: FlowSystem, label: FlowLabel, running: Iterable[FlowLabel]) -> bool:
    """Whether the label must not start beside what runs."""
    own = walls_of(system, label)
    together = own.union(*(walls_of(system, other) for other in running))
    return any(members & own and len(members & together) > 1 for members in system.conflict_sets)


def reachable(edges: Edges) -> Mapping[TypeName, Set[TypeName]]:
    """Type → the others that a chain of edges leads to: a search from each type on its own."""
    found = {}
    for start in edges:
        seen, pending = {start}, [start]
        while pending:
            new = edges[pending.pop()] - seen
            seen |= new
            pending += new
        found[start] = seen - {start}
    return found


def edges_of(system: FlowSystem) -> Edges:
    """Type → the others that one label lets information go to, releases aside."""
    edges: dict[TypeName, set[TypeName]] = {name: set() for name in system.definitions}
    for label in system.labels.values():
        for source in label.reads:
            edges[source] |= {
                target for target in label.writes - {source} if not _releases(system, label, source, target)
            }
    return edges


def _releases(system: FlowSystem, label: FlowLabel, source: TypeName, target: TypeName) -> bool:
    return all(label.name in system.definitions[end].downgraders for end in (source, target))


def _meaning(system: FlowSystem, name: TypeName) -> Any:
    each, about = system.definitions[name], {name, *system.owners[name]}
    walls = frozenset(members for members in system.conflict_sets if members & about)
    return system.owners[name][-1], each.confidentiality, each.integrity, each.tpm, each.downgraders, walls


@dataclass(frozen=True, slots=True)
class _Side:
    after: Mapping[TypeName, Set[TypeName]]
    before: Mapping[TypeName, Set[TypeName]]
    releases: Mapping[tuple[TypeName, str], Set[TypeName]]
    """Type and label → types that the label releases its information to."""

    @classmethod
    def of(cls, system: FlowSystem) -> "_Side":
        edges = edges_of(system)
        back: dict[TypeName, set[TypeName]] = {name: set() for name in edges}
        for source, targets in edges.items():
            for target in targets:
                back[target].add(source)
        releases = {
            (source, label.name): released
            for label in system.labels.values()
            for source in label.reads
            if (released := {end for end in label.writes - {source} if _releases(system, label, source, end)})
        }
        return cls(reachable(edges), reachable(back), releases)


def _leaking(side: _Side, other: _Side, same: Set[TypeName]) -> Set[TypeName]:
    """Types out of which a label of this side releases what the other side does not let go there."""
    return {
        source
        for (source, label), released in side.releases.items()
        if not released <= same & (other.after.get(source, set()) | other.releases.get((source, label), set()))
    }
