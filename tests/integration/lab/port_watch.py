"""Run on a lab host by root: counts frames with marks at devices, `port_watch.py SECONDS OUT MARK... -- DEVICE...`

A mark is a byte, in hexadecimal, that fills the payload of a type's frames. When all devices are watched, OUT.ready is
there; after SECONDS the counts are in OUT: device → mark → frames that [came from it, went to it], `frames` in all,
and `lost`: what the kernel had no room for, which makes the counts worthless.
"""

import json
import select
import socket
import struct
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RUN = 64
"""So many bytes of a mark in a row are no accident."""
_ETH_P_ALL, _SOL_PACKET, _PACKET_STATISTICS, _SO_RCVBUFFORCE = 3, 263, 6, 33
_BUFFER_BYTES = 32 << 20


def marks_in(frame: bytes, marks: Sequence[str]) -> list[str]:
    """Those of the marks, two hexadecimal digits each, that fill a part of the frame."""
    return [mark for mark in marks if bytes.fromhex(mark) * RUN in frame]


def watch(seconds: float, ready: Path, marks: Sequence[str], devices: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Count for so long; see the module."""
    sockets: dict[socket.socket, str] = {}
    found: dict[str, dict[str, Any]] = {name: {**{mark: [0, 0] for mark in marks}, "frames": 0} for name in devices}
    for name in devices:
        opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        opened.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
        opened.bind((name, _ETH_P_ALL))
        opened.setblocking(False)
        sockets[opened] = name
    ready.touch()
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        for opened in select.select(list(sockets), [], [], left)[0]:
            _drain(opened, found[sockets[opened]], marks)
    for opened, name in sockets.items():
        _drain(opened, found[name], marks)
        _, lost = struct.unpack("II", opened.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))
        found[name]["lost"] = lost
    return found


def _drain(opened: socket.socket, counts: dict[str, Any], marks: Sequence[str]) -> None:
    for _ in range(1000):
        try:
            frame, (_, _, kind, *_) = opened.recvfrom(1 << 16)
        except BlockingIOError:
            return
        counts["frames"] += 1
        for mark in marks_in(frame, marks):
            counts[mark][1 if kind == socket.PACKET_OUTGOING else 0] += 1


if __name__ == "__main__":
    _at = sys.argv.index("--")
    _out = Path(sys.argv[2])
    _found = watch(float(sys.argv[1]), _out.with_suffix(".ready"), sys.argv[3:_at], sys.argv[_at + 1 :])
    _out.with_suffix(".new").write_text(json.dumps(_found))
    _out.with_suffix(".new").rename(_out)
