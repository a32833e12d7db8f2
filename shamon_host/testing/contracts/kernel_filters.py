"""What filters of taps let pass in every `links.ports.LinkKernel`: subclass `TapFilterContract`, give it a `bench`.

Real frames of many kinds go from one VM's tap to another's, and arrive exactly when `TapFilter.permits` says so. Runs
on the kernel in memory in the unit tests, and on Linux in a lab host. That filters are kept whole is in
`contracts.kernel`.
"""

import itertools
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import pytest

from shamon_host.links.desired import bridge_name
from shamon_host.links.frame_facts import FrameFacts, FrameKind, PortProtocol, PortRule
from shamon_host.links.model import AttachPort, ClearTapFilter, CreateBridge, SetTapFilter
from shamon_host.links.ports import LinkKernel
from shamon_host.links.tap_filter import TapFilter, shut

TAP, OTHER_TAP = "shvm98-0", "shvm99-0"
"""Of the VM with the filter, and of another one of its type without."""
OWN, OTHER, STRANGER = "02:00:00:00:0a:01", "02:00:00:00:0a:02", "02:00:00:00:0a:03"
"""MAC addresses. Both `OTHER` and `STRANGER` are at the other tap."""
BROADCAST, MULTICAST = "ff:ff:ff:ff:ff:ff", "33:33:ff:00:00:01"
BRIDGE = bridge_name(7)
HTTPS = PortRule(protocol=PortProtocol.TCP, port=443)
DNS = PortRule(protocol=PortProtocol.UDP, port=53)
_TOKEN = struct.Struct("!Q")
TOKEN_BYTES = _TOKEN.size
_TOKENS = itertools.count(0x5348414D00000000)


class TapBench(Protocol):
    """A kernel without links, and a VM behind each of `TAP` and `OTHER_TAP`, which are in no bridge yet."""

    kernel: LinkKernel

    def pass_time(self, seconds: float) -> None: ...

    def exchange(self, tap: str, frames: Sequence[bytes]) -> Sequence[bytes]:
        """The VM behind `tap` sends these frames, in turn. What the other VM gets, without VLAN tags perhaps."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A kind of frame: its bytes behind the addresses, without the token at its end, and what a filter sees in it."""

    name: str
    body: bytes
    kind: FrameKind = FrameKind.OTHER
    protocol: PortProtocol | None = None
    ports: tuple[int, int] = (0, 0)

    def facts(self, source: str, destination: str) -> FrameFacts:
        return FrameFacts(
            from_tap=source == OWN,
            source=source,
            destination=destination,
            kind=self.kind,
            protocol=self.protocol,
            source_port=self.ports[0],
            destination_port=self.ports[1],
        )


def _ports(name: str, protocol: PortProtocol, ports: tuple[int, int], carry: Callable[[int, bytes], bytes]) -> Sample:
    number = {PortProtocol.TCP: 6, PortProtocol.UDP: 17}[protocol]
    return Sample(
        name=name, body=carry(number, _transport(*ports)), kind=FrameKind.PORTS, protocol=protocol, ports=ports
    )


def _transport(source: int, destination: int) -> bytes:
    """The start of a TCP segment, long enough for a UDP datagram too."""
    return struct.pack("!HHIIHHHH", source, destination, 1, 0, 0x5002, 1024, 0, 0)


def _ipv4(number: int, content: bytes, *, fragment: int = 0, missing: int = 0) -> bytes:
    """`fragment`: flags and offset. `missing`: bytes that the header promises and that do not come."""
    total = 20 + len(content) + TOKEN_BYTES + missing
    addresses = bytes([10, 9, 0, 1, 10, 9, 0, 2])
    return b"\x08\x00" + struct.pack("!BBHHHBBH", 0x45, 0, total, 1, fragment, 64, number, 0) + addresses + content


def _ipv6(number: int, content: bytes) -> bytes:
    header = struct.pack("!IHBB", 6 << 28, len(content) + TOKEN_BYTES, number, 255)
    return b"\x86\xdd" + header + bytes.fromhex("fd" + "00" * 14 + "01" + "fd" + "00" * 14 + "02") + content


def _behind_options(number: int, content: bytes) -> bytes:
    """Behind a hop-by-hop header with padding and a fragment header of a packet that is whole."""
    return _ipv6(0, bytes([44, 0, 1, 4, 0, 0, 0, 0]) + bytes([number, 0, 0, 0, 0, 0, 0, 9]) + content)


def _icmp6(kind: int) -> bytes:
    return bytes([kind, 0, 0, 0]) + bytes(20)


def _arp(operation: int) -> bytes:
    return b"\x08\x06" + struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation) + bytes(20)


def _tagged(body: bytes) -> bytes:
    """With a VLAN tag (IEEE 802.1Q)."""
    return b"\x81\x00\x00\x05" + body


TCP, UDP = PortProtocol.TCP, PortProtocol.UDP
SAMPLES = (
    Sample(name="ARP request", body=_arp(1), kind=FrameKind.ARP_REQUEST),
    Sample(name="ARP reply", body=_arp(2), kind=FrameKind.ARP),
    Sample(name="solicitation", body=_ipv6(58, _icmp6(135)), kind=FrameKind.NEIGHBOUR_SOLICITATION),
    Sample(name="advertisement", body=_ipv6(58, _icmp6(136)), kind=FrameKind.NEIGHBOUR_ADVERTISEMENT),
    Sample(name="router advertisement", body=_ipv6(58, _icmp6(134))),
    Sample(name="ICMPv6 echo", body=_ipv6(58, _icmp6(128))),
    Sample(name="ICMP echo", body=_ipv4(1, bytes([8, 0, 0, 0, 0, 0, 0, 0]))),
    Sample(name="what would be a solicitation over IPv6", body=_ipv4(58, _icmp6(135))),
    _ports("to HTTPS", TCP, (40000, 443), _ipv4),
    _ports("from HTTPS", TCP, (443, 40000), _ipv4),
    _ports("to HTTPS over IPv6", TCP, (40000, 443), _ipv6),
    _ports("from HTTPS over IPv6, behind extension headers", TCP, (443, 40000), _behind_options),
    _ports("to DNS", UDP, (40000, 53), _ipv4),
    _ports("from DNS over IPv6", UDP, (53, 40000), _ipv6),
    _ports("another port", TCP, (40000, 80), _ipv4),
    _ports("another port over IPv6", UDP, (40000, 443), _ipv6),
    _ports("the port of another protocol", UDP, (443, 443), _ipv4),
    _ports("a first fragment", UDP, (40000, 53), lambda number, content: _ipv4(number, content, fragment=0x2000)),
    Sample(name="a later fragment", body=_ipv4(17, _transport(53, 53), fragment=0x0003)),
    Sample(
        name="a later fragment over IPv6",
        body=_ipv6(44, bytes([17, 0, 0, 16, 0, 0, 0, 9]) + _transport(53, 53)),
    ),
    Sample(name="SCTP", body=_ipv4(132, _transport(443, 443))),
    Sample(name="a packet that is cut off", body=_ipv4(6, _transport(443, 443), missing=1)),
    Sample(name="tagged HTTPS", body=_tagged(_ipv4(6, _transport(443, 443)))),
    Sample(name="tagged ARP", body=_tagged(_arp(1))),
    Sample(name="another Ethernet type", body=b"\x88\xb5" + bytes(46)),
)
WAYS = (
    *((OWN, destination) for destination in (OTHER, STRANGER, BROADCAST, MULTICAST)),
    *((source, destination) for source in (OTHER, STRANGER) for destination in (OWN, BROADCAST)),
)
"""Sources and destinations: what the VM with the filter sends, and what is sent to it."""
PEER, BOTH = frozenset({OTHER}), (HTTPS, DNS)
FILTERS = {
    "no limit": TapFilter(device=TAP),
    "receives only": TapFilter(device=TAP, sends=False),
    "sends only": TapFilter(device=TAP, receives=False),
    "one peer": TapFilter(device=TAP, peers=PEER),
    "no peer": TapFilter(device=TAP, peers=frozenset()),
    "two ports": TapFilter(device=TAP, ports=BOTH),
    "no port": TapFilter(device=TAP, ports=()),
    "one peer, one port": TapFilter(device=TAP, peers=PEER, ports=(HTTPS,)),
    "an open window": TapFilter(device=TAP, open_s=300.0),
    "a window that is shut": TapFilter(device=TAP, open_s=0.0),
    "everything": TapFilter(
        device=TAP, receives=False, peers=PEER, ports=BOTH, rate_bytes_s=10**6, open_s=300.0
    ),
    "nothing": shut(TAP),
}  # fmt: skip


class TapFilterContract:
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

    def test_without_a_filter_everything_passes(self, joined: TapBench) -> None:
        lost = [f"{sample.name} from {a} to {b}" for sample, a, b, arrived in _exchanged(joined) if not arrived]
        assert not lost

    @pytest.mark.parametrize("name", FILTERS)
    def test_what_passes_is_what_the_filter_permits(self, joined: TapBench, name: str) -> None:
        limits = FILTERS[name]
        joined.kernel.apply([SetTapFilter(filter=limits)])
        wrong = [
            f"{sample.name} from {source} to {destination} {'passes' if arrived else 'does not pass'}"
            for sample, source, destination, arrived in _exchanged(joined)
            if arrived != limits.permits(sample.facts(source, destination))
        ]
        assert not wrong, f"{limits}: {wrong}"

    def test_other_taps_are_not_judged(self, joined: TapBench) -> None:
        joined.kernel.apply([SetTapFilter(filter=shut("shvm97-0"))])
        assert _passes(joined, OTHER_TAP)
        assert _passes(joined, TAP)

    def test_a_filter_is_there_before_its_tap_is_in_the_bridge(self, bench: TapBench) -> None:
        bench.kernel.apply([SetTapFilter(filter=shut(TAP)), CreateBridge(name=BRIDGE)])
        bench.kernel.apply([AttachPort(bridge=BRIDGE, interface=tap, isolated=False) for tap in (TAP, OTHER_TAP)])
        assert not _passes(bench, TAP)
        assert not _passes(bench, OTHER_TAP)

    def test_a_filter_is_replaced_and_cleared(self, joined: TapBench) -> None:
        for limits, passes in (
            (TapFilter(device=TAP, ports=(DNS,)), False),
            (TapFilter(device=TAP, peers=PEER, open_s=60.0), True),
            (TapFilter(device=TAP, sends=False), False),
            (TapFilter(device=TAP, ports=BOTH, rate_bytes_s=10**6), True),
            (shut(TAP), False),
        ):
            joined.kernel.apply([SetTapFilter(filter=limits)])
            assert _passes(joined, TAP) is passes, limits
        joined.kernel.apply([ClearTapFilter(device=TAP)])
        assert _passes(joined, TAP)

    def test_a_window_closes_by_itself_both_ways(self, joined: TapBench) -> None:
        joined.kernel.apply([SetTapFilter(filter=TapFilter(device=TAP, open_s=20.0))])
        assert _passes(joined, TAP)
        assert _passes(joined, OTHER_TAP)
        joined.pass_time(20.5)
        assert not _passes(joined, TAP)
        assert not _passes(joined, OTHER_TAP)
        joined.kernel.apply([SetTapFilter(filter=TapFilter(device=TAP, open_s=60.0))])
        assert _passes(joined, TAP)

    def test_a_rate_bounds_what_the_vm_sends(self, joined: TapBench) -> None:
        """At once it may send 64 KiB and what the rate gives in a second; then as much as the rate gives."""
        joined.kernel.apply([SetTapFilter(filter=TapFilter(device=TAP, rate_bytes_s=1000))])
        burst = [frame_of(OWN, OTHER, b"\x88\xb5" + bytes(1392)) for _ in range(100)]
        arrived = len(arrived_of(joined, TAP, burst))
        # 47 by the bucket, and one for each 1.4 s that sending them takes.
        assert 47 <= arrived <= 55
        joined.pass_time(3.0)
        assert 1 <= len(arrived_of(joined, TAP, burst)) <= 10
        burst = [frame_of(OTHER, OWN, b"\x88\xb5" + bytes(1392)) for _ in range(100)]
        assert len(arrived_of(joined, OTHER_TAP, burst)) == 100


def _exchanged(bench: TapBench) -> Iterator[tuple[Sample, str, str, bool]]:
    """Each sample each way, and whether it arrived."""
    for own in (True, False):
        sent = [
            (sample, way, frame_of(*way, sample.body)) for sample in SAMPLES for way in WAYS if (way[0] == OWN) is own
        ]
        arrived = arrived_of(bench, TAP if own else OTHER_TAP, [frame for _, _, frame in sent])
        for sample, way, frame in sent:
            yield sample, *way, frame[-TOKEN_BYTES:] in arrived


def _passes(bench: TapBench, tap: str) -> bool:
    """An HTTPS segment from this tap's VM to the other's."""
    source, destination = (OWN, OTHER) if tap == TAP else (OTHER, OWN)
    return bool(arrived_of(bench, tap, [frame_of(source, destination, _ipv4(6, _transport(40000, 443)))]))


def frame_of(source: str, destination: str, body: bytes) -> bytes:
    """With a token of its own at its end."""
    return bytes.fromhex((destination + source).replace(":", "")) + body + _TOKEN.pack(next(_TOKENS))


def arrived_of(bench: TapBench, tap: str, frames: Sequence[bytes]) -> set[bytes]:
    """Tokens of these frames that the other VM got."""
    sent = {frame[-TOKEN_BYTES:] for frame in frames}
    return sent & {frame[-TOKEN_BYTES:] for frame in bench.exchange(tap, frames)}
