"""TCP through passages, bound to their devices: the guard lets nothing else through them (`linux_nft`).

An end that dies, or a gate that closes, says nothing. So a stream that is silent is asked for life, and what is not
acknowledged in time ends it.
"""

import contextlib
import socket

from shamon_host.domain.errors import BackendFailed
from shamon_host.links.model import PASSAGE_TCP_PORT, Passage

_BACKLOG = 2
_IDLE_S, _PROBE_S, _PROBES = 5, 3, 5
_UNACKNOWLEDGED_MS = 30_000


class LinuxPassageListener:
    """`ports.PassageListener`."""

    def __init__(self, opened: socket.socket, where: str) -> None:
        self._socket, self._where = opened, where

    def accept(self, timeout_s: float) -> socket.socket:
        try:
            self._socket.settimeout(timeout_s)
            accepted, _ = self._socket.accept()
        except OSError as error:
            raise BackendFailed("nobody connects through the passage", where=self._where, found=str(error)) from None
        return _watched(accepted)

    def close(self) -> None:
        with contextlib.suppress(OSError):  # wakes whoever waits for a connection
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


class LinuxPassageStreams:
    """`ports.PassageStreams`."""

    def listen(self, passage: Passage) -> LinuxPassageListener:
        opened = _opened(passage)
        try:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            opened.bind((passage.address, PASSAGE_TCP_PORT, 0, _index(passage)))
            opened.listen(_BACKLOG)
        except OSError as error:
            opened.close()
            raise BackendFailed("cannot listen in the passage", where=passage.interface, found=str(error)) from None
        return LinuxPassageListener(opened, passage.interface)

    def connect(self, passage: Passage, timeout_s: float) -> socket.socket:
        opened = _opened(passage)
        try:
            opened.settimeout(timeout_s)
            opened.bind((passage.address, 0, 0, _index(passage)))
            opened.connect((passage.peer_address, PASSAGE_TCP_PORT, 0, _index(passage)))
        except OSError as error:
            opened.close()
            raise BackendFailed(
                "the other host cannot be reached through the passage", where=passage.interface, found=str(error)
            ) from None
        return _watched(opened)


def _opened(passage: Passage) -> socket.socket:
    try:
        return socket.socket(socket.AF_INET6, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    except OSError as error:
        raise BackendFailed("no socket for the passage", where=passage.interface, found=str(error)) from None


def _index(passage: Passage) -> int:
    """Raises OSError where the device is gone."""
    return socket.if_nametoindex(passage.interface)


def _watched(stream: socket.socket) -> socket.socket:
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _IDLE_S)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _PROBE_S)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _PROBES)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNACKNOWLEDGED_MS)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return stream
