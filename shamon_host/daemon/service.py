"""The daemon's life as a service: start, listen, run until asked to end, stop. `composition` gives it real backends.

Whatever goes wrong on the way, and whenever the end is asked for, `stop` comes last and closes the links; what went
wrong leaves here as one error in plain words.
"""

import asyncio
import fcntl
import os
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path
from typing import Any

from shamon_host.daemon.host_daemon import HostDaemon
from shamon_host.domain.errors import BackendFailed, Refused, ShamonError

Listeners = Callable[[], AbstractAsyncContextManager[object]]
"""Open what peers and people connect to; leaving closes it."""


async def live(daemon: HostDaemon, listeners: Listeners, asked: asyncio.Event) -> None:
    """Return when the end was `asked` for and the daemon is stopped. Raises ShamonError for what ended it before."""
    try:
        try:
            if await _unless(asked, daemon.start(), "start"):
                async with listeners():
                    daemon.backends.service_manager.ready()
                    await _unless(asked, daemon.run(), "daemon")
        finally:
            await daemon.stop()
    except BaseExceptionGroup as group:
        raise plain_error(group) from group


def plain_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one error to tell a person; the group itself when it holds a mistake of this program."""
    leaves = list(_leaves(group))
    errors = [error for error in leaves if isinstance(error, ShamonError)]
    return errors[0] if len(errors) == len(leaves) else group


@contextmanager
def only_one(lock: Path) -> Iterator[None]:
    """Hold the lock file that one daemon of a host holds. Raises Refused when another one has it, BackendFailed."""
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise BackendFailed("cannot lock the daemon's state", where=str(lock), found=error.strerror or "") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise Refused(
                "another daemon runs on this host",
                where=str(lock),
                remedy="Two would undo each other's work: stop the other one first (`systemctl stop shamon`).",
            ) from error
        yield
    finally:
        os.close(descriptor)


async def _unless(asked: asyncio.Event, work: Coroutine[Any, Any, None], name: str) -> bool:
    """Run `work` to its end, or until `asked`; True iff it ended by itself. Raises what it raises."""
    running = asyncio.create_task(work, name=name)
    waiting = asyncio.create_task(asked.wait(), name="the end")
    try:
        await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            running.result()
            return True
        return False
    finally:
        for task in (running, waiting):
            task.cancel()
        await asyncio.gather(running, waiting, return_exceptions=True)


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error
