"""Admission: links only while admitted and within the lease, expelled is final, and only `admit` leads back."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from shamon_host.domain import admission, leases, monitor
from shamon_host.domain.admission import AdmissionState, PeerState
from shamon_host.domain.errors import NotTrusted, Refused
from shamon_host.domain.results import ClaimName, ClaimStatus, TpmKind
from tests.examples import examples
from tests.unit.domain.values import ALPHA, BETA, GAMMA, POLICY, RED, result

FAILED = {ClaimName.SOFTWARE: ClaimStatus.FAIL}


class OnePeer(RuleBasedStateMachine):
    """Whatever happens to a peer, in any order, with time going on."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 100.0
        self.peer = PeerState(host=BETA)
        self.was_expelled = False
        self.proved_until_s = 0.0
        """By the test's own books: until when the last passing result counts, 0 after anything that narrows."""
        self.newest_seen = 0

    @rule(seconds=st.floats(0, 200))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds

    @rule(lease_s=st.floats(1, 120), passes=st.booleans(), version=st.integers(1, 4))
    def attest(self, lease_s: float, passes: bool, version: int) -> None:
        found = result(statuses={} if passes else FAILED)
        decision = monitor.host_admit(
            POLICY,
            BETA,
            found,
            peer_policy=replace(POLICY.which, version=version),
            newest_seen=self.newest_seen,
            state=self.peer,
            now_wall_s=self.now_s,
        )
        assert decision.permitted == (passes and version >= self.newest_seen and not self.was_expelled)
        if decision.permitted:
            self.peer = admission.admit(self.peer, found, lease_until_s=self.now_s + lease_s)
            self.proved_until_s = self.now_s + lease_s
            self.newest_seen = version
        elif not passes:
            with pytest.raises((NotTrusted, Refused)):
                admission.admit(self.peer, found, lease_until_s=self.now_s + lease_s)

    @rule()
    def suspend(self) -> None:
        self.peer = admission.suspend(self.peer, "Evidence failed")
        self.proved_until_s = 0.0

    @rule()
    def lapse(self) -> None:
        self.peer = admission.lapse(self.peer, self.now_s)

    @rule()
    def expel(self) -> None:
        self.peer = admission.expel(self.peer, "the operator said so")
        self.proved_until_s, self.was_expelled = 0.0, True

    @invariant()
    def links_only_while_admitted_and_within_the_lease(self) -> None:
        allowed = self.now_s < self.proved_until_s
        for check in (monitor.link_open, monitor.link_accept):
            decision = check(
                POLICY,
                ALPHA,
                BETA,
                RED,
                self.peer,
                shared=POLICY.types,
                local_tpm=TpmKind.HARDWARE,
                now_s=self.now_s,
            )
            assert decision.permitted == allowed
        assert self.peer.counts_at(self.now_s) == allowed

    @invariant()
    def expelled_is_final(self) -> None:
        assert (self.peer.state is AdmissionState.EXPELLED) == self.was_expelled

    @invariant()
    def only_an_admitted_peer_has_a_lease_and_a_result(self) -> None:
        admitted = self.peer.state is AdmissionState.ADMITTED
        assert (self.peer.lease_until_s > 0) == admitted
        assert (self.peer.result is not None) == admitted
        assert bool(self.peer.reason) == (self.peer.state in (AdmissionState.SUSPENDED, AdmissionState.EXPELLED))


TestOnePeer = OnePeer.TestCase
TestOnePeer.settings = settings(deadline=None, max_examples=examples(60), stateful_step_count=20)


def test_an_expelled_peer_is_refused_even_without_asking_the_monitor() -> None:
    gone = admission.expel(PeerState(host=BETA), "stolen")
    with pytest.raises(Refused, match="never admitted"):
        admission.admit(gone, result(), lease_until_s=200.0)
    assert admission.suspend(gone, "again") is gone
    assert admission.expel(gone, "again").reason == "stolen"


def test_a_result_about_another_host_admits_nobody() -> None:
    with pytest.raises(NotTrusted, match="another host"):
        admission.admit(PeerState(host=GAMMA), result(BETA), lease_until_s=200.0)


def test_an_absent_claim_admits_nobody_and_is_named() -> None:
    with pytest.raises(NotTrusted, match="selinux"):
        admission.admit(PeerState(host=BETA), result(without=ClaimName.SELINUX), lease_until_s=200.0)


@pytest.mark.parametrize("until_s", [float("nan"), float("inf"), 0.0, -1.0])
def test_a_lease_must_end(until_s: float) -> None:
    with pytest.raises(Refused, match="must end"):
        admission.admit(PeerState(host=BETA), result(), lease_until_s=until_s)


def test_a_lease_has_ended_at_its_end() -> None:
    peer = admission.admit(PeerState(host=BETA), result(), lease_until_s=200.0)
    assert admission.lapse(peer, 199.999) is peer
    assert admission.lapse(peer, 200.0).state is AdmissionState.SUSPENDED


TIMES = st.floats(0, 1e6)


@settings(deadline=None)
@given(started_s=TIMES, lease_s=st.floats(1, 3600), margin_s=st.floats(0, 60), now_s=TIMES)
def test_the_gate_never_outlives_the_lease(started_s: float, lease_s: float, margin_s: float, now_s: float) -> None:
    try:
        gate_s = leases.gate_seconds(started_s, lease_s, margin_s, now_s)
    except Refused:
        return
    assert leases.MIN_GATE_S <= gate_s <= lease_s
    assert now_s + gate_s <= max(started_s, now_s) + lease_s - margin_s + 1e-6
    assert gate_s <= leases.sa_lifetime_s(started_s, lease_s, now_s)
