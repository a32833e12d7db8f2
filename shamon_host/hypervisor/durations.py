"""How long the parts of one action took, for the audit log and for people."""

import time
from collections.abc import Callable


class Laps:
    """Begins when it is made; each part ends where it is told of. Measured with a monotonic clock."""

    def __init__(self) -> None:
        self._began = self._last = time.perf_counter()
        self.parts_ms: dict[str, float] = {}
        """Name of the part → milliseconds, in order."""

    def lap(self, name: str) -> None:
        """This part ends now."""
        now = time.perf_counter()
        self.parts_ms[name] = round((now - self._last) * 1000, 3)
        self._last = now

    @property
    def total_ms(self) -> float:
        """Until the end of the last part."""
        return round((self._last - self._began) * 1000, 3)


Measured = Callable[[str, float], None]
"""Told what took how many milliseconds."""


def unmeasured(_what: str, _ms: float) -> None:
    """Nobody wants to know."""
