"""Runs inside a lab host: one end of a counted UDP stream.

udp_stream.py send ADDRESS PORT STOP     numbered datagrams, some hundred a second, until the file STOP is there
udp_stream.py receive ADDRESS PORT STOP  until STOP is there and nothing has come for a while

Each prints one JSON object at its end: how many were sent; how many came, how many different ones, and the highest.
"""

import json
import socket
import struct
import sys
import time
from pathlib import Path

_NUMBER = struct.Struct("!Q")
_PAUSE_S = 0.005
_IDLE_S = 3.0
_SIZE = 200
"""Bytes of a datagram."""


def send(address: str, port: int, stop: Path) -> dict[str, int]:
    """A datagram that the own kernel refuses counts as sent: it is one that is lost."""
    sent, refused = 0, 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.connect((address, port))
        while not stop.exists():
            try:
                sender.send(_NUMBER.pack(sent).ljust(_SIZE, b"."))
            except OSError:
                refused += 1
            sent += 1
            time.sleep(_PAUSE_S)
    return {"sent": sent, "refused": refused}


def receive(address: str, port: int, stop: Path) -> dict[str, int]:
    """Every number is kept, so that one that comes twice, or a gap, shows."""
    numbers: list[int] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        receiver.bind((address, port))
        receiver.settimeout(_IDLE_S)
        while True:
            try:
                numbers.append(_NUMBER.unpack_from(receiver.recv(1 << 16))[0])
            except TimeoutError:
                if stop.exists():
                    break
    return {"received": len(numbers), "different": len(set(numbers)), "highest": max(numbers, default=-1)}


if __name__ == "__main__":
    role, address, port, stop = sys.argv[1:]
    print(json.dumps({"send": send, "receive": receive}[role](address, int(port), Path(stop))))
