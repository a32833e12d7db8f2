"""The MAC VM's interfaces as the host wants them, and the listener towards peers that follows from its address."""

import asyncio
from concurrent.futures import TimeoutError as NotInTime
from dataclasses import dataclass, field
from ipaddress import ip_interface
from typing import Protocol

from shamon_host.domain.errors import BackendFailed
from shamon_host.link_agent.relay import Opened, Relay
from shamon_host.link_agent.setup import HOST_ADDRESS, NETWORK_INTERFACE, MacVmSetup, uplink

_LISTEN_S = 20.0


class NameInterface(Protocol):
    """`links.linux_interfaces.name_interface`."""

    def __call__(self, mac: str, name: str, *, address: str = "", gateway: str = "", up: bool = True) -> None: ...


@dataclass(kw_only=True)
class MacVmInterfaces:
    """`loop`: where connections are carried; `set_up` is called from another thread."""

    name: NameInterface
    loop: asyncio.AbstractEventLoop
    relay: Relay
    _listener: asyncio.Server | None = field(default=None, repr=False)
    _listens: tuple[str, int, int] | None = field(default=None, repr=False)

    def set_up(self, setup: MacVmSetup) -> None:
        """Raises BackendFailed."""
        self.name(setup.network_mac, NETWORK_INTERFACE, address=setup.address, gateway=setup.gateway)
        for bridge, mac in setup.uplinks:
            # Down until it is a port of its bridge (`links.linux_bridges`).
            self.name(mac, uplink(bridge), up=False)
        try:
            asyncio.run_coroutine_threadsafe(self._listen(setup), self.loop).result(_LISTEN_S)
        except (OSError, NotInTime) as error:
            raise BackendFailed(
                "the MAC VM cannot listen for peers", where=setup.address, found=str(error)[:200]
            ) from error

    async def _listen(self, setup: MacVmSetup) -> None:
        wanted = (str(ip_interface(setup.address).ip), setup.port, setup.daemon_port)
        if wanted == self._listens:
            return
        if self._listener is not None:
            self._listener.close()
        address, port, daemon_port = wanted

        async def to_daemon() -> Opened:
            return await asyncio.open_connection(HOST_ADDRESS, daemon_port)

        async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self.relay.through(reader, writer, to_daemon)

        self._listener = await asyncio.start_server(carry, address, port)
        self._listens = wanted
