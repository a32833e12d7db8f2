"""What is sent for requests and what is made of the datagrams that come back, without a socket.

A channel sends `datagram`, then gives each datagram of the kernel to `feed` until that says it is the last. Answers are
known by their sequence number; those of a request that was given up are passed over.
"""

import errno
import struct
from collections.abc import Iterator, Sequence
from typing import Any

from .constants import NLMSG_DONE, NLMSG_ERROR, NLMSG_NOOP, NLMSG_OVERRUN, NetlinkFlag
from .errors import XfrmError
from .framing import Frame, answer_error, iterate_frames, pack_frame
from .requests import Request

_WANTED = int(NetlinkFlag.REQUEST | NetlinkFlag.ACK)
_INTERRUPTED = int(NetlinkFlag.DUMP_INTERRUPTED)
_HEADER = struct.Struct("=IHHII")
_PADDING = (b"", bytes(3), bytes(2), bytes(1))
SEQUENCE_MAX = 0xFFFFFFFE


class SequenceNumbers:
    """Runs of numbers, none of them 0, which is what the kernel puts into messages of its own accord."""

    def __init__(self) -> None:
        self._next = 1

    def take(self, count: int = 1) -> int:
        """The first of `count` numbers that follow each other."""
        if self._next + count > SEQUENCE_MAX:
            self._next = 1
        first = self._next
        self._next += count
        return first


class OneAnswer:
    """A request, its answers and its ACK."""

    def __init__(self, request: Request[Any], sequence: int) -> None:
        self._request, self._sequence = request, sequence
        self.answers: list[Frame] = []
        self.datagram = pack_frame(
            kind=request.kind, flags=_WANTED | request.flags, sequence=sequence, body=request.body
        )

    def feed(self, datagram: bytes) -> bool:
        """True with the ACK. Raises XfrmError if the kernel refused."""
        for frame in _frames(datagram, self._sequence):
            if frame.type == NLMSG_ERROR:
                if (error := answer_error(frame, self._request.verb)) is not None:
                    raise self._request.failed(error)
                return True
            self.answers.append(frame)
        return False


class Dump:
    """All objects of a kind, in parts. `whole` is False if they changed meanwhile."""

    def __init__(self, request: Request[Any], sequence: int) -> None:
        self._request, self.sequence = request, sequence
        self.frames: list[Frame] = []
        self.whole = True
        self.datagram = pack_frame(
            kind=request.kind, flags=NetlinkFlag.REQUEST | NetlinkFlag.DUMP, sequence=sequence, body=request.body
        )

    def feed(self, datagram: bytes) -> bool:
        """True with the end. Raises XfrmError if the kernel refused."""
        for frame in _frames(datagram, self.sequence):
            self.whole = self.whole and not frame.flags & _INTERRUPTED
            if frame.type in (NLMSG_ERROR, NLMSG_DONE):
                if (error := answer_error(frame, self._request.verb)) is not None:
                    raise self._request.failed(error)
                return True
            self.frames.append(frame)
        return False


class Leftovers:
    """What is still to come of a dump that was given up: the socket takes no other one before its end."""

    datagram = b""

    def __init__(self, sequence: int) -> None:
        self._sequence = sequence

    def feed(self, datagram: bytes) -> bool:
        return any(frame.type in (NLMSG_ERROR, NLMSG_DONE) for frame in _frames(datagram, self._sequence))


class Together:
    """Requests without answers, in one datagram.

    The kernel carries them out in their order whatever becomes of one, and tells each error (netlink_rcv_skb). An ACK
    is asked of the last alone: when it has come, those that no error was told of are done.
    """

    def __init__(self, requests: Sequence[Request[None]], first: int) -> None:
        self._requests, self._first = requests, first
        self._last = first + len(requests) - 1
        self.outcomes: list[XfrmError | None] = [None] * len(requests)
        self._told: set[int] = set()
        self.datagram = _pack_all(requests, first)

    def feed(self, datagram: bytes) -> bool:
        """True with the answer to the last one."""
        for frame in iterate_frames(datagram):
            if frame.type != NLMSG_ERROR or not self._first <= frame.sequence <= self._last:
                continue
            place = frame.sequence - self._first
            self._told.add(place)
            if (error := answer_error(frame, self._requests[place].verb)) is not None:
                self.outcomes[place] = self._requests[place].failed(error)
            if frame.sequence == self._last:
                return True
        return False

    def give_up(self, cause: XfrmError) -> None:
        """Answers were lost: of each request that none came for, it is not known whether it was carried out."""
        for place, request in enumerate(self._requests):
            if place not in self._told:
                self.outcomes[place] = XfrmError(
                    operation=request.operation,
                    errno=cause.errno,
                    detail=f"whether it was carried out is not known: {cause.detail or cause.name}",
                )


def not_sent(requests: Sequence[Request[None]]) -> list[XfrmError | None]:
    """The outcomes of what follows a part of a batch whose answers were lost."""
    return [
        XfrmError(operation=request.operation, errno=errno.ECANCELED, detail="not sent: answers before it were lost")
        for request in requests
    ]


def parts(requests: Sequence[Request[None]], *, most: int, most_bytes: int) -> Iterator[Sequence[Request[None]]]:
    """Of at most `most` requests and, unless it is a single one, `most_bytes` bytes."""
    start = size = 0
    for place, request in enumerate(requests):
        length = _HEADER.size + len(request.body) + 3
        if place > start and (place - start == most or size + length > most_bytes):
            yield requests[start:place]
            start, size = place, 0
        size += length
    if start < len(requests):
        yield requests[start:]


def _pack_all(requests: Sequence[Request[None]], first: int) -> bytes:
    pieces: list[bytes] = []
    quiet, last = int(NetlinkFlag.REQUEST), len(requests) - 1
    for place, request in enumerate(requests):
        body = request.body
        padding = _PADDING[len(body) & 3]
        flags = quiet | request.flags if place < last else _WANTED | request.flags
        pieces.append(_HEADER.pack(16 + len(body) + len(padding), request.kind, flags, first + place, 0))
        pieces.append(body)
        pieces.append(padding)
    return b"".join(pieces)


def _frames(datagram: bytes, sequence: int) -> Iterator[Frame]:
    for frame in iterate_frames(datagram):
        if frame.sequence == sequence and frame.type not in (NLMSG_NOOP, NLMSG_OVERRUN):
            yield frame
