"""Streams through passages of hosts in memory: what is sent crosses the `MemoryWire` as packets of the link's type, and
is there at once, or never.

Where a real stream would wait, one of these fails: nothing can come while somebody waits for it.
"""

import socket
import struct
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field

from shamon_host.domain.errors import BackendFailed
from shamon_host.links.model import Passage
from shamon_host.testing.kernel import MemoryKernel

_HEADER = struct.Struct(">IB")
"""Number of the stream, what this is."""
_OPEN, _DATA, _END, _REFUSED = range(4)
_PIECE = 1200


class MemoryStream:
    """`domain.streams.Stream`."""

    def __init__(self, side: "_Side", number: int) -> None:
        self._side, self._number = side, number
        self._came: deque[bytes] = deque()
        self._ended = False
        self._closed = False
        self._finished = False

    def recv(self, most: int, /) -> bytes:
        if self._closed:
            raise OSError("the stream is closed")
        if self._came:
            data = self._came.popleft()
            if len(data) > most:
                self._came.appendleft(data[most:])
            return data[:most]
        if self._ended:
            return b""
        raise TimeoutError("nothing came")

    def sendall(self, data: bytes, /) -> None:
        if self._closed or self._finished:
            raise OSError("the stream is closed")
        for offset in range(0, len(data), _PIECE):
            self._side.send(self._number, _DATA, data[offset : offset + _PIECE])

    def settimeout(self, seconds: float | None, /) -> None:
        """Nothing waits here."""

    def shutdown(self, how: int, /) -> None:
        if how in (socket.SHUT_WR, socket.SHUT_RDWR) and not self._finished:
            self._finished = True
            self._side.send(self._number, _END, b"")

    def close(self) -> None:
        if not self._closed:
            with suppress(OSError):
                self.shutdown(socket.SHUT_RDWR)
            self._closed = True

    def came(self, what: int, data: bytes) -> None:
        """From the other end."""
        if what == _DATA:
            self._came.append(data)
        else:
            self._ended = True


@dataclass(kw_only=True)
class _Side:
    """One end of a passage."""

    kernel: MemoryKernel
    passage: Passage
    streams: dict[int, MemoryStream] = field(default_factory=dict)
    waiting: deque[MemoryStream] = field(default_factory=deque)
    listens: bool = False

    def send(self, number: int, what: int, data: bytes) -> None:
        if not self.kernel.send_in_passage(self.passage.local_port, _HEADER.pack(number, what) + data):
            raise TimeoutError("what was sent is not acknowledged")

    def receive(self, packet: bytes) -> None:
        number, what = _HEADER.unpack_from(packet)
        if what == _OPEN:
            if not self.listens:
                self.send(number, _REFUSED, b"")
                return
            self.streams[number] = stream = MemoryStream(self, number)
            self.waiting.append(stream)
        elif number in self.streams:
            self.streams[number].came(what, packet[_HEADER.size :])


@dataclass(kw_only=True)
class MemoryListener:
    """`links.ports.PassageListener`."""

    _side: _Side

    def accept(self, timeout_s: float) -> MemoryStream:
        if not self._side.waiting:
            raise BackendFailed("nobody connects through the passage", where=self._side.passage.interface)
        return self._side.waiting.popleft()

    def close(self) -> None:
        self._side.listens = False


@dataclass(kw_only=True)
class MemoryPassageStreams:
    """`links.ports.PassageStreams` of one host."""

    kernel: MemoryKernel
    _sides: dict[int, _Side] = field(default_factory=dict)

    def listen(self, passage: Passage) -> MemoryListener:
        side = self._side(passage)
        side.listens = True
        return MemoryListener(_side=side)

    def connect(self, passage: Passage, timeout_s: float) -> MemoryStream:
        side = self._side(passage)
        number = len(side.streams) + 1
        side.streams[number] = stream = MemoryStream(side, number)
        try:
            side.send(number, _OPEN, b"")
        except OSError as error:
            raise self._unreachable(passage, str(error)) from None
        if stream._ended:
            raise self._unreachable(passage, "refused")
        return stream

    def _side(self, passage: Passage) -> _Side:
        """A passage that was closed and opened again begins anew."""
        side = self._sides.get(passage.local_port)
        if side is None or not self.kernel.is_attached(passage, side.receive):
            side = self._sides[passage.local_port] = _Side(kernel=self.kernel, passage=passage)
            self.kernel.attach_passage(passage.local_port, side.receive)
        return side

    @staticmethod
    def _unreachable(passage: Passage, found: str) -> BackendFailed:
        return BackendFailed(
            "the other host cannot be reached through the passage", where=passage.interface, found=found
        )
