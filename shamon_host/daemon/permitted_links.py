"""Which of the links that a handshake agreed on this host carries: those that the monitor permits, each decided on."""

from collections.abc import Set
from dataclasses import dataclass, replace
from typing import Self

from shamon_host.attestation.evidence import Role
from shamon_host.daemon.audit_log import AuditLog
from shamon_host.daemon.peer_policies import PeerPolicies
from shamon_host.domain import monitor
from shamon_host.domain.admission import PeerState
from shamon_host.domain.labels import HostName, TypeName
from shamon_host.domain.results import TpmKind
from shamon_host.peer.ports import AgreedLink, Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitting:
    """A handshake with a peer between its two installations."""

    state: PeerState
    """What the peer becomes when it is over."""
    links: tuple[AgreedLink, ...]
    """Those that the monitor permitted."""

    def without(self, types: Set[TypeName]) -> Self:
        """The same without links of these types."""
        return replace(self, links=tuple(link for link in self.links if link.type not in types))


def permitted_links(
    outcome: Outcome,
    state: PeerState,
    *,
    name: HostName,
    own_tpm: TpmKind,
    policies: PeerPolicies,
    audit: AuditLog,
    now_s: float,
) -> tuple[AgreedLink, ...]:
    """The links of the outcome that host `name` may carry, under its own names of their types.

    `state`: what the peer becomes by this handshake. Every decision is in the audit log. `now_s` is CLOCK_BOOTTIME.
    """
    check = monitor.link_open if outcome.role is Role.INITIATOR else monitor.link_accept
    shared = policies.shared(outcome.peer)
    links = []
    for link in outcome.links:
        own = shared.own_name(link.type)
        if own is None:
            continue
        decision = check(
            policies.enforced.policy,
            name,
            outcome.peer,
            own,
            state,
            shared=shared.types,
            local_tpm=own_tpm,
            now_s=now_s,
        )
        audit.append(decision.check, outcome.peer, decision.as_detail())
        if decision.permitted:
            links.append(replace(link, type=own))
    return tuple(links)


def offered_types(outcome: Outcome, policies: PeerPolicies) -> frozenset[TypeName]:
    """What the peer offered to carry, by this host's own names; what this host has no name for is left out."""
    shared = policies.shared(outcome.peer)
    names = (shared.own_name(offer.type) for offer in outcome.peer_terms.offers)
    return frozenset(name for name in names if name is not None)
