"""What follows when a peer is cut off or comes back: on this host's own VMs, and at the other peers."""

import asyncio
from dataclasses import replace

import pytest

from shamon_host.daemon.failure_actions import PendingAction
from shamon_host.daemon.policy_versions import PolicyRecord
from shamon_host.daemon.suspension import Suspension
from shamon_host.domain.errors import BackendFailed
from shamon_host.domain.labels import HostName, TypeName, VmName
from shamon_host.domain.policy import FailureAction, Policy
from shamon_host.domain.policy_form import with_digest
from shamon_host.hypervisor.vm_states import VmStates
from shamon_host.peer.wire import HELLO
from shamon_host.testing.world import Fault
from tests.unit.daemon.daemon_world import ALPHA, BETA, GAMMA, ON_FAILURE, DaemonWorld, daemon, play, records, state
from tests.unit.daemon.signed_world import SignedWorld, envelope, play_signed, signed_policy

SUSPEND = (ON_FAILURE, 'on_failure = "suspend"')
AT_ONCE = ("action_delay_s = 15.0", "action_delay_s = 0.0")
DELAY_S = 15.0
WEB, DB = VmName("web"), VmName("db")


def without_db(policy: Policy) -> Policy:
    """The version that follows: db is no VM any more."""
    vms = {name: entry for name, entry in policy.vms.items() if name != DB}
    return with_digest(replace(policy, version=policy.version + 1, parent=policy.digest, vms=vms))


def vm_state(world: DaemonWorld, vm: str) -> str:
    statuses = daemon(world.alpha).own.vms.states.statuses()
    domain = next(status.domain for status in statuses if status.name == vm)
    return domain.state.value if domain else "absent"


def test_bad_evidence_has_its_action_although_the_peer_is_back_in_time() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        await world.alpha.guest("web").write_marker("written by beta, perhaps")
        await world.beta.inflict(Fault.PROGRAM)
        await world.suspended("alpha", "beta", within_s=5)
        await world.beta.boot()
        await world.admitted("alpha", "beta")
        assert not records(world.alpha, "vm.replace")
        await world.wait(DELAY_S + 1)
        assert len(records(world.alpha, "vm.replace", "web")) == 1
        assert await world.alpha.guest("web").read_marker() == ""
        assert vm_state(world, "web") == "running"
        assert not daemon(world.alpha).reactions.pending

    play(test)


def test_a_silent_peer_that_is_back_in_time_has_no_consequences() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        world.network.cut_host(BETA)
        await world.suspended("alpha", "beta")
        assert daemon(world.alpha).reactions.pending
        world.network.heal_host(BETA)
        await world.admitted("alpha", "beta")
        await world.wait(3 * DELAY_S)
        assert not records(world.alpha, "vm.replace")

    play(test)


def test_a_silent_peer_that_is_not_back_in_time_has_its_action() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        world.network.cut_host(BETA)
        await world.suspended("alpha", "beta")
        await world.wait(DELAY_S + 1)
        assert len(records(world.alpha, "vm.replace", "web")) == 1

    play(test)


def test_a_silent_peer_that_turns_out_bad_has_its_action_whether_it_comes_back() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        await world.beta.inflict(Fault.DAEMON_KILLED)
        await world.suspended("alpha", "beta")
        await world.beta.start_daemon()
        while "software" not in (await world.suspended("alpha", "beta")):
            await world.wait(0.5)
        await world.beta.boot()
        await world.admitted("alpha", "beta")
        assert not records(world.alpha, "vm.replace")
        await world.wait(DELAY_S + 1)
        assert len(records(world.alpha, "vm.replace", "web")) == 1

    play(test)


def test_suspended_vms_go_on_when_the_peer_passes_again() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        await world.beta.inflict(Fault.PROGRAM)
        await world.suspended("alpha", "beta")
        await world.wait(1)
        assert vm_state(world, "web") == "paused"
        await world.wait(50)
        assert vm_state(world, "web") == "paused"
        await world.beta.boot()
        await world.admitted("alpha", "beta")
        await world.wait(1)
        assert vm_state(world, "web") == "running"
        assert not records(world.alpha, "vm.replace")
        await world.until(world.web_reaches_db, within_s=30, what="web reaches db again")

    play(test, SUSPEND, AT_ONCE)


def failed(world: DaemonWorld, peer: HostName) -> None:
    """As alpha is told of it."""
    event = Suspension(peer=peer, carried=frozenset({TypeName("acme/red")}), definite=True, reason="software fail")
    daemon(world.alpha).reactions.suspended(event)


def test_one_peer_that_is_back_takes_nothing_from_what_another_one_did() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha")
        await world.start("alpha", "web")
        for peer in (GAMMA, BETA):
            failed(world, peer)
            await world.wait(1)
            assert vm_state(world, "web") == "paused"
        assert not daemon(world.alpha).reactions.pending
        for peer, after in ((GAMMA, "paused"), (BETA, "running")):
            daemon(world.alpha).reactions.admitted(peer)
            await world.wait(1)
            assert vm_state(world, "web") == after, peer

    play(test, SUSPEND, AT_ONCE)


def test_an_action_that_comes_due_while_the_vm_stands_still_for_something_else_holds() -> None:
    """Between `start_paused` and `resume` of a start, or while it is stopped to be moved."""

    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha")
        await world.start("alpha", "web")
        world.alpha.hypervisor.suspend(WEB)
        failed(world, GAMMA)
        await world.wait(1)
        world.alpha.hypervisor.resume(WEB)
        await world.wait(1)
        assert vm_state(world, "web") == "paused"
        daemon(world.alpha).reactions.admitted(GAMMA)
        await world.wait(1)
        assert vm_state(world, "web") == "running"

    play(test, SUSPEND, AT_ONCE)


@pytest.mark.parametrize("boots", [False, True], ids=["restart", "boot"])
def test_what_is_suspended_stands_still_in_the_next_run_too(monkeypatch: pytest.MonkeyPatch, *, boots: bool) -> None:
    """It is there after a boot, but does not run before the peer is back."""

    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha")
        await world.start("alpha", "web")
        failed(world, GAMMA)
        await world.wait(1)
        if boots:
            ran: list[VmName] = []
            with monkeypatch.context() as patch:
                patch.setattr(world.alpha.hypervisor, "resume", ran.append)
                await world.alpha.boot()
            assert ran == []
        else:
            await world.alpha.kill_daemon()
            world.alpha.hypervisor.resume(WEB)  # nobody looks
            await world.alpha.start_daemon()
        await world.wait(1)
        assert vm_state(world, "web") == "paused"
        daemon(world.alpha).reactions.admitted(GAMMA)
        await world.wait(1)
        assert vm_state(world, "web") == "running"

    play(test, SUSPEND, AT_ONCE)


def test_an_operator_may_let_it_go_on() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha")
        await world.start("alpha", "web")
        failed(world, GAMMA)
        await world.wait(1)
        await world.start("alpha", "web")
        assert records(world.alpha, "vm.release", "web") == [{"suspended_for": ["gamma"]}]
        daemon(world.alpha).watchers.domains_changed()
        await world.wait(1)
        assert vm_state(world, "web") == "running"

    play(test, SUSPEND, AT_ONCE)


@pytest.mark.parametrize(("action", "expected"), [("quarantine", "paused"), ("stop", "absent")])
def test_what_an_operator_did_meanwhile_stands(action: str, expected: str) -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        await world.beta.inflict(Fault.PROGRAM)
        await world.suspended("alpha", "beta")
        await world.wait(1)
        assert (await world.alpha.ask("vm", action, "web")).exit_code == 0
        await world.beta.boot()
        await world.admitted("alpha", "beta")
        await world.wait(30)
        assert vm_state(world, "web") == expected
        assert not records(world.alpha, "vm.release")

    play(test, SUSPEND, AT_ONCE)


def test_a_restart_of_the_daemon_forgets_no_action() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        await world.beta.inflict(Fault.PROGRAM)
        await world.suspended("alpha", "beta")
        await world.alpha.kill_daemon()
        await world.wait(1)
        await world.alpha.start_daemon()
        await world.wait(DELAY_S + 1)
        assert len(records(world.alpha, "vm.replace", "web")) == 1

    play(test)


def test_a_reboot_of_the_host_forgets_no_action() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        await world.beta.kill_daemon()
        await world.suspended("alpha", "beta")
        await world.alpha.boot()
        assert not records(world.alpha, "vm.replace")
        await world.wait(1)
        reasons = [detail["reason"] for detail in records(world.alpha, "vm.replace", "web")]
        assert len(reasons) == 1
        assert "beta failed" in reasons[0]

    play(test)


def test_a_vm_that_was_replaced_at_boot_is_not_replaced_again() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        await world.beta.inflict(Fault.PROGRAM)
        await world.suspended("alpha", "beta")
        await world.alpha.kill_daemon()
        await world.alpha.boot()
        await world.wait(2 * DELAY_S)
        assert len(records(world.alpha, "vm.replace", "web")) == 1

    play(test)


def test_a_peer_that_stays_silent_over_a_restart_has_its_action() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        await world.alpha.kill_daemon()
        await world.beta.kill_daemon()
        await world.wait(40)
        await world.alpha.start_daemon()
        await world.wait(DELAY_S + 1)
        assert state(world.alpha, "beta") == "enrolled"
        assert not records(world.alpha, "vm.replace")
        reason = await world.suspended("alpha", "beta", within_s=world.timing.lease_s)
        assert "since this daemon started" in reason
        await world.wait(DELAY_S + 1)
        assert len(records(world.alpha, "vm.replace", "web")) == 1

    play(test)


def test_an_action_that_fails_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        await world.beta.inflict(Fault.PROGRAM)
        await world.suspended("alpha", "beta")

        def unreachable() -> None:
            raise BackendFailed("libvirtd does not answer")

        with monkeypatch.context() as patch:
            patch.setattr(world.alpha.hypervisor, "domains", unreachable)
            await world.wait(60)
        assert len(records(world.alpha, "vm.action-failed", "web")) == 1
        assert not records(world.alpha, "vm.replace")
        await world.wait(DELAY_S)
        assert len(records(world.alpha, "vm.replace", "web")) == 1

    play(test)


def test_an_action_waits_for_a_vm_that_was_stopped() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        await world.beta.inflict(Fault.PROGRAM)
        await world.suspended("alpha", "beta")
        await world.alpha.ask("vm", "stop", "web")
        await world.wait(60)
        assert vm_state(world, "web") == "absent"
        await world.start("alpha", "web")
        await world.wait(DELAY_S)
        assert len(records(world.alpha, "vm.replace", "web")) == 1

    play(test)


def test_vms_without_a_type_in_common_go_on() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        await world.start("alpha", "shop")
        await world.beta.inflict(Fault.PROGRAM)
        await world.suspended("alpha", "beta")
        await world.wait(DELAY_S + 1)
        assert {
            record.subject for record in daemon(world.alpha).audit.records(limit=9999) if "replace" in record.kind
        } == {"web"}

    play(test)


def test_a_hint_makes_another_peer_look_before_its_period() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha", "beta", "gamma")
        await world.wait(2)
        daemon(world.gamma).watchers.wake_all = lambda: None  # gamma keeps quiet about itself
        await world.gamma.inflict(Fault.PROGRAM)
        await world.wait(1.5)
        assert state(world.alpha, "gamma") == state(world.beta, "gamma") == "admitted"
        daemon(world.alpha).schedule.wake(GAMMA)
        await world.suspended("beta", "gamma", within_s=2)
        assert records(world.beta, "peer.hint", "gamma") == [{"from": "alpha"}]
        assert "software" in records(world.beta, "peer.suspend", "gamma")[0]["reason"]

    play(test)


def test_hints_are_not_followed_endlessly() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha", "beta", "gamma")
        calls = world.count_calls(HELLO)
        for _ in range(100):
            daemon(world.alpha).host.hinted(BETA, GAMMA)
            await asyncio.sleep(0.1)
        assert len(records(world.alpha, "peer.hint")) <= 4
        assert calls.count(("alpha", "gamma")) <= 6

    play(test)


def test_hints_of_peers_that_are_not_admitted_are_nothing() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha", "beta", "gamma")
        await world.beta.inflict(Fault.PROGRAM)
        await world.suspended("alpha", "beta")
        daemon(world.alpha).host.hinted(BETA, GAMMA)
        daemon(world.alpha).host.hinted(GAMMA, BETA)
        assert not records(world.alpha, "peer.hint", "gamma")

    play(test)


@pytest.mark.parametrize("action", ["replace", "suspend"])
def test_what_was_to_be_done_to_a_vm_that_an_update_removes_is_dropped(action: str) -> None:
    first = signed_policy((ON_FAILURE, f'on_failure = "{action}"'))
    second = without_db(first)

    async def test(world: SignedWorld) -> None:
        await world.boot("gamma")
        await world.pair_with_link()
        await world.admitted("alpha", "beta", "gamma")
        world.beta.hypervisor.destroy(DB)  # it shut itself down: the action waits for it
        await daemon(world.beta).admissions.suspend(ALPHA, "bad evidence", definite=True)
        await world.wait(DELAY_S + 5)
        await world.admitted("alpha", "beta", "gamma")
        assert [item.vm for item in daemon(world.beta).reactions.pending] == [DB]
        assert not (await daemon(world.alpha).changes.update(envelope(second))).unconfirmed
        await world.wait(30)
        assert not daemon(world.beta).reactions.pending
        assert not daemon(world.beta).store.items("pending-action")

    play_signed(test, first=first)


def test_a_vm_that_was_suspended_for_a_peer_and_is_removed_is_not_resumed() -> None:
    first = signed_policy((ON_FAILURE, 'on_failure = "suspend"'), AT_ONCE)

    async def test(world: SignedWorld) -> None:
        await world.boot("gamma")
        await world.pair_with_link()
        world.network.cut_host(ALPHA)
        await world.suspended("beta", "alpha")
        await world.wait(5)
        store, reactions = daemon(world.beta).store, daemon(world.beta).reactions
        entry = store.get("suspended-for", DB)
        assert entry == {"peers": ["alpha"]}
        await daemon(world.beta).changes.switch.to(PolicyRecord(policy=without_db(first)))
        await reactions._resume([DB], ALPHA)
        assert store.get("suspended-for", DB) is None
        await reactions._suspend(DB, ALPHA, "too late")
        assert store.get("suspended-for", DB) is None
        store.put("suspended-for", DB, entry)
        reactions.admitted(GAMMA)  # whoever it is
        assert store.get("suspended-for", DB) is None
        assert not records(world.beta, "vm.not-resumed", DB)

    play_signed(test, first=first)


def test_a_vm_that_goes_away_while_its_status_is_asked_for_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        reactions, store = daemon(world.beta).reactions, daemon(world.beta).store
        item = PendingAction(vm=DB, action=FailureAction.REPLACE, peer=ALPHA, due_s=0.0, definite=True, reason="a test")
        store.put("suspended-for", DB, {"peer": ALPHA})
        monkeypatch.setattr(VmStates, "statuses", lambda _states: ())
        await reactions.restore()
        reactions.pending = (item,)
        assert await reactions._act(item)
        assert item not in reactions.pending
        assert store.get("suspended-for", DB) is None
        store.put("suspended-for", DB, {"peer": ALPHA})
        await reactions._resume([DB], ALPHA)
        assert store.get("suspended-for", DB) is None

    play(test)
