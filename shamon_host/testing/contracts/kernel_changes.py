"""What every `links.ports.LinkKernel` notices when somebody changes bridges, ports or forwarding by hand: subclass
`KernelChangesContract`, give it a `bench` as for `contracts.kernel`.
"""

from collections.abc import Iterator

import pytest

from shamon_host.links.desired import bridge_name
from shamon_host.links.model import AttachPort, CreateBridge, CreateTunnel
from shamon_host.links.ports import ChangedEvent
from shamon_host.testing.contracts.kernel import CATEGORY, Bench, link


class KernelChangesContract:
    """The suite."""

    @pytest.fixture
    def bench(self) -> Bench | Iterator[Bench]:
        """As that of `LinkKernelContract`."""
        raise NotImplementedError

    def test_a_port_set_otherwise_is_told_and_set_right(self, bench: Bench) -> None:
        name, tunnel = bridge_name(CATEGORY), link(bench).tunnel
        attach = AttachPort(bridge=name, interface=tunnel.interface, isolated=True)
        bench.kernel.apply([CreateBridge(name=name), CreateTunnel(tunnel=tunnel), attach])
        assert bench.kernel.read().bridges[name].faulty == {}
        bench.set_hairpin(name, tunnel.interface)
        found = bench.kernel.read().bridges[name]
        assert (found.ports, found.faulty) == ({tunnel.interface: True}, {tunnel.interface: "hairpin is 1"})
        bench.kernel.apply([attach])
        found = bench.kernel.read().bridges[name]
        assert (found.ports, found.faulty) == ({tunnel.interface: True}, {})
        # Last: without a service manager the tunnel goes with what listens.
        events = bench.events_of(lambda: bench.set_hairpin(name, tunnel.interface))
        assert any(isinstance(event, ChangedEvent) for event in events)

    def test_forwarding_switched_on_is_told(self, bench: Bench) -> None:
        assert bench.kernel.read().sysctls["net.ipv4.ip_forward"] == "0"
        try:
            events = bench.events_of(lambda: bench.set_forwarding("1"))
            assert any(isinstance(event, ChangedEvent) for event in events)
            value, *_where = bench.kernel.read().sysctls["net.ipv4.ip_forward"].split()
            assert value == "1"
        finally:
            bench.set_forwarding("0")

    def test_an_unsealed_bridge_is_told(self, bench: Bench) -> None:
        name = bridge_name(CATEGORY)
        bench.kernel.apply([CreateBridge(name=name)])
        events = bench.events_of(lambda: bench.unseal(name))
        assert any(isinstance(event, ChangedEvent) for event in events)
