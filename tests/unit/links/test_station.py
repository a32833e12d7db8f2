"""Who a VM's interface is: what it may send as its own, and what is no station."""

from collections.abc import Callable
from ipaddress import IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shamon_host.domain.addresses import MAX_ADDRESSES
from shamon_host.domain.errors import BadInput
from shamon_host.links.frame_facts import FrameFacts, FrameKind
from shamon_host.links.station import Station, is_control
from shamon_host.testing.contracts.kernel_stations import SENT, STATIONS, Sent
from tests.unit.links.test_tap_filter import FRAMES, OWN

MAC = "52:54:00:12:34:56"


def test_the_link_local_address_is_that_of_eui_64() -> None:
    """What Linux gives an interface of this MAC address with addrgenmode eui64."""
    assert Station(mac=MAC).link_local == "fe80::5054:ff:fe12:3456"


def test_its_link_local_address_is_its_own_declared_or_not() -> None:
    own = Station(mac=MAC, addresses=frozenset({"fd00::2", "10.0.0.2", "10.0.0.10", Station(mac=MAC).link_local}))
    assert own == Station(mac=MAC, addresses=frozenset({"fd00::2", "10.0.0.2", "10.0.0.10"}))
    assert own.of_version(4) == ("10.0.0.2", "10.0.0.10")
    assert own.of_version(6) == ("fd00::2", own.link_local)


@given(OWN, FRAMES)
def test_nothing_comes_from_another_mac_address(own: Station, frame: FrameFacts) -> None:
    if own.permits(frame):
        assert frame.source == own.mac
        assert not frame.tagged
        assert frame.kind not in (FrameKind.ARP, FrameKind.ARP_REQUEST) or (
            frame.arp is not None and frame.arp.sender_mac == own.mac
        )


@given(OWN, FRAMES)
def test_with_addresses_less_passes_than_without(own: Station, frame: FrameFacts) -> None:
    if own.permits(frame):
        assert Station(mac=own.mac).permits(frame)


@given(OWN, FRAMES)
def test_more_addresses_let_more_pass(own: Station, frame: FrameFacts) -> None:
    if own.addresses is not None and own.permits(frame):
        assert Station(mac=own.mac, addresses=own.addresses | {"10.0.0.77", "fd00::77"}).permits(frame)


@given(OWN, FRAMES)
def test_no_address_of_another_is_claimed(own: Station, frame: FrameFacts) -> None:
    """Whatever else a frame that passes is: what it says of who has an address is true."""
    if own.addresses is None or not own.permits(frame):
        return
    mine = {*own.addresses, own.link_local}
    if frame.kind in (FrameKind.ARP, FrameKind.ARP_REQUEST):
        assert frame.arp is not None
        assert frame.arp.sender in {*mine, "0.0.0.0"}
        return
    assert frame.ip_source in {*mine, "::"}
    if frame.kind is FrameKind.NEIGHBOUR_ADVERTISEMENT and frame.neighbour is not None:
        assert frame.neighbour.target in mine
        assert frame.neighbour.link_address in ("", own.mac)


@pytest.mark.parametrize("sent", SENT, ids=lambda sent: sent.name)
def test_another_station_may_send_none_of_it(sent: Sent) -> None:
    """All but one of the frames say who sends them, and one is from the other station."""
    stranger = STATIONS["another station"]
    assert stranger.permits(sent.as_facts()) is (sent.source == stranger.mac)


@pytest.mark.parametrize(
    "make",
    [
        *(
            lambda mac=mac: Station(mac=mac)
            for mac in ("", "52:54:00:12:34", "52:54:00:12:34:5G", "52-54-00-12-34-56", "53:54:00:12:34:56", MAC + "\n",
                        "52:54:00:AB:34:56")
        ),
        *(
            lambda address=address: Station(mac=MAC, addresses=frozenset({address}))
            for address in ("", "10.0.0", "10.0.0.1/24", "fd00::0", "FD00::1", "::", "0.0.0.0", "224.0.0.1", "ff02::1",
                            "127.0.0.1", "::1", "::ffff:10.0.0.1", "fe80::1%eth0", "255.255.255.255")
        ),
        lambda: Station(mac=MAC, addresses=frozenset(f"10.0.{n}.1" for n in range(MAX_ADDRESSES + 1))),
    ],
)  # fmt: skip
def test_what_is_no_station_is_refused(make: Callable[[], object]) -> None:
    with pytest.raises(BadInput):
        make()


def test_the_most_addresses_can_be_kept() -> None:
    own = Station(mac=MAC, addresses=frozenset(str(IPv6Address(n)) for n in range(2**120, 2**120 + MAX_ADDRESSES)))
    assert len(own.addresses or ()) == MAX_ADDRESSES


@given(st.integers(0, 15))
def test_addresses_between_a_station_and_its_bridge(number: int) -> None:
    assert is_control(f"01:80:c2:00:00:{number:02x}")
    assert not is_control(f"01:80:c2:00:00:{number + 16:02x}")
