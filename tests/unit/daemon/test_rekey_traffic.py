"""Traffic of VMs while handshakes renew the keys of their link, whichever message is lost and whoever starts."""

import asyncio
from collections.abc import Sequence

import pytest

from shamon_host.domain.errors import Unreachable
from shamon_host.peer.wire import CONFIRM, EVIDENCE, HELLO
from shamon_host.testing.network import Deliver, Request
from shamon_host.testing.story_policy import VM_ADDRESSES
from tests.unit.daemon.daemon_world import ALPHA, BETA, DaemonWorld, daemon, play

REFUSALS = ("XfrmOutNoStates", "XfrmInNoStates", "XfrmInTmplMismatch", "XfrmInPolBlock", "XfrmOutPolBlock", "gate_out")


async def _stream(world: DaemonWorld, seconds: float) -> list[bool]:
    """A packet and its answer every 10 ms, each way in turn."""
    reached = []
    for number in range(round(seconds * 100)):
        there, back = (("alpha", "web"), "db") if number % 2 else (("beta", "db"), "web")
        reached.append(await world.hosts[there[0]].guest(there[1]).reaches(VM_ADDRESSES[back][0]))
        await world.wait(0.01)
    return reached


def _spis(world: DaemonWorld) -> set[int]:
    return {sa.spi for host in (world.alpha, world.beta) for sa in host.kernel.read().sas}


def _nothing_refused(world: DaemonWorld) -> bool:
    return not any(host.kernel.counters()[name] for host in (world.alpha, world.beta) for name in REFUSALS)


@pytest.mark.parametrize("path", [HELLO, EVIDENCE, CONFIRM])
@pytest.mark.parametrize("what", ["message", "answer"])
@pytest.mark.parametrize("starter", ["alpha", "beta"])
def test_nothing_is_lost_whichever_message_is(path: str, what: str, starter: str) -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        await world.wait(3)
        lost: list[str] = []

        async def tap(request: Request, deliver: Deliver) -> bytes:
            if (request.path, request.caller.host) != (path, starter) or request.to == "gamma" or lost:
                return await deliver(request)
            lost.append(path)
            if what == "answer":
                await deliver(request)
            raise Unreachable("the network lost it", where=request.to)

        world.network.tap = tap
        before = _spis(world)
        daemon(world.hosts[starter]).schedule.wake(BETA if starter == "alpha" else ALPHA)
        assert all(await _stream(world, 8.0))
        assert lost
        assert _spis(world) - before
        assert _nothing_refused(world)

    play(test)


@pytest.mark.parametrize("lose", [False, True])
def test_nothing_is_lost_when_a_daemon_is_killed_and_its_first_handshake_fails_at_its_end(lose: bool) -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        await world.wait(3)
        lost: list[str] = []

        async def tap(request: Request, deliver: Deliver) -> bytes:
            answer = await deliver(request)
            if (request.path, request.caller.host) == (CONFIRM, "alpha") and lose and not lost:
                lost.append(request.path)
                raise Unreachable("the network lost it", where=request.to)
            return answer

        world.network.tap = tap

        async def again() -> None:
            await asyncio.sleep(1.0)
            await world.alpha.kill_daemon()
            await asyncio.sleep(1.0)
            await world.alpha.start_daemon()

        results: Sequence[object] = await asyncio.gather(_stream(world, 9.0), again())
        assert isinstance(results[0], list)
        assert all(results[0])
        assert bool(lost) is lose
        assert _nothing_refused(world)

    play(test)


def test_nothing_is_lost_when_both_start_at_once_again_and_again() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        await world.wait(3)
        seen = _spis(world)

        async def both() -> None:
            for _ in range(12):
                daemon(world.alpha).schedule.wake(BETA)
                daemon(world.beta).schedule.wake(ALPHA)
                await asyncio.sleep(1.0)
                seen.update(_spis(world))

        results: Sequence[object] = await asyncio.gather(_stream(world, 14.0), both())
        assert isinstance(results[0], list)
        assert all(results[0])
        assert len(seen) > 20
        assert _nothing_refused(world)

    play(test)
