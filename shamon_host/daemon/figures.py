"""Durations that people ask for: how long a handshake, a quote, a teardown took. Milliseconds, the newest few."""

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median

_KEPT = 256


class Figures:
    """Named series of durations. Measured with a monotonic clock, never with a virtual one."""

    def __init__(self) -> None:
        self._series: dict[str, deque[float]] = {}

    def add(self, name: str, elapsed_ms: float) -> None:
        self._series.setdefault(name, deque(maxlen=_KEPT)).append(elapsed_ms)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the time that the body took, if it did not raise."""
        started = time.perf_counter()
        yield
        self.add(name, (time.perf_counter() - started) * 1000)

    def summary(self) -> dict[str, dict[str, float]]:
        """Name → median, last and count."""
        return {
            name: {"median": round(median(series), 3), "last": round(series[-1], 3), "count": len(series)}
            for name, series in sorted(self._series.items())
        }
