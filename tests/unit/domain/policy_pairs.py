"""Pairs of policies that differ in a few lines: each lacks some types, labels and conflict sets of a common whole."""

from collections.abc import Collection, Iterable
from dataclasses import replace
from typing import TypeVar

from hypothesis import strategies as st

from shamon_host.domain.consistency import inconsistencies
from shamon_host.domain.labels import TypeName
from shamon_host.domain.policy import Policy, Renames
from shamon_host.domain.policy_form import with_digest
from tests.unit.domain.generated import policies

Name = TypeVar("Name", bound=str)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Policy, Policy]:
    """An own policy and a peer's, without VMs."""
    whole = draw(policies())

    def some(names: Iterable[Name], most: int) -> list[Name]:
        return draw(st.lists(st.sampled_from(sorted(names)), max_size=most)) if names else []

    def part(most: int) -> Policy:
        types = set(some(whole.types, most))
        return without(
            whole,
            types=types if types < whole.types else set(),
            labels=some(whole.vm_labels, most),
            conflict_sets=some(whole.conflict_sets, most),
        )

    return part(2), part(1)


def without(
    policy: Policy, *, types: Collection[TypeName], labels: Collection[str], conflict_sets: Collection[str]
) -> Policy:
    """The policy less these entries and whatever named them, without VMs; owners of nothing go too."""
    definitions = {name: each for name, each in policy.definitions.items() if name not in types}
    kept = replace(policy, definitions=definitions)
    owners = {owner for name in definitions for owner in kept.owners_of(name)}
    kept = replace(
        kept,
        organisations={name: each for name, each in policy.organisations.items() if name in owners},
        departments={name: each for name, each in policy.departments.items() if name in owners},
        vms={},
        overlays={},
        renames=Renames(),
    )
    walls = kept.wall_names
    kept = replace(
        kept,
        definitions={name: replace(each, apart=each.apart & walls) for name, each in definitions.items()},
        vm_labels={
            name: replace(
                label,
                types=label.types.difference(types),
                read_only=label.read_only.difference(types),
                write_only=label.write_only.difference(types),
                walls=label.walls & walls,
            )
            for name, label in policy.vm_labels.items()
            if name not in labels and label.types.difference(types)
        },
        resource_labels={
            name: replace(label, types=label.types.difference(types))
            for name, label in policy.resource_labels.items()
            if label.inaccessible or label.types.difference(types)
        },
        conflict_sets={
            name: members & walls
            for name, members in policy.conflict_sets.items()
            if name not in conflict_sets and len(members & walls) > 1
        },
        hosts={
            name: replace(host, types=host.types.difference(types) or kept.types, starting=None)
            for name, host in policy.hosts.items()
        },
    )
    assert not list(inconsistencies(kept)), list(inconsistencies(kept))
    return with_digest(kept)
