"""What this host watches of itself: its measurements, its kernel's link objects, its hypervisor's domains and policy.

Each change ends in one of two things: repair (reconcile the kernel, destroy a mislabelled domain) and new Evidence
(wake every peer). The period is the backstop.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from shamon_host.attestation.ports import MeasurementLogs
from shamon_host.daemon.admissions import Admissions
from shamon_host.daemon.audit_log import AuditLog
from shamon_host.daemon.demands import Demands
from shamon_host.daemon.enforced_policy import EnforcedPolicy
from shamon_host.daemon.hypervisor_policy import HypervisorPolicy
from shamon_host.daemon.link_reconciler import LinkReconciler
from shamon_host.daemon.link_types import LinkTypes
from shamon_host.daemon.ports import Blocking, Clock, T
from shamon_host.daemon.tap_filters import until_change_s
from shamon_host.domain.errors import ShamonError
from shamon_host.domain.labels import HostName, TypeName
from shamon_host.domain.results import ClaimStatus
from shamon_host.hypervisor.mac_vm_report import ReportedRuntime, RuntimeState
from shamon_host.hypervisor.vms import VmManager
from shamon_host.links.manager import LinkManager
from shamon_host.links.network_state import check_network_state, encode_network_state
from shamon_host.links.ports import AcquireEvent, ChangedEvent, ExpireEvent, KernelEvent

MEASUREMENT_POLL_S = 1.0
"""IMA's counter has no notification; reading it costs microseconds."""
_TIDY_S = 5.0
MAC_VM_LOOK_S = 60.0
"""Between two looks at the MAC VM and the wire to it: not all that may be wrong with them is told by anybody."""
POLICY_POLL_S = 5.0
"""Xen tells nobody that its policy was replaced; asking takes milliseconds."""


@dataclass(kw_only=True)
class Watchers:
    """Runs until cancelled."""

    name: HostName
    enforced: EnforcedPolicy
    admissions: Admissions
    links: LinkManager
    types: LinkTypes
    reconciler: LinkReconciler
    vms: VmManager
    xen: HypervisorPolicy | None
    on_enforced: Callable[[], None]
    """Xen enforces the policy now, and did not before: VMs may start."""
    audit: AuditLog
    logs: MeasurementLogs
    clock: Clock
    blocking: Blocking
    wake: Callable[[HostName], None]
    wake_all: Callable[[], None]
    bring_mac_vm_about: Callable[[], bool]
    """Start what holds this host's links, where it does not run; whether it was started now. Raises ShamonError."""
    mac_vm_runtime: Callable[[], ReportedRuntime | None]
    """Whether it is attested; None where it need not be, or there is none."""
    demands: Demands
    has_mac_vm: bool = False
    looked: asyncio.Event = field(default_factory=asyncio.Event)
    """Domains were looked at once, and the MAC VM was brought about, or could not be."""
    _domains_changed: asyncio.Event = field(default_factory=asyncio.Event)
    _kernel_changed: asyncio.Event = field(default_factory=asyncio.Event)
    _taps: dict[str, str] = field(default_factory=dict)
    _runtime: ReportedRuntime | None = None
    _told: dict[str, str] = field(default_factory=dict)
    _wrong: str = ""
    """What a Verifier would find wrong with the network state, as of the last look."""
    _new_mac_vm: bool = False
    """It was started anew, and nobody was told yet."""

    async def run(self) -> None:
        """Subscribe, look once, then watch for ever. Raises what ends the daemon: a failed audit log."""
        loop = asyncio.get_running_loop()

        def domains_changed() -> None:
            with suppress(RuntimeError):  # the loop was closed while the hypervisor called
                loop.call_soon_threadsafe(self._domains_changed.set)

        self.vms.states.hypervisor.subscribe(domains_changed)
        self.links.kernel.subscribe(self._kernel_event)
        if self.xen is not None:
            self.xen.on_loaded = domains_changed
        # Whatever happened before this daemon listened.
        self._domains_changed.set()
        self._kernel_changed.set()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._measurements(), name="measurements")
            group.create_task(self._domains(), name="domains")
            group.create_task(self._kernel(), name="kernel objects")
            group.create_task(self._tidy(), name="superseded SAs")
            group.create_task(self._windows(), name="windows of overlays")
            group.create_task(self.demands.run(), name="what the kernel asks for")
            if self.has_mac_vm:
                group.create_task(self._mac_vm(), name="MAC VM")
            if self.xen is not None:
                group.create_task(self._hypervisor_policy(self.xen), name="policy of the hypervisor")

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
                    self.audit.append("host.measurements-unreadable", self.name, {"reason": str(error)})
            if known is not None and count != known:
                self.wake_all()
            known = count
            await self.clock.sleep(MEASUREMENT_POLL_S)

    async def _domains(self) -> None:
        while True:
            await self._domains_changed.wait()
            self._domains_changed.clear()
            await self._narrowed()

            def repair() -> dict[str, str]:
                self.vms.enforce_labels()
                self._bring_mac_vm_about()
                self.reconciler.reconcile()
                return {tap: str(name) for tap, name in self.vms.states.taps().items()}

            taps = await self._tried("host.domains-unreadable", repair)
            if taps is not None and self._told_of_mac_vm():
                self._kernel_changed.set()
            self.looked.set()
            closed = taps is not None and await self._close_unused()
            runtime = self.mac_vm_runtime()
            if (taps is not None and taps != self._taps) or runtime != self._runtime:
                self._taps, self._runtime = self._taps if taps is None else taps, runtime
                self.wake_all()
            waits = runtime is not None and runtime.state is not RuntimeState.ATTESTED
            if not closed or self.vms.resisting or waits:
                await self._again(self._domains_changed)

    def _bring_mac_vm_about(self) -> None:
        if self.bring_mac_vm_about():
            self._new_mac_vm = True

    def _told_of_mac_vm(self) -> bool:
        """Whether another MAC VM carries what it should now; told once, and not before this host could do that."""
        is_new, self._new_mac_vm = self._new_mac_vm, False
        if is_new:
            self.on_enforced()
        return is_new

    async def _narrowed(self) -> None:
        """What may not be any more on this host goes before anybody waits for a MAC VM."""
        await self._tried("links.not-narrowed", self.reconciler.narrow)

    async def _close_unused(self) -> bool:
        """Remove every link of a type that no VM of this host uses now. False if it is to be tried again."""

        def look() -> dict[HostName, frozenset[TypeName]]:
            used, admissions = self.vms.states.running_types(), self.admissions
            return {
                peer: (self.links.linked(peer) | admissions.carried_ever(peer)) - used
                for peer in tuple(admissions.peers)
            }

        unused = await self._tried("host.domains-unreadable", look)
        closed = unused is not None
        for peer, types in (unused or {}).items():
            if types:
                self.types.left(types)
                try:
                    await self.admissions.withdraw(peer, types, "no VM of this host uses it any more")
                except ShamonError as error:
                    self._tell("link.not-closed", error)
                    closed = False
                else:
                    self.wake(peer)
        if closed:
            self._told.pop("link.not-closed", None)
        return closed

    async def _kernel(self) -> None:
        while True:
            await self._kernel_changed.wait()
            self._kernel_changed.clear()
            await self._narrowed()

            def repair() -> tuple[tuple[HostName, ...], str]:
                self._bring_mac_vm_about()
                state = self.reconciler.reconcile()
                claim = check_network_state(encode_network_state(state, self.enforced.label_map))
                wrong = "" if claim.status is ClaimStatus.PASS else f"{claim.reason} ({claim.where or claim.found})"
                return self.links.needs_rekey(), wrong

            looked = await self._tried("links.not-reconciled", repair)
            if looked is None:
                await self._again(self._kernel_changed)
                continue
            self._told_of_mac_vm()
            missing, wrong = looked
            for peer in missing:
                self.wake(peer)
            if wrong != self._wrong:
                # What this program does not repair, a sysctl for one, or nobody could: peers are to see it now.
                self._wrong = wrong
                self.audit.append("links.state-changed", self.name, {"wrong": wrong})
                self.wake_all()

    async def _tidy(self) -> None:
        while True:
            await self.clock.sleep(_TIDY_S)
            await self._tried("links.not-tidied", self.links.tidy)
            await self.admissions.close_unfinished()

    async def _hypervisor_policy(self, xen: HypervisorPolicy) -> None:
        """Whatever happens to it, peers are to see. Labels are enforced after each load (`on_loaded`)."""
        known = xen.replaced, xen.wrong
        while True:
            await self.clock.sleep(POLICY_POLL_S)
            await self._tried("flask.not-loaded", xen.bring_about)
            before, known = known, (xen.replaced, xen.wrong)
            if known != before:
                self._domains_changed.set()
                self.wake_all()
            if before[1] and not xen.wrong:
                self.on_enforced()

    async def _mac_vm(self) -> None:
        while True:
            await self.clock.sleep(MAC_VM_LOOK_S)
            self._domains_changed.set()

    async def _windows(self) -> None:
        """A window closes by itself, and the kernel sees to that; somebody has to open it."""
        while True:
            await self.clock.sleep(until_change_s(self.enforced.policy, self.clock.wall_s()))
            if any(overlay.times is not None for overlay in self.enforced.policy.overlays.values()):
                self._kernel_changed.set()

    async def _tried(self, kind: str, call: Callable[[], T]) -> T | None:
        """What `call` returned; None if it failed, which the audit log is told once for each reason."""
        try:
            result = await self.blocking(call)
        except ShamonError as error:
            self._tell(kind, error)
            return None
        self._told.pop(kind, None)
        return result

    def _tell(self, kind: str, error: ShamonError) -> None:
        """The audit log, once for each reason."""
        if self._told.get(kind) != str(error):
            self._told[kind] = str(error)
            self.audit.append(kind, self.name, {"reason": str(error)})

    async def _again(self, event: asyncio.Event) -> None:
        """Nobody will tell when what failed would succeed."""
        await self.clock.sleep(_TIDY_S)
        event.set()

    def _kernel_event(self, event: KernelEvent) -> None:
        match event:
            case AcquireEvent() | ExpireEvent(hard=False):
                self.demands.told(event)
            case ExpireEvent() | ChangedEvent():
                self._kernel_changed.set()
