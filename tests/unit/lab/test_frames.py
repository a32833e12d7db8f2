"""What the lab's wire makes of a frame's bytes."""

import struct
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.integration.lab.frames import Frame, Kind, parse

_MACS = bytes.fromhex("5254000001025254000001 01".replace(" ", ""))


def _parse(raw: bytes) -> Frame:
    return parse(raw, time_s=0.0, host="alpha")


def _ipv4(protocol: int, body: bytes, *, fragment: int = 0) -> bytes:
    addresses = ip_address("192.0.2.1").packed + ip_address("192.0.2.2").packed
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 1, fragment, 64, protocol, 0) + addresses
    return _MACS + b"\x08\x00" + header + body


def _ipv6(protocol: int, body: bytes) -> bytes:
    addresses = ip_address("2001:db8::1").packed + ip_address("2001:db8::2").packed
    return _MACS + b"\x86\xdd" + struct.pack("!IHBB", 6 << 28, len(body), protocol, 64) + addresses + body


def test_udp_has_addresses_and_ports() -> None:
    frame = _parse(_ipv4(17, struct.pack("!HHHH", 24576, 24577, 8, 0)))
    assert (frame.kind, frame.source, frame.target) == (Kind.UDP, "192.0.2.1", "192.0.2.2")
    assert (frame.source_port, frame.target_port) == (24576, 24577)
    assert frame.touches_port(24577, 24600)
    assert not frame.touches_port(1, 24575)


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        (_ipv4(50, bytes(40)), Kind.ESP),
        (_ipv4(1, bytes(8)), Kind.ICMP),
        (_ipv4(89, bytes(8)), Kind.OTHER),
        (_ipv6(50, bytes(40)), Kind.ESP),
        (_ipv6(58, bytes(8)), Kind.ICMP6),
        (_MACS + b"\x88\xb5" + bytes(46), Kind.OTHER),
    ],
)
def test_kinds(raw: bytes, kind: Kind) -> None:
    assert _parse(raw).kind is kind


def test_arp_has_the_addresses_it_speaks_of() -> None:
    body = bytes.fromhex("0001080006040001") + bytes(6) + bytes([192, 0, 2, 1]) + bytes(6) + bytes([192, 0, 2, 2])
    frame = _parse(_MACS + b"\x08\x06" + body)
    assert (frame.kind, frame.source, frame.target) == (Kind.ARP, "192.0.2.1", "192.0.2.2")


def test_a_later_fragment_has_no_ports() -> None:
    frame = _parse(_ipv4(17, struct.pack("!HHHH", 1, 2, 8, 0), fragment=100))
    assert (frame.kind, frame.source_port) == (Kind.UDP, None)


def test_extension_headers_are_passed_over() -> None:
    fragment_header = struct.pack("!BBHI", 17, 0, 0, 1)
    frame = _parse(_ipv6(44, fragment_header + struct.pack("!HHHH", 7, 9, 8, 0)))
    assert (frame.kind, frame.target_port) == (Kind.UDP, 9)


@given(st.binary(max_size=120))
def test_any_bytes_are_a_frame(raw: bytes) -> None:
    assert _parse(raw).raw == raw
