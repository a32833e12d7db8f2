"""This host as a member of its coalition: what it offers, proves and believes, and what it does when belief ends.

Implements `peer.ports.HandshakeHost`: the handshake asks, this class answers out of the policy, the registry of
enrolled peers, the Reference Values, the reference monitor and the links. Every decision reaches the audit log before
its effect; everything that narrows happens at once, everything that widens only after the monitor permitted it.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field

from shamon_host.attestation.attester import Attester
from shamon_host.attestation.evidence import Evidence, Role
from shamon_host.daemon.appraising import Appraisal, behind_its_quote
from shamon_host.daemon.audit_log import AuditLog
from shamon_host.daemon.background import Background
from shamon_host.daemon.carried import CarriedTypes
from shamon_host.daemon.enforced_policy import EnforcedPolicy
from shamon_host.daemon.figures import Figures
from shamon_host.daemon.peer_policies import PeerPolicies
from shamon_host.daemon.permitted_links import Admitting, offered_types, permitted_links
from shamon_host.daemon.ports import Blocking, Clock
from shamon_host.daemon.references import ReferenceSource, note_reference
from shamon_host.daemon.result_history import ResultHistory
from shamon_host.daemon.store import Store
from shamon_host.daemon.suspension import Suspension, describe, is_transient
from shamon_host.daemon.tap_filters import tap_filters
from shamon_host.daemon.unused_types import UnusedTypes
from shamon_host.daemon.verifier_memory import VerifierMemory
from shamon_host.domain import admission, leases, monitor
from shamon_host.domain.admission import AdmissionState, PeerState
from shamon_host.domain.errors import BackendFailed, BadInput, NotTrusted, Refused, ShamonError
from shamon_host.domain.label_map import LabelMap
from shamon_host.domain.labels import HostName, TypeName
from shamon_host.domain.policy import Policy
from shamon_host.domain.results import AttestationResult
from shamon_host.hypervisor.report import hypervisor_report
from shamon_host.hypervisor.vms import VmManager
from shamon_host.links.manager import LinkManager
from shamon_host.links.model import KernelState
from shamon_host.links.pending import Pending
from shamon_host.links.tap_filter import TapFilter
from shamon_host.peer.enrolment import PeerRegistry
from shamon_host.peer.errors import Busy
from shamon_host.peer.ports import AgreedLink, LinkOffer, Membership, Outcome, Terms

_HINTS_PER_PERIOD = 3
_AUDIT_HEAD = "peer-audit-head"


@dataclass(kw_only=True)
class CoalitionHost:
    """See the module. `on_suspended` and `on_admitted` are told after the fact, in the event loop."""

    name: HostName
    enforced: EnforcedPolicy
    policies: PeerPolicies
    registry: PeerRegistry
    references: ReferenceSource
    store: Store
    audit: AuditLog
    history: ResultHistory
    clock: Clock
    blocking: Blocking
    attester: Attester
    links: LinkManager
    vms: VmManager
    figures: Figures
    background: Background = field(default_factory=Background)
    on_suspended: Callable[[Suspension], None] = lambda _: None
    on_admitted: Callable[[HostName], None] = lambda _: None
    on_first_admitted: Callable[[], None] = lambda: None
    """Some peer has admitted this host, for the first time in this boot."""
    on_hint: Callable[[HostName], None] = lambda _: None
    on_handshake: Callable[[HostName], None] = lambda _: None
    """A handshake with a peer that may be admitted begins, whoever started it."""
    heard: Callable[[], bool] = lambda: True
    """Whether this host may have heard by now who was expelled while it was away."""
    peers: dict[HostName, PeerState] = field(init=False)
    admitted_in_this_boot: bool = field(init=False, default=False)
    """Some peer and this host have admitted each other since the boot (`HostEntry.starting`)."""
    refusals: dict[HostName, tuple[str, ...]] = field(init=False, default_factory=dict)
    """Peer → why it does not trust this host, in its words; empty once it does."""
    unused: UnusedTypes = field(init=False, default_factory=UnusedTypes)
    offered: dict[HostName, frozenset[TypeName]] = field(init=False, default_factory=dict)
    """Peer → the types that it offered to carry in the last handshake that was confirmed."""
    _admitting: dict[HostName, Admitting] = field(init=False, default_factory=dict)
    _carried: CarriedTypes = field(init=False)
    _verified: VerifierMemory = field(init=False)
    _proved_s: dict[HostName, float] = field(init=False, default_factory=dict)
    _hinted_s: dict[HostName, float] = field(init=False, default_factory=dict)
    _unclosed: set[HostName] = field(init=False, default_factory=set)
    _locks: dict[HostName, asyncio.Lock] = field(init=False, default_factory=dict)
    _started_s: float = field(init=False)
    _closing: bool = field(init=False, default=False)
    _dropped: dict[HostName, str] = field(init=False, default_factory=dict)
    """Addresses of hosts that the policy no longer has."""

    def __post_init__(self) -> None:
        self._started_s = self.clock.boottime_s()
        self._verified = VerifierMemory(self.store, self._forgotten)
        self.peers = {host: self.new_peer(host) for host in self.policy.hosts if host != self.name}
        self._carried = CarriedTypes(self.store, peers=self.peers, types=self.policy.types)

    @property
    def policy(self) -> Policy:
        """The one in force now."""
        return self.enforced.policy

    @property
    def label_map(self) -> LabelMap:
        return self.enforced.label_map

    # What the handshake asks

    async def meet(self, peer: HostName, terms: Terms) -> None:
        if not self.policies.has_met(peer, terms.policy_digest):
            await self.blocking(lambda: self.policies.meet(peer, terms))

    async def terms(self, peer: HostName) -> Terms:
        state = self._state(peer)
        if not self.heard():
            raise Busy("this host hears first who is enrolled", where=self.name)
        if state.state is AdmissionState.EXPELLED:
            raise Refused("the host is expelled from the coalition", where=peer)
        self.on_handshake(peer)
        enrolled, own = self.registry.enrolled(peer), self.registry.enrolled(self.name)
        digest = None
        with suppress(ShamonError):  # without Reference Values the appraisal says so
            digest = self.references.load(peer).digest
        ima_offset, ima_reset_count = self._verified.wanted_from(enrolled, digest)
        if not self.policies.same(peer):
            await self.blocking(lambda: self.policies.shared(peer))  # once for two policies; large ones take long
        shared, theirs = self.policies.shared(peer), self.policies.of(peer).digest
        offers = await self.blocking(lambda: self.links.offer(peer, self._address(peer), self.types_to_offer(peer)))
        return Terms(
            coalition=self.policy.coalition,
            policy_version=self.policy.version,
            policy_digest=self.policy.digest,
            peer_policy_digest=theirs,
            shared=None
            if self.policies.same(peer)
            else tuple(sorted(shared.names[name] for name in self._both(peer) & shared.types)),
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
            return hypervisor_report(self.vms.hypervisor.domains(), self.label_map), self.links.network_state()

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
            reference, peer, policy=self.policy, signed=self.references.signed, store=self.store, audit=self.audit
        )
        state = await self.blocking(lambda: self._verified.recall(enrolled, reference.digest))
        if state is None and evidence.ima_offset:
            raise Busy("what was known of the host is void, as it was enrolled anew: it is asked for all", where=peer)
        appraisal = Appraisal(
            verifier=self.name,
            enrolled=enrolled,
            policy=self.policy,
            peer_policy=self.policies.of(peer),
            reference=reference,
            state=state,
            wall_s=self.clock.wall_s(),
        )
        with self.figures.timed("appraise_ms"):
            appraised = await self.blocking(lambda: appraisal.of(evidence, role, transcript))
        result = appraised.result
        behind = appraised.log_is_behind and self._state(peer).counts_at(self.clock.boottime_s())
        if not result.trusted and not behind:
            # First of all, whatever becomes of the rest; the same log would show the same failure again.
            words = "; ".join(describe(claim) for claim in result.failures)
            await self.suspend(peer, words, definite=not all(map(is_transient, result.failures)), received=received)
        await self.blocking(lambda: self._verified.keep(enrolled, appraised.following))
        await self.blocking(lambda: self.history.note(appraised.file, appraised.following))
        if result.trusted:
            self.store.put(_AUDIT_HEAD, peer, {"head": evidence.audit_head.hex(), "wall_s": self.clock.wall_s()})
        elif behind:
            raise behind_its_quote(peer, result)
        return result

    async def lease_s(self, peer: HostName) -> float:
        return self.policy.intervals.lease_s

    async def install_inbound(self, outcome: Outcome) -> None:
        async with self._lock(outcome.peer):
            peer, now = outcome.peer, self.clock.boottime_s()
            self._require_open(peer)
            self.policies.require_still_so(outcome)
            decision = monitor.host_admit(
                self.policy,
                peer,
                outcome.result,
                peer_policy=self.policies.of(peer).which,
                newest_seen=self.policies.newest_seen(peer),
                state=self._state(peer),
                now_wall_s=self.clock.wall_s(),
            )
            self.audit.append(decision.check, peer, decision.as_detail())
            decision.enforce()
            until = leases.lease_end_s(outcome.started_s, outcome.lease_s)
            if until <= now:
                raise Refused("the lease was over before the handshake was", where=peer)
            self.refusals.pop(peer, None)
            state = admission.admit(self._state(peer), outcome.result, until)
            links = permitted_links(
                outcome,
                state,
                name=self.name,
                own_tpm=self.registry.enrolled(self.name).tpm,
                policies=self.policies,
                audit=self.audit,
                now_s=now,
            )
            links = self.unused.without(links)
            self._admitting[peer] = Admitting(state=state, links=links)
            lifetime_s = leases.sa_lifetime_s(outcome.started_s, outcome.lease_s, now)
            await self.blocking(
                lambda: self.links.install_inbound(peer, self._address(peer), links, lifetime_s=lifetime_s)
            )

    async def install_outbound(self, outcome: Outcome) -> None:
        async with self._lock(outcome.peer):
            peer = outcome.peer
            self._require_open(peer)
            admitting = self._admitting.pop(peer, None)
            if admitting is None or admitting.state.result is not outcome.result:
                raise Refused("the peer was cut off while the handshake ran", where=peer)
            types = frozenset(link.type for link in admitting.links)
            self._carried.note(peer, types | self._carried.of(peer))
            await self.blocking(lambda: self._open_links(outcome, admitting.links))
            self._carried.note(peer, types)
            self.policies.admitted(peer)
            self.peers[peer], self.offered[peer] = admitting.state, offered_types(outcome, self.policies)
            first, self.admitted_in_this_boot = not self.admitted_in_this_boot, True
            self._proved_s[peer] = outcome.started_s
            self._unclosed.discard(peer)
        if first:
            self.on_first_admitted()
        self.on_admitted(peer)

    def _open_links(self, outcome: Outcome, links: Sequence[AgreedLink]) -> None:
        """The sending side and the gate, for what is left of the lease now. Synchronous."""
        peer, now = outcome.peer, self.clock.boottime_s()
        gate_s = leases.gate_seconds(outcome.started_s, outcome.lease_s, self.policy.intervals.margin_s, now)
        lifetime_s = leases.sa_lifetime_s(outcome.started_s, outcome.lease_s, now)
        self.links.install_outbound(peer, self._address(peer), links, gate_s=gate_s, lifetime_s=lifetime_s)
        self.links.abandon(peer, self._address(peer), outcome.unused_spis)

    async def abandoned(self, peer: HostName, terms: Terms, outcome: Outcome | None) -> None:
        admitting = self._admitting.get(peer)
        if outcome and admitting and admitting.state.result is outcome.result:
            del self._admitting[peer]
        spis = tuple(offer.spi for offer in terms.offers)
        links = outcome.links if outcome else ()
        now = self.clock.boottime_s()
        end_s = self.lease_end_s(peer) if peer in self.peers else None
        gate_s = 0.0 if end_s is None else max(0.0, end_s - self.policy.intervals.margin_s - now)
        try:
            unanswered = outcome is not None and outcome.role is Role.INITIATOR
            await self.blocking(
                lambda: self.links.abandon(peer, self._address(peer), spis, links, gate_s=gate_s, unanswered=unanswered)
            )
        except ShamonError as error:
            with suppress(ShamonError):  # the background tells the daemon, which ends
                await self.suspend(peer, f"an unfinished handshake could not be undone: {error}", definite=False)

    def hinted(self, peer: HostName, about: HostName) -> None:
        """An admitted peer suggests a look at another admitted one. Never a verdict. A look costs both a quote."""
        now = self.clock.boottime_s()
        if not all(host in self.peers and self.peers[host].counts_at(now) for host in (peer, about)):
            return
        if now - self._hinted_s.get(about, float("-inf")) < self.policy.intervals.period_s / _HINTS_PER_PERIOD:
            return
        self._hinted_s[about] = now
        self.audit.append("peer.hint", about, {"from": peer})
        self.on_hint(about)

    async def refused_by_peer(self, peer: HostName, failures: Sequence[str]) -> None:
        words = tuple(failures)
        news, self.refusals[peer] = self.refusals.get(peer) != words, words
        await self.suspend(peer, "it does not trust this host: " + "; ".join(words), definite=False)
        if news:
            self.audit.append("peer.refuses-us", peer, {"failures": list(words)})
        self.store.put("host", "refused", {"by": peer, "failures": list(words)})

    # What ends it

    async def suspend(self, peer: HostName, reason: str, *, definite: bool, received: float | None = None) -> None:
        """Cut a peer off: gate, SAs, SPD entries and devices in one pass, then tell whoever reacts.

        `received` is `time.perf_counter()` when the bad Evidence came, for the figure detect_to_teardown_ms. Goes on
        to its end also when the caller is cancelled. Raises BackendFailed when it cannot be written down; the peer is
        cut off nevertheless.
        """
        work = self._cut_off(peer, reason, definite=definite, received=received)
        await asyncio.shield(self.background.spawn(work, f"cut off {peer}", finish=True))

    async def expel(self, peer: HostName, reason: str) -> None:
        """Cut a peer off as `suspend` does, and for as long as the registry says that it is out."""
        work = self._cut_off(peer, reason, definite=True, out=True)
        await asyncio.shield(self.background.spawn(work, f"expel {peer}", finish=True))

    async def _cut_off(
        self,
        peer: HostName,
        reason: str,
        *,
        definite: bool,
        received: float | None = None,
        lapsed: bool = False,
        out: bool = False,
    ) -> None:
        async with self._lock(peer):
            if peer not in self.peers:
                return  # the policy has it no more, and everything of it is closed
            state, end_s = self._state(peer), self.lease_end_s(peer)
            renewed = lapsed and (end_s is None or end_s > self.clock.boottime_s())
            if state.state is AdmissionState.EXPELLED or renewed:
                return
            self._admitting.pop(peer, None)
            news = state.state is not AdmissionState.SUSPENDED or state.reason != reason
            carried = self._carried.of(peer)
            proved = self._proved_s.pop(peer, None)
            self.peers[peer] = admission.expel(state, reason) if out else admission.suspend(state, reason)
            try:
                if news or carried or out:
                    detail: dict[str, object] = {"reason": reason, "definite": definite, "carried": sorted(carried)}
                    if proved is not None:
                        detail["exposure_s"] = round(self.clock.boottime_s() - proved, 3)
                    self.audit.append("peer.expel" if out else "peer.suspend", peer, detail)
            finally:
                # It only narrows: done even if the log cannot be written any more.
                await self._close_links(peer)
            if received is not None and carried:
                self.figures.add("detect_to_teardown_ms", (time.perf_counter() - received) * 1000)
            if news or carried or out:
                self.on_suspended(Suspension(peer=peer, reason=reason, definite=definite, carried=carried))
            self._carried.forget(peer)

    async def _close_links(self, peer: HostName) -> None:
        """Remove everything of the peer; what fails is tried again by `close_unfinished`."""
        try:
            await self.blocking(lambda: self.links.close_peer(peer, self._address(peer)))
        except BackendFailed as error:
            if peer not in self._unclosed:
                self._unclosed.add(peer)
                self.audit.append("peer.not-closed", peer, {"reason": str(error)})
        else:
            self._unclosed.discard(peer)

    async def close_unfinished(self) -> None:
        """Try again to remove what could not be removed when a peer was cut off."""
        for peer in tuple(self._unclosed):
            async with self._lock(peer):
                if peer in self.peers and self.peers[peer].state is not AdmissionState.ADMITTED:
                    await self._close_links(peer)

    async def close(self) -> None:
        """Install nothing any more; returns when nothing is being installed."""
        self._closing = True
        for lock in tuple(self._locks.values()):
            async with lock:
                pass

    async def close_expelled(self, peer: HostName) -> None:
        """Remove whatever an earlier run of this daemon left of a host that was expelled, or left, since."""
        self.audit.append("peer.expelled", peer, {})
        await self.blocking(lambda: self.links.close_peer(peer, self._address(peer)))

    async def lapse(self, peer: HostName) -> None:
        """Cut the peer off if its lease is over."""
        since = "in time" if self._state(peer).state is AdmissionState.ADMITTED else "since this daemon started"
        work = self._cut_off(peer, f"the lease ended: no passing Evidence came {since}", definite=False, lapsed=True)
        await asyncio.shield(self.background.spawn(work, f"lapse of {peer}", finish=True))

    def lease_end_s(self, peer: HostName) -> float | None:
        """CLOCK_BOOTTIME at which the peer's lease ends. None for a peer without one.

        Links that an earlier run of this daemon left have a lease from its start on, at most."""
        state = self._state(peer)
        if state.state is AdmissionState.ADMITTED:
            return state.lease_until_s
        if state.state is AdmissionState.ENROLLED and peer in self._carried:
            return self._started_s + self.policy.intervals.lease_s
        return None

    def proved_s(self, peer: HostName) -> float:
        """CLOCK_BOOTTIME at which the handshake began that admitted the peer last; -inf when none did."""
        return self._proved_s.get(peer, float("-inf"))

    # What changes it

    @asynccontextmanager
    async def exclusively(self) -> AsyncIterator[None]:
        """No handshake installs anything meanwhile, and one that began before installs nothing afterwards."""
        async with AsyncExitStack() as held:
            for peer in sorted({*self.peers, *self._locks}):
                await held.enter_async_context(self._lock(peer))
            self._admitting.clear()
            yield

    async def close_types(self, peer: HostName, types: frozenset[TypeName], reason: str) -> None:
        """Remove the links of these types to the peer; the others go on."""
        if types:
            await self.blocking(lambda: self.links.close_types(peer, types, reason))
            if peer in self._carried:
                self._carried.note(peer, self._carried.of(peer) - types)

    async def withdraw(self, peer: HostName, types: frozenset[TypeName], reason: str) -> None:
        """As `close_types`, for a handshake that is under way too: it brings none of them."""
        async with self._lock(peer):
            if (admitting := self._admitting.get(peer)) is not None:
                self._admitting[peer] = admitting.without(types)
            if peer in self.peers:
                await self.close_types(peer, types, reason)

    def meet_host(self, host: HostName) -> None:
        """The policy has a new host."""
        self.peers.setdefault(host, self.new_peer(host))

    async def drop_host(self, host: HostName, address: str) -> None:
        """The policy has this host no more. What still goes on with it finds its address, and nothing else."""
        self._dropped[host] = address
        await self.blocking(lambda: self.links.close_peer(host, address))
        self._carried.forget(host)
        self._proved_s.pop(host, None)
        self._hinted_s.pop(host, None)
        self.refusals.pop(host, None)
        self.offered.pop(host, None)
        self._unclosed.discard(host)
        del self.peers[host]

    # What it carries

    def types_to_offer(self, peer: HostName) -> frozenset[TypeName]:
        """Types that VMs of this host use now and that both hosts may carry."""
        used = self.vms.running_types()
        self.unused.offered(used)
        return used & self._both(peer) & self.policies.shared(peer).types

    def _both(self, peer: HostName) -> frozenset[TypeName]:
        """Types that both hosts may carry."""
        return self.policy.hosts[self.name].types & self.policy.hosts[peer].types

    def carried(self, peer: HostName) -> frozenset[TypeName]:
        """Types of the links that are up to the peer."""
        admitted = self._state(peer).state is AdmissionState.ADMITTED
        return self._carried.of(peer) if admitted else frozenset()

    def carried_ever(self, peer: HostName) -> frozenset[TypeName]:
        """Types of the links to the peer that are up, or that nobody has looked after yet."""
        return self._carried.of(peer)

    def reconcile_links(self) -> KernelState:
        """Bring the kernel's link objects, and the taps of our VMs, to what is wanted; they are returned as last read.
        Synchronous."""
        return self.links.reconcile(self.vms.taps(), self._tap_filters())

    def pending_links(self) -> Pending:
        """What `reconcile_links` would do now. Synchronous."""
        return self.links.pending(self.vms.taps(), self._tap_filters())

    def _tap_filters(self) -> dict[str, TapFilter]:
        return tap_filters(self.policy, self.vms.devices(), self.clock.wall_s())

    def _require_open(self, peer: HostName) -> None:
        if self._closing:
            raise Refused("this host's daemon is stopping", where=peer)

    def _state(self, peer: HostName) -> PeerState:
        try:
            return self.peers[peer]
        except KeyError:
            raise Refused("the policy knows no such host", where=peer) from None

    def _address(self, peer: HostName) -> str:
        """Of a host of the policy, or of one that it had until a while ago. Raises Refused."""
        entry = self.policy.hosts.get(peer)
        if entry is None and peer not in self._dropped:
            raise Refused("the policy knows no such host", where=peer)
        return entry.address if entry else self._dropped[peer]

    def new_peer(self, host: HostName) -> PeerState:
        """What a peer is before it has proved anything, by the registry."""
        known = self.registry.get(host)
        if known is not None and known.membership is not Membership.ENROLLED:
            return PeerState(
                host=host, state=AdmissionState.EXPELLED, reason=known.reason or f"it was {known.membership}"
            )
        return PeerState(host=host)

    def _forgotten(self, ak_name: bytes, error: BadInput) -> None:
        """Another version of this program wrote what was known of an AK."""
        whose = next((peer.host for peer in self.registry.hosts() if peer.ak_name == ak_name), ak_name.hex())
        self.audit.append("peer.state-unreadable", whose, {"reason": str(error)})

    def _lock(self, peer: HostName) -> asyncio.Lock:
        return self._locks.setdefault(peer, asyncio.Lock())
