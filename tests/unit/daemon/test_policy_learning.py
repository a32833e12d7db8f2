"""Whatever a peer sends for the policy that it named: this host takes it up, keeps it or says why not, and lives."""

import asyncio
from collections.abc import Sequence

import pytest

from shamon_host.attestation.attester import directly
from shamon_host.daemon.background import Background
from shamon_host.daemon.policy_learning import MAX_BEHIND, PolicyLearning
from shamon_host.daemon.policy_versions import PolicyRecord
from shamon_host.domain.errors import ShamonError, Unreachable
from shamon_host.domain.labels import HostName
from shamon_host.domain.policy import HostEntry, Policy
from shamon_host.peer.policy_messages import Fetch, Fetched
from tests.unit.daemon.signed_world import envelope, signed_policy
from tests.unit.daemon.test_peer_policies import BETA, FIRST, FOREIGN, SECOND, STRANGER, World
from tests.unit.daemon.versions_world import successor

THIRD = successor(SECOND)


class Learner:
    """alpha under FIRST, and a peer that has these answers, by digest."""

    def __init__(self, answers: dict[str, bytes | ShamonError]) -> None:
        self.world, self.answers = World(), answers
        self.caught_up: list[int] = []
        self.woken: list[HostName] = []
        self.asked: list[str] = []
        self.background = Background()
        self.learning = PolicyLearning(
            enforced=self.world.enforced,
            policies=self.world.policies,
            audit=self.world.audit,
            blocking=directly,
            transport=self,
            background=self.background,
            catch_up=self._catch_up,
            wake=self.woken.append,
        )

    async def call(self, host: HostEntry, path: str, body: bytes, *, timeout_s: float) -> bytes:
        digest = Fetch.decode(body).digest
        self.asked.append(digest)
        answer = self.answers.get(digest, Unreachable("nobody is there"))
        if isinstance(answer, ShamonError):
            raise answer
        return answer

    async def _catch_up(self, chain: Sequence[PolicyRecord]) -> None:
        self.caught_up += [record.policy.version for record in chain]

    def learns(self, policy: Policy, peer: HostName = BETA) -> str:
        """What the audit log was told last; empty for nothing. The background must be alive."""

        async def main() -> None:
            self.learning.learn(peer, policy.which)
            self.learning.learn(peer, policy.which)  # while that goes on
            await asyncio.gather(*self.background._tasks)
            assert self.background._failures.empty()

        asyncio.run(main())
        told = self.world.recorded("policy.not-learnt")
        return str(told[-1]["reason"]) if told else ""


def fetched(policy: Policy, record: bytes = b"") -> bytes:
    return Fetched(envelope=envelope(policy), record=record).encode()


def test_a_policy_of_its_own_way_is_kept() -> None:
    learner = Learner({FOREIGN.digest: fetched(FOREIGN)})
    assert learner.learns(FOREIGN) == ""
    assert learner.world.policies.of(BETA) == FOREIGN
    assert learner.woken == [BETA]
    assert not learner.caught_up
    assert learner.asked == [FOREIGN.digest, "a" * 64]
    assert "nobody is there" in str(learner.world.recorded("policy.not-followed"))


def test_versions_that_were_missed_are_taken_up_oldest_first() -> None:
    learner = Learner({policy.digest: fetched(policy, b"record") for policy in (SECOND, THIRD)})
    assert learner.learns(THIRD) == ""
    assert learner.asked == [THIRD.digest, SECOND.digest]
    assert learner.caught_up == [2, 3]


def test_versions_without_records_are_not_taken_up() -> None:
    learner = Learner({SECOND.digest: fetched(SECOND)})
    assert learner.learns(SECOND) == ""
    assert not learner.caught_up
    assert learner.world.policies.of(BETA) == SECOND


def test_only_so_many_versions_are_asked_for() -> None:
    policies = [SECOND]
    while len(policies) < MAX_BEHIND + 2:
        policies.append(successor(policies[-1]))
    learner = Learner({policy.digest: fetched(policy, b"record") for policy in policies})
    assert learner.learns(policies[-1]) == ""
    assert len(learner.asked) == MAX_BEHIND
    assert not learner.caught_up


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"", "malformed message"),
        (b"\xff\xfe", "malformed message"),
        (Fetched(envelope=b"").encode(), "not JSON"),
        (Fetched(envelope=b"\xff\xff").encode(), "not JSON"),
        (fetched(FIRST), "sent another policy"),
        (fetched(FOREIGN, b"\xff\xfe"), "not ASCII"),
        (Fetched(envelope=envelope(FOREIGN).replace(b"{", '{"note": "é",'.encode(), 1)).encode(), "not ASCII"),
        (fetched(FOREIGN)[:-20], "not JSON"),
        (Unreachable("far away"), "far away"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_whatever_it_sends_the_daemon_lives_and_says_why(answer: bytes | ShamonError, words: str) -> None:
    learner = Learner({FOREIGN.digest: answer})
    assert words in learner.learns(FOREIGN)
    assert not learner.woken
    assert learner.world.policies.says(BETA) is None


def test_the_same_reason_is_told_once() -> None:
    learner = Learner({})
    for _ in range(3):
        assert "nobody is there" in learner.learns(FOREIGN)
    assert len(learner.world.recorded("policy.not-learnt")) == 1


def test_a_peer_that_the_policy_has_no_more_is_not_asked() -> None:
    learner = Learner({FOREIGN.digest: fetched(FOREIGN)})
    assert "knows no such host" in learner.learns(FOREIGN, STRANGER)
    assert not learner.asked


def test_a_version_between_that_is_another_one() -> None:
    learner = Learner({THIRD.digest: fetched(THIRD, b"record"), SECOND.digest: fetched(signed_policy(), b"record")})
    assert learner.learns(THIRD) == ""
    assert "sent another policy" in str(learner.world.recorded("policy.not-followed"))
    assert not learner.caught_up
    assert learner.world.policies.of(BETA) == THIRD
