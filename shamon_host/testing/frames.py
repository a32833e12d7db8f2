"""Ethernet frames that simulated guests send: ARP (RFC 826), ICMP echo (RFC 792), ICMPv6 echo and neighbour discovery
(RFC 4443, RFC 4861). Built and parsed as bytes, so that what crosses a simulated bridge or wire is what a real one
would carry."""

import struct
from dataclasses import dataclass
from enum import StrEnum

from shamon_host.testing.ip_addresses import family, packed, unpacked

BROADCAST = b"\xff" * 6
_ARP, _IPV4, _IPV6 = 0x0806, 0x0800, 0x86DD
_ICMP, _ICMPV6 = 1, 58
_ETHERNET = struct.Struct("!6s6sH")
_ARP_BODY = struct.Struct("!HHBBH6s4s6s4s")
_IPV4_HEADER = struct.Struct("!BBHHHBBH4s4s")
_IPV6_HEADER = struct.Struct("!IHBB16s16s")
_ECHO = struct.Struct("!BBHHH")
_NEIGHBOUR = struct.Struct("!BBHI16sBB6s")


class Kind(StrEnum):
    ARP_REQUEST = "arp-request"
    ARP_REPLY = "arp-reply"
    ECHO_REQUEST = "echo-request"
    ECHO_REPLY = "echo-reply"
    NEIGHBOUR_SOLICITATION = "neighbour-solicitation"
    NEIGHBOUR_ADVERTISEMENT = "neighbour-advertisement"


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One frame in parts. MAC addresses are 6 bytes; `destination` of an ARP or NDP question is what it asks about."""

    kind: Kind
    source_mac: bytes
    destination_mac: bytes
    source: str
    destination: str
    identifier: int = 0
    """Of an echo: tells its reply."""


_ICMP4_TYPES = {8: Kind.ECHO_REQUEST, 0: Kind.ECHO_REPLY}
_ICMP6_TYPES = {
    128: Kind.ECHO_REQUEST,
    129: Kind.ECHO_REPLY,
    135: Kind.NEIGHBOUR_SOLICITATION,
    136: Kind.NEIGHBOUR_ADVERTISEMENT,
}


def build(frame: Frame) -> bytes:
    """The frame as bytes on the wire, without padding and checksum of the link layer."""
    version = family(frame.destination)
    source, destination = packed(frame.source), packed(frame.destination)
    match frame.kind:
        case Kind.ARP_REQUEST | Kind.ARP_REPLY:
            operation = 1 if frame.kind is Kind.ARP_REQUEST else 2
            target_mac = b"\0" * 6 if operation == 1 else frame.destination_mac
            body = _ARP_BODY.pack(1, _IPV4, 6, 4, operation, frame.source_mac, source, target_mac, destination)
            return _ethernet(frame, _ARP) + body
        case Kind.ECHO_REQUEST | Kind.ECHO_REPLY if version == 4:
            number = 8 if frame.kind is Kind.ECHO_REQUEST else 0
            message = _checksummed(_ECHO.pack(number, 0, 0, frame.identifier, 1), b"")
            header = _IPV4_HEADER.pack(0x45, 0, 20 + len(message), 0, 0, 64, _ICMP, 0, source, destination)
            header = header[:10] + struct.pack("!H", _checksum(header)) + header[12:]
            return _ethernet(frame, _IPV4) + header + message
        case Kind.ECHO_REQUEST | Kind.ECHO_REPLY:
            number = 128 if frame.kind is Kind.ECHO_REQUEST else 129
            message = _ECHO.pack(number, 0, 0, frame.identifier, 1)
        case _:
            asks = frame.kind is Kind.NEIGHBOUR_SOLICITATION
            about = destination if asks else source
            message = _NEIGHBOUR.pack(
                135 if asks else 136, 0, 0, 0 if asks else 0x60000000, about, 1 if asks else 2, 1, frame.source_mac
            )
    pseudo = source + destination + struct.pack("!II", len(message), _ICMPV6)
    message = _checksummed(message, pseudo)
    header = _IPV6_HEADER.pack(6 << 28, len(message), _ICMPV6, 255, source, destination)
    return _ethernet(frame, _IPV6) + header + message


def parse(data: bytes) -> Frame | None:
    """The frame in parts; None for everything that guests here do not speak."""
    try:
        destination_mac, source_mac, ethertype = _ETHERNET.unpack_from(data)
        body = data[_ETHERNET.size :]
        if ethertype == _ARP:
            return _parse_arp(source_mac, destination_mac, body)
        if ethertype == _IPV4:
            protocol, source, destination = body[9], body[12:16], body[16:20]
            end = int.from_bytes(body[2:4])
            message, wanted, kinds = body[(body[0] & 15) * 4 : end], _ICMP, _ICMP4_TYPES
        elif ethertype == _IPV6:
            protocol, source, destination = body[6], body[8:24], body[24:40]
            end = 40 + int.from_bytes(body[4:6])
            message, wanted, kinds = body[40:end], _ICMPV6, _ICMP6_TYPES
        else:
            return None
        if len(body) < end or protocol != wanted or message[0] not in kinds:
            return None
        kind = kinds[message[0]]
        identifier = struct.unpack_from("!H", message, 4)[0] if "echo" in kind else 0
        return Frame(
            kind=kind,
            source_mac=source_mac,
            destination_mac=destination_mac,
            identifier=identifier,
            source=unpacked(source),
            destination=unpacked(destination),
        )
    except (struct.error, IndexError, ValueError):
        return None


def _parse_arp(source_mac: bytes, destination_mac: bytes, body: bytes) -> Frame | None:
    _, protocol, _, _, operation, _, source, _, destination = _ARP_BODY.unpack_from(body)
    if protocol != _IPV4 or operation not in (1, 2):
        return None
    return Frame(
        kind=Kind.ARP_REQUEST if operation == 1 else Kind.ARP_REPLY,
        source_mac=source_mac,
        destination_mac=destination_mac,
        source=unpacked(source),
        destination=unpacked(destination),
    )


def _ethernet(frame: Frame, ethertype: int) -> bytes:
    return _ETHERNET.pack(frame.destination_mac, frame.source_mac, ethertype)


def _checksummed(message: bytes, pseudo: bytes) -> bytes:
    """An ICMP message with its checksum, which stands at offset 2 (RFC 1071)."""
    return message[:2] + struct.pack("!H", _checksum(pseudo + message)) + message[4:]


def _checksum(data: bytes) -> int:
    padded = data + b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return int(~total & 0xFFFF)
