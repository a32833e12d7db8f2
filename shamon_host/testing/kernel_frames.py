"""What a frame is to the filters of taps, read from its bytes as Linux reads them for nft rules of family bridge.

Sources: nft_set_pktinfo_ipv4_validate and nft_set_pktinfo_ipv6_validate (include/net/netfilter), ipv6_find_hdr
(net/ipv6/exthdrs_core.c), nft_payload_eval (net/netfilter/nft_payload.c).
"""

import struct

from shamon_host.links.frame_facts import ArpFacts, FrameFacts, FrameKind, NeighbourFacts, PortProtocol
from shamon_host.testing.ip_addresses import unpacked

_ARP, _IPV4, _IPV6 = 0x0806, 0x0800, 0x86DD
_PROTOCOLS = {6: PortProtocol.TCP, 17: PortProtocol.UDP}
_TAGS = (0x8100, 0x88A8)
_ICMPV6 = 58
_MESSAGES = {
    134: FrameKind.ROUTER_ADVERTISEMENT,
    135: FrameKind.NEIGHBOUR_SOLICITATION,
    136: FrameKind.NEIGHBOUR_ADVERTISEMENT,
}
_LINK_ADDRESS = {FrameKind.NEIGHBOUR_SOLICITATION: b"\1\1", FrameKind.NEIGHBOUR_ADVERTISEMENT: b"\2\1"}
"""Type and length of its option (RFC 4861, section 4.6.1)."""
_ARP_HEADER = bytes.fromhex("000108000604")
_FRAGMENT, _AUTHENTICATION = 44, 51
_EXTENSIONS = frozenset({0, 43, _FRAGMENT, _AUTHENTICATION, 60})


def facts_of(frame: bytes, *, from_tap: bool) -> FrameFacts:
    """`frame` starts with its Ethernet header, of 14 bytes at least."""
    source, destination = frame[6:12].hex(":"), frame[:6].hex(":")
    ethertype, body = int.from_bytes(frame[12:14]), frame[14:]
    kind, protocol, ports, arp, neighbour = FrameKind.OTHER, None, (0, 0), None, None
    if ethertype == _ARP:
        kind = FrameKind.ARP_REQUEST if body[6:8] == b"\0\1" else FrameKind.ARP
        arp = _arp(body)
    elif ethertype in (_IPV4, _IPV6):
        number, transport = (_ipv4 if ethertype == _IPV4 else _ipv6)(body)
        if number in _PROTOCOLS and len(transport) >= 4:
            kind, protocol, ports = FrameKind.PORTS, _PROTOCOLS[number], struct.unpack_from("!HH", transport)
        elif (number, ethertype) == (_ICMPV6, _IPV6) and transport:
            kind = _MESSAGES.get(transport[0], FrameKind.OTHER)
            neighbour = _neighbour(kind, body, transport) if kind in _LINK_ADDRESS else None
    return FrameFacts(
        from_tap=from_tap,
        source=source,
        destination=destination,
        kind=kind,
        protocol=protocol,
        source_port=ports[0],
        destination_port=ports[1],
        tagged=ethertype in _TAGS,
        ip_source=_ip_source(ethertype, body),
        arp=arp,
        neighbour=neighbour,
    )


def _ip_source(ethertype: int, body: bytes) -> str:
    """Where its header has it, whole or not."""
    if ethertype == _IPV4 and len(body) >= 16:
        return unpacked(body[12:16])
    return unpacked(body[8:24]) if ethertype == _IPV6 and len(body) >= 24 else ""


def _arp(body: bytes) -> ArpFacts | None:
    if len(body) < 14 or body[:6] != _ARP_HEADER:
        return None
    return ArpFacts(
        sender_mac=body[8:14].hex(":"),
        sender=unpacked(body[14:18]) if len(body) >= 18 else "",
        target=unpacked(body[24:28]) if len(body) >= 28 else "",
    )


def _neighbour(kind: FrameKind, body: bytes, transport: bytes) -> NeighbourFacts:
    """`body`: from the IPv6 header on; `transport`: from the message on, with what is behind the packet."""
    length, link_address = int.from_bytes(body[4:6]), None
    if body[6] == _ICMPV6 and length == 24:
        link_address = ""
    elif body[6] == _ICMPV6 and length == 32 and transport[24:26] == _LINK_ADDRESS[kind]:
        link_address = transport[26:32].hex(":")
    target = unpacked(transport[8:24]) if len(transport) >= 24 else ""
    return NeighbourFacts(target=target, link_address=link_address)


def _ipv4(body: bytes) -> tuple[int, bytes]:
    """Protocol, and what is at the transport header's place; nothing in a later fragment or a malformed packet."""
    if len(body) < 20 or body[0] >> 4 != 4:
        return -1, b""
    header, total = (body[0] & 15) * 4, int.from_bytes(body[2:4])
    if not 20 <= header <= total <= len(body):
        return -1, b""
    later = int.from_bytes(body[6:8]) & 0x1FFF
    return body[9], b"" if later else body[header:]


def _ipv6(body: bytes) -> tuple[int, bytes]:
    """As `_ipv4`, behind all extension headers."""
    if len(body) < 40 or body[0] >> 4 != 6 or 40 + int.from_bytes(body[4:6]) > len(body):
        return -1, b""
    number, place = body[6], 40
    while number in _EXTENSIONS:
        extension = body[place:]
        if len(extension) < 8:
            return -1, b""
        if number == _FRAGMENT and int.from_bytes(extension[2:4]) & ~7:
            return extension[0], b""
        length = {_FRAGMENT: 8, _AUTHENTICATION: (extension[1] + 2) * 4}.get(number, (extension[1] + 1) * 8)
        number, place = extension[0], place + length
    return number, body[place:]
