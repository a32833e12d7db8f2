"""Many hosts with one type: each frame comes to every VM once, over whatever has happened to the links before."""

import secrets
from dataclasses import dataclass, field
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shamon_host.testing.wire import MemoryWire, WirePacket
from tests.examples import examples
from tests.unit.links.conftest import BLUE, RED, Host, frame, join

UNDERLAYS = ("192.0.2.{}", "2001:db8::{}")


@dataclass
class Mesh:
    """Hosts that are all joined, with VMs of the type on each."""

    hosts: list[Host]
    wire: MemoryWire
    packets: list[WirePacket] = field(default_factory=list)

    def heard(self, sender: Host, tap: str, *, destination: bytes = b"\xff" * 6) -> dict[tuple[str, str], int]:
        """How often each VM of the type gets a frame that one of them sends."""
        text = secrets.token_hex(8)
        mark = self.wire.mark()
        sender.kernel.send_from_tap(tap, frame(text, source=number(sender, tap), destination=destination))
        self.packets = list(self.wire.since(mark))
        return {
            (host.name, name): sum(text.encode() in received for received in host.received[name])
            for host in self.hosts
            for name in host.taps
        }


def number(host: Host, tap: str) -> int:
    return int(host.address.rpartition("." if "." in host.address else ":")[2]) * 16 + int(tap[4])


def mac(host: Host, tap: str) -> bytes:
    return bytes([2, 0, 0, 0, 0, number(host, tap)])


def mesh(count: int, vms: int, underlay: str = UNDERLAYS[0]) -> Mesh:
    wire = MemoryWire()
    hosts = [Host(f"host{n}", underlay.format(n), wire) for n in range(1, count + 1)]
    for host in hosts:
        host.links.reconcile({})
        for vm in range(vms):
            host.start_vm(f"shvm{vm}-0", RED)
        host.start_vm("shvm9-0", BLUE)
    for one, other in combinations(hosts, 2):
        join(one, other)
    return Mesh(hosts, wire)


def expected(world: Mesh, sender: Host, tap: str) -> dict[tuple[str, str], int]:
    return {
        (host.name, name): int(of_type == RED and (host, name) != (sender, tap))
        for host in world.hosts
        for name, of_type in host.taps.items()
    }


@pytest.mark.parametrize("underlay", UNDERLAYS)
@pytest.mark.parametrize("count", [2, 3, 5])
def test_a_broadcast_comes_to_every_vm_of_its_type_once(count: int, underlay: str) -> None:
    world = mesh(count, 2, underlay)
    for sender in world.hosts:
        for tap in ("shvm0-0", "shvm1-0"):
            assert world.heard(sender, tap) == expected(world, sender, tap)
            assert len(world.packets) == count - 1, "one to each peer, none sent on"
            assert all(packet.source == sender.address and packet.is_esp for packet in world.packets)


def test_a_frame_to_a_station_that_is_known_goes_over_one_link_alone() -> None:
    world = mesh(4, 1)
    first, *_, last = world.hosts
    world.heard(last, "shvm0-0")
    heard = world.heard(first, "shvm0-0", destination=mac(last, "shvm0-0"))
    assert {vm for vm, times in heard.items() if times} == {(last.name, "shvm0-0")}
    assert [packet.destination for packet in world.packets] == [last.address]


def test_what_comes_over_one_link_leaves_over_none() -> None:
    """To a station that nobody knows: it is sent everywhere, but not on from where it comes to."""
    world = mesh(4, 1)
    world.heard(world.hosts[0], "shvm0-0", destination=bytes([2, 0, 0, 0, 0, 250]))
    assert {packet.source for packet in world.packets} == {world.hosts[0].address}
    assert len(world.packets) == 3


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["rekey", "close", "restart", "leave", "flush", "look"]), st.integers(0, 3), st.integers(0, 3)
    ),
    max_size=8,
)


@given(st.integers(2, 4), STEPS, st.integers(0, 3))
@settings(max_examples=examples(60), deadline=None)
def test_no_loop_and_no_duplicate_whatever_happened(count: int, steps: list[tuple[str, int, int]], last: int) -> None:
    """Never more than once to anybody; and once to everybody when all have found together again."""
    world = mesh(count, 1)
    for step, first, second in steps:
        one, other = world.hosts[first % count], world.hosts[second % count]
        if step == "rekey" and one is not other:
            join(one, other)
        elif step == "close" and one is not other:
            one.links.close_peer(other.name, other.address)
        elif step == "restart":
            one.restart()
        elif step == "leave":
            one.kernel.unplug_tap("shvm0-0")
            one.taps.pop("shvm0-0", None)
        elif step == "flush":
            one.kernel.flush_policies()
        one.links.reconcile(one.taps)
        other.links.reconcile(other.taps)
        sender = world.hosts[last % count]
        if "shvm0-0" in sender.taps:
            heard = world.heard(sender, "shvm0-0")
            assert max(heard.values()) <= 1
            assert not any(times for (_, tap), times in heard.items() if tap == "shvm9-0")
            assert {packet.source for packet in world.packets} <= {sender.address}
    for host in world.hosts:
        if "shvm0-0" not in host.taps:
            host.start_vm("shvm0-0", RED)
    for one, other in combinations(world.hosts, 2):
        join(one, other)
    for sender in world.hosts:
        assert world.heard(sender, "shvm0-0") == expected(world, sender, "shvm0-0")


def test_a_link_that_lost_its_flag_is_told_and_put_right() -> None:
    world = mesh(3, 1)
    host = world.hosts[1]
    (device, *_) = (tunnel.interface for tunnel in host.kernel.read().tunnels)
    host.kernel.put_port("shbr1", device, isolated=False)
    host.links.reconcile(host.taps)
    assert host.kernel.read().bridges["shbr1"].ports[device] is True
    assert world.heard(world.hosts[0], "shvm0-0") == expected(world, world.hosts[0], "shvm0-0")
