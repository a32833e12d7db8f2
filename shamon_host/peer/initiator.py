"""The side that starts a handshake, one peer and one attempt at a time.

Everything that may fail happens before anything is installed, but for the receive side: that has to be there before the
peer starts to send, which it does as soon as it has our MAC. The send side waits for the peer's MAC. Whatever goes
wrong, `abandoned` takes back what this attempt had got.
"""

import asyncio
import secrets
from collections.abc import Callable
from contextlib import suppress

from shamon_host.attestation.evidence import Role, encode
from shamon_host.domain.errors import NotTrusted, ShamonError, Unreachable
from shamon_host.domain.labels import HostName
from shamon_host.domain.policy import HostEntry
from shamon_host.domain.results import AttestationResult
from shamon_host.peer.errors import RefusedByPeer
from shamon_host.peer.key_schedule import HandshakeKeys, Proceedings, Share, transcript
from shamon_host.peer.messages import (
    NONCE_BYTES,
    Confirm,
    ConfirmAnswer,
    EvidenceAnswer,
    EvidenceRequest,
    Hello,
    Hint,
    Verdict,
    failure_words,
)
from shamon_host.peer.party import (
    Party,
    agreed_links,
    digest,
    proceedings,
    require_about,
    require_agreement,
    unused_spis,
)
from shamon_host.peer.ports import EnrolledPeer, HandshakeHost, Outcome, PeerDirectory, PeerTransport, Terms
from shamon_host.peer.sessions import Sessions
from shamon_host.peer.wire import CONFIRM, EVIDENCE, HELLO, HINT


class Handshaker:
    """Starts handshakes for one host. `PeerService` answers them for the same host, and shares `sessions` with it.

    `directory` must be the one that `transport` pins certificates by.
    """

    def __init__(
        self,
        *,
        name: HostName,
        host: HandshakeHost,
        directory: PeerDirectory,
        transport: PeerTransport,
        boottime_s: Callable[[], float],
        timeout: Callable[[], float],
    ) -> None:
        self.party = Party(name=name, host=host, directory=directory, boottime_s=boottime_s, timeout=timeout)
        self.sessions = Sessions(party=self.party)
        self._transport = transport

    async def initiate(self, peer: HostEntry) -> Outcome:
        """Attest with `peer` and bring up the links that both offer.

        Raises Busy (wait, or try again), NotTrusted (its Evidence, certificate or MAC is not right), RefusedByPeer (it
        does not trust this host), Refused (in its words, or ours), Unreachable, BadInput (a malformed answer).
        Nothing of the attempt is left installed when it raises.
        """
        async with self.sessions.initiating(peer.name):
            return await _Attempt(self.party, self._transport, peer).run()

    async def hint(self, peer: HostEntry, about: HostName) -> None:
        """Suggest to `peer` that it attests `about` now. Raises ShamonError when it does not take the hint."""
        await self._transport.call(peer, HINT, Hint(about=about).encode(), timeout_s=self.party.timeout_s)

    async def close(self) -> None:
        """Give up every session that waits for a peer's message."""
        await self.sessions.close()


class _Attempt:
    """One handshake that this host starts."""

    def __init__(self, party: Party, transport: PeerTransport, entry: HostEntry) -> None:
        self._party = party
        self._host = party.host
        self._transport = transport
        self._entry = entry
        self._peer = entry.name
        self._terms: Terms | None = None
        self._outcome: Outcome | None = None

    async def run(self) -> Outcome:
        try:
            async with asyncio.timeout(self._party.timeout_s):
                return await self._run()
        except BaseException as error:
            if self._terms is not None:
                await self._host.abandoned(self._peer, self._terms, self._outcome)
            if isinstance(error, TimeoutError):
                raise Unreachable(
                    "the handshake took too long", where=self._peer, expected=f"at most {self._party.timeout_s} s"
                ) from error
            raise

    async def _run(self) -> Outcome:
        enrolled = self._party.directory.enrolled(self._peer)
        if self._peer == self._party.name:
            raise NotTrusted("a host does not attest with itself", where=self._peer)
        started_s = self._party.boottime_s()
        own = self._terms = await self._host.terms(self._peer)
        hello, keys = await self._exchange_hellos(own, enrolled)
        answer, evidence = await self._exchange_evidence(own, hello, keys)
        if not answer.verdict.trusted:
            await self._host.refused_by_peer(self._peer, answer.verdict.failures)
        result = await self._appraise(own, hello, keys, answer)
        require_about(result, enrolled)
        verdict = Verdict.of(result)
        lease_ms = await self._party.granted_lease_ms(self._peer)
        covered = proceedings(
            evidence_sha256={Role.INITIATOR: digest(evidence), Role.RESPONDER: digest(answer.evidence)},
            verdicts={Role.INITIATOR: verdict.encode(), Role.RESPONDER: answer.verdict.encode()},
            leases_ms={Role.INITIATOR: lease_ms, Role.RESPONDER: answer.lease_ms},
        )
        confirm = Confirm(
            session=hello.session, verdict=verdict, lease_ms=lease_ms, mac=keys.mac(Role.INITIATOR, covered)
        )
        if not verdict.trusted:
            with suppress(ShamonError):
                await self._call(CONFIRM, confirm.encode())
            raise NotTrusted(
                f"{self._peer} does not prove what is demanded of it",
                where=self._peer,
                found="; ".join(failure_words(result.failures)),
            )
        if not answer.verdict.trusted:
            raise RefusedByPeer(self._peer, answer.verdict.failures)
        self._party.require_still_enrolled(enrolled)
        self._outcome = outcome = Outcome(
            peer=self._peer,
            role=Role.INITIATOR,
            result=result,
            lease_s=min(lease_ms, answer.lease_ms) / 1000,
            started_s=started_s,
            links=agreed_links(Role.INITIATOR, own, hello.terms, keys),
            unused_spis=unused_spis(own, hello.terms),
            terms=own,
            peer_terms=hello.terms,
            transcript=keys.transcript,
        )
        await self._install(outcome, confirm, keys, covered)
        return outcome

    async def _exchange_hellos(self, own: Terms, enrolled: EnrolledPeer) -> tuple[Hello, HandshakeKeys]:
        share = Share()
        ours = Hello(
            role=Role.INITIATOR,
            sender=self._party.name,
            receiver=self._peer,
            terms=own,
            nonce=secrets.token_bytes(NONCE_BYTES),
            share=share.public,
        ).encode()
        theirs = await self._call(HELLO, ours)
        hello = Hello.decode(theirs, Role.RESPONDER)
        self._party.check_hello(hello, enrolled)
        await self._host.meet(self._peer, hello.terms)
        require_agreement(own, hello.terms, self._peer)
        return hello, share.agree(hello.share, transcript(ours, theirs))

    async def _exchange_evidence(self, own: Terms, hello: Hello, keys: HandshakeKeys) -> tuple[EvidenceAnswer, bytes]:
        evidence = encode(
            await self._host.evidence(
                self._peer,
                Role.INITIATOR,
                keys.transcript,
                ima_offset=hello.terms.ima_offset,
                ima_reset_count=hello.terms.ima_reset_count,
            )
        )
        answer = await self._call(EVIDENCE, EvidenceRequest(session=hello.session, evidence=evidence).encode())
        return EvidenceAnswer.decode(answer), evidence

    async def _appraise(
        self, own: Terms, hello: Hello, keys: HandshakeKeys, answer: EvidenceAnswer
    ) -> AttestationResult:
        evidence = await self._party.decode_evidence(answer.evidence, own)
        return await self._host.appraise(self._peer, Role.RESPONDER, keys.transcript, hello.terms, evidence)

    async def _install(self, outcome: Outcome, confirm: Confirm, keys: HandshakeKeys, covered: Proceedings) -> None:
        self._party.require_lease(outcome)
        await self._host.install_inbound(outcome)
        answer = ConfirmAnswer.decode(await self._call(CONFIRM, confirm.encode()))
        keys.check_mac(Role.RESPONDER, covered, answer.mac)
        self._party.require_lease(outcome)
        await self._host.install_outbound(outcome)

    async def _call(self, path: str, body: bytes) -> bytes:
        return await self._transport.call(self._entry, path, body, timeout_s=self._party.timeout_s)
