"""What follows when a peer is cut off or comes back: actions on this host's own VMs, and hints to the other peers.

A hint says "look for yourselves", never what to believe. Suspended VMs are resumed only when a passing peer is back,
and through the monitor's check, like any start. What is to be done is written down first, so that a restart of the
daemon, or of the host, does not forget it.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import partial

from shamon_host.daemon.admissions import Admissions
from shamon_host.daemon.audit_log import AuditLog
from shamon_host.daemon.background import Background
from shamon_host.daemon.enforced_policy import EnforcedPolicy
from shamon_host.daemon.failure_actions import PendingAction, actions_for, made_definite, merge, without_silent
from shamon_host.daemon.ports import Blocking, Clock
from shamon_host.daemon.store import Store
from shamon_host.daemon.suspension import Suspension
from shamon_host.domain.admission import AdmissionState
from shamon_host.domain.errors import ShamonError
from shamon_host.domain.labels import HostName, VmName
from shamon_host.domain.policy import FailureAction
from shamon_host.hypervisor.ports import DomainState
from shamon_host.hypervisor.vm_states import VmStatus
from shamon_host.hypervisor.vms import VmManager
from shamon_host.peer.handshake import Handshaker

_PENDING = "pending-action"
_AGAIN_S = 10.0
"""Between two tries of an action that failed, or whose VM does not run."""


@dataclass(kw_only=True)
class Reactions:
    """Keeps the pending actions, and carries them out in `background`."""

    name: HostName
    enforced: EnforcedPolicy
    admissions: Admissions
    vms: VmManager
    audit: AuditLog
    handshaker: Handshaker
    store: Store
    clock: Clock
    blocking: Blocking
    boot_id: str
    background: Background = field(default_factory=Background)
    pending: tuple[PendingAction, ...] = ()

    def suspended(self, event: Suspension) -> None:
        """A peer was cut off: schedule actions on our VMs, tell the other admitted peers to look."""
        self._forget_strangers()
        new = actions_for(
            self.enforced.policy,
            running=self.vms.states.wanted(),
            carried=event.carried,
            peer=event.peer,
            now_s=self.clock.boottime_s(),
            definite=event.definite,
            reason=event.reason,
        )
        pending = made_definite(self.pending, event.peer, event.reason) if event.definite else self.pending
        self._plan(merge(pending, new))
        if event.definite:
            for peer, state in self.admissions.peers.items():
                if peer != event.peer and state.state is AdmissionState.ADMITTED:
                    self.background.spawn(self._hint(peer, event.peer), f"hint to {peer}")

    def admitted(self, peer: HostName) -> None:
        """A peer passes: drop what was pending only because it was silent, resume what was suspended for it."""
        self._forget_strangers()
        self._plan(without_silent(self.pending, peer))
        names = [name for name, peers in self.vms.states.all_suspended_for().items() if peer in peers]
        if names:
            self.background.spawn(self._resume(names, peer), f"resume what was suspended for {peer}")

    async def restore(self) -> None:
        """At the start: take up what an earlier run of this daemon left to do."""
        kept = []
        for key, document in self.store.items(_PENDING):
            item = PendingAction.from_document(document["action"])
            if not self._is_ours(item.vm):
                self.store.delete(_PENDING, key)
            elif document["boot_id"] != self.boot_id:  # another CLOCK_BOOTTIME
                kept.append(replace(item, due_s=self.clock.boottime_s()))
            else:
                kept.append(item)
        self._plan(tuple(kept))
        self._forget_strangers()

    def forget(self, vms: Iterable[VmName]) -> None:
        """These VMs are clean ones now: whatever was to be done to them is moot."""
        names = frozenset(vms)
        self._plan(tuple(item for item in self.pending if item.vm not in names))
        for key, document in self.store.items(_PENDING):
            if document["action"]["vm"] in names:
                self.store.delete(_PENDING, key)
        for name in names:
            self.vms.states.note_suspended_for(name, frozenset())

    def _forget_strangers(self) -> None:
        """An update of the policy may have taken VMs away from this host: nothing is to be done to those."""
        known = {item.vm for item in self.pending}
        known.update(self.vms.states.all_suspended_for())
        gone = [name for name in sorted(known) if not self._is_ours(name)]
        if gone:
            self.forget(gone)

    def _plan(self, wanted: tuple[PendingAction, ...]) -> None:
        """Make `wanted` what is pending: first on disk, then in memory."""
        before = {item.key: item for item in self.pending}
        after = {item.key: item for item in wanted}
        for key in before.keys() - after.keys():
            self.store.delete(_PENDING, key)
        new = [item for item in wanted if before.get(item.key) != item]
        for item in new:
            self.store.put(_PENDING, item.key, {"action": item.to_document(), "boot_id": self.boot_id})
        self.pending = wanted
        for item in new:
            self.background.spawn(self._act_when_due(item), f"{item.action} {item.vm}")

    async def _act_when_due(self, item: PendingAction) -> None:
        """Carry the action out, again until it succeeds; it waits for a VM that does not run or is in quarantine."""
        told = ""
        await self.clock.sleep(item.due_s - self.clock.boottime_s())
        while item in self.pending:
            try:
                if await self._act(item):
                    return
            except ShamonError as error:
                if told != str(error):
                    told = str(error)
                    self.audit.append("vm.action-failed", item.vm, {"action": item.action, "reason": told})
            await self.clock.sleep(_AGAIN_S)

    async def _act(self, item: PendingAction) -> bool:
        """True when there is nothing left to do. Raises ShamonError."""
        status = await self._status(item.vm)
        if item not in self.pending:
            return True
        if status is None:
            self.forget([item.vm])
            return True
        domain = status.domain
        if domain is None or status.cut_off or domain.state not in (DomainState.RUNNING, DomainState.PAUSED):
            return False
        reason = f"{item.peer} failed: {item.reason}"
        if item.action is FailureAction.REPLACE:
            await self.blocking(lambda: self.vms.replace(item.vm, reason))
            self.forget([item.vm])
        else:  # also where it stands still, whoever stopped it: it is not to go on then
            await self._suspend(item.vm, item.peer, reason)
            self._plan(tuple(other for other in self.pending if other != item))
        return True

    async def _suspend(self, vm: VmName, peer: HostName, reason: str) -> None:
        if not self._is_ours(vm):  # since its status was asked for
            self.forget([vm])
            return
        await self.blocking(lambda: self.vms.suspend(vm, reason, peer=peer))

    async def _resume(self, names: Iterable[VmName], peer: HostName) -> None:
        """Those that stand still for no other peer, unless somebody has stopped, replaced or quarantined them
        meanwhile."""
        for name in names:
            try:
                if await self._status(name) is None:
                    self.forget([name])
                    continue
                await self.blocking(partial(self.vms.resume_for, name, peer))
            except ShamonError as error:  # the next admission tries again
                self.audit.append("vm.not-resumed", name, {"reason": str(error)})

    async def _hint(self, peer: HostName, about: HostName) -> None:
        try:
            await self.handshaker.hint(self.enforced.policy.hosts[peer], about)
        except ShamonError as error:
            self.audit.append("peer.hint-failed", peer, {"about": about, "reason": str(error)})

    async def _status(self, vm: VmName) -> VmStatus | None:
        """Of one of this host's VMs; None when it is none any more. Raises BackendFailed."""
        return next((status for status in await self.blocking(self.vms.states.statuses) if status.name == vm), None)

    def _is_ours(self, vm: VmName) -> bool:
        policy = self.enforced.policy
        return vm in policy.vms and policy.host_of(vm) == self.name
