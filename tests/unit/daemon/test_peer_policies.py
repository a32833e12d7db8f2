"""What a peer says it enforces, what that stands for, and what the two hosts may therefore share."""

from collections.abc import Callable

import pytest

from shamon_host.daemon import peer_policies
from shamon_host.daemon.peer_policies import PeerPolicies
from shamon_host.daemon.policy_versions import MAX_HISTORY, PolicyRecord
from shamon_host.domain.errors import NotTrusted, Refused
from shamon_host.domain.labels import HostName, TypeName
from shamon_host.domain.policy import Policy, PolicyVersion
from shamon_host.peer.errors import Busy
from shamon_host.peer.ports import Terms
from tests.unit.daemon.signed_world import envelope, signed_policy
from tests.unit.daemon.versions_world import VersionsWorld, successor

BETA, GAMMA, STRANGER = HostName("beta"), HostName("gamma"), HostName("stranger")
RED, BLUE, BLACK, GREEN = map(TypeName, ("acme/red", "rival/blue", "audit/black", "acme/green"))
FIRST = signed_policy()
SECOND = signed_policy(
    after=FIRST,
    also='[types."acme/green"]\n[labels.both]\ntypes = ["acme/green", "rival/blue"]\n',
)
"""With a type that flows to and from blue."""
FOREIGN = signed_policy(
    ("version = 1", 'version = 7\nparent = "' + "a" * 64 + '"'),
    also='[types."rival/own"]\n[labels.both]\ntypes = ["rival/blue", "rival/own"]\n',
)
"""Of a host on a way of its own, where blue flows to another type."""


def terms(which: Policy | PolicyVersion) -> Terms:
    return Terms(
        coalition=which.coalition,
        policy_version=which.version,
        policy_digest=which.digest,
        peer_policy_digest="",
        shared=None,
        certificate_sha256=b"",
        ak_name=b"",
        offers=(),
        ima_offset=0,
        ima_reset_count=0,
    )


def record(policy: Policy, *signers: str) -> PolicyRecord:
    return PolicyRecord(policy=policy, envelope=envelope(policy, *signers))


class World(VersionsWorld):
    """One host that enforces FIRST, and what it asked its peers for."""

    def __init__(self, first: Policy = FIRST) -> None:
        super().__init__()
        self.enforced = self.runs(first)
        self.wanted: list[tuple[HostName, PolicyVersion]] = []
        self.policies = self.restarted()

    def restarted(self) -> PeerPolicies:
        return PeerPolicies(
            enforced=self.enforced,
            store=self.store,
            audit=self.audit,
            wanted=lambda peer, which: self.wanted.append((peer, which)),
        )

    def updates_to(self, policy: Policy) -> None:
        self.enforced.change(record(policy))

    def learns(self, peer: HostName, policy: Policy, *signers: str) -> None:
        with pytest.raises(Busy):
            self.policies.meet(peer, terms(policy))
        self.policies.learn(peer, policy.which, record(policy, *signers))


@pytest.fixture
def world() -> World:
    return World()


# Meeting


def test_who_has_not_said_yet_is_taken_to_enforce_the_same(world: World) -> None:
    assert world.policies.of(BETA) == FIRST
    assert world.policies.same(BETA)
    assert world.policies.says(BETA) is None
    assert not world.policies.has_met(BETA, FIRST.digest)
    assert world.policies.shared(BETA).types == FIRST.types


def test_a_peer_with_the_same_policy(world: World) -> None:
    world.policies.meet(BETA, terms(FIRST))
    assert world.policies.has_met(BETA, FIRST.digest)
    assert not world.policies.has_met(BETA, FOREIGN.digest)
    assert world.policies.says(BETA) == FIRST.which
    assert world.policies.shared(BETA).names == {name: name for name in FIRST.types}
    assert not world.wanted


def test_what_is_not_known_is_asked_for(world: World) -> None:
    for _ in range(2):
        with pytest.raises(Busy, match="version 7 of the policy is new") as caught:
            world.policies.meet(BETA, terms(FOREIGN))
        assert caught.value.where == BETA
    assert world.wanted == [(BETA, FOREIGN.which)] * 2
    assert world.policies.says(BETA) is None
    assert world.policies.of(BETA) == FIRST


@pytest.mark.parametrize("lie", [{"version": 2}, {"coalition": "another"}])
def test_a_known_digest_under_another_name_is_a_lie(world: World, lie: dict[str, object]) -> None:
    which = PolicyVersion(**({"coalition": "lab", "version": 1, "digest": FIRST.digest} | lie))  # type: ignore[arg-type]
    with pytest.raises(NotTrusted, match="names its policy wrongly"):
        world.policies.meet(BETA, terms(which))
    assert world.policies.says(BETA) is None


def test_a_host_that_the_policy_does_not_have_has_nothing_looked_up(world: World) -> None:
    """It may still be enrolled, and what it names would be asked of an address that is not there."""
    for policy in (FIRST, FOREIGN):
        with pytest.raises(Refused, match="knows no such host"):
            world.policies.meet(STRANGER, terms(policy))
    assert not world.wanted
    assert world.store.items("peer-policy") == ()


def test_what_could_not_be_learnt_is_told_once_and_then_tried_again(world: World) -> None:
    with pytest.raises(Busy):
        world.policies.meet(BETA, terms(FOREIGN))
    world.policies.not_learnt(BETA, FOREIGN.which, "it has no envelope")
    with pytest.raises(Refused, match="it has no envelope"):
        world.policies.meet(BETA, terms(FOREIGN))
    with pytest.raises(Busy):
        world.policies.meet(BETA, terms(FOREIGN))
    world.policies.not_learnt(BETA, FOREIGN.which, "it has no envelope")
    with pytest.raises(Busy):  # another digest, another try
        world.policies.meet(BETA, terms(SECOND))
    world.policies.meet(BETA, terms(FIRST))


# Learning


def test_what_both_permit_is_shared(world: World) -> None:
    world.learns(BETA, FOREIGN)
    world.policies.meet(BETA, terms(FOREIGN))
    shared = world.policies.shared(BETA)
    assert shared.types == {RED, BLACK}
    assert "rival/own" in shared.why_not(BLUE)
    assert shared.why_not(RED) == ""
    assert (shared.own_name(RED), shared.own_name(BLUE)) == (RED, None)
    assert world.policies.of(BETA) == FOREIGN
    assert not world.policies.same(BETA)
    assert not world.policies.has_met(BETA, FOREIGN.digest)
    assert world.policies.shared(GAMMA).types == FIRST.types


@pytest.mark.parametrize("which", [FIRST.which, PolicyVersion(coalition="lab", version=8, digest=FOREIGN.digest)])
def test_another_policy_than_the_named_one_is_not_taken(world: World, which: PolicyVersion) -> None:
    with pytest.raises(NotTrusted, match="another policy than it names"):
        world.policies.learn(BETA, which, record(FOREIGN))
    assert world.policies.says(BETA) is None


def test_nothing_is_shared_on_the_word_of_nobody(world: World) -> None:
    world.learns(BETA, FOREIGN, "o1")
    with pytest.raises(Refused, match="they may share nothing") as caught:
        world.policies.meet(BETA, terms(FOREIGN))
    assert f"{RED}: nobody who is responsible for it signed the peer's policy" in caught.value.found
    assert not world.policies.shared(BETA).names


def test_one_peer_s_envelope_does_not_stand_for_another_s(world: World) -> None:
    """gamma takes signatures out of the envelope around beta's policy, and is here first."""
    world.learns(GAMMA, FOREIGN, "o1")
    world.learns(BETA, FOREIGN)
    world.policies.meet(BETA, terms(FOREIGN))
    assert world.policies.shared(BETA).types == {RED, BLACK}
    assert not world.policies.shared(GAMMA).names
    with pytest.raises(Refused):
        world.policies.meet(GAMMA, terms(FOREIGN))


def test_an_envelope_that_makes_no_sense_gives_nothing(world: World) -> None:
    with pytest.raises(Busy):
        world.policies.meet(BETA, terms(FOREIGN))
    world.policies.learn(BETA, FOREIGN.which, PolicyRecord(policy=FOREIGN, envelope=b"{}"))
    assert not world.policies.shared(BETA).names


def test_of_each_peer_one_policy_is_kept(world: World) -> None:
    """Naming one after another fills no memory."""
    policy = FOREIGN
    for _ in range(20):
        policy = successor(policy)
        world.learns(BETA, policy)
    assert len(world.policies._known) == 1
    assert len(world.policies._shared) <= 4
    world.policies.meet(BETA, terms(FIRST))
    assert not world.policies._known
    with pytest.raises(Busy):
        world.policies.meet(BETA, terms(policy))


# Versions of this host's own way


def test_a_peer_that_is_behind_is_known_by_what_this_host_enforced_before(world: World) -> None:
    world.policies.meet(BETA, terms(FIRST))
    world.updates_to(SECOND)
    assert not world.policies.same(BETA)
    assert world.policies.of(BETA) == FIRST
    world.policies.meet(BETA, terms(FIRST))
    assert world.policies.shared(BETA).types == {RED, BLACK}
    assert "acme/green" in world.policies.shared(BETA).why_not(BLUE)
    assert not world.wanted
    world.policies.meet(BETA, terms(SECOND))
    assert world.policies.shared(BETA).types == SECOND.types


def test_versions_before_the_kept_ones_are_new_again(world: World) -> None:
    policy = SECOND
    for _ in range(MAX_HISTORY + 1):
        world.updates_to(policy)
        policy = successor(policy)
    assert world.versions.enforced(FIRST.digest) is None
    with pytest.raises(Busy):
        world.policies.meet(BETA, terms(FIRST))


def test_the_highest_version_that_a_peer_was_admitted_with_is_written_down(world: World) -> None:
    assert world.policies.newest_seen(BETA) == 0
    world.learns(BETA, FOREIGN)
    assert world.policies.newest_seen(BETA) == 0
    world.policies.admitted(BETA)
    assert world.policies.newest_seen(BETA) == 7
    world.policies.meet(BETA, terms(FIRST))
    world.policies.admitted(BETA)
    assert world.policies.newest_seen(BETA) == 7
    assert world.policies.newest_seen(GAMMA) == 0
    world.policies.admitted(GAMMA)
    assert world.policies.newest_seen(GAMMA) == 1


# Restarts


@pytest.mark.parametrize(
    "prepare", [lambda world: world.learns(BETA, FOREIGN), lambda world: world.policies.meet(BETA, terms(FIRST))]
)
def test_a_restart_forgets_nothing(world: World, prepare: Callable[[World], None]) -> None:
    prepare(world)
    world.policies.admitted(BETA)
    after = world.restarted()
    assert after.says(BETA) == world.policies.says(BETA)
    assert after.of(BETA) == world.policies.of(BETA)
    assert after.shared(BETA) == world.policies.shared(BETA)
    assert after.newest_seen(BETA) == world.policies.newest_seen(BETA) > 0
    after.meet(BETA, terms(world.policies.of(BETA)))
    assert len(world.wanted) <= 1


def test_a_restart_under_another_version(world: World) -> None:
    world.policies.meet(BETA, terms(FIRST))
    world.updates_to(SECOND)
    after = world.restarted()
    assert after.of(BETA) == FIRST
    assert after.shared(BETA).types == {RED, BLACK}
    assert after.shared(GAMMA).types == SECOND.types
    assert after.shared(GAMMA).why_not(TypeName("no/such")) == "no/such is unknown"


def test_a_policy_that_nobody_signed_is_not_even_compared(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A comparison of large ones takes long, and anybody can make one up."""

    def compared(*_: object) -> None:
        raise AssertionError("compared")

    world.learns(BETA, FOREIGN, "o1")
    monkeypatch.setattr(peer_policies, "compatibility", compared)
    assert not world.policies.shared(BETA).names
    assert "nobody who is responsible" in world.policies.shared(BETA).why_not(BLUE)
