"""Ethernet frames as the tests ask about them: who to whom, which protocol, which ports. Nothing deeper."""

import ipaddress
import struct
from dataclasses import dataclass
from enum import StrEnum

_ETHERTYPE_VLAN = 0x8100
_PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp", 50: "esp", 51: "ah", 58: "icmp6", 115: "l2tp"}
_IPV6_FRAGMENT = 44
_IPV6_SKIPPED = {0, 43, 60}


class Kind(StrEnum):
    """What a frame is to the tests."""

    ARP = "arp"
    ESP = "esp"
    AH = "ah"
    UDP = "udp"
    TCP = "tcp"
    ICMP = "icmp"
    ICMP6 = "icmp6"
    L2TP = "l2tp"
    OTHER = "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One frame seen on the wire.

    `time_s` is monotonic; `source` and `target` are IP (or ARP) addresses and ports are TCP/UDP ports, None where the
    frame has none (a later fragment has no ports).
    """

    time_s: float
    host: str
    raw: bytes
    kind: Kind
    source: str | None = None
    target: str | None = None
    source_port: int | None = None
    target_port: int | None = None

    def touches_port(self, first: int, last: int) -> bool:
        """Whether either port lies in the range, both ends included."""
        return any(port is not None and first <= port <= last for port in (self.source_port, self.target_port))


def parse(raw: bytes, *, time_s: float, host: str) -> Frame:
    """Read the headers; a frame that is cut short or unknown is of kind OTHER, never an error."""
    try:
        kind, source, target, ports = _headers(raw)
    except (struct.error, IndexError, ValueError):
        kind, source, target, ports = Kind.OTHER, None, None, (None, None)
    return Frame(
        time_s=time_s,
        host=host,
        raw=raw,
        kind=kind,
        source=source,
        target=target,
        source_port=ports[0],
        target_port=ports[1],
    )


_Ports = tuple[int | None, int | None]
_Headers = tuple[Kind, str | None, str | None, _Ports]


def _headers(raw: bytes) -> _Headers:
    (ethertype,) = struct.unpack_from("!H", raw, 12)
    start = 14
    if ethertype == _ETHERTYPE_VLAN:
        (ethertype,) = struct.unpack_from("!H", raw, 16)
        start = 18
    match ethertype:
        case 0x0806:
            return (
                Kind.ARP,
                _address(raw[start + 14 : start + 18]),
                _address(raw[start + 24 : start + 28]),
                (None, None),
            )
        case 0x0800:
            return _ipv4(raw, start)
        case 0x86DD:
            return _ipv6(raw, start)
        case _:
            return Kind.OTHER, None, None, (None, None)


def _ipv4(raw: bytes, start: int) -> _Headers:
    (fragment,) = struct.unpack_from("!H", raw, start + 6)
    source, target = _address(raw[start + 12 : start + 16]), _address(raw[start + 16 : start + 20])
    kind, ports = _transport(raw, start + (raw[start] & 0x0F) * 4, raw[start + 9], first=not fragment & 0x1FFF)
    return kind, source, target, ports


def _ipv6(raw: bytes, start: int) -> _Headers:
    source, target = _address(raw[start + 8 : start + 24]), _address(raw[start + 24 : start + 40])
    protocol, at, first = raw[start + 6], start + 40, True
    while protocol in _IPV6_SKIPPED or protocol == _IPV6_FRAGMENT:
        if protocol == _IPV6_FRAGMENT:
            (offset,) = struct.unpack_from("!H", raw, at + 2)
            first = first and not offset >> 3
            protocol, at = raw[at], at + 8
        else:
            protocol, at = raw[at], at + 8 + raw[at + 1] * 8
    kind, ports = _transport(raw, at, protocol, first=first)
    return kind, source, target, ports


def _transport(raw: bytes, at: int, protocol: int, *, first: bool) -> tuple[Kind, _Ports]:
    kind = Kind(_PROTOCOLS.get(protocol, "other"))
    if kind not in (Kind.UDP, Kind.TCP) or not first:
        return kind, (None, None)
    source_port, target_port = struct.unpack_from("!HH", raw, at)
    return kind, (source_port, target_port)


def _address(packed: bytes) -> str:
    return str(ipaddress.ip_address(packed))
