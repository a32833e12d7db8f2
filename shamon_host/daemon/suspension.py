"""That a peer was cut off, and in which words: what `admissions` tells those who react, people and logs."""

from dataclasses import dataclass

from shamon_host.domain.labels import HostName, TypeName
from shamon_host.domain.results import Claim, ClaimName

_LOG_CLAIMS = (ClaimName.IMA_POLICY, ClaimName.SELINUX, ClaimName.SOFTWARE, ClaimName.SHAMON_CODE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspension:
    """That a peer was cut off, told to whoever reacts (failure actions, hints to other peers)."""

    peer: HostName
    reason: str
    definite: bool
    """Its Evidence was bad; False when it only fell silent."""
    carried: frozenset[TypeName]
    """Types of the links that it had until then."""


def is_transient(claim: Claim) -> bool:
    """The IMA log could not be replayed this time: it says nothing about the host yet."""
    return claim.name in _LOG_CLAIMS and not claim.sticky


def describe(claim: Claim) -> str:
    """One claim in words, for logs and peers."""
    parts = [f"{claim.name} {claim.status}: {claim.reason}"]
    parts += [
        f"{name} {value}"
        for name, value in (("at", claim.where), ("expected", claim.expected), ("found", claim.found))
        if value
    ]
    return ", ".join(parts)[:2000]
