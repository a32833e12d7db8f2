"""The side that answers: every request of a peer arrives here, with the certificate that TLS saw.

A handshake is a session of one peer. It moves one stage for each message, and any error ends it: what was offered is
given back, and nothing of it stays installed. Words about the error go to the caller; they never carry a secret.
"""

import asyncio
import secrets
from collections.abc import Callable

from shamon_host.attestation.evidence import Evidence, Role, encode
from shamon_host.domain.budget import Budget
from shamon_host.domain.errors import NotTrusted, Refused
from shamon_host.domain.labels import HostName
from shamon_host.peer.errors import Busy
from shamon_host.peer.initiator import Handshaker
from shamon_host.peer.key_schedule import Share, transcript
from shamon_host.peer.messages import (
    NONCE_BYTES,
    SESSION_BYTES,
    Confirm,
    ConfirmAnswer,
    EvidenceAnswer,
    EvidenceRequest,
    Hello,
    Hint,
    Verdict,
)
from shamon_host.peer.party import (
    agreed_links,
    digest,
    proceedings,
    require_about,
    require_agreement,
    require_same_coalition,
    unused_spis,
)
from shamon_host.peer.ports import (
    EnrolledPeer,
    MoveHandler,
    Outcome,
    PeerIdentity,
    PolicyHandler,
    RegistryHandler,
    Terms,
)
from shamon_host.peer.sessions import Appraised, Session, Stage
from shamon_host.peer.wire import EVIDENCE, HELLO, HINT, POLICY_PATHS, REGISTRY, VM_DISK, VM_PATHS, body_limit

_HINT_INTERVAL_S = 1.0
_HELLOS = 16
"""How many handshakes a peer may start at once, and then one a second: each costs this host a quote, an appraisal, and
records that nobody can take out of the audit log again."""


class PeerService:
    """`PeerHandler` of one host. `hinted` is called with (peer, host to look at); it ignores peers not admitted."""

    def __init__(
        self,
        *,
        handshaker: Handshaker,
        hinted: Callable[[HostName, HostName], None],
        policies: PolicyHandler | None = None,
        registry: RegistryHandler | None = None,
        moves: MoveHandler | None = None,
    ) -> None:
        self._moves = moves
        self._policies = policies
        self._registry = registry
        self._party = handshaker.party
        self._host = handshaker.party.host
        self._sessions = handshaker.sessions
        self._hinted = hinted
        self._hints_s: dict[tuple[HostName, HostName], float] = {}
        self._hellos = Budget(burst=_HELLOS, every_s=1.0)
        self._exchanges = Budget(burst=_HELLOS, every_s=1.0)
        """Of records. Only whom the CA has given a certificate gets so far."""

    async def handle(self, caller: PeerIdentity, path: str, body: bytes) -> bytes:
        """Answer one request. Raises ShamonError, which the transport tells the caller in words."""
        if len(body) > body_limit(path):
            raise Refused("the message is too long", where=path, expected=f"at most {body_limit(path)} bytes")
        if path == REGISTRY:
            if self._registry is None:
                raise Refused("this host exchanges no records", where=self._party.name)
            self._count(self._exchanges, caller.host)
            return await self._registry.handle_registry(caller.host, body)
        enrolled = self._caller(caller)
        if path == HINT:
            return self._hint(enrolled, body)
        if path in POLICY_PATHS:
            if self._policies is None:
                raise Refused("this host changes no policies", where=self._party.name)
            self._count_hello(enrolled.host)
            return await self._policies.handle_policy(enrolled.host, path, body)
        if path in VM_PATHS:
            if self._moves is None:
                raise Refused("no VM is moved to this host", where=self._party.name)
            if path != VM_DISK:  # of which there are as many as a disk that was announced has parts
                self._count_hello(enrolled.host)
            return await self._moves.handle_move(enrolled.host, path, body)
        try:
            with self._sessions.answering(enrolled.host, start=path == HELLO):
                async with asyncio.timeout(self._party.timeout_s):
                    return await self._answer(enrolled, path, body)
        except TimeoutError:
            raise Refused(
                "the answer took too long", where=self._party.name, expected=f"at most {self._party.timeout_s} s"
            ) from None

    def _caller(self, caller: PeerIdentity) -> EnrolledPeer:
        enrolled = self._party.directory.enrolled(caller.host)
        if enrolled.certificate_sha256 != caller.certificate_sha256 or caller.host == self._party.name:
            raise NotTrusted("the certificate is not the one enrolled for this host", where=caller.host)
        return enrolled

    async def _answer(self, enrolled: EnrolledPeer, path: str, body: bytes) -> bytes:
        if path == HELLO:
            return await self._answer_hello(enrolled, body)
        if path == EVIDENCE:
            request = EvidenceRequest.decode(body)
            session = self._sessions.take(enrolled.host, request.session, Stage.EVIDENCE)
            return await self._guarded(session, enrolled, request)
        confirm = Confirm.decode(body)
        session = self._sessions.take(enrolled.host, confirm.session, Stage.CONFIRM, Stage.REASONS)
        return await self._guarded(session, enrolled, confirm)

    async def _guarded(self, session: Session, enrolled: EnrolledPeer, message: EvidenceRequest | Confirm) -> bytes:
        """Work on a session that was taken: it ends, and nothing is left of it, when that raises."""
        attempt = _Installation()
        try:
            if session.enrolled != enrolled:
                raise NotTrusted("the host was enrolled anew while the handshake ran", where=enrolled.host)
            if isinstance(message, EvidenceRequest):
                return await self._answer_evidence(session, message)
            return await self._answer_confirm(session, message, attempt)
        except BaseException:
            session.evidence.cancel()
            if session.stage is not Stage.REASONS:
                await self._host.abandoned(session.peer, session.terms, attempt.outcome)
            raise

    async def _answer_hello(self, enrolled: EnrolledPeer, body: bytes) -> bytes:
        hello = Hello.decode(body, Role.INITIATOR)
        self._party.check_hello(hello, enrolled)
        self._count_hello(enrolled.host)
        await self._sessions.give_up(enrolled.host)
        started_s = self._party.boottime_s()
        await self._host.meet(enrolled.host, hello.terms)
        own = await self._host.terms(enrolled.host)
        try:
            # Terms made for an earlier policy of this host are answered too: the answer says which one it has now.
            require_same_coalition(own, hello.terms, self._party.name)
            share = Share()
            session_id = secrets.token_bytes(SESSION_BYTES)
            answer = Hello(
                role=Role.RESPONDER,
                session=session_id,
                sender=self._party.name,
                receiver=enrolled.host,
                terms=own,
                nonce=secrets.token_bytes(NONCE_BYTES),
                share=share.public,
            ).encode()
            keys = share.agree(hello.share, transcript(body, answer))
        except BaseException:
            await self._host.abandoned(enrolled.host, own, None)
            raise
        evidence = asyncio.create_task(
            self._own_evidence(enrolled.host, own, hello, keys.transcript), name=f"Evidence for {enrolled.host}"
        )
        self._sessions.wait(
            Session(
                id=session_id,
                enrolled=enrolled,
                started_s=started_s,
                terms=own,
                hello=hello,
                keys=keys,
                evidence=evidence,
            )
        )
        return answer

    async def _own_evidence(self, peer: HostName, own: Terms, hello: Hello, transcript_: bytes) -> Evidence:
        """This side's Evidence for a handshake, if the two hellos can come to anything."""
        require_agreement(own, hello.terms, self._party.name)
        return await self._host.evidence(
            peer,
            Role.RESPONDER,
            transcript_,
            ima_offset=hello.terms.ima_offset,
            ima_reset_count=hello.terms.ima_reset_count,
        )

    async def _answer_evidence(self, session: Session, request: EvidenceRequest) -> bytes:
        require_agreement(session.terms, session.hello.terms, self._party.name)
        evidence = await self._party.decode_evidence(request.evidence, session.terms)
        transcript_ = session.keys.transcript
        result = await self._host.appraise(session.peer, Role.INITIATOR, transcript_, session.hello.terms, evidence)
        require_about(result, session.enrolled)
        own = encode(await session.evidence)
        appraised = session.appraised = Appraised(
            result=result,
            verdict=Verdict.of(result),
            lease_ms=await self._party.granted_lease_ms(session.peer),
            peer_evidence_sha256=digest(request.evidence),
            own_evidence_sha256=digest(own),
        )
        answer = EvidenceAnswer(verdict=appraised.verdict, lease_ms=appraised.lease_ms, evidence=own).encode()
        if appraised.verdict.trusted:
            session.stage = Stage.CONFIRM
        else:
            session.stage = Stage.REASONS
            await self._host.abandoned(session.peer, session.terms, None)
        self._sessions.wait(session)
        return answer

    async def _answer_confirm(self, session: Session, confirm: Confirm, attempt: "_Installation") -> bytes:
        appraised = session.appraised
        if appraised is None:
            raise Refused("there is no Evidence to confirm yet", where=self._party.name)
        covered = proceedings(
            evidence_sha256={
                Role.INITIATOR: appraised.peer_evidence_sha256,
                Role.RESPONDER: appraised.own_evidence_sha256,
            },
            verdicts={Role.INITIATOR: confirm.verdict.encode(), Role.RESPONDER: appraised.verdict.encode()},
            leases_ms={Role.INITIATOR: confirm.lease_ms, Role.RESPONDER: appraised.lease_ms},
        )
        session.keys.check_mac(Role.INITIATOR, covered, confirm.mac)
        answer = ConfirmAnswer(mac=session.keys.mac(Role.RESPONDER, covered)).encode()
        if not confirm.verdict.trusted:
            await self._host.refused_by_peer(session.peer, confirm.verdict.failures)
            if session.stage is not Stage.REASONS:
                await self._host.abandoned(session.peer, session.terms, None)
            return answer
        if session.stage is Stage.REASONS:
            raise Refused("this host does not trust the caller, so there is nothing to confirm", where=self._party.name)
        self._party.require_still_enrolled(session.enrolled)
        attempt.outcome = outcome = Outcome(
            peer=session.peer,
            role=Role.RESPONDER,
            result=appraised.result,
            lease_s=min(appraised.lease_ms, confirm.lease_ms) / 1000,
            started_s=session.started_s,
            links=agreed_links(Role.RESPONDER, session.terms, session.hello.terms, session.keys),
            unused_spis=unused_spis(session.terms, session.hello.terms),
            terms=session.terms,
            peer_terms=session.hello.terms,
            transcript=session.keys.transcript,
        )
        self._party.require_lease(outcome)
        await self._host.install_inbound(outcome)
        await self._host.install_outbound(outcome)
        return answer

    def _count_hello(self, peer: HostName) -> None:
        """Raises Busy for a peer that starts one handshake after the other."""
        self._count(self._hellos, peer)

    def _count(self, budget: Budget, peer: HostName) -> None:
        if not budget.take(peer, self._party.boottime_s()):
            raise Busy("too many handshakes of the same host, or other requests", where=self._party.name)

    def _hint(self, enrolled: EnrolledPeer, body: bytes) -> bytes:
        about = self._party.directory.enrolled(Hint.decode(body).about).host
        now_s = self._party.boottime_s()
        if now_s - self._hints_s.get((enrolled.host, about), float("-inf")) >= _HINT_INTERVAL_S:
            self._hints_s[enrolled.host, about] = now_s
            self._hinted(enrolled.host, about)
        return b"{}"


class _Installation:
    """What a confirmation has begun to install, if anything."""

    outcome: Outcome | None = None
