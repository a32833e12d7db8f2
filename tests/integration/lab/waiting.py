"""Waiting with a limit, and measuring how long things took."""

import time
from collections.abc import Callable
from typing import TypeVar

from tests.integration.lab.errors import LabError

Found = TypeVar("Found")


def wait_until(look: Callable[[], Found], *, timeout_s: float, what: str, every_s: float = 0.5) -> Found:
    """Call `look` until it returns something true, and return that.

    Raises:
        LabError: `timeout_s` passed first; the message names `what` and the last thing `look` returned.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() >= deadline:
            raise LabError(f"{what}: not within {timeout_s:.0f} s; last answer {found!r}")
        time.sleep(every_s)


class Stopwatch:
    """Milliseconds since it was made."""

    def __init__(self) -> None:
        self._started = time.monotonic()

    @property
    def elapsed_ms(self) -> float:
        """Milliseconds since this stopwatch was made."""
        return (time.monotonic() - self._started) * 1000
