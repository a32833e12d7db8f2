"""What goes through the MAC VM between peers and the daemon."""

import asyncio
import socket
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shamon_host.domain.errors import BadInput
from shamon_host.link_agent import relay as relay_module
from shamon_host.link_agent.relay import MAX_CONNECTIONS, Opened, Relay, connect_target


@pytest.mark.parametrize(
    ("request_line", "target"),
    [
        (b"CONNECT 192.0.2.2:7443 HTTP/1.1", ("192.0.2.2", 7443)),
        (b"CONNECT [2001:db8::2]:7443 HTTP/1.1", ("2001:db8::2", 7443)),
    ],
)
def test_where_the_daemon_wants_to_connect(request_line: bytes, target: tuple[str, int]) -> None:
    assert connect_target(request_line + b"\r\nHost: x\r\n\r\n") == target


@pytest.mark.parametrize(
    "request_line",
    [
        b"GET / HTTP/1.1",
        b"CONNECT host:7443 HTTP/1.1",
        b"CONNECT 192.0.2.2 HTTP/1.1",
        b"CONNECT 192.0.2.2:0 HTTP/1.1",
        b"CONNECT 192.0.2.2:99999999999999999999 HTTP/1.1",
        b"",
        b"\xff\xfe",
    ],
)
def test_anything_else_is_refused(request_line: bytes) -> None:
    with pytest.raises(BadInput):
        connect_target(request_line + b"\r\n\r\n")


@given(st.binary(max_size=300))
def test_no_bytes_break_it(request: bytes) -> None:
    with suppress(BadInput):
        connect_target(request)


async def pair() -> tuple[Opened, Opened]:
    near, far = socket.socketpair()
    return await asyncio.open_connection(sock=near), await asyncio.open_connection(sock=far)


async def test_bytes_go_both_ways_until_both_ends_are_done() -> None:
    (peer_reader, peer), (in_reader, inward) = await pair()
    (out_reader, outward), (daemon_reader, daemon) = await pair()

    async def connect() -> Opened:
        return out_reader, outward

    carried = asyncio.create_task(Relay().through(in_reader, inward, connect))
    peer.write(b"hello")
    peer.write_eof()
    assert await daemon_reader.read() == b"hello"
    daemon.write(b"good day")
    daemon.close()
    assert await peer_reader.read() == b"good day"
    await carried
    for writer in (peer, inward, outward, daemon):
        writer.close()
        await writer.wait_closed()


async def test_a_connection_that_cannot_go_on_is_closed() -> None:
    (peer_reader, peer), (in_reader, inward) = await pair()

    async def connect() -> Opened:
        raise ConnectionRefusedError

    await Relay().through(in_reader, inward, connect)
    assert await peer_reader.read() == b""
    peer.close()
    await peer.wait_closed()


async def test_there_is_an_end_to_how_many() -> None:
    relay, waits = Relay(), asyncio.Event()

    async def connect() -> Opened:
        await waits.wait()
        raise ConnectionRefusedError

    ends, tasks = [], []
    for _ in range(MAX_CONNECTIONS):
        (_, peer), (in_reader, inward) = await pair()
        ends += [peer, inward]
        tasks.append(asyncio.create_task(relay.through(in_reader, inward, connect)))
    await asyncio.sleep(0)
    (peer_reader, peer), (in_reader, inward) = await pair()
    await relay.through(in_reader, inward, connect)
    assert await peer_reader.read() == b""
    waits.set()
    await asyncio.gather(*tasks)
    for writer in (*ends, peer, inward):
        writer.close()
        await writer.wait_closed()


async def test_strangers_do_not_keep_the_daemon_from_its_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who does not end its side of what the daemon has ended has no more of it, and never had a place of the daemon's
    own connections."""
    monkeypatch.setattr(relay_module, "_REST_S", 0.01)
    relay, ends, tasks = Relay(), [], []
    for _ in range(MAX_CONNECTIONS):
        (_, peer), (in_reader, inward) = await pair()
        far, (_, daemon) = await pair()

        async def connect(opened: Opened = far) -> Opened:
            return opened

        ends += [peer, inward, far[1], daemon]
        tasks.append(asyncio.create_task(relay.through(in_reader, inward, connect)))
    await asyncio.sleep(0)
    listener = await asyncio.start_server(_close, "127.0.0.1", 0)
    (reader, own), (out_reader, outward) = await pair()
    own.write(b"CONNECT 127.0.0.1:%d HTTP/1.1\r\n\r\n" % listener.sockets[0].getsockname()[1])
    proxied = asyncio.create_task(relay.proxied(out_reader, outward))
    assert (await reader.read(15)).startswith(b"HTTP/1.1 200")
    own.close()
    for daemon in ends[3::4]:
        daemon.close()  # no handshake in its time
    async with asyncio.timeout(30):
        await asyncio.gather(proxied, *tasks)
    listener.close()
    for writer in (*ends, own, outward):
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def _close(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()
