"""The label map of one host: type ↔ SELinux link context and SPD context; VM ↔ sVirt context; disk ↔ its file's label.

Names travel, contexts stay local: two hosts may map one type to different categories. Allocation is stable: what was
once given is kept for as long as its name is in the policy, and a freed category, or pair of them, is not given out
again before all others were used, the one that was freed first before those freed later (a lingering object under an
old label must not meet a new type or VM).
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import TypeVar

from shamon_host.domain.errors import BackendFailed
from shamon_host.domain.labels import SelinuxContext, TypeName, VmName

TYPE_CATEGORIES = range(1, 512)
"""Categories that stand for types."""
VM_CATEGORIES = range(512, 1024)
"""Categories of which each VM, and each disk that VMs share, has a pair of its own."""


DISK_TYPES = ("virt_content_t", "svirt_image_t")
"""SELinux types of files that VMs read, and that they write as well, in the reference policy's module `virt`."""
_VM, _DISK = "vm ", "disk "


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelMap:
    """`types`: a category for each type; `vms` and `disks`: a pair of categories (low, high) for each VM and for each
    resource that is a disk; all unique."""

    types: Mapping[TypeName, int]
    vms: Mapping[VmName, tuple[int, int]]
    disks: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    next_category: int = TYPE_CATEGORIES.start
    """Where the search for the next free category of a type starts."""
    next_pair: int = VM_CATEGORIES.start
    """Where the search for the next free pair of a VM or a disk starts: the lower category of a pair."""
    retired: tuple[int, ...] = ()
    """Categories of types that are gone, the one that went first in front; given out again when no other is left."""
    retired_pairs: tuple[int, ...] = ()
    """The same of VMs and disks: lower categories of pairs."""

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

    def vm_context(
        self, vm: VmName, types: Iterable[TypeName], disks: Iterable[str] = (), *, domain: str = "svirt_t"
    ) -> SelinuxContext:
        """sVirt context of a VM: its types' categories, its own pair and those of the disks that it has beside its own.
        Raises KeyError."""
        categories = {self.types[name] for name in types}.union(self.vms[vm], *(self.disks[name] for name in disks))
        return SelinuxContext(user="system_u", role="system_r", type=domain, categories=frozenset(categories))

    def disk_context(self, name: str, *, pinned: bool) -> SelinuxContext:
        """Label of the file of a disk: only VMs that have its pair of categories reach it, and nobody writes a pinned
        one. Raises KeyError."""
        of_type = DISK_TYPES[0] if pinned else DISK_TYPES[1]
        return SelinuxContext(
            user="system_u", role="object_r", type=of_type, categories=frozenset[int](self.disks[name])
        )

    def type_of(self, context: SelinuxContext) -> TypeName | None:
        """The type that a link or SPD context stands for, or None."""
        for name, category in self.types.items():
            if context.categories == {category}:
                return name
        return None


EMPTY = LabelMap(types={}, vms={})


def allocate(
    current: LabelMap, types: Iterable[TypeName], vms: Iterable[VmName], disks: Iterable[str] = ()
) -> LabelMap:
    """Return the map with an entry for exactly `types`, `vms` and `disks`, keeping what `current` gave to those names.

    Raises BackendFailed when the categories do not suffice.
    """
    of_types = _Numbers(TYPE_CATEGORIES, current.next_category, current.retired, "no category left for a type", "types")
    categories = of_types.give(current.types, sorted(set(types)))
    pairs = range(VM_CATEGORIES.start, VM_CATEGORIES.stop, 2)
    of_pairs = _Numbers(pairs, current.next_pair, current.retired_pairs, "no categories left for a VM", "VMs and disks")
    before = {_VM + name: low for name, (low, _) in current.vms.items()}
    before |= {_DISK + name: low for name, (low, _) in current.disks.items()}
    names = [*(_VM + name for name in sorted(set(vms))), *(_DISK + name for name in sorted(set(disks)))]
    given = {name: (low, low + 1) for name, low in of_pairs.give(before, names).items()}
    return LabelMap(
        types=categories,
        vms={VmName(name.removeprefix(_VM)): pair for name, pair in given.items() if name.startswith(_VM)},
        disks={name.removeprefix(_DISK): pair for name, pair in given.items() if name.startswith(_DISK)},
        next_category=of_types.position,
        next_pair=of_pairs.position,
        retired=tuple(of_types.retired),
        retired_pairs=tuple(of_pairs.retired),
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
