"""Filters of taps: overlays only take away, labels give the direction, windows follow the wall clock."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shamon_host.daemon.tap_filters import LONGEST_PAUSE_S, joined, tap_filters, until_change_s
from shamon_host.domain import overlay
from shamon_host.domain.labels import TypeName, VmName
from shamon_host.domain.overlay import Overlay, parse_port
from shamon_host.domain.policy import Policy
from shamon_host.domain.time_windows import parse_window
from shamon_host.hypervisor.vm_spec import interface_mac
from shamon_host.links.frame_facts import FrameFacts, FrameKind, PortProtocol, PortRule
from shamon_host.links.station import Station
from shamon_host.links.tap_filter import MAX_PEERS, MAX_PORTS, MAX_RATE_BYTES_S, TapFilter
from tests.examples import examples
from tests.unit.domain.generated import policies
from tests.unit.domain.policy_text import FINANCE_TEXT, changed_finance, errors, parse

FINANCE = parse(FINANCE_TEXT)
READER, DESK, REVIEWER, ARCHIVER, CLERK = map(VmName, ("reader", "desk", "reviewer", "archiver", "clerk"))
MONDAY_S = 1_767_571_200.0
"""2026-01-05T00:00:00Z, a Monday."""
NOON_S, HOUR_S = MONDAY_S + 12 * 3600, 3600.0
INTO_THE_WEEK_S = st.integers(0, 7 * 86400 * 1000).map(lambda milliseconds: milliseconds / 1000)
STRANGER, EVERYBODY = "52:54:00:00:00:01", "ff:ff:ff:ff:ff:ff"


def taps(policy: Policy) -> dict[VmName, tuple[str, ...]]:
    """A tap for each interface of every VM, as one host would have them that ran all."""
    return {
        vm: tuple(f"shvm{number}-{index}" for index in range(len(policy.interfaces_of(vm))))
        for number, vm in enumerate(sorted(policy.vms))
    }


def mac(vm: VmName, index: int) -> str:
    """The address of an interface of one of FINANCE's VMs."""
    return interface_mac(FINANCE.coalition, FINANCE.vms[vm].host, vm, index)


def limited_to(policy: Policy, overlays: Collection[str]) -> Policy:
    return replace(policy, overlays={name: policy.overlays[name] for name in overlays})


def permitted(filters: Mapping[str, TapFilter], device: str, frame: FrameFacts) -> bool:
    return device not in filters or filters[device].permits(frame)


def random_frame(random: Random, policy: Policy) -> FrameFacts:
    macs = [
        interface_mac(policy.coalition, entry.host, vm, index) for vm, entry in policy.vms.items() for index in range(2)
    ]
    kind = random.choice((*FrameKind, FrameKind.PORTS, FrameKind.PORTS))
    ports = (53, 80, 443, 50_000)
    return FrameFacts(
        from_tap=random.random() < 0.5,
        source=random.choice((*macs, STRANGER)),
        destination=random.choice((*macs, STRANGER, EVERYBODY)),
        kind=kind,
        protocol=random.choice(tuple(PortProtocol)) if kind is FrameKind.PORTS else None,
        source_port=random.choice(ports) if kind is FrameKind.PORTS else 0,
        destination_port=random.choice(ports) if kind is FrameKind.PORTS else 0,
    )


@given(policies(least_vms=1), INTO_THE_WEEK_S, st.integers(0, 1 << 64))
@settings(max_examples=examples(200), deadline=None)
def test_overlays_only_take_away(policy: Policy, into_the_week_s: float, seed: int) -> None:
    random = Random(seed)
    wall_s = MONDAY_S + into_the_week_s
    some = random.sample(sorted(policy.overlays), random.randint(0, len(policy.overlays)))
    all_of_them, subset, none = (
        tap_filters(limited_to(policy, names), taps(policy), wall_s) for names in (policy.overlays, some, ())
    )
    assert none.keys() == subset.keys() == all_of_them.keys()
    for device in all_of_them:
        for _ in range(20):
            frame = random_frame(random, policy)
            if permitted(all_of_them, device, frame):
                assert permitted(subset, device, frame), (device, frame)
            if permitted(subset, device, frame):
                assert permitted(none, device, frame), (device, frame)
        assert_rates_fall(all_of_them.get(device), subset.get(device))


def assert_rates_fall(more: TapFilter | None, less: TapFilter | None) -> None:
    if less is not None and less.rate_bytes_s is not None:
        assert more is not None
        assert more.rate_bytes_s is not None
        assert more.rate_bytes_s <= less.rate_bytes_s


@given(policies(least_vms=1))
@settings(max_examples=examples(100), deadline=None)
def test_directions_are_those_of_the_label(policy: Policy) -> None:
    found = tap_filters(limited_to(policy, ()), taps(policy), NOON_S)
    for vm, devices in taps(policy).items():
        label = policy.label_of(vm)
        for device, name in zip(devices, policy.interfaces_of(vm), strict=True):
            assert replace(found[device], own=None) == TapFilter(
                device=device, sends=name in label.writes, receives=name in label.reads
            )


def own(vm: VmName, index: int, *addresses: str) -> Station:
    """Of one of FINANCE's VMs."""
    return Station(mac=mac(vm, index), addresses=frozenset(addresses) if addresses else None)


def test_every_tap_is_held_to_what_is_its_vm_s_own() -> None:
    """Whatever limits it else, or does not: an overlay that limits nothing is no further limit."""
    found = tap_filters(FINANCE, taps(FINANCE), NOON_S)
    mail, ledger = taps(FINANCE)[DESK]
    assert found[mail] == TapFilter(device=mail, own=own(DESK, 0), receives=True, sends=False)
    assert found[ledger] == TapFilter(device=ledger, own=own(DESK, 1))
    (books,) = taps(FINANCE)[CLERK]
    assert found[books] == TapFilter(device=books, own=own(CLERK, 0, "10.1.0.5", "fd00::5"))
    assert set(found) == {device for devices in taps(FINANCE).values() for device in devices}


def test_an_overlay_as_the_filter_of_a_tap() -> None:
    (device,) = taps(FINANCE)[READER]
    assert FINANCE.interfaces_of(REVIEWER)[0] == TypeName("audit/report")
    assert tap_filters(FINANCE, taps(FINANCE), NOON_S)[device] == TapFilter(
        device=device,
        own=own(READER, 0),
        peers=frozenset({mac(REVIEWER, 0)}),
        ports=(PortRule(protocol=PortProtocol.TCP, port=443), PortRule(protocol=PortProtocol.UDP, port=53)),
        rate_bytes_s=1_250_000,
        open_s=6 * HOUR_S,
    )


def test_peers_are_the_interfaces_of_the_tap_s_own_type() -> None:
    """desk's ledger is its second interface; it has none for reports."""
    overlay = Overlay(name="all", label="review", peers=frozenset({DESK, READER, VmName("tools"), REVIEWER}))
    policy = replace(FINANCE, overlays={"all": overlay})
    report, ledger = taps(policy)[REVIEWER]
    found = tap_filters(policy, taps(policy), NOON_S)
    own = [mac(REVIEWER, index) for index in range(2)]
    assert found[report].peers == frozenset({mac(READER, 0), own[0]})
    assert found[ledger].peers == frozenset({mac(DESK, 1), own[1]})
    assert not found[ledger].sends


def test_no_peer_and_no_port_are_limits_too() -> None:
    nobody = Overlay(name="nobody", label="auditor", peers=frozenset(), ports=frozenset(), times=frozenset())
    policy = replace(FINANCE, overlays={"nobody": nobody})
    (device,) = taps(policy)[READER]
    limits = tap_filters(policy, taps(policy), NOON_S)[device]
    assert (limits.peers, limits.ports, limits.open_s) == (frozenset(), (), 0.0)


def test_several_overlays_leave_what_all_leave() -> None:
    one = Overlay(name="one", label="auditor", peers=frozenset({REVIEWER}), ports=frozenset({parse_port("tcp/443")}))
    two = Overlay(
        name="two",
        label="auditor",
        ports=frozenset(map(parse_port, ("tcp/443", "udp/53"))),
        rate_bytes_s=5000,
        times=frozenset({parse_window("daily 06:00-14:00")}),
    )
    three = replace(two, name="three", rate_bytes_s=4000, times=frozenset({parse_window("mon 11:00-13:00")}))
    policy = replace(FINANCE, overlays={each.name: each for each in (three, two, one)})
    (device,) = taps(policy)[READER]
    assert tap_filters(policy, taps(policy), NOON_S)[device] == TapFilter(
        device=device,
        own=own(READER, 0),
        peers=frozenset({mac(REVIEWER, 0)}),
        ports=(PortRule(protocol=PortProtocol.TCP, port=443),),
        rate_bytes_s=4000,
        open_s=HOUR_S,
    )


def test_the_windows_of_two_overlays_must_both_be_open() -> None:
    early, late = (
        Overlay(name=name, label="auditor", times=frozenset({parse_window(times)}))
        for name, times in (("early", "daily 08:00-11:00"), ("late", "daily 10:00-18:00"))
    )
    policy = replace(FINANCE, overlays={"early": early, "late": late})
    (device,) = taps(policy)[READER]
    open_s = [tap_filters(policy, taps(policy), MONDAY_S + hour * HOUR_S)[device].open_s for hour in (9, 10, 11, 12)]
    assert open_s == [0.0, HOUR_S, 0.0, 0.0]


def test_the_windows_follow_the_wall_clock() -> None:
    (device,) = taps(FINANCE)[READER]
    for hours, expected in ((7.5, 0.0), (8, 10 * HOUR_S), (17.75, 900.0), (18, 0.0), (5 * 24 + 9, 3 * HOUR_S)):
        assert tap_filters(FINANCE, taps(FINANCE), MONDAY_S + hours * HOUR_S)[device].open_s == expected
    # the clock is stepped back: open again
    assert tap_filters(FINANCE, taps(FINANCE), NOON_S)[device].open_s == 6 * HOUR_S


def test_whatever_the_language_permits_fits_a_filter() -> None:
    """A policy that passes the check does not fail when its limits are to be put into the kernel."""
    assert (overlay.MAX_PEERS, overlay.MAX_PORTS, overlay.MAX_RATE_BYTES_S) == (MAX_PEERS, MAX_PORTS, MAX_RATE_BYTES_S)
    fast = parse(changed_finance("rate_bytes_s = 1250000", f"rate_bytes_s = {MAX_RATE_BYTES_S}"))
    (device,) = taps(fast)[READER]
    assert tap_filters(fast, taps(fast), NOON_S)[device].rate_bytes_s == MAX_RATE_BYTES_S
    error = errors(changed_finance("rate_bytes_s = 1250000", f"rate_bytes_s = {MAX_RATE_BYTES_S + 1}"))
    assert [finding.key for finding in error.findings] == ["overlays.office-hours.rate_bytes_s"]


def test_a_peer_is_the_vm_on_the_host_that_the_policy_gives_it_to() -> None:
    (device,) = taps(FINANCE)[READER]
    other = next(host for host in FINANCE.hosts if host != FINANCE.vms[REVIEWER].host)
    found = tap_filters(FINANCE, taps(FINANCE), NOON_S)[device].peers
    assert found == frozenset({mac(REVIEWER, 0)})
    assert found != frozenset({interface_mac("finance", other, REVIEWER, 0)})


@pytest.mark.parametrize(
    ("hours", "seconds"),
    [(7.999, 3.6), (12, LONGEST_PAUSE_S), (17.999, 3.6), (18, LONGEST_PAUSE_S), (0, LONGEST_PAUSE_S)],
)
def test_until_a_window_changes(hours: float, seconds: float) -> None:
    assert until_change_s(FINANCE, MONDAY_S + hours * HOUR_S) == pytest.approx(seconds)


def test_without_windows_there_is_still_a_look_now_and_then() -> None:
    assert until_change_s(limited_to(FINANCE, ()), NOON_S) == LONGEST_PAUSE_S
    assert until_change_s(limited_to(FINANCE, ["quiet"]), NOON_S) == LONGEST_PAUSE_S


@given(policies(), INTO_THE_WEEK_S)
@settings(max_examples=examples(100), deadline=None)
def test_nothing_changes_before_the_next_look(policy: Policy, into_the_week_s: float) -> None:
    wall_s = MONDAY_S + into_the_week_s
    pause_s = until_change_s(policy, wall_s)
    assert 0 < pause_s <= LONGEST_PAUSE_S

    def open_taps(at_s: float) -> set[str]:
        return {device for device, limits in tap_filters(policy, taps(policy), at_s).items() if limits.open_s != 0}

    assert open_taps(wall_s) == open_taps(wall_s + 0.5 * pause_s) == open_taps(wall_s + 0.99 * pause_s)


def test_joined() -> None:
    one, other = TapFilter(device="shvm0-0", sends=False), TapFilter(device="shvm0-0", receives=False, open_s=3)
    assert joined([one]) is one
    assert joined(iter([one, other])) == TapFilter(device="shvm0-0", sends=False, receives=False, open_s=3)
