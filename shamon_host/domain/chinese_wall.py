"""Chinese Wall (Brewer and Nash 1989, as sHype has it): what is in conflict never runs at the same time on one host.

A conflict set names Chinese Wall types of which a host may run at most one at a time. A label has several: its types,
their owners up to the organisation, and those that it names itself (`Policy.walls_of`). What runs is given by the
caller, who asked the hypervisor: nothing is remembered here, so nothing can be out of step, whatever starts, stops,
is saved, resumed, migrates or crashes.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from shamon_host.domain.labels import VmLabel
from shamon_host.domain.policy import Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class Conflict:
    """Chinese Wall types of one conflict set that would run together."""

    conflict_set: str
    types: frozenset[str]
    """At least two."""

    def __str__(self) -> str:
        return f"{', '.join(sorted(self.types))} (conflict set {self.conflict_set})"


def conflicts(policy: Policy, label: VmLabel, running: Iterable[VmLabel]) -> Conflict | None:
    """What starting something with `label` beside what runs would bring together, or None.

    Only sets that `label` touches count: what runs already is not blamed on a newcomer that has no part in it.
    """
    own, bits = policy.walls_of(label), policy.wall_bits
    touched = meeting = 0
    for wall in own:
        sets = bits.get(wall, 0)
        meeting |= touched & sets
        touched |= sets
    if not touched:
        return None
    together = own.union(*map(policy.walls_of, running))
    for wall in together - own:
        meeting |= touched & bits.get(wall, 0)
    return first_conflict(policy.wall_sets, own, together) if meeting else None


def first_conflict(
    conflict_sets: Mapping[str, frozenset[str]], walls: Collection[str], running: Iterable[str] = ()
) -> Conflict | None:
    """As `conflicts`, with Chinese Wall types and the sets alone; the first by name."""
    own = frozenset(walls)
    together = own.union(running)
    for name, members in sorted(conflict_sets.items()):
        meeting = members & together
        if len(meeting) > 1 and not own.isdisjoint(members):
            return Conflict(conflict_set=name, types=meeting)
    return None
