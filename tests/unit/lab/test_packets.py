"""Frames that tests make: read back by the lab's own reader, checksums verified by summing what is there."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.integration.lab.frames import Kind, parse
from tests.integration.lab.packets import checksum_of, esp_packet, l2tp_data, udp_frame, with_sequence

_MACS = ("52:54:00:00:01:02", "52:54:00:00:01:01")
_FOUR, _SIX = ("192.0.2.2", "192.0.2.1"), ("2001:db8::2", "2001:db8::1")


@pytest.mark.parametrize("addresses", [_FOUR, _SIX])
@given(payload=st.binary(max_size=300))
def test_a_datagram_is_read_as_it_was_made(addresses: tuple[str, str], payload: bytes) -> None:
    raw = udp_frame(payload, macs=_MACS, addresses=addresses, ports=(16400, 16401))
    frame = parse(raw, time_s=0.0, host="stranger")
    assert (frame.kind, frame.source, frame.target) == (Kind.UDP, *addresses)
    assert (frame.source_port, frame.target_port) == (16400, 16401)
    assert raw[:12].hex(":") == f"{_MACS[1]}:{_MACS[0]}"
    assert raw.endswith(payload)
    ip, udp = (raw[14:34], raw[34:]) if addresses is _FOUR else (raw[14:54], raw[54:])
    if addresses is _FOUR:
        assert checksum_of(ip) == 0
    ends = ip[12:20] if addresses is _FOUR else ip[8:40]
    assert checksum_of(ends + struct.pack("!IxxxB", len(udp), 17) + udp) == 0
    assert struct.unpack_from("!H", udp, 4) == (len(udp),)


def test_a_checksum_is_the_one_of_the_standard() -> None:
    assert checksum_of(bytes.fromhex("0001f203f4f5f6f7")) == 0xFFFF - 0xDDF2  # RFC 1071, section 3
    assert checksum_of(b"\x01") == 0xFEFF


def test_a_tunnels_frame_has_its_session_in_front() -> None:
    assert l2tp_data(0x4001, b"frame") == bytes.fromhex("00030000 00004001 00000000") + b"frame"


def _esp(*, fragment: int = 0, protocol: int = 50) -> bytes:
    header = struct.pack("!BBHHHBBH", 0x45, 0, 60, 1, fragment, 64, protocol, 0) + bytes(8)
    return bytes(12) + b"\x08\x00" + header + struct.pack("!II", 0xC0FFEE01, 41) + bytes(32)


def test_an_esp_packet_tells_spi_and_sequence() -> None:
    packet = esp_packet(_esp())
    assert packet is not None
    assert (packet.spi, packet.sequence, packet.offset) == (0xC0FFEE01, 41, 34)
    assert esp_packet(_esp(fragment=0x2000)) is None
    assert esp_packet(_esp(fragment=3)) is None
    assert esp_packet(_esp(protocol=17)) is None
    assert esp_packet(b"") is None


def test_only_the_sequence_number_becomes_another() -> None:
    changed = with_sequence(_esp(), 7)
    packet = esp_packet(changed)
    assert packet is not None
    assert (packet.spi, packet.sequence) == (0xC0FFEE01, 7)
    assert changed[:38] + changed[42:] == _esp()[:38] + _esp()[42:]
