"""The attested handshake between honest hosts: what both end up with, and what a failure leaves behind (nothing)."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shamon_host.attestation.evidence import Role
from shamon_host.domain.errors import BackendFailed, NotTrusted, Refused, ShamonError, Unreachable
from shamon_host.domain.labels import TypeName
from shamon_host.peer.handshake import Busy, RefusedByPeer
from shamon_host.peer.ports import AgreedLink, Outcome
from shamon_host.testing.clock import run_virtual
from shamon_host.testing.memory_ca import memory_expelled
from tests.examples import examples
from tests.unit.peer.handshake_world import ALPHA, BETA, BLUE, GAMMA, GREEN, RED, TIMEOUT_S, World, enrolled, entry


def both(world: World) -> tuple[Outcome, Outcome]:
    return world.hosts[ALPHA].outbound[BETA], world.hosts[BETA].outbound[ALPHA]


def mirrored(link: AgreedLink) -> AgreedLink:
    return AgreedLink(
        type=link.type,
        local_port=link.peer_port,
        peer_port=link.local_port,
        in_spi=link.out_spi,
        out_spi=link.in_spi,
        in_key=link.out_key,
        out_key=link.in_key,
    )


def test_both_sides_agree_on_links_and_leases() -> None:
    async def main() -> None:
        world = World()
        world.hosts[ALPHA].lease, world.hosts[BETA].lease = 90.0, 60.5
        before = world.clock.boottime_s()
        outcome = await world.initiate()
        ours, theirs = both(world)
        assert outcome is ours
        assert (ours.role, theirs.role) == (Role.INITIATOR, Role.RESPONDER)
        assert ours.lease_s == theirs.lease_s == 60.5
        assert ours.started_s == before
        assert theirs.started_s == pytest.approx(before + 0.01)
        assert ours.transcript == theirs.transcript
        assert [link.type for link in ours.links] == [RED, BLUE]
        assert ours.links == tuple(mirrored(link) for link in theirs.links)
        assert (ours.terms, ours.peer_terms) == (theirs.peer_terms, theirs.terms)
        assert ours.terms.ak_name == enrolled(ALPHA).ak_name
        await world.settle()

    run_virtual(main())


def test_receive_side_is_installed_before_the_peer_sends() -> None:
    async def main() -> None:
        world = World()
        await world.initiate()
        assert [name for name, _ in world.hosts[ALPHA].calls] == ["evidence", "appraise", "inbound", "outbound"]
        # The responder makes its Evidence while it waits for the initiator's: one quote may stand for several peers.
        assert [name for name, _ in world.hosts[BETA].calls] == ["evidence", "appraise", "inbound", "outbound"]

    run_virtual(main())


@settings(max_examples=examples(25), deadline=None)
@given(
    ours=st.sets(st.sampled_from([RED, BLUE, GREEN])),
    theirs=st.sets(st.sampled_from([RED, BLUE, GREEN])),
)
def test_only_types_of_both_are_carried_and_no_key_is_used_twice(ours: set[TypeName], theirs: set[TypeName]) -> None:
    async def main() -> None:
        world = World()
        world.hosts[ALPHA].types, world.hosts[BETA].types = sorted(ours), sorted(theirs)
        keys = []
        for _ in range(2):
            await world.initiate()
            one, other = both(world)
            assert {link.type for link in one.links} == ours & theirs
            assert one.links == tuple(mirrored(link) for link in other.links)
            keys += [key for link in one.links for key in (link.in_key, link.out_key)]
        assert len(set(keys)) == len(keys) == 4 * len(ours & theirs)
        assert all(len(key) == 36 for key in keys)

    run_virtual(main())


def test_spis_of_what_only_one_side_offered_are_to_be_given_back() -> None:
    async def main() -> None:
        world = World()
        world.hosts[ALPHA].types, world.hosts[BETA].types = (RED, BLUE), (BLUE, GREEN)
        await world.initiate()
        ours, theirs = both(world)
        for outcome, host in ((ours, ALPHA), (theirs, BETA)):
            offered = {0x1001, 0x1002}
            used = {link.in_spi for link in outcome.links}
            assert set(outcome.unused_spis) == offered - used, host
            assert len(outcome.unused_spis) == 1

    run_virtual(main())


def test_keys_are_not_shown() -> None:
    async def main() -> None:
        world = World()
        outcome = await world.initiate()
        assert outcome.links[0].in_key.hex() not in repr(outcome)
        assert str(outcome.links[0].in_key) not in repr(outcome)
        assert "secret" not in repr(outcome)

    run_virtual(main())


def test_peer_that_fails_is_told_why_and_nothing_is_installed() -> None:
    async def main() -> None:
        world = World()
        world.hosts[BETA].good = False
        with pytest.raises(NotTrusted, match="boot-chain fail: PCR 4: not as expected"):
            await world.initiate()
        assert world.hosts[BETA].refusals == [(ALPHA, ("boot-chain fail: PCR 4: not as expected",))]
        assert world.hosts[ALPHA].refusals == []
        assert all(host.nothing_installed for host in world.hosts.values())
        await world.settle()

    run_virtual(main())


def test_initiator_that_fails_is_told_why_and_nothing_is_installed() -> None:
    async def main() -> None:
        world = World()
        world.hosts[ALPHA].good = False
        with pytest.raises(RefusedByPeer, match="PCR 4") as caught:
            await world.initiate()
        assert caught.value.failures == ("boot-chain fail: PCR 4: not as expected",)
        assert world.hosts[ALPHA].refusals == [(BETA, caught.value.failures)]
        assert world.hosts[ALPHA].called("appraise") == 1, "the other side's Evidence is looked at all the same"
        assert all(host.nothing_installed for host in world.hosts.values())
        await world.settle()

    run_virtual(main())


def test_when_both_fail_both_are_told() -> None:
    async def main() -> None:
        world = World()
        for host in world.hosts.values():
            host.good = False
        with pytest.raises(NotTrusted):
            await world.initiate()
        assert [host.refusals[0][0] for host in world.hosts.values()] == [BETA, ALPHA]
        assert all(host.nothing_installed for host in world.hosts.values())
        await world.settle()

    run_virtual(main())


@pytest.mark.parametrize("name", [ALPHA, BETA])
def test_terms_that_are_refused_end_it(name: str) -> None:
    async def main() -> None:
        world = World()
        world.hosts[ALPHA if name == ALPHA else BETA].terms_error = Refused("the guard is not in place")
        with pytest.raises(Refused, match="the guard is not in place"):
            await world.initiate()
        await world.settle()

    run_virtual(main())


@pytest.mark.parametrize("name", [ALPHA, BETA])
def test_side_that_cannot_install_is_left_with_nothing(name: str) -> None:
    async def main() -> None:
        world = World()
        failing = world.hosts[ALPHA if name == ALPHA else BETA]
        failing.install_error = BackendFailed("the kernel refused the SA")
        with pytest.raises(ShamonError, match="the kernel refused the SA"):
            await world.initiate()
        assert failing.nothing_installed
        assert world.hosts[ALPHA].nothing_installed, "without the MAC of the responder nothing stays"
        assert world.hosts[ALPHA].open_terms == world.hosts[BETA].open_terms == []

    run_virtual(main())


def test_lease_shorter_than_the_handshake_installs_nothing() -> None:
    async def main() -> None:
        world = World(latency_s=1.0)
        world.hosts[BETA].lease = 3.0
        with pytest.raises(Refused, match="lease was over"):
            await world.initiate()
        assert all(host.nothing_installed for host in world.hosts.values())
        await world.settle()

    run_virtual(main())


@pytest.mark.parametrize("lease", [0.0, -1.0, 0.0004, float("nan"), float("inf"), 1e9])
def test_impossible_lease_is_never_granted(lease: float) -> None:
    async def main() -> None:
        world = World()
        world.hosts[ALPHA].lease = lease
        with pytest.raises(BackendFailed, match="impossible lease"):
            await world.initiate()
        await world.settle()

    run_virtual(main())


def test_silent_peer_is_unreachable_after_the_timeout() -> None:
    async def main() -> None:
        world = World()
        world.network.cut(ALPHA, BETA)
        before = world.clock.boottime_s()
        with pytest.raises(Unreachable):
            await world.initiate()
        assert world.clock.boottime_s() - before == pytest.approx(TIMEOUT_S)
        world.network.heal(ALPHA, BETA)
        await world.initiate()
        await world.settle()

    run_virtual(main())


@pytest.mark.parametrize("after_s", [0.005, 0.015, 0.025, 0.035])
def test_partition_in_the_middle_leaves_no_terms_behind(after_s: float) -> None:
    async def main() -> None:
        world = World()
        attempt = asyncio.create_task(world.initiate())
        await world.clock.sleep(after_s)
        world.network.cut(ALPHA, BETA)
        with pytest.raises(Unreachable):
            await attempt
        await world.settle()
        assert all(host.nothing_installed for host in world.hosts.values())

    run_virtual(main())


def test_cancelled_initiation_gives_everything_back() -> None:
    async def main() -> None:
        for after_s in (0.0, 0.01, 0.03, 0.05, 0.055):
            world = World()
            attempt = asyncio.create_task(world.initiate())
            await world.clock.sleep(after_s)
            attempt.cancel()
            with pytest.raises(asyncio.CancelledError):
                await attempt
            assert world.hosts[ALPHA].open_terms == []
            assert world.hosts[ALPHA].nothing_installed

    run_virtual(main())


def test_lower_name_wins_when_both_start_at_once() -> None:
    async def main() -> None:
        world = World()
        ours, theirs = await asyncio.gather(
            world.initiate(ALPHA, BETA), world.initiate(BETA, ALPHA), return_exceptions=True
        )
        assert isinstance(ours, Outcome)
        assert isinstance(theirs, Busy)
        one, other = both(world)
        assert one.transcript == other.transcript
        await world.settle()

    run_virtual(main())


def test_both_sides_say_that_a_handshake_is_under_way_until_it_is_over() -> None:
    async def main() -> None:
        world = World()

        def under_way() -> tuple[bool, bool]:
            return (
                world.handshakers[ALPHA].sessions.under_way(BETA),
                world.handshakers[BETA].sessions.under_way(ALPHA),
            )

        assert under_way() == (False, False)
        attempt = asyncio.create_task(world.initiate())
        seen = set()
        while not attempt.done():
            await world.clock.sleep(0.001)
            seen.add(under_way())
        assert (True, True) in seen
        assert (False, True) not in seen
        assert under_way() == (False, False)
        assert not world.handshakers[ALPHA].sessions.under_way(GAMMA)
        await world.settle()

    run_virtual(main())


@pytest.mark.parametrize("delay_s", [0.005, 0.015, 0.025, 0.035, 0.045, 0.055])
@pytest.mark.parametrize("first", [ALPHA, BETA])
def test_two_handshakes_never_mix(first: str, delay_s: float) -> None:
    async def main() -> None:
        world = World()
        one, other = (ALPHA, BETA) if first == ALPHA else (BETA, ALPHA)

        async def later() -> Outcome:
            await world.clock.sleep(delay_s)
            return await world.initiate(other, one)

        results = await asyncio.gather(world.initiate(one, other), later(), return_exceptions=True)
        assert any(isinstance(result, Outcome) for result in results)
        assert all(isinstance(result, Outcome | Busy) for result in results)
        ours, theirs = both(world)
        assert ours.links == tuple(mirrored(link) for link in theirs.links)
        await world.settle()

    run_virtual(main())


def test_second_initiation_to_the_same_peer_waits() -> None:
    async def main() -> None:
        world = World()
        first, second = await asyncio.gather(world.initiate(), world.initiate(), return_exceptions=True)
        assert isinstance(first, Outcome)
        assert isinstance(second, Busy)

    run_virtual(main())


def test_many_peers_at_once() -> None:
    async def main() -> None:
        world = World(ALPHA, BETA, GAMMA)
        await asyncio.gather(world.initiate(ALPHA, BETA), world.initiate(ALPHA, GAMMA), world.initiate(BETA, GAMMA))
        assert set(world.hosts[GAMMA].outbound) == {ALPHA, BETA}
        await world.settle()

    run_virtual(main())


def test_expelled_host_gets_no_handshake_in_either_direction() -> None:
    async def main() -> None:
        world = World()
        world.registries[ALPHA].take(memory_expelled(world.registries[ALPHA].enrolled(BETA)))
        with pytest.raises(NotTrusted, match="expelled"):
            await world.initiate(ALPHA, BETA)
        with pytest.raises(Refused, match="expelled"):
            await world.initiate(BETA, ALPHA)
        await world.settle()

    run_virtual(main())


@pytest.mark.parametrize("expeller", [ALPHA, BETA])
def test_host_expelled_in_the_middle_gets_nothing(expeller: str) -> None:
    async def main() -> None:
        world = World()
        attempt = asyncio.create_task(world.initiate())
        await world.clock.sleep(0.035)
        registry = world.registries[ALPHA if expeller == ALPHA else BETA]
        registry.take(memory_expelled(registry.enrolled(BETA if expeller == ALPHA else ALPHA)))
        with pytest.raises((NotTrusted, Refused), match="expelled"):
            await attempt
        assert all(host.nothing_installed for host in world.hosts.values())
        await world.settle()

    run_virtual(main())


def test_hint_arrives_and_a_flood_of_them_does_not() -> None:
    async def main() -> None:
        world = World(ALPHA, BETA, GAMMA)
        for _ in range(5):
            await world.handshakers[ALPHA].hint(entry(BETA), GAMMA)
        assert world.hints == [(BETA, ALPHA, GAMMA)]
        await world.clock.sleep(2)
        await world.handshakers[ALPHA].hint(entry(BETA), GAMMA)
        assert len(world.hints) == 2
        with pytest.raises(Refused, match="not enrolled"):
            await world.handshakers[ALPHA].hint(entry(BETA), TypeName("delta"))  # type: ignore[arg-type]

    run_virtual(main())


def test_close_gives_up_waiting_sessions() -> None:
    async def main() -> None:
        world = World()
        attempt = asyncio.create_task(world.initiate())
        await world.clock.sleep(0.015)
        await world.handshakers[BETA].close()
        assert world.hosts[BETA].open_terms == []
        with pytest.raises(Busy):
            await attempt

    run_virtual(main())
