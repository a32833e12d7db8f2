"""Virtual time: an event loop that never waits, and the clock of one host on it.

Whoever sleeps, waits for a timer or sets a timeout does so on the loop's time. When nothing is left to run, the loop
sets its time to the next timer instead of waiting for it, so an hour of leases passes in milliseconds and in the same
order every time. There is no input or output from outside on such a loop: where nothing can ever happen again, it says
so instead of hanging.
"""

import asyncio
import contextlib
import selectors
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeVar

from shamon_host.domain.errors import ShamonError

T = TypeVar("T")

_FIRST_BOOTTIME_S = 1000.0
_FIRST_WALL_S = 1_700_000_000.0


class DeadlockError(ShamonError):
    """Every task waits for something that no other task, timer or file can bring: a deadlock in the program."""


class _AdvancingSelector(selectors.BaseSelector):
    """A selector that, where it would have to wait, moves the loop's time instead."""

    def __init__(self) -> None:
        self._real = selectors.DefaultSelector()
        self.now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = self._real.select(0)
        if events or (timeout is not None and timeout <= 0):
            return events
        if timeout is None:
            raise DeadlockError("the loop waits for ever", expected="a timer, or a task that is ready to run")
        self.now_s += timeout
        return events

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._real.unregister(fileobj)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.modify(fileobj, events, data)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._real.get_map()

    def close(self) -> None:
        self._real.close()


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop whose time starts at 0 and jumps from timer to timer.

    Work for an executor runs at once, in the loop's own thread: it takes no virtual time, and the order of things stays
    the same from run to run.
    """

    def __init__(self) -> None:
        self._advancing = _AdvancingSelector()
        super().__init__(self._advancing)

    def time(self) -> float:
        return self._advancing.now_s

    def run_in_executor(  # type: ignore[override]
        self, executor: object, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        future: asyncio.Future[T] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 - it belongs to whoever awaits the future
            future.set_exception(error)
        return future


class VirtualClock:
    """`daemon.ports.Clock` of one host on a `VirtualTimeLoop`. Hosts may have clocks of their own on one loop.

    Outside a running loop it shows the time that it showed last.
    """

    def __init__(self, *, boottime_s: float = _FIRST_BOOTTIME_S, wall_s: float = _FIRST_WALL_S) -> None:
        """The clock shows these times when the loop's time is 0."""
        self._boottime_at_zero_s = boottime_s
        self._wall_at_zero_s = wall_s
        self._seen_s = 0.0

    def boottime_s(self) -> float:
        return self._boottime_at_zero_s + self._loop_s()

    def wall_s(self) -> float:
        return self._wall_at_zero_s + self._loop_s()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def step(self, seconds: float) -> None:
        """Step the wall clock, backwards where `seconds` is negative. CLOCK_BOOTTIME goes on as before."""
        self._wall_at_zero_s += seconds

    def reboot(self) -> None:
        """The host boots again: its CLOCK_BOOTTIME starts anew at 0."""
        self._boottime_at_zero_s = -self._loop_s()

    def _loop_s(self) -> float:
        with contextlib.suppress(RuntimeError):
            self._seen_s = asyncio.get_running_loop().time()
        return self._seen_s


def run_virtual(main: Coroutine[Any, Any, T]) -> T:
    """Run `main` on a loop of its own in virtual time, cancel what is left over, and return what `main` returned."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main)
