"""The client for coroutines: the same requests on a scripted socket, and the loop goes on meanwhile."""

import asyncio
import errno
import inspect
import socket
from collections.abc import Iterator
from ipaddress import IPv4Address

import pytest

pytest.importorskip("pyroute2", reason="needs the host extra: pyroute2")

from shamon_host.pyxfrm import Batch, Lifetime, SaId, SecurityAssociation, XfrmError, aes_gcm, async_transport
from shamon_host.pyxfrm.async_client import AsyncXfrm
from shamon_host.pyxfrm.client import Xfrm
from shamon_host.pyxfrm.constants import Message
from shamon_host.pyxfrm.framing import Frame, iterate_frames, pack_frame
from shamon_host.pyxfrm.sa_encode import encode_sa
from tests.unit.pyxfrm.scripted_socket import PROCESS, Answer, ScriptedSocket, ack, done

SA = SecurityAssociation(
    source=IPv4Address("192.0.2.1"), destination=IPv4Address("192.0.2.2"), spi=0x1001, aead=aes_gcm(b"\xa5" * 36)
)


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> ScriptedSocket:
    """In the place of every socket; the event loop reads and writes it as it does the kernel's."""
    scripted = ScriptedSocket(lambda frames: iter([ack(frames[-1].sequence)]))
    monkeypatch.setattr(async_transport, "open_socket", lambda **_: scripted)

    async def sock_sendall(_loop: object, _socket: object, datagram: bytes) -> None:
        scripted.send(datagram)

    async def sock_recvfrom(_loop: object, _socket: object, size: int) -> tuple[bytes, tuple[int, int]]:
        if not scripted.waiting:
            await asyncio.Event().wait()
        return scripted.recvfrom(size)

    monkeypatch.setattr(asyncio.SelectorEventLoop, "sock_sendall", sock_sendall)
    monkeypatch.setattr(asyncio.SelectorEventLoop, "sock_recvfrom", sock_recvfrom)
    return scripted


def test_both_clients_have_the_same_methods() -> None:
    def methods(client: type) -> dict[str, inspect.Signature]:
        return {
            name: inspect.signature(value)
            for name, value in vars(client).items()
            if not name.startswith("_") and callable(value)
        }

    assert methods(Xfrm) == methods(AsyncXfrm)
    assert all(inspect.getdoc(getattr(Xfrm, name)) for name in methods(Xfrm))


async def test_requests_are_the_same(scripted: ScriptedSocket) -> None:
    async with AsyncXfrm() as xfrm:
        await xfrm.add_sa(SA)
        scripted.script = lambda frames: iter([ack(frames[0].sequence, errno.ESRCH)])
        with pytest.raises(XfrmError, match=r"delete SA to 192\.0\.2\.2 proto 50 spi 0x00001001: ESRCH"):
            await xfrm.delete_sa(SA.id)
    assert scripted.sent[0][0].body == encode_sa(SA)


async def test_a_renewal_asks_first(scripted: ScriptedSocket) -> None:
    def script(frames: list[Frame]) -> Iterator[Answer]:
        if frames[0].type == Message.GETSA:
            yield pack_frame(kind=Message.NEWSA, flags=0, sequence=frames[0].sequence, body=encode_sa(SA))
        yield ack(frames[0].sequence)

    scripted.script = script
    async with AsyncXfrm() as xfrm:
        await xfrm.renew_sa(SA.id, Lifetime(hard_add_s=9))
    assert [frames[0].type for frames in scripted.sent] == [Message.GETSA, Message.UPDSA]


async def test_others_run_while_a_dump_is_read(scripted: ScriptedSocket) -> None:
    def script(frames: list[Frame]) -> Iterator[Answer]:
        for _ in range(20):
            yield pack_frame(kind=Message.NEWSA, flags=2, sequence=frames[0].sequence, body=encode_sa(SA))
        yield done(frames[0].sequence)

    scripted.script = script
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with AsyncXfrm() as xfrm:
        other = asyncio.create_task(count())
        found = await xfrm.dump_sas()
        other.cancel()
    assert len(found) == 20
    assert turns >= 20


async def test_a_cancelled_call_leaves_the_next_one_its_answers(scripted: ScriptedSocket) -> None:
    scripted.script = lambda _: iter(())
    async with AsyncXfrm() as xfrm:
        waiting = asyncio.create_task(xfrm.flush_sas())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        scripted.waiting = [ack(scripted.sent[0][0].sequence, errno.EPERM)]
        scripted.script = lambda frames: iter([ack(frames[0].sequence)])
        await xfrm.flush_policies()


async def test_a_batch_tells_what_failed(scripted: ScriptedSocket) -> None:
    def script(frames: list[Frame]) -> Iterator[Answer]:
        yield ack(frames[1].sequence, errno.ESRCH)
        yield ack(frames[-1].sequence)

    scripted.script = script
    batch = Batch()
    for spi in (256, 257, 258):
        batch.delete_sa(SaId(destination=SA.destination, spi=spi))
    async with AsyncXfrm() as xfrm:
        outcomes = await xfrm.run(batch)
    assert [error and error.errno for error in outcomes.errors] == [None, errno.ESRCH, None]


async def test_lost_answers_and_silence_are_errors(scripted: ScriptedSocket, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted.script = lambda _: iter([OSError(errno.ENOBUFS, "No buffer space available")])
    batch = Batch()
    batch.delete_sa(SA.id)
    async with AsyncXfrm() as xfrm:
        (error,) = (await xfrm.run(batch)).errors
        assert error is not None
        assert error.errno == errno.ENOBUFS
        monkeypatch.setattr(async_transport, "ANSWER_LIMIT_S", 0.0)
        scripted.script, scripted.sender = (lambda frames: iter([ack(frames[0].sequence)])), PROCESS
        with pytest.raises(XfrmError, match="ETIMEDOUT"):
            await xfrm.flush_sas()


async def test_on_a_socket_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pair of sockets, so that the event loop's own calls are used."""
    ours, kernels = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    monkeypatch.setattr(async_transport, "open_socket", lambda **_: ours)

    def answer() -> None:
        (frame,) = iterate_frames(kernels.recv(1 << 16))
        kernels.send(ack(frame.sequence, errno.EPERM))

    with kernels:
        loop = asyncio.get_running_loop()
        loop.add_reader(kernels, answer)
        # The sender of such a socket has no number; anything but the kernel's 0 is passed over.
        real = loop.sock_recvfrom

        async def sock_recvfrom(opened: socket.socket, size: int) -> tuple[bytes, tuple[int, int]]:
            return (await real(opened, size))[0], (0, 0)

        monkeypatch.setattr(loop, "sock_recvfrom", sock_recvfrom)
        async with AsyncXfrm() as xfrm:
            with pytest.raises(XfrmError, match="EPERM"):
                await xfrm.add_sa(SA)
        loop.remove_reader(kernels)
