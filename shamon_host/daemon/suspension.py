"""That a peer was cut off, and in which words: what `admissions` tells those who react, people and logs."""

from dataclasses import dataclass

from shamon_host.daemon.audit_log import AuditLog
from shamon_host.domain.labels import HostName, TypeName
from shamon_host.domain.results import Claim, ClaimName
from shamon_host.hypervisor.mac_vm_report import is_not_yet

_LOG_CLAIMS = (ClaimName.IMA_POLICY, ClaimName.SELINUX, ClaimName.SOFTWARE, ClaimName.SHAMON_CODE)

_ADMITTED = "link.install-outbound"
_CUT_OFF = ("peer.suspend", "peer.expel", "peer.expelled")


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspension:
    """That a peer was cut off, told to whoever reacts (failure actions, hints to other peers)."""

    peer: HostName
    reason: str
    definite: bool
    """Its Evidence was bad; False when it only fell silent."""
    carried: frozenset[TypeName]
    """Types of the links that it had until then."""


def was_cut_off(audit: AuditLog, peer: HostName) -> bool:
    """Whether it was decided to cut the peer off after it was admitted last: the decision is written down before its
    effect, which a daemon that died in between still owes. True for a peer of which no admission is found."""
    newest = audit.newest(peer, (_ADMITTED, *_CUT_OFF))
    return newest is None or newest.kind in _CUT_OFF


def is_transient(claim: Claim) -> bool:
    """The IMA log could not be replayed this time: it says nothing about the host yet."""
    return claim.name in _LOG_CLAIMS and not claim.sticky


def is_definite(claim: Claim) -> bool:
    """That it does not pass says something about the host. Of a MAC VM that was just started nothing is known yet."""
    return not is_transient(claim) and not is_not_yet(claim)


def describe(claim: Claim) -> str:
    """One claim in words, for logs and peers."""
    parts = [f"{claim.name} {claim.status}: {claim.reason}"]
    parts += [
        f"{name} {value}"
        for name, value in (("at", claim.where), ("expected", claim.expected), ("found", claim.found))
        if value
    ]
    return ", ".join(parts)[:2000]
