"""What a tap's VM may pass itself off as in every `links.ports.LinkKernel`: subclass `StationContract`, give it a
`bench`.

Frames that are the VM's own, and frames with another's MAC or IP address in each place where one can be, go from its
tap to another's, and arrive exactly when `Station.permits` says so. Runs on the kernel in memory in the unit tests, and
on Linux in a lab host.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from random import Random
from typing import Any

import pytest

from shamon_host.links.frame_facts import ArpFacts, FrameFacts, FrameKind, NeighbourFacts, PortProtocol, PortRule
from shamon_host.links.model import AttachPort, ClearTapFilter, CreateBridge, SetTapFilter
from shamon_host.links.station import Station
from shamon_host.links.tap_filter import TapFilter
from shamon_host.testing.contracts.kernel_filters import (
    BRIDGE,
    BROADCAST,
    OTHER,
    OTHER_TAP,
    OWN,
    STRANGER,
    TAP,
    TOKEN_BYTES,
    TapBench,
    arrived_of,
    frame_of,
)
from shamon_host.testing.kernel_frames import facts_of

_RANDOM_FRAMES = 600
_LIKELY = (0, 255, 1, 2, 24, 32, 44, 58, 60)
"""Bytes that mean something where they are put: lengths, types, next headers."""
BPDU = "01:80:c2:00:00:00"
"""The one address of `station.CONTROL_GROUP` that a bridge without spanning tree sends on."""
IP, FOREIGN_IP = "10.9.0.1", "10.9.0.2"
IP6, FOREIGN_IP6 = "fd00::1", "fd00::2"
LINK_LOCAL, FOREIGN_LINK_LOCAL = Station(mac=OWN).link_local, Station(mac=OTHER).link_local
MAC_ONLY = Station(mac=OWN)
STATIONS = {
    "MAC address alone": MAC_ONLY,
    "both families": Station(mac=OWN, addresses=frozenset({IP, "10.9.0.17", IP6, "fd00:0:0:1::"})),
    "IPv4 alone": Station(mac=OWN, addresses=frozenset({IP})),
    "IPv6 alone": Station(mac=OWN, addresses=frozenset({IP6})),
    "no address": Station(mac=OWN, addresses=frozenset()),
    "another station": Station(mac=STRANGER, addresses=frozenset({IP, IP6})),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """A frame that the VM sends: its bytes behind the addresses, without the token at its end, and what it is."""

    name: str
    body: bytes
    facts: dict[str, Any] = field(default_factory=dict)
    source: str = OWN
    destination: str = OTHER

    def as_facts(self) -> FrameFacts:
        given = {"kind": FrameKind.OTHER, **self.facts}
        return FrameFacts(from_tap=True, source=self.source, destination=self.destination, **given)


def _arp(
    name: str, mac: str, sender: str, target: str = FOREIGN_IP, *, operation: int = 1, header: str = "000108000604"
) -> Sent:
    content = b"".join(
        [_mac(mac), IPv4Address(sender).packed, bytes(6), IPv4Address(target).packed],
    )
    usual = header == "000108000604"
    return Sent(
        name=name,
        body=b"\x08\x06" + bytes.fromhex(header) + operation.to_bytes(2) + content,
        facts={
            "kind": FrameKind.ARP_REQUEST if operation == 1 else FrameKind.ARP,
            "arp": ArpFacts(sender_mac=mac, sender=sender, target=target) if usual else None,
        },
        destination=BROADCAST if operation == 1 else OTHER,
    )


def _ipv4(name: str, source: str, number: int, ports: tuple[int, int] | None, *, fragment: int = 0) -> Sent:
    content = struct.pack("!HHIIHHHH", *(ports or (0, 0)), 1, 0, 0x5002, 1024, 0, 0)
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(content), 1, fragment, 64, number, 0)
    packet = header + IPv4Address(source).packed + IPv4Address(FOREIGN_IP).packed + content
    later = bool(fragment & 0x1FFF)
    return Sent(
        name=name,
        body=b"\x08\x00" + packet,
        facts={"ip_source": source, **({} if later else _ports(number, ports))},
    )


def _ipv6(
    name: str, source: str, number: int, content: bytes, *, facts: dict[str, Any], extended: bool = False
) -> Sent:
    """`extended`: behind a hop-by-hop header with padding."""
    if extended:
        content, number = bytes([number, 0, 1, 4, 0, 0, 0, 0]) + content, 0
    header = struct.pack("!IHBB", 6 << 28, len(content), number, 255)
    packet = header + IPv6Address(source).packed + IPv6Address(FOREIGN_IP6).packed + content
    return Sent(name=name, body=b"\x86\xdd" + packet, facts={"ip_source": source, **facts})


def _ipv6_ports(name: str, source: str, number: int, ports: tuple[int, int], *, extended: bool = False) -> Sent:
    content = struct.pack("!HHIIHHHH", *ports, 1, 0, 0x5002, 1024, 0, 0)
    return _ipv6(name, source, number, content, facts=_ports(number, ports), extended=extended)


def _ports(number: int, ports: tuple[int, int] | None) -> dict[str, Any]:
    protocol = {6: PortProtocol.TCP, 17: PortProtocol.UDP}.get(number)
    if protocol is None or ports is None:
        return {}
    return {"kind": FrameKind.PORTS, "protocol": protocol, "source_port": ports[0], "destination_port": ports[1]}


def _message(kind: int, name: str, source: str, target: str, options: bytes = b"", *, extended: bool = False) -> Sent:
    """A solicitation (135) or an advertisement (136)."""
    link_address: str | None = None
    if not extended and not options:
        link_address = ""
    elif not extended and len(options) == 8 and options[:2] == bytes([kind - 134, 1]):
        link_address = options[2:].hex(":")
    words = {135: FrameKind.NEIGHBOUR_SOLICITATION, 136: FrameKind.NEIGHBOUR_ADVERTISEMENT}
    facts = {"kind": words[kind], "neighbour": NeighbourFacts(target=target, link_address=link_address)}
    content = bytes([kind]) + bytes(7) + IPv6Address(target).packed + options
    return _ipv6(name, source, 58, content, facts=facts, extended=extended)


def _solicit(name: str, source: str, target: str, options: bytes = b"", *, extended: bool = False) -> Sent:
    return _message(135, f"solicitation {name}", source, target, options, extended=extended)


def _advert(name: str, source: str, target: str, options: bytes = b"", *, extended: bool = False) -> Sent:
    return _message(136, f"advertisement {name}", source, target, options, extended=extended)


def _option(kind: int, mac: str) -> bytes:
    return bytes([kind, 1]) + _mac(mac)


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def _icmp6(name: str, source: str, kind: int) -> Sent:
    facts = {"kind": FrameKind.ROUTER_ADVERTISEMENT} if kind == 134 else {}
    return _ipv6(name, source, 58, bytes([kind]) + bytes(23), facts=facts)


_NONCE = bytes([14, 1, 1, 2, 3, 4, 5, 6])
_PLAIN = _ipv4("IPv4 of its own", IP, 17, (40000, 53))
SENT = (
    _arp("ARP request", OWN, IP),
    _arp("ARP reply", OWN, IP, operation=2),
    _arp("ARP request with another's MAC address", OTHER, IP),
    _arp("ARP reply with another's MAC address", OTHER, IP, operation=2),
    _arp("ARP request with another's IP address", OWN, FOREIGN_IP),
    _arp("ARP reply with another's IP address", OWN, FOREIGN_IP, operation=2),
    _arp("ARP probe for its own", OWN, "0.0.0.0", IP),
    _arp("ARP probe for another's", OWN, "0.0.0.0", FOREIGN_IP),
    _arp("ARP of other hardware", OWN, IP, header="000608000604"),
    _arp("ARP of another protocol", OWN, IP, header="000186dd0604"),
    _arp("ARP with longer hardware addresses", OWN, IP, header="000108000804"),
    _arp("ARP with longer protocol addresses", OWN, IP, header="000108000610"),
    Sent(name="ARP that is cut off", body=b"\x08\x06\0\1\x08\0", facts={"kind": FrameKind.ARP}),
    _PLAIN,
    _ipv4("IPv4 of its other address", "10.9.0.17", 6, (40000, 443)),
    _ipv4("IPv4 of another's", FOREIGN_IP, 17, (40000, 53)),
    _ipv4("IPv4 from nowhere, as DHCP asks", "0.0.0.0", 17, (68, 67)),
    _ipv4("ICMP of its own", IP, 1, None),
    _ipv4("ICMP of another's", FOREIGN_IP, 1, None),
    _ipv4("a DHCP answer", IP, 17, (67, 68)),
    _ipv4("a DHCP answer's first fragment", IP, 17, (67, 68), fragment=0x2000),
    _ipv4("a later fragment that looks like one", IP, 17, (67, 68), fragment=0x0003),
    _ipv4("another's later fragment", FOREIGN_IP, 17, (67, 68), fragment=0x0003),
    _ipv4("TCP from DHCP's port", IP, 6, (67, 68)),
    _ipv4("UDP from the port of the other DHCP", IP, 17, (547, 546)),
    _ipv6_ports("IPv6 of its own", IP6, 17, (40000, 53)),
    _ipv6_ports("IPv6 of its other address", "fd00:0:0:1::", 6, (40000, 443)),
    _ipv6_ports("IPv6 of its own, behind an extension header", IP6, 17, (40000, 53), extended=True),
    _ipv6_ports("IPv6 of another's", FOREIGN_IP6, 17, (40000, 53)),
    _ipv6_ports("IPv6 of another's, behind an extension header", FOREIGN_IP6, 17, (40000, 53), extended=True),
    _ipv6_ports("IPv6 of its link-local address", LINK_LOCAL, 17, (40000, 53)),
    _ipv6_ports("IPv6 of another's link-local address", FOREIGN_LINK_LOCAL, 17, (40000, 53)),
    _ipv6_ports("IPv6 from nowhere", "::", 17, (40000, 53)),
    _ipv6_ports("an answer of DHCPv6", LINK_LOCAL, 17, (547, 546)),
    _ipv6_ports("an answer of DHCPv6, behind an extension header", LINK_LOCAL, 17, (547, 546), extended=True),
    _ipv6_ports("UDP over IPv6 from the port of the other DHCP", LINK_LOCAL, 17, (67, 68)),
    _icmp6("echo over IPv6", IP6, 128),
    _icmp6("another's echo over IPv6", FOREIGN_IP6, 128),
    _icmp6("a router solicitation", LINK_LOCAL, 133),
    _icmp6("a router solicitation from nowhere", "::", 133),
    _icmp6("a router advertisement", LINK_LOCAL, 134),
    _solicit("without options", IP6, FOREIGN_IP6),
    _solicit("with its MAC address", LINK_LOCAL, FOREIGN_IP6, _option(1, OWN)),
    _solicit("with another's MAC address", IP6, FOREIGN_IP6, _option(1, OTHER)),
    _solicit("with another option", IP6, FOREIGN_IP6, _NONCE),
    _solicit("with its MAC address and another's", IP6, FOREIGN_IP6, _option(1, OWN) + _option(1, OTHER)),
    _solicit("with an option of advertisements", IP6, FOREIGN_IP6, _option(2, OWN)),
    _solicit("of another's", FOREIGN_IP6, IP6, _option(1, OWN)),
    _solicit("behind an extension header", IP6, FOREIGN_IP6, _option(1, OWN), extended=True),
    _solicit("from nowhere for its own", "::", IP6, _NONCE),
    _solicit("from nowhere for its link-local address", "::", LINK_LOCAL),
    _solicit("from nowhere for another's", "::", FOREIGN_IP6, _NONCE),
    _solicit("from nowhere for its own, behind an extension header", "::", IP6, extended=True),
    _advert("with its MAC address", IP6, IP6, _option(2, OWN)),
    _advert("without options", LINK_LOCAL, LINK_LOCAL),
    _advert("of one address from another one", LINK_LOCAL, IP6, _option(2, OWN)),
    _advert("with another's MAC address", IP6, IP6, _option(2, OTHER)),
    _advert("for another's address", IP6, FOREIGN_IP6, _option(2, OWN)),
    _advert("for another's address without options", IP6, FOREIGN_IP6),
    _advert("from another's address", FOREIGN_IP6, IP6, _option(2, OWN)),
    _advert("from nowhere", "::", IP6, _option(2, OWN)),
    _advert("with an option of solicitations", IP6, IP6, _option(1, OWN)),
    _advert("with another option", IP6, IP6, _NONCE),
    _advert("with its MAC address and another's", IP6, IP6, _option(2, OWN) + _option(2, OTHER)),
    _advert("behind an extension header", IP6, IP6, _option(2, OWN), extended=True),
    Sent(name="from another's MAC address", body=_PLAIN.body, facts=_PLAIN.facts, source=STRANGER),
    Sent(name="IPv4 with a VLAN tag", body=b"\x81\x00\x00\x05" + _PLAIN.body, facts={"tagged": True}),
    Sent(name="IPv4 with a service tag", body=b"\x88\xa8\x00\x05" + _PLAIN.body, facts={"tagged": True}),
    Sent(name="ARP of another's with a VLAN tag", body=b"\x81\x00\x00\x00" + _arp("", OTHER, IP).body,
         facts={"tagged": True}),
    Sent(name="another Ethernet type", body=b"\x88\xb5" + bytes(46)),
    Sent(name="a frame of spanning tree", body=b"\x00\x26\x42\x42\x03" + bytes(35), destination=BPDU),
    Sent(name="IPv4 to where spanning tree goes", body=_PLAIN.body, facts=_PLAIN.facts, destination=BPDU),
)  # fmt: skip


class StationContract:
    """The suite."""

    @pytest.fixture
    def bench(self) -> TapBench | Iterator[TapBench]:
        raise NotImplementedError

    @pytest.fixture
    def joined(self, bench: TapBench) -> TapBench:
        """Both taps in the bridge of one type."""
        bench.kernel.apply([CreateBridge(name=BRIDGE)])
        bench.kernel.apply([AttachPort(bridge=BRIDGE, interface=tap, isolated=False) for tap in (TAP, OTHER_TAP)])
        return bench

    def test_whoever_may_be_anybody_sends_all_of_it(self, joined: TapBench) -> None:
        lost = [sent.name for sent, arrived in _exchanged(joined) if not arrived]
        assert not lost, lost

    @pytest.mark.parametrize("name", STATIONS)
    def test_what_passes_is_what_the_station_permits(self, joined: TapBench, name: str) -> None:
        own = STATIONS[name]
        joined.kernel.apply([SetTapFilter(filter=TapFilter(device=TAP, own=own))])
        assert joined.kernel.read().filters == {TAP: TapFilter(device=TAP, own=own)}
        wrong = [
            f"{sent.name} {'passes' if arrived else 'does not pass'}"
            for sent, arrived in _exchanged(joined)
            if arrived != own.permits(sent.as_facts())
        ]
        assert not wrong, f"{own}: {wrong}"

    @pytest.mark.parametrize("name", ["MAC address alone", "both families", "IPv6 alone"])
    def test_frames_changed_at_random_pass_when_the_station_permits(self, joined: TapBench, name: str) -> None:
        """Bytes changed, cut off or added, anywhere: what a filter looks at, it looks at as the kernel does."""
        random, own = Random(name), STATIONS[name]
        joined.kernel.apply([SetTapFilter(filter=TapFilter(device=TAP, own=own))])
        frames = [frame_of(OWN, OTHER, _changed(random, random.choice(SENT).body)) for _ in range(_RANDOM_FRAMES)]
        arrived = arrived_of(joined, TAP, frames)
        wrong = [
            frame.hex()
            for frame in frames
            if (frame[-TOKEN_BYTES:] in arrived) != own.permits(facts_of(frame, from_tap=True))
        ]
        assert not wrong, wrong

    def test_what_is_dropped_is_counted_for_its_tap(self, joined: TapBench) -> None:
        own = STATIONS["both families"]
        joined.kernel.apply([SetTapFilter(filter=TapFilter(device=TAP, own=own))])
        assert joined.kernel.counters()[f"spoofed {TAP}"] == 0
        list(_exchanged(joined))
        spoofed = sum(not own.permits(sent.as_facts()) for sent in SENT)
        assert joined.kernel.counters()[f"spoofed {TAP}"] == spoofed > 0
        joined.kernel.apply([SetTapFilter(filter=TapFilter(device=TAP, own=own, rate_bytes_s=10**6, receives=False))])
        assert joined.kernel.counters()[f"spoofed {TAP}"] == spoofed, "the count outlives a change of the filter"
        joined.kernel.apply([ClearTapFilter(device=TAP)])
        assert f"spoofed {TAP}" not in joined.kernel.counters()

    def test_other_limits_hold_beside_it(self, joined: TapBench) -> None:
        own, dns = STATIONS["both families"], (PortRule(protocol=PortProtocol.UDP, port=53),)
        limits = TapFilter(device=TAP, own=own, peers=frozenset({OTHER}), ports=dns)
        joined.kernel.apply([SetTapFilter(filter=limits)])
        wrong = [sent.name for sent, arrived in _exchanged(joined) if arrived != limits.permits(sent.as_facts())]
        assert not wrong

    def test_the_bridge_learns_nothing_from_what_is_spoofed(self, joined: TapBench) -> None:
        """Whatever a VM sends in another's name, the other's traffic does not come to it."""
        joined.kernel.apply([SetTapFilter(filter=TapFilter(device=TAP, own=MAC_ONLY))])
        arrived_of(joined, OTHER_TAP, [frame_of(OTHER, BROADCAST, bytes(46))])
        arrived_of(joined, TAP, [frame_of(OTHER, BROADCAST, bytes(46))])
        # The bridge sends to where it learnt the address last, and not back to where the frame comes from.
        assert not arrived_of(joined, OTHER_TAP, [frame_of(STRANGER, OTHER, bytes(46))])

    def test_what_comes_to_the_tap_is_not_judged(self, joined: TapBench) -> None:
        joined.kernel.apply([SetTapFilter(filter=TapFilter(device=TAP, own=STATIONS["no address"]))])
        frames = [frame_of(OTHER, OWN, sent.body) for sent in SENT]
        assert len(arrived_of(joined, OTHER_TAP, frames)) == len(frames)


def _changed(random: Random, body: bytes) -> bytes:
    changed = bytearray(body)
    for _ in range(random.choice([1, 1, 2, 3])):
        place = random.randrange(len(changed))
        changed[place] = random.choice([changed[place] ^ (1 << random.randrange(8)), *_LIKELY, random.randrange(256)])
    length = random.randrange(2, len(body) + 1) if random.random() < 0.15 else len(body)
    return bytes(changed[:length]) + bytes(random.randrange(40) if random.random() < 0.1 else 0)


def _exchanged(bench: TapBench) -> Iterator[tuple[Sent, bool]]:
    """Each frame from the tap, and whether it arrived."""
    frames = [frame_of(sent.source, sent.destination, sent.body) for sent in SENT]
    arrived = arrived_of(bench, TAP, frames)
    for sent, frame in zip(SENT, frames, strict=True):
        yield sent, frame[-TOKEN_BYTES:] in arrived
