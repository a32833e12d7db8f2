"""Run on a lab host by root: adds an SPD entry with iproute2, and tells how long it stayed.

    policy_clock.py SECONDS PRIORITY ARGUMENT...

The arguments are those of `ip xfrm policy add`. The kernel's own notifications tell when the entry of that priority
came and went (net/xfrm/xfrm_user.c, XFRM_MSG_NEWPOLICY and XFRM_MSG_DELPOLICY). Prints JSON: `stayed_s`, null if it was
still there after SECONDS.
"""

import json
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

NEW, DELETED = 0x13, 0x14
_NETLINK_XFRM, _GROUP_POLICY = 6, 1 << 3
_HEADER, _POLICY_ID_SIZE, _XFRMA_POLICY = 16, 64, 7
_PRIORITY_AT = 56 + 64 + 32
"""In struct xfrm_userpolicy_info: behind selector, limits and what was used of them."""


def events(datagram: bytes) -> Iterator[tuple[int, int | None]]:
    """(kind, priority) of each policy that a datagram of notifications tells of."""
    at = 0
    while at + _HEADER <= len(datagram):
        size, kind = struct.unpack_from("=IH", datagram, at)
        if size < _HEADER:
            return
        body = datagram[at + _HEADER : at + size]
        if kind == NEW:
            yield kind, _priority(body)
        elif kind == DELETED:
            yield kind, _priority(_attribute(body[_POLICY_ID_SIZE:], _XFRMA_POLICY))
        at += size + -size % 4


def stayed_s(seconds: float, priority: int, arguments: Sequence[str]) -> float | None:
    """See the module."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_XFRM) as channel:
        channel.bind((0, _GROUP_POLICY))
        subprocess.run(["ip", "xfrm", "policy", "add", *arguments], check=True, timeout=20)
        came: float | None = None
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            channel.settimeout(left)
            try:
                datagram = channel.recv(1 << 16)
            except TimeoutError:
                break
            now = time.monotonic()
            for kind, of in events(datagram):
                if of != priority:
                    continue
                if kind == NEW:
                    came = now
                elif came is not None:
                    return now - came
    return None


def _priority(info: bytes) -> int | None:
    return int(struct.unpack_from("=I", info, _PRIORITY_AT)[0]) if len(info) >= _PRIORITY_AT + 4 else None


def _attribute(data: bytes, wanted: int) -> bytes:
    at = 0
    while at + 4 <= len(data):
        size, kind = struct.unpack_from("=HH", data, at)
        if size < 4:
            break
        if kind == wanted:
            return data[at + 4 : at + size]
        at += size + -size % 4
    return b""


if __name__ == "__main__":
    print(json.dumps({"stayed_s": stayed_s(float(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])}))
