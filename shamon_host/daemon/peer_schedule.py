"""When this host attests with each peer: on the period, at once when something changed, again after a failure.

Two tasks for each peer: one attests, one watches the lease. The host whose name sorts first starts the periodic
handshakes of a pair; the other one steps in when none came in time, so that either alone keeps the lease alive, and
neither trusts the other to ask. However many reasons there are, handshakes with a peer keep a distance.

A quote stands for all the handshakes of a moment (`attester`), so the moments have to be the same. No clock says when:
as soon as one periodic handshake of this host begins, whoever started it, a slot is open, and this host starts those
that it has to start in this period. The host whose name sorts first is the first of all its pairs, so the handshakes
of a whole coalition fall together after a period or two, however they began.
"""

import asyncio
from dataclasses import dataclass, field

from shamon_host.daemon.admissions import Admissions
from shamon_host.daemon.audit_log import AuditLog
from shamon_host.daemon.enforced_policy import EnforcedPolicy
from shamon_host.daemon.figures import Figures
from shamon_host.daemon.ports import Clock
from shamon_host.domain.admission import AdmissionState
from shamon_host.domain.errors import BackendFailed, NotTrusted, Refused, ShamonError, Unreachable
from shamon_host.domain.labels import HostName
from shamon_host.peer.handshake import Busy, Handshaker

_GATHER_S = 0.2
"""A burst of changes makes one handshake."""
_DISTANCE_S = 1.0
"""Between the end of one handshake and a reason's next one: each costs both hosts a quote."""
_BUSY_S = 0.5
_RETRY_S = 1.0
"""First wait after a handshake that failed; doubled each time, up to the period."""
_SHORTEST_S = 0.001
"""Two readings of a clock are never so exact that waiting for less makes sense."""
_STEP_IN = 1.5
"""The second host of a pair steps in after this many periods."""
_PERIODIC = 0.9
"""A handshake is one of the period, and not for some reason of its own, when this part of the period is over."""
_JOIN = 0.1
"""Another one joins it when this part of its own period is over."""


@dataclass(kw_only=True)
class PeerSchedule:
    """Runs until cancelled. `wake`, `wake_all` and `admitted` are called in the event loop."""

    name: HostName
    enforced: EnforcedPolicy
    admissions: Admissions
    audit: AuditLog
    handshaker: Handshaker
    clock: Clock
    figures: Figures
    unreachable: dict[HostName, str] = field(default_factory=dict)
    """Peer → why the last handshake with it failed; no entry when it did not."""
    _wake: dict[HostName, asyncio.Event] = field(default_factory=dict)
    _woken_s: dict[HostName, float] = field(default_factory=dict)
    _leases: dict[HostName, asyncio.Event] = field(default_factory=dict)
    _slots: dict[HostName, asyncio.Event] = field(default_factory=dict)
    """Set when a slot has opened since the peer's task last looked."""
    _slot_s: float = float("-inf")
    """When the newest slot opened, CLOCK_BOOTTIME."""
    _opened_s: dict[HostName, float] = field(default_factory=dict)
    """Peer → when a handshake with it opened one: it does so once a period, even if none of its handshakes ends."""
    _done_s: dict[HostName, float] = field(default_factory=dict)
    _retry_s: dict[HostName, float] = field(default_factory=dict)
    _peers_changed: asyncio.Event = field(default_factory=asyncio.Event)

    def wake(self, peer: HostName) -> None:
        """Attest with this peer as soon as possible."""
        self._woken_s[peer] = self.clock.boottime_s()
        self._event(peer).set()

    def wake_all(self) -> None:
        """Something of this host changed: every peer should see new Evidence."""
        for peer in self.admissions.peers:
            self.wake(peer)

    def admitted(self, peer: HostName) -> None:
        """A handshake with the peer was confirmed, whoever started it: the period starts anew, the lease is watched."""
        self._done_s[peer] = self.clock.boottime_s()
        self.unreachable.pop(peer, None)
        self._retry_s.pop(peer, None)
        if self.admissions.proved_s(peer) > self._woken_s.get(peer, float("-inf")):
            self._event(peer).clear()  # Evidence made after the change was part of it
        self._leases.setdefault(peer, asyncio.Event()).set()

    def begins(self, peer: HostName) -> None:
        """A handshake with this peer begins, and with it soon a quote: if it is a periodic one, others join it."""
        state, now = self.admissions.peers.get(peer), self.clock.boottime_s()
        admitted = state is not None and state.state is AdmissionState.ADMITTED
        since_s = now - max(self._done_s.get(peer, now), self._opened_s.get(peer, float("-inf")))
        if admitted and since_s >= self.enforced.policy.intervals.period_s * _PERIODIC:
            self._slot_s = self._opened_s[peer] = now
            for event in self._slots.values():
                event.set()

    async def run(self) -> None:
        """Attest with every peer, for ever. Raises what ends the daemon: a decision that cannot be written down."""
        tasks: dict[HostName, tuple[asyncio.Task[None], asyncio.Task[None]]] = {}
        async with asyncio.TaskGroup() as group:
            while True:
                self._peers_changed.clear()
                for peer in tasks.keys() - self.admissions.peers.keys():
                    for task in tasks.pop(peer):
                        task.cancel()
                    self._forget(peer)
                for peer in sorted(self.admissions.peers.keys() - tasks.keys()):
                    tasks[peer] = (
                        group.create_task(self._attest_with(peer), name=f"attest with {peer}"),
                        group.create_task(self._watch_lease(peer), name=f"lease of {peer}"),
                    )
                await self._peers_changed.wait()

    def peers_changed(self) -> None:
        """The policy has another set of hosts: begin with the new ones, forget those that are gone."""
        self._peers_changed.set()

    def _forget(self, peer: HostName) -> None:
        self.unreachable.pop(peer, None)
        for events in (self._wake, self._leases, self._slots):
            events.pop(peer, None)
        for times_s in (self._woken_s, self._done_s, self._retry_s, self._opened_s):
            times_s.pop(peer, None)

    async def _attest_with(self, peer: HostName) -> None:
        event, first = self._event(peer), True
        while peer in self.admissions.peers:
            while self._is_expelled(peer):
                await event.wait()
                event.clear()
            if not first:
                await self._until_due(peer)
            if peer not in self.admissions.peers:
                return
            first, woken = False, event.is_set()
            event.clear()
            try:
                with self.figures.timed("handshake_ms"):
                    await self.handshaker.initiate(self.enforced.policy.hosts[peer])
            except Busy:
                if woken:  # the handshake under way may have begun before what woke us
                    event.set()
                await self.clock.sleep(_BUSY_S)
            except (Unreachable, Refused, NotTrusted, BackendFailed) as error:
                # A peer whose Evidence is bad is cut off already; one that does not answer, or whom this host cannot
                # answer, has until the end of its lease.
                self._failed(peer, error)
            except ShamonError as error:
                self._failed(peer, error)
                await self.admissions.suspend(peer, str(error), definite=False)

    def _is_expelled(self, peer: HostName) -> bool:
        state = self.admissions.peers.get(peer)
        return state is not None and state.state is AdmissionState.EXPELLED

    async def _until_due(self, peer: HostName) -> None:
        """Wait for the period or for a reason to be earlier; then gather a burst of reasons."""
        event, slot = self._event(peer), self._slots.setdefault(peer, asyncio.Event())
        while True:
            now = self.clock.boottime_s()
            slot.clear()
            if event.is_set():
                await self.clock.sleep(max(_GATHER_S, self._done_s.get(peer, float("-inf")) + _DISTANCE_S - now))
                if event.is_set():
                    return
            elif (remaining := self._due_s(peer) - now) > 0:
                await self._sleep_or(remaining, event, slot)
            else:
                return

    def _due_s(self, peer: HostName) -> float:
        intervals = self.enforced.policy.intervals
        done_s = self._done_s.get(peer, float("-inf"))
        if peer in self._retry_s:
            return done_s + self._retry_s[peer]
        state = self.admissions.peers.get(peer)
        if state is not None and state.state is AdmissionState.ADMITTED:
            if self.name > peer:
                return done_s + min(intervals.period_s * _STEP_IN, (intervals.period_s + intervals.lease_s) / 2)
            if self._slot_s >= done_s + intervals.period_s * _JOIN:
                return self._slot_s
        return done_s + intervals.period_s

    def _failed(self, peer: HostName, error: ShamonError) -> None:
        self._done_s[peer] = self.clock.boottime_s()
        self._retry_s[peer] = min(self._retry_s.get(peer, _RETRY_S / 2) * 2, self.enforced.policy.intervals.period_s)
        words = str(error)
        if self.unreachable.get(peer) != words:
            self.unreachable[peer] = words
            self.audit.append("peer.handshake-failed", peer, {"reason": words})

    async def _watch_lease(self, peer: HostName) -> None:
        """Cut the peer off whenever its lease ends."""
        changed = self._leases.setdefault(peer, asyncio.Event())
        while peer in self.admissions.peers:
            end_s = self.admissions.lease_end_s(peer)
            if end_s is None:
                await changed.wait()
            elif (remaining := end_s - self.clock.boottime_s()) > 0:
                await self._sleep_or(remaining, changed)
            else:
                await self.admissions.lapse(peer)
            changed.clear()

    async def _sleep_or(self, seconds: float, *events: asyncio.Event) -> None:
        waiters = {asyncio.ensure_future(self.clock.sleep(max(seconds, _SHORTEST_S)))}
        waiters |= {asyncio.ensure_future(self._told(event)) for event in events}
        try:
            await asyncio.wait(waiters, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiters:
                task.cancel()

    async def _told(self, event: asyncio.Event) -> None:
        await event.wait()

    def _event(self, peer: HostName) -> asyncio.Event:
        return self._wake.setdefault(peer, asyncio.Event())
