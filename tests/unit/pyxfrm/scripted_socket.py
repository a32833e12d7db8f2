"""A netlink socket that answers from a script, for requests of threads and of coroutines."""

import socket
import struct
from collections.abc import Callable, Iterator

from shamon_host.pyxfrm.attributes import pack_attribute
from shamon_host.pyxfrm.constants import NLMSG_DONE, NLMSG_ERROR, NetlinkFlag
from shamon_host.pyxfrm.framing import Frame, iterate_frames, pack_frame

KERNEL, PROCESS = (0, 0), (4711, 0)
Answer = bytes | OSError
Script = Callable[[list[Frame]], Iterator[Answer]]


class ScriptedSocket:
    """Answers what is sent with what the script yields: datagrams of the kernel, or errors of the socket."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.sent: list[list[Frame]] = []
        self.waiting: list[Answer] = []
        self.sender = KERNEL
        self.flags = 0
        self.receive_buffer = 425984

    def settimeout(self, limit_s: float) -> None:
        assert limit_s > 0

    def setblocking(self, blocking: bool) -> None:
        assert not blocking

    def send(self, datagram: bytes) -> int:
        frames = list(iterate_frames(datagram))
        self.sent.append(frames)
        self.waiting += self.script(frames)
        return len(datagram)

    def recvmsg(self, size: int) -> tuple[bytes, list[object], int, tuple[int, int]]:
        datagram, sender = self.recvfrom(size)
        return datagram, [], self.flags, sender

    def recvfrom(self, size: int) -> tuple[bytes, tuple[int, int]]:
        if not self.waiting:
            raise BlockingIOError if self.flags else TimeoutError
        match self.waiting.pop(0):
            case OSError() as error:
                raise error
            case bytes(datagram):
                return datagram[:size], self.sender

    def getsockopt(self, level: int, option: int) -> int:
        assert (level, option) == (socket.SOL_SOCKET, socket.SO_RCVBUF)
        return self.receive_buffer

    def close(self) -> None:
        self.waiting.clear()


def ack(sequence: int, code: int = 0, *, text: str = "", offset: int | None = None) -> bytes:
    """With an extended ACK if there is something to tell."""
    body = struct.pack("=i", -code) + bytes(16)
    told = pack_attribute(1, text.encode() + b"\0") if text else b""
    if offset is not None:
        told += pack_attribute(2, struct.pack("=I", offset))
    flags = NetlinkFlag.ACK_TLVS | NetlinkFlag.CAPPED if told else 0
    return pack_frame(kind=NLMSG_ERROR, flags=flags, sequence=sequence, body=body + told)


def done(sequence: int) -> bytes:
    return pack_frame(kind=NLMSG_DONE, flags=2, sequence=sequence, body=struct.pack("=i", 0))
