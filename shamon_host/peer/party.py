"""What both ends of a handshake share: who this host is, whom it knows, and the checks on the other side's hello.

A hello is held against what was written down at enrolment and against what TLS showed, so nobody can speak under
another name, certificate or AK; and against this host's own terms, so links exist only for types that both share.
"""

import asyncio
import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass

from shamon_host.attestation.evidence import Evidence, Role, decode
from shamon_host.domain.errors import BackendFailed, BadInput, NotTrusted, Refused
from shamon_host.domain.labels import HostName, TypeName
from shamon_host.domain.results import AttestationResult
from shamon_host.peer.errors import Busy
from shamon_host.peer.key_schedule import HandshakeKeys, Proceedings
from shamon_host.peer.messages import MAX_LEASE_MS, Hello
from shamon_host.peer.ports import AgreedLink, EnrolledPeer, HandshakeHost, Outcome, PeerDirectory, Terms


@dataclass(frozen=True, slots=True, kw_only=True)
class Party:
    """This host, as handshakes see it. `timeout_s` bounds a whole initiation, and each step of an answer."""

    name: HostName
    host: HandshakeHost
    directory: PeerDirectory
    boottime_s: Callable[[], float]
    timeout: Callable[[], float]

    @property
    def timeout_s(self) -> float:
        """As the policy in force has it."""
        return self.timeout()

    def check_hello(self, hello: Hello, enrolled: EnrolledPeer) -> None:
        """Raises NotTrusted unless `hello` is from the enrolled peer to this host."""
        where = f"hello of {enrolled.host}"
        for what, expected, found in (
            ("it is from another host", enrolled.host, hello.sender),
            ("it is for another host", self.name, hello.receiver),
        ):
            if expected != found:
                raise NotTrusted(what, where=where, expected=expected, found=found)
        terms = hello.terms
        for what, expected_bytes, found_bytes in (
            ("it names another certificate than TLS shows", enrolled.certificate_sha256, terms.certificate_sha256),
            ("it names another AK than the enrolled one", enrolled.ak_name, terms.ak_name),
        ):
            if not hmac.compare_digest(expected_bytes, found_bytes):
                raise NotTrusted(
                    what,
                    where=where,
                    expected=expected_bytes.hex(),
                    found=found_bytes.hex(),
                    remedy="Enrol the host again if it was set up anew.",
                )

    def require_still_enrolled(self, enrolled: EnrolledPeer) -> None:
        """Raises NotTrusted if the peer was expelled or enrolled anew while the handshake ran."""
        if self.directory.enrolled(enrolled.host) != enrolled:
            raise NotTrusted("the host was enrolled anew while the handshake ran", where=enrolled.host)

    def require_lease(self, outcome: Outcome) -> None:
        """Raises Refused if the lease is over before the handshake is."""
        if self.boottime_s() >= outcome.started_s + outcome.lease_s:
            raise Refused(
                "the lease was over before the handshake was",
                where=outcome.peer,
                expected=f"a handshake of less than {outcome.lease_s} s",
            )

    async def granted_lease_ms(self, peer: HostName) -> int:
        """The lease that this side grants, whole milliseconds. Raises BackendFailed for an impossible one."""
        lease_s = await self.host.lease_s(peer)
        if not 0 < lease_s * 1000 <= MAX_LEASE_MS or int(lease_s * 1000) == 0:
            raise BackendFailed(
                "impossible lease", where=peer, expected=f"up to {MAX_LEASE_MS // 1000} s", found=f"{lease_s} s"
            )
        return int(lease_s * 1000)

    async def decode_evidence(self, data: bytes, own: Terms) -> Evidence:
        """The peer's Evidence, which must continue its IMA log where this side asked, or start over. Raises BadInput.

        It may be large, so it is decoded outside the event loop's thread.
        """
        evidence = await asyncio.to_thread(decode, data)
        if evidence.ima_offset not in (0, own.ima_offset):
            raise BadInput(
                "the IMA log starts where nobody asked",
                where="Evidence.ima_offset",
                expected=f"{own.ima_offset} or 0",
                found=str(evidence.ima_offset),
            )
        return evidence


def require_same_coalition(own: Terms, peer: Terms, peer_name: HostName) -> None:
    """Raises Refused, in words for both operators, unless both hosts are of one coalition."""
    if own.coalition != peer.coalition:
        raise Refused(
            "the hosts are of different coalitions", where=peer_name, expected=own.coalition, found=peer.coalition
        )


def require_agreement(own: Terms, peer: Terms, peer_name: HostName) -> None:
    """Raises Refused, in words for both operators, unless both hosts are of one coalition and mean the same types to
    share; Busy when the terms were made before a side's policy changed, and new ones will do.

    What may be shared under two policies each side computes for itself; only what both named is carried
    (`agreed_links`), and the transcript binds both sides' words.
    """
    require_same_coalition(own, peer, peer_name)
    if (own.peer_policy_digest, own.policy_digest) != (peer.policy_digest, peer.peer_policy_digest):
        raise Busy("the terms are for another version of the policy than is in force", where=peer_name)
    same = own.policy_digest == peer.policy_digest
    if (own.shared is None, peer.shared is None) != (same, same):
        raise Refused(
            "the terms do not say what is shared",
            where=peer_name,
            expected="every type under one policy, a list of types under two",
        )


def require_about(result: AttestationResult, enrolled: EnrolledPeer) -> None:
    """Raises NotTrusted unless `result` speaks of this peer and its AK."""
    if result.host != enrolled.host or result.ak_name != enrolled.ak_name:
        raise NotTrusted("the Attestation Result is about another host or AK", where=enrolled.host, found=result.host)


def agreed_links(role: Role, own: Terms, peer: Terms, keys: HandshakeKeys) -> tuple[AgreedLink, ...]:
    """The links of the types that both sides offered, as the side with `role` sees them, by name."""
    theirs = {offer.type: offer for offer in peer.offers if _shared(offer.type, own, peer)}
    links = []
    for ours in sorted(own.offers, key=lambda offer: offer.type):
        other = theirs.get(ours.type)
        if other is None:
            continue
        initiator, responder = (ours, other) if role is Role.INITIATOR else (other, ours)
        by_sender = {
            sender: keys.sa_key(ours.type, sender, initiator_spi=initiator.spi, responder_spi=responder.spi)
            for sender in Role
        }
        links.append(
            AgreedLink(
                type=ours.type,
                local_port=ours.port,
                peer_port=other.port,
                in_spi=ours.spi,
                out_spi=other.spi,
                in_key=by_sender[other_role(role)],
                out_key=by_sender[role],
            )
        )
    return tuple(links)


def unused_spis(own: Terms, peer: Terms) -> tuple[int, ...]:
    """The SPIs of what only this side offered."""
    theirs = {offer.type for offer in peer.offers if _shared(offer.type, own, peer)}
    return tuple(offer.spi for offer in own.offers if offer.type not in theirs)


def _shared(name: TypeName, own: Terms, peer: Terms) -> bool:
    return all(terms.shared is None or name in terms.shared for terms in (own, peer))


def other_role(role: Role) -> Role:
    return Role.RESPONDER if role is Role.INITIATOR else Role.INITIATOR


def proceedings(
    *,
    evidence_sha256: dict[Role, bytes],
    verdicts: dict[Role, bytes],
    leases_ms: dict[Role, int],
) -> Proceedings:
    """What the MACs cover; each mapping by the role of the side that sent the thing."""
    return Proceedings(
        initiator_evidence_sha256=evidence_sha256[Role.INITIATOR],
        responder_evidence_sha256=evidence_sha256[Role.RESPONDER],
        initiator_verdict=verdicts[Role.INITIATOR],
        responder_verdict=verdicts[Role.RESPONDER],
        initiator_lease_ms=leases_ms[Role.INITIATOR],
        responder_lease_ms=leases_ms[Role.RESPONDER],
    )


def digest(data: bytes) -> bytes:
    """SHA-256, of Evidence as it crossed the wire."""
    return hashlib.sha256(data).digest()
