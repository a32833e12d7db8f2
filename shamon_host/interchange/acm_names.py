"""From the names of an ACM policy to names of this project: lower case, and types below the organisation that has them.

ACM's tools write a department's workload as `ORGANISATION.DEPARTMENT` (`A-Bank.SecurityUnderwriting`): the dots become
the path of the type. A name without them goes below an organisation that is called after the policy; one that others
begin with goes below itself. What comes out equal is numbered, in the order of the old names, so that the order of the
file plays no part.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from shamon_host.domain.errors import BadInput
from shamon_host.domain.labels import type_name

Path = tuple[str, ...]
_MAX_NAME = 63
_MAX_PARTS = 7
"""One less than a type's name may have: a type that others begin with goes below itself."""
_OTHERS = re.compile(r"[^a-z0-9._-]+")


def plain(text: str) -> str:
    """The plain name that is most like a text."""
    name = _OTHERS.sub("-", text.lower()).strip("._-")[:_MAX_NAME].rstrip("._-")
    return name or "unnamed"


def numbered(wanted: Mapping[str, str], taken: set[str]) -> dict[str, str]:
    """A plain name for each key, like the text it maps to and not in `taken`, to which the names are added.

    Texts that are plain names already keep them, others get a number if theirs is taken.
    """
    names: dict[str, str] = {}
    numbers: dict[str, int] = {}
    for key, text in sorted(wanted.items(), key=lambda item: (plain(item[1]) != item[1], item)):
        base = name = plain(text)
        while name in taken:
            numbers[base] = numbers.get(base, 1) + 1
            suffix = f"-{numbers[base]}"
            name = base[: _MAX_NAME - len(suffix)].rstrip("._-") + suffix
        taken.add(name)
        names[key] = name
    return names


def path_of(name: str) -> Path:
    """The parts of a type's name in ACM: by its dots, or of a name that is one of ours already."""
    try:
        parts = type_name(name).split("/")
    except BadInput:
        parts = name.split(".")
    if len(parts) > _MAX_PARTS or any(plain(part) == "unnamed" for part in parts):
        return (name,)
    return tuple(parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class TypeNames:
    """New names, all different, of types and of those who own them."""

    types: Mapping[str, str]
    """Key of a type → its name, `organisation/.../type`."""
    owners: Mapping[Path, str]
    """Path of an organisation (one part) or a department (more) → its name; the empty path has the one below."""
    above: Mapping[str, str]
    """Name of a type or a department → name of its owner."""
    own: str
    """The organisation that is called after the policy; it is there only if it owns something."""

    def owners_of(self, name: str) -> tuple[str, ...]:
        """Who owns a type, from its department up to its organisation."""
        owners = []
        while name in self.above:
            name = self.above[name]
            owners.append(name)
        return tuple(owners)


def name_types(paths: Mapping[str, Path], policy: str) -> TypeNames:
    """Names for types with these paths. `policy` is what the organisation of paths of one part is called after."""
    inner = {path[:length] for path in paths.values() for length in range(1, len(path))}
    nodes: dict[Path, dict[str, str]] = {}
    leaves: dict[Path, dict[str, str]] = {}
    for path in inner:
        nodes.setdefault(path[:-1], {})[path[-1]] = path[-1]
    for key, path in paths.items():
        leaves.setdefault(path if path in inner else path[:-1], {})[key] = path[-1]
    taken: set[str] = set()
    owners: dict[Path, str] = {(part,): name for part, name in numbered(nodes.get((), {}), taken).items()}
    own = numbered({"": policy}, taken)[""]
    owners_by_parent = {(): own, **owners} if () in leaves else dict(owners)
    types: dict[str, str] = {}
    above: dict[str, str] = {}
    for parent in sorted(nodes.keys() | leaves.keys(), key=lambda path: (len(path), path)):
        below: set[str] = set()
        if parent:
            for part, name in numbered(nodes.get(parent, {}), below).items():
                owners_by_parent[*parent, part] = f"{owners_by_parent[parent]}/{name}"
                above[f"{owners_by_parent[parent]}/{name}"] = owners_by_parent[parent]
        for key, name in numbered(leaves.get(parent, {}), below).items():
            types[key] = f"{owners_by_parent[parent]}/{name}"
            above[types[key]] = owners_by_parent[parent]
    return TypeNames(types=types, owners=owners_by_parent, above=above, own=own)
