"""The label map of one host: type ↔ SELinux link context and SPD context; VM ↔ sVirt context.

Names travel, contexts stay local: two hosts may map one type to different categories. Allocation is stable: what was
once given is kept for as long as its name is in the policy, and a freed category, or pair of them, is not given out
again before all others were used (a lingering object under an old label must not meet a new type or VM).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

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
    wanted_types, wanted_vms = sorted(set(types)), sorted(set(vms))
    kept = {name: current.types[name] for name in wanted_types if name in current.types}
    position = current.next_category
    for name in wanted_types:
        if name in kept:
            continue
        used = set(kept.values())
        span = len(TYPE_CATEGORIES)
        for step in range(span):
            candidate = TYPE_CATEGORIES.start + (position - TYPE_CATEGORIES.start + step) % span
            if candidate not in used:
                kept[name] = candidate
                position = candidate + 1 if candidate + 1 in TYPE_CATEGORIES else TYPE_CATEGORIES.start
                break
        else:
            raise BackendFailed("no category left for a type", expected=f"at most {span} types", found=name)
    pairs, next_pair = _pairs(current, wanted_vms)
    return LabelMap(types=kept, vms=pairs, next_category=position, next_pair=next_pair)


def _pairs(current: LabelMap, wanted: Sequence[VmName]) -> tuple[dict[VmName, tuple[int, int]], int]:
    """A pair for each VM, and where the next search starts. Raises BackendFailed."""
    pairs = {name: current.vms[name] for name in wanted if name in current.vms}
    used = {low for low, _ in pairs.values()}
    position, span = current.next_pair, len(VM_CATEGORIES)
    for vm in wanted:
        if vm in pairs:
            continue
        for step in range(0, span, 2):
            low = VM_CATEGORIES.start + (position - VM_CATEGORIES.start + step) % span
            if low not in used:
                break
        else:
            raise BackendFailed("no categories left for a VM", expected=f"at most {span // 2} VMs", found=vm)
        pairs[vm] = (low, low + 1)
        used.add(low)
        position = low + 2 if low + 2 in VM_CATEGORIES else VM_CATEGORIES.start
    return pairs, position
