"""Two hosts under different policies: what both permit is carried, what one denies is not, and the words say why."""

from typing import Any

import pytest

from shamon_host.daemon.api import Api
from shamon_host.daemon.policy_versions import PolicyRecord
from shamon_host.domain.errors import NotTrusted
from shamon_host.domain.labels import HostName, TypeName
from shamon_host.peer.policy_commit import Statement, combined, signed_vote
from shamon_host.peer.signed_record import public_text
from shamon_host.peer.wire import POLICY_COMMIT
from shamon_host.testing.memory_ca import memory_key
from tests.unit.daemon.daemon_world import DaemonWorld, changed_policy, daemon, play, state
from tests.unit.daemon.signed_world import KEYS, SignedWorld, envelope, play_signed, signed_policy

RED, BLUE = TypeName("acme/red"), TypeName("rival/blue")
BETA = HostName("beta")
OWN = signed_policy(
    ("version = 1", 'version = 7\nparent = "' + "a" * 64 + '"'),
    also='[types."rival/own"]\n[labels.both]\ntypes = ["rival/blue", "rival/own"]\n',
)
"""beta's own: one of its labels lets blue flow to a type that alpha's policy does not know."""
OTHER_SIGNERS = signed_policy(
    ("version = 1", 'version = 7\nparent = "' + "a" * 64 + '"'),
    ('threshold = 2\nkeys = ["o1", "o2", "o3"]', 'threshold = 1\nkeys = ["x1"]'),
    also=f'[keys.x1]\npublic = "{public_text(KEYS["x1"])}"\n',
)


async def start_all(world: SignedWorld) -> None:
    await world.boot("alpha", "beta")
    for host, vm in (("alpha", "web"), ("beta", "db"), ("alpha", "shop"), ("beta", "spy")):
        await world.start(host, vm)


def test_the_type_that_both_permit_flows_and_the_other_does_not() -> None:
    async def test(world: SignedWorld) -> None:
        await start_all(world)
        assert daemon(world.beta).policy.digest == OWN.digest
        await world.until(world.web_reaches_db, within_s=60, what="web reaches db")
        await world.wait(3 * world.timing.lease_s)
        await world.admitted("alpha", "beta")
        assert await world.web_reaches_db()
        for host, peer in ((world.alpha, "beta"), (world.beta, "alpha")):
            assert {link["type"] for link in (await host.ask("links")).value} == {RED}
            row = next(row for row in (await host.ask("peers")).value if row["host"] == peer)
            assert row["shared"] == [RED, "audit/black"] or row["shared"] == ["acme/red", "audit/black"]
            assert "rival/own" in row["withheld"][BLUE]
        assert not await world.alpha.guest("shop").reaches(world.vm_addresses["spy"][0])
        carried: dict[str, Any] = {}
        for one, other in (("web", "db"), ("shop", "spy")):
            answer = await Api(daemon=daemon(world.alpha)).handle(
                "GET", "/v1/policy/explain", {"one": one, "other": other}
            )
            carried |= {row["object"]: row for row in answer.body if row["check"] == "carry"}
        assert carried["beta acme/red"]["permitted"]
        assert not carried["beta rival/blue"]["permitted"]
        assert (
            "own does not permit the flow rival/blue -(both@peer)-> rival/own" in carried["beta rival/blue"]["reason"]
        )

    play_signed(test, own={"beta": OWN})


def test_whoever_is_not_responsible_has_no_say() -> None:
    """beta's policy is signed by nobody whom alpha knows."""

    async def test(world: SignedWorld) -> None:
        world.enrolment.envelopes[BETA] = envelope(OTHER_SIGNERS, "x1")
        await world.hosts["alpha"].boot()
        await world.hosts["beta"].boot()
        await world.wait(60)
        assert state(world.alpha, "beta") != "admitted"
        assert "they may share nothing" in daemon(world.alpha).schedule.unreachable[BETA]
        assert (await world.alpha.objects("beta")).nothing

    play_signed(test, own={"beta": OTHER_SIGNERS})


def test_a_peer_that_goes_back_behind_a_version_is_refused() -> None:
    older = signed_policy(("version = 1", 'version = 6\nparent = "' + "b" * 64 + '"'))

    async def test(world: SignedWorld) -> None:
        await world.boot("alpha", "beta")
        assert daemon(world.alpha).policies.newest_seen(BETA) == 7
        await world.beta.stop_daemon()
        world.enrolment.policies[BETA], world.enrolment.envelopes[BETA] = older, envelope(older)
        world.beta.forget_everything()
        await world.beta.start_daemon()
        await world.wait(60)
        assert state(world.alpha, "beta") != "admitted"
        assert "has enforced version 7" in daemon(world.alpha).schedule.unreachable[BETA]

    play_signed(test, own={"beta": OWN})


def test_unsigned_policies_that_differ_share_nothing_and_do_not_fill_the_log() -> None:
    other = changed_policy(('on_failure = "keep"', 'on_failure = "suspend"'))

    async def test(world: DaemonWorld) -> None:
        world.enrolment.policies[BETA] = other
        await world.hosts["alpha"].boot()
        await world.hosts["beta"].boot()
        await world.wait(200)
        assert state(world.alpha, "beta") != "admitted"
        assert "the hosts run different policies" in daemon(world.alpha).schedule.unreachable[BETA]
        assert len(list(daemon(world.alpha).audit.records(limit=1000))) < 40

    play(test)


def test_a_bad_host_cannot_agree_with_itself() -> None:
    """It leaves out everybody else, and brings a record that it alone has signed."""
    following = signed_policy(after=signed_policy(), also='[types."acme/green"]\n')

    async def test(world: SignedWorld) -> None:
        await world.boot("alpha", "beta", "gamma")
        everybody = [HostName("alpha"), HostName("gamma")]
        with pytest.raises(NotTrusted, match="too few hosts"):
            await daemon(world.beta).changes.update(envelope(following), without=everybody)
        statement = Statement(
            coalition="lab",
            update=bytes(16),
            before=world.first.digest,
            after=following.digest,
            version=2,
            coordinator=BETA,
            participants=(BETA,),
            without=tuple(everybody),
        )
        record = combined(statement, [signed_vote(statement, memory_key(BETA))])
        kept = PolicyRecord(policy=following, envelope=envelope(following)).to_document()
        daemon(world.beta).store.put("policy-history", following.digest, {**kept, "version": 2})
        with pytest.raises(NotTrusted, match="too few hosts"):
            await daemon(world.alpha).changes.handle_policy(BETA, POLICY_COMMIT, record)
        assert world.versions() == dict.fromkeys(world.hosts, 1)

    play_signed(test)
