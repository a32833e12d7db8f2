"""Filters of VMs' taps in this kernel, set, cleared and read back through the nft program (`linux_filter_table`)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from shamon_host.domain.errors import BackendFailed
from shamon_host.links.linux_filter_table import clearing, filters_of, setting
from shamon_host.links.linux_nft import Nft
from shamon_host.links.tap_filter import TapFilter, checked_device

_SOON_S = 10.0
"""A shorter window may be over when it is read back on a busy host."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TapFilters:
    """The filters in this kernel."""

    nft: Nft

    def set(self, *wanted: TapFilter) -> None:
        """Put them in the place of what is there for their taps, all in one transaction. Raises BackendFailed."""
        self.nft.transact(setting(self.nft.read(), *wanted), f"set the filter of {_named(wanted)}")
        filters, changed = filters_of(self.nft.read())
        for limits in {limits.device: limits for limits in wanted}.values():
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
        commands = clearing(self.nft.read(), checked_device(device))
        if not commands:
            return
        self.nft.transact(commands, f"clear the filter of {device}")
        filters, changed = filters_of(self.nft.read())
        if device in filters or device in changed:
            raise BackendFailed("the filter is still there", where=device)


def _named(wanted: Sequence[TapFilter]) -> str:
    first, *rest = [limits.device for limits in wanted]
    return f"{first} and of {len(rest)} more" if rest else first


def _is_left(found: TapFilter, limits: TapFilter) -> bool:
    """The window that was read is the one that was set."""
    if found.open_s is None or limits.open_s is None:
        return found.open_s is limits.open_s
    return found.open_s <= limits.open_s and (found.open_s > 0 or limits.open_s < _SOON_S)
