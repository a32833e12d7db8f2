"""Back-off and recovery are automatic: what is transient clears itself, what is not comes back with what clears it.

Nobody helps here: no test wakes a schedule or restarts a daemon once the trouble has begun.
"""

import asyncio
from dataclasses import replace
from itertools import pairwise

import pytest

from shamon_host.attestation.ima_log import encode_ima_log
from shamon_host.attestation.reference_model import merged_digests
from shamon_host.domain.errors import BackendFailed, Unreachable
from shamon_host.peer.wire import HELLO
from shamon_host.testing.clock import run_virtual
from shamon_host.testing.images import sha256_of
from shamon_host.testing.memory_host import MemoryHost
from shamon_host.testing.network import Deliver, Request
from shamon_host.testing.world import BootVariant, Fault
from tests.unit.daemon.daemon_world import ALPHA, BETA, DaemonWorld, daemon, play, records, state
from tests.unit.daemon.test_peer_schedule import scheduled

NEW, CONTENT = "/usr/local/bin/of-the-next-release", b"\x7fELF of the next release"


def accept_the_new_program(world: DaemonWorld) -> None:
    """A change of the Reference Values, as a new file would be."""
    reference = world.enrolment.reference
    assert reference is not None
    new = {NEW: frozenset({sha256_of(CONTENT)})}
    world.enrolment.reference = replace(reference, files=merged_digests(reference.files, new))


def hide_what_is_new(host: MemoryHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on the host's IMA log is read as it is now, whatever its TPM is extended with."""
    logs = host.machine.logs
    now = tuple(logs.entries)
    monkeypatch.setattr(logs, "ima_log", lambda offset: encode_ima_log(now)[offset:])


def suspensions(world: DaemonWorld) -> list[str]:
    return [detail["reason"] for host in (world.alpha, world.beta) for detail in records(host, "peer.suspend")]


def test_a_log_that_is_briefly_behind_its_quote_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(world: DaemonWorld) -> None:
        accept_the_new_program(world)
        await world.pair_with_link()
        with monkeypatch.context() as patch:
            hide_what_is_new(world.beta, patch)
            world.beta.machine.run_program(NEW, CONTENT)
            await world.wait(world.timing.period_s + 2)
            assert "does not lead to its quote" in daemon(world.alpha).schedule.unreachable[BETA]
            assert await world.web_reaches_db()
        await world.wait(world.timing.period_s)
        assert state(world.alpha, "beta") == state(world.beta, "alpha") == "admitted"
        assert BETA not in daemon(world.alpha).schedule.unreachable
        await world.wait(2 * world.timing.lease_s)
        assert suspensions(world) == []
        assert await world.web_reaches_db()
        assert [run.trusted for run in daemon(world.alpha).history.runs(BETA)] == [True, False, True]

    play(test)


def test_a_log_that_is_ahead_of_its_quote_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(world: DaemonWorld) -> None:
        accept_the_new_program(world)
        await world.pair_with_link()
        machine = world.beta.machine
        quote = machine.tpm.quote
        number = iter(range(1000))

        def quote_then_measure(data: bytes) -> object:
            made = quote(data)
            machine.run_program("/usr/lib/modules/x.ko", b"module %d" % next(number))
            return made

        content = frozenset(sha256_of(b"module %d" % at) for at in range(1000))
        reference = world.enrolment.reference
        assert reference is not None
        files = merged_digests(reference.files, {"/usr/lib/modules/x.ko": content})
        world.enrolment.reference = replace(reference, files=files)
        monkeypatch.setattr(machine.tpm, "quote", quote_then_measure)
        await world.wait(3 * world.timing.lease_s)
        assert suspensions(world) == []
        assert await world.web_reaches_db()

    play(test)


def test_a_host_that_never_catches_up_fails_when_its_lease_ends_and_comes_back_when_it_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def test(world: DaemonWorld) -> None:
        accept_the_new_program(world)
        await world.pair_with_link()
        with monkeypatch.context() as patch:
            hide_what_is_new(world.beta, patch)
            world.beta.machine.run_program(NEW, CONTENT)
            end_s = daemon(world.alpha).admissions.peers[BETA].lease_until_s
            await world.suspended("alpha", "beta", within_s=world.timing.lease_s + 1)
            assert world.alpha.clock.boottime_s() <= end_s + 1
            assert (await world.alpha.objects("beta")).nothing
            await world.wait(2 * world.timing.lease_s)
            assert state(world.alpha, "beta") == "suspended"
            # Without a lease to lean on, the reason is told as it is.
            assert "software" in daemon(world.alpha).admissions.peers[BETA].reason
        await world.admitted("alpha", "beta")
        await world.until(world.web_reaches_db, within_s=30, what="web reaches db")

    play(test)


def test_a_host_that_hides_what_it_ran_gains_no_more_than_by_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        with monkeypatch.context() as patch:
            hide_what_is_new(world.beta, patch)
            end_s = daemon(world.alpha).admissions.peers[BETA].lease_until_s
            await world.beta.inflict(Fault.PROGRAM)
            await world.suspended("alpha", "beta", within_s=world.timing.lease_s + 1)
            assert world.alpha.clock.boottime_s() <= end_s + 1
        await world.wait(2 * world.timing.lease_s)
        assert state(world.alpha, "beta") == "suspended"
        assert "/usr/local/bin/unknown" in daemon(world.alpha).admissions.peers[BETA].reason

    play(test)


def test_a_new_boot_whose_log_does_not_lead_to_its_quote_fails_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha", "beta")
        with monkeypatch.context() as patch:
            logs = world.beta.machine.logs
            patch.setattr(logs, "ima_log", lambda offset: encode_ima_log(logs.entries[:-1])[offset:])
            await world.beta.boot(BootVariant.GOOD)
            await world.suspended("alpha", "beta", within_s=3)
        await world.admitted("alpha", "beta")

    play(test)


def test_a_peer_that_gave_no_answer_is_back_by_itself() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        world.network.cut_host(BETA)
        reason = await world.suspended("alpha", "beta")
        assert "the lease ended" in reason
        await world.wait(5 * world.timing.lease_s)
        world.network.heal_host(BETA)
        await world.wait(world.timing.period_s + 2)
        assert state(world.alpha, "beta") == state(world.beta, "alpha") == "admitted"
        await world.until(world.web_reaches_db, within_s=30, what="web reaches db")
        assert all(run.trusted for run in daemon(world.alpha).history.runs(BETA))

    play(test)


@pytest.mark.parametrize("what", ["quote", "event_log", "ima_log"])
def test_a_tpm_or_a_log_out_of_reach_beyond_the_lease_clears_itself(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()

        def fail(*_: object) -> bytes:
            raise BackendFailed("out of reach")

        with monkeypatch.context() as patch:
            machine = world.alpha.machine
            patch.setattr(machine.tpm if what == "quote" else machine.logs, what, fail)
            await world.suspended("beta", "alpha", within_s=world.timing.lease_s + 1)
            await world.wait(2 * world.timing.lease_s)
        await world.wait(world.timing.period_s + 2)
        assert state(world.alpha, "beta") == state(world.beta, "alpha") == "admitted"

    play(test)


def test_a_host_that_failed_is_back_after_a_clean_boot() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        await world.beta.inflict(Fault.PROGRAM)
        await world.suspended("alpha", "beta")
        await world.wait(5 * world.timing.lease_s)
        assert state(world.alpha, "beta") == "suspended"
        await world.beta.boot(BootVariant.WRONG)
        await world.wait(5 * world.timing.lease_s)
        assert "boot-chain" in daemon(world.alpha).admissions.peers[BETA].reason
        await world.beta.boot(BootVariant.GOOD)
        await world.wait(world.timing.period_s + 2)
        assert state(world.alpha, "beta") == state(world.beta, "alpha") == "admitted"
        assert [run.trusted for run in daemon(world.alpha).history.runs(BETA)] == [True, False, False, True]

    play(test)


def test_a_host_that_failed_is_back_once_the_reference_values_accept_what_it_ran() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        world.beta.machine.run_program(NEW, CONTENT)
        reason = await world.suspended("alpha", "beta")
        assert NEW in reason
        await world.wait(3 * world.timing.lease_s)
        assert state(world.alpha, "beta") == "suspended"
        accept_the_new_program(world)
        await world.wait(world.timing.period_s + 2)
        assert state(world.alpha, "beta") == state(world.beta, "alpha") == "admitted"
        assert len(records(world.alpha, "reference.update", "beta")) == 2

    play(test)


def test_a_verdict_that_sticks_sticks_over_a_restart_of_the_verifier_and_so_does_what_clears_it() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        await world.beta.inflict(Fault.PROGRAM)
        await world.suspended("alpha", "beta")
        await world.alpha.kill_daemon()
        await world.alpha.start_daemon()
        await world.suspended("alpha", "beta")
        await world.wait(3 * world.timing.lease_s)
        assert state(world.alpha, "beta") == "suspended"
        await world.beta.boot(BootVariant.GOOD)
        await world.admitted("alpha", "beta")

    play(test)


def test_reference_values_that_change_in_the_midst_of_a_handshake_cut_nobody_off() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        changes = 0

        async def change(request: Request, deliver: Deliver) -> bytes:
            nonlocal changes
            answer = await deliver(request)
            if request.path == HELLO and request.to == BETA and not changes:
                changes += 1
                accept_the_new_program(world)
            return answer

        world.network.tap = change
        await world.wait(world.timing.lease_s)
        assert changes == 1
        # What was measured before is judged anew: nothing has to be asked for again.
        assert not records(world.alpha, "peer.handshake-failed", "beta")
        assert suspensions(world) == []
        assert state(world.alpha, "beta") == "admitted"
        assert len(records(world.alpha, "reference.update", "beta")) == 2

    play(test)


@pytest.mark.parametrize("fault", [None, Fault.PROGRAM])
def test_a_state_that_another_version_left_is_made_anew_from_the_whole_log(fault: Fault | None) -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        if fault:
            await world.beta.inflict(fault)
            await world.suspended("alpha", "beta")
        store, key = daemon(world.alpha).store, daemon(world.alpha).registry.enrolled(BETA).ak_name.hex()
        store.put("verifier", key, {"format": "of another version"})
        await world.wait(2 * world.timing.period_s)
        assert len(records(world.alpha, "peer.state-unreadable", "beta")) == 1
        assert state(world.alpha, "beta") == ("suspended" if fault else "admitted")
        assert bool(suspensions(world)) is bool(fault)
        remade = store.get("verifier", key)
        assert remade is not None
        assert bool(remade["sticky"]) is bool(fault)

    play(test)


def test_back_off_doubles_up_to_the_period_and_begins_anew_after_a_success() -> None:
    async def main() -> None:
        down = [Unreachable("no answer") for _ in range(6)]
        _, handshaker, schedule = scheduled(*down, None, Unreachable("no answer"), Unreachable("no answer"))
        running = asyncio.create_task(schedule.run())
        await asyncio.sleep(70)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        waits = [round(after - before, 3) for before, after in pairwise(handshaker.begun_s)]
        assert waits[:9] == [1, 2, 4, 8, 10, 10, 10, 1, 2]

    run_virtual(main())


def test_a_peer_that_is_refused_for_good_costs_no_more_than_two_handshakes_a_period() -> None:
    """One by each side: both ask, and neither wakes the other."""

    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha", "beta")
        await world.beta.inflict(Fault.PROGRAM)
        await world.suspended("alpha", "beta")
        await world.wait(60)
        calls = world.count_calls(HELLO)
        await world.wait(10 * world.timing.period_s)
        between = [call for call in calls if set(call) == {ALPHA, BETA}]
        assert 10 <= len(between) <= 21

    play(test)
