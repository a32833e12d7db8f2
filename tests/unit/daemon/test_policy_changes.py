"""Updates of a signed policy over three hosts: agreed or not, interrupted anywhere, caught up with."""

import asyncio

import pytest

from shamon_host.daemon.policy_versions import PolicyRecord
from shamon_host.domain.errors import NotTrusted, Refused
from shamon_host.domain.labels import HostName, TypeName, VmName
from shamon_host.domain.policy import Policy
from shamon_host.peer.policy_commit import Statement, combined, signed_vote
from shamon_host.peer.wire import POLICY_COMMIT, POLICY_FETCH, POLICY_PATHS, POLICY_PREPARE
from shamon_host.testing.memory_ca import memory_key
from shamon_host.testing.network import Deliver, Request
from tests.unit.daemon.daemon_world import daemon, records
from tests.unit.daemon.signed_world import SignedWorld, envelope, play_signed, signed_policy

GAMMA = HostName("gamma")
FIRST = signed_policy()
GREEN = signed_policy(
    (
        'types = ["acme/red", "rival/blue"]\n\n[images.app]',
        'types = ["acme/red", "rival/blue", "acme/green"]\n\n[images.app]',
    ),
    after=FIRST,
    also='[types."acme/green"]\n[labels.green]\ntypes = ["acme/green"]\n',
)
"""A new type, that gamma may carry."""
MOVED = signed_policy(
    ('label = "red"\nimage = "app"\nhost = "beta"', 'label = "red"\nimage = "app"\nhost = "gamma"'), after=FIRST
)
"""db belongs to gamma."""
RENAMED = signed_policy(
    ("acme/red", "acme/crimson"), after=FIRST, also='[renames]\ntypes = {"acme/red" = "acme/crimson"}\n'
)
NO_RED = signed_policy(
    (
        '[hosts.beta]\naddress = "192.0.2.2"\ntypes = ["acme/red", "rival/blue"]',
        '[hosts.beta]\naddress = "192.0.2.2"\ntypes = ["acme/red"]',
    ),
    (
        '[vms.spy]\nlabel = "blue"\nimage = "app"\nhost = "beta"',
        '[vms.spy]\nlabel = "blue"\nimage = "app"\nhost = "gamma"',
    ),
    after=FIRST,
)
"""beta no longer carries blue."""
PATIENT = signed_policy(("timeout_s = 5.0", "timeout_s = 6.0"), after=FIRST)


async def all_up(world: SignedWorld) -> None:
    await world.boot("gamma")
    await world.pair_with_link()
    await world.admitted("alpha", "beta", "gamma")


def test_an_update_that_all_agree_to_is_in_force_everywhere_and_nothing_stops() -> None:
    async def test(world: SignedWorld) -> None:
        await all_up(world)
        before = (await world.alpha.objects("beta")).devices
        counted = world.alpha.machine.tpm.counter()
        outcome = await daemon(world.alpha).changes.update(envelope(GREEN))
        assert outcome.version == GREEN.which
        assert outcome.confirmed == ("beta", "gamma")
        assert not outcome.unconfirmed
        assert world.versions() == {"alpha": 2, "beta": 2, "gamma": 2}
        assert await world.web_reaches_db()
        assert (await world.alpha.objects("beta")).devices == before
        await world.wait(2 * world.timing.lease_s)
        assert await world.web_reaches_db()
        await world.admitted("alpha", "beta", "gamma")
        assert world.alpha.machine.tpm.counter() == (counted or 0) + 1
        for host in world.hosts.values():
            assert records(host, "policy.update")[-1]["permitted"]
            assert daemon(host).own.enforced.successor is None
        assert TypeName("acme/green") in daemon(world.gamma).own.enforced.label_map.types

    play_signed(test, first=FIRST)


def test_handshakes_take_as_long_as_the_version_in_force_says() -> None:
    async def test(world: SignedWorld) -> None:
        await all_up(world)
        party = daemon(world.alpha).handshaker.party
        assert party.timeout_s == 5.0
        await daemon(world.alpha).changes.update(envelope(PATIENT))
        assert party.timeout_s == 6.0
        assert daemon(world.beta).handshaker.party.timeout_s == 6.0

    play_signed(test, first=FIRST)


def test_what_runs_on_one_host_stops_an_update_everywhere() -> None:
    async def test(world: SignedWorld) -> None:
        await all_up(world)
        with pytest.raises(Refused) as caught:
            await daemon(world.alpha).changes.update(envelope(MOVED))
        assert "beta: db: the policy gives db to gamma, not to beta (assignment)" in str(caught.value)
        assert "nothing was changed" in str(caught.value)
        await world.wait(1)
        assert world.versions() == {"alpha": 1, "beta": 1, "gamma": 1}
        for host in world.hosts.values():
            assert daemon(host).own.enforced.successor is None
            assert daemon(host).changes.versions.prepared() is None
        # db is stopped, as the words say, and now it may pass
        assert (await world.beta.ask("vm", "stop", "db")).exit_code == 0
        await daemon(world.alpha).changes.update(envelope(MOVED))
        assert world.versions() == {"alpha": 2, "beta": 2, "gamma": 2}
        await world.start("gamma", "db")
        await world.until(world.web_reaches_db, within_s=60, what="web reaches db on gamma")

    play_signed(test, first=FIRST)


@pytest.mark.parametrize("signers", [("o1",), ("o1", "o1")])
def test_without_the_signatures_nobody_even_asks(signers: tuple[str, ...]) -> None:
    async def test(world: SignedWorld) -> None:
        await all_up(world)
        calls = world.count_calls(POLICY_PREPARE)
        with pytest.raises(NotTrusted, match=r"1 of 2, signed by o1, not signed by o2, o3"):
            await daemon(world.alpha).changes.update(envelope(GREEN, *signers))
        assert not calls
        assert world.versions() == {"alpha": 1, "beta": 1, "gamma": 1}

    play_signed(test, first=FIRST)


def test_a_host_that_does_not_answer_stops_it_and_few_hosts_do_not_decide() -> None:
    async def test(world: SignedWorld) -> None:
        await all_up(world)
        await world.gamma.kill_daemon()
        with pytest.raises(Refused, match="gamma: it did not answer"):
            await daemon(world.alpha).changes.update(envelope(GREEN))
        with pytest.raises(NotTrusted, match="expected 3 of the 3 that are enrolled"):
            await daemon(world.alpha).changes.update(envelope(GREEN), without=[GAMMA])
        assert world.versions() == {"alpha": 1, "beta": 1}

    play_signed(test, first=FIRST)


def test_a_host_that_misses_the_record_catches_up_with_it_later() -> None:
    async def test(world: SignedWorld) -> None:
        await all_up(world)
        await _without_the_record(world, "gamma", GREEN)
        await world.gamma.boot()
        await world.until(lambda: _is_on(world, "gamma", 2), within_s=60, what="gamma has the new version")
        await world.admitted("alpha", "beta", "gamma")
        assert records(world.gamma, "policy.update")[-1]["permitted"]
        # and again after a restart, though the file that it was set up with is the old one
        await world.gamma.boot()
        assert world.versions()["gamma"] == 2
        assert records(world.gamma, "policy.file-not-used")

    play_signed(test, first=FIRST)


async def _without_the_record(world: SignedWorld, name: str, policy: Policy) -> None:
    """Everybody agrees; the host's daemon dies before the record comes."""
    host = world.hosts[name]

    async def tap(request: Request, deliver: Deliver) -> bytes:
        if request.path == POLICY_COMMIT and request.to == name and host.daemon is not None:
            await host.kill_daemon()
        return await deliver(request)

    world.network.tap = tap
    outcome = await daemon(world.alpha).changes.update(envelope(policy))
    world.network.tap = None
    assert list(outcome.unconfirmed) == [name]


def test_a_version_that_expired_on_the_way_does_not_hold_a_host_back() -> None:
    soon = signed_policy(("version = 2", "version = 2\nexpires = 1970-01-01T00:00:01Z"), after=FIRST)
    third = signed_policy(('on_failure = "keep"', 'on_failure = "suspend"'), after=soon)

    def record(policy: Policy, before: Policy) -> PolicyRecord:
        statement = Statement(
            coalition="lab",
            update=bytes(16),
            before=before.digest,
            after=policy.digest,
            version=policy.version,
            coordinator=HostName("alpha"),
            participants=tuple(sorted(before.hosts)),
        )
        votes = [signed_vote(statement, memory_key(host)) for host in before.hosts]
        return PolicyRecord(policy=policy, envelope=envelope(policy), commit=combined(statement, votes))

    async def test(world: SignedWorld) -> None:
        await all_up(world)
        changes = daemon(world.gamma).changes
        with pytest.raises(Refused, match="expired"):
            await changes._catch_up([record(soon, FIRST)])
        await changes._catch_up([record(soon, FIRST), record(third, soon)])
        assert world.versions()["gamma"] == 3

    play_signed(test, first=FIRST)


def test_a_rename_reaches_what_runs() -> None:
    async def test(world: SignedWorld) -> None:
        await all_up(world)
        contexts = {
            report.name: report.context for host in world.hosts.values() for report in host.hypervisor.domains()
        }
        outcome = await daemon(world.beta).changes.update(envelope(RENAMED))
        assert not outcome.unconfirmed
        await world.until(world.web_reaches_db, within_s=30, what="web reaches db under the new name")
        found = {report.name: report.context for host in world.hosts.values() for report in host.hypervisor.domains()}
        assert found == contexts
        links = (await world.alpha.ask("links")).value
        assert {link["type"] for link in links} == {"acme/crimson"}
        await world.wait(2 * world.timing.lease_s)
        assert await world.web_reaches_db()
        await world.admitted("alpha", "beta", "gamma")

    play_signed(test, first=FIRST)


def test_a_type_that_a_host_loses_takes_its_link_with_it() -> None:
    async def test(world: SignedWorld) -> None:
        await all_up(world)
        await world.start("alpha", "shop")
        await daemon(world.alpha).changes.update(envelope(NO_RED))
        await world.wait(5)
        links = (await world.alpha.ask("links")).value
        assert {(link["peer"], link["type"]) for link in links} == {("beta", "acme/red")}
        assert await world.web_reaches_db()

    play_signed(test, first=FIRST)


@pytest.mark.parametrize("dies_after", range(5))
@pytest.mark.parametrize("then", ["restarts", "boots"])
def test_whenever_the_coordinator_dies_every_host_is_on_one_version(dies_after: int, then: str) -> None:
    """`dies_after` messages of its update have been answered, or are on their way back."""

    async def test(world: SignedWorld) -> None:
        await all_up(world)
        seen = 0

        async def tap(request: Request, deliver: Deliver) -> bytes:
            nonlocal seen
            if request.path not in POLICY_PATHS or request.caller.host != "alpha":
                return await deliver(request)
            if seen == dies_after and world.alpha.daemon is not None:
                await world.alpha.kill_daemon()
            seen += 1
            answer = await deliver(request)
            if seen == dies_after + 1 and world.alpha.daemon is not None:
                await world.alpha.kill_daemon()
            return answer

        world.network.tap = tap
        updating = world.alpha_update(envelope(GREEN))
        await world.wait(20)
        world.network.tap = None
        for version in world.versions().values():
            assert version in (1, 2)
        updating.cancel()
        if world.alpha.daemon is None:
            await (world.alpha.start_daemon() if then == "restarts" else world.alpha.boot())
        await world.admitted("alpha", "beta", "gamma")
        await world.wait(3 * world.timing.lease_s)
        assert len(set(world.versions().values())) == 1, world.versions()
        for host in world.hosts.values():
            assert daemon(host).own.enforced.successor is None
            stored = daemon(host).changes.versions.current()
            assert stored is not None
            assert stored.policy.version == world.versions()[host.name]
        await world.until(world.web_reaches_db, within_s=60, what="web reaches db")

    play_signed(test, first=FIRST)


@pytest.mark.parametrize("victim", ["beta", "gamma"])
@pytest.mark.parametrize("path", [POLICY_PREPARE, POLICY_COMMIT])
@pytest.mark.parametrize("answered", [False, True])
def test_whenever_another_host_dies_it_comes_back_to_one_version(victim: str, path: str, answered: bool) -> None:
    async def test(world: SignedWorld) -> None:
        await all_up(world)
        host = world.hosts[victim]

        async def tap(request: Request, deliver: Deliver) -> bytes:
            if request.path == path and request.to == victim and host.daemon is not None:
                if answered:
                    await deliver(request)
                await host.kill_daemon()
            return await deliver(request)

        world.network.tap = tap
        updating = world.alpha_update(envelope(GREEN))
        await world.wait(20)
        world.network.tap = None
        assert updating.done()
        await host.boot()
        await world.admitted("alpha", "beta", "gamma")
        await world.wait(10)
        expected = 1 if path == POLICY_PREPARE else 2
        assert world.versions() == dict.fromkeys(world.hosts, expected)

    play_signed(test, first=FIRST)


def test_a_host_that_agreed_keeps_within_both_versions_and_lets_go_in_time() -> None:
    blue_against_red = signed_policy(after=FIRST, also='[conflicts.rivals]\ntypes = ["acme/red", "rival/blue"]\n')

    async def test(world: SignedWorld) -> None:
        await all_up(world)

        async def tap(request: Request, deliver: Deliver) -> bytes:
            if request.path in (POLICY_COMMIT, POLICY_FETCH):
                await world.wait(1000)
            return await deliver(request)

        world.network.tap = tap
        updating = world.alpha_update(envelope(blue_against_red))
        await world.wait(1)
        assert world.versions() == {"alpha": 2, "beta": 1, "gamma": 1}
        refused = await world.beta.ask("vm", "start", "spy")
        assert refused.exit_code == 1
        assert "chinese-wall" in str(refused.value)
        updating.cancel()
        world.network.tap = None
        await world.until(lambda: _is_on(world, "beta", 2), within_s=60, what="beta catches up by a handshake")

    play_signed(test, first=FIRST)


async def _is_on(world: SignedWorld, host: str, version: int) -> bool:
    return world.versions()[host] == version


def test_a_state_that_was_put_back_is_found_out() -> None:
    async def test(world: SignedWorld) -> None:
        await all_up(world)
        await world.alpha.stop_daemon()
        world.alpha.machine.tpm.increment_counter()  # as the version had that the disk has no more
        with pytest.raises(NotTrusted, match="not the one that it left"):
            await world.alpha.start_daemon()

    play_signed(test, first=FIRST)


def test_an_unsigned_policy_is_changed_by_hand_alone() -> None:
    from tests.unit.daemon.daemon_world import DaemonWorld, changed_policy, play

    successor = changed_policy(("version = 1", f'version = 2\nparent = "{changed_policy().digest}"'))

    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha", "beta")
        with pytest.raises(Refused, match="unsigned"):
            await daemon(world.alpha).changes.update(envelope(successor))

    play(test)


def test_a_vm_that_was_started_after_the_hold_and_is_forbidden_by_a_late_record_is_stopped() -> None:
    async def test(world: SignedWorld) -> None:
        await all_up(world)
        assert (await world.beta.ask("vm", "stop", "db")).exit_code == 0

        async def tap(request: Request, deliver: Deliver) -> bytes:
            if request.path in (POLICY_COMMIT, POLICY_FETCH) and "beta" in (request.to, request.caller.host):
                await world.wait(1000)
            return await deliver(request)

        world.network.tap = tap
        updating = world.alpha_update(envelope(MOVED))
        await world.wait(1)
        assert (await world.beta.ask("vm", "start", "db")).exit_code == 1
        await world.wait(3 * world.timing.timeout_s)
        await world.start("beta", "db")  # it has not heard, and lets go
        world.network.tap = None
        updating.cancel()
        await world.until(lambda: _is_on(world, "beta", 2), within_s=100, what="beta has the new version")
        assert VmName("db") not in daemon(world.beta).own.vms.states.running()
        assert records(world.beta, "vm.forbidden", "db")

    play_signed(test, first=FIRST)


def test_a_host_that_a_version_removes_is_dropped_and_nobody_dies_of_it() -> None:
    """While it holds up handshakes, too; and it takes no version without itself."""
    without = signed_policy(
        ('[hosts.gamma]\naddress = "192.0.2.3"\ntypes = ["acme/red", "rival/blue"]\n', ""), after=FIRST
    )

    async def test(world: SignedWorld) -> None:
        await all_up(world)

        async def slow(request: Request, deliver: Deliver) -> bytes:
            if "gamma" in (request.caller.host, request.to):
                await world.wait(2)
            return await deliver(request)

        world.network.tap = slow
        daemon(world.alpha).schedule.wake_all()
        daemon(world.beta).schedule.wake_all()
        await world.wait(1)
        outcome = await daemon(world.alpha).changes.update(envelope(without))
        assert outcome.confirmed == ("beta",)
        await world.wait(2 * world.timing.lease_s)
        assert world.versions() == {"alpha": 2, "beta": 2, "gamma": 1}
        assert GAMMA not in daemon(world.alpha).admissions.peers
        assert await world.web_reaches_db()
        record = daemon(world.alpha).own.enforced.record.commit
        with pytest.raises(Refused, match="has this host no more"):
            await daemon(world.gamma).changes.handle_policy(HostName("alpha"), POLICY_COMMIT, record)
        await world.gamma.boot()
        assert world.versions()["gamma"] == 1

    play_signed(test, first=FIRST)


def test_of_two_coordinators_at_once_neither_waits_for_the_other() -> None:
    async def test(world: SignedWorld) -> None:
        await all_up(world)
        started = asyncio.get_running_loop().time()
        outcomes = await asyncio.gather(
            daemon(world.alpha).changes.update(envelope(GREEN)),
            daemon(world.beta).changes.update(envelope(RENAMED)),
            return_exceptions=True,
        )
        assert asyncio.get_running_loop().time() - started < world.timing.timeout_s
        assert any("is under way" in str(outcome) for outcome in outcomes)
        await world.wait(2)
        assert len(set(world.versions().values())) == 1
        assert len({daemon(host).policy.digest for host in world.hosts.values()}) == 1

    play_signed(test, first=FIRST)
