"""From the kernel's questions to handshakes: an SA is missing, or has carried much. `links.demand` decides.

Whatever is asked here, VMs cause it: events are taken together, reported with a limit, and lead to no more handshakes
than `Demand` has a budget for.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from shamon_host.daemon.admissions import Admissions
from shamon_host.daemon.audit_log import AuditLog
from shamon_host.daemon.enforced_policy import EnforcedPolicy
from shamon_host.daemon.link_types import LinkTypes
from shamon_host.daemon.ports import Blocking, Clock
from shamon_host.domain.budget import Budget
from shamon_host.domain.errors import ShamonError
from shamon_host.domain.labels import HostName, TypeName
from shamon_host.links.demand import Demand, Unfounded, Wanted, judge_acquire, judge_expiry
from shamon_host.links.manager import LinkManager
from shamon_host.links.ports import AcquireEvent, ExpireEvent

_GATHER_S = 0.2
"""A burst of questions is looked at once."""
_AGAIN_S = 0.5
"""Between two looks at what waits for a handshake that is under way, or for its turn."""
_MAX_EVENTS = 4096
"""More than all links of a host can ask at once."""
_MAX_WORDS = 200


@dataclass(kw_only=True)
class Demands:
    """Runs until cancelled. `told` and `renewed` are called in the event loop. `under_way`: whether a handshake with a
    peer is."""

    name: HostName
    enforced: EnforcedPolicy
    admissions: Admissions
    links: LinkManager
    types: LinkTypes
    audit: AuditLog
    clock: Clock
    blocking: Blocking
    wake: Callable[[HostName], None]
    under_way: Callable[[HostName], bool]
    demand: Demand = field(default_factory=Demand)
    _events: dict[AcquireEvent | ExpireEvent, None] = field(default_factory=dict)
    _news: asyncio.Event = field(default_factory=asyncio.Event)
    _reports: Budget = field(default_factory=lambda: Budget(burst=5, every_s=60.0))
    _unreported: int = 0

    def told(self, event: AcquireEvent | ExpireEvent) -> None:
        """The kernel asks for an SA, or tells of one at its soft limit."""
        if len(self._events) < _MAX_EVENTS:
            self._events[event] = None
            self._news.set()

    def renewed(self, peer: HostName) -> None:
        """A handshake with the peer has brought fresh SAs."""
        self.demand.renewed(peer)

    async def run(self) -> None:
        """Judge what is told, and start handshakes. Raises what ends the daemon: a failed audit log."""
        while True:
            if self.demand.pending:
                await self.clock.sleep(_AGAIN_S)
            else:
                await self._news.wait()
                await self.clock.sleep(_GATHER_S)
            self._news.clear()
            await self._judge()
            for peer, wanted in self.demand.due(self.clock.boottime_s(), self.under_way):
                if peer in self.admissions.peers:
                    asked = {item.type: item.cause.value for item in wanted}
                    self.audit.append("link.demand", peer, {"types": asked})
                    self.wake(peer)

    async def _judge(self) -> None:
        events, self._events = tuple(self._events), {}
        if not events:
            return
        try:
            judged = await self.blocking(lambda: self._judgements(events))
        except ShamonError as error:
            # The kernel asks again, and so does the period.
            if self._reports.take("unreadable", self.clock.boottime_s()):
                self.audit.append("link.demand-not-judged", self.name, {"reason": str(error)})
            return
        for event, judgement in judged:
            if isinstance(judgement, Wanted):
                self.demand.ask(judgement)
            elif isinstance(judgement, Unfounded) and isinstance(event, AcquireEvent):
                self._report(event, judgement)

    def _judgements(
        self, events: tuple[AcquireEvent | ExpireEvent, ...]
    ) -> list[tuple[AcquireEvent | ExpireEvent, Wanted | Unfounded | None]]:
        links, known = self.links, dict[HostName, frozenset[TypeName]]()
        records = links.agreed()

        def permitted(peer: HostName) -> frozenset[TypeName]:
            if peer not in known:
                both = peer in self.admissions.peers and peer in self.enforced.policy.hosts
                known[peer] = self.types.to_offer(peer) if both else frozenset()
            return known[peer]

        return [
            (
                event,
                judge_expiry(event, address=links.address, records=records)
                if isinstance(event, ExpireEvent)
                else judge_acquire(
                    event,
                    address=links.address,
                    records=records,
                    label_map=self.enforced.label_map,
                    permitted=permitted,
                ),
            )
            for event in events
        ]

    def _report(self, event: AcquireEvent, unfounded: Unfounded) -> None:
        if not self._reports.take("unfounded", self.clock.boottime_s()):
            self._unreported += 1
            return
        detail = {
            "reason": unfounded.reason[:_MAX_WORDS],
            "from": f"{event.source} port {event.source_port}",
            "to": f"{event.destination} port {event.destination_port}",
            "context": str(event.context or "")[:_MAX_WORDS],
            "unreported": self._unreported,
        }
        self._unreported = 0
        self.audit.append("link.acquire-unfounded", self.name, detail)
