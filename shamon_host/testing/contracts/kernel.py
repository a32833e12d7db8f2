"""What every `links.ports.LinkKernel` must do: subclass `LinkKernelContract`, give it a `bench`.

Runs on the kernel in memory in the unit tests, and on Linux in a lab host that enforces SELinux. What filters of taps
let pass is in `contracts.kernel_filters`, what is noticed of changes by hand in `contracts.kernel_changes`, what
happens at limits of SAs in `contracts.kernel_limits`.
"""

import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Protocol

import pytest

from shamon_host.domain.errors import BackendFailed
from shamon_host.domain.labels import HostName, SelinuxContext, TypeName
from shamon_host.links.desired import BLOCK_ENTRIES, DesiredLink, DesiredState, bridge_name
from shamon_host.links.frame_facts import PortProtocol, PortRule
from shamon_host.links.model import (
    PORT_BLOCK_FIRST,
    AddSa,
    AddSpdEntry,
    AttachPort,
    ClearTapFilter,
    CloseGate,
    ClosePassage,
    CreateBridge,
    CreateTunnel,
    DeleteBridge,
    DeleteSas,
    DeleteSpdEntry,
    DeleteTunnel,
    DetachPort,
    Direction,
    InstallGuard,
    OpenGate,
    OpenPassage,
    Operation,
    SaId,
    SetTapFilter,
    SpdEntry,
    Tunnel,
)
from shamon_host.links.network_state import SYSCTLS
from shamon_host.links.planner import missing_sas, plan
from shamon_host.links.ports import ChangedEvent, KernelEvent, LinkKernel, Traffic
from shamon_host.links.tap_filter import TapFilter, shut

CATEGORY = 7
LIFETIME_S = 60
TAP = "shvm99-9"
"""Of no VM: a filter does not need one."""
WHOLE = TapFilter(
    device=TAP,
    sends=False,
    peers=frozenset({"02:00:00:00:00:01", "02:00:00:00:00:02"}),
    ports=(PortRule(protocol=PortProtocol.TCP, port=443), PortRule(protocol=PortProtocol.UDP, port=53)),
    rate_bytes_s=1_250_000,
)
FILTERS = (
    TapFilter(device=TAP),
    shut(TAP),
    WHOLE,
    TapFilter(device=TAP, receives=False),
    TapFilter(device=TAP, peers=frozenset()),
    TapFilter(device=TAP, ports=()),
    TapFilter(device=TAP, rate_bytes_s=3 << 20),
    TapFilter(device=TAP, open_s=0.0),
)
DROPS = ("guard_out", "guard_in", "gate_out", "gate_in", "host_in", "host_out", "host_forward")


class Bench(Protocol):
    """A kernel of a host that enforces SELinux, and what the contract does around it."""

    kernel: LinkKernel
    own: str
    """An address of the host."""
    peer: str
    """An address of the same family that nobody need answer at."""

    def pass_time(self, seconds: float) -> None: ...

    def send(self, tunnel: Tunnel, datagrams: Sequence[bytes]) -> None:
        """Send UDP datagrams from a socket of the tunnel's label and ports, while there is no such tunnel. One that
        the kernel drops is no error."""
        ...

    def flush_policies(self) -> None:
        """Flush the SPD by hand, behind the kernel adapter's back."""
        ...

    def unseal(self, bridge: str) -> None:
        """Give the bridge an address by hand."""
        ...

    def set_hairpin(self, bridge: str, interface: str) -> None:
        """Switch hairpin on at a port of the bridge, by hand."""
        ...

    def set_forwarding(self, value: str) -> None:
        """Set net.ipv4.ip_forward by hand."""
        ...

    def damage_filter(self, device: str) -> None:
        """Take a rule out of a tap's filter by hand."""
        ...

    def events_of(self, disturb: Callable[[], None]) -> Sequence[KernelEvent]:
        """What a subscriber is told when `disturb` is called."""
        ...

    def reopened(self) -> LinkKernel:
        """Close the kernel's handles and open them anew, as the next run of the daemon does."""
        ...


class LinkKernelContract:
    """The suite. Nothing of ours but the guard is in the kernel before a test or after it."""

    @pytest.fixture
    def bench(self) -> Bench | Iterator[Bench]:
        """A bench whose kernel has been emptied, and is emptied afterwards (`empty`)."""
        raise NotImplementedError

    # Guard and gate

    def test_the_guard_is_installed_and_reads_back(self, bench: Bench) -> None:
        for _ in range(2):
            bench.kernel.apply([InstallGuard()])
            assert bench.kernel.read().guard

    def test_a_gate_opens_is_set_anew_and_closes(self, bench: Bench) -> None:
        bench.kernel.apply([InstallGuard()])
        for seconds in (30.0, 90.0, 20.0):
            bench.kernel.apply([OpenGate(address=bench.peer, seconds=seconds)])
            assert seconds - 5 < bench.kernel.read().gate[bench.peer] <= seconds
        for _ in range(2):
            bench.kernel.apply([CloseGate(address=bench.peer)])
            assert bench.peer not in bench.kernel.read().gate

    def test_a_gate_closes_by_itself(self, bench: Bench) -> None:
        bench.kernel.apply([InstallGuard(), OpenGate(address=bench.peer, seconds=2.0)])
        bench.pass_time(3.5)
        assert bench.peer not in bench.kernel.read().gate

    def test_a_new_guard_has_closed_gates(self, bench: Bench) -> None:
        bench.kernel.apply([InstallGuard(), OpenGate(address=bench.peer, seconds=60.0), InstallGuard()])
        assert bench.kernel.read().gate == {}

    def test_a_gate_of_either_family(self, bench: Bench) -> None:
        bench.kernel.apply([InstallGuard()])
        for address in ("192.0.2.99", "2001:db8::99"):
            bench.kernel.apply([OpenGate(address=address, seconds=60.0)])
        assert set(bench.kernel.read().gate) == {"192.0.2.99", "2001:db8::99"}

    def test_drops_are_counted_by_name(self, bench: Bench) -> None:
        bench.kernel.apply([InstallGuard()])
        counters = bench.kernel.counters()
        assert {name: counters[name] for name in DROPS} == dict.fromkeys(DROPS, 0)
        assert counters["XfrmInPolBlock"] >= 0

    # SPD

    def test_block_entries_are_kept_whole(self, bench: Bench) -> None:
        for _ in range(2):
            bench.kernel.apply([AddSpdEntry(entry=entry) for entry in BLOCK_ENTRIES])
            assert bench.kernel.read().spd == set(BLOCK_ENTRIES)

    def test_labelled_entries_are_kept_whole_and_go(self, bench: Bench) -> None:
        entries = link(bench).spd_entries
        bench.kernel.apply([AddSpdEntry(entry=entry) for entry in entries])
        assert bench.kernel.read().spd == set(entries)
        for _ in range(2):
            bench.kernel.apply([DeleteSpdEntry(entry=entries[0])])
            assert bench.kernel.read().spd == {entries[1]}

    def test_entries_that_differ_in_their_label_alone_are_two(self, bench: Bench) -> None:
        first = link(bench).spd_entries[0]
        second = replace(first, context=context("shamon_spd_t", CATEGORY + 1))
        bench.kernel.apply([AddSpdEntry(entry=first), AddSpdEntry(entry=second)])
        assert bench.kernel.read().spd == {first, second}
        bench.kernel.apply([DeleteSpdEntry(entry=first)])
        assert bench.kernel.read().spd == {second}

    def test_an_entry_takes_the_place_of_one_with_its_selector(self, bench: Bench) -> None:
        entry = BLOCK_ENTRIES[0]
        bench.kernel.apply([AddSpdEntry(entry=replace(entry, priority=17)), AddSpdEntry(entry=entry)])
        assert bench.kernel.read().spd == {entry}

    # SAs

    def test_spis_are_reserved_one_at_a_time(self, bench: Bench) -> None:
        spis = [bench.kernel.allocate_spi(source=bench.peer, destination=bench.own) for _ in range(4)]
        assert len(set(spis)) == 4
        assert min(spis) >= 0x100
        assert bench.kernel.read().sas == frozenset()
        bench.kernel.apply([DeleteSas(ids=tuple(SaId(destination=bench.own, spi=spi) for spi in spis))])

    def test_an_sa_is_installed_on_a_reserved_spi(self, bench: Bench) -> None:
        spi = bench.kernel.allocate_spi(source=bench.peer, destination=bench.own)
        sa = link(bench).sa(inbound=True, spi=spi, key=secrets.token_bytes(36), lifetime_s=LIFETIME_S)
        bench.kernel.apply([AddSa(sa=sa)])
        (found,) = bench.kernel.read().sas
        assert found == sa
        assert found.key is None
        assert found.packets == 0

    def test_a_key_is_installed_once(self, bench: Bench) -> None:
        sa = link(bench).sa(inbound=False, spi=0x4711, key=secrets.token_bytes(36), lifetime_s=LIFETIME_S)
        bench.kernel.apply([AddSa(sa=sa)])
        with pytest.raises(BackendFailed):
            bench.kernel.apply([AddSa(sa=replace(sa, key=secrets.token_bytes(36)))])
        assert bench.kernel.read().sas == {sa}

    def test_sas_go_in_one_batch_with_those_that_are_gone(self, bench: Bench) -> None:
        ours = link(bench)
        sas = [ours.sa(inbound=False, spi=0x4711 + n, key=secrets.token_bytes(36), lifetime_s=60) for n in range(3)]
        bench.kernel.apply([AddSa(sa=sa) for sa in sas])
        stranger = SaId(destination=bench.peer, spi=0x9999)
        bench.kernel.apply([DeleteSas(ids=(sas[0].id, stranger, sas[2].id))])
        assert bench.kernel.read().sas == {sas[1]}

    def test_an_sa_ends_with_its_lifetime(self, bench: Bench) -> None:
        sa = link(bench).sa(inbound=False, spi=0x4711, key=secrets.token_bytes(36), lifetime_s=2)
        bench.kernel.apply([AddSa(sa=sa)])
        bench.pass_time(4)
        assert bench.kernel.read().sas == frozenset()

    def test_an_unknown_label_is_refused(self, bench: Bench) -> None:
        sa = link(bench).sa(inbound=False, spi=0x4711, key=secrets.token_bytes(36), lifetime_s=LIFETIME_S)
        with pytest.raises(BackendFailed):
            bench.kernel.apply([AddSa(sa=replace(sa, context=context("no_such_type_t", CATEGORY)))])
        assert bench.kernel.read().sas == frozenset()

    # Tunnels and bridges

    def test_a_tunnel_has_its_label_and_goes(self, bench: Bench) -> None:
        tunnel = link(bench).tunnel
        bench.kernel.apply([CreateTunnel(tunnel=tunnel)])
        assert bench.kernel.read().tunnels == {tunnel}
        with pytest.raises(BackendFailed):
            bench.kernel.apply(
                [CreateTunnel(tunnel=replace(tunnel, local="198.51.100.1", local_port=PORT_BLOCK_FIRST))]
            )
        assert bench.kernel.read().tunnels == {tunnel}
        for _ in range(2):
            bench.kernel.apply([DeleteTunnel(local_port=tunnel.local_port)])
            assert bench.kernel.read().tunnels == frozenset()
        bench.kernel.apply([CreateTunnel(tunnel=tunnel)])
        assert bench.kernel.read().tunnels == {tunnel}

    def test_tunnels_of_two_types_stand_side_by_side(self, bench: Bench) -> None:
        tunnels = {link(bench, number=number).tunnel for number in range(3)}
        bench.kernel.apply([CreateTunnel(tunnel=tunnel) for tunnel in tunnels])
        assert bench.kernel.read().tunnels == tunnels

    @pytest.mark.parametrize("gives", [True, False])
    def test_a_passage_opens_beside_a_tunnel_and_goes(self, bench: Bench, *, gives: bool) -> None:
        tunnel, passage = link(bench).tunnel, link(bench).passage(gives=gives)
        with pytest.raises(BackendFailed):
            bench.kernel.apply([OpenPassage(passage=passage)])
        bench.kernel.apply([InstallGuard(), CreateTunnel(tunnel=tunnel)])
        for _ in range(2):
            bench.kernel.apply([OpenPassage(passage=passage)])
            state = bench.kernel.read()
            assert state.passages == {passage}
            assert (state.tunnels, state.foreign) == (frozenset({tunnel}), ())
        with pytest.raises(BackendFailed):
            bench.kernel.apply([OpenPassage(passage=link(bench).passage(gives=not gives))])
        assert bench.kernel.read().passages <= {passage}
        for _ in range(2):
            bench.kernel.apply([ClosePassage(local_port=tunnel.local_port)])
            state = bench.kernel.read()
            assert not state.passages
            assert state.tunnels == {tunnel}

    def test_a_passage_goes_with_its_tunnel(self, bench: Bench) -> None:
        tunnel, passage = link(bench).tunnel, link(bench).passage(gives=True)
        bench.kernel.apply([InstallGuard(), CreateTunnel(tunnel=tunnel), OpenPassage(passage=passage)])
        bench.kernel.apply([DeleteTunnel(local_port=tunnel.local_port)])
        state = bench.kernel.read()
        assert not state.passages | state.tunnels
        assert state.foreign == ()
        bench.kernel.apply([ClosePassage(local_port=tunnel.local_port), CreateTunnel(tunnel=tunnel)])
        bench.kernel.apply([OpenPassage(passage=passage)])
        assert bench.kernel.read().passages == {passage}

    def test_a_bridge_is_sealed_and_goes(self, bench: Bench) -> None:
        name = bridge_name(CATEGORY)
        for _ in range(2):
            bench.kernel.apply([CreateBridge(name=name)])
            bridge = bench.kernel.read().bridges[name]
            assert bridge.sealed
            assert bridge.ports == {}
        for _ in range(2):
            bench.kernel.apply([DeleteBridge(name=name)])
            assert bench.kernel.read().bridges == {}

    def test_a_bridge_with_an_address_is_not_sealed_until_it_is_sealed_again(self, bench: Bench) -> None:
        name = bridge_name(CATEGORY)
        bench.kernel.apply([CreateBridge(name=name)])
        bench.unseal(name)
        assert not bench.kernel.read().bridges[name].sealed
        bench.kernel.apply([CreateBridge(name=name)])
        assert bench.kernel.read().bridges[name].sealed

    def test_ports_have_their_flag_and_come_off(self, bench: Bench) -> None:
        name, tunnel = bridge_name(CATEGORY), link(bench).tunnel
        bench.kernel.apply([CreateBridge(name=name), CreateTunnel(tunnel=tunnel)])
        for isolated in (True, False, True):
            bench.kernel.apply([AttachPort(bridge=name, interface=tunnel.interface, isolated=isolated)])
            assert bench.kernel.read().bridges[name].ports == {tunnel.interface: isolated}
        for _ in range(2):
            bench.kernel.apply([DetachPort(interface=tunnel.interface)])
            assert bench.kernel.read().bridges[name].ports == {}

    def test_devices_are_counted_from_the_first_on(self, bench: Bench) -> None:
        name, tunnel = bridge_name(CATEGORY), link(bench).tunnel
        bench.kernel.apply([CreateBridge(name=name), CreateTunnel(tunnel=tunnel)])
        traffic = bench.kernel.traffic()
        assert traffic[name].up
        assert traffic[tunnel.interface] == Traffic(up=False)
        bench.kernel.apply([AttachPort(bridge=name, interface=tunnel.interface, isolated=True)])
        assert bench.kernel.traffic()[tunnel.interface].up
        bench.kernel.apply([DetachPort(interface=tunnel.interface)])
        assert not bench.kernel.traffic()[tunnel.interface].up
        bench.kernel.apply([DeleteTunnel(local_port=tunnel.local_port), DeleteBridge(name=name)])
        assert not {name, tunnel.interface} & bench.kernel.traffic().keys()

    def test_a_port_moves_from_bridge_to_bridge(self, bench: Bench) -> None:
        first, second, tunnel = bridge_name(CATEGORY), bridge_name(CATEGORY + 1), link(bench).tunnel
        bench.kernel.apply([CreateBridge(name=first), CreateBridge(name=second), CreateTunnel(tunnel=tunnel)])
        for name in (first, second):
            bench.kernel.apply([AttachPort(bridge=name, interface=tunnel.interface, isolated=True)])
        bridges = bench.kernel.read().bridges
        assert bridges[first].ports == {}
        assert bridges[second].ports == {tunnel.interface: True}

    def test_a_port_goes_with_its_tunnel(self, bench: Bench) -> None:
        name, tunnel = bridge_name(CATEGORY), link(bench).tunnel
        bench.kernel.apply([CreateBridge(name=name), CreateTunnel(tunnel=tunnel)])
        bench.kernel.apply([AttachPort(bridge=name, interface=tunnel.interface, isolated=True)])
        bench.kernel.apply([DeleteTunnel(local_port=tunnel.local_port)])
        assert bench.kernel.read().bridges[name].ports == {}

    def test_what_is_not_there_cannot_be_attached(self, bench: Bench) -> None:
        bench.kernel.apply([CreateBridge(name=bridge_name(CATEGORY))])
        with pytest.raises(BackendFailed):
            bench.kernel.apply([AttachPort(bridge=bridge_name(CATEGORY), interface="shvm99-9", isolated=False)])

    def test_no_operation_on_what_is_gone_fails(self, bench: Bench) -> None:
        ours = link(bench)
        gone: list[Operation] = [
            CloseGate(address=bench.peer),
            DetachPort(interface="shvm99-9"),
            DeleteSas(ids=(SaId(destination=bench.peer, spi=0x9999),)),
            DeleteTunnel(local_port=ours.local_port),
            DeleteSpdEntry(entry=ours.spd_entries[0]),
            DeleteBridge(name=bridge_name(CATEGORY)),
        ]
        bench.kernel.apply(gone)

    # Filters of taps

    def test_a_filter_reads_back_and_takes_the_place_of_the_one_before(self, bench: Bench) -> None:
        for limits in FILTERS:
            bench.kernel.apply([SetTapFilter(filter=limits)])
            state = bench.kernel.read()
            assert (state.filters, state.changed_filters) == ({TAP: limits}, {})
        for _ in range(2):
            bench.kernel.apply([ClearTapFilter(device=TAP)])
            assert bench.kernel.read().filters == {}

    def test_filters_of_two_taps_are_two(self, bench: Bench) -> None:
        other = replace(WHOLE, device="shvm99-8", receives=False)
        for first in (shut(TAP), WHOLE):
            bench.kernel.apply([SetTapFilter(filter=limits) for limits in (first, other, WHOLE)])
            assert bench.kernel.read().filters == {TAP: WHOLE, other.device: other}
        bench.kernel.apply([ClearTapFilter(device=TAP)])
        assert bench.kernel.read().filters == {other.device: other}

    def test_a_window_is_set_anew_and_closes_by_itself(self, bench: Bench) -> None:
        for seconds in (60.7, 90.0, 20.0):
            bench.kernel.apply([SetTapFilter(filter=replace(WHOLE, open_s=seconds))])
            found = bench.kernel.read().filters[TAP]
            assert seconds - 6 < (found.open_s or 0) <= seconds
            assert found.without_window() == WHOLE
        bench.kernel.apply([SetTapFilter(filter=replace(WHOLE, open_s=2.0))])
        bench.pass_time(3.5)
        assert bench.kernel.read().filters == {TAP: replace(WHOLE, open_s=0.0)}

    def test_a_new_guard_leaves_filters_alone(self, bench: Bench) -> None:
        bench.kernel.apply([SetTapFilter(filter=WHOLE), InstallGuard()])
        state = bench.kernel.read()
        assert state.guard
        assert state.filters == {TAP: WHOLE}

    def test_a_changed_filter_is_told_and_can_be_set_and_cleared(self, bench: Bench) -> None:
        repairs: tuple[tuple[Operation, set[str]], ...] = (
            (SetTapFilter(filter=WHOLE), {TAP}),
            (ClearTapFilter(device=TAP), set()),
        )
        for repair, left in repairs:
            bench.kernel.apply([SetTapFilter(filter=WHOLE)])
            events = bench.events_of(lambda: bench.damage_filter(TAP))
            assert any(isinstance(event, ChangedEvent) for event in events)
            state = bench.kernel.read()
            assert state.filters == {}
            assert set(state.changed_filters) == {TAP}
            bench.kernel.apply([repair])
            state = bench.kernel.read()
            assert (set(state.filters), state.changed_filters) == (left, {})

    @pytest.mark.parametrize("name", ["eth0", "", "shvm0 ", "shvm0-0;", "shvm*", "shvm0-0\n", "shvm" + "0" * 12])
    def test_only_taps_have_filters(self, bench: Bench, name: str) -> None:
        with pytest.raises(BackendFailed):
            bench.kernel.apply([ClearTapFilter(device=name)])

    # The whole

    def test_operations_stop_at_the_first_that_fails_and_it_is_named(self, bench: Bench) -> None:
        bridge = bridge_name(CATEGORY)
        with pytest.raises(BackendFailed, match="shvm99-9"):
            bench.kernel.apply(
                [
                    CreateBridge(name=bridge),
                    AttachPort(bridge=bridge, interface="shvm99-9", isolated=False),
                    CreateBridge(name=bridge_name(CATEGORY + 1)),
                ]
            )
        assert set(bench.kernel.read().bridges) == {bridge}

    def test_a_planned_link_is_what_is_read_back(self, bench: Bench) -> None:
        desired, installed = whole(bench)
        bench.kernel.apply(plan(desired, bench.kernel.read()))
        state = bench.kernel.read()
        assert plan(installed, state) == ()
        assert missing_sas(installed, state) == ()
        assert (state.selinux_enforcing, state.selinux_missing, state.no_links_because) == (True, (), "")
        assert set(state.sysctls) == set(SYSCTLS)
        assert set(state.filters) == {TAP}
        bench.kernel.apply(plan(DesiredState(filters={}), state))
        state = bench.kernel.read()
        assert state.filters == {}
        assert (state.tunnels, state.sas, state.bridges, state.gate) == (frozenset(), frozenset(), {}, {})
        assert state.spd == set(BLOCK_ENTRIES)
        assert state.guard

    def test_a_new_run_finds_what_the_last_one_left(self, bench: Bench) -> None:
        desired, _ = whole(bench)
        bench.kernel.apply(plan(desired, bench.kernel.read()))
        before = bench.kernel.read()
        bench.kernel = bench.reopened()
        after = bench.kernel.read()
        assert replace(after, gate={}) == replace(before, gate={})
        assert set(after.gate) == set(before.gate)

    def test_a_foreign_entry_is_told_and_can_be_deleted(self, bench: Bench) -> None:
        """What `ip xfrm policy flush` leaves is nothing; what a foreign entry is, its words say."""
        entry = SpdEntry(
            direction=Direction.OUT,
            family=4,
            source="",
            destination="",
            source_port=0,
            source_port_mask=0,
            destination_port=0,
            destination_port_mask=0,
            priority=5,
            block=True,
        )
        bench.kernel.apply([AddSpdEntry(entry=entry)])
        found = [item for item in bench.kernel.read().spd if item.priority == 5]
        bench.kernel.apply([DeleteSpdEntry(entry=item) for item in found])
        assert len(found) == 1
        assert bench.kernel.read().spd == frozenset()

    def test_a_change_by_somebody_else_is_told(self, bench: Bench) -> None:
        bench.kernel.apply([AddSpdEntry(entry=entry) for entry in BLOCK_ENTRIES])
        events = bench.events_of(bench.flush_policies)
        assert any(isinstance(event, ChangedEvent) for event in events)
        assert bench.kernel.read().spd == frozenset()

    def test_its_own_changes_are_not_told(self, bench: Bench) -> None:
        desired, _ = whole(bench)
        operations = plan(desired, bench.kernel.read())
        events = bench.events_of(lambda: bench.kernel.apply(operations))
        told = [event.what for event in events if isinstance(event, ChangedEvent)]
        assert not told, told


def context(type_name: str, category: int) -> SelinuxContext:
    """A context of the shipped policy, for this category."""
    return SelinuxContext(user="system_u", role="object_r", type=type_name, categories=frozenset({category}))


def link(bench: Bench, *, number: int = 0) -> DesiredLink:
    """A link to the peer; links of different numbers have different types."""
    category = CATEGORY + number
    return DesiredLink(
        peer=HostName("peer"),
        type=TypeName(f"acme/type{number}"),
        local=bench.own,
        remote=bench.peer,
        local_port=PORT_BLOCK_FIRST + 0x11 + number,
        peer_port=PORT_BLOCK_FIRST + 0x22 + number,
        bridge=bridge_name(category),
        link_context=context("shamon_link_t", category),
        spd_context=context("shamon_spd_t", category),
    )


def whole(bench: Bench) -> tuple[DesiredState, DesiredState]:
    """Two links with everything, with keys to install, and as they are wanted once they are installed."""
    links = []
    for number in range(2):
        spi = bench.kernel.allocate_spi(source=bench.peer, destination=bench.own)
        ours = replace(
            link(bench, number=number), in_spis=frozenset({spi}), out_spis=frozenset({0x4711 + number}), attached=True
        )
        sas = (
            ours.sa(inbound=True, spi=spi, key=secrets.token_bytes(36), lifetime_s=LIFETIME_S),
            ours.sa(inbound=False, spi=0x4711 + number, key=secrets.token_bytes(36), lifetime_s=LIFETIME_S),
        )
        links.append(replace(ours, new_sas=sas))
    bridges, gate = frozenset(item.bridge for item in links), {bench.peer: float(LIFETIME_S)}
    installed = tuple(replace(item, new_sas=()) for item in links)
    filters = {TAP: WHOLE}
    return (
        DesiredState(links=tuple(links), bridges=bridges, gate=gate, opening=gate, filters=filters),
        DesiredState(links=installed, bridges=bridges, gate=gate, filters=filters),
    )


def empty(kernel: LinkKernel) -> None:
    """Remove everything of ours from a kernel but the nft guard; for a bench's set-up and end."""
    kernel.apply(plan(DesiredState(taps={}, filters={}), kernel.read()))
    kernel.apply([DeleteSpdEntry(entry=entry) for entry in kernel.read().spd])
