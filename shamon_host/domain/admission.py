"""The admission of a peer: enrolled → admitted (lease) → suspended → admitted again, or expelled for good.

Pure transitions on a frozen value; the daemon holds one value for each peer. Whether an admission is permitted is
decided by the monitor (`host.admit`); the transitions here only refuse what no decision could make right.
"""

import math
from dataclasses import dataclass, replace
from enum import StrEnum

from shamon_host.domain.errors import NotTrusted, Refused
from shamon_host.domain.labels import HostName
from shamon_host.domain.results import AttestationResult


class AdmissionState(StrEnum):
    ENROLLED = "enrolled"
    """Known, and nothing proved yet since this daemon started."""
    ADMITTED = "admitted"
    """Its Evidence passed; counts until the lease ends."""
    SUSPENDED = "suspended"
    """Cut off: Evidence failed, did not come, or the lease ended. New passing Evidence brings it back."""
    EXPELLED = "expelled"
    """Cut off by an operator, for good."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerState:
    """What this host holds of a peer. `admit`, `suspend`, `lapse` and `expel` make the next one."""

    host: HostName
    state: AdmissionState = AdmissionState.ENROLLED
    lease_until_s: float = 0.0
    """CLOCK_BOOTTIME at which the lease ends; 0 unless admitted."""
    reason: str = ""
    """Why it is suspended or expelled, in words."""
    result: AttestationResult | None = None
    """The passing result that the present admission rests on; None unless admitted."""

    def counts_at(self, now_s: float) -> bool:
        """True iff the peer is admitted and its lease has not ended at `now_s` (CLOCK_BOOTTIME)."""
        return self.state is AdmissionState.ADMITTED and self.result is not None and now_s < self.lease_until_s


def admit(state: PeerState, result: AttestationResult, lease_until_s: float) -> PeerState:
    """Admit the peer, admit it again, or renew its lease.

    Raises Refused for an expelled peer, NotTrusted for a result that does not pass or is about another host.
    """
    if state.state is AdmissionState.EXPELLED:
        raise Refused("an expelled host is never admitted again", where=state.host, found=state.reason)
    if result.host != state.host:
        raise NotTrusted("the attestation result is about another host", expected=state.host, found=result.host)
    if not result.trusted:
        failed = ", ".join(claim.name for claim in result.failures) or "claims made twice"
        raise NotTrusted("the attestation result does not pass", where=state.host, found=failed)
    if not math.isfinite(lease_until_s) or lease_until_s <= 0:
        raise Refused("a lease must end", where=state.host, found=str(lease_until_s))
    return PeerState(host=state.host, state=AdmissionState.ADMITTED, lease_until_s=lease_until_s, result=result)


def suspend(state: PeerState, reason: str) -> PeerState:
    """Cut the peer off until it proves itself again. An expelled peer stays expelled."""
    if state.state is AdmissionState.EXPELLED:
        return state
    return PeerState(host=state.host, state=AdmissionState.SUSPENDED, reason=reason)


def lapse(state: PeerState, now_s: float) -> PeerState:
    """Suspend the peer if it is admitted and its lease has ended at `now_s`; else return the state as it is."""
    if state.state is AdmissionState.ADMITTED and not state.counts_at(now_s):
        return suspend(state, "the lease ended: no passing Evidence came in time")
    return state


def expel(state: PeerState, reason: str) -> PeerState:
    """Cut the peer off for good. The first reason stays."""
    if state.state is AdmissionState.EXPELLED:
        return state
    return replace(state, state=AdmissionState.EXPELLED, lease_until_s=0.0, reason=reason, result=None)
