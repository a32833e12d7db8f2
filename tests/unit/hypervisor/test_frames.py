"""Frames of simulated guests: what is built can be parsed, and bytes are what the standards say."""

import ipaddress
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shamon_host.testing import frames
from shamon_host.testing.frames import Frame, Kind

_macs = st.binary(min_size=6, max_size=6)
_v4 = st.ip_addresses(v=4).map(str)
_v6 = st.ip_addresses(v=6).map(str)


def _frames(kinds: list[Kind], addresses: st.SearchStrategy[str], *, echo: bool) -> st.SearchStrategy[Frame]:
    return st.builds(
        Frame,
        kind=st.sampled_from(kinds),
        source_mac=_macs,
        destination_mac=_macs,
        source=addresses,
        destination=addresses,
        identifier=st.integers(0, 0xFFFF) if echo else st.just(0),
    )


_any_frame = (
    _frames([Kind.ARP_REQUEST, Kind.ARP_REPLY], _v4, echo=False)
    | _frames([Kind.ECHO_REQUEST, Kind.ECHO_REPLY], _v4, echo=True)
    | _frames([Kind.ECHO_REQUEST, Kind.ECHO_REPLY], _v6, echo=True)
    | _frames([Kind.NEIGHBOUR_SOLICITATION, Kind.NEIGHBOUR_ADVERTISEMENT], _v6, echo=False)
)


@given(frame=_any_frame)
def test_round_trip(frame: Frame) -> None:
    assert frames.parse(frames.build(frame)) == frame


@given(frame=_any_frame)
def test_padding_changes_nothing(frame: Frame) -> None:
    """Ethernet fills short frames up to 60 bytes."""
    assert frames.parse(frames.build(frame).ljust(60, b"\0")) == frame


@given(data=st.binary(max_size=100))
def test_hostile_bytes(data: bytes) -> None:
    frame = frames.parse(data)
    assert frame is None or isinstance(frame, Frame)


@given(frame=_any_frame, length=st.integers(0, 41))
def test_truncated_frame_is_none(frame: Frame, length: int) -> None:
    whole = frames.build(frame)
    assert frames.parse(whole[: min(length, len(whole) - 1)]) is None


def test_arp_request_bytes() -> None:
    """RFC 826: hardware 1, protocol 0x0800, lengths 6 and 4, operation 1."""
    frame = Frame(
        kind=Kind.ARP_REQUEST,
        source_mac=bytes.fromhex("525400000001"),
        destination_mac=frames.BROADCAST,
        source="10.9.0.1",
        destination="10.9.0.2",
    )
    assert frames.build(frame).hex() == (
        "ffffffffffff525400000001080600010800060400015254000000010a0900010000000000000a090002"
    )


def test_checksums() -> None:
    """RFC 1071: the sum over what a checksum covers, itself included, is 0xffff."""
    v4 = frames.build(
        Frame(
            kind=Kind.ECHO_REQUEST,
            source_mac=bytes(6),
            destination_mac=bytes(6),
            source="10.9.0.1",
            destination="10.9.0.2",
            identifier=7,
        )
    )
    assert _sum(v4[14:34]) == 0xFFFF
    assert _sum(v4[34:]) == 0xFFFF
    v6 = frames.build(
        Frame(
            kind=Kind.NEIGHBOUR_SOLICITATION,
            source_mac=bytes(6),
            destination_mac=bytes(6),
            source="fd00::1",
            destination="fd00::2",
        )
    )
    message = v6[54:]
    pseudo = ipaddress.ip_address("fd00::1").packed + ipaddress.ip_address("fd00::2").packed
    assert _sum(pseudo + struct.pack("!II", len(message), 58) + message) == 0xFFFF


@pytest.mark.parametrize("ethertype", [0x88CC, 0x8100, 0x86DD])
def test_other_protocols_are_none(ethertype: int) -> None:
    assert frames.parse(bytes(12) + struct.pack("!H", ethertype) + bytes(60)) is None


def _sum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total
