"""The admissions of this host's peers over their life: who is admitted until when, what ends that, what changes it.

`coalition_host` brings an admission about, step by step, out of a handshake. Everything else is here: an admission ends
when a peer fails, falls silent, or is expelled, and changes when the policy or what this host's VMs use does. Every
decision reaches the audit log before its effect; everything that narrows happens at once.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from types import MappingProxyType

from shamon_host.daemon.audit_log import AuditLog
from shamon_host.daemon.background import Background
from shamon_host.daemon.boot_session import BootSession
from shamon_host.daemon.carried import CarriedTypes
from shamon_host.daemon.enforced_policy import EnforcedPolicy
from shamon_host.daemon.figures import Figures
from shamon_host.daemon.peer_policies import PeerPolicies
from shamon_host.daemon.permitted_links import Admitting, offered_types
from shamon_host.daemon.ports import Blocking, Clock
from shamon_host.daemon.store import Store
from shamon_host.daemon.suspension import Suspension
from shamon_host.domain import admission
from shamon_host.domain.admission import AdmissionState, PeerState
from shamon_host.domain.errors import BackendFailed, Refused
from shamon_host.domain.labels import HostName, TypeName
from shamon_host.links.manager import LinkManager
from shamon_host.peer.enrolment import PeerRegistry
from shamon_host.peer.ports import AgreedLink, Membership, Outcome


@dataclass(kw_only=True)
class Admissions:
    """See the module. `on_suspended` and `on_admitted` are told after the fact, in the event loop."""

    name: HostName
    enforced: EnforcedPolicy
    policies: PeerPolicies
    registry: PeerRegistry
    store: Store
    session: BootSession
    audit: AuditLog
    clock: Clock
    blocking: Blocking
    links: LinkManager
    figures: Figures
    background: Background
    on_suspended: Callable[[Suspension], None]
    on_admitted: Callable[[HostName], None]
    on_first_admitted: Callable[[], None]
    """Some peer and this host have admitted each other, for the first time in this boot."""
    peers: Mapping[HostName, PeerState] = field(init=False)
    """The other hosts of the policy, as they are now."""
    offered: dict[HostName, frozenset[TypeName]] = field(init=False, default_factory=dict)
    """Peer → the types that it offered to carry in the last handshake that was confirmed."""
    _peers: dict[HostName, PeerState] = field(init=False)
    _admitting: dict[HostName, Admitting] = field(init=False, default_factory=dict)
    _carried: CarriedTypes = field(init=False)
    _proved_s: dict[HostName, float] = field(init=False, default_factory=dict)
    _unclosed: set[HostName] = field(init=False, default_factory=set)
    _locks: dict[HostName, asyncio.Lock] = field(init=False, default_factory=dict)
    _started_s: float = field(init=False)
    _closing: bool = field(init=False, default=False)
    _dropped: dict[HostName, str] = field(init=False, default_factory=dict)
    """Addresses of hosts that the policy no longer has."""

    def __post_init__(self) -> None:
        policy = self.enforced.policy
        self._started_s = self.clock.boottime_s()
        self._peers = {host: self._unproved(host) for host in policy.hosts if host != self.name}
        self.peers = MappingProxyType(self._peers)
        self._carried = CarriedTypes(self.store, peers=self._peers, types=policy.types)

    # What is known of a peer

    def state(self, peer: HostName) -> PeerState:
        """Raises Refused for a host that the policy does not have."""
        try:
            return self._peers[peer]
        except KeyError:
            raise Refused("the policy knows no such host", where=peer) from None

    def address(self, peer: HostName) -> str:
        """Of a host of the policy, or of one that it had until a while ago. Raises Refused."""
        entry = self.enforced.policy.hosts.get(peer)
        if entry is None and peer not in self._dropped:
            raise Refused("the policy knows no such host", where=peer)
        return entry.address if entry else self._dropped[peer]

    def lease_end_s(self, peer: HostName) -> float | None:
        """CLOCK_BOOTTIME at which the peer's lease ends. None for a peer without one.

        Links that an earlier run of this daemon left have a lease from its start on, at most."""
        state = self.state(peer)
        if state.state is AdmissionState.ADMITTED:
            return state.lease_until_s
        if state.state is AdmissionState.ENROLLED and peer in self._carried:
            return self._started_s + self.enforced.policy.intervals.lease_s
        return None

    def proved_s(self, peer: HostName) -> float:
        """CLOCK_BOOTTIME at which the handshake began that admitted the peer last; -inf when none did."""
        return self._proved_s.get(peer, float("-inf"))

    def carried(self, peer: HostName) -> frozenset[TypeName]:
        """Types of the links that are up to the peer."""
        admitted = self.state(peer).state is AdmissionState.ADMITTED
        return self._carried.of(peer) if admitted else frozenset()

    def carried_ever(self, peer: HostName) -> frozenset[TypeName]:
        """Types of the links to the peer that are up, or that nobody has looked after yet."""
        return self._carried.of(peer)

    # How one comes about

    @asynccontextmanager
    async def installing(self, peer: HostName) -> AsyncIterator[None]:
        """Nobody else installs or removes anything of the peer meanwhile. Raises Refused while this host stops."""
        async with self._lock(peer):
            if self._closing:
                raise Refused("this host's daemon is stopping", where=peer)
            yield

    def begin(self, peer: HostName, admitting: Admitting) -> None:
        """A handshake with the peer is about to be confirmed: called while `installing`."""
        self._admitting[peer] = admitting

    def give_up(self, outcome: Outcome) -> None:
        """The handshake with this outcome came to nothing."""
        admitting = self._admitting.get(outcome.peer)
        if admitting and admitting.state.result is outcome.result:
            del self._admitting[outcome.peer]

    async def complete(self, outcome: Outcome, open_links: Callable[[tuple[AgreedLink, ...]], None]) -> None:
        """Admit the peer that `begin` was called for. `open_links` is called in `blocking` with what it is to carry.

        Raises Refused when the peer was cut off since, or this host stops; what `open_links` raises.
        """
        peer = outcome.peer
        async with self.installing(peer):
            admitting = self._admitting.pop(peer, None)
            if admitting is None or admitting.state.result is not outcome.result:
                raise Refused("the peer was cut off while the handshake ran", where=peer)
            types = frozenset(link.type for link in admitting.links)
            self._carried.note(peer, types | self._carried.of(peer))
            await self.blocking(lambda: open_links(admitting.links))
            self._carried.note(peer, types)
            self.policies.admitted(peer)
            self._peers[peer], self.offered[peer] = admitting.state, offered_types(outcome, self.policies)
            self._proved_s[peer] = outcome.started_s
            self._unclosed.discard(peer)
        if self.session.note_admitted():
            self.on_first_admitted()
        self.on_admitted(peer)

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

    async def lapse(self, peer: HostName) -> None:
        """Cut the peer off if its lease is over."""
        since = "in time" if self.state(peer).state is AdmissionState.ADMITTED else "since this daemon started"
        work = self._cut_off(peer, f"the lease ended: no passing Evidence came {since}", definite=False, lapsed=True)
        await asyncio.shield(self.background.spawn(work, f"lapse of {peer}", finish=True))

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
            if peer not in self._peers:
                return  # the policy has it no more, and everything of it is closed
            state, end_s = self.state(peer), self.lease_end_s(peer)
            renewed = lapsed and (end_s is None or end_s > self.clock.boottime_s())
            if state.state is AdmissionState.EXPELLED or renewed:
                return
            self._admitting.pop(peer, None)
            news = state.state is not AdmissionState.SUSPENDED or state.reason != reason
            carried = self._carried.of(peer)
            proved = self._proved_s.pop(peer, None)
            self._peers[peer] = admission.expel(state, reason) if out else admission.suspend(state, reason)
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
            await self.blocking(lambda: self.links.close_peer(peer, self.address(peer)))
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
                if peer in self._peers and self._peers[peer].state is not AdmissionState.ADMITTED:
                    await self._close_links(peer)

    async def close_expelled(self, peer: HostName) -> None:
        """Remove whatever an earlier run of this daemon left of a host that was expelled, or left, since."""
        self.audit.append("peer.expelled", peer, {})
        await self.blocking(lambda: self.links.close_peer(peer, self.address(peer)))

    async def close(self) -> None:
        """Install nothing any more; returns when nothing is being installed."""
        self._closing = True
        for lock in tuple(self._locks.values()):
            async with lock:
                pass

    # What changes it

    @asynccontextmanager
    async def exclusively(self) -> AsyncIterator[None]:
        """No handshake installs anything meanwhile, and one that began before installs nothing afterwards."""
        async with AsyncExitStack() as held:
            for peer in sorted({*self._peers, *self._locks}):
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
            if peer in self._peers:
                await self.close_types(peer, types, reason)

    def meet_host(self, host: HostName) -> None:
        """The policy has a new host."""
        self._peers.setdefault(host, self._unproved(host))

    async def drop_host(self, host: HostName, address: str) -> None:
        """The policy has this host no more. What still goes on with it finds its address, and nothing else. Raises
        BackendFailed when something of it is left in the kernel; all is forgotten, so the next `reconcile` removes
        it."""
        self._dropped[host] = address
        try:
            await self.blocking(lambda: self.links.close_peer(host, address))
        finally:
            self._carried.forget(host)
            self._proved_s.pop(host, None)
            self.offered.pop(host, None)
            self._unclosed.discard(host)
            del self._peers[host]

    def pardon(self, host: HostName) -> None:
        """The host is enrolled, newly or again: if it was out, it may prove itself from now on."""
        if self._peers[host].state is AdmissionState.EXPELLED:
            self._peers[host] = self._unproved(host)

    def _unproved(self, host: HostName) -> PeerState:
        """What a peer is before it has proved anything, by the registry."""
        known = self.registry.get(host)
        if known is not None and known.membership is not Membership.ENROLLED:
            return PeerState(
                host=host, state=AdmissionState.EXPELLED, reason=known.reason or f"it was {known.membership}"
            )
        return PeerState(host=host)

    def _lock(self, peer: HostName) -> asyncio.Lock:
        return self._locks.setdefault(peer, asyncio.Lock())
