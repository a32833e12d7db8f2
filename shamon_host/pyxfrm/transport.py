"""The netlink sockets: opened by pyroute2's netlink core, written and read here.

The core's `AsyncNetlinkSocket` knows how to open a netlink socket in a network namespace, with buffers and extended
ACKs set up. Its event loop is not used: the kernel carries an XFRM request out inside `send`, so an answer is there
at once. A thread reads it with a limit, a coroutine through its own loop (`async_transport`), while pyroute2's
synchronous wrapper cannot be called where an event loop is running, and its core's protocol is at an end after one full
receive buffer.

This is the only module of the package that imports pyroute2.
"""

import errno
import fcntl
import os
import socket
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from pyroute2 import netns as pyroute2_netns
from pyroute2.netlink.nlsocket import AsyncNetlinkSocket

from .constants import NETLINK_XFRM, Group
from .errors import XfrmError, malformed
from .exchange import Dump, Leftovers, OneAnswer, SequenceNumbers, Together, not_sent, parts
from .framing import Frame
from .requests import Request
from .statistics import XFRM_STAT, xfrm_stat

T = TypeVar("T")
Namespace = str | int | None
"""Of a network: a name (`ip netns`), a path, or a file descriptor; None for the process's own."""

ANSWER_LIMIT_S = 5.0
"""How long the kernel may take for one answer; it holds a mutex per namespace, nothing else delays it."""
DATAGRAM_MAX = 1 << 16
"""Bytes: twice what the kernel puts into one datagram of a dump."""
BATCH_MAX = 256
"""Requests per datagram."""
BATCH_BYTES_MAX = 128 << 10
ACK_MAX = 1280
"""Bytes that one answer takes of a receive buffer, the kernel's own accounts included."""
DUMP_ATTEMPTS = 5
_SOL_NETLINK = 270
_NETLINK_ADD_MEMBERSHIP = 1
_NETLINK_CAP_ACK = 10
_SO_RCVBUFFORCE = 33
_SIOCGSKNS = 0x894C
"""A file descriptor of a socket's network namespace (include/uapi/linux/sockios.h)."""


def open_socket(
    *, netns: Namespace = None, groups: Sequence[Group] = (), receive_buffer: int | None = None
) -> socket.socket:
    """A bound NETLINK_XFRM socket, in a namespace. `receive_buffer`: bytes, beyond net.core.rmem_max too.

    Raises XfrmError: EPROTONOSUPPORT if the kernel has no XFRM_USER, EPERM without CAP_NET_ADMIN, ENOENT for an
    unknown namespace.
    """
    try:
        # flags=0: without it the core would create a namespace that does not exist.
        core = AsyncNetlinkSocket(family=NETLINK_XFRM, netns=_namespace_path(netns), ext_ack=True, flags=0)
        opened = core.setup_socket()
    except OSError as error:
        raise socket_error("open a socket", error) from None
    try:
        # Errors come without the request's own body, which may hold a key.
        opened.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
        if receive_buffer is not None:
            opened.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, receive_buffer)
        opened.bind((0, 0))
        for group in groups:
            opened.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, group)
    except OSError as error:
        opened.close()
        raise socket_error("set up a socket", error) from None
    assert isinstance(opened, socket.socket)
    return opened


def _namespace_path(netns: Namespace) -> str | None:
    # The core opens it in a child process, where the number means something else.
    return f"/proc/{os.getpid()}/fd/{netns}" if isinstance(netns, int) else netns


def namespace_statistics(opened: socket.socket) -> dict[str, int]:
    """`xfrm_stat` of the namespace that a socket is in, whatever has become of its name: a thread of its own enters
    it to read the file. Raises XfrmError; EPERM without CAP_SYS_ADMIN."""
    found: list[dict[str, int]] = []
    failed: list[XfrmError] = []

    def read(namespace: int) -> None:
        try:
            pyroute2_netns.setns(namespace, flags=0, fork=False)
            found.append(xfrm_stat(Path("/proc/thread-self/net") / XFRM_STAT.name))
        except OSError as error:
            failed.append(socket_error("enter a network namespace", error))
        except XfrmError as error:
            failed.append(error)

    try:
        namespace = fcntl.ioctl(opened.fileno(), _SIOCGSKNS)
    except OSError as error:
        raise socket_error("find a socket's network namespace", error) from None
    try:
        reader = threading.Thread(target=read, args=(namespace,), name="xfrm_stat")
        reader.start()
        reader.join()
    finally:
        os.close(namespace)
    if failed:
        raise failed[0]
    return found[0]


def socket_error(operation: str, error: OSError) -> XfrmError:
    """The socket's error in words."""
    if isinstance(error, TimeoutError):
        return XfrmError(operation=operation, errno=errno.ETIMEDOUT, detail=f"no answer within {ANSWER_LIMIT_S} s")
    return XfrmError(operation=operation, errno=error.errno or errno.EIO, detail=error.strerror or "")


def batch_size(opened: socket.socket) -> int:
    """How many requests may be answered at once, so that the receive buffer holds all answers."""
    try:
        size = opened.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    except OSError as error:
        raise socket_error("set up a socket", error) from None
    return max(1, min(BATCH_MAX, size // ACK_MAX))


def changed_meanwhile(operation: str) -> XfrmError:
    return XfrmError(operation=operation, errno=errno.EINTR, detail="changed during every attempt to read it")


class Channel:
    """Requests and their answers on one socket. Safe to share between threads; one request at a time."""

    def __init__(self, *, netns: Namespace = None) -> None:
        self._socket = open_socket(netns=netns)
        self._batch_size = batch_size(self._socket)
        self._socket.settimeout(ANSWER_LIMIT_S)
        self._lock = threading.Lock()
        self._numbers = SequenceNumbers()
        self._unfinished: int | None = None

    def close(self) -> None:
        self._socket.close()

    def statistics(self) -> dict[str, int]:
        """As `namespace_statistics`."""
        return namespace_statistics(self._socket)

    def call(self, request: Request[T]) -> T:
        """One request. Raises XfrmError if the kernel refused, or its answer is none."""
        with self._lock:
            exchange = OneAnswer(request, self._numbers.take())
            self._run(exchange, request)
        return request.result(exchange.answers)

    def batch(self, requests: Sequence[Request[None]]) -> list[XfrmError | None]:
        """Many requests in as few datagrams as possible: None for each that was done, or its error.

        Never raises: an error of the socket is the error of each request that it leaves in doubt.
        """
        outcomes: list[XfrmError | None] = []
        with self._lock:
            for part in parts(requests, most=self._batch_size, most_bytes=BATCH_BYTES_MAX):
                exchange = Together(part, self._numbers.take(len(part)))
                try:
                    self._run(exchange, part[0])
                except XfrmError as error:
                    exchange.give_up(error)
                    outcomes += exchange.outcomes
                    return outcomes + not_sent(requests[len(outcomes) :])
                outcomes += exchange.outcomes
        return outcomes

    def dump(self, request: Request[Any]) -> list[Frame]:
        """All objects. Starts over if the kernel says that they changed meanwhile, then raises XfrmError EINTR."""
        with self._lock:
            for _ in range(DUMP_ATTEMPTS):
                if self._unfinished is not None:
                    self._run(Leftovers(self._unfinished), request)
                exchange = Dump(request, self._numbers.take())
                self._unfinished = exchange.sequence
                self._run(exchange, request)
                self._unfinished = None
                if exchange.whole:
                    return exchange.frames
        raise changed_meanwhile(request.operation)

    def _run(self, exchange: OneAnswer | Together | Dump | Leftovers, request: Request[Any]) -> None:
        try:
            if exchange.datagram:
                self._socket.send(exchange.datagram)
            while not exchange.feed(self._receive(request)):
                pass
        except OSError as error:
            raise socket_error(request.operation, error) from None

    def _receive(self, request: Request[Any]) -> bytes:
        while True:
            datagram, _, flags, sender = self._socket.recvmsg(DATAGRAM_MAX)
            if sender[0] != 0:
                continue  # from a process, not from the kernel
            if flags & socket.MSG_TRUNC:
                raise malformed(request.operation, f"an answer of more than {DATAGRAM_MAX} bytes")
            return datagram
