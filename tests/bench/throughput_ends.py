"""Run on lab hosts, at both ends of a path: `throughput_ends.py serve`, and `throughput_ends.py ask ADDRESS SECONDS`.

The asking end prints JSON: `bytes_s`, of one TCP stream as its receiver counts; `request_s`, seconds of each small
request and its answer over one TCP connection; `datagram_s`, of each datagram and its echo.
"""

import json
import socket
import socketserver
import struct
import sys
import threading
import time

PORT = 5201
SINK, ECHO = b"S", b"E"
_SIZE = 64
_BLOCK = bytes(1 << 17)
_REQUESTS = 400
_LIMIT_S = 20.0
_WARM_UP_S = 2.0
_RESULT = struct.Struct("!Qd")


class _Stream(socketserver.BaseRequestHandler):
    """Swallows a stream and tells how much came in which time, or sends back what comes."""

    def handle(self) -> None:
        channel: socket.socket = self.request
        channel.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if channel.recv(1) == SINK:
            channel.sendall(_RESULT.pack(*_swallowed(channel)))
            return
        while data := channel.recv(_SIZE):
            channel.sendall(data)


def _swallowed(channel: socket.socket) -> tuple[int, float]:
    """Bytes behind the first ones, and seconds since those, until the far end has no more."""
    buffer = bytearray(1 << 18)
    if not channel.recv_into(buffer):
        return 0, 0.0
    started, total = time.perf_counter(), 0
    while count := channel.recv_into(buffer):
        total += count
    return total, time.perf_counter() - started


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


def serve() -> None:
    """Until it is killed."""
    echo = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    echo.bind(("", PORT))

    def answer() -> None:
        while True:
            data, sender = echo.recvfrom(2048)
            echo.sendto(data, sender)

    threading.Thread(target=answer, daemon=True).start()
    with _Server(("", PORT), _Stream) as server:
        server.serve_forever()


def throughput(address: str, seconds: float) -> float:
    """Bytes in a second."""
    with socket.create_connection((address, PORT), timeout=_LIMIT_S) as channel:
        channel.sendall(SINK)
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            channel.sendall(_BLOCK)
        channel.shutdown(socket.SHUT_WR)
        answer = b""
        while len(answer) < _RESULT.size:
            more = channel.recv(_RESULT.size)
            if not more:
                raise ConnectionError("the far end told nothing")
            answer += more
    total, took_s = _RESULT.unpack(answer)
    return float(total / took_s)


def requests(address: str) -> list[float]:
    """Seconds of each."""
    with socket.create_connection((address, PORT), timeout=_LIMIT_S) as channel:
        channel.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        channel.sendall(ECHO)
        return [_timed(channel) for _ in range(_REQUESTS)]


def datagrams(address: str) -> list[float]:
    """Seconds of each that came back."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel:
        channel.connect((address, PORT))
        channel.settimeout(1.0)
        times = []
        for _ in range(_REQUESTS):
            try:
                times.append(_timed(channel))
            except TimeoutError:
                continue
        return times


def _timed(channel: socket.socket) -> float:
    started = time.perf_counter()
    channel.sendall(bytes(_SIZE))
    left = _SIZE
    while left > 0:
        left -= len(channel.recv(left))
    return time.perf_counter() - started


def ask(address: str, seconds: float) -> dict[str, object]:
    """Everything, one after the other. What goes before does not count: addresses are resolved, and an emulator
    translates the code of a path when that is first taken, which costs a tenth of a stream."""
    requests(address)
    throughput(address, _WARM_UP_S)
    datagrams(address)
    return {
        "bytes_s": throughput(address, seconds),
        "request_s": requests(address),
        "datagram_s": datagrams(address),
    }


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve()
    print(json.dumps(ask(sys.argv[2], float(sys.argv[3]))))
