"""Belief and its end, under races: handshakes that run out of time, logs that cannot be written, links that stay."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from shamon_host.domain.admission import AdmissionState
from shamon_host.domain.audit import AuditRecord
from shamon_host.domain.errors import BackendFailed, Unreachable
from shamon_host.domain.labels import HostName
from shamon_host.domain.policy import HostEntry
from shamon_host.links.model import CloseGate, DeleteTunnel, Operation
from shamon_host.peer.wire import CONFIRM, HELLO
from shamon_host.testing.memory_host import MemoryHost
from shamon_host.testing.network import Deliver, Request
from shamon_host.testing.world import Fault
from tests.unit.daemon.daemon_world import ALPHA, BETA, DaemonWorld, SlowBlocking, daemon, play, records, state


def test_a_confirmation_that_is_lost_prolongs_nothing() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        admissions = daemon(world.alpha).admissions
        before = admissions.peers[BETA]

        async def lose_answers(request: Request, deliver: Deliver) -> bytes:
            answer = await deliver(request)
            if request.path == CONFIRM:
                raise Unreachable("the connection was lost", where=request.to)
            return answer

        world.network.tap = lose_answers
        # beta answers to alpha, whose confirmations get no answer; It would step in later than this looks.
        await world.wait(12)
        assert admissions.peers[BETA] == before
        until = before.lease_until_s - world.alpha.clock.boottime_s()
        gate = world.alpha.kernel.read().gate.get("192.0.2.2", 0.0)
        assert gate <= until
        await world.wait(until + 0.1)
        assert state(world.alpha, "beta") == "suspended"
        assert (await world.alpha.objects("beta")).nothing

    play(test)


def test_a_handshake_that_runs_out_of_time_cuts_off_all_the_same() -> None:
    async def test(world: DaemonWorld) -> None:
        slow = world.alpha.blocking = SlowBlocking()
        await world.pair_with_link()
        await world.beta.inflict(Fault.PROGRAM)
        slow.delay_s = 2.0  # offers, Evidence, appraisal: the handshake's 5 s end in the midst of the cut
        reason = await world.suspended("alpha", "beta", within_s=20)
        assert "software" in reason
        await world.wait(3)
        slow.delay_s = 0.0
        assert (await world.alpha.objects("beta")).nothing
        assert daemon(world.alpha).reactions.pending
        await world.wait(20)
        assert records(world.alpha, "vm.replace", "web")

    play(test)


def test_bad_evidence_closes_links_when_nothing_can_be_written_and_the_daemon_ends() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        admissions = daemon(world.alpha).admissions
        assert world.alpha.database is not None
        world.alpha.database.full = True
        with pytest.raises(BackendFailed):
            await admissions.suspend(BETA, "bad Evidence", definite=True)
        assert (await world.alpha.objects("beta")).nothing
        await world.wait(0.1)
        failure = world.alpha.failure()
        assert isinstance(failure, BackendFailed)
        assert admissions.peers[BETA].state is AdmissionState.SUSPENDED
        await world.alpha.kill_daemon()

    play(test)


@pytest.mark.parametrize("fault", [None, Fault.PROGRAM])
def test_a_daemon_that_cannot_write_ends_and_closes_everything(fault: Fault | None) -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        assert world.alpha.database is not None
        world.alpha.database.full = True
        if fault:
            await world.beta.inflict(fault)
        await world.wait(world.timing.period_s + world.timing.timeout_s)
        assert isinstance(world.alpha.failure(), BackendFailed)
        assert (await world.alpha.objects("beta")).nothing
        assert not await world.web_reaches_db()
        await world.alpha.kill_daemon()
        await world.alpha.start_daemon()
        if not fault:
            await world.admitted("alpha", "beta")

    play(test)


@pytest.mark.parametrize("decided", [True, False])
def test_a_daemon_that_died_before_it_cut_a_peer_off_does_so_when_it_starts(decided: bool) -> None:
    """The decision was written down, and nothing else done; where there was none, the link goes on."""

    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        if decided:
            append = daemon(world.alpha).audit.append

            def die(kind: str, subject: str, detail: Mapping[str, Any]) -> AuditRecord:
                record = append(kind, subject, detail)
                if kind == "peer.suspend":
                    world.alpha.sever()
                return record

            daemon(world.alpha).admissions.audit.append = die  # type: ignore[method-assign]
            await world.beta.inflict(Fault.PROGRAM)
            await world.until(lambda: _severed(world.alpha), within_s=20, what="alpha's daemon is dead")
            assert not (await world.alpha.objects("beta")).nothing, "it died before the effect"
        await world.alpha.kill_daemon()
        world.network.cut(ALPHA, BETA)
        await world.alpha.start_daemon()
        assert (await world.alpha.objects("beta")).nothing is decided
        assert [detail["cut_off"] for detail in records(world.alpha, "link.adopt", "beta")][-1:] == [decided]

    play(test)


async def _severed(host: MemoryHost) -> bool:
    return host.severed


def test_what_could_not_be_removed_is_tried_again() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        apply, broken = world.alpha.kernel.apply, True

        def fail(operations: list[Operation]) -> None:
            if broken and any(isinstance(operation, DeleteTunnel) for operation in operations):
                raise BackendFailed("the kernel refused")
            apply(operations)

        world.alpha.kernel.apply = fail  # type: ignore[method-assign,assignment]
        await world.beta.inflict(Fault.PROGRAM)
        await world.suspended("alpha", "beta")
        await world.wait(20)
        objects = await world.alpha.objects("beta")
        assert objects.devices
        assert not objects.gate_open
        assert not objects.sas
        assert len(records(world.alpha, "peer.not-closed", "beta")) == 1
        broken = False
        await world.wait(10)
        assert (await world.alpha.objects("beta")).nothing

    play(test)


def test_a_tpm_that_fails_cuts_nobody_off_before_the_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()

        def fail(_: bytes) -> bytes:
            raise BackendFailed("the TPM does not let this program quote")

        with monkeypatch.context() as patch:
            patch.setattr(world.alpha.machine.tpm, "quote", fail)
            await world.wait(world.timing.period_s + 1)
            assert state(world.alpha, "beta") == state(world.beta, "alpha") == "admitted"
            assert await world.web_reaches_db()
            peers = (await world.alpha.ask("peers")).value
            assert "TPM" in next(peer["last_error"] for peer in peers if peer["host"] == "beta")
            await world.suspended("beta", "alpha", within_s=world.timing.lease_s)
        await world.admitted("alpha", "beta")

    play(test)


def test_leases_that_are_renewed_at_the_last_moment_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        alpha = daemon(world.alpha)

        async def no_way(_: HostEntry) -> None:
            raise Unreachable("no way to the peer")

        with monkeypatch.context() as patch:
            for cut_off in (world.alpha, world.beta):
                patch.setattr(daemon(cut_off).handshaker, "initiate", no_way)
            left = alpha.admissions.peers[BETA].lease_until_s - world.alpha.clock.boottime_s()
            await world.wait(left - 0.5)
        await alpha.handshaker.initiate(alpha.policy.hosts[BETA])
        await world.wait(5)
        assert state(world.alpha, "beta") == "admitted"
        assert not records(world.alpha, "peer.suspend")

    play(test)


def test_nothing_is_installed_while_the_daemon_stops() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha", "beta")
        await daemon(world.alpha).admissions.close()
        calls = world.count_calls(HELLO)
        daemon(world.beta).schedule.wake(ALPHA)
        await world.wait(3)
        assert ("beta", "alpha") in calls
        assert "stopping" in daemon(world.beta).schedule.unreachable[ALPHA]

    play(test)


def test_every_decision_stands_before_its_effect() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        await world.beta.inflict(Fault.PROGRAM)
        await world.suspended("alpha", "beta")
        log = daemon(world.alpha).audit
        assert log.verify() > 20
        about = [record for record in log.records(limit=10_000) if record.subject == "beta"]
        red = next(index for index, record in enumerate(about) if "acme/red" in str(record.detail))
        kinds = [record.kind for record in about[red:]]
        assert kinds[0] in ("link.open", "link.accept")
        assert about[red - 1].kind == "host.admit"
        for decision, effect in (
            ("link.install-inbound", "link.install-outbound"),
            ("peer.suspend", "link.close"),
        ):
            assert kinds.index(decision) < kinds.index(effect), (decision, effect)

    play(test)


def test_the_gate_never_outlives_the_lease_however_slow_the_kernel_is() -> None:
    def outlives(host: MemoryHost, peer: HostName, address: str) -> bool:
        gate_s = host.kernel.read().gate.get(address, 0.0)
        return gate_s > max(0.0, daemon(host).admissions.peers[peer].lease_until_s - host.clock.boottime_s())

    async def test(world: DaemonWorld) -> None:
        slow = world.alpha.blocking = world.beta.blocking = SlowBlocking()
        await world.pair_with_link()
        for delay_s in (0.1, 0.3, 0.45):
            slow.delay_s = delay_s
            for _ in range(40):
                await asyncio.sleep(0.7)
                for host, peer, address in ((world.alpha, BETA, "192.0.2.2"), (world.beta, ALPHA, "192.0.2.1")):
                    if outlives(host, peer, address):
                        # A renewal opens the gate before it counts; it is done, or undone, when the kernel answers.
                        await asyncio.sleep(2 * delay_s)
                        assert not outlives(host, peer, address), delay_s

    play(test)


def test_close_gate_comes_first_when_a_peer_is_cut_off() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        seen: list[Operation] = []
        apply = world.alpha.kernel.apply

        def look(operations: list[Operation]) -> None:
            seen.extend(operations)
            apply(operations)

        world.alpha.kernel.apply = look  # type: ignore[method-assign,assignment]
        await daemon(world.alpha).admissions.suspend(BETA, "by hand", definite=False)
        assert isinstance(seen[0], CloseGate)

    play(test)
