"""The filters that the daemon asked for last, on a clock: their windows get shorter while they are kept."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from shamon_host.links.tap_filter import TapFilter, check_devices


@dataclass(kw_only=True)
class ToldFilters:
    """Nothing is known until `tell` is called: a daemon that starts leaves alone what an earlier run set."""

    _filters: dict[str, TapFilter] | None = field(default=None, repr=False)
    _told_s: float = 0.0

    def tell(self, filters: Mapping[str, TapFilter], now_s: float) -> None:
        """Tap → filter, all of them; windows count from `now_s`, seconds on a clock that no one sets. Raises BadInput
        for a filter under another tap's name; what was told before stays then."""
        check_devices(filters)
        self._filters, self._told_s = dict(filters), now_s

    def at(self, now_s: float) -> Mapping[str, TapFilter] | None:
        """The same with what is left of each window at `now_s`, or None."""
        if self._filters is None:
            return None
        passed_s = now_s - self._told_s
        return {
            tap: limits if limits.open_s is None else replace(limits, open_s=max(0.0, limits.open_s - passed_s))
            for tap, limits in self._filters.items()
        }
