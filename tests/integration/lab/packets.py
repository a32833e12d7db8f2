"""Frames that a test puts on the wire: datagrams made by hand, and what makes another frame of a captured one."""

import struct
from dataclasses import dataclass
from ipaddress import ip_address

_UDP, _ESP = 17, 50
_FRAGMENTED = 0x3FFF
"""Flag "more fragments" and the offset, in IPv4's sixth and seventh byte (RFC 791, section 3.1)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EspPacket:
    """Where an unfragmented ESP packet over IPv4 has what is not secret (RFC 4303, section 2)."""

    spi: int
    sequence: int
    """Its low 32 bits."""
    offset: int
    """Of the SPI in the frame."""


def udp_frame(
    payload: bytes,
    *,
    macs: tuple[str, str],
    addresses: tuple[str, str],
    ports: tuple[int, int],
) -> bytes:
    """An Ethernet frame with a UDP datagram over IPv4 or IPv6; each pair is (source, target). Checksums are right."""
    source, target = (ip_address(address) for address in addresses)
    ethernet = b"".join(bytes.fromhex(mac.replace(":", "")) for mac in reversed(macs))
    length = 8 + len(payload)
    pseudo = source.packed + target.packed + struct.pack("!IxxxB", length, _UDP)
    udp = struct.pack("!HHHH", *ports, length, 0)
    checksum = checksum_of(pseudo + udp + payload) or 0xFFFF
    udp = udp[:6] + struct.pack("!H", checksum)
    if source.version == 6:
        header = struct.pack("!IHBB", 6 << 28, length, _UDP, 64) + source.packed + target.packed
        return ethernet + struct.pack("!H", 0x86DD) + header + udp + payload
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + length, 1, 0, 64, _UDP, 0) + source.packed + target.packed
    header = header[:10] + struct.pack("!H", checksum_of(header)) + header[12:]
    return ethernet + struct.pack("!H", 0x0800) + header + udp + payload


def l2tp_data(session: int, frame: bytes) -> bytes:
    """An L2TPv3 data message over UDP with the default sublayer (RFC 3931, sections 4.1.2 and 4.6): what a link's
    tunnel would take for a frame of its own."""
    return struct.pack("!HHII", 0x0003, 0, session, 0) + frame


def esp_packet(raw: bytes) -> EspPacket | None:
    """The ESP packet in a frame; None for anything else, and for fragments."""
    if len(raw) < 14 + 20 + 8 or raw[12:14] != b"\x08\x00" or raw[14 + 9] != _ESP:
        return None
    (fragment,) = struct.unpack_from("!H", raw, 14 + 6)
    if fragment & _FRAGMENTED:
        return None
    offset = 14 + (raw[14] & 0x0F) * 4
    spi, sequence = struct.unpack_from("!II", raw, offset)
    return EspPacket(spi=spi, sequence=sequence, offset=offset)


def with_sequence(raw: bytes, sequence: int) -> bytes:
    """The ESP packet under another sequence number, which its integrity check does not cover."""
    packet = esp_packet(raw)
    assert packet is not None
    at = packet.offset + 4
    return raw[:at] + struct.pack("!I", sequence & 0xFFFFFFFF) + raw[at + 4 :]


def checksum_of(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    padded = data + b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
