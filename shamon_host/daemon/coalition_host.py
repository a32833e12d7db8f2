"""This host as a member of its coalition, to one peer at a time: what it offers, what it proves, what it believes.

Implements `peer.ports.HandshakeHost`: the handshake asks, this class answers out of the policy, the registry of
enrolled peers, the Reference Values, the reference monitor and the links. What widens does so only after the monitor
permitted it, which is in the audit log before. What becomes of the peer afterwards is the business of `admissions`.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from shamon_host.attestation.attester import Attester
from shamon_host.attestation.evidence import Evidence, Role
from shamon_host.daemon.admissions import Admissions
from shamon_host.daemon.appraising import Appraisal, behind_its_quote
from shamon_host.daemon.audit_log import AuditLog
from shamon_host.daemon.boot_session import BootSession
from shamon_host.daemon.enforced_policy import EnforcedPolicy
from shamon_host.daemon.figures import Figures
from shamon_host.daemon.hypervisor_policy import HypervisorPolicy
from shamon_host.daemon.link_types import LinkTypes
from shamon_host.daemon.peer_policies import PeerPolicies
from shamon_host.daemon.permitted_links import Admitting, permitted_links
from shamon_host.daemon.ports import Blocking, Clock
from shamon_host.daemon.references import ReferenceSource, note_reference
from shamon_host.daemon.result_history import ResultHistory
from shamon_host.daemon.store import Store
from shamon_host.daemon.suspension import describe, is_definite
from shamon_host.daemon.verifier_memory import VerifierMemory
from shamon_host.daemon.vm_owners import VmOwners
from shamon_host.domain import admission, leases, monitor
from shamon_host.domain.admission import AdmissionState
from shamon_host.domain.errors import BadInput, NotTrusted, Refused, ShamonError
from shamon_host.domain.labels import HostName, VmName
from shamon_host.domain.results import AttestationResult
from shamon_host.domain.vm_tokens import VmToken
from shamon_host.hypervisor.mac_vm_report import NOT_YET, ReportedMacVm, RuntimeState
from shamon_host.hypervisor.ports import Hypervisor
from shamon_host.hypervisor.report import hypervisor_report
from shamon_host.links.manager import LinkManager
from shamon_host.peer.enrolment import PeerRegistry
from shamon_host.peer.errors import Busy
from shamon_host.peer.ports import AgreedLink, LinkOffer, Outcome, Terms

_HINTS_PER_PERIOD = 3
_AUDIT_HEAD = "peer-audit-head"


@dataclass(kw_only=True)
class CoalitionHost:
    """See the module."""

    name: HostName
    enforced: EnforcedPolicy
    policies: PeerPolicies
    registry: PeerRegistry
    references: ReferenceSource
    store: Store
    session: BootSession
    audit: AuditLog
    history: ResultHistory
    clock: Clock
    blocking: Blocking
    attester: Attester
    links: LinkManager
    hypervisor: Hypervisor
    xen: HypervisorPolicy | None
    types: LinkTypes
    admissions: Admissions
    owners: VmOwners
    mac_vm: Callable[[], ReportedMacVm | None]
    """What holds this host's links was started from; None where the host itself does."""
    figures: Figures
    on_moves: Callable[[Sequence[tuple[VmToken, bytes]]], None]
    """A peer that passes has shown tokens of VMs that were not known here."""
    on_hint: Callable[[HostName], None]
    on_handshake: Callable[[HostName], None]
    """A handshake with a peer that may be admitted begins, whoever started it."""
    heard: Callable[[], bool]
    """Whether this host may have heard by now who was expelled while it was away."""
    refusals: dict[HostName, tuple[str, ...]] = field(init=False, default_factory=dict)
    """Peer → why it does not trust this host, in its words; empty once it does."""
    _verified: VerifierMemory = field(init=False)
    _hinted_s: dict[HostName, float] = field(init=False, default_factory=dict)
    _tokens: dict[HostName, Mapping[VmName, VmToken]] = field(init=False, default_factory=dict)
    """Peer → the newest tokens of VMs that were known when the handshake with it began."""

    def __post_init__(self) -> None:
        self._verified = VerifierMemory(self.store, self._unreadable)

    async def meet(self, peer: HostName, terms: Terms) -> None:
        if not self.policies.has_met(peer, terms.policy_digest):
            await self.blocking(lambda: self.policies.meet(peer, terms))

    async def terms(self, peer: HostName) -> Terms:
        state = self.admissions.state(peer)
        if not self.heard():
            raise Busy("this host hears first who is enrolled", where=self.name)
        if state.state is AdmissionState.EXPELLED:
            raise Refused("the host is expelled from the coalition", where=peer)
        self.on_handshake(peer)
        self._tokens[peer] = self.owners.known()
        enrolled, own = self.registry.enrolled(peer), self.registry.enrolled(self.name)
        digest = None
        with suppress(ShamonError):  # without Reference Values the appraisal says so
            digest = self.references.load(peer).digest
        ima_offset, ima_reset_count = self._verified.wanted_from(enrolled, digest)
        if not self.policies.same(peer):
            await self.blocking(lambda: self.policies.shared(peer))  # once for two policies; large ones take long
        shared, theirs = self.policies.shared(peer), self.policies.of(peer).digest
        offers = await self.blocking(
            lambda: self.links.offer(peer, self.admissions.address(peer), self.types.to_offer(peer))
        )
        policy = self.enforced.policy
        return Terms(
            coalition=policy.coalition,
            policy_version=policy.version,
            policy_digest=policy.digest,
            peer_policy_digest=theirs,
            shared=None
            if self.policies.same(peer)
            else tuple(sorted(shared.names[name] for name in self.types.both_may_carry(peer) & shared.types)),
            certificate_sha256=own.certificate_sha256,
            ak_name=own.ak_name,
            offers=tuple(LinkOffer(type=shared.names[offer.type], port=offer.port, spi=offer.spi) for offer in offers),
            ima_offset=ima_offset,
            ima_reset_count=ima_reset_count,
        )

    async def evidence(
        self, peer: HostName, role: Role, transcript: bytes, *, ima_offset: int, ima_reset_count: int
    ) -> Evidence:
        def observe() -> tuple[bytes, bytes]:
            flask = self.xen.reported() if self.xen else None
            domains, tokens = self.hypervisor.domains(), self.owners.reported(self.name)
            report = hypervisor_report(domains, self.enforced.label_map, flask, tokens, self.mac_vm())
            return report, self.links.network_state()

        report, network = await self.blocking(observe)
        with self.figures.timed("quote_ms"):
            return await self.attester.evidence(
                role=role,
                transcript=transcript,
                hypervisor_report=report,
                network_state=network,
                audit_head=self.audit.head(),
                ima_offset=ima_offset,
                ima_reset_count=ima_reset_count,
            )

    async def appraise(
        self, peer: HostName, role: Role, transcript: bytes, terms: Terms, evidence: Evidence
    ) -> AttestationResult:
        received = time.perf_counter()
        enrolled = self.registry.enrolled(peer)
        if terms.ak_name != enrolled.ak_name:
            raise NotTrusted("the peer speaks for another AK than the enrolled one", where=peer)
        reference = self.references.load(peer)
        note_reference(
            reference,
            peer,
            policy=self.enforced.policy,
            signed=self.references.signed,
            store=self.store,
            audit=self.audit,
        )
        state = await self.blocking(lambda: self._verified.recall(enrolled, reference.digest))
        if state is None and evidence.ima_offset:
            raise Busy("what was known of the host is void, as it was enrolled anew: it is asked for all", where=peer)
        appraisal = Appraisal(
            verifier=self.name,
            enrolled=enrolled,
            policy=self.enforced.policy,
            peer_policy=self.policies.of(peer),
            reference=reference,
            state=state,
            wall_s=self.clock.wall_s(),
            tokens=self._tokens.get(peer, {}),
            key_of=self.owners.key_of,
        )
        with self.figures.timed("appraise_ms"):
            appraised = await self.blocking(lambda: appraisal.of(evidence, role, transcript))
        result = appraised.result
        behind = appraised.log_is_behind and self.admissions.state(peer).counts_at(self.clock.boottime_s())
        if not result.trusted and not behind:
            # First of all, whatever becomes of the rest; the same log would show the same failure again.
            words = "; ".join(describe(claim) for claim in result.failures)
            await self.admissions.suspend(
                peer, words, definite=any(map(is_definite, result.failures)), received=received
            )
        await self.blocking(lambda: self._verified.keep(enrolled, appraised.following))
        await self.blocking(lambda: self.history.note(appraised.file, appraised.following))
        # By another policy a VM of the same name may be another VM.
        if result.trusted and appraised.moves and self.policies.same(peer):
            self.on_moves(appraised.moves)
        if result.trusted:
            self.store.put(_AUDIT_HEAD, peer, {"head": evidence.audit_head.hex(), "wall_s": self.clock.wall_s()})
        elif behind:
            raise behind_its_quote(peer, result)
        return result

    async def lease_s(self, peer: HostName) -> float:
        return self.enforced.policy.intervals.lease_s

    async def install_inbound(self, outcome: Outcome) -> None:
        peer = outcome.peer
        async with self.admissions.installing(peer):
            now = self.clock.boottime_s()
            self.policies.require_still_so(outcome)
            self._require_own_mac_vm()
            decision = monitor.host_admit(
                self.enforced.policy,
                peer,
                outcome.result,
                peer_policy=self.policies.of(peer).which,
                newest_seen=self.policies.newest_seen(peer),
                state=self.admissions.state(peer),
                now_wall_s=self.clock.wall_s(),
            )
            self.audit.append(decision.check, peer, decision.as_detail())
            decision.enforce()
            until = leases.lease_end_s(outcome.started_s, outcome.lease_s)
            if until <= now:
                raise Refused("the lease was over before the handshake was", where=peer)
            self.refusals.pop(peer, None)
            state = admission.admit(self.admissions.state(peer), outcome.result, until)
            links = permitted_links(
                outcome,
                state,
                name=self.name,
                own_tpm=self.registry.enrolled(self.name).tpm,
                policies=self.policies,
                audit=self.audit,
                now_s=now,
            )
            links = self.types.without_unused(links)
            self.admissions.begin(peer, Admitting(state=state, links=links))
            lifetime_s = leases.sa_lifetime_s(outcome.started_s, outcome.lease_s, now)
            await self.blocking(
                lambda: self.links.install_inbound(peer, self.admissions.address(peer), links, lifetime_s=lifetime_s)
            )

    async def install_outbound(self, outcome: Outcome) -> None:
        await self.admissions.complete(outcome, lambda links: self._open_links(outcome, links))

    def _open_links(self, outcome: Outcome, links: Sequence[AgreedLink]) -> None:
        """The sending side and the gate, for what is left of the lease now. Synchronous."""
        peer, now = outcome.peer, self.clock.boottime_s()
        gate_s = leases.gate_seconds(outcome.started_s, outcome.lease_s, self.enforced.policy.intervals.margin_s, now)
        lifetime_s = leases.sa_lifetime_s(outcome.started_s, outcome.lease_s, now)
        self.links.install_outbound(peer, self.admissions.address(peer), links, gate_s=gate_s, lifetime_s=lifetime_s)
        self.links.abandon(peer, self.admissions.address(peer), outcome.unused_spis)

    async def abandoned(self, peer: HostName, terms: Terms, outcome: Outcome | None) -> None:
        if outcome:
            self.admissions.give_up(outcome)
        spis = tuple(offer.spi for offer in terms.offers)
        links = outcome.links if outcome else ()
        now = self.clock.boottime_s()
        end_s = self.admissions.lease_end_s(peer) if peer in self.admissions.peers else None
        gate_s = 0.0 if end_s is None else max(0.0, end_s - self.enforced.policy.intervals.margin_s - now)
        try:
            unanswered = outcome is not None and outcome.role is Role.INITIATOR
            await self.blocking(
                lambda: self.links.abandon(
                    peer, self.admissions.address(peer), spis, links, gate_s=gate_s, unanswered=unanswered
                )
            )
        except ShamonError as error:
            with suppress(ShamonError):  # the background tells the daemon, which ends
                await self.admissions.suspend(
                    peer, f"an unfinished handshake could not be undone: {error}", definite=False
                )

    def hinted(self, peer: HostName, about: HostName) -> None:
        """An admitted peer suggests a look at another admitted one. Never a verdict. A look costs both a quote."""
        now, peers = self.clock.boottime_s(), self.admissions.peers
        if not all(host in peers and peers[host].counts_at(now) for host in (peer, about)):
            return
        if now - self._hinted_s.get(about, float("-inf")) < self.enforced.policy.intervals.period_s / _HINTS_PER_PERIOD:
            return
        self._hinted_s[about] = now
        self.audit.append("peer.hint", about, {"from": peer})
        self.on_hint(about)

    async def refused_by_peer(self, peer: HostName, failures: Sequence[str]) -> None:
        words = tuple(failures)
        news, self.refusals[peer] = self.refusals.get(peer) != words, words
        await self.admissions.suspend(peer, "it does not trust this host: " + "; ".join(words), definite=False)
        if news:
            self.audit.append("peer.refuses-us", peer, {"failures": list(words)})
        not_yet = self._own_runtime() is RuntimeState.WAITING and words and all(NOT_YET in each for each in words)
        if not not_yet:
            self.session.note_refused(peer, words)

    def _require_own_mac_vm(self) -> None:
        """Raises Refused where what would hold the links is to be attested, and is not."""
        state = self._own_runtime()
        if state not in (None, RuntimeState.ATTESTED):
            raise Refused("the VM that holds this host's links is not attested", where=self.name, found=str(state))

    def _own_runtime(self) -> RuntimeState | None:
        mac_vm = self.mac_vm()
        return mac_vm.runtime.state if mac_vm is not None and mac_vm.runtime is not None else None

    def forget(self, peer: HostName) -> None:
        """The policy has this host no more."""
        self.refusals.pop(peer, None)
        self._hinted_s.pop(peer, None)
        self._tokens.pop(peer, None)

    def _unreadable(self, ak_name: bytes, error: BadInput) -> None:
        """Another version of this program wrote what was known of an AK."""
        whose = next((peer.host for peer in self.registry.hosts() if peer.ak_name == ak_name), ak_name.hex())
        self.audit.append("peer.state-unreadable", whose, {"reason": str(error)})
