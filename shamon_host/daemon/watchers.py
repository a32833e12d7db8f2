"""What this host watches of itself: its measurements, its kernel's link objects, its hypervisor's domains.

Each change ends in one of two things: repair (reconcile the kernel, destroy a mislabelled domain) and new Evidence
(wake every peer). The period is the backstop.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from shamon_host.attestation.ports import MeasurementLogs
from shamon_host.daemon.coalition_host import CoalitionHost
from shamon_host.daemon.ports import Blocking, Clock
from shamon_host.domain.errors import ShamonError
from shamon_host.domain.labels import HostName
from shamon_host.links.ports import AcquireEvent, ChangedEvent, ExpireEvent, KernelEvent

MEASUREMENT_POLL_S = 1.0
"""IMA's counter has no notification; reading it costs microseconds."""
_TIDY_S = 5.0


@dataclass(kw_only=True)
class Watchers:
    """Runs until cancelled."""

    host: CoalitionHost
    logs: MeasurementLogs
    clock: Clock
    blocking: Blocking
    wake: Callable[[HostName], None]
    wake_all: Callable[[], None]
    _domains_changed: asyncio.Event = field(default_factory=asyncio.Event)
    _kernel_changed: asyncio.Event = field(default_factory=asyncio.Event)
    _taps: dict[str, str] = field(default_factory=dict)

    async def run(self) -> None:
        """Subscribe, then watch for ever."""
        loop = asyncio.get_running_loop()

        def domains_changed() -> None:
            loop.call_soon_threadsafe(self._domains_changed.set)

        self.host.vms.hypervisor.subscribe(domains_changed)
        self.host.links.kernel.subscribe(self._kernel_event)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._measurements(), name="measurements")
            group.create_task(self._domains(), name="domains")
            group.create_task(self._kernel(), name="kernel objects")
            group.create_task(self._tidy(), name="superseded SAs")

    def domains_changed(self) -> None:
        """This program itself started or stopped a domain."""
        self._domains_changed.set()

    async def _measurements(self) -> None:
        known: int | None = None
        while True:
            try:
                count: int | None = self.logs.measurement_count()
            except ShamonError as error:
                count = None
                if known is not None:
                    self.host.audit.append("host.measurements-unreadable", self.host.name, {"reason": str(error)})
            if known is not None and count != known:
                self.wake_all()
            known = count
            await self.clock.sleep(MEASUREMENT_POLL_S)

    async def _domains(self) -> None:
        while True:
            await self._domains_changed.wait()
            self._domains_changed.clear()
            try:
                await self.blocking(self.host.vms.enforce_labels)
                await self.blocking(self.host.reconcile_links)
                taps = dict(await self.blocking(self.host.vms.taps))
            except ShamonError as error:
                self.host.audit.append("host.domains-unreadable", self.host.name, {"reason": str(error)})
                continue
            if taps != self._taps:
                self._taps = {tap: str(name) for tap, name in taps.items()}
                self.wake_all()

    async def _kernel(self) -> None:
        while True:
            await self._kernel_changed.wait()
            self._kernel_changed.clear()
            try:
                await self.blocking(self.host.reconcile_links)
            except ShamonError as error:
                self.host.audit.append("links.not-reconciled", self.host.name, {"reason": str(error)})
            for peer in self.host.links.needs_rekey():
                self.wake(peer)

    async def _tidy(self) -> None:
        while True:
            await self.clock.sleep(_TIDY_S)
            try:
                await self.blocking(self.host.links.tidy)
            except ShamonError as error:
                self.host.audit.append("links.not-tidied", self.host.name, {"reason": str(error)})

    def _kernel_event(self, event: KernelEvent) -> None:
        match event:
            case AcquireEvent():
                for peer, entry in self.host.policy.hosts.items():
                    if entry.address == event.destination and peer in self.host.peers:
                        self.wake(peer)
            case ExpireEvent() | ChangedEvent():
                self._kernel_changed.set()
