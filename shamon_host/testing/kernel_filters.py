"""Filters of taps in memory: what `TapFilter.permits` says of each frame, windows and rates by the kernel's clock."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from shamon_host.links.tap_filter import BURST_BYTES, TapFilter
from shamon_host.testing.kernel_bridge import ETHERNET_HEADER
from shamon_host.testing.kernel_frames import facts_of


@dataclass(kw_only=True)
class _Held:
    """One tap's. `until_s`: when its window closes. `bytes_left`: in the token bucket of its rate, at `filled_s`."""

    limits: TapFilter
    until_s: float
    bytes_left: float
    filled_s: float
    damaged: bool = False
    spoofed: int = 0
    """Frames that were dropped because they were not the VM's own."""


class MemoryFilters:
    """A table for each tap that has a filter. Timeouts run on CLOCK_BOOTTIME, as nft's do on jiffies."""

    def __init__(self, boottime_s: Callable[[], float]) -> None:
        self._boottime_s = boottime_s
        self._held: dict[str, _Held] = {}

    def set(self, limits: TapFilter) -> None:
        """Its window is rounded down to whole seconds, and its bucket is full."""
        now, before = self._boottime_s(), self._held.get(limits.device)
        self._held[limits.device] = _Held(
            spoofed=before.spoofed if before and not before.damaged and before.limits.own and limits.own else 0,
            limits=limits,
            until_s=now + math.floor(limits.open_s or 0),
            bytes_left=_capacity(limits),
            filled_s=now,
        )

    def clear(self, device: str) -> None:
        self._held.pop(device, None)

    def damage(self, device: str) -> None:
        """A rule is gone: what passes is not what the filter says. Raises ValueError when there is no filter."""
        if device not in self._held:
            raise ValueError(f"{device} has no filter to damage")
        self._held[device].damaged = True

    def flush(self) -> None:
        self._held.clear()

    def read(self) -> dict[str, TapFilter]:
        """Those that are whole, with whole seconds left of their windows."""
        return {
            device: held.limits
            if held.limits.open_s is None
            else replace(held.limits, open_s=float(math.floor(self._left_s(held))))
            for device, held in self._held.items()
            if not held.damaged
        }

    def changed(self) -> dict[str, str]:
        return {device: "a rule is missing" for device, held in self._held.items() if held.damaged}

    def spoofed(self) -> dict[str, int]:
        """Tap → what its filter dropped because it was not the VM's own."""
        return {device: held.spoofed for device, held in self._held.items() if held.limits.own is not None}

    def passes(self, interface: str, frame: bytes, *, from_tap: bool) -> bool:
        """Whether the frame may enter the bridge from this port, or leave it there."""
        held = self._held.get(interface)
        if held is None or held.damaged:
            return True
        limits = held.limits if held.limits.open_s is None else replace(held.limits, open_s=self._left_s(held))
        facts = facts_of(frame, from_tap=from_tap)
        held.spoofed += limits.is_spoofed(facts)
        if not limits.permits(facts):
            return False
        return not from_tap or limits.rate_bytes_s is None or self._take(held, len(frame) - ETHERNET_HEADER)

    def _left_s(self, held: _Held) -> float:
        return max(0.0, held.until_s - self._boottime_s())

    def _take(self, held: _Held, size: int) -> bool:
        """nft_limit: a bucket of a second's bytes and the burst, which fills by the rate."""
        now, rate = self._boottime_s(), held.limits.rate_bytes_s or 0
        held.bytes_left = min(_capacity(held.limits), held.bytes_left + (now - held.filled_s) * rate)
        held.filled_s = now
        if size > held.bytes_left:
            return False
        held.bytes_left -= size
        return True


def _capacity(limits: TapFilter) -> float:
    return (limits.rate_bytes_s or 0) + BURST_BYTES
