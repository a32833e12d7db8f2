"""Work that outlives the call that started it: it ends with the daemon, and where it fails, the daemon ends with it.

A reaction to a failed peer, or cutting that peer off, must not depend on the handshake that asked for it, which may
run out of time meanwhile. A failure here means that something could not be written down or done that has to be; a
daemon that went on without it would only seem to protect.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Background:
    """Tasks of one daemon, in its event loop."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._to_finish: set[asyncio.Task[Any]] = set()
        self._failures: asyncio.Queue[BaseException] = asyncio.Queue()

    def spawn(self, work: Coroutine[Any, Any, T], name: str, *, finish: bool = False) -> asyncio.Task[T]:
        """Start `work`. With `finish`, `close` waits for its end instead of cancelling it."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        tasks = self._to_finish if finish else self._tasks
        tasks.add(task)

        def ended(done: asyncio.Task[T]) -> None:
            tasks.discard(done)
            if not done.cancelled() and (error := done.exception()) is not None:
                self._failures.put_nowait(error)

        task.add_done_callback(ended)
        return task

    async def run(self) -> None:
        """Watch over the work until cancelled, which ends it. Raises what the first piece that failed raised."""
        try:
            raise await self._failures.get()
        finally:
            await self.close()

    async def close(self) -> None:
        """Cancel what may be cancelled, and return when nothing runs any more."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, *self._to_finish, return_exceptions=True)
