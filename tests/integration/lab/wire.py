"""The shared Ethernet wire of the lab: a learning switch in this process, over unix sockets, that records every frame.

QEMU's multicast wire loses frames by itself and joins labs by accident; this one belongs to its lab, can be asked
what passed, can have frames put in, and can cut a host off.
"""

import contextlib
import selectors
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.integration.lab.errors import LabError
from tests.integration.lab.frames import Frame, Kind, parse

_PCAP_HEADER = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)
_BUFFER_BYTES = 4 << 20
_LARGEST_FRAME = 65535 + 64


@dataclass(frozen=True, slots=True)
class _Port:
    host: str
    socket: socket.socket
    far_end: str


class Wire:
    """A switch with one port for each host; use as a context manager or call `close`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._ports: dict[str, _Port] = {}
        self._learnt: dict[bytes, str] = {}
        self._cut: set[str] = set()
        self._seen: list[tuple[float, str, bytes]] = []
        self._selector = selectors.DefaultSelector()
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._selector.register(self._wake_reader, selectors.EVENT_READ, None)
        self._pcap = (directory / "wire.pcap").open("wb", buffering=1 << 16)
        self._pcap.write(_PCAP_HEADER)
        self._running = True
        self.lost_frames = 0
        self.on_frame: Callable[[Frame], bool] | None = None
        """Asked for each frame from a host; a frame for which it returns False is recorded but not delivered."""
        self._thread = threading.Thread(target=self._run, name="wire", daemon=True)
        self._thread.start()

    def __enter__(self) -> "Wire":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def attach(self, host: str) -> str:
        """Make the host's port; returns the value of QEMU's ``-netdev`` option, without its id."""
        near, far = self._directory / f"{host}.wire", self._directory / f"{host}.card"
        near.unlink(missing_ok=True)
        endpoint = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        endpoint.bind(str(near))
        endpoint.setblocking(False)
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            endpoint.setsockopt(socket.SOL_SOCKET, option, _BUFFER_BYTES)
        with self._lock:
            if host in self._ports:
                raise LabError(f"{host} is on the wire already")
            self._ports[host] = port = _Port(host, endpoint, str(far))
        self._selector.register(endpoint, selectors.EVENT_READ, port)
        self._wake_writer.send(b"x")
        return f"dgram,local.type=unix,local.path={far},remote.type=unix,remote.path={near}"

    def mark(self) -> int:
        """A place in the record, for `since`."""
        with self._lock:
            return len(self._seen)

    def since(self, mark: int = 0, *, kinds: Iterable[Kind] | None = None) -> list[Frame]:
        """The frames that hosts have sent since `mark`, oldest first; only those of `kinds` if given. Cut-off hosts'
        frames are not in it.
        """
        with self._lock:
            seen = self._seen[mark:]
        wanted = None if kinds is None else set(kinds)
        frames = (parse(raw, time_s=when, host=host) for when, host, raw in seen)
        return [frame for frame in frames if wanted is None or frame.kind in wanted]

    def inject(self, raw: bytes, *, to: str | None = None) -> None:
        """Put a frame on the wire as if a stranger had sent it: to one host, or to all."""
        with self._lock:
            targets = [port for name, port in self._ports.items() if to in (None, name) and name not in self._cut]
        for port in targets:
            self._send(port, raw)

    def cut(self, host: str) -> None:
        """Pull the host's cable: nothing from or to it passes until `restore`."""
        with self._lock:
            self._cut.add(host)

    def restore(self, host: str) -> None:
        """Put the host's cable back."""
        with self._lock:
            self._cut.discard(host)

    def close(self) -> None:
        """Stop the switch and finish the capture file."""
        if not self._running:
            return
        self._running = False
        self._wake_writer.send(b"x")
        self._thread.join(timeout=10)
        for port in self._ports.values():
            port.socket.close()
        self._selector.close()
        self._wake_reader.close()
        self._wake_writer.close()
        self._pcap.close()

    def _run(self) -> None:
        while self._running:
            for key, _ in self._selector.select():
                if key.data is None:
                    self._wake_reader.recv(64)
                else:
                    self._drain(key.data)
            self._pcap.flush()

    def _drain(self, port: _Port) -> None:
        for _ in range(256):
            try:
                raw = port.socket.recv(_LARGEST_FRAME)
            except OSError:
                return
            if len(raw) >= 14:
                self._switch(port, raw)

    def _switch(self, port: _Port, raw: bytes) -> None:
        now = time.monotonic()
        with self._lock:
            if port.host in self._cut:
                return
            self._seen.append((now, port.host, raw))
            self._learnt[raw[6:12]] = port.host
            known = None if raw[0] & 1 else self._learnt.get(raw[0:6])
            targets = [
                other
                for name, other in self._ports.items()
                if name != port.host and name not in self._cut and known in (None, name)
            ]
        wall = time.time()
        self._pcap.write(struct.pack("<IIII", int(wall), int(wall % 1 * 1e6), len(raw), len(raw)) + raw)
        if self.on_frame is not None and not self.on_frame(parse(raw, time_s=now, host=port.host)):
            return
        for target in targets:
            self._send(target, raw)

    def _send(self, port: _Port, raw: bytes) -> None:
        """A full or absent receiver loses the frame, as a real card would; the loss is counted."""
        try:
            port.socket.sendto(raw, port.far_end)
        except (FileNotFoundError, ConnectionRefusedError):
            return
        except OSError:
            self.lost_frames += 1


class Cable:
    """A cable between two hosts, and nothing else: QEMU talks to QEMU, no frame is lost or seen. For measuring."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "cable"
        self._ends = 0

    def attach(self, host: str) -> str:
        """As `Wire.attach`. The first host's end listens, so that host is switched on before the other one."""
        self._ends += 1
        if self._ends > 2:
            raise LabError("a cable has two ends", where=host)
        return f"stream,server={'on' if self._ends == 1 else 'off'},addr.type=unix,addr.path={self._path}"

    def listens(self) -> bool:
        """The first host's end is there."""
        return self._path.exists()


def free_tcp_port() -> int:
    """A TCP port on the loopback address that nothing listens on now."""
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
