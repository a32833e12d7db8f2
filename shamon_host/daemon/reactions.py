"""What follows when a peer is cut off or comes back: actions on this host's own VMs, and hints to the other peers.

A hint says "look for yourselves", never what to believe. Suspended VMs are resumed only when a passing peer is back,
and through the monitor's check, like any start.
"""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from shamon_host.daemon.coalition_host import CoalitionHost, Suspension
from shamon_host.daemon.failure_actions import PendingAction, actions_for, merge, without_silent
from shamon_host.daemon.ports import Blocking, Clock
from shamon_host.daemon.store import Store
from shamon_host.domain.admission import AdmissionState
from shamon_host.domain.errors import ShamonError
from shamon_host.domain.labels import HostName, VmName
from shamon_host.domain.policy import FailureAction
from shamon_host.hypervisor.ports import DomainState
from shamon_host.peer.handshake import Handshaker

_SUSPENDED_FOR = "suspended-for"


@dataclass(kw_only=True)
class Reactions:
    """Keeps the pending actions, and the tasks that carry them out."""

    host: CoalitionHost
    handshaker: Handshaker
    store: Store
    clock: Clock
    blocking: Blocking
    pending: tuple[PendingAction, ...] = ()
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def suspended(self, event: Suspension) -> None:
        """A peer was cut off: schedule actions on our VMs, tell the other admitted peers to look."""
        new = actions_for(
            self.host.policy,
            running=self._running(),
            carried=event.carried,
            peer=event.peer,
            now_s=self.clock.boottime_s(),
            definite=event.definite,
            reason=event.reason,
        )
        self.pending = merge(self.pending, new)
        for item in new:
            self._spawn(self._act_when_due(item))
        if event.definite:
            for peer, state in self.host.peers.items():
                if peer != event.peer and state.state is AdmissionState.ADMITTED:
                    self._spawn(self._hint(peer, event.peer))

    def admitted(self, peer: HostName) -> None:
        """A peer passes: drop what was pending only because it was silent, resume what was suspended for it."""
        self.pending = without_silent(self.pending, peer)
        names = [VmName(name) for name, document in self.store.items(_SUSPENDED_FOR) if document["peer"] == peer]
        if names:
            self._spawn(self._resume(tuple(names)))

    def close(self) -> None:
        """Cancel what is still pending; the daemon ends."""
        for task in self._tasks:
            task.cancel()

    async def _act_when_due(self, item: PendingAction) -> None:
        await self.clock.sleep(item.due_s - self.clock.boottime_s())
        if item not in self.pending:
            return
        self.pending = tuple(other for other in self.pending if other != item)
        reason = f"{item.peer} failed: {item.reason}"
        try:
            if item.action is FailureAction.SUSPEND:
                self.store.put(_SUSPENDED_FOR, item.vm, {"peer": item.peer})
                await self.blocking(lambda: self.host.vms.suspend(item.vm, reason))
            else:
                await self.blocking(lambda: self.host.vms.replace(item.vm, reason))
        except ShamonError as error:
            self.host.audit.append("vm.action-failed", item.vm, {"action": item.action, "reason": str(error)})

    async def _resume(self, names: tuple[VmName, ...]) -> None:
        for name in names:
            self.store.delete(_SUSPENDED_FOR, name)
            try:
                await self.blocking(partial(self.host.vms.start, name))
            except ShamonError as error:
                self.host.audit.append("vm.not-resumed", name, {"reason": str(error)})

    async def _hint(self, peer: HostName, about: HostName) -> None:
        try:
            await self.handshaker.hint(self.host.policy.hosts[peer], about)
        except ShamonError as error:
            self.host.audit.append("peer.hint-failed", peer, {"about": about, "reason": str(error)})

    def _running(self) -> tuple[VmName, ...]:
        return tuple(
            status.name
            for status in self.host.vms.statuses()
            if status.domain is not None and status.domain.state is DomainState.RUNNING and not status.quarantined
        )

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
