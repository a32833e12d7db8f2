"""What a VM reaches of its host and of other types, and what is noticed when somebody changes what keeps it apart.

Run inside a lab host as root: real bridges and nft rules, veth pairs for taps, packet sockets for VMs. Forwarding is
switched on by hand. That something does not pass is shown by the counter of the rule that dropped it, and by the same
frame passing where the rule is not.
"""

import asyncio
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest

from shamon_host.domain.label_map import EMPTY
from shamon_host.domain.results import Claim, ClaimStatus
from shamon_host.links.desired import DesiredState, bridge_name
from shamon_host.links.model import DeleteSpdEntry
from shamon_host.links.network_state import check_network_state, encode_network_state
from shamon_host.links.planner import plan
from shamon_host.links.ports import ChangedEvent, KernelEvent, LinkKernel
from shamon_host.links.station import Station
from shamon_host.links.tap_filter import TapFilter
from tests.integration.links.filter_suite import SETTLE_S, await_carrier, make_vm, received

RED, BLUE = bridge_name(7), bridge_name(8)
TAPS = {"shvm98-0": RED, "shvm99-0": BLUE}
FAR_ENDS = {"shvm98-0": "vm98", "shvm99-0": "vm99"}
TAP, OTHER_TAP = TAPS
OWN, OTHER = "02:00:00:00:0a:01", "02:00:00:00:0a:02"
VM_IP, VM_IP6 = "10.9.0.1", "fd00:9::1"
HOST_IP, HOST_IP6 = "198.51.100.9", "2001:db8:99::1"
BLUE_IP, BLUE_NET = "203.0.113.5", "203.0.113.0/24"
WANTED = DesiredState(
    bridges=frozenset({RED, BLUE}),
    taps=TAPS,
    filters={
        tap: TapFilter(device=tap, own=Station(mac=mac))
        for tap, mac in zip(TAPS, (OWN, OTHER), strict=True)
    },
)  # fmt: skip
SYSCTLS = ("ipv4/ip_forward", "ipv6/conf/all/forwarding")


class IsolationBench:
    """The host's own kernel with two types and a VM of each, and the guard."""

    def __init__(self) -> None:
        from shamon_host.links.linux_kernel import LinuxLinkKernel

        self.kernel: LinkKernel = LinuxLinkKernel()
        self.sockets = {tap: make_vm(tap, far) for tap, far in FAR_ENDS.items()}
        _run("ip", "address", "add", f"{HOST_IP}/32", "dev", "lo")
        _run("ip", "address", "add", f"{HOST_IP6}/128", "dev", "lo")
        self.repair()
        for ends in FAR_ENDS.items():
            for device in ends:
                await_carrier(device)

    def close(self) -> None:
        for name in SYSCTLS:
            _write(name, "0")
        for opened in self.sockets.values():
            opened.close()
        self.kernel.apply(plan(DesiredState(taps={}, filters={}), self.kernel.read()))
        self.kernel.apply([DeleteSpdEntry(entry=entry) for entry in self.kernel.read().spd])
        self.kernel.close()
        for tap in TAPS:
            _run("ip", "link", "del", tap)
        _run("ip", "address", "del", f"{HOST_IP}/32", "dev", "lo")
        _run("ip", "address", "del", f"{HOST_IP6}/128", "dev", "lo")

    def repair(self) -> None:
        """What the link manager does when it looks."""
        for _ in range(2):  # a bridge that is made anew has lost its ports
            self.kernel.apply(plan(WANTED, self.kernel.read()))
        assert plan(WANTED, self.kernel.read()) == ()

    def claim(self) -> Claim:
        """What a Verifier makes of the state that a quote would cover now, if this were the daemon in its domain."""
        state = replace(self.kernel.read(), selinux_missing=())
        return check_network_state(encode_network_state(state, EMPTY))

    def exchange(self, frames: Sequence[bytes]) -> dict[str, list[bytes]]:
        """The red VM sends these frames; what each VM gets."""
        for opened in self.sockets.values():
            list(received(opened, seconds=0.0))
        for frame in frames:
            self.sockets[TAP].send(frame)
        return {tap: list(received(opened, seconds=SETTLE_S)) for tap, opened in self.sockets.items()}

    def events_of(self, command: str, settle_s: float) -> Sequence[KernelEvent]:
        """What is told while a shell runs the command, and for a while after."""
        from shamon_host.links.linux_kernel import LinuxLinkKernel

        events: list[KernelEvent] = []

        async def listen() -> None:
            self.kernel.subscribe(events.append)
            await asyncio.to_thread(_run, "sh", "-ec", command)
            await asyncio.sleep(settle_s)
            self.kernel.close()

        asyncio.run(listen())
        self.kernel = LinuxLinkKernel()
        return events

    def mac(self, device: str) -> str:
        return Path(f"/sys/class/net/{device}/address").read_text().strip()


@pytest.fixture
def bench() -> Iterator[IsolationBench]:
    bench = IsolationBench()
    yield bench
    bench.close()


def frames_to_host(bench: IsolationBench, target: str, target6: str) -> list[bytes]:
    """ARP and neighbour solicitation for the host, packets to it by the address of its bridge, and to the bridge."""
    bridge = bench.mac(RED)
    solicitation = bytes([135]) + bytes(7) + IPv6Address(HOST_IP6).packed
    return [
        _frame("ff:ff:ff:ff:ff:ff", 0x0806, _arp_request(HOST_IP)),
        _frame(_group_of(HOST_IP6), 0x86DD, _ipv6(HOST_IP6, 58, solicitation)),
        _frame(bridge, 0x0800, _udp4(target)),
        _frame(bridge, 0x86DD, _ipv6(target6, 17, bytes([156, 64, 0, 53, 0, 8, 0, 0]))),
        _frame("01:80:c2:00:00:03", 0x888E, bytes(46)),
    ]


@pytest.mark.parametrize(("target", "target6"), [(HOST_IP, HOST_IP6), (BLUE_IP, "2001:db8:98::5")])
def test_a_vm_reaches_neither_its_host_nor_anything_through_it(
    bench: IsolationBench, target: str, target6: str
) -> None:
    """ARP, IPv4, IPv6, 802.1X: with forwarding on, all of it ends at one rule, and nobody answers."""
    for name in SYSCTLS:
        _write(name, "1")
    frames = frames_to_host(bench, target, target6)
    before = bench.kernel.counters()
    got = bench.exchange(frames)
    after = bench.kernel.counters()
    assert after["host_in"] - before["host_in"] == len(frames)
    assert after[f"spoofed {TAP}"] == before[f"spoofed {TAP}"]
    assert got == {TAP: [], OTHER_TAP: []}


def test_each_further_rule_keeps_types_apart_by_itself(bench: IsolationBench) -> None:
    """Somebody gave the bridges addresses and routes, and forwards. Without the first rule the next one counts; without
    any, the packet is in the other type: so it is the rules that keep it out."""
    _write(SYSCTLS[0], "1")
    for name in (RED, BLUE):
        _write(f"ipv4/conf/{name}/forwarding", "1")
        _write(f"ipv4/conf/{name}/rp_filter", "0")
    _write("ipv4/conf/all/rp_filter", "0")
    _run("ip", "address", "add", "203.0.113.1/24", "dev", BLUE)
    _run("ip", "neighbour", "replace", BLUE_IP, "lladdr", OTHER, "dev", BLUE)
    packet = _frame(bench.mac(RED), 0x0800, _udp4(BLUE_IP))

    def passes() -> tuple[bool, dict[str, int]]:
        before = bench.kernel.counters()
        got = bench.exchange([packet])[OTHER_TAP]
        rose = {name: count - before[name] for name, count in bench.kernel.counters().items() if count > before[name]}
        return any(b"\x08\x00" in frame[12:14] for frame in got), rose

    assert passes() == (False, {"host_in": 1})
    _run("nft", "delete", "table", "bridge", "shamon")
    assert passes() == (False, {"host_forward": 1})
    _run("nft", "delete", "table", "inet", "shamon")
    assert passes() == (True, {})
    bench.repair()
    packet = _frame(bench.mac(RED), 0x0800, _udp4(BLUE_IP))
    assert passes() == (False, {"host_in": 1})


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What somebody does by hand, what the Verifier says of it, and how to undo what nobody repairs."""

    command: str
    word: str
    settle_s: float = SETTLE_S
    """How long it may take until it is told: an IPv6 address once the kernel has seen that nobody else has it."""
    undo: str = ""


OWN_CHAIN = f"bridge shamon-taps {TAP}.own"
CHANGES = {
    "an address in a bridge": Change(command=f"ip address add 203.0.113.1/24 dev {BLUE}", word="open to the host"),
    "IPv6 in a bridge": Change(
        command=f"echo 0 > /proc/sys/net/ipv6/conf/{BLUE}/disable_ipv6", word="open to the host", settle_s=4.0
    ),
    "a bridge that is down": Change(command=f"ip link set {RED} down", word="open to the host"),
    "spanning tree": Change(command=f"ip link set {RED} type bridge stp_state 1", word="open to the host"),
    "VLANs": Change(command=f"ip link set {RED} type bridge vlan_filtering 1", word="open to the host"),
    "LLDP sent on": Change(command=f"ip link set {RED} type bridge group_fwd_mask 0x4000", word="open to the host"),
    "an isolated tap": Change(command=f"ip link set {TAP} type bridge_slave isolated on", word="neither"),
    "hairpin": Change(command=f"ip link set {TAP} type bridge_slave hairpin on", word="foreign"),
    "no learning": Change(command=f"ip link set {TAP} type bridge_slave learning off", word="foreign"),
    "proxy ARP": Change(command=f"ip link set {TAP} type bridge_slave proxy_arp on", word="foreign"),
    "a smaller MTU": Change(command=f"ip link set {TAP} mtu 1400", word="foreign"),
    "a port in the other type": Change(command=f"ip link set {TAP} master {BLUE}", word=""),
    "a rule of the guard": Change(command="nft flush chain bridge shamon input", word="guard"),
    "a rule about forwarding": Change(command="nft flush chain inet shamon forward", word="guard"),
    "a table of the guard": Change(command="nft delete table inet shamon", word="guard"),
    "a rule of a filter": Change(command=f"nft flush chain {OWN_CHAIN}", word="anybody"),
    "an address more in a filter": Change(
        command=f"nft add rule {OWN_CHAIN} ether saddr {OTHER} accept", word="anybody"
    ),
    "all filters": Change(command="nft delete table bridge shamon-taps", word="anybody"),
    "a tap that no filter judges": Change(
        command=f"nft delete element bridge shamon-taps from '{{ {TAP} }}'", word="anybody"
    ),
    "all of nft": Change(command="nft flush ruleset", word="guard"),
    "forwarding": Change(
        command="echo 1 > /proc/sys/net/ipv4/ip_forward",
        word="open to the host",  # it is on for every device then
        undo="echo 0 > /proc/sys/net/ipv4/ip_forward",
    ),
    "forwarding of IPv6": Change(
        command="echo 1 > /proc/sys/net/ipv6/conf/all/forwarding",
        word="sysctl",
        undo="echo 0 > /proc/sys/net/ipv6/conf/all/forwarding",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_by_hand_is_told_seen_and_put_right(bench: IsolationBench, name: str) -> None:
    change = CHANGES[name]
    assert bench.claim().status is ClaimStatus.PASS, bench.claim()
    events = bench.events_of(change.command, change.settle_s)
    assert any(isinstance(event, ChangedEvent) for event in events)
    claim = bench.claim()
    if change.word:
        assert claim.status is ClaimStatus.FAIL
        assert change.word in claim.reason
    if change.undo:
        _run("sh", "-ec", change.undo)
    else:
        assert plan(WANTED, bench.kernel.read()) != ()
    bench.repair()
    assert bench.claim().status is ClaimStatus.PASS, bench.claim()


def test_what_is_not_told_is_seen_at_the_next_look(bench: IsolationBench) -> None:
    """The kernel says nothing of these: each reading, before each quote, has them."""
    for name in ("disable_policy", "disable_xfrm"):
        _write(f"ipv4/conf/{RED}/{name}", "1")
        claim = bench.claim()
        assert (claim.status, claim.where) == (ClaimStatus.FAIL, f"net.ipv4.conf.*.{name}")
        _write(f"ipv4/conf/{RED}/{name}", "0")
    assert bench.claim().status is ClaimStatus.PASS


def _frame(destination: str, kind: int, content: bytes) -> bytes:
    return bytes.fromhex((destination + OWN).replace(":", "")) + kind.to_bytes(2) + content.ljust(46, b"\0")


def _arp_request(target: str) -> bytes:
    sender = bytes.fromhex(OWN.replace(":", "")) + IPv4Address(VM_IP).packed
    return bytes.fromhex("0001080006040001") + sender + bytes(6) + IPv4Address(target).packed


def _udp4(target: str) -> bytes:
    addresses = IPv4Address(VM_IP).packed + IPv4Address(target).packed
    start = bytes.fromhex("4500001c000100004011")
    words = sum(int.from_bytes((start + addresses)[place : place + 2]) for place in range(0, 18, 2))
    checksum = ~((words & 0xFFFF) + (words >> 16)) & 0xFFFF
    return start + checksum.to_bytes(2) + addresses + bytes([156, 64, 0, 53, 0, 8, 0, 0])


def _ipv6(target: str, number: int, content: bytes) -> bytes:
    header = (6 << 28).to_bytes(4) + len(content).to_bytes(2) + bytes([number, 255])
    return header + IPv6Address(VM_IP6).packed + IPv6Address(target).packed + content


def _group_of(address: str) -> str:
    """The group that a solicitation for it goes to (RFC 4291, section 2.7.1; RFC 2464, section 7)."""
    return "33:33:ff:" + IPv6Address(address).packed[-3:].hex(":")


def _write(name: str, value: str) -> None:
    Path(f"/proc/sys/net/{name}").write_text(value)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=60)
