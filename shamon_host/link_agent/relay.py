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
_CHUNK = 64 * 1024
_IDLE_S = 120.0
"""A connection over which nothing goes for so long is closed."""
_CONNECT_S = 20.0
_REQUEST_BYTES = 1024

Opened = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Relay:
    """Carries at most `MAX_CONNECTIONS` at a time, each until both ends are done."""

    def __init__(self) -> None:
        self._open = 0

    async def through(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connect: Callable[[], Awaitable[Opened]]
    ) -> None:
        """Join a connection that came in with one that `connect` opens."""
        if self._open >= MAX_CONNECTIONS:
            writer.close()
            return
        self._open += 1
        try:
            async with asyncio.timeout(_CONNECT_S):
                far_reader, far_writer = await connect()
            try:
                await asyncio.gather(_copy(reader, far_writer), _copy(far_reader, writer))
            finally:
                far_writer.close()
        except (OSError, TimeoutError):
            pass  # whoever came sees its connection closed
        finally:
            self._open -= 1
            writer.close()

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

        await self.through(reader, writer, connect)


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
