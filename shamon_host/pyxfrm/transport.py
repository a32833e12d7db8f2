"""The netlink sockets: opened by pyroute2's netlink core, written and read here.

The core's `AsyncNetlinkSocket` knows how to open a netlink socket in a network namespace, with buffers and extended
ACKs set up. Its event loop is not used: the kernel carries an XFRM request out inside `send`, so an answer is there
at once and a blocking read with a limit serves threads and event loops alike, while pyroute2's synchronous wrapper
cannot be called where an event loop is running.

This is the only module of the package that imports pyroute2.
"""

import errno
import socket
import threading
from collections.abc import Iterator, Sequence

from pyroute2.netlink.nlsocket import AsyncNetlinkSocket

from .constants import NETLINK_XFRM, NLMSG_DONE, NLMSG_ERROR, NLMSG_NOOP, NLMSG_OVERRUN, Group, NetlinkFlag
from .errors import XfrmError, malformed
from .framing import Frame, answer_error, iterate_frames, pack_frame

ANSWER_LIMIT_S = 5.0
"""How long the kernel may take for one answer; it holds a mutex per namespace, nothing else delays it."""
DATAGRAM_MAX = 1 << 16
"""Bytes: twice what the kernel puts into one datagram of a dump."""
BATCH_MAX = 256
"""Requests per datagram: their ACKs must fit into the receive buffer."""
DUMP_ATTEMPTS = 5
_SOL_NETLINK = 270
_NETLINK_ADD_MEMBERSHIP = 1
_NETLINK_CAP_ACK = 10


def open_socket(*, netns: str | None = None, groups: Sequence[Group] = ()) -> socket.socket:
    """A bound NETLINK_XFRM socket, in the namespace of that name or path (None: the process's own).

    Raises XfrmError: EPROTONOSUPPORT if the kernel has no XFRM_USER, EPERM without CAP_NET_ADMIN, ENOENT for an
    unknown namespace.
    """
    try:
        # flags=0: without it the core would create a namespace that does not exist.
        opened = AsyncNetlinkSocket(family=NETLINK_XFRM, netns=netns, ext_ack=True, flags=0).setup_socket()
    except OSError as error:
        raise _socket_error("open a socket", error) from None
    try:
        # Errors come without the request's own body, which may hold a key.
        opened.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
        opened.bind((0, 0))
        for group in groups:
            opened.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, group)
    except OSError as error:
        opened.close()
        raise _socket_error("set up a socket", error) from None
    assert isinstance(opened, socket.socket)
    return opened


def _socket_error(operation: str, error: OSError) -> XfrmError:
    return XfrmError(operation=operation, errno=error.errno or errno.EIO, detail=error.strerror or "")


class Channel:
    """Requests and their answers on one socket. Safe to share between threads; one request at a time."""

    def __init__(self, *, netns: str | None = None) -> None:
        self._socket = open_socket(netns=netns)
        self._socket.settimeout(ANSWER_LIMIT_S)
        self._lock = threading.Lock()
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()

    def request(self, kind: int, body: bytes, *, operation: str) -> list[Frame]:
        """One request. Returns what the kernel said before its ACK; raises XfrmError if it refused."""
        with self._lock:
            sequence = self._next_sequence()
            wanted = NetlinkFlag.REQUEST | NetlinkFlag.ACK
            self._send(pack_frame(kind=kind, flags=wanted, sequence=sequence, body=body), operation)
            answers: list[Frame] = []
            for frame in self._answers(range(sequence, sequence + 1), operation):
                if frame.type == NLMSG_ERROR:
                    if (error := answer_error(frame, operation)) is not None:
                        raise error
                    return answers
                answers.append(frame)
        raise AssertionError("unreachable")

    def batch(self, requests: Sequence[tuple[int, bytes, str]]) -> list[XfrmError | None]:
        """Many (type, body, operation) in as few datagrams as possible: None for each that was done, or its error.

        The kernel goes through all of them whatever becomes of one.
        """
        outcomes: list[XfrmError | None] = []
        with self._lock:
            for start in range(0, len(requests), BATCH_MAX):
                outcomes += self._batch(requests[start : start + BATCH_MAX])
        return outcomes

    def _batch(self, requests: Sequence[tuple[int, bytes, str]]) -> list[XfrmError | None]:
        sequences = [self._next_sequence() for _ in requests]
        flags = NetlinkFlag.REQUEST | NetlinkFlag.ACK
        self._send(
            b"".join(
                pack_frame(kind=kind, flags=flags, sequence=sequence, body=body)
                for (kind, body, _), sequence in zip(requests, sequences, strict=True)
            ),
            requests[0][2],
        )
        waiting = dict(zip(sequences, range(len(requests)), strict=True))
        outcomes: list[XfrmError | None] = [None] * len(requests)
        for frame in self._answers(waiting, "batch"):
            if frame.type == NLMSG_ERROR:
                place = waiting.pop(frame.sequence)
                outcomes[place] = answer_error(frame, requests[place][2])
            if not waiting:
                return outcomes
        raise AssertionError("unreachable")

    def dump(self, kind: int, *, operation: str) -> list[Frame]:
        """All objects. Starts over if the kernel says that they changed meanwhile, then raises XfrmError EINTR."""
        with self._lock:
            for _ in range(DUMP_ATTEMPTS):
                frames, whole = self._dump(kind, operation)
                if whole:
                    return frames
        raise XfrmError(operation=operation, errno=errno.EINTR, detail="changed during every attempt to read it")

    def _dump(self, kind: int, operation: str) -> tuple[list[Frame], bool]:
        sequence = self._next_sequence()
        self._send(
            pack_frame(kind=kind, flags=NetlinkFlag.REQUEST | NetlinkFlag.DUMP, sequence=sequence, body=b""), operation
        )
        frames: list[Frame] = []
        whole = True
        for frame in self._answers(range(sequence, sequence + 1), operation):
            whole = whole and not frame.flags & NetlinkFlag.DUMP_INTERRUPTED
            if frame.type in (NLMSG_ERROR, NLMSG_DONE):
                if (error := answer_error(frame, operation)) is not None:
                    raise error
                return frames, whole
            frames.append(frame)
        raise AssertionError("unreachable")

    def _next_sequence(self) -> int:
        # 0 is what the kernel puts into messages of its own accord.
        self._sequence = self._sequence % 0xFFFFFFFE + 1
        return self._sequence

    def _send(self, datagram: bytes, operation: str) -> None:
        try:
            self._socket.send(datagram)
        except OSError as error:
            raise _socket_error(operation, error) from None

    def _answers(self, sequences: Sequence[int] | dict[int, int], operation: str) -> Iterator[Frame]:
        """Frames from the kernel with one of the sequence numbers; leftovers of a request given up are passed over."""
        while True:
            for frame in iterate_frames(self._receive(operation)):
                if frame.sequence in sequences and frame.type not in (NLMSG_NOOP, NLMSG_OVERRUN):
                    yield frame

    def _receive(self, operation: str) -> bytes:
        while True:
            try:
                datagram, _, flags, sender = self._socket.recvmsg(DATAGRAM_MAX)
            except TimeoutError:
                raise XfrmError(
                    operation=operation, errno=errno.ETIMEDOUT, detail=f"no answer within {ANSWER_LIMIT_S} s"
                ) from None
            except OSError as error:
                raise _socket_error(operation, error) from None
            if sender[0] != 0:
                continue  # from a process, not from the kernel
            if flags & socket.MSG_TRUNC:
                raise malformed(operation, f"an answer of more than {DATAGRAM_MAX} bytes")
            return datagram
