"""Chinese Wall (Brewer and Nash 1989, as sHype has it): types in conflict never run at the same time on one host.

A conflict set names types of which a host may run at most one at a time. What runs is given by the caller, who asked
the hypervisor: nothing is remembered here, so nothing can be out of step.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from shamon_host.domain.labels import TypeName
from shamon_host.domain.policy import Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class Conflict:
    """Types of one conflict set that would run together."""

    conflict_set: str
    types: frozenset[TypeName]
    """At least two."""

    def __str__(self) -> str:
        return f"{', '.join(sorted(self.types))} (conflict set {self.conflict_set})"


def conflicts(policy: Policy, types: Collection[TypeName], running: Iterable[TypeName]) -> Conflict | None:
    """What starting something with `types` beside the `running` types would bring together, or None.

    Only sets that `types` touches count: what runs already is not blamed on a newcomer that has no part in it.
    """
    return first_conflict(policy.conflict_sets, types, running)


def first_conflict(
    conflict_sets: Mapping[str, frozenset[TypeName]], types: Collection[TypeName], running: Iterable[TypeName] = ()
) -> Conflict | None:
    """As `conflicts`, with the sets alone, in the order of their names."""
    own = frozenset(types)
    together = own.union(running)
    for name, members in sorted(conflict_sets.items()):
        meeting = members & together
        if own & members and len(meeting) > 1:
            return Conflict(conflict_set=name, types=meeting)
    return None
