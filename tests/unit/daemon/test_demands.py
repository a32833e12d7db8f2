"""The kernel asks for an SA, or for fresh keys: one handshake, none for a wrong label, never more than a budget."""

import asyncio
from dataclasses import replace

import pytest

from shamon_host.domain.errors import BackendFailed
from shamon_host.domain.labels import TypeName
from shamon_host.links.model import DeleteSas
from shamon_host.links.ports import AcquireEvent, ExpireEvent
from shamon_host.peer.wire import HELLO
from shamon_host.testing.network import Deliver, Request
from shamon_host.testing.story_policy import VM_ADDRESSES
from tests.unit.daemon.daemon_world import ALPHA, BETA, DaemonWorld, daemon, play, records

RED, BLUE = TypeName("acme/red"), TypeName("rival/blue")
HANDSHAKE = [("alpha", "beta")]


def _spis(world: DaemonWorld) -> set[int]:
    """Of the SAs that alpha sends to beta with."""
    return {sa.spi for sa in world.alpha.kernel.read().sas if sa.destination == "192.0.2.2"}


def _asked(world: DaemonWorld) -> AcquireEvent:
    """What alpha's kernel asks when the red link to beta has no SA."""
    (row,) = [row for row in daemon(world.alpha).own.links.status() if row["type"] == RED]
    return AcquireEvent(
        source="192.0.2.1",
        destination="192.0.2.2",
        source_port=row["local_port"],
        destination_port=row["peer_port"],
        context=daemon(world.alpha).own.enforced.label_map.link_context(RED),
    )


def _between(calls: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Of alpha and beta; both ask gamma too, which is off."""
    return [call for call in calls if "gamma" not in call]


async def _settled(world: DaemonWorld) -> list[tuple[str, str]]:
    """The link is up, and nothing is under way; handshakes from now on."""
    await world.pair_with_link()
    await world.wait(3)
    return world.count_calls(HELLO)


def test_a_packet_without_an_sa_brings_one() -> None:
    async def test(world: DaemonWorld) -> None:
        calls = await _settled(world)
        before = _spis(world)
        gone = tuple(sa.id for sa in world.alpha.kernel.read().sas if sa.destination == "192.0.2.2")
        world.alpha.kernel.apply([DeleteSas(ids=gone)])  # nobody is told
        assert not await world.web_reaches_db()  # but this packet asks
        await world.until(world.web_reaches_db, within_s=3, what="web reaches db again")
        assert _between(calls) == HANDSHAKE
        assert not before & _spis(world)
        assert records(world.alpha, "link.demand", "beta") == [{"types": {RED: "acquire"}}]

    play(test)


def test_a_burst_makes_one_handshake() -> None:
    async def test(world: DaemonWorld) -> None:
        calls = await _settled(world)
        for _ in range(3):
            for _ in range(200):
                daemon(world.alpha).demands.told(_asked(world))
            await world.wait(0.05)
        await world.wait(3)
        assert _between(calls) == HANDSHAKE

    play(test)


@pytest.mark.parametrize("fails", [False, True])
def test_what_is_asked_while_a_handshake_is_under_way_waits_for_it(fails: bool) -> None:
    """It brings SAs, so that is the answer; one that fails is followed by one more."""

    async def test(world: DaemonWorld) -> None:
        await _settled(world)
        calls: list[tuple[str, str]] = []
        asked = _asked(world)

        async def slow(request: Request, deliver: Deliver) -> bytes:
            if request.path == HELLO and request.to == "beta":
                calls.append((request.caller.host, request.to))
                await asyncio.sleep(1.0)
                for _ in range(20):
                    daemon(world.alpha).demands.told(asked)
                await asyncio.sleep(1.0)
                if fails and len(calls) == 1:
                    raise BackendFailed("the network went away")
            return await deliver(request)

        world.network.tap = slow
        daemon(world.alpha).schedule.wake(BETA)
        await world.wait(2.5)
        assert len(calls) == 1
        world.network.tap = None
        quiet = world.count_calls(HELLO)
        await world.wait(3)
        assert _between(quiet) == (HANDSHAKE if fails else [])

    play(test)


def test_a_vm_cannot_make_its_host_attest_without_bound() -> None:
    async def test(world: DaemonWorld) -> None:
        calls = await _settled(world)
        asked, until = _asked(world), 300
        for _ in range(until * 2):
            daemon(world.alpha).demands.told(asked)
            await world.wait(0.5)
        demanded = len(records(world.alpha, "link.demand", "beta"))
        assert demanded <= 3 + until / 10 + 1
        assert len(_between(calls)) <= demanded + until / world.timing.period_s + 1

    play(test)


def test_wrong_questions_start_nothing_and_are_reported_with_a_limit() -> None:
    async def test(world: DaemonWorld) -> None:
        calls = await _settled(world)
        asked = _asked(world)
        label_map = daemon(world.alpha).own.enforced.label_map
        wrong = [
            replace(asked, context=label_map.link_context(BLUE)),
            replace(asked, context=replace(label_map.link_context(RED), categories=frozenset(range(0, 1024, 2)))),
            replace(asked, source_port=asked.source_port + 1),
            replace(asked, destination="192.0.2.3"),
            replace(asked, context=None),
        ]
        for number in range(20):
            for event in wrong:
                daemon(world.alpha).demands.told(replace(event, destination_port=24600 + number))
        daemon(world.alpha).demands.told(replace(asked, context=None, source_port=4500, destination_port=4500))
        await world.wait(3)
        assert _between(calls) == []
        told = records(world.alpha, "link.acquire-unfounded")
        assert len(told) == 5
        assert all(len(str(detail)) < 1000 for detail in told)
        await world.wait(120)
        daemon(world.alpha).demands.told(wrong[0])
        await world.wait(1)
        assert records(world.alpha, "link.acquire-unfounded")[-1]["unreported"] == 95

    play(test)


def test_a_type_that_policy_does_not_give_the_peer_starts_nothing() -> None:
    async def test(world: DaemonWorld) -> None:
        calls = await _settled(world)
        policies = daemon(world.alpha).policies
        asked = _asked(world)
        shared = policies.shared(BETA)
        key = next(iter(policies._shared))
        policies._shared[key] = replace(shared, names={BLUE: BLUE})  # as if the peer's policy withheld red now
        daemon(world.alpha).demands.told(asked)
        await world.wait(2)
        assert _between(calls) == []
        (told,) = records(world.alpha, "link.acquire-unfounded")
        assert "not to be carried to beta" in told["reason"]

    play(test)


def test_keys_are_renewed_by_usage_and_no_packet_is_lost() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        await world.wait(3)
        seen: list[int] = []
        for _ in range(1000):
            assert await world.alpha.guest("web").reaches(VM_ADDRESSES["db"][0])
            seen += sorted(_spis(world) - set(seen))
            await world.wait(0.02)
        asked = [detail["types"] for detail in records(world.alpha, "link.demand", "beta")]
        assert asked
        assert all(types == {RED: "usage"} for types in asked)
        assert len(seen) > 3
        for host in (world.alpha, world.beta):
            counters = host.kernel.counters()
            assert not any(counters[name] for name in ("XfrmOutStateExpired", "XfrmOutNoStates", "XfrmInNoStates"))

    play(test, ("action_delay_s", "rekey_packets = 100\naction_delay_s"))


def test_an_sa_of_nobody_at_its_limit_starts_nothing() -> None:
    async def test(world: DaemonWorld) -> None:
        calls = await _settled(world)
        daemon(world.alpha).demands.told(ExpireEvent(destination="192.0.2.2", spi=0x999, hard=False))
        await world.wait(2)
        assert _between(calls) == []
        assert daemon(world.alpha).admissions.carried(BETA) == {RED}
        assert daemon(world.beta).admissions.carried(ALPHA) == {RED}

    play(test)
