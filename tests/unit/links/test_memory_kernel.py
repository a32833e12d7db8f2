"""The kernel in memory keeps the contract of `LinkKernel`, and refuses worlds that no kernel could be in."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from shamon_host.domain.errors import BackendFailed
from shamon_host.links.desired import BLOCK_ENTRIES
from shamon_host.links.model import (
    AddSa,
    AddSpdEntry,
    CreateTunnel,
    DeleteSas,
    DeleteSpdEntry,
    DeleteTunnel,
    OpenGate,
    Tunnel,
)
from shamon_host.links.ports import AcquireEvent, ChangedEvent, ExpireEvent, KernelEvent, LinkKernel
from shamon_host.testing.contracts.kernel import Bench, LinkKernelContract, link
from shamon_host.testing.contracts.kernel_batches import KernelBatchContract
from shamon_host.testing.contracts.kernel_changes import KernelChangesContract
from shamon_host.testing.contracts.kernel_limits import SaLimitsContract
from shamon_host.testing.kernel import MemoryKernel
from shamon_host.testing.kernel_selinux import SelinuxMode
from shamon_host.testing.wire import MemoryWire, WirePacket
from tests.unit.links.conftest import LEASE_S, RED, Host, ManualClock, frame, join


class MemoryBench:
    """A kernel in memory with a clock set by hand."""

    def __init__(
        self, selinux: SelinuxMode = SelinuxMode.ENFORCING, own: str = "192.0.2.1", peer: str = "192.0.2.2"
    ) -> None:
        self.own, self.peer = own, peer
        self.clock = ManualClock()
        self.memory = MemoryKernel([self.own], MemoryWire(), self.clock, selinux=selinux)
        self.kernel: LinkKernel = self.memory

    def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)

    def send(self, tunnel: Tunnel, datagrams: Sequence[bytes]) -> None:
        for datagram in datagrams:
            self.memory.send_from_socket(tunnel, datagram)

    def flush_policies(self) -> None:
        self.memory.flush_policies()

    def unseal(self, bridge: str) -> None:
        self.memory.unseal(bridge)

    def set_hairpin(self, bridge: str, interface: str) -> None:
        self.memory.set_hairpin(bridge, interface)

    def set_forwarding(self, value: str) -> None:
        self.memory.set_sysctl("net.ipv4.ip_forward", value)

    def damage_filter(self, device: str) -> None:
        self.memory.damage_filter(device)

    def events_of(self, disturb: Callable[[], None]) -> Sequence[KernelEvent]:
        events: list[KernelEvent] = []
        self.kernel.subscribe(events.append)
        disturb()
        return events

    def reopened(self) -> LinkKernel:
        self.kernel.close()
        return self.memory


class TestMemoryKernel(LinkKernelContract, KernelChangesContract, SaLimitsContract):
    @pytest.fixture
    def bench(self) -> Bench:
        return MemoryBench()


class TestMemoryKernelInBatches(KernelBatchContract):
    @pytest.fixture
    def bench(self) -> Bench:
        return MemoryBench()


class TestMemoryKernelOverIpv6(LinkKernelContract, KernelChangesContract):
    """The underlay's family makes no difference."""

    @pytest.fixture
    def bench(self) -> Bench:
        return MemoryBench(own="2001:db8::1", peer="2001:db8::2")


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1"])
def test_an_address_is_on_the_wire_once(address: str) -> None:
    wire, clock = MemoryWire(), ManualClock()
    kernel = MemoryKernel([address], wire, clock)
    with pytest.raises(ValueError, match="already"):
        MemoryKernel([address], wire, clock)
    kernel.power_off()
    MemoryKernel([address], wire, clock)


def test_with_selinux_off_labels_are_dropped_and_the_adapter_refuses() -> None:
    bench = MemoryBench(SelinuxMode.DISABLED)
    ours = link(bench)
    for operation in (
        AddSpdEntry(entry=ours.spd_entries[0]),
        AddSa(sa=ours.sa(inbound=True, spi=0x4711, key=b"k" * 36, lifetime_s=9)),
        CreateTunnel(tunnel=ours.tunnel),
    ):
        with pytest.raises(BackendFailed, match="label"):
            bench.kernel.apply([operation])
    state = bench.kernel.read()
    assert (state.sas, state.spd, state.tunnels) == (frozenset(), frozenset(), frozenset())
    bench.memory.put_sa(ours.sa(inbound=True, spi=0x4711, key=b"k" * 36, lifetime_s=9))
    assert [sa.context for sa in bench.kernel.read().sas] == [None]
    with pytest.raises(ValueError, match="boot"):
        bench.memory.selinux.set_enforcing(True)


def test_nothing_labelled_is_made_under_a_policy_that_is_not_fit() -> None:
    """What is there can be removed all the same."""
    bench = MemoryBench()
    ours = link(bench)
    sa = ours.sa(inbound=True, spi=0x4711, key=b"k" * 36, lifetime_s=9)
    entry, tunnel = AddSpdEntry(entry=ours.spd_entries[0]), CreateTunnel(tunnel=ours.tunnel)
    bench.kernel.apply([entry, AddSa(sa=sa), tunnel])
    told = bench.events_of(lambda: bench.memory.load_policy(permissive=["shamon_t"]))
    assert any(isinstance(event, ChangedEvent) and "policy" in event.what for event in told)
    assert "shamon_t" in bench.kernel.read().no_links_because
    for operation in (entry, AddSa(sa=replace(sa, spi=0x4712)), tunnel):
        with pytest.raises(BackendFailed, match="not fit"):
            bench.kernel.apply([operation])
    bench.kernel.apply([DeleteSas(ids=(sa.id,)), DeleteSpdEntry(entry=entry.entry)])
    bench.kernel.apply([DeleteTunnel(local_port=ours.local_port), AddSpdEntry(entry=BLOCK_ENTRIES[0])])
    bench.memory.set_enforcing(False)
    assert bench.kernel.read().no_links_because == "SELinux is not enforcing"


def test_impossible_worlds_are_refused() -> None:
    bench = MemoryBench()
    ours = link(bench)
    with pytest.raises(ValueError, match="key"):
        bench.memory.put_sa(replace(ours.sa(inbound=True, spi=0x4711, key=b"k" * 36, lifetime_s=9), key=None))
    with pytest.raises(ValueError, match="label"):
        bench.memory.put_policy(replace(ours.spd_entries[0], block=True))
    with pytest.raises(ValueError, match="end"):
        bench.kernel.apply([OpenGate(address=bench.peer, seconds=-1.0)])
    with pytest.raises(ValueError, match="frame"):
        bench.memory.send_from_tap("shvm0-0", frame("x"))
    with pytest.raises(ValueError, match="modelled"):
        bench.memory.set_sysctl("net.core.somaxconn", "1")
    with pytest.raises(ValueError, match="no filter"):
        bench.memory.damage_filter("shvm0-0")
    with pytest.raises(BackendFailed):
        bench.memory.plug_tap("shvm0-0", "shbr1", lambda _: None)


def test_acquire_is_told_once_for_a_while(alpha: Host, beta: Host) -> None:
    for host in (alpha, beta):
        host.links.reconcile({})
        host.start_vm("shvm0-0", RED)
    join(alpha, beta)
    events: list[KernelEvent] = []
    alpha.kernel.subscribe(events.append)
    alpha.kernel.flush_sas()
    for _ in range(3):
        alpha.kernel.send_from_tap("shvm0-0", frame("x"))
    acquired = [event for event in events if isinstance(event, AcquireEvent)]
    assert len(acquired) == 1
    assert acquired[0].destination == beta.address
    assert acquired[0].context == alpha.label_map.link_context(RED)
    alpha.clock.advance(31)
    alpha.kernel.send_from_tap("shvm0-0", frame("x"))
    assert len([event for event in events if isinstance(event, AcquireEvent)]) == 2


def test_expiry_is_told(alpha: Host, beta: Host) -> None:
    for host in (alpha, beta):
        host.links.reconcile({})
    join(alpha, beta)
    events: list[KernelEvent] = []
    alpha.kernel.subscribe(events.append)
    alpha.clock.advance(LEASE_S)
    alpha.kernel.read()
    assert len([event for event in events if isinstance(event, ExpireEvent) and event.hard]) == 2


def test_the_host_answers_its_bridges_only_without_a_guard(alpha: Host) -> None:
    alpha.links.reconcile({})
    alpha.start_vm("shvm0-0", RED)
    mac = bytes([2, 0, 0, 0, 0, 1])
    arp = bytes.fromhex("0001080006040001") + mac + bytes([10, 0, 0, 9]) + bytes(6) + bytes([192, 0, 2, 1])
    request = b"\xff" * 6 + mac + b"\x08\x06" + arp
    alpha.kernel.send_from_tap("shvm0-0", request)
    assert alpha.received["shvm0-0"] == []
    alpha.kernel.flush_nft()
    alpha.kernel.send_from_tap("shvm0-0", request)
    assert [answer[28:32] for answer in alpha.received["shvm0-0"]] == [bytes([192, 0, 2, 1])]


@pytest.mark.parametrize("payload", [b"", b"\0" * 12, b"\0" * 40, b"\xff" * 200])
def test_rubbish_on_the_wire_is_dropped(alpha: Host, wire: MemoryWire, payload: bytes) -> None:
    for protocol in (1, 17, 50):
        wire.inject(WirePacket(source="192.0.2.9", destination=alpha.address, protocol=protocol, payload=payload))
    assert alpha.kernel.read().tunnels == frozenset()
