"""Filters of VMs' taps in this kernel, set, cleared and read back through the nft program (`linux_filter_rules`)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from shamon_host.domain.errors import BackendFailed
from shamon_host.links.linux_filter_rules import FAMILY, filter_ruleset, filters_of, tables_of
from shamon_host.links.linux_nft import FILTER_TABLE, Nft, Object
from shamon_host.links.tap_filter import TapFilter, checked_device

_SOON_S = 10.0
"""A shorter window may be over when it is read back on a busy host."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TapFilters:
    """The filters in this kernel."""

    nft: Nft

    def set(self, limits: TapFilter) -> None:
        """Put it in the place of what is there for its tap, in one transaction. Raises BackendFailed."""
        listed = tables_of(self.nft.read()).get(limits.device, [])
        new = filter_ruleset(limits)
        clearing = _clearing(limits.device, listed if filters_of(listed)[0] else None, new)
        commands = [*clearing, *({"add": item} for item in new)]
        self.nft.transact(commands, f"set the filter of {limits.device}")
        filters, changed = filters_of(self.nft.read())
        found = filters.get(limits.device)
        if found is None or replace(found, open_s=limits.open_s) != limits or not _is_left(found, limits):
            raise BackendFailed(
                "the filter reads back otherwise",
                where=limits.device,
                expected=str(limits),
                found=changed.get(limits.device, str(found)),
            )

    def clear(self, device: str) -> None:
        """Remove it, or what became of it. No error if there is none. Raises BackendFailed, BadInput."""
        table = {"table": {"family": FAMILY, "name": FILTER_TABLE + checked_device(device)}}
        self.nft.transact([{"add": table}, {"delete": table}], f"clear the filter of {device}")
        filters, changed = filters_of(self.nft.read())
        if device in filters or device in changed:
            raise BackendFailed("the filter is still there", where=device)


def _clearing(device: str, listed: Sequence[Object] | None, new: Sequence[Object]) -> Iterator[Object]:
    """Commands after which the tap's table is there with nothing in the way of a new filter.

    `listed`: the objects of a filter that is whole. Its chains stay at their hooks, for a chain that is made in their
    place could miss a frame that is under way; and so do counters that `new` has too, with their count. Without,
    everything is made anew."""
    table: Object = {"table": {"family": FAMILY, "name": FILTER_TABLE + device}}
    yield {"add": table}
    if listed is None:
        yield {"delete": table}
        return
    yield {"flush": table}
    counters = [item for item in new if "counter" in item]
    for kind in ("chain", "set", "counter"):
        for item in listed:
            if kind in item and "hook" not in item[kind] and not (kind == "counter" and counters):
                yield {"delete": {kind: {key: item[kind][key] for key in ("family", "table", "name")}}}


def _is_left(found: TapFilter, limits: TapFilter) -> bool:
    """The window that was read is the one that was set."""
    if found.open_s is None or limits.open_s is None:
        return found.open_s is limits.open_s
    return found.open_s <= limits.open_s and (found.open_s > 0 or limits.open_s < _SOON_S)
