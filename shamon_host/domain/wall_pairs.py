"""Which Chinese Wall types a policy keeps apart in the end, and whose they are.

A conflict set names departments and organisations as well as types, and `apart` in a definition is one more set; so a
department that moves may change what two types may do that nobody touched. Comparing two versions of a policy needs
the pairs. Sets of names are bits of an integer here (`places_of`): there are many pairs.
"""

from collections.abc import Iterable, Mapping
from itertools import accumulate
from operator import or_

from shamon_host.domain.errors import BadInput
from shamon_host.domain.labels import TypeName
from shamon_host.domain.policy import Policy

_MOST = 1 << 14
"""Types, organisations, departments and walls of two versions together."""


def places_of(names: Iterable[str]) -> dict[str, int]:
    """A bit for each name. Raises BadInput."""
    ordered = sorted(names)
    if len(ordered) > _MOST:
        raise BadInput(
            "too many types, organisations and departments to compare two versions",
            expected=f"at most {_MOST}",
            found=str(len(ordered)),
        )
    return {name: 1 << index for index, name in enumerate(ordered)}


def never_together(policy: Policy, places: Mapping[str, int]) -> dict[str, int]:
    """Chinese Wall type → the bits of those beside which nothing of it runs, all that is below either included."""
    chains = {wall: _chain(policy, wall) for wall in policy.wall_names}
    below: dict[str, int] = {}
    for wall, chain in chains.items():
        for above in chain:
            below[above] = below.get(above, 0) | places[wall]
    apart: dict[str, int] = {}
    for members in policy.wall_sets.values():
        ordered = sorted(members & chains.keys())
        bits = [below[member] for member in ordered]
        before = [0, *accumulate(bits, or_)]
        behind = [0, *accumulate(reversed(bits), or_)][::-1]
        for index, member in enumerate(ordered):
            apart[member] = apart.get(member, 0) | before[index] | behind[index + 1]
    found: dict[str, int] = {}
    for wall, chain in chains.items():
        for above in chain:
            found[wall] = found.get(wall, 0) | apart.get(above, 0)
    return found


def organisation_above(policy: Policy, wall: str) -> str | None:
    """The organisation at the end above a type, a department or an organisation; None for any other wall."""
    top = _chain(policy, wall)[-1]
    return top if top in policy.organisations else None


def _chain(policy: Policy, wall: str) -> list[str]:
    """A type, department, organisation or wall, its owner, and so on to the organisation."""
    chain = [wall]
    definition = policy.definitions.get(TypeName(wall))
    above = None if definition is None else definition.owner
    if definition is None and wall in policy.departments:
        above = policy.departments[wall].of
    while above is not None and above not in chain:
        chain.append(above)
        department = policy.departments.get(above)
        above = None if department is None else department.of
    return chain
