"""`XfrmMonitor`: the kernel's notifications, from a socket of their own.

Of its own, because a notification carries the sequence number of the request that caused it and would be mistaken for
the answer. Use it as an asynchronous iterator, or give `fileno()` to a selector and call `read()` when it is readable.
"""

import asyncio
import errno
from collections.abc import AsyncIterator, Iterator, Sequence
from types import TracebackType
from typing import Self

from .constants import NLMSG_DONE, NLMSG_ERROR, NLMSG_NOOP, NLMSG_OVERRUN, Group
from .errors import XfrmError
from .events import Event, Lost, decode_event
from .framing import iterate_frames
from .transport import DATAGRAM_MAX, Namespace, open_socket

_CONTROL = (NLMSG_NOOP, NLMSG_ERROR, NLMSG_DONE, NLMSG_OVERRUN)


class XfrmMonitor:
    """Subscribed from the moment it is made. Raises XfrmError as `Xfrm` does. `receive_buffer`: bytes that may wait;
    what finds it full is lost, and that is told."""

    def __init__(
        self,
        groups: Sequence[Group] = (Group.ACQUIRE, Group.EXPIRE),
        *,
        netns: Namespace = None,
        receive_buffer: int | None = None,
    ) -> None:
        self._socket = open_socket(netns=netns, groups=groups, receive_buffer=receive_buffer)
        self._socket.setblocking(False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def fileno(self) -> int:
        """Readable when there are events."""
        return self._socket.fileno()

    def close(self) -> None:
        """Cancel a task that iterates first."""
        self._socket.close()

    def read(self) -> tuple[Event, ...]:
        """All events that are there, without waiting; () if none. Never raises for what the kernel says: what was lost
        or is not understood becomes a `Lost`."""
        events: list[Event] = []
        while True:
            try:
                datagram, sender = self._socket.recvfrom(DATAGRAM_MAX)
            except BlockingIOError:
                return tuple(events)
            except OSError as error:
                events.append(_lost(error))
            else:
                events.extend(_events(datagram, sender))

    async def __aiter__(self) -> AsyncIterator[Event]:
        """Events as they come, without end. Raises XfrmError only if the socket is gone."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                datagram, sender = await loop.sock_recvfrom(self._socket, DATAGRAM_MAX)
            except OSError as error:
                yield _lost(error)
            else:
                for event in _events(datagram, sender):
                    yield event
            await asyncio.sleep(0)  # what is there already is read without a pause, and others would wait for all of it


def _lost(error: OSError) -> Lost:
    """Raises XfrmError for anything but a full receive buffer."""
    if error.errno == errno.ENOBUFS:
        return Lost(reason="the receive buffer was full")
    raise XfrmError(operation="receive events", errno=error.errno or errno.EIO, detail=error.strerror or "") from None


def _events(datagram: bytes, sender: tuple[int, int]) -> Iterator[Event]:
    if sender[0] != 0:
        return  # from a process, not from the kernel
    try:
        for frame in iterate_frames(datagram):
            if frame.type not in _CONTROL:
                yield decode_event(frame)
    except XfrmError as error:
        yield Lost(reason=str(error))
