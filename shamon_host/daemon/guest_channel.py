"""How the daemon reaches the agents in its VMs, and they it: vsock, whose addresses the kernel gives to one VM each.

A connection carries one message each way, after its length. Whatever a guest sends is bounded, in size and in time, and
a guest has one connection at a time; what it means, others read. `VsockGuests` is over any stream socket: a test hands
it another kind than vsock.
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

from shamon_host.attestation.guest_messages import (
    GUEST_PORT,
    HOST_PORT,
    LENGTH_BYTES,
    MAX_ANSWER_BYTES,
    MAX_REQUEST_BYTES,
)
from shamon_host.daemon.ports import GuestQuestions
from shamon_host.domain.errors import BackendFailed, BadInput, ShamonError, Unreachable

_SERVE_S = 20.0
"""How long one question of a guest may take."""
_BACKLOG = 64

Connect = Callable[[int], Awaitable[socket.socket]]
"""A connected socket to the agent at an address. Raises OSError."""


async def connect_vsock(cid: int) -> socket.socket:
    """A connection to the agent of the VM at this address. Raises OSError."""
    connection = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        await asyncio.get_running_loop().sock_connect(connection, (cid, GUEST_PORT))
    except BaseException:
        connection.close()
        raise
    return connection


def listen_vsock() -> socket.socket:
    """Where VMs reach this host. Raises BackendFailed."""
    listening = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        listening.bind((socket.VMADDR_CID_ANY, HOST_PORT))
        listening.listen(_BACKLOG)
    except OSError as error:
        listening.close()
        raise BackendFailed(
            "cannot listen for VMs on vsock",
            where=f"port {HOST_PORT}",
            found=error.strerror or "",
            remedy="The kernel's module vhost_vsock has to be there: `modprobe vhost_vsock`.",
        ) from error
    return listening


@dataclass(kw_only=True)
class VsockGuests:
    """`daemon.ports.Guests`."""

    connect: Connect = connect_vsock
    listen: Callable[[], socket.socket] = listen_vsock
    cid_of: Callable[[socket.socket], int] = lambda connection: int(connection.getpeername()[0])
    """Whose connection this is, as the kernel says. Raises OSError."""
    _served: set[int] = field(default_factory=set, repr=False)

    async def ask(self, cid: int, request: bytes, *, timeout_s: float) -> bytes:
        try:
            async with asyncio.timeout(timeout_s):
                connection = await self.connect(cid)
                try:
                    await _send(connection, request)
                    return await _receive(connection, MAX_ANSWER_BYTES)
                finally:
                    connection.close()
        except (OSError, TimeoutError) as error:
            raise Unreachable(
                "the agent in the VM does not answer",
                where=f"vsock {cid}",
                found=getattr(error, "strerror", None) or type(error).__name__,
            ) from error

    @contextlib.asynccontextmanager
    async def served(self, questions: GuestQuestions) -> AsyncIterator[None]:
        listening = self.listen()
        tasks: set[asyncio.Task[None]] = set()
        accepting = asyncio.create_task(self._accept(listening, questions, tasks), name="questions of VMs")
        try:
            yield
        finally:
            for task in (accepting, *tasks):
                task.cancel()
            await asyncio.gather(accepting, *tasks, return_exceptions=True)
            listening.close()

    async def _accept(
        self, listening: socket.socket, questions: GuestQuestions, tasks: set[asyncio.Task[None]]
    ) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(listening)
            except OSError:
                await asyncio.sleep(1.0)  # out of descriptors, say: those who ask get nothing meanwhile
                continue
            connection.setblocking(False)
            task = asyncio.create_task(self._serve(connection, questions), name="question of a VM")
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    async def _serve(self, connection: socket.socket, questions: GuestQuestions) -> None:
        """One question; a second one of the same VM meanwhile is not heard."""
        with contextlib.suppress(OSError, TimeoutError, ShamonError), connection:
            cid = self.cid_of(connection)
            if cid in self._served:
                return
            self._served.add(cid)
            try:
                async with asyncio.timeout(_SERVE_S):
                    request = await _receive(connection, MAX_REQUEST_BYTES)
                    await _send(connection, await questions.answer(cid, request))
            finally:
                self._served.discard(cid)


async def _send(connection: socket.socket, data: bytes) -> None:
    await asyncio.get_running_loop().sock_sendall(connection, len(data).to_bytes(LENGTH_BYTES, "big") + data)


async def _receive(connection: socket.socket, most: int) -> bytes:
    """A whole message. Raises BadInput for a length beyond `most`, Unreachable for an end before its time."""
    length = int.from_bytes(await _exactly(connection, LENGTH_BYTES), "big")
    if length > most:
        raise BadInput("the message of a VM is too long", expected=f"at most {most} bytes", found=f"{length} bytes")
    return await _exactly(connection, length)


async def _exactly(connection: socket.socket, length: int) -> bytes:
    data = bytearray()
    loop = asyncio.get_running_loop()
    while len(data) < length:
        part = await loop.sock_recv(connection, min(length - len(data), 1 << 16))
        if not part:
            raise Unreachable("the VM hung up in the midst of a message")
        data += part
    return bytes(data)
