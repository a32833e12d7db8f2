"""Whose turn it is between this host and each peer, and the responder's sessions that wait for the next message.

Between two hosts one handshake runs at a time, so that the links of two of them never mix. When both start at once, the
host whose name sorts first goes on and tells the other that it is busy. A waiting session belongs to one peer, is found
by an id that only this peer was told, is taken out while it is worked on, and is given up when nothing comes in time.
"""

import asyncio
import hmac
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from enum import StrEnum

from shamon_host.attestation.evidence import Evidence
from shamon_host.domain.labels import HostName
from shamon_host.domain.results import AttestationResult
from shamon_host.peer.errors import Busy
from shamon_host.peer.key_schedule import HandshakeKeys
from shamon_host.peer.messages import Hello, Verdict
from shamon_host.peer.party import Party
from shamon_host.peer.ports import EnrolledPeer, Terms


class Stage(StrEnum):
    """What a session waits for."""

    EVIDENCE = "evidence"
    CONFIRM = "confirm"
    REASONS = "reasons"
    """The initiator failed; only its own verdict, if that fails too, is still of interest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Appraised:
    """What this side said of the peer, and both sides' Evidence as the MACs cover it."""

    result: AttestationResult
    verdict: Verdict
    lease_ms: int
    peer_evidence_sha256: bytes
    own_evidence_sha256: bytes


@dataclass(slots=True, kw_only=True, eq=False)
class Session:
    """One handshake that this host answers."""

    id: bytes
    enrolled: EnrolledPeer
    started_s: float
    terms: Terms
    """Of this side."""
    hello: Hello
    """Of the peer."""
    keys: HandshakeKeys
    evidence: asyncio.Task[Evidence]
    """Of this side, being made since the hello: the transcript is known by then, so that one quote stands for the
    handshakes that this host answers and for those that it starts in the same moment."""
    stage: Stage = Stage.EVIDENCE
    appraised: Appraised | None = None
    """There from stage `confirm` on."""

    @property
    def peer(self) -> HostName:
        return self.enrolled.host

    def __post_init__(self) -> None:
        self.evidence.add_done_callback(_heard)


def _heard(evidence: asyncio.Task[Evidence]) -> None:
    """Where nobody waits for it any more, an error of it is of no interest."""
    if not evidence.cancelled():
        evidence.exception()


@dataclass(slots=True, kw_only=True)
class Sessions:
    """Turns and waiting sessions of one host."""

    party: Party
    _initiating: set[HostName] = field(default_factory=set)
    _answering: set[HostName] = field(default_factory=set)
    _waiting: dict[HostName, tuple[Session, asyncio.TimerHandle]] = field(default_factory=dict)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @asynccontextmanager
    async def initiating(self, peer: HostName) -> AsyncIterator[None]:
        """This host's turn to start. Raises Busy when a handshake between the two goes on that has precedence."""
        waiting = self._waiting.get(peer)
        theirs_first = waiting is not None and waiting[0].stage is not Stage.REASONS and peer < self.party.name
        if peer in self._initiating or peer in self._answering or theirs_first:
            raise Busy("a handshake with this peer is under way", where=peer)
        self._initiating.add(peer)
        try:
            await self.give_up(peer)
            yield
        finally:
            self._initiating.discard(peer)

    @contextmanager
    def answering(self, peer: HostName, *, start: bool) -> Iterator[None]:
        """Work on one message of `peer`. Raises Busy while another one is worked on, and, where the message is the
        `start` of a handshake, while one that this host started has precedence."""
        if peer in self._answering:
            raise Busy("another message of the same host is being answered", where=self.party.name)
        if start and peer in self._initiating and self.party.name < peer:
            raise Busy("this host has started a handshake itself", where=self.party.name)
        self._answering.add(peer)
        try:
            yield
        finally:
            self._answering.discard(peer)

    def wait(self, session: Session) -> None:
        """Keep the session until its next message, for `timeout_s` at most."""
        timer = asyncio.get_running_loop().call_later(self.party.timeout_s, self._expire, session)
        self._waiting[session.peer] = (session, timer)

    def take(self, peer: HostName, session_id: bytes, *stages: Stage) -> Session:
        """The session of `peer` with this id, which no longer waits. Raises Busy if none is at one of the stages."""
        session, timer = self._waiting.get(peer, (None, None))
        if (
            session is None
            or timer is None
            or not hmac.compare_digest(session.id, session_id)
            or session.stage not in stages
        ):
            raise Busy("no such handshake is under way: it ended, or another took its place", where=self.party.name)
        timer.cancel()
        del self._waiting[peer]
        return session

    def under_way(self, peer: HostName) -> bool:
        """Whether a handshake with the peer is, whoever started it."""
        waiting = self._waiting.get(peer)
        return (
            peer in self._initiating
            or peer in self._answering
            or (waiting is not None and waiting[0].stage is not Stage.REASONS)
        )

    async def give_up(self, peer: HostName) -> None:
        """Abandon the waiting session of `peer`, if there is one."""
        waiting = self._waiting.pop(peer, None)
        if waiting is not None:
            waiting[1].cancel()
            await self._abandon(waiting[0])

    async def close(self) -> None:
        """Abandon all that waits; the daemon ends."""
        for peer in tuple(self._waiting):
            await self.give_up(peer)
        for task in tuple(self._tasks):
            await task

    def _expire(self, session: Session) -> None:
        waiting = self._waiting.get(session.peer)
        if waiting is None or waiting[0] is not session:
            return
        del self._waiting[session.peer]
        task = asyncio.get_running_loop().create_task(self._abandon(session))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _abandon(self, session: Session) -> None:
        session.evidence.cancel()
        if session.stage is not Stage.REASONS:
            await self.party.host.abandoned(session.peer, session.terms, None)
