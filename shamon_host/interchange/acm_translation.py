"""From types, labels and conflict sets of an ACM policy to those of this project, so that the same is forbidden.

The two rules of ACM have types of their own here and there. In this project a label's types, and who owns them, are
Chinese Wall types of the label anyway. So a Chinese Wall type of ACM becomes the organisation, department or type of
the same name only if no label would get it that did not have it; otherwise it stays a wall of its own. (A virtual I/O
server, which has the types of two competitors and neither of their walls, would be in conflict with itself.)
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from shamon_host.domain.errors import BadInput
from shamon_host.domain.labels import UNLABELLED
from shamon_host.interchange.acm_model import (
    UNLABELED,
    AcmConflict,
    AcmLabel,
    AcmPolicy,
    Dropped,
    changed,
    dropped,
    renamed,
)
from shamon_host.interchange.acm_names import TypeNames, name_types, numbered, path_of

SHARED = "\0shared"
"""Key of the type that all labels have where the policy does not enforce types; no name in XML has a zero character."""
_LOWER = "names are in lower case here"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewLabel:
    """A label of VMs. Either `types`, or `reads`: a type to which nobody sends, so that it shares with nobody."""

    name: str
    old: str
    types: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    walls: tuple[str, ...] = ()
    """Chinese Wall types beside those that follow from its types."""

    @property
    def all_types(self) -> tuple[str, ...]:
        return self.types + self.reads


@dataclass(frozen=True, slots=True, kw_only=True)
class NewConflict:
    """A conflict set: each member with its old name."""

    name: str
    old: str
    members: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Translation:
    """The policy in this project's terms, without resources and VMs."""

    names: TypeNames
    types: Mapping[str, str]
    """Key → new name: a name of ACM, `SHARED`, or the key of a type that was made for one label."""
    labels: Mapping[str, NewLabel]
    walls: tuple[tuple[str, str], ...]
    """Walls of their own, new and old name."""
    conflicts: tuple[NewConflict, ...]
    management: tuple[str, ...]
    """Types that the host may run."""

    def types_of(self, label: AcmLabel) -> tuple[str, ...]:
        """New names of the types of any label of the policy, without those that were dropped."""
        return tuple(sorted(self.types[key] for key in keys_of(label, self.types)))


def keys_of(label: AcmLabel, known: Iterable[str]) -> tuple[str, ...]:
    """Keys of the types of a label."""
    return (SHARED,) if SHARED in known else tuple(name for name in label.types if name in known)


def alone(label: AcmLabel) -> str:
    """Key of the type that is made for a label without one."""
    return f"\0alone {label.name}"


def translate(policy: AcmPolicy, changes: list[Dropped], *, coalition: str, bootstrap_is_used: bool) -> Translation:
    """Say it in this project's terms. `bootstrap_is_used`: some domain wears the label of Domain-0 too.

    What is not as it was is added to `changes`. Raises BadInput for a label that is in conflict with itself.
    """
    kept = [
        label
        for label in policy.vm_labels
        if label.name not in UNLABELED and (label.name != policy.bootstrap or bootstrap_is_used)
    ]
    _require_no_conflict(policy.conflicts, kept)
    paths = {name: path_of(name) for name in _types(policy, kept, changes)}
    if not paths:
        paths[SHARED] = ("shared",)
    lonely = [label for label in dict.fromkeys([*kept, *_bootstrap(policy)]) if not keys_of(label, paths)]
    paths |= {alone(label): (f"{label.name}-alone",) for label in lonely}
    names = name_types(paths, policy.name or coalition)
    if SHARED in paths:
        why = "the policy enforces no types: all its labels get one that they share"
        changes.append(changed("SimpleTypeEnforcement", "absent", names.types[SHARED], why))
    new_names = numbered({label.name: label.name for label in kept}, {UNLABELLED.name})
    labels = {}
    for label in kept:
        own = tuple(sorted(names.types[key] for key in keys_of(label, paths)))
        reads = () if own else (names.types[alone(label)],)
        labels[label.name] = NewLabel(name=new_names[label.name], old=label.name, types=own, reads=reads)
    changes += _renamed_types(policy, names)
    walls, own_walls = _walls(policy, kept, labels, names, changes)
    for label in kept:
        new = labels[label.name]
        follow = _following(new, names)
        explicit = {walls[wall] for wall in label.walls} - follow
        labels[label.name] = replace(new, walls=tuple(sorted(explicit)))
    changes += _label_changes(policy, labels, lonely, names)
    return Translation(
        names=names,
        types=names.types,
        labels=labels,
        walls=own_walls,
        conflicts=tuple(_conflicts(policy.conflicts, walls, changes)),
        management=_management(policy, names, kept),
    )


def _bootstrap(policy: AcmPolicy) -> tuple[AcmLabel, ...]:
    return tuple(label for label in policy.vm_labels if label.name == policy.bootstrap)


def _require_no_conflict(conflicts: Iterable[AcmConflict], labels: Iterable[AcmLabel]) -> None:
    """The manual forbids it too: no host could run the label beside itself."""
    sets = [(each, frozenset(each.walls)) for each in conflicts]
    for label in labels:
        for conflict, members in sets:
            both = [wall for wall in label.walls if wall in members]
            if len(both) > 1:
                raise BadInput(
                    "a label is in conflict with itself",
                    where=f"{label.where} {label.name!r}",
                    expected=f"at most one type of the conflict set {conflict.name!r}",
                    found=", ".join(both[:4]),
                )


def _types(policy: AcmPolicy, kept: Iterable[AcmLabel], changes: list[Dropped]) -> list[str]:
    """The types of ACM that stay: without those that only unlabelled things have."""
    types = list(policy.types or ())
    ordinary = [*kept, *(label for label in policy.resource_labels if label.name not in UNLABELED)]
    used = {name for label in ordinary for name in label.types}
    special = [name for name in types if name in UNLABELED and name not in used]
    if len(special) == len(types):
        return types
    why = "only what is unlabelled has it, and that shares with nobody here"
    changes += [dropped("SimpleTypeEnforcementTypes/Type", name, why) for name in special]
    return [name for name in types if name not in special]


def _renamed_types(policy: AcmPolicy, names: TypeNames) -> Iterable[Dropped]:
    for old in policy.types or ():
        new = names.types.get(old, old)
        if new != old:
            why = "types are organisation/type here" if len(path_of(old)) == 1 else "its first part is its organisation"
            yield renamed("SimpleTypeEnforcementTypes/Type", old, new, why)


def _following(label: NewLabel, names: TypeNames) -> frozenset[str]:
    """The Chinese Wall types that a label has because of its types."""
    return frozenset(wall for name in label.all_types for wall in (name, *names.owners_of(name)))


def _walls(
    policy: AcmPolicy,
    kept: Iterable[AcmLabel],
    labels: Mapping[str, NewLabel],
    names: TypeNames,
    changes: list[Dropped],
) -> tuple[dict[str, str], tuple[tuple[str, str], ...]]:
    """Old → new for every Chinese Wall type, and those that are walls of their own."""
    holders: dict[str, set[str]] = {}
    following: dict[str, set[str]] = {}
    for label in kept:
        for wall in label.walls:
            holders.setdefault(wall, set()).add(label.name)
        for wall in _following(labels[label.name], names):
            following.setdefault(wall, set()).add(label.name)
    in_conflicts = {wall for conflict in policy.conflicts for wall in conflict.walls}
    walls: dict[str, str] = {}
    of_their_own: dict[str, str] = {}
    given: set[str] = set()
    for old in policy.walls:
        if old in UNLABELED and old not in holders and old not in in_conflicts:
            why = "only what is unlabelled has it, and that is in no conflict here"
            changes.append(dropped("ChineseWallTypes/Type", old, why))
            continue
        candidates = (names.owners.get(path_of(old)), names.types.get(old))
        for new in candidates:
            if new and new not in given and following.get(new, set()) <= holders.get(old, set()):
                walls[old] = new
                given.add(new)
                break
        else:
            of_their_own[old] = old
    own_names = numbered(of_their_own, {name for path, name in names.owners.items() if len(path) < 2})
    walls |= own_names
    for old in policy.walls:
        if walls.get(old, old) != old:
            why = _LOWER if old in own_names else "the organisation, department or type is a Chinese Wall type itself"
            changes.append(renamed("ChineseWallTypes/Type", old, walls[old], why))
    return walls, tuple((own_names[old], old) for old in policy.walls if old in own_names)


def _conflicts(
    conflicts: Iterable[AcmConflict], walls: Mapping[str, str], changes: list[Dropped]
) -> Iterable[NewConflict]:
    real = {}
    for number, conflict in enumerate(conflicts):
        if len(conflict.walls) > 1:
            real[f"{conflict.name}\0{sorted(conflict.walls)}\0{number}"] = conflict
        else:
            why = "a set of fewer than two types keeps nothing apart"
            changes.append(dropped("Conflict", conflict.name, why))
    names = numbered({key: conflict.name or "conflict" for key, conflict in real.items()}, set())
    for key, conflict in real.items():
        if names[key] != conflict.name:
            changes.append(
                renamed("Conflict", conflict.name, names[key], _LOWER if conflict.name else "it had no name")
            )
        members = tuple(sorted((walls[wall], wall) for wall in conflict.walls))
        yield NewConflict(name=names[key], old=conflict.name, members=members)


def _management(policy: AcmPolicy, names: TypeNames, kept: Iterable[AcmLabel]) -> tuple[str, ...]:
    """The types of Domain-0, or all where the policy has no labels; and those that were made for single labels."""
    bootstrap = _bootstrap(policy)
    keys = set(keys_of(bootstrap[0], names.types)) if bootstrap else set(names.types)
    keys |= {alone(label) for label in (*kept, *bootstrap) if alone(label) in names.types}
    return tuple(sorted(names.types[key] for key in keys))


def _label_changes(
    policy: AcmPolicy, labels: Mapping[str, NewLabel], lonely: Iterable[AcmLabel], names: TypeNames
) -> Iterable[Dropped]:
    element = "VirtualMachineLabel"
    for label in policy.vm_labels:
        new = labels.get(label.name)
        if label.name in UNLABELED:
            why = "a VM without a label shares with nobody here, and is in no conflict"
            yield changed(element, label.name, UNLABELLED.name, why)
        if label.name == policy.bootstrap:
            why = "it is the label of Domain-0: its types are what the host may run"
            yield changed(element, label.name, "hosts.types", why)
        if label.name == policy.bootstrap and label.walls:
            why = f"a host has no Chinese Wall types; Domain-0 had {', '.join(label.walls[:8])}"
            yield dropped(f"{element}/ChineseWallTypes", label.name, why)
        if new and new.name != label.name:
            yield renamed(element, label.name, new.name, _LOWER)
    for label in lonely:
        why = "it has no type: it gets one from which it only receives, so that it shares with nobody"
        yield changed(element, label.name, names.types[alone(label)], why)
