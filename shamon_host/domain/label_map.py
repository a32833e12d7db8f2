"""The label map of one host: type ↔ SELinux link context and SPD context; VM ↔ sVirt context.

Names travel, contexts stay local: two hosts may map one type to different categories. Allocation is stable: what was
once given is kept for as long as its name is in the policy, and a freed category, or pair of them, is not given out
again before all others were used, the one that was freed first before those freed later (a lingering object under an
old label must not meet a new type or VM).
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TypeVar

from shamon_host.domain.errors import BackendFailed
from shamon_host.domain.labels import SelinuxContext, TypeName, VmName

TYPE_CATEGORIES = range(1, 512)
"""Categories that stand for types."""
VM_CATEGORIES = range(512, 1024)
"""Categories of which each VM has a pair of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelMap:
    """`types`: a category for each type; `vms`: a pair of categories (low, high) for each VM; all unique."""

    types: Mapping[TypeName, int]
    vms: Mapping[VmName, tuple[int, int]]
    next_category: int = TYPE_CATEGORIES.start
    """Where the search for the next free category of a type starts."""
    next_pair: int = VM_CATEGORIES.start
    """Where the search for the next free pair of a VM starts: the lower category of a pair."""
    retired: tuple[int, ...] = ()
    """Categories of types that are gone, the one that went first in front; given out again when no other is left."""
    retired_pairs: tuple[int, ...] = ()
    """The same of VMs: lower categories of pairs."""

    def link_context(self, name: TypeName) -> SelinuxContext:
        """Context of a link's socket and SAs. Raises KeyError for a type without a category."""
        return SelinuxContext(
            user="system_u", role="object_r", type="shamon_link_t", categories=frozenset({self.types[name]})
        )

    def spd_context(self, name: TypeName) -> SelinuxContext:
        """Context of a link's SPD entries. Raises KeyError for a type without a category."""
        return SelinuxContext(
            user="system_u", role="object_r", type="shamon_spd_t", categories=frozenset({self.types[name]})
        )

    def vm_context(self, vm: VmName, types: Iterable[TypeName], *, domain: str = "svirt_t") -> SelinuxContext:
        """sVirt context of a VM: its types' categories and its own pair. Raises KeyError."""
        categories = {self.types[name] for name in types} | set(self.vms[vm])
        return SelinuxContext(user="system_u", role="system_r", type=domain, categories=frozenset(categories))

    def type_of(self, context: SelinuxContext) -> TypeName | None:
        """The type that a link or SPD context stands for, or None."""
        for name, category in self.types.items():
            if context.categories == {category}:
                return name
        return None


EMPTY = LabelMap(types={}, vms={})


def allocate(current: LabelMap, types: Iterable[TypeName], vms: Iterable[VmName]) -> LabelMap:
    """Return the map with an entry for exactly `types` and `vms`, keeping what `current` gave to those names.

    Raises BackendFailed when the categories do not suffice.
    """
    of_types = _Numbers(TYPE_CATEGORIES, current.next_category, current.retired, "no category left for a type", "types")
    categories = of_types.give(current.types, sorted(set(types)))
    pairs = range(VM_CATEGORIES.start, VM_CATEGORIES.stop, 2)
    of_vms = _Numbers(pairs, current.next_pair, current.retired_pairs, "no categories left for a VM", "VMs")
    lows = of_vms.give({name: low for name, (low, _) in current.vms.items()}, sorted(set(vms)))
    return LabelMap(
        types=categories,
        vms={name: (low, low + 1) for name, low in lows.items()},
        next_category=of_types.position,
        next_pair=of_vms.position,
        retired=tuple(of_types.retired),
        retired_pairs=tuple(of_vms.retired),
    )


Name = TypeVar("Name", bound=str)


class _Numbers:
    """Categories, or first ones of pairs, on their way from name to name."""

    def __init__(self, all_of_them: range, position: int, retired: Iterable[int], exhausted: str, what: str) -> None:
        self._all, self._exhausted, self._what = all_of_them, exhausted, what
        self.position, self.retired = position, list(retired)

    def give(self, before: Mapping[Name, int], names: Sequence[Name]) -> dict[Name, int]:
        """One for each name: its own, else one that nobody ever had, else the one whose name went first."""
        given = {name: before[name] for name in names if name in before}
        self.retired += sorted(set(before.values()) - set(given.values()))
        for name in names:
            if name in given:
                continue
            number = self._fresh({*given.values(), *self.retired})
            if number is None:
                if not self.retired:
                    found = f"{len(names)}, {name} among them"
                    expected = f"at most {len(self._all)} {self._what}"
                    raise BackendFailed(self._exhausted, expected=expected, found=found)
                number = self.retired.pop(0)
            given[name] = number
        return given

    def _fresh(self, taken: Collection[int]) -> int | None:
        start = self._all.index(self.position) if self.position in self._all else 0
        for number in chain(self._all[start:], self._all[:start]):
            if number not in taken:
                self.position = number + self._all.step if number + self._all.step in self._all else self._all.start
                return number
        return None
