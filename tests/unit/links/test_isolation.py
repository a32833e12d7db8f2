"""What a VM reaches of its host and of other types, in memory; what somebody changes by hand is put right or told."""

from collections.abc import Callable
from ipaddress import ip_address

import pytest

from shamon_host.domain.results import ClaimStatus
from shamon_host.links.network_state import check_network_state, encode_network_state
from shamon_host.links.ports import KernelEvent
from tests.unit.links.conftest import BLUE, RED, Host, pinned

TAP, OTHER = "shvm0-0", "shvm1-0"
OWN = bytes([2, 0, 0, 0, 0, 1])
RED_BRIDGE, BLUE_BRIDGE = "shbr1", "shbr2"


@pytest.fixture
def host(alpha: Host) -> Host:
    """With a VM of each of two types, and forwarding switched on by hand."""
    alpha.links.reconcile({})
    alpha.start_vm(TAP, RED)
    alpha.start_vm(OTHER, BLUE)
    alpha.links.reconcile(alpha.taps, pinned(alpha.taps))
    return alpha


def arp_request(address: str) -> bytes:
    body = bytes.fromhex("0001080006040001") + OWN + bytes([10, 0, 0, 1]) + bytes(6) + ip_address(address).packed
    return b"\xff" * 6 + OWN + b"\x08\x06" + body


def to_host(host: Host) -> bytes:
    """An IPv4 packet to the host by its address in the red bridge, for somebody in the blue type."""
    mac = host.kernel._path.bridges[RED_BRIDGE].mac
    return mac + OWN + b"\x08\x00" + bytes(40)


def test_a_vm_reaches_neither_its_host_nor_another_type_through_it(host: Host) -> None:
    """Forwarding is on; the rule that drops what a VM sends counts, and nobody answers."""
    host.kernel.set_sysctl("net.ipv4.ip_forward", "1")
    for number, sent in enumerate([arp_request(host.address), to_host(host)], start=1):
        host.kernel.send_from_tap(TAP, sent)
        assert host.kernel.counters()["host_in"] == number
    assert host.received == {TAP: [], OTHER: []}


def test_without_the_guard_it_would_reach_both(host: Host) -> None:
    """So it is the guard that keeps them apart, once somebody forwards and gives a bridge an address."""
    host.kernel.set_sysctl("net.ipv4.ip_forward", "1")
    host.kernel.flush_nft()
    host.kernel.unseal(BLUE_BRIDGE)
    host.kernel.send_from_tap(TAP, arp_request(host.address))
    host.kernel.send_from_tap(TAP, to_host(host))
    assert len(host.received[TAP]) == 1
    assert len(host.received[OTHER]) == 1
    host.links.reconcile(host.taps)
    for received in host.received.values():
        received.clear()
    host.kernel.send_from_tap(TAP, arp_request(host.address))
    host.kernel.send_from_tap(TAP, to_host(host))
    assert host.received == {TAP: [], OTHER: []}
    assert host.kernel.counters()["host_in"] == 2


@pytest.mark.parametrize("last", [0x01, 0x02, 0x03, 0x0E])
def test_frames_for_the_bridge_itself_go_no_further(host: Host, last: int) -> None:
    third: list[bytes] = []
    host.kernel.plug_tap("shvm2-0", RED_BRIDGE, third.append)
    host.kernel.send_from_tap(TAP, bytes.fromhex("0180c20000") + bytes([last]) + OWN + b"\x88\xcc" + bytes(46))
    assert third == []


CHANGES: dict[str, Callable[[Host], None]] = {
    "an address in a bridge": lambda host: host.kernel.unseal(RED_BRIDGE),
    "a rule of the guard": lambda host: host.kernel.damage_guard(),
    "all of nft": lambda host: host.kernel.flush_nft(),
    "a rule of a filter": lambda host: host.kernel.damage_filter(TAP),
    "hairpin": lambda host: host.kernel.set_hairpin(RED_BRIDGE, TAP),
    "a flag": lambda host: host.kernel.put_port(RED_BRIDGE, TAP, isolated=True),
    "the other type": lambda host: host.kernel.put_port(RED_BRIDGE, OTHER),
    "a port of somebody's": lambda host: host.kernel.put_port(RED_BRIDGE, "eth1"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_by_hand_is_told_and_put_right(host: Host, name: str) -> None:
    before = host.kernel.read()
    events: list[KernelEvent] = []
    host.kernel.subscribe(events.append)
    CHANGES[name](host)
    assert events
    assert host.kernel.read() != before
    host.links.reconcile(host.taps)
    after = host.kernel.read()
    assert (after.bridges, after.filters, after.guard) == (before.bridges, before.filters, True)
    assert check_network_state(host.links.network_state()).status is ClaimStatus.PASS


def test_what_is_set_otherwise_in_a_port_is_in_the_state_and_named_when_it_is_put_right(host: Host) -> None:
    host.kernel.set_hairpin(RED_BRIDGE, TAP)
    claim = check_network_state(encode_network_state(host.kernel.read(), host.label_map))
    assert claim.status is ClaimStatus.FAIL
    assert f"port {TAP} of {RED_BRIDGE}: hairpin is 1" in claim.found
    host.audited.clear()
    host.links.reconcile(host.taps)
    told = [detail["changed"] for kind, _, detail in host.audited if kind == "link.apply" and "changed" in detail]
    assert told == [[f"port {TAP} of {RED_BRIDGE}: hairpin is 1"]]
    assert check_network_state(host.links.network_state()).status is ClaimStatus.PASS


@pytest.mark.parametrize("name", ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"])
def test_forwarding_is_told_and_left_to_the_operator(host: Host, name: str) -> None:
    events: list[KernelEvent] = []
    host.kernel.subscribe(events.append)
    host.kernel.set_sysctl(name, "1")
    assert events
    host.links.reconcile(host.taps)
    claim = check_network_state(host.links.network_state())
    assert (claim.status, claim.where) == (ClaimStatus.FAIL, name)
