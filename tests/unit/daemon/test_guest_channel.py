"""The channel to guests passes its contract in memory, and for real over Unix sockets; what hostile streams do."""

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from shamon_host.attestation.guest_messages import MAX_ANSWER_BYTES, MAX_REQUEST_BYTES
from shamon_host.daemon.guest_channel import VsockGuests, connect_vsock, listen_vsock
from shamon_host.domain.errors import BackendFailed, BadInput, Unreachable
from shamon_host.domain.labels import SelinuxContext, VmName
from shamon_host.guest_agent.answering import Answering
from shamon_host.guest_agent.vsock import receive_message, send_message, serve
from shamon_host.hypervisor.ports import VmSpec
from shamon_host.testing.contracts.guests import ANSWER, ONE, OTHER, REQUEST, GuestsContract, Questions
from shamon_host.testing.guests import MemoryGuests
from shamon_host.testing.hypervisor import MemoryHypervisor
from shamon_host.testing.machine import MeasuredMachine
from tests.unit.hypervisor.vm_world import Hub


@dataclass(kw_only=True)
class MemoryBench:
    guests: MemoryGuests

    def silence(self) -> None:
        self.guests.silent.add(ONE)

    def chatter(self) -> None:
        self.guests.tamper = lambda _cid, _request, _answer: bytes(MAX_ANSWER_BYTES + 1)

    async def ask_host(self, cid: int, request: bytes) -> bytes:
        return await self.guests.ask_host(cid, request)


class TestMemoryGuests(GuestsContract):
    @pytest.fixture
    def bench(self) -> MemoryBench:
        hypervisor = MemoryHypervisor(switch=Hub(), addresses={}, enforcing=lambda: True)
        context = SelinuxContext(user="system_u", role="system_r", type="svirt_t", categories=frozenset({512, 513}))
        name = VmName("one")
        uuid = "00000000-0000-4000-8000-000000000001"
        hypervisor.start_paused(VmSpec(name=name, uuid=uuid, context=context, disk="one", interfaces=(), cid=ONE))
        hypervisor.resume(name)
        return MemoryBench(guests=MemoryGuests(hypervisor=hypervisor))


@dataclass(kw_only=True)
class SocketBench:
    """The real channel, and the real agent in a thread, over Unix sockets: a client's address is the name that it binds
    to."""

    directory: Path
    answer: Callable[[bytes], bytes]
    guests: VsockGuests = field(init=False)
    threads: list[threading.Thread] = field(default_factory=list)
    listening: list[socket.socket] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.guests = VsockGuests(connect=self._connect, listen=self._listen, cid_of=self._cid_of)
        agent = self._bound("agent")
        thread = threading.Thread(target=self._serve, args=(agent,), daemon=True)
        thread.start()
        self.threads.append(thread)

    def silence(self) -> None:
        self.answer = lambda _request: time.sleep(0.5) or b"late"  # type: ignore[func-returns-value]

    def chatter(self) -> None:
        self.answer = lambda _request: bytes(MAX_ANSWER_BYTES + 1)

    async def ask_host(self, cid: int, request: bytes) -> bytes:
        return await asyncio.to_thread(self._ask_host, cid, request)

    def close(self) -> None:
        for each in self.listening:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        for thread in self.threads:
            thread.join(5)

    def _serve(self, agent: socket.socket) -> None:
        with contextlib.suppress(BackendFailed):
            serve(_FromHost(agent), self._answer, most=MAX_REQUEST_BYTES)  # type: ignore[arg-type]

    def _answer(self, request: bytes) -> bytes:
        return self.answer(request)

    async def _connect(self, cid: int) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        path = self.directory / ("agent" if cid == ONE else "nobody")
        try:
            await asyncio.get_running_loop().sock_connect(connection, str(path))
        except BaseException:
            connection.close()
            raise
        return connection

    def _listen(self) -> socket.socket:
        listening = self._bound("host")
        listening.setblocking(False)
        return listening

    def _bound(self, name: str) -> socket.socket:
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        (self.directory / name).unlink(missing_ok=True)
        listening.bind(str(self.directory / name))
        listening.listen(8)
        self.listening.append(listening)
        return listening

    @staticmethod
    def _cid_of(connection: socket.socket) -> int:
        return int(connection.getpeername().rpartition("/")[2].partition("-")[0])

    def _ask_host(self, cid: int, request: bytes) -> bytes:
        until = time.monotonic() + 5
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.bind(str(self.directory / f"{cid}-{time.monotonic_ns()}"))
            try:
                connection.connect(str(self.directory / "host"))
                send_message(connection, request, until=until)
            except OSError as error:
                raise Unreachable("no host", found=str(error)) from error
            return receive_message(connection, most=MAX_ANSWER_BYTES, until=until)


class _FromHost:
    """A listening socket whose connections all come from the host, as far as the agent is told."""

    def __init__(self, listening: socket.socket) -> None:
        self._listening = listening

    def accept(self) -> tuple[socket.socket, Any]:
        connection, _ = self._listening.accept()
        return connection, (2, 1)


@pytest.fixture
def sockets(tmp_path: Path) -> Iterator[SocketBench]:
    machine = MeasuredMachine()
    machine.boot()
    bench = SocketBench(directory=tmp_path, answer=Answering(tpm=machine.tpm, logs=machine.logs).answer)
    try:
        yield bench
    finally:
        bench.close()


class TestSocketGuests(GuestsContract):
    @pytest.fixture
    def bench(self, sockets: SocketBench) -> SocketBench:
        return sockets


async def test_a_vm_that_sends_byte_by_byte_holds_up_nobody(sockets: SocketBench) -> None:
    questions = Questions()
    async with sockets.guests.served(questions):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as slow:
            slow.bind(str(sockets.directory / f"{OTHER}-slow"))
            slow.connect(str(sockets.directory / "host"))
            slow.sendall(b"\x00\x00")
            assert await sockets.ask_host(ONE, b"x") == b"20001 asked 1 bytes"
        assert await sockets.ask_host(OTHER, b"x") == b"20002 asked 1 bytes", "it hung up, and may ask again"


@pytest.mark.parametrize("sent", [b"", b"\x00", b"\x00\x00\x00\x05abc", b"\xff\xff\xff\xff"])
async def test_an_agent_that_breaks_off(sockets: SocketBench, sent: bytes) -> None:
    sockets.close()
    (sockets.directory / "agent").unlink()
    listening = sockets._bound("agent")

    def once() -> None:
        connection, _ = listening.accept()
        connection.sendall(sent)
        connection.close()

    thread = threading.Thread(target=once)
    thread.start()
    with pytest.raises((Unreachable, BadInput)):
        await sockets.guests.ask(ONE, REQUEST, timeout_s=5)
    thread.join()


def test_the_agent_serves_its_host_alone() -> None:
    """A process of the guest itself, which reaches it over the loopback of vsock, is hung up on."""

    class Listening:
        def __init__(self) -> None:
            self.peers: list[Any] = [(1, 5), (3, 5), "unix", (2, 5)]
            self.pairs: list[socket.socket] = []

        def accept(self) -> tuple[socket.socket, Any]:
            if not self.peers:
                raise OSError(9, "closed")
            ours, theirs = socket.socketpair()
            peer = self.peers.pop(0)
            if not self.peers:
                theirs.sendall(bytes([0, 0, 0, 1]) + b"x")
            self.pairs.append(theirs)
            return ours, peer

    listening = Listening()
    heard: list[bytes] = []

    def answer(request: bytes) -> bytes:
        heard.append(request)
        return ANSWER

    with pytest.raises(BackendFailed):
        serve(listening, answer, most=10)  # type: ignore[arg-type]
    assert heard == [b"x"]
    assert [pair.recv(1 << 16) for pair in listening.pairs] == [b"", b"", b"", len(ANSWER).to_bytes(4, "big") + ANSWER]
    for pair in listening.pairs:
        pair.close()


async def test_vsock_itself_has_nobody_at_such_an_address() -> None:
    """Whatever this kernel has of vsock."""
    guests = VsockGuests()
    with pytest.raises(Unreachable):
        await guests.ask(4_000_000_000, REQUEST, timeout_s=2)
    assert (guests.connect, guests.listen) == (connect_vsock, listen_vsock)
