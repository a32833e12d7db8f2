"""When hosts attest: how often in quiet times, how soon after a change, how patiently after failures."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from shamon_host.daemon.figures import Figures
from shamon_host.daemon.peer_schedule import PeerSchedule
from shamon_host.domain.admission import AdmissionState, PeerState
from shamon_host.domain.errors import Unreachable
from shamon_host.domain.labels import HostName
from shamon_host.domain.policy import HostEntry, Policy
from shamon_host.peer.handshake import Busy
from shamon_host.peer.wire import HELLO
from shamon_host.testing.clock import VirtualClock, run_virtual
from shamon_host.testing.network import Deliver, Request
from tests.unit.daemon.daemon_world import ALPHA, BETA, DaemonWorld, changed_policy, daemon, play, records, state


def test_in_quiet_times_each_pair_attests_once_a_period() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha", "beta", "gamma")
        await world.start("alpha", "web")
        await world.start("beta", "db")
        await world.wait(15)
        calls = world.count_calls(HELLO)
        await world.wait(10 * world.timing.period_s)
        assert set(calls) == {("alpha", "beta"), ("alpha", "gamma"), ("beta", "gamma")}
        assert all(9 <= calls.count(pair) <= 11 for pair in set(calls))

    play(test)


def test_a_change_makes_one_handshake_with_each_peer_and_no_echo() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha", "beta", "gamma")
        await world.wait(2)
        calls = world.count_calls(HELLO)
        await world.start("beta", "db")
        await world.wait(5)
        assert sorted(calls) == [("beta", "alpha"), ("beta", "gamma")]

    play(test)


def test_changes_on_both_sides_at_once_settle() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha", "beta")
        await world.wait(2)
        calls = world.count_calls(HELLO)
        await world.start("alpha", "web")
        await world.start("beta", "db")
        await world.wait(5)
        assert 1 <= sum("gamma" not in call for call in calls) <= 3
        assert await world.web_reaches_db()

    play(test)


def test_the_second_host_steps_in_for_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()

        async def never(_: HostEntry) -> None:
            raise Unreachable("this side does not ask")

        monkeypatch.setattr(daemon(world.alpha).handshaker, "initiate", never)
        calls = world.count_calls(HELLO)
        await world.wait(5 * world.timing.lease_s)
        between = [call for call in calls if "gamma" not in call]
        assert set(between) == {("beta", "alpha")}
        assert 8 <= len(between) <= 12
        for host in (world.alpha, world.beta):
            assert not records(host, "peer.suspend")

    play(test)


def test_a_peer_that_cannot_be_reached_is_asked_less_and_less_often() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha")
        calls = world.count_calls(HELLO)
        await world.wait(100)
        assert 8 <= calls.count(("alpha", "beta")) <= 15
        assert len(records(world.alpha, "peer.handshake-failed", "beta")) == 1

    play(test)


def test_a_peer_that_comes_up_is_admitted_within_a_period() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha")
        await world.wait(100)
        await world.beta.boot()
        await world.wait(1)
        assert state(world.alpha, "beta") == state(world.beta, "alpha") == "admitted"
        assert (await world.alpha.ask("peers")).value[0]["last_error"] == ""

    play(test)


def test_a_flood_of_reasons_makes_a_handshake_a_second() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha", "beta")
        calls = world.count_calls(HELLO)
        for _ in range(200):
            daemon(world.alpha).schedule.wake(BETA)
            await asyncio.sleep(0.05)
        assert 7 <= calls.count(("alpha", "beta")) <= 11

    play(test)


# One schedule alone, with a handshaker that does as it is told


class Audit:
    def append(self, kind: str, subject: str, detail: object) -> None:
        """Nobody reads it here."""


@dataclass
class Enforced:
    """The part of `EnforcedPolicy` that a schedule sees."""

    policy: Policy = field(default_factory=changed_policy)


@dataclass
class Admissions:
    """The part of `Admissions` that a schedule sees."""

    peers: dict[HostName, PeerState] = field(default_factory=lambda: {BETA: PeerState(host=BETA)})
    proved: float = float("-inf")

    def proved_s(self, _: HostName) -> float:
        return self.proved

    def lease_end_s(self, _: HostName) -> None:
        return None


@dataclass
class Handshaker:
    clock: VirtualClock
    answers: list[BaseException | None]
    confirmed: Callable[[], None] = lambda: None
    begun_s: list[float] = field(default_factory=list)

    async def initiate(self, _: HostEntry) -> None:
        self.begun_s.append(self.clock.boottime_s())
        answer = self.answers.pop(0) if self.answers else None
        if answer is not None:
            raise answer
        self.confirmed()


def scheduled(*answers: BaseException | None) -> tuple[Admissions, Handshaker, PeerSchedule]:
    clock, admissions = VirtualClock(boottime_s=0.0), Admissions()
    handshaker = Handshaker(clock, list(answers))
    schedule = PeerSchedule(
        name=ALPHA,
        enforced=Enforced(),  # type: ignore[arg-type]
        admissions=admissions,  # type: ignore[arg-type]
        audit=Audit(),  # type: ignore[arg-type]
        handshaker=handshaker,  # type: ignore[arg-type]
        clock=clock,
        figures=Figures(),
    )
    handshaker.confirmed = lambda: schedule.admitted(BETA)
    return admissions, handshaker, schedule


def test_a_peer_that_ends_no_handshake_costs_the_others_no_more_than_one_a_period() -> None:
    """Each beginning of one would open a slot for all else, until its lease ends."""

    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha", "beta", "gamma")
        await world.wait(3 * world.timing.period_s)
        calls = world.count_calls(HELLO)
        count = world.network.tap
        assert count is not None

        async def tap(request: Request, deliver: Deliver) -> bytes:
            if "gamma" in (request.caller.host, request.to):
                raise Busy("another handshake is under way", where=request.to)
            return await count(request, deliver)

        world.network.tap = tap
        await world.wait(2 * world.timing.period_s)
        assert state(world.alpha, "gamma") == "admitted"  # its lease goes on
        assert 1 <= calls.count(("alpha", "beta")) <= 2

    play(test)


def test_a_change_while_another_handshake_runs_is_not_forgotten() -> None:
    async def main() -> None:
        admissions, handshaker, schedule = scheduled(None, Busy("under way"), None)
        running = asyncio.create_task(schedule.run())
        await asyncio.sleep(2)
        schedule.wake(BETA)
        await asyncio.sleep(0.4)
        assert len(handshaker.begun_s) == 2  # busy: beta's handshake began before the change
        admissions.proved = 1.5
        schedule.admitted(BETA)
        await asyncio.sleep(3)
        assert len(handshaker.begun_s) == 3
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    run_virtual(main())


def test_a_change_that_another_handshake_has_shown_makes_none() -> None:
    async def main() -> None:
        admissions, handshaker, schedule = scheduled(None, Busy("under way"), None)
        running = asyncio.create_task(schedule.run())
        await asyncio.sleep(2)
        schedule.wake(BETA)
        await asyncio.sleep(0.4)
        admissions.proved = 2.2
        schedule.admitted(BETA)
        await asyncio.sleep(3)
        assert len(handshaker.begun_s) == 2
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    run_virtual(main())


def test_an_expelled_peer_is_never_asked_whatever_happens() -> None:
    async def main() -> None:
        admissions, handshaker, schedule = scheduled()
        admissions.peers[BETA] = PeerState(host=BETA, state=AdmissionState.EXPELLED)
        running = asyncio.create_task(schedule.run())
        for _ in range(20):
            schedule.wake_all()
            await asyncio.sleep(1)
        assert handshaker.begun_s == []
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    run_virtual(main())
