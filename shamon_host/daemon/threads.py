"""Calls of libraries that block, off the event loop."""

import asyncio
from collections.abc import Callable
from contextlib import suppress

from shamon_host.daemon.ports import T


async def in_thread(call: Callable[[], T], /) -> T:
    """`daemon.ports.Blocking` on the loop's threads.

    A call that has begun cannot be taken back, so it is waited for even when whoever asked is cancelled: what is done
    about the cancellation (a handshake undone, links closed) must come after it, not beside it.
    """
    running = asyncio.ensure_future(asyncio.to_thread(call))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        while not running.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait({running})
        if not running.cancelled():
            running.exception()  # seen: nobody asks for it any more
        raise
