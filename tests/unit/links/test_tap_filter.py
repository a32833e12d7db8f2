"""Filters of taps as values: what passes, that joining them only narrows, and what is no filter."""

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shamon_host.domain.errors import BadInput
from shamon_host.links.frame_facts import ArpFacts, FrameFacts, FrameKind, NeighbourFacts, PortProtocol, PortRule
from shamon_host.links.station import Station
from shamon_host.links.tap_filter import MAX_PEERS, MAX_PORTS, MAX_RATE_BYTES_S, MAX_WINDOW_S, TapFilter, shut
from shamon_host.links.told_filters import ToldFilters

TAP = "shvm0-0"
STATIONS = tuple(f"02:00:00:00:00:0{number}" for number in range(4))
GROUPS = ("ff:ff:ff:ff:ff:ff", "33:33:ff:00:00:01", "01:00:5e:00:00:01")
PORTS = st.builds(PortRule, protocol=st.sampled_from(PortProtocol), port=st.sampled_from([22, 53, 443]))


def _maybe(values: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    return st.none() | values


ADDRESSES = ("10.0.0.1", "10.0.0.2", "fd00::1", "fd00::2", Station(mac=STATIONS[0]).link_local)
OWN = st.builds(
    Station,
    mac=st.sampled_from(STATIONS[:2]),
    addresses=_maybe(st.frozensets(st.sampled_from(ADDRESSES), max_size=3)),
)
FILTERS = st.builds(
    TapFilter,
    device=st.just(TAP),
    own=_maybe(OWN),
    sends=st.booleans(),
    receives=st.booleans(),
    peers=_maybe(st.frozensets(st.sampled_from(STATIONS), max_size=3)),
    ports=_maybe(st.lists(PORTS, max_size=4).map(tuple)),
    rate_bytes_s=_maybe(st.sampled_from([1, 1000, 10**9])),
    open_s=_maybe(st.sampled_from([0.0, 0.5, 60.0])),
)
FRAMES = st.builds(
    FrameFacts,
    from_tap=st.booleans(),
    source=st.sampled_from(STATIONS),
    destination=st.sampled_from([*STATIONS, *GROUPS]),
    kind=st.sampled_from(FrameKind),
    tagged=st.booleans(),
    ip_source=st.sampled_from([*ADDRESSES, "", "::", "0.0.0.0"]),
    arp=_maybe(
        st.builds(
            ArpFacts,
            sender_mac=st.sampled_from(STATIONS),
            sender=st.sampled_from(["0.0.0.0", *ADDRESSES[:2]]),
            target=st.sampled_from(ADDRESSES[:2]),
        )
    ),
    neighbour=_maybe(
        st.builds(
            NeighbourFacts,
            target=st.sampled_from(ADDRESSES[2:]),
            link_address=_maybe(st.sampled_from(["", *STATIONS])),
        )
    ),
    protocol=st.sampled_from(PortProtocol),
    source_port=st.sampled_from([22, 53, 443, 40000]),
    destination_port=st.sampled_from([22, 53, 443, 40000]),
)


@given(FILTERS, FILTERS, FRAMES)
def test_what_both_together_permit_each_permits(one: TapFilter, other: TapFilter, frame: FrameFacts) -> None:
    if one.narrowed_by(other).permits(frame):
        assert one.permits(frame)
        assert other.permits(frame)


@given(FILTERS, FILTERS)
def test_rates_and_windows_of_both_are_the_smaller_ones(one: TapFilter, other: TapFilter) -> None:
    both = one.narrowed_by(other)
    for mine, theirs, joined in (
        (one.rate_bytes_s, other.rate_bytes_s, both.rate_bytes_s),
        (one.open_s, other.open_s, both.open_s),
    ):
        limits = [math.inf if limit is None else limit for limit in (mine, theirs)]
        assert (math.inf if joined is None else joined) == min(limits)


@given(FILTERS, FILTERS, FILTERS)
def test_joining_does_not_depend_on_order_or_number(one: TapFilter, two: TapFilter, three: TapFilter) -> None:
    assert one.narrowed_by(two) == two.narrowed_by(one)
    assert one.narrowed_by(two).narrowed_by(three) == one.narrowed_by(two.narrowed_by(three))
    assert one.narrowed_by(one) == one
    assert one.narrowed_by(two).narrowed_by(two) == one.narrowed_by(two)


@given(FILTERS, FRAMES)
def test_no_limit_is_neutral_and_shut_is_the_least(limits: TapFilter, frame: FrameFacts) -> None:
    assert limits.narrowed_by(TapFilter(device=TAP)) == limits
    assert TapFilter(device=TAP).permits(frame)
    assert not shut(TAP).permits(frame)
    assert not limits.narrowed_by(shut(TAP)).permits(frame)


@given(FILTERS, FRAMES)
def test_each_limit_takes_away_by_itself(limits: TapFilter, frame: FrameFacts) -> None:
    """A filter permits what each of its limits alone permits: none makes up for another."""
    alone = [
        TapFilter(device=TAP, own=limits.own),
        TapFilter(device=TAP, sends=limits.sends),
        TapFilter(device=TAP, receives=limits.receives),
        TapFilter(device=TAP, peers=limits.peers),
        TapFilter(device=TAP, ports=limits.ports),
        TapFilter(device=TAP, open_s=limits.open_s),
    ]
    assert limits.permits(frame) == all(limit.permits(frame) for limit in alone)


def test_two_overlays_of_one_port_each_leave_none() -> None:
    """A frame from 53 to 443 is permitted by each and not by both."""
    dns, https = (TapFilter(device=TAP, ports=(PortRule(protocol=PortProtocol.TCP, port=port),)) for port in (53, 443))
    frame = FrameFacts(
        from_tap=True, source=STATIONS[0], destination=STATIONS[1], kind=FrameKind.PORTS, protocol=PortProtocol.TCP,
        source_port=53, destination_port=443,
    )  # fmt: skip
    assert dns.permits(frame)
    assert https.permits(frame)
    assert dns.narrowed_by(https).ports == ()
    assert not dns.narrowed_by(https).permits(frame)


def test_ports_are_sorted_and_distinct() -> None:
    rules = [PortRule(protocol=protocol, port=port) for protocol in reversed(PortProtocol) for port in (53, 7, 53)]
    assert [str(rule) for rule in TapFilter(device=TAP, ports=tuple(rules)).ports or ()] == [
        "tcp/7", "tcp/53", "udp/7", "udp/53",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "make",
    [
        *(
            lambda name=name: TapFilter(device=name)
            for name in ("", "shvm", "eth0", "shvm0;", "SHVM0", "shvm0\n", "shvm*", "shvm" + 12 * "0", "shvm٣")
        ),
        *(
            lambda mac=mac: TapFilter(device=TAP, peers=frozenset({mac}))
            for mac in ("", "02:00:00:00:00:0A", "02:00:00:00:00", "0200.0000.0001", "02:00:00:00:00:01\n", *GROUPS)
        ),
        *(
            lambda port=port: PortRule(protocol=PortProtocol.TCP, port=port)
            for port in (0, -1, 65536, True, 1.0, "443")
        ),
        lambda: PortRule(protocol="tcp", port=443),  # type: ignore[arg-type]
        *(
            lambda rate=rate: TapFilter(device=TAP, rate_bytes_s=rate)
            for rate in (0, -1, MAX_RATE_BYTES_S + 1, True, 1.5)
        ),
        *(
            lambda window=window: TapFilter(device=TAP, open_s=window)
            for window in (-0.1, MAX_WINDOW_S + 1, math.inf, math.nan)
        ),
        lambda: TapFilter(
            device=TAP, peers=frozenset(f"02:00:00:00:{n >> 8:02x}:{n & 255:02x}" for n in range(MAX_PEERS + 1))
        ),
        lambda: TapFilter(
            device=TAP,
            ports=tuple(PortRule(protocol=PortProtocol.TCP, port=port) for port in range(1, MAX_PORTS + 2)),
        ),
        lambda: TapFilter(device=TAP).narrowed_by(TapFilter(device="shvm0-1")),
    ],
)  # fmt: skip
def test_what_is_no_filter_is_refused(make: Callable[[], object]) -> None:
    with pytest.raises(BadInput):
        make()


def test_windows_get_shorter_while_filters_are_kept() -> None:
    told = ToldFilters()
    assert told.at(5.0) is None
    windowed, always = TapFilter(device=TAP, open_s=10.0), TapFilter(device="shvm0-1", sends=False)
    told.tell({TAP: windowed, "shvm0-1": always}, 100.0)
    for now_s, left_s in ((100.0, 10.0), (104.0, 6.0), (110.0, 0.0), (500.0, 0.0)):
        assert told.at(now_s) == {TAP: TapFilter(device=TAP, open_s=left_s), "shvm0-1": always}
    with pytest.raises(BadInput):
        told.tell({"shvm0-1": windowed}, 600.0)
    assert set(told.at(500.0) or {}) == {TAP, "shvm0-1"}
    told.tell({}, 600.0)
    assert told.at(601.0) == {}


def test_words_say_what_is_left() -> None:
    assert str(TapFilter(device=TAP)) == "shvm0-0: both ways"
    assert str(shut(TAP)) == "shvm0-0: nothing"
    assert str(TapFilter(device=TAP, own=Station(mac=STATIONS[1]))) == f"shvm0-0: {STATIONS[1]}, both ways"
    assert str(TapFilter(device=TAP, receives=False, open_s=0.0)) == "shvm0-0: sends only, not now"
    words = str(
        TapFilter(
            device=TAP, sends=False, peers=frozenset(STATIONS), rate_bytes_s=7, open_s=60.25,
            ports=(PortRule(protocol=PortProtocol.UDP, port=53),),
        )
    )  # fmt: skip
    assert words == "shvm0-0: receives only, 4 peers, ports udp/53, 7 bytes/s, for 60.2 s"
