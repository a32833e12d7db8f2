"""Big flow systems, the same for the same seed: what the limits of compatibility and adaptation are measured with.

Organisations own types in departments; most labels have one type, some have several, as services that a group of types
shares. Conflict sets keep organisations and types apart. A peer is the same system with some lines changed.
"""

from collections.abc import Iterable
from dataclasses import replace
from random import Random

from shamon_host.domain.flows import FlowLabel, FlowSystem
from shamon_host.domain.labels import TypeName
from shamon_host.domain.policy import TypeDefinition

TYPES, LABELS, CONFLICT_SETS = 1_000, 10_000, 200
MULTI_TYPE_SHARE = 0.05
GROUP = 20
"""Types of one organisation, next to each other by number."""


def big_system(
    seed: int = 1,
    *,
    types: int = TYPES,
    labels: int = LABELS,
    conflict_sets: int = CONFLICT_SETS,
    multi: float = MULTI_TYPE_SHARE,
    far: float = 0.02,
) -> FlowSystem:
    """A system. `multi`: share of the labels with several types; `far`: share of these that span organisations."""
    random = Random(seed)
    names = [TypeName(f"org{number // GROUP}/t{number}") for number in range(types)]
    organisations = [f"org{number}" for number in range((types + GROUP - 1) // GROUP)]
    definitions, owners = {}, {}
    for number, name in enumerate(names):
        department = f"org{number // GROUP}/d{number % 3}"
        owners[name] = (department, f"org{number // GROUP}")
        definitions[name] = TypeDefinition(
            name=name,
            owner=department,
            confidentiality=random.randrange(3),
            downgraders=frozenset({f"l{random.randrange(labels)}"}) if random.random() < 0.1 else frozenset(),
        )
    return FlowSystem(
        definitions=definitions,
        owners=owners,
        labels={name: _label(random, name, names, multi, far) for name in (f"l{number}" for number in range(labels))},
        conflict_sets=frozenset(
            frozenset(random.sample(organisations if random.random() < 0.3 else names, 2)) for _ in range(conflict_sets)
        ),
    )


def _label(random: Random, name: str, names: list[TypeName], multi: float, far: float) -> FlowLabel:
    first = random.randrange(len(names))
    if random.random() >= multi:
        return FlowLabel(name=name, reads=frozenset({names[first]}), writes=frozenset({names[first]}))
    start = first // GROUP * GROUP
    near = names if random.random() < far else names[start : start + GROUP]
    both = random.sample(near, min(len(near), random.randrange(2, 5)))
    one_way = random.random() < 0.6
    return FlowLabel(
        name=name, reads=frozenset(both[:1] if one_way else both), writes=frozenset(both[1:] if one_way else both)
    )


def without(
    system: FlowSystem,
    *,
    labels: Iterable[str] = (),
    types: Iterable[TypeName] = (),
    conflict_sets: Iterable[frozenset[str]] = (),
) -> FlowSystem:
    """The system without these labels, types (taken out of every label) and conflict sets."""
    gone, dropped = frozenset(types), frozenset(labels)
    return FlowSystem(
        definitions={name: each for name, each in system.definitions.items() if name not in gone},
        owners={name: each for name, each in system.owners.items() if name not in gone},
        labels={
            name: replace(label, reads=label.reads - gone, writes=label.writes - gone)
            for name, label in system.labels.items()
            if name not in dropped
        },
        conflict_sets=system.conflict_sets.difference(conflict_sets),
    )


def changed(
    system: FlowSystem, seed: int = 2, *, labels: int = 5, types: int = 5, conflict_sets: int = 2
) -> FlowSystem:
    """A peer: the system without some of its labels that join types, of its types and of its conflict sets."""
    random = Random(seed)
    return without(
        system,
        labels=random.sample(sorted(name for name, label in system.labels.items() if label.joins), labels),
        types=random.sample(sorted(system.definitions), types),
        conflict_sets=random.sample(sorted(system.conflict_sets, key=sorted), conflict_sets),
    )
