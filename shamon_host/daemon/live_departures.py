"""VMs that this host gives away while they run: what `vm_departures` does beside that for them.

Disk and memory are copied while the VM runs, again and again what changed meanwhile, until so little is left that it is
stopped for the rest. Both cross a passage beside the link of one of the VM's types: same label, same SAs, same gate.
Until the token is signed whatever goes wrong leaves the VM here, and lets it run on.
"""

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from shamon_host.daemon.admissions import Admissions
from shamon_host.daemon.audit_log import AuditLog
from shamon_host.daemon.enforced_policy import EnforcedPolicy
from shamon_host.daemon.live_arrivals import DISK_STREAM, HELLO_S, MEMORY_STREAM, linked
from shamon_host.daemon.peer_policies import PeerPolicies
from shamon_host.daemon.ports import Blocking, Clock, Waker
from shamon_host.domain.errors import BackendFailed, Refused, ShamonError
from shamon_host.domain.labels import HostName, TypeName, VmName
from shamon_host.domain.policy import HypervisorKind
from shamon_host.domain.streams import Stream
from shamon_host.hypervisor.durations import Laps
from shamon_host.hypervisor.ports import DomainState, LiveMigration, Sending, SendingProgress, SendingState
from shamon_host.hypervisor.vms import VmManager
from shamon_host.links.manager import LinkManager
from shamon_host.links.ports import PassageStreams
from shamon_host.peer.move_messages import SECRET_BYTES, Join, Receive
from shamon_host.peer.wire import VM_JOIN, VM_RECEIVE

_LOOK_S = 0.05
_MOST_S = 1800.0
_LONG_S = 900.0


class Call(Protocol):
    """One request to another host, while that is admitted. Raises ShamonError."""

    async def __call__(self, to: HostName, path: str, body: bytes, *, timeout_s: float = 0.0) -> bytes: ...


class Told(Protocol):
    """How far it is."""

    def __call__(self, sent: SendingProgress, /) -> None: ...


@dataclass(kw_only=True)
class _Leaving:
    """A VM on its way out. `sending`: None until its streams are there."""

    to: HostName
    type: TypeName
    sending: Sending | None = None


@dataclass(kw_only=True)
class LiveDepartures:
    """Part of `Departures`, which keeps what is written down. `live`: None on a host whose hypervisor is not QEMU."""

    name: HostName
    enforced: EnforcedPolicy
    policies: PeerPolicies
    admissions: Admissions
    vms: VmManager
    links: LinkManager
    live: LiveMigration | None
    streams: PassageStreams | None
    audit: AuditLog
    clock: Clock
    blocking: Blocking
    wake: Waker
    _leaving: dict[VmName, _Leaving] = field(init=False, default_factory=dict)

    def require_possible(self, vm: VmName, to: HostName) -> None:
        """Raises Refused."""
        policy, states = self.enforced.policy, self.vms.states
        domain, entry = states.find(vm), policy.vms[vm]
        why = ""
        if self.live is None or self.streams is None or policy.hypervisor_of(to) is HypervisorKind.XEN:
            why = "only QEMU's VMs move while they run"
        elif domain is None or domain.state is not DomainState.RUNNING:
            why = "it does not run"
        elif entry.resources:
            why = "it has disks beside its own"
        elif not self._types(vm, to):
            why = "none of its types may be carried to that host"
        if why:
            raise Refused("the VM cannot move while it runs", where=vm, found=why, remedy="It moves without --live.")

    async def begin(self, vm: VmName, to: HostName, move: bytes, call: Call) -> None:
        """Until disk and memory are on their way. Raises ShamonError; call `cancel` then."""
        live, streams = self.live, self.streams
        await self.blocking(lambda: self.require_possible(vm, to))
        if live is None or streams is None:
            raise Refused("only QEMU's VMs move while they run", where=self.name)
        name, secret = self._types(vm, to)[0], secrets.token_bytes(SECRET_BYTES)
        self._leaving[vm] = leaving = _Leaving(to=to, type=name)
        message = Receive(move=move, vm=vm, policy=self.enforced.policy.digest, type=name, secret=secret)
        await call(to, VM_RECEIVE, message.encode(), timeout_s=_LONG_S)
        patience_s = 3 * self.enforced.policy.intervals.timeout_s
        await linked(self.links, to, name, clock=self.clock, wake=self.wake, within_s=patience_s)
        passage = await self.blocking(lambda: self.links.open_passage(to, name, gives=True))
        opened: list[Stream] = []
        try:
            for which in (DISK_STREAM, MEMORY_STREAM):
                opened.append(await self.blocking(partial(streams.connect, passage, HELLO_S)))
                await self.blocking(partial(_say, opened[-1], secret + which))
            await call(to, VM_JOIN, Join(move=move, vm=vm).encode(), timeout_s=3 * HELLO_S)
            disk, memory = opened
            domain = await self.blocking(lambda: self.vms.states.find(vm))
            if domain is None:
                raise BackendFailed("the VM ended", where=vm)
            sending = await self.blocking(lambda: live.send(domain, disk=disk, memory=memory))
        except BaseException:
            for stream in opened:
                stream.close()
            raise
        leaving.sending = sending

    async def copied(self, vm: VmName, told: Told, require_wanted: Callable[[], None]) -> None:
        """Until the VM stands still for what is left. `require_wanted` raises what ends it at once. Raises
        ShamonError."""
        leaving = self._leaving[vm]
        until_s = self.clock.boottime_s() + _MOST_S
        sending = self._sending(vm)
        while True:
            progress = await self.blocking(sending.progress)
            told(progress)
            if progress.state is SendingState.STOPPED:
                return
            if progress.state is SendingState.FAILED:
                raise BackendFailed("the VM could not be copied", where=vm, found=progress.found)
            await self.blocking(require_wanted)
            now = self.clock.boottime_s()
            if not self.admissions.state(leaving.to).counts_at(now):
                raise Refused("the host is not admitted any more", where=leaving.to)
            if now > until_s:
                raise Refused(
                    "the VM changes its memory or its disk faster than they can be sent",
                    where=vm,
                    remedy="It moves without --live.",
                )
            await self.clock.sleep(_LOOK_S)

    async def ended(self, vm: VmName, laps: Laps) -> None:
        """What is left of the disk, then of the memory, is sent. Raises BackendFailed."""
        sending = self._sending(vm)
        await self.blocking(sending.end_disk)
        laps.lap("disk ended")
        await self.blocking(sending.end_memory)
        laps.lap("memory ended")

    def cancel(self, vm: VmName) -> None:
        """It stays, as by `Sending.cancel`; nothing is done where it was not on its way. Synchronous, and not to be
        called while VMs are held: a machine may take its time. Raises BackendFailed."""
        leaving = self._leaving.pop(vm, None)
        if leaving is None:
            return
        try:
            if leaving.sending is not None:
                leaving.sending.cancel()
        finally:
            self._close_passage(vm, leaving)

    def abandon(self, vm: VmName) -> None:
        """The same of what an earlier run of the daemon began, or `cancel` could not end."""
        if self.live is not None:
            self.live.abandon(vm)

    def gone(self, vm: VmName) -> None:
        """It is the other host's: the domain that stands still here goes. Synchronous; what cannot be done now whatever
        enforces labels next does."""
        leaving = self._leaving.pop(vm, None)
        try:
            self.vms.states.hypervisor.destroy(vm)
        except ShamonError as error:
            self.audit.append("vm.not-destroyed", vm, {"reason": str(error)})
        if leaving is not None:
            if leaving.sending is not None:
                leaving.sending.close()
            self._close_passage(vm, leaving)

    def leaving(self) -> frozenset[VmName]:
        """VMs that are on their way out, or have just left: the domain of one that is another host's by now stands
        still here until that host was told."""
        return frozenset(self._leaving)

    def _types(self, vm: VmName, to: HostName) -> list[TypeName]:
        """By which it may cross, in order."""
        policy = self.enforced.policy
        carried = policy.label_of(vm).types & policy.hosts[self.name].types & policy.hosts[to].types
        return sorted(carried & self.policies.shared(to).types)

    def _sending(self, vm: VmName) -> Sending:
        sending = self._leaving[vm].sending
        if sending is None:
            raise BackendFailed("the VM is not on its way", where=vm)
        return sending

    def _close_passage(self, vm: VmName, leaving: _Leaving) -> None:
        try:
            self.links.close_passage(leaving.to, leaving.type)
        except BackendFailed as error:  # nobody wants it any more: the next look at the kernel removes it
            self.audit.append("link.passage-not-closed", vm, {"reason": str(error)})


def _say(stream: Stream, words: bytes) -> None:
    try:
        stream.sendall(words)
    except OSError as error:
        raise BackendFailed("the other host does not listen in the passage", found=str(error)) from None
