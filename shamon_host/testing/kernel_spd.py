"""The SPD in memory: priorities, port masks, labels, and what the kernel tells apart when it stores an entry."""

from dataclasses import dataclass, replace

from shamon_host.domain.labels import SelinuxContext
from shamon_host.links.desired import BLOCK_ENTRIES
from shamon_host.links.model import GUARD_PRIORITY, PORT_BLOCK_FIRST, PORT_BLOCK_MASK, Direction, SpdEntry
from shamon_host.testing.kernel_selinux import SPD_TYPE, MemorySelinux


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """A UDP packet as the SPD sees it."""

    direction: Direction
    family: int
    source: str
    destination: str
    source_port: int
    destination_port: int


class MemorySpd:
    """Entries in the order in which the kernel asks them: by priority, older ones first."""

    def __init__(self, selinux: MemorySelinux) -> None:
        self._selinux = selinux
        self._entries: dict[int, SpdEntry] = {}
        self._next_index = 1
        self._seen: frozenset[SpdEntry] | None = None
        """What a read shows, until something changes."""

    def update(self, entry: SpdEntry) -> SpdEntry:
        """XFRM_MSG_UPDPOLICY: add it, or put it in the place of the one with its selector, direction and context.

        Returns it as stored: without its context where SELinux is off. Raises BackendFailed for a bad context."""
        if entry.block and (entry.context is not None or entry.reqid is not None):
            raise ValueError("a block entry has neither label nor template")
        stored = replace(entry, context=self._selinux.keep(entry.context, SPD_TYPE), foreign="")
        index = next((index for index, other in self._entries.items() if _key(other) == _key(stored)), None)
        if index is None:
            index, self._next_index = self._next_index, self._next_index + 1
        self._entries[index] = stored
        self._seen = None
        return stored

    def delete(self, entry: SpdEntry) -> bool:
        """Delete the entry that reads as this one; False when there is none."""
        for index, stored in self._entries.items():
            if _as_read(index, stored) == entry:
                del self._entries[index]
                self._seen = None
                return True
        return False

    def flush(self) -> None:
        self._entries.clear()
        self._seen = None

    def read(self) -> frozenset[SpdEntry]:
        """The labelled ones and those that touch the port block, as `KernelState.spd` has them."""
        if self._seen is None:
            entries = (_as_read(index, stored) for index, stored in self._entries.items())
            self._seen = frozenset(entry for entry in entries if entry.context is not None or _in_the_way(entry))
        return self._seen

    def lookup(self, flow: Flow, label: SelinuxContext | None) -> SpdEntry | None:
        """The first entry that matches the packet and whose label lets this one use it (`xfrm_policy_lookup`).

        `label` is the socket's context on the way out, that of the SA on the way in, None for a packet without."""
        for _, entry in sorted(self._entries.items(), key=lambda item: (item[1].priority, item[0])):
            if _matches(entry, flow) and (
                entry.context is None or self._selinux.permits("polmatch", label, entry.context)
            ):
                return entry
        return None


def _key(entry: SpdEntry) -> tuple[object, ...]:
    return (
        entry.direction,
        entry.family,
        entry.source,
        entry.destination,
        entry.source_port,
        entry.source_port_mask,
        entry.destination_port,
        entry.destination_port_mask,
        entry.context,
    )


def _matches(entry: SpdEntry, flow: Flow) -> bool:
    return (
        (entry.direction, entry.family) == (flow.direction, flow.family)
        and entry.source in ("", flow.source)
        and entry.destination in ("", flow.destination)
        and (flow.source_port ^ entry.source_port) & entry.source_port_mask == 0
        and (flow.destination_port ^ entry.destination_port) & entry.destination_port_mask == 0
    )


def _as_read(index: int, entry: SpdEntry) -> SpdEntry:
    if entry in BLOCK_ENTRIES or entry.reqid is not None:
        return entry
    what = "block" if entry.block else "allow"
    return replace(entry, foreign=f"{what}, priority {entry.priority}, index {index}")


def _in_the_way(entry: SpdEntry) -> bool:
    """It matches packets between two ports of the block, before or beside the guard's entries."""

    def overlaps(port: int, mask: int) -> bool:
        return (port ^ PORT_BLOCK_FIRST) & mask & PORT_BLOCK_MASK == 0

    return (
        entry.priority <= GUARD_PRIORITY
        and overlaps(entry.source_port, entry.source_port_mask)
        and overlaps(entry.destination_port, entry.destination_port_mask)
    )
