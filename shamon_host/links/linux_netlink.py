"""Requests over route and generic netlink, each blocking until the kernel has answered.

pyroute2's synchronous calls run an event loop of their own for each request and cannot be used where one runs already;
the kernel carries these requests out inside `send`, so a plain socket serves threads and coroutines alike. Framing is
shared with `pyxfrm`, which has the same one. Sources: rtnetlink(7), include/uapi/linux/{netlink,genetlink}.h.
"""

import errno
import os
import socket
import struct
import sys
import threading
from collections.abc import Iterator

from shamon_host.domain.errors import BackendFailed
from shamon_host.pyxfrm.attributes import attributes, pack_attribute
from shamon_host.pyxfrm.errors import XfrmError
from shamon_host.pyxfrm.framing import Frame, answer_error, iterate_frames, pack_frame

NETLINK_ROUTE = 0
NETLINK_SELINUX = 7
NETLINK_NETFILTER = 12
NETLINK_GENERIC = 16
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP, NLM_F_EXCL, NLM_F_CREATE = 0x1, 0x4, 0x300, 0x200, 0x400
_NLM_F_DUMP_INTERRUPTED = 0x10
NLMSG_ERROR, NLMSG_DONE = 2, 3
DATAGRAM_MAX = 1 << 16
_ANSWER_LIMIT_S = 5.0
_DUMP_ATTEMPTS = 5
_SOL_NETLINK, _CAP_ACK, _EXT_ACK = 270, 10, 11
_CTRL_FAMILY, _CTRL_GETFAMILY, _CTRL_ATTR_ID, _CTRL_ATTR_NAME = 0x10, 3, 1, 2
_GENERIC_HEADER = struct.Struct("=BBH")


class NetlinkError(BackendFailed):
    """The kernel refused. `errno` is positive."""

    def __init__(self, operation: str, code: int, detail: str = "") -> None:
        name = errno.errorcode.get(code, str(code))
        found = f"{name} ({os.strerror(code)})" + (f": {detail}" if detail else "")
        super().__init__("the kernel refused", where=operation, found=found)
        self.errno = code


class Netlink:
    """One socket of a netlink family. Safe to share between threads; one request at a time."""

    def __init__(self, family: int) -> None:
        operation = f"open netlink family {family}"
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, family)
        except OSError as error:
            raise NetlinkError(operation, error.errno or errno.EIO) from None
        try:
            self._socket.bind((0, 0))
            self._socket.setsockopt(_SOL_NETLINK, _CAP_ACK, 1)
            self._socket.setsockopt(_SOL_NETLINK, _EXT_ACK, 1)
            self._socket.settimeout(_ANSWER_LIMIT_S)
        except OSError as error:
            self._socket.close()
            raise NetlinkError(operation, error.errno or errno.EIO) from None
        self._lock = threading.Lock()
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()

    def request(self, kind: int, body: bytes, *, operation: str, flags: int = 0) -> list[bytes]:
        """Bodies of the answers before the ACK. Raises NetlinkError."""
        with self._lock:
            sequence = self._send(kind, NLM_F_REQUEST | NLM_F_ACK | flags, body, operation)
            answers: list[bytes] = []
            for frame in self._frames(sequence, operation):
                if frame.type == NLMSG_ERROR:
                    _raise_if_refused(frame, operation)
                    return answers
                answers.append(frame.body)
        raise AssertionError("unreachable")

    def dump(self, kind: int, body: bytes, *, operation: str) -> list[bytes]:
        """Bodies of all objects; starts over if they changed meanwhile. Raises NetlinkError."""
        with self._lock:
            for _ in range(_DUMP_ATTEMPTS):
                bodies, whole = self._dump(kind, body, operation)
                if whole:
                    return bodies
        raise NetlinkError(operation, errno.EINTR, "it changed during every attempt to read it")

    def _dump(self, kind: int, body: bytes, operation: str) -> tuple[list[bytes], bool]:
        sequence = self._send(kind, NLM_F_REQUEST | NLM_F_DUMP, body, operation)
        bodies: list[bytes] = []
        whole = True
        for frame in self._frames(sequence, operation):
            whole = whole and not frame.flags & _NLM_F_DUMP_INTERRUPTED
            if frame.type in (NLMSG_ERROR, NLMSG_DONE):
                _raise_if_refused(frame, operation)
                return bodies, whole
            bodies.append(frame.body)
        raise AssertionError("unreachable")

    def _send(self, kind: int, flags: int, body: bytes, operation: str) -> int:
        self._sequence = self._sequence % 0xFFFFFFFE + 1
        try:
            self._socket.send(pack_frame(kind=kind, flags=flags, sequence=self._sequence, body=body))
        except OSError as error:
            raise NetlinkError(operation, error.errno or errno.EIO) from None
        return self._sequence

    def _frames(self, sequence: int, operation: str) -> Iterator[Frame]:
        while True:
            try:
                datagram, _, flags, sender = self._socket.recvmsg(DATAGRAM_MAX)
                if sender[0] != 0:
                    continue  # from a process, not from the kernel
                if flags & socket.MSG_TRUNC:
                    raise NetlinkError(operation, errno.EMSGSIZE)
                yield from (frame for frame in iterate_frames(datagram) if frame.sequence == sequence)
            except TimeoutError:
                raise NetlinkError(operation, errno.ETIMEDOUT, f"no answer within {_ANSWER_LIMIT_S} s") from None
            except OSError as error:
                raise NetlinkError(operation, error.errno or errno.EIO) from None
            except XfrmError as error:
                raise NetlinkError(operation, error.errno, error.detail) from None


class GenericNetlink:
    """One generic netlink family, by name. Raises NetlinkError: ENOENT if the kernel has no such family."""

    def __init__(self, name: str, version: int) -> None:
        self._name, self._version = name, version
        self._netlink = Netlink(NETLINK_GENERIC)
        try:
            self._family = self._resolve()
        except NetlinkError:
            self._netlink.close()
            raise

    def close(self) -> None:
        self._netlink.close()

    def request(self, command: int, body: bytes, *, operation: str) -> list[dict[int, bytes]]:
        """The attributes of each object in the answer, [] if it is an acknowledgement alone."""
        header = _GENERIC_HEADER.pack(command, self._version, 0)
        answers = self._netlink.request(self._family, header + body, operation=operation)
        return [parse(answer, _GENERIC_HEADER.size, operation) for answer in answers]

    def dump(self, command: int, *, operation: str) -> list[dict[int, bytes]]:
        """The attributes of each object."""
        header = _GENERIC_HEADER.pack(command, self._version, 0)
        bodies = self._netlink.dump(self._family, header, operation=operation)
        return [parse(body, _GENERIC_HEADER.size, operation) for body in bodies]

    def _resolve(self) -> int:
        operation = f"find netlink family {self._name}"
        body = _GENERIC_HEADER.pack(_CTRL_GETFAMILY, 2, 0) + pack_text(_CTRL_ATTR_NAME, self._name)
        answers = self._netlink.request(_CTRL_FAMILY, body, operation=operation)
        found = parse(answers[0], _GENERIC_HEADER.size, operation) if answers else {}
        if len(number := found.get(_CTRL_ATTR_ID, b"")) != 2:
            raise NetlinkError(operation, errno.EBADMSG)
        return int.from_bytes(number, sys.byteorder)


def parse(body: bytes, offset: int, operation: str) -> dict[int, bytes]:
    """Attributes of a message. Raises NetlinkError for a length that does not fit."""
    try:
        return attributes(body, offset)
    except XfrmError as error:
        raise NetlinkError(operation, error.errno, error.detail) from None


def pack_text(kind: int, text: str) -> bytes:
    return pack_attribute(kind, text.encode() + b"\0")


def pack_number(kind: int, value: int, size: int) -> bytes:
    """An unsigned number of `size` bytes in host order."""
    return pack_attribute(kind, value.to_bytes(size, sys.byteorder))


def text_of(payload: bytes) -> str:
    return payload.split(b"\0", 1)[0].decode("utf-8", "backslashreplace")


def number_of(payload: bytes) -> int:
    return int.from_bytes(payload, sys.byteorder)


def _raise_if_refused(frame: Frame, operation: str) -> None:
    error = answer_error(frame, operation)
    if error is not None:
        raise NetlinkError(operation, error.errno, error.detail)
