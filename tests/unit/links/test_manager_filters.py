"""Filters of taps over the life of a host: before the first frame, kept up, over kills and by whatever is wrong."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from shamon_host.domain.errors import BackendFailed, BadInput
from shamon_host.domain.results import ClaimStatus
from shamon_host.links.model import Operation, SetTapFilter
from shamon_host.links.network_state import check_network_state
from shamon_host.links.ports import KernelEvent
from shamon_host.links.station import Station
from shamon_host.links.tap_filter import TapFilter, shut
from tests.unit.links.conftest import BLUE, RED, Host, carries, join, pinned

TAP, OTHER = "shvm0-0", "shvm1-0"
MUTE, DEAF = TapFilter(device=TAP, sends=False), TapFilter(device=TAP, receives=False)


@pytest.fixture
def host(alpha: Host) -> Host:
    """With two VMs of one type."""
    alpha.links.reconcile({})
    for tap in (TAP, OTHER):
        alpha.start_vm(tap, RED)
    return alpha


def test_a_filter_holds_from_the_first_frame(alpha: Host) -> None:
    """libvirt puts the tap into its bridge: the filter has to be there by then."""
    alpha.links.reconcile({}, {TAP: MUTE})
    bridge = alpha.links.ensure_bridge(RED)
    alpha.received = {TAP: [], OTHER: []}
    for tap in (OTHER, TAP):
        alpha.kernel.plug_tap(tap, bridge, alpha.received[tap].append)
    assert carries(alpha, OTHER, alpha, TAP)
    assert not carries(alpha, TAP, alpha, OTHER)


def test_filters_are_told_anew_each_time(host: Host) -> None:
    for filters, sends, receives in (
        ({}, True, True), ({TAP: MUTE}, False, True), ({TAP: DEAF}, True, False), ({TAP: shut(TAP)}, False, False),
        ({}, True, True),
    ):  # fmt: skip
        host.links.reconcile(host.taps, filters)
        assert carries(host, TAP, host, OTHER) is sends
        assert carries(host, OTHER, host, TAP) is receives
        assert host.kernel.read().filters == filters


def test_who_tells_nothing_of_filters_leaves_them(host: Host) -> None:
    host.links.reconcile(host.taps, {TAP: MUTE})
    host.links.reconcile(host.taps)
    host.links.reconcile()
    host.links.ensure_bridge(BLUE)
    assert host.kernel.read().filters == {TAP: MUTE}


def test_what_only_narrows_is_done_by_itself_and_widens_nothing(host: Host) -> None:
    host.links.reconcile(host.taps, {TAP: MUTE})
    wide = {TAP: TapFilter(device=TAP), OTHER: TapFilter(device=OTHER)}
    host.links.narrow(host.kernel.read(), host.taps, {**wide, TAP: DEAF})
    assert host.kernel.read().filters == {TAP: shut(TAP), OTHER: TapFilter(device=OTHER)}
    host.links.narrow(host.kernel.read(), host.taps, wide)
    assert not carries(host, TAP, host, OTHER)
    audited = len(host.audited)
    host.links.narrow(host.kernel.read(), host.taps, wide)
    assert len(host.audited) == audited, "nothing is left to do"
    host.links.narrow(host.kernel.read(), {OTHER: RED}, wide)
    host.links.narrow(host.kernel.read(), host.taps, wide)
    (bridge,) = host.kernel.read().bridges.values()
    assert set(bridge.ports) == {OTHER}, "what was taken off comes back by a reconcile alone"
    host.links.reconcile(host.taps, wide)
    assert carries(host, TAP, host, OTHER)


def test_a_port_that_cannot_be_taken_off_does_not_hold_up_what_else_narrows(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    detach_port = host.links.detach_port

    def refuses_one(tap: str) -> None:
        if tap == TAP:
            raise BackendFailed("the kernel refuses")
        detach_port(tap)

    monkeypatch.setattr(host.links, "detach_port", refuses_one)
    with pytest.raises(BackendFailed, match="the kernel refuses"):
        host.links.narrow(host.kernel.read(), {}, {TAP: MUTE})
    found = host.kernel.read()
    assert [set(bridge.ports) for bridge in found.bridges.values()] == [{TAP}]
    assert found.filters == {TAP: MUTE}


def test_filters_hold_between_hosts_too(alpha: Host, beta: Host) -> None:
    for host in (alpha, beta):
        host.links.reconcile({})
        host.start_vm(TAP, RED)
    join(alpha, beta)
    alpha.links.reconcile(alpha.taps, {TAP: MUTE})
    assert not carries(alpha, TAP, beta, TAP)
    assert carries(beta, TAP, alpha, TAP)


def test_a_filter_outlives_the_daemon_and_is_right_with_the_next(host: Host) -> None:
    host.links.reconcile(host.taps, {TAP: MUTE, OTHER: TapFilter(device=OTHER, open_s=50.0)})
    host.links.close_all()
    host.restart()
    host.links.reconcile(host.taps)
    assert set(host.kernel.read().filters) == {TAP, OTHER}
    host.clock.advance(50)
    assert not carries(host, OTHER, host, TAP), "the window closed with nobody's doing"
    host.links.reconcile(host.taps, {TAP: DEAF})
    assert host.kernel.read().filters == {TAP: DEAF}


def test_a_window_closes_on_time_and_is_not_opened_again(host: Host) -> None:
    host.links.reconcile(host.taps, {TAP: TapFilter(device=TAP, open_s=30.5)})
    for _ in range(3):
        host.clock.advance(9.75)
        assert carries(host, TAP, host, OTHER)
        host.links.reconcile(host.taps)
        host.kernel.flush_nft()
        host.links.reconcile(host.taps)
        assert host.kernel.read().filters[TAP].open_s is not None
    host.clock.advance(1.3)
    assert not carries(host, TAP, host, OTHER)
    host.links.reconcile(host.taps)
    host.kernel.flush_nft()
    host.links.reconcile(host.taps)
    assert not carries(host, TAP, host, OTHER)
    assert host.kernel.read().filters == {TAP: TapFilter(device=TAP, open_s=0.0)}


def test_a_changed_filter_is_repaired_and_told(host: Host) -> None:
    wanted = pinned(host.taps) | {TAP: replace(pinned([TAP])[TAP], sends=False)}
    host.links.reconcile(host.taps, wanted)
    host.kernel.damage_filter(TAP)
    assert carries(host, TAP, host, OTHER)
    assert check_network_state(host.links.network_state()).status is ClaimStatus.PASS
    assert not carries(host, TAP, host, OTHER)
    assert host.kernel.read().filters == wanted
    told = [detail["changed"] for kind, _, detail in host.audited if kind == "link.apply" and "changed" in detail]
    assert told == [[f"filter of tap {TAP}: a rule is missing"]]


def test_a_changed_filter_nobody_wants_goes_with_the_next_look(host: Host) -> None:
    host.links.reconcile(host.taps, {**pinned(host.taps), "shvm9-0": shut("shvm9-0")})
    host.restart()
    host.kernel.damage_filter("shvm9-0")
    assert check_network_state(host.links.network_state()).status is ClaimStatus.FAIL, "nobody knows what is right"
    host.links.reconcile(host.taps, pinned(host.taps))
    assert host.kernel.read().changed_filters == {}
    assert check_network_state(host.links.network_state()).status is ClaimStatus.PASS


def test_what_is_applied_is_audited_in_words(host: Host) -> None:
    host.audited.clear()
    host.links.reconcile(host.taps, {TAP: MUTE})
    host.links.reconcile(host.taps, {})
    assert [detail["operations"] for kind, _, detail in host.audited if kind == "link.apply"] == [
        [f"set the filter of tap {TAP}: receives only"], [f"clear the filter of tap {TAP}"],
    ]  # fmt: skip


def test_a_tap_without_its_filter_is_off_its_bridge(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """nft refuses one tap's filter: that tap alone is cut off, at once, and the caller knows."""
    host.start_vm("shvm2-0", RED)
    refuse, apply = {TAP}, host.kernel.apply

    def refusing(operations: Sequence[Operation]) -> None:
        for operation in operations:
            if isinstance(operation, SetTapFilter) and operation.filter.device in refuse:
                raise BackendFailed("nft refused", where=operation.filter.device)
        apply(operations)

    monkeypatch.setattr(host.kernel, "apply", refusing)
    filters = {TAP: MUTE, OTHER: TapFilter(device=OTHER, receives=False)}
    for _ in range(2):
        with pytest.raises(BackendFailed, match="nft refused"):
            host.links.reconcile(host.taps, filters)
        state = host.kernel.read()
        assert set(state.bridges["shbr1"].ports) == {OTHER, "shvm2-0"}
        assert set(state.filters) == {OTHER}
        assert carries(host, OTHER, host, "shvm2-0")
    assert ("link.filter-not-set", TAP) in [(kind, subject) for kind, subject, _ in host.audited]
    refuse.clear()
    host.links.reconcile(host.taps, filters)
    assert host.kernel.read().filters == filters
    assert carries(host, "shvm2-0", host, TAP)


def test_a_filter_under_another_name_is_refused_and_forgotten(host: Host) -> None:
    with pytest.raises(BadInput):
        host.links.reconcile(host.taps, {OTHER: MUTE})
    host.links.reconcile(host.taps)
    assert host.kernel.read().filters == {}


def test_a_quarantined_tap_keeps_its_filter(host: Host) -> None:
    host.links.reconcile(host.taps, {TAP: MUTE})
    host.links.detach_port(TAP)
    assert host.kernel.read().filters == {TAP: MUTE}


def test_a_tap_that_may_be_anybody_is_told(host: Host) -> None:
    """A VM of the type's that nobody filters could take any other's place: peers do not believe such a host."""
    host.links.reconcile(host.taps, pinned([TAP]))
    claim = check_network_state(host.links.network_state())
    assert (claim.status, claim.where) == (ClaimStatus.FAIL, OTHER)
    host.links.reconcile(host.taps, pinned([TAP, OTHER]))
    assert check_network_state(host.links.network_state()).status is ClaimStatus.PASS


def test_a_vm_cannot_take_the_address_of_another(host: Host) -> None:
    own = {TAP: Station(mac="02:00:00:00:00:01", addresses=frozenset({"10.1.0.5"}))}
    host.links.reconcile(host.taps, {TAP: TapFilter(device=TAP, own=own[TAP])} | pinned([OTHER]))
    for sender, passes in ((5, True), (6, False)):
        answer = bytes.fromhex("0001080006040002020000000001") + bytes([10, 1, 0, sender]) + bytes(10)
        host.received[OTHER].clear()
        host.kernel.send_from_tap(TAP, b"\xff" * 6 + bytes([2, 0, 0, 0, 0, 1]) + b"\x08\x06" + answer)
        assert bool(host.received[OTHER]) is passes
    assert host.kernel.counters()[f"spoofed {TAP}"] == 1


def test_a_filter_removed_by_hand_comes_back_and_peers_would_know(host: Host) -> None:
    host.links.reconcile(host.taps, pinned(host.taps))
    events: list[KernelEvent] = []
    host.kernel.subscribe(events.append)
    host.kernel.flush_nft()
    assert events
    host.links.reconcile(host.taps)
    assert host.kernel.read().filters == pinned(host.taps)
    assert check_network_state(host.links.network_state()).status is ClaimStatus.PASS
