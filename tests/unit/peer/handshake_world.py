"""Two or more hosts on a memory network whose Evidence is made up: everything of the handshake, nothing below it."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from shamon_host.attestation.evidence import Evidence, Role, leaf
from shamon_host.attestation.ports import QUOTED_PCRS, Quote
from shamon_host.domain.errors import ShamonError
from shamon_host.domain.labels import HostName, TypeName
from shamon_host.domain.policy import HostEntry
from shamon_host.domain.results import AttestationResult, Claim, ClaimName, ClaimStatus, TpmKind
from shamon_host.peer.enrolment import PeerRegistry
from shamon_host.peer.handshake import Handshaker, PeerService
from shamon_host.peer.ports import EnrolledPeer, LinkOffer, Outcome, Terms
from shamon_host.testing.clock import VirtualClock
from shamon_host.testing.network import MemoryNetwork, memory_identity

RED, BLUE, GREEN = TypeName("acme/red"), TypeName("rival/blue"), TypeName("acme/green")
ALPHA, BETA, GAMMA = HostName("alpha"), HostName("beta"), HostName("gamma")
TIMEOUT_S = 20.0


def enrolled(host: HostName) -> EnrolledPeer:
    public = f"AK of {host}".encode()
    return EnrolledPeer(
        host=host,
        certificate_sha256=memory_identity(host).certificate_sha256,
        ak_public=public,
        ak_name=b"\x00\x0b" + hashlib.sha256(public).digest(),
        tpm=TpmKind.SOFTWARE,
    )


def entry(host: HostName) -> HostEntry:
    return HostEntry(name=host, address="192.0.2.1", port=7443, types=frozenset({RED, BLUE, GREEN}))


@dataclass
class StubHost:
    """`HandshakeHost` that takes down what it is asked. Its Evidence is good iff it carries the leaf expected."""

    name: HostName
    coalition: str = "example"
    policy_version: int = 1
    policy_digest: str = "ab" * 32
    peer_policy_digest: str | None = None
    """What it takes its peers' policies to be; None: the same as its own."""
    shared: tuple[TypeName, ...] | None = None
    types: Sequence[TypeName] = (RED, BLUE)
    lease: float = 90.0
    good: bool = True
    """What others find of this host."""
    meet_error: ShamonError | None = None
    met: list[tuple[HostName, Terms]] = field(default_factory=list)
    """Whose terms it was told before it relied on them."""
    terms_error: ShamonError | None = None
    install_error: ShamonError | None = None
    terms_changes: dict[str, object] = field(default_factory=dict)
    calls: list[tuple[str, object]] = field(default_factory=list)
    inbound: dict[HostName, Outcome] = field(default_factory=dict)
    outbound: dict[HostName, Outcome] = field(default_factory=dict)
    open_terms: list[Terms] = field(default_factory=list)
    refusals: list[tuple[HostName, tuple[str, ...]]] = field(default_factory=list)
    _next_spi: int = 0x1000

    async def meet(self, peer: HostName, terms: Terms) -> None:
        self.met.append((peer, terms))
        if self.meet_error is not None:
            raise self.meet_error

    async def terms(self, peer: HostName) -> Terms:
        if self.terms_error is not None:
            raise self.terms_error
        offers = []
        for number, type_ in enumerate(self.types):
            self._next_spi += 1
            offers.append(LinkOffer(type=type_, port=40000 + number, spi=self._next_spi))
        own = enrolled(self.name)
        terms = Terms(
            coalition=self.coalition,
            policy_version=self.policy_version,
            policy_digest=self.policy_digest,
            peer_policy_digest=self.policy_digest if self.peer_policy_digest is None else self.peer_policy_digest,
            shared=self.shared,
            certificate_sha256=own.certificate_sha256,
            ak_name=own.ak_name,
            offers=tuple(offers),
            ima_offset=0,
            ima_reset_count=1,
        )
        terms = replace(terms, **self.terms_changes)  # type: ignore[arg-type]
        self.open_terms.append(terms)
        return terms

    async def evidence(
        self, peer: HostName, role: Role, transcript: bytes, *, ima_offset: int, ima_reset_count: int
    ) -> Evidence:
        self.calls.append(("evidence", role))
        bound = leaf(role, transcript, hypervisor_report=b"{}", network_state=b"{}", audit_head=bytes(32))
        signature = hashlib.sha256(bound + self.name.encode()).digest()
        return Evidence(
            quote=Quote(attest=bound, signature=signature, pcr_values=dict.fromkeys(QUOTED_PCRS, bytes(32))),
            merkle_index=0,
            merkle_path=(),
            event_log=b"good" if self.good else b"bad",
            ima_offset=ima_offset,
            ima_log=b"",
            hypervisor_report=b"{}",
            network_state=b"{}",
            audit_head=bytes(32),
        )

    async def appraise(
        self, peer: HostName, role: Role, transcript: bytes, terms: Terms, evidence: Evidence
    ) -> AttestationResult:
        self.calls.append(("appraise", role))
        bound = leaf(
            role,
            transcript,
            hypervisor_report=evidence.hypervisor_report,
            network_state=evidence.network_state,
            audit_head=evidence.audit_head,
        )
        signed = evidence.quote.signature == hashlib.sha256(evidence.quote.attest + peer.encode()).digest()
        fresh = signed and evidence.quote.attest == bound
        claims = []
        for name in ClaimName:
            held = {ClaimName.BINDING: fresh, ClaimName.BOOT_CHAIN: evidence.event_log == b"good"}.get(name, True)
            claims.append(
                Claim(
                    name=name,
                    status=ClaimStatus.PASS if held else ClaimStatus.FAIL,
                    reason="as expected" if held else "not as expected",
                    where="" if held else "PCR 4",
                )
            )
        return AttestationResult(
            host=peer, ak_name=terms.ak_name, reset_count=1, tpm=TpmKind.SOFTWARE, claims=tuple(claims)
        )

    async def lease_s(self, peer: HostName) -> float:
        return self.lease

    async def install_inbound(self, outcome: Outcome) -> None:
        self.calls.append(("inbound", outcome.peer))
        assert outcome.result.trusted
        self.inbound[outcome.peer] = outcome

    async def install_outbound(self, outcome: Outcome) -> None:
        self.calls.append(("outbound", outcome.peer))
        assert self.inbound[outcome.peer] is outcome
        if self.install_error is not None:
            raise self.install_error
        self.outbound[outcome.peer] = outcome
        self.open_terms.pop()

    async def abandoned(self, peer: HostName, terms: Terms, outcome: Outcome | None) -> None:
        self.calls.append(("abandoned", peer))
        self.open_terms.remove(terms)
        if outcome is not None:
            for side in (self.inbound, self.outbound):
                if side.get(peer) is outcome:
                    del side[peer]

    async def refused_by_peer(self, peer: HostName, failures: Sequence[str]) -> None:
        self.refusals.append((peer, tuple(failures)))

    @property
    def nothing_installed(self) -> bool:
        return not self.inbound and not self.outbound

    def called(self, what: str) -> int:
        return sum(1 for name, _ in self.calls if name == what)


class World:
    """Hosts that know each other."""

    def __init__(self, *names: HostName, latency_s: float = 0.01) -> None:
        names = names or (ALPHA, BETA)
        self.network = MemoryNetwork(latency_s=latency_s)
        self.clock = VirtualClock()
        self.hosts = {name: StubHost(name) for name in names}
        self.registries = {name: PeerRegistry(enrolled(other) for other in names) for name in names}
        self.hints: list[tuple[HostName, HostName, HostName]] = []
        self.handshakers: dict[HostName, Handshaker] = {}
        self.services: dict[HostName, PeerService] = {}
        for name in names:
            self.start(name)

    def start(self, name: HostName) -> None:
        registry, identity = self.registries[name], memory_identity(name)
        self.handshakers[name] = Handshaker(
            name=name,
            host=self.hosts[name],
            directory=registry,
            transport=self.network.transport(identity, registry),
            boottime_s=self.clock.boottime_s,
            timeout=lambda: TIMEOUT_S,
        )
        self.services[name] = PeerService(
            handshaker=self.handshakers[name],
            hinted=lambda peer, about: self.hints.append((name, peer, about)),
        )
        self.network.listen(identity, self.services[name], registry)

    async def initiate(self, initiator: HostName = ALPHA, responder: HostName = BETA) -> Outcome:
        return await self.handshakers[initiator].initiate(entry(responder))

    async def settle(self) -> None:
        """Let every session run out, then check that no host holds anything for a handshake that failed."""
        await self.clock.sleep(2 * TIMEOUT_S)
        for host in self.hosts.values():
            assert host.open_terms == [], f"{host.name} was left with terms"
            assert set(host.inbound) == set(host.outbound), f"{host.name} has one side only"
