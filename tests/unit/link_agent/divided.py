"""A host in the profile `vm` in memory: two kernels, joined by the real agent over a pair of sockets."""

import asyncio
import socket
import threading
from collections.abc import Callable, Sequence

from shamon_host.link_agent.agent import LinkAgent
from shamon_host.link_agent.divided_kernel import DividedKernel
from shamon_host.link_agent.remote_kernel import RemoteLinkKernel
from shamon_host.link_agent.setup import MacVmSetup, host_uplink, uplink
from shamon_host.links.desired import bridge_name
from shamon_host.links.model import Tunnel
from shamon_host.links.ports import KernelEvent, LinkKernel
from shamon_host.testing.kernel import MemoryKernel
from shamon_host.testing.wire import MemoryWire
from tests.unit.links.conftest import ManualClock

BRIDGES = tuple(bridge_name(category) for category in range(1, 20))
SETUP = MacVmSetup(
    network_mac="52:54:00:00:00:01",
    address="192.0.2.1/24",
    gateway="",
    port=7443,
    daemon_port=7443,
    uplinks=tuple((bridge, f"52:54:00:00:01:{index:02x}") for index, bridge in enumerate(BRIDGES)),
)


class AgentThread:
    """The agent on an event loop of its own, as in its own VM; ends with `stop`."""

    def __init__(self, kernel: LinkKernel, set_up: Callable[[MacVmSetup], None] = lambda _: None) -> None:
        self.agent = LinkAgent(kernel, set_up, "boot-1", lambda: ("avc:  denied one",))
        self._runs = threading.Event()
        self._served: list[object] = []
        """What is forgotten, the loop may forget too."""
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self._thread.start()
        self._runs.wait(10)

    def connect(self) -> socket.socket:
        """A connection to it, as over the control wire."""
        near, far = socket.socketpair()
        self._served.append(asyncio.run_coroutine_threadsafe(self._serve(far), self.loop))
        return near

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(10)

    async def _run(self) -> None:
        self.loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        self.agent.start()
        self._runs.set()
        await self._ended.wait()

    async def _serve(self, far: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=far)
        await self.agent.serve(reader, writer)


class DividedBench:
    """What the contract asks for, by hand in the half where it belongs."""

    def __init__(self, own: str = "192.0.2.1", peer: str = "192.0.2.2") -> None:
        self.own, self.peer = own, peer
        self.clock = ManualClock()
        self.host = MemoryKernel([], MemoryWire(), self.clock)
        self.mac_vm = MemoryKernel([own], MemoryWire(), self.clock)
        for bridge in BRIDGES:
            self.host.add_tap(host_uplink(bridge), lambda _: None)
            self.mac_vm.add_tap(uplink(bridge), lambda _: None)
        self.agent = AgentThread(self.mac_vm)
        self.remote = RemoteLinkKernel(self.agent.connect)
        self.remote.setup = lambda: SETUP
        self.divided = DividedKernel(host=self.host, mac_vm=self.remote)
        self.kernel: LinkKernel = self.divided

    def close(self) -> None:
        self.divided.close()
        self.agent.stop()

    def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)

    def send(self, tunnel: Tunnel, datagrams: Sequence[bytes]) -> None:
        for datagram in datagrams:
            self.mac_vm.send_from_socket(tunnel, datagram)

    def flush_policies(self) -> None:
        self.mac_vm.flush_policies()

    def unseal(self, bridge: str) -> None:
        self.mac_vm.unseal(bridge)

    def set_hairpin(self, bridge: str, interface: str) -> None:
        self.mac_vm.set_hairpin(bridge, interface)

    def set_forwarding(self, value: str) -> None:
        self.mac_vm.set_sysctl("net.ipv4.ip_forward", value)

    def damage_filter(self, device: str) -> None:
        self.host.damage_filter(device)

    def events_of(self, disturb: Callable[[], None]) -> Sequence[KernelEvent]:
        """Of both halves, each as it is told: how those of the MAC VM cross the wire has a test of its own."""
        events: list[KernelEvent] = []
        self.host.subscribe(events.append)
        self.mac_vm.subscribe(events.append)
        disturb()
        return events

    def reopened(self) -> LinkKernel:
        """The daemon starts again; the MAC VM and its agent go on."""
        self.divided.close()
        self.remote = RemoteLinkKernel(self.agent.connect)
        self.remote.setup = lambda: SETUP
        self.divided = DividedKernel(host=self.host, mac_vm=self.remote)
        self.kernel = self.divided
        return self.divided
