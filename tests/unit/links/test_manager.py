"""The life of links, on kernels in memory: join, rekey, fail, restart, stop."""

import contextlib
from dataclasses import replace

import pytest

from shamon_host.domain.errors import BackendFailed, BadInput, Refused
from shamon_host.domain.results import ClaimStatus
from shamon_host.links.desired import BLOCK_ENTRIES
from shamon_host.links.model import Direction, KernelState, SpdEntry
from shamon_host.links.network_state import check_network_state
from shamon_host.links.rekeying import SWITCH_S
from shamon_host.testing.kernel_sad import seal
from shamon_host.testing.kernel_selinux import SelinuxMode
from shamon_host.testing.wire import MemoryWire, udp_packet
from tests.unit.links.conftest import BLUE, LEASE_S, RED, Host, agree, carries, frame, join, pinned


@pytest.fixture
def joined(alpha: Host, beta: Host) -> tuple[Host, Host]:
    for host, tap in ((alpha, "shvm0-0"), (beta, "shvm1-0")):
        host.links.reconcile({})
        host.start_vm(tap, RED)
    beta.start_vm("shvm2-0", BLUE)
    join(alpha, beta)
    return alpha, beta


def test_a_type_crosses_the_network_and_only_as_esp(joined: tuple[Host, Host], wire: MemoryWire) -> None:
    alpha, beta = joined
    assert carries(alpha, "shvm0-0", beta, "shvm1-0")
    assert carries(beta, "shvm1-0", alpha, "shvm0-0")
    assert wire.packets
    assert all(packet.is_esp for packet in wire.packets)
    assert beta.received["shvm2-0"] == []
    assert [row["state"] for row in alpha.links.status()] == ["up"]


def test_two_types_and_three_hosts_stay_apart(alpha: Host, beta: Host, gamma: Host) -> None:
    hosts = (alpha, beta, gamma)
    for host in hosts:
        host.links.reconcile({})
        host.start_vm("shvm0-0", RED)
        host.start_vm("shvm0-1", BLUE)
    for a, b in ((alpha, beta), (beta, gamma), (gamma, alpha)):
        join(a, b, (RED, BLUE))
    for name, other in (("shvm0-0", "shvm0-1"), ("shvm0-1", "shvm0-0")):
        for a in hosts:
            for b in hosts:
                if a is not b:
                    assert carries(a, name, b, name)
                    assert not carries(a, name, b, other)
    text = "once"
    alpha.kernel.send_from_tap("shvm0-0", frame(text))
    assert sum(text.encode() in received for received in beta.received["shvm0-0"]) == 1  # no loop in the mesh


def test_nothing_is_offered_in_clear_before_or_after(joined: tuple[Host, Host], wire: MemoryWire) -> None:
    alpha, beta = joined
    alpha.links.close_peer(beta.name, beta.address)
    mark = wire.mark()
    assert not carries(alpha, "shvm0-0", beta, "shvm1-0")
    assert wire.since(mark) == ()
    state = alpha.kernel.read()
    assert state.guard
    assert set(BLOCK_ENTRIES) == state.spd
    assert not state.sas
    assert not state.tunnels
    assert not state.gate


def test_flushing_policies_leaks_nothing_and_is_repaired(joined: tuple[Host, Host], wire: MemoryWire) -> None:
    alpha, beta = joined
    mark = wire.mark()
    alpha.kernel.flush_policies()
    assert not carries(alpha, "shvm0-0", beta, "shvm1-0")
    assert wire.since(mark) == ()
    assert alpha.kernel.counters()["guard_out"] == 1
    alpha.links.reconcile(alpha.taps)
    assert carries(alpha, "shvm0-0", beta, "shvm1-0")
    assert alpha.links.needs_rekey() == ()


def test_the_fake_shows_the_leak_of_a_product_without_guard(joined: tuple[Host, Host], wire: MemoryWire) -> None:
    alpha, _ = joined
    alpha.kernel.flush_policies()
    alpha.kernel.flush_nft()
    mark = wire.mark()
    alpha.kernel.send_from_tap("shvm0-0", frame("leak"))
    assert [packet.is_clear_link for packet in wire.since(mark)] == [True]


def test_a_rekey_supersedes_and_loses_nothing(joined: tuple[Host, Host]) -> None:
    alpha, beta = joined
    before = {sa.id for sa in alpha.kernel.read().sas}
    for _ in range(3):
        join(alpha, beta)
        assert carries(alpha, "shvm0-0", beta, "shvm1-0")
        assert carries(beta, "shvm1-0", alpha, "shvm0-0")
    alpha.clock.advance(SWITCH_S)
    alpha.links.tidy()
    assert len([sa for sa in alpha.kernel.read().sas if sa.source == alpha.address]) == 1
    for host in (alpha, beta):
        for _ in range(3):
            host.clock.advance(11)
            host.links.tidy()
        assert len(host.kernel.read().sas) == 2
    assert not before & {sa.id for sa in alpha.kernel.read().sas}
    assert carries(alpha, "shvm0-0", beta, "shvm1-0")


def test_a_peer_that_has_not_switched_is_still_heard(joined: tuple[Host, Host]) -> None:
    alpha, beta = joined
    of_a, of_b = agree(alpha, beta)
    alpha.links.install_inbound(beta.name, beta.address, of_a, lifetime_s=LEASE_S)
    beta.links.install_inbound(alpha.name, alpha.address, of_b, lifetime_s=LEASE_S)
    alpha.links.install_outbound(beta.name, beta.address, of_a, gate_s=LEASE_S - 2, lifetime_s=LEASE_S)
    for _ in range(4):  # beta never installed its sending side, and sends through the earlier SA
        alpha.clock.advance(11)
        assert carries(beta, "shvm1-0", alpha, "shvm0-0")
        alpha.links.tidy()
        assert carries(beta, "shvm1-0", alpha, "shvm0-0")


def test_the_gate_ends_with_the_lease_whatever_the_wall_clock_does(joined: tuple[Host, Host]) -> None:
    alpha, beta = joined
    alpha.clock.wall -= 3600
    alpha.clock.boottime += LEASE_S - 3
    assert carries(alpha, "shvm0-0", beta, "shvm1-0")
    alpha.clock.boottime += 2
    assert not carries(alpha, "shvm0-0", beta, "shvm1-0")
    assert alpha.kernel.counters()["gate_out"] == 1
    alpha.links.tidy()
    assert alpha.links.status() == ()
    assert not alpha.kernel.read().sas


def test_sa_lifetimes_are_the_backstop(joined: tuple[Host, Host], wire: MemoryWire) -> None:
    alpha, beta = joined
    alpha.clock.wall += LEASE_S
    mark = wire.mark()
    assert not carries(alpha, "shvm0-0", beta, "shvm1-0")
    assert wire.since(mark) == ()
    assert alpha.kernel.counters()["XfrmOutNoStates"] == 1
    alpha.links.reconcile(alpha.taps)
    assert alpha.links.needs_rekey() == (beta.name,)
    assert [row["state"] for row in alpha.links.status()] == ["broken"]
    join(alpha, beta)
    assert alpha.links.needs_rekey() == ()


def test_a_missing_sa_is_never_added_again(joined: tuple[Host, Host]) -> None:
    alpha, beta = joined
    alpha.kernel.flush_sas()
    alpha.links.reconcile(alpha.taps)
    assert not alpha.kernel.read().sas
    assert alpha.links.needs_rekey() == (beta.name,)


def test_a_killed_daemon_adopts_what_goes_on(joined: tuple[Host, Host]) -> None:
    alpha, beta = joined
    alpha.restart()
    assert carries(alpha, "shvm0-0", beta, "shvm1-0")
    before = alpha.kernel.read()
    alpha.links.reconcile(alpha.taps)
    assert alpha.kernel.read() == before
    assert carries(alpha, "shvm0-0", beta, "shvm1-0")
    assert alpha.links.carried(beta.name) == {RED}


def test_a_daemon_restarted_after_the_lease_leaves_nothing_over(joined: tuple[Host, Host]) -> None:
    alpha, _ = joined
    alpha.clock.advance(LEASE_S)
    alpha.restart()
    alpha.links.reconcile(alpha.taps)
    state = alpha.kernel.read()
    assert not state.tunnels
    assert not state.sas
    assert not state.gate
    assert set(BLOCK_ENTRIES) == state.spd
    assert state.bridges["shbr1"].ports == {"shvm0-0": False}


def test_links_of_another_boot_are_not_adopted(joined: tuple[Host, Host]) -> None:
    alpha, beta = joined
    alpha.reboot()
    alpha.links.reconcile({})
    assert alpha.links.status() == ()
    assert alpha.kernel.read().guard
    alpha.start_vm("shvm0-0", RED)
    join(alpha, beta)
    assert carries(alpha, "shvm0-0", beta, "shvm1-0")


def test_stopping_the_unit_closes_every_socket(joined: tuple[Host, Host]) -> None:
    alpha, beta = joined
    alpha.fd_store.stop_unit()
    assert not alpha.kernel.read().tunnels
    assert not carries(alpha, "shvm0-0", beta, "shvm1-0")


def test_close_all_removes_strangers_too(joined: tuple[Host, Host]) -> None:
    alpha, beta = joined
    alpha.documents.kept.clear()
    alpha.restart()
    alpha.links.close_all()
    state = alpha.kernel.read()
    assert not state.tunnels
    assert not state.sas
    assert not state.gate
    assert set(BLOCK_ENTRIES) == state.spd
    assert not carries(alpha, "shvm0-0", beta, "shvm1-0")


@pytest.mark.parametrize("everything", [True, False])
def test_what_was_only_offered_goes_with_the_peer(everything: bool, joined: tuple[Host, Host]) -> None:
    """The handshake that asked may have been cancelled, and then nobody gives the SPIs back."""
    alpha, beta = joined
    offers = alpha.links.offer(beta.name, beta.address, [RED])
    assert alpha.kernel.reserved_spis == {offer.spi for offer in offers}
    if everything:
        alpha.links.close_all()
    else:
        alpha.links.close_peer(beta.name, beta.address)
    assert not alpha.kernel.reserved_spis


def test_an_abandoned_handshake_leaves_the_earlier_one(joined: tuple[Host, Host]) -> None:
    alpha, beta = joined
    before = alpha.kernel.read()
    of_a, _ = agree(alpha, beta)
    alpha.links.install_inbound(beta.name, beta.address, of_a, lifetime_s=LEASE_S)
    alpha.links.abandon(beta.name, beta.address, [link.in_spi for link in of_a], of_a)
    assert alpha.kernel.read() == before
    assert carries(alpha, "shvm0-0", beta, "shvm1-0")


@pytest.mark.parametrize("left_s", [0.0, 4.0])
def test_a_handshake_that_is_abandoned_when_the_gate_was_open_already_takes_that_back(
    joined: tuple[Host, Host], left_s: float
) -> None:
    alpha, beta = joined
    of_a, _ = agree(alpha, beta)
    alpha.links.install_inbound(beta.name, beta.address, of_a, lifetime_s=LEASE_S)
    alpha.links.install_outbound(beta.name, beta.address, of_a, gate_s=LEASE_S - 1, lifetime_s=LEASE_S)
    assert alpha.kernel.read().gate[beta.address] > left_s + 1
    alpha.links.abandon(beta.name, beta.address, [link.in_spi for link in of_a], of_a, gate_s=left_s)
    assert alpha.kernel.read().gate.get(beta.address, 0.0) <= left_s


def test_an_abandoned_first_handshake_leaves_nothing(alpha: Host, beta: Host) -> None:
    alpha.links.reconcile({})
    beta.links.reconcile({})
    of_a, _ = agree(alpha, beta)
    alpha.links.install_inbound(beta.name, beta.address, of_a, lifetime_s=LEASE_S)
    alpha.links.abandon(beta.name, beta.address, [link.in_spi for link in of_a], of_a)
    state = alpha.kernel.read()
    assert not state.tunnels
    assert not state.sas
    assert not state.bridges
    assert set(BLOCK_ENTRIES) == state.spd


def test_a_type_that_is_no_longer_agreed_goes(alpha: Host, beta: Host) -> None:
    for host in (alpha, beta):
        host.links.reconcile({})
    join(alpha, beta, (RED, BLUE))
    assert alpha.links.carried(beta.name) == {RED, BLUE}
    join(alpha, beta, (BLUE,))
    assert alpha.links.carried(beta.name) == {BLUE}
    assert len(alpha.kernel.read().tunnels) == 1
    join(alpha, beta, ())
    assert alpha.links.status() == ()
    assert not alpha.kernel.read().tunnels
    assert not alpha.kernel.read().gate


def test_an_sa_of_another_category_is_refused_by_the_receiver(joined: tuple[Host, Host], wire: MemoryWire) -> None:
    alpha, beta = joined
    row = alpha.links.status()[0]
    right = next(sa for sa in alpha.kernel.read().sas if sa.destination == alpha.address)
    assert right.context is not None
    wrong = replace(right, spi=0x1234, key=b"k" * 36, context=replace(right.context, categories=frozenset({99})))
    alpha.kernel.put_sa(wrong)
    inner = udp_packet(beta.address, row["peer_port"], alpha.address, row["local_port"], b"x" * 60)
    wire.inject(seal(wrong, 1, inner.payload))
    assert alpha.kernel.counters()["XfrmInPolBlock"] == 1
    assert "polmatch" in alpha.kernel.avc[-1]
    alpha.links.reconcile(alpha.taps)
    assert wrong.id not in {sa.id for sa in alpha.kernel.read().sas}
    assert carries(beta, "shvm1-0", alpha, "shvm0-0")


def test_a_recorded_packet_is_refused(joined: tuple[Host, Host], wire: MemoryWire) -> None:
    alpha, beta = joined
    assert carries(alpha, "shvm0-0", beta, "shvm1-0")
    count = len(beta.received["shvm1-0"])
    wire.inject(wire.packets[-1])
    assert len(beta.received["shvm1-0"]) == count
    assert beta.kernel.counters()["XfrmInStateSeqError"] == 1


def test_a_foreign_policy_in_front_is_removed(joined: tuple[Host, Host], wire: MemoryWire) -> None:
    alpha, _ = joined
    anything = SpdEntry(
        direction=Direction.OUT, family=4, source="", destination="", source_port=0, source_port_mask=0,
        destination_port=0, destination_port_mask=0, priority=1, block=False,
    )  # fmt: skip
    alpha.kernel.put_policy(anything)
    mark = wire.mark()
    alpha.kernel.send_from_tap("shvm0-0", frame("clear"))
    assert wire.since(mark) == ()  # the nft guard stands behind the SPD
    alpha.links.reconcile(alpha.taps)
    assert not any(entry.foreign for entry in alpha.kernel.read().spd)
    assert any("foreign" in word for _, _, detail in alpha.audited for word in detail.get("operations", ()))


def test_a_foreign_port_is_taken_off_a_bridge(joined: tuple[Host, Host]) -> None:
    alpha, beta = joined
    alpha.kernel.put_port("shbr1", "eth7")
    alpha.kernel.put_port("shbr1", alpha.links.status()[0]["device"], isolated=False)
    alpha.links.reconcile(alpha.taps)
    assert alpha.kernel.read().bridges["shbr1"].ports == {"shvm0-0": False, alpha.links.status()[0]["device"]: True}
    assert carries(alpha, "shvm0-0", beta, "shvm1-0")


def test_a_quarantined_vm_is_off_the_network(joined: tuple[Host, Host]) -> None:
    alpha, beta = joined
    alpha.links.detach_port("shvm0-0")
    assert not carries(beta, "shvm1-0", alpha, "shvm0-0")


def test_a_tap_that_is_cut_off_while_a_reconcile_runs_stays_off(
    joined: tuple[Host, Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    alpha, beta = joined
    alpha.links.detach_port("shvm0-0")
    read = alpha.kernel.read

    def read_meanwhile() -> KernelState:
        alpha.links.detach_port("shvm0-0")
        return read()

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(alpha.kernel, "read", read_meanwhile)
        with alpha.links.held():
            alpha.links.reconcile(alpha.taps)  # looked at before
    assert not carries(beta, "shvm1-0", alpha, "shvm0-0")
    alpha.links.reconcile(alpha.taps)
    assert carries(beta, "shvm1-0", alpha, "shvm0-0")


@pytest.mark.parametrize("mode", [SelinuxMode.PERMISSIVE, SelinuxMode.DISABLED])
def test_without_selinux_enforcing_there_is_no_link(alpha: Host, beta: Host, mode: SelinuxMode) -> None:
    for host in (alpha, beta):
        host.links.reconcile({})
    of_a, _ = agree(alpha, beta)
    alpha.reboot(mode)
    alpha.links.reconcile({})
    assert alpha.links.offer(beta.name, beta.address, [RED]) == ()
    with pytest.raises(Refused, match="enforcing"):
        alpha.links.install_inbound(beta.name, beta.address, of_a, lifetime_s=LEASE_S)
    claim = check_network_state(alpha.links.network_state())
    assert claim.status is ClaimStatus.FAIL
    assert "SELinux" in claim.reason


def test_a_policy_that_is_not_fit_is_as_good_as_none(joined: tuple[Host, Host]) -> None:
    """The module is removed, or a domain made permissive, by hand: the links go, and the reason is told."""
    alpha, beta = joined
    alpha.kernel.load_policy(permissive=["shamon_link_t"])
    alpha.links.reconcile(alpha.taps)
    assert alpha.links.status() == ()
    assert alpha.kernel.read().sas == frozenset()
    assert "shamon_link_t" in next(detail["reason"] for kind, _, detail in alpha.audited[::-1] if kind == "link.close")
    alpha.kernel.load_policy(module=False)
    assert alpha.links.offer(beta.name, beta.address, [RED]) == ()
    assert "SELinux" in check_network_state(alpha.links.network_state()).reason
    alpha.kernel.load_policy()
    assert "not fit" in alpha.links.no_links_because
    assert len(alpha.links.offer(beta.name, beta.address, [RED])) == 1
    assert alpha.links.no_links_because == ""


def test_setenforce_0_takes_the_links_down(joined: tuple[Host, Host]) -> None:
    alpha, beta = joined
    alpha.kernel.selinux.set_enforcing(False)
    alpha.links.reconcile(alpha.taps)
    assert alpha.links.status() == ()
    assert not alpha.kernel.read().tunnels
    alpha.kernel.selinux.set_enforcing(True)
    join(alpha, beta)
    assert carries(alpha, "shvm0-0", beta, "shvm1-0")


@pytest.mark.parametrize("step", range(12))
def test_a_failure_anywhere_leaves_nothing_of_the_handshake(alpha: Host, beta: Host, step: int) -> None:
    for host in (alpha, beta):
        host.links.reconcile({})
    of_a, of_b = agree(alpha, beta, (RED, BLUE))
    beta.links.install_inbound(alpha.name, alpha.address, of_b, lifetime_s=LEASE_S)
    alpha.kernel.fail_after = step
    try:
        alpha.links.install_inbound(beta.name, beta.address, of_a, lifetime_s=LEASE_S)
        alpha.links.install_outbound(beta.name, beta.address, of_a, gate_s=80, lifetime_s=LEASE_S)
    except BackendFailed:
        alpha.kernel.fail_after = None
        alpha.links.abandon(beta.name, beta.address, [link.in_spi for link in of_a], of_a)
        state = alpha.kernel.read()
        assert not state.tunnels
        assert not state.sas
        assert not state.gate
        assert set(BLOCK_ENTRIES) == state.spd
    else:
        assert step > 8


@pytest.mark.parametrize("step", range(8))
def test_closing_goes_on_after_a_failure(joined: tuple[Host, Host], step: int) -> None:
    alpha, beta = joined
    alpha.kernel.fail_after = step
    with contextlib.suppress(BackendFailed):
        alpha.links.close_peer(beta.name, beta.address)
    assert not carries(alpha, "shvm0-0", beta, "shvm1-0")
    assert not carries(beta, "shvm1-0", alpha, "shvm0-0")
    alpha.kernel.fail_after = None
    alpha.links.reconcile(alpha.taps)
    assert set(BLOCK_ENTRIES) == alpha.kernel.read().spd


def test_ports_are_stable_and_bad_links_are_refused(alpha: Host, beta: Host) -> None:
    for host in (alpha, beta):
        host.links.reconcile({})
    first = alpha.links.offer(beta.name, beta.address, [RED, BLUE])
    alpha.restart()
    again = alpha.links.offer(beta.name, beta.address, [BLUE, RED])
    assert [offer.port for offer in first] == [offer.port for offer in again]
    assert not {offer.spi for offer in first} & {offer.spi for offer in again}
    of_a, _ = agree(alpha, beta)
    for bad in (
        replace(of_a[0], local_port=of_a[0].local_port + 1),
        replace(of_a[0], peer_port=22),
        replace(of_a[0], in_key=b"short"),
        replace(of_a[0], out_spi=1),
    ):
        with pytest.raises(BadInput):
            alpha.links.install_inbound(beta.name, beta.address, [bad], lifetime_s=LEASE_S)
    with pytest.raises(Refused):
        alpha.links.install_outbound(beta.name, beta.address, of_a, gate_s=80, lifetime_s=LEASE_S)
    assert alpha.links.status() == ()


def test_no_key_reaches_the_audit_log_or_the_store(joined: tuple[Host, Host]) -> None:
    alpha, beta = joined
    of_a, of_b = agree(alpha, beta)
    alpha.links.install_inbound(beta.name, beta.address, of_a, lifetime_s=LEASE_S)
    alpha.links.install_outbound(beta.name, beta.address, of_a, gate_s=80, lifetime_s=LEASE_S)
    words = repr(alpha.audited) + repr(alpha.documents.kept) + repr(alpha.links) + repr(alpha.kernel.read())
    for link in of_a + of_b:
        assert link.in_key.hex() not in words
        assert repr(link.in_key)[2:-1] not in words
    assert [kind for kind, _, _ in alpha.audited].index("link.install-inbound") >= 0


def test_the_network_state_passes_and_names_what_is_wrong(joined: tuple[Host, Host]) -> None:
    alpha, _ = joined
    alpha.links.reconcile(alpha.taps, pinned(alpha.taps))
    assert check_network_state(alpha.links.network_state()).status is ClaimStatus.PASS
    alpha.kernel.flush_policies()
    alpha.kernel.damage_guard()
    assert check_network_state(alpha.links.network_state()).status is ClaimStatus.PASS  # repaired first
    alpha.kernel.set_sysctl("net.ipv4.ip_forward", "1")
    claim = check_network_state(alpha.links.network_state())
    assert claim.status is ClaimStatus.FAIL
    assert claim.where == "net.ipv4.ip_forward"
    assert claim.found == "1"
