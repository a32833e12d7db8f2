"""Netlink framing: requests into bytes, a datagram from the kernel into frames (include/uapi/linux/netlink.h)."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from .attributes import attributes
from .constants import NLMSG_DONE, NLMSG_ERROR, NLMSGERR_ATTR_MSG, NLMSGERR_ATTR_OFFS, NetlinkFlag
from .errors import XfrmError, malformed
from .structs import U32

HEADER = struct.Struct("=IHHII")
_ERROR = struct.Struct("=i")
_ACK_TLVS, _CAPPED = int(NetlinkFlag.ACK_TLVS), int(NetlinkFlag.CAPPED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One message of the kernel. `body` may hold key material, so it never shows."""

    type: int
    flags: int
    sequence: int
    body: bytes

    def __repr__(self) -> str:
        return f"Frame(type={self.type:#x}, flags={self.flags:#x}, sequence={self.sequence}, {len(self.body)} bytes)"


def pack_frame(*, kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    """A message from port id 0 (the kernel knows the socket's own). Its length is the padded one."""
    padded = body + bytes(-len(body) % 4)
    return HEADER.pack(HEADER.size + len(padded), kind, flags, sequence, 0) + padded


def iterate_frames(datagram: bytes) -> Iterator[Frame]:
    """Each message of a datagram. Raises XfrmError for a length that does not fit."""
    offset = 0
    while offset + HEADER.size <= len(datagram):
        length, kind, flags, sequence, _port = HEADER.unpack_from(datagram, offset)
        if length < HEADER.size or offset + length > len(datagram):
            raise malformed("read netlink messages", f"length {length} at offset {offset} of {len(datagram)}")
        yield Frame(type=kind, flags=flags, sequence=sequence, body=datagram[offset + HEADER.size : offset + length])
        offset += (length + 3) & ~3


def answer_error(frame: Frame, operation: str) -> XfrmError | None:
    """What an NLMSG_ERROR or NLMSG_DONE says: None for success (an ACK), else the error to raise."""
    if frame.type not in (NLMSG_ERROR, NLMSG_DONE):
        return malformed(operation, f"{frame!r} instead of an answer")
    if len(frame.body) < _ERROR.size:
        # NLMSG_DONE of an old kernel may come without a code.
        return None if frame.type == NLMSG_DONE else malformed(operation, f"{frame!r} has no error code")
    (code,) = _ERROR.unpack_from(frame.body)
    if code == 0:
        return None
    text, place = _extended_ack(frame)
    return XfrmError(operation=operation, errno=abs(code), detail=text, offset=place)


def _extended_ack(frame: Frame) -> tuple[str, int | None]:
    """Text and offset, which come after the code and, in NLMSG_ERROR, the (perhaps capped) request."""
    if not frame.flags & _ACK_TLVS:
        return "", None
    offset = _ERROR.size
    if frame.type == NLMSG_ERROR:
        if len(frame.body) < offset + HEADER.size:
            return "", None
        (request_length,) = struct.unpack_from("=I", frame.body, offset)
        capped = frame.flags & _CAPPED
        offset += HEADER.size if capped else (request_length + 3) & ~3
    try:
        found = attributes(frame.body, offset)
    except XfrmError:
        return "", None
    text = found.get(NLMSGERR_ATTR_MSG, b"").rstrip(b"\0").decode("utf-8", "backslashreplace")
    place = found.get(NLMSGERR_ATTR_OFFS, b"")
    return text, U32.unpack(place)[0] if len(place) == U32.size else None
