"""`RemoteLinkKernel`: the kernel of this host's MAC VM, over the control wire, behind `links.ports.LinkKernel`.

Each connection begins with what the MAC VM has to know of its interfaces (`setup`), so that one that was started anew
is set up before anything is asked of it. What comes back is not trusted to be well formed.
"""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from shamon_host.domain.errors import BackendFailed, BadInput
from shamon_host.domain.text import printable
from shamon_host.link_agent.frames import (
    CALLS,
    EVENTS,
    HEADER,
    MAX_WORDS,
    answer_in,
    failure_in,
    frame,
    frame_length,
)
from shamon_host.link_agent.setup import AGENT_PORT, HOST_ADDRESS, MAC_VM_ADDRESS, MacVmSetup
from shamon_host.link_agent.values import to_json
from shamon_host.links.model import KernelState, Operation
from shamon_host.links.ports import ChangedEvent, KernelEvent, Traffic

ANSWER_S = 90.0
"""How long one call may take, to the last byte of its answer: the MAC VM may be emulated."""
CONNECT_S = 5.0
_SOON_GONE = {
    socket.TCP_KEEPIDLE: 4,
    socket.TCP_KEEPINTVL: 2,
    socket.TCP_KEEPCNT: 4,
    socket.TCP_USER_TIMEOUT: 12_000,
}
"""A kernel that is there answers probes whatever its programs do."""
_AGAIN_S = 2.0
"""Between attempts to listen to what its kernel tells."""


class RemoteLinkKernel:
    """See the module. `connect` opens a connection to the agent, and raises OSError. `setup`, what the MAC VM is told,
    is given before the first call."""

    setup: Callable[[], MacVmSetup]

    def __init__(self, connect: Callable[[], socket.socket]) -> None:
        self._connect = connect
        self._lock = threading.Lock()
        self._connection: socket.socket | None = None
        self._told_as: MacVmSetup | None = None
        self._boot_id = ""
        self._listeners: list[asyncio.Task[None]] = []

    def boot_id(self) -> str:
        """Of the MAC VM's kernel, which tells one start of it from another. Raises BackendFailed."""
        with self._lock:
            self._connected()
            return self._boot_id

    def denials(self) -> tuple[str, ...]:
        """What SELinux of the MAC VM denied, as its kernel's log says; the newest last. Raises BackendFailed."""
        lines: tuple[str, ...] = self._call("denials")
        return tuple(printable(line[:MAX_WORDS]) for line in lines)

    def forget(self) -> None:
        with self._lock:
            self._disconnect()

    def read(self) -> KernelState:
        state: KernelState = self._call("read")
        return state

    def apply(self, operations: Sequence[Operation]) -> None:
        self._call("apply", tuple(operations))

    def attempt(self, operations: Sequence[Operation]) -> tuple[BackendFailed, ...]:
        try:
            failures = self._call("attempt", tuple(operations))
            return tuple(map(failure_in, failures))
        except BackendFailed as error:
            return (error,)
        except BadInput as error:
            return (_no_answer(str(error)),)

    def allocate_spi(self, *, source: str, destination: str) -> int:
        spi: int = self._call("allocate SPI", (source, destination))
        if not 0x100 <= spi < 2**32:
            raise BackendFailed("an SPI that cannot be one", where="MAC VM", found=str(spi))
        return spi

    def counters(self) -> Mapping[str, int]:
        counters: Mapping[str, int] = self._call("counters")
        return counters

    def traffic(self) -> Mapping[str, Traffic]:
        traffic: Mapping[str, Traffic] = self._call("traffic")
        return traffic

    def subscribe(self, event: Callable[[KernelEvent], None]) -> None:
        self._listeners.append(asyncio.get_running_loop().create_task(self._listen(event), name="kernel of the MAC VM"))

    def close(self) -> None:
        for task in self._listeners:
            task.cancel()
        with self._lock:
            self._disconnect()

    def _call(self, name: str, argument: Any = None) -> Any:
        """Raises BackendFailed: what the agent raised, or that it did not answer."""
        with self._lock:
            connection = self._connected()
            try:
                return self._exchange(connection, name, argument)
            except (OSError, BadInput) as error:
                self._disconnect()
                raise _no_answer(str(error)) from error

    def _exchange(self, connection: socket.socket, name: str, argument: Any) -> Any:
        deadline_s = time.monotonic() + ANSWER_S
        connection.settimeout(ANSWER_S)
        connection.sendall(frame({"ask": name, "with": to_json(argument)}))
        length = frame_length(_exactly(connection, HEADER.size, deadline_s), CALLS[name].most)
        return answer_in(_exactly(connection, length, deadline_s), CALLS[name].gives)

    def _connected(self) -> socket.socket:
        """The connection, set up as the host is now."""
        setup = self.setup()
        if self._connection is None:
            try:
                self._connection = self._connect()
            except OSError as error:
                raise _no_answer(error.strerror or str(error)) from error
            self._told_as = None
        if self._told_as != setup:
            try:
                self._boot_id = printable(self._exchange(self._connection, "set up", setup)[:MAX_WORDS])
            except (OSError, BadInput) as error:
                self._disconnect()
                raise _no_answer(str(error)) from error
            except BackendFailed:
                self._disconnect()
                raise
            self._told_as = setup
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    async def _listen(self, event: Callable[[KernelEvent], None]) -> None:
        while True:
            with suppress(OSError, BadInput, BackendFailed, asyncio.IncompleteReadError):
                connection = await asyncio.to_thread(self._connect)
                connection.setblocking(False)
                reader, writer = await asyncio.open_connection(sock=connection)
                try:
                    writer.write(frame({"ask": EVENTS, "with": None}))
                    event(ChangedEvent(what="the MAC VM is listened to"))
                    while True:
                        length = frame_length(await reader.readexactly(HEADER.size), CALLS[EVENTS].most)
                        event(answer_in(await reader.readexactly(length), CALLS[EVENTS].gives))
                finally:
                    writer.close()
            event(ChangedEvent(what="the MAC VM is not listened to"))
            await asyncio.sleep(_AGAIN_S)


def connect_to_mac_vm() -> socket.socket:
    """A connection over the control wire, which ends soon after the MAC VM (tcp(7)). Raises OSError."""
    connection = socket.create_connection((MAC_VM_ADDRESS, AGENT_PORT), CONNECT_S, source_address=(HOST_ADDRESS, 0))
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _SOON_GONE.items():
        connection.setsockopt(socket.IPPROTO_TCP, option, value)
    return connection


def _exactly(connection: socket.socket, length: int, deadline_s: float) -> bytes:
    """Raises OSError, also when the deadline, on the monotonic clock, has passed."""
    body = bytearray()
    while len(body) < length:
        left_s = deadline_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("timed out")
        connection.settimeout(left_s)
        part = connection.recv(min(length - len(body), 1 << 20))
        if not part:
            raise ConnectionResetError("the connection was closed")
        body += part
    return bytes(body)


def _no_answer(found: str) -> BackendFailed:
    return BackendFailed(
        "the MAC VM does not answer",
        where="control wire",
        found=found[:300],
        remedy="See `shamon vms`; the daemon starts it again when it has ended.",
    )
