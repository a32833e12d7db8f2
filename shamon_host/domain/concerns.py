"""What differs between two versions of a policy, and which organisations each difference concerns.

A difference concerns whoever owns a type in it, in either version, directly or through departments. Comparing too much
would only ask for a signature too many, so every doubt ends that way. What is not compared, because it is the
coalition's alone: hosts, images, VMs, what guests have to show, resources that name no type of theirs, intervals and
demands.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from shamon_host.domain.flows import Reachability, TypeIndex, flow_system
from shamon_host.domain.labels import TypeName
from shamon_host.domain.policy import Policy, TypeDefinition
from shamon_host.domain.wall_pairs import never_together, organisation_above, places_of


def concerns(new: Policy, current: Policy) -> Mapping[str, Sequence[str]]:
    """Organisation → what in `new`, compared with `current`, concerns it, for people; only those that are concerned.

    Raises BadInput for policies that are too large to be compared.
    """
    comparison = _Comparison(new, _renamed(current, new))
    comparison.compare()
    return {name: tuple(changes) for name, changes in comparison.changes.items()}


class _Comparison:
    """What differs between two versions, and which organisations each difference concerns.

    Types that were renamed have their new names in `old` already.
    """

    def __init__(self, new: Policy, old: Policy) -> None:
        self._new, self._old = new, old
        self.changes: dict[str, dict[str, None]] = {}
        """Organisation → what concerns it, in the order in which it was found."""

    def compare(self) -> None:
        """Find everything. Raises BadInput for policies that are too large."""
        self._organisations()
        self._definitions()
        self._labels()
        self._overlays()
        self._conflicts()
        self._flows()

    def _tell(self, organisations: Iterable[str | None], change: str) -> None:
        for name in organisations:
            if name is not None:
                self.changes.setdefault(name, {})[change] = None

    def _owners(self, walls: Iterable[str], change: str) -> None:
        """Tell whoever owns one of these types, departments or organisations in either version."""
        for wall in walls:
            self._tell((organisation_above(self._old, wall), organisation_above(self._new, wall)), change)

    def _organisations(self) -> None:
        for name in sorted({**self._old.organisations, **self._new.organisations}):
            if _own_key(self._old, name) != _own_key(self._new, name):
                self._tell((name,), "its key changes")
        for name in sorted({**self._old.departments, **self._new.departments}):
            if self._old.departments.get(name) != self._new.departments.get(name):
                self._owners((name,), f"department {name} changes")

    def _definitions(self) -> None:
        old, new = self._old.definitions, self._new.definitions
        for name in sorted(set(self._new.renames.types.values()) & new.keys()):
            self._owners((name, *_namesake(self._new, name)), f"type {name} is renamed")
        for name in sorted({**old, **new}):
            one, other = old.get(name), new.get(name)
            if one == other:
                continue
            change = f"type {name} {_how(one, other)}"
            self._owners((name,), change)
            if one is None or other is None or one.owner != other.owner:
                self._owners((*_namesake(self._old, name), *_namesake(self._new, name)), change)
            for label in sorted(_downgraders(one) ^ _downgraders(other)):
                self._owners(self._types_of(label), f"{change}, which concerns its downgrader {label}")
            for equivalent in sorted(_equivalent(one) ^ _equivalent(other)):
                self._owners((equivalent,), f"{change}, which concerns its equivalent {equivalent}")

    def _labels(self) -> None:
        old, new = self._old, self._new
        for name in sorted({**old.vm_labels, **new.vm_labels}):
            one, other = old.vm_labels.get(name), new.vm_labels.get(name)
            if one != other:
                self._owners(self._types_of(name), f"label {name} {_how(one, other)}")
        for name in sorted({**old.resource_labels, **new.resource_labels}):
            disk, changed = old.resource_labels.get(name), new.resource_labels.get(name)
            if disk != changed:
                types = (each.types for each in (disk, changed) if each is not None)
                self._owners(frozenset[str]().union(*types), f"resource {name} {_how(disk, changed)}")

    def _overlays(self) -> None:
        for name in sorted({**self._old.overlays, **self._new.overlays}):
            one, other = self._old.overlays.get(name), self._new.overlays.get(name)
            if one != other:
                for label in sorted({each.label for each in (one, other) if each is not None}):
                    self._owners(self._types_of(label), f"overlay {name} {_how(one, other)}")

    def _conflicts(self) -> None:
        """A set that lost a member, and whatever may now meet though it might not: departments move, types too."""
        for name, members in sorted(self._old.conflict_sets.items()):
            if not members <= self._new.conflict_sets.get(name, frozenset()):
                self._owners(members, f"conflict set {name} is removed or weakened")
        places = places_of(self._old.wall_names | self._new.wall_names)
        old, new = never_together(self._old, places), never_together(self._new, places)
        gone = sum(places[wall] for wall in self._old.wall_names - self._new.wall_names)
        for wall, others in sorted(old.items()):
            if wall in new and others & ~new[wall] & ~gone:
                self._owners((wall,), f"{wall} may run beside what it might not")

    def _flows(self) -> None:
        """Information that gets where it did not get, by whatever chain of labels and resources."""
        index = TypeIndex(self._old.types | self._new.types)
        old, new = _closure(self._old, index), _closure(self._new, index)
        reached = 0
        for name, before, after in zip(index.names, old.successors, new.successors, strict=True):
            if after & ~before:
                self._owners((name,), f"information from {name} may go further")
                reached |= after & ~before
        for name in index.types(reached):
            self._owners((name,), f"more information may come to {name}")

    def _types_of(self, label: str) -> frozenset[str]:
        """The types that the label holds in either version."""
        labels = (self._old.vm_labels.get(label), self._new.vm_labels.get(label))
        return frozenset[str]().union(*(each.types for each in labels if each is not None))


def _renamed(current: Policy, new: Policy) -> Policy:
    """`current` with types under the names that they have in `new`, where that is one to one and nothing meets.

    Any other rename is none here, so that it is a type removed and another one added.
    """
    wanted: dict[str, str] = {
        old: name
        for old, name in new.renames.types.items()
        if old in current.types
        and name in new.types
        and name not in current.wall_names
        and list(new.renames.types.values()).count(name) == 1
    }

    def types(names: Iterable[TypeName]) -> frozenset[TypeName]:
        return frozenset(TypeName(wanted.get(name, name)) for name in names)

    def walls(names: Iterable[str]) -> frozenset[str]:
        return frozenset(wanted.get(name, name) for name in names)

    definitions = {}
    for old, each in current.definitions.items():
        name = TypeName(wanted.get(old, old))
        definitions[name] = replace(each, name=name, apart=walls(each.apart), equivalent=types(each.equivalent))
    return replace(
        current,
        definitions=definitions,
        vm_labels={
            name: replace(
                each,
                types=types(each.types),
                read_only=types(each.read_only),
                write_only=types(each.write_only),
                walls=walls(each.walls),
            )
            for name, each in current.vm_labels.items()
        },
        resource_labels={
            name: replace(each, types=types(each.types)) for name, each in current.resource_labels.items()
        },
        conflict_sets={name: walls(members) for name, members in current.conflict_sets.items()},
    )


def _closure(policy: Policy, index: TypeIndex) -> Reachability:
    """Where information may go from each type, as `flows` defines it."""
    system, closure = flow_system(policy), Reachability(len(index.names))
    for label in system.labels.values():
        for bundle in system.split(label).chains:
            closure.add(index.mask(bundle.sources), index.mask(bundle.targets))
    return closure


def _own_key(policy: Policy, organisation: str) -> str | None:
    """The public key of an organisation, whatever its name is."""
    entry = policy.organisations.get(organisation)
    return None if entry is None or entry.key is None else policy.keys.get(entry.key)


def _namesake(policy: Policy, name: str) -> tuple[str, ...]:
    """The organisation that a type's name begins with, whoever owns the type."""
    first = name.partition("/")[0]
    return (first,) if first in policy.organisations else ()


def _downgraders(definition: TypeDefinition | None) -> frozenset[str]:
    return frozenset() if definition is None else definition.downgraders


def _equivalent(definition: TypeDefinition | None) -> frozenset[TypeName]:
    return frozenset() if definition is None else definition.equivalent


def _how(one: object, other: object) -> str:
    if one is None:
        return "is added"
    return "is removed" if other is None else "changes"
