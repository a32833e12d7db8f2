"""Connections between peers and the host's daemon, through the MAC VM: bytes, in both directions, of which nothing is
looked at. They are the daemon's TLS.

From the network they come in at the host's address, and go to the daemon over the control wire. The daemon's own go out
by HTTP CONNECT (RFC 9110, section 9.3.6).
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from ipaddress import ip_address

from shamon_host.domain.errors import BadInput

MAX_CONNECTIONS = 256
"""From the network."""
MAX_OWN_CONNECTIONS = 192
"""The daemon's. Each takes two descriptors, of which a program has 1024."""
_CHUNK = 64 * 1024
_IDLE_S = 120.0
"""A connection over which nothing goes for so long is closed."""
_CONNECT_S = 20.0
_REST_S = 1.0
"""How long the other end of a connection has for the rest once the daemon has ended its own."""
_REQUEST_BYTES = 1024

Opened = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Relay:
    """Carries at most `MAX_CONNECTIONS` from the network at a time, and `MAX_OWN_CONNECTIONS` of the daemon's, whoever
    has taken those. Each until both ends are done, or soon after the daemon is."""

    def __init__(self) -> None:
        self._open = {"in": 0, "out": 0}

    async def through(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connect: Callable[[], Awaitable[Opened]]
    ) -> None:
        """Join a connection that came in from the network with one to the daemon, which `connect` opens."""
        await self._join("in", reader, writer, connect)

    async def proxied(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A connection of the daemon's that is to go out."""
        try:
            async with asyncio.timeout(_CONNECT_S):
                address, port = connect_target(await reader.readuntil(b"\r\n\r\n"))
        except (BadInput, asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError, OSError):
            writer.close()
            return

        async def connect() -> Opened:
            opened = await asyncio.open_connection(address, port)
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            return opened

        await self._join("out", reader, writer, connect)

    async def _join(
        self,
        way: str,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        connect: Callable[[], Awaitable[Opened]],
    ) -> None:
        if self._open[way] >= (MAX_CONNECTIONS if way == "in" else MAX_OWN_CONNECTIONS):
            writer.close()
            return
        self._open[way] += 1
        try:
            async with asyncio.timeout(_CONNECT_S):
                far = await connect()
            try:
                near = reader, writer
                await (_carry(far, near) if way == "in" else _carry(near, far))
            finally:
                far[1].close()
        except (OSError, TimeoutError):
            pass  # whoever came sees its connection closed
        finally:
            self._open[way] -= 1
            writer.close()


async def _carry(daemon: Opened, other: Opened) -> None:
    """Both ways, to the end. Raises OSError, TimeoutError; both are closed then, whoever still reads."""
    try:
        async with asyncio.timeout(None) as end:

            async def from_daemon() -> None:
                await _copy(daemon[0], other[1])
                end.reschedule(asyncio.get_running_loop().time() + _REST_S)

            await asyncio.gather(from_daemon(), _copy(other[0], daemon[1]))
    except (OSError, TimeoutError):
        other[1].transport.abort()
        daemon[1].transport.abort()
        raise


def connect_target(request: bytes) -> tuple[str, int]:
    """Address and TCP port of a CONNECT request, its empty line included. Raises BadInput."""
    line = request[:_REQUEST_BYTES].split(b"\r\n", 1)[0].decode("ascii", "replace")
    parts = line.split(" ")
    if len(parts) != 3 or parts[0] != "CONNECT" or parts[2] != "HTTP/1.1":
        raise BadInput("no CONNECT request", found=repr(line[:80]))
    host, _, port = parts[1].rpartition(":")
    try:
        address = str(ip_address(host.removeprefix("[").removesuffix("]")))
    except ValueError:
        raise BadInput("no address to connect to", found=repr(host[:80])) from None
    if not port.isdecimal() or not 0 < int(port[:6]) < 2**16:
        raise BadInput("no TCP port to connect to", found=repr(port[:20]))
    return address, int(port)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            async with asyncio.timeout(_IDLE_S):
                data = await reader.read(_CHUNK)
            if not data:
                break
            writer.write(data)
            async with asyncio.timeout(_IDLE_S):
                await writer.drain()
    finally:
        with suppress(OSError):
            writer.write_eof()
