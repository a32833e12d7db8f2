"""VMs that this host gives away: migration, as the host that owns the VM sees it (`peer.move_messages`).

The VM is checked here, then asked for there; it is stopped, its disk is sent, and the other host says that all of it is
there and that it would take it. All this time the VM is this host's, and starts here again if anything fails or this
daemon dies. One transaction of the database then writes down that it is the other host's (`vm_owners`); from then on it
never starts here, and the other host is told until it answers. So it is in one place at every moment, whoever dies. One
that moves while it runs (`live_departures`) is copied first and stopped last; all the rest is the same.

What is under way lies in the store: `copying` (ours, not to be started meanwhile), `given` (no longer ours, to be
told), `kept` (ours, the other host is to be told to forget what came in, and the VM to run again where it was `stopped`
for this). A VM that moves again before that was heard has both: what is still to be told is kept by its move.
"""

import asyncio
import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from shamon_host.daemon.admissions import Admissions
from shamon_host.daemon.audit_log import AuditLog
from shamon_host.daemon.background import Background
from shamon_host.daemon.enforced_policy import EnforcedPolicy
from shamon_host.daemon.live_departures import LiveDepartures
from shamon_host.daemon.move_progress import Progress
from shamon_host.daemon.peer_policies import PeerPolicies
from shamon_host.daemon.ports import Blocking, Clock, Waker
from shamon_host.daemon.store import Store
from shamon_host.daemon.vm_owners import VmOwners
from shamon_host.domain import monitor
from shamon_host.domain.errors import BackendFailed, NotTrusted, Refused, ShamonError, Unreachable
from shamon_host.domain.labels import HostName, VmName
from shamon_host.domain.policy import HypervisorKind
from shamon_host.domain.results import TpmKind
from shamon_host.domain.vm_tokens import VmToken, why_not_its_disk
from shamon_host.hypervisor.answers import Unanswered
from shamon_host.hypervisor.durations import Laps, Measured
from shamon_host.hypervisor.ports import DomainState, SendingProgress
from shamon_host.hypervisor.vm_states import VM_DOCUMENTS
from shamon_host.hypervisor.vms import VmManager
from shamon_host.peer.move_messages import MOVE_BYTES, Abort, Arrived, DiskPart, Handover, Prepare
from shamon_host.peer.ports import PeerTransport
from shamon_host.peer.signed_record import PrivateKey
from shamon_host.peer.vm_token import countersigned, proposed, read_acceptance, token_in
from shamon_host.peer.wire import MAX_DISK_PART, VM_ABORT, VM_ACCEPT, VM_DISK, VM_HAND, VM_PREPARE, printable

DEPARTURES = "vm-departure"
UNTOLD = "vm-departure-untold"
"""Moves that came to nothing, of VMs that have moved again since; by move."""
_AGAIN_S = 10.0
_LOOK_S = 0.2
_LEASE_LOOK_S = 1.0
_LONG_S = 900.0
"""For what reads a whole disk or image on the other host."""
_MAX_WORDS = 300


class Phase(StrEnum):
    """As written down; see the module."""

    COPYING = "copying"
    GIVEN = "given"
    KEPT = "kept"


@dataclass(kw_only=True)
class Departures:
    """One for each daemon; one VM moves away at a time."""

    name: HostName
    enforced: EnforcedPolicy
    policies: PeerPolicies
    admissions: Admissions
    owners: VmOwners
    vms: VmManager
    store: Store
    audit: AuditLog
    clock: Clock
    blocking: Blocking
    background: Background
    transport: PeerTransport
    key: PrivateKey = field(repr=False)
    own_tpm: Callable[[], TpmKind]
    wake: Waker
    pending: Callable[[VmName], bool]
    """Whether something is still to be done to the VM because a peer failed."""
    measured: Measured
    changed: Callable[[], None]
    """Domains, or who owns them, changed."""
    live: LiveDepartures
    progress: dict[VmName, Progress] = field(init=False, default_factory=dict)
    _busy: bool = field(init=False, default=False)

    def why_not_to_be_started(self, vm: VmName) -> str:
        """Why this host must not start the VM now; empty where it may."""
        document = self.store.get(DEPARTURES, vm)
        return f"it moves to {document['to']}" if document and document["phase"] == Phase.COPYING else ""

    async def begin(self, vm: VmName, to: HostName, reason: str, *, live: bool = False) -> Progress:
        """Check that the VM may move, and begin; what becomes of it is in `progress`. Raises Refused, BadInput."""
        if self._busy:
            raise Refused("another VM is being moved from this host", remedy="Wait until that is over.")
        self._busy = True
        try:
            move = secrets.token_bytes(MOVE_BYTES)
            await self.blocking(lambda: self._begin(vm, to, move, reason, live=live))
        except BaseException:
            self._busy = False
            raise
        progress = self.progress[vm] = Progress(vm=vm, to=to, live=live)
        self.background.spawn(self._run(progress, move), f"{vm} moves to {to}")
        return progress

    def restore(self) -> tuple[VmName, ...]:
        """At the start of the daemon, before any VM is: what an earlier run left. Returns the VMs that stay here, and
        may have been stopped to be moved. Raises BackendFailed."""
        stay = []
        for name, document in self.store.items(DEPARTURES):
            vm = VmName(name)
            if document["phase"] == Phase.COPYING:
                self.audit.append("vm.stays", vm, {"to": document["to"], "reason": "the daemon ended meanwhile"})
                self.store.put(DEPARTURES, vm, {**document, "phase": Phase.KEPT})
            if document["phase"] != Phase.GIVEN and document["stopped"]:
                stay.append(vm)
            self._tell_until_heard(vm, bytes.fromhex(document["move"]))
        for move, document in self.store.items(UNTOLD):
            self._tell_until_heard(VmName(document["vm"]), bytes.fromhex(move))
        return tuple(stay)

    async def run_again(self, vm: VmName) -> None:
        """A VM that stays, and may have been stopped to be moved, runs again if it is to; tried until the hypervisor
        does it, or refuses for good."""
        told = ""
        while told := await self._try_again(vm, told):
            await self.clock.sleep(_AGAIN_S)
        self.changed()

    async def _try_again(self, vm: VmName, told: str) -> str:
        """Why it is to be tried again, in words, which the audit log is told unless it was; empty where it is not."""
        try:
            await self.blocking(lambda: self._run_again(vm))
        except BackendFailed as error:
            if told != str(error):
                self.audit.append("vm.not-restored", vm, {"reason": str(error)})
            return str(error)
        return ""

    def _run_again(self, vm: VmName) -> None:
        """Raises BackendFailed."""
        document = self._kept_stopped(vm)
        if document is None:
            return
        if document.get("live"):
            try:
                self.live.abandon(vm)  # nothing is held meanwhile: a machine may take its time
            except Unanswered as error:  # it can be neither resumed nor suspended
                with self.vms.held():
                    self.audit.append("vm.stop", vm, {"reason": str(error)})
                    self.vms.states.hypervisor.destroy(vm)
        with self.vms.held():
            document = self._kept_stopped(vm)
            if document is None:
                return
            try:
                self.vms.start_again(vm)
            except BackendFailed:
                raise
            except ShamonError as error:
                self.audit.append("vm.not-restored", vm, {"reason": str(error)})
            self.vms.hold(vm)  # QEMU lets one run on that was suspended while QEMU had stopped it itself
            if document.get("heard"):
                self.store.delete(DEPARTURES, vm)
            else:
                self.store.put(DEPARTURES, vm, {**document, "stopped": False})

    def _kept_stopped(self, vm: VmName) -> dict[str, Any] | None:
        """What is noted of a move of the VM, where that came to nothing and the VM is still to run again."""
        document = self.store.get(DEPARTURES, vm)
        return document if document and document["phase"] == Phase.KEPT and document["stopped"] else None

    # The steps, in order

    def _begin(self, vm: VmName, to: HostName, move: bytes, reason: str, *, live: bool) -> None:
        with self.vms.held():
            self._require_movable(vm)
            if self._kept_stopped(vm) is not None:
                raise Refused("the VM is still to run again, after an earlier move", where=vm)
            self._permit(vm, to)
            if live:
                self.live.require_possible(vm, to)
            self.audit.append("vm.move", vm, {"to": to, "move": move.hex(), "reason": reason, "live": live})
            document = {"move": move.hex(), "to": to, "phase": Phase.COPYING, "token": ""}
            # QEMU may stop one that moves while it runs at any moment.
            changes: dict[tuple[str, str], dict[str, Any]] = {
                (DEPARTURES, vm): {**document, "live": live, "stopped": live}
            }
            before = self.store.get(DEPARTURES, vm)
            if before is not None and before["phase"] == Phase.KEPT:
                changes[UNTOLD, before["move"]] = {**before, "vm": vm}
            self.store.change(changes)

    async def _run(self, progress: Progress, move: bytes) -> None:
        vm, to, laps = progress.vm, progress.to, Laps()
        try:
            try:
                await self._move(progress, move, laps)
            except Exception as mistake:  # noqa: BLE001  whatever was answered, it is the end of this move alone
                error = _as_ours(mistake)
                if not await self._keep(vm, move, str(error)):
                    raise error from None
                progress.error, progress.step = error, "it stays"
            else:
                try:
                    await self._hand(progress, move, laps)
                finally:  # the other host was told first: the VM is down meanwhile
                    if progress.live:
                        await self.blocking(lambda: self.live.gone(vm))
        except ShamonError as error:
            progress.step = f"it is {to}'s, which has not answered yet"
            progress.error = Unreachable(
                f"the VM is {to}'s now, which has not answered yet",
                where=vm,
                found=str(error),
                remedy="It starts there as soon as that host hears of it, and never here before it is moved back.",
            )
            self._tell_until_heard(vm, move)
        finally:
            progress.done, self._busy = True, False
            progress.parts_ms = dict(laps.parts_ms)
            self.changed()

    async def _move(self, progress: Progress, move: bytes, laps: Laps) -> None:
        """Until the VM is the other host's. Raises ShamonError; it may be the other host's then all the same."""
        vm, to = progress.vm, progress.to
        await self._attested(to)
        laps.lap("attested")
        if progress.live:
            runs, size, disk = await self._copy_live(progress, move, laps)
        else:
            runs, size, disk = await self._copy_stopped(progress, move, laps)
        progress.step = "is handed over"
        base = await self.blocking(lambda: self.vms.states.overlay_of(vm))
        token = VmToken(
            coalition=self.enforced.policy.coalition,
            vm=vm,
            generation=self.owners.next_number(vm),
            owner=to,
            previous=self.name,
            policy=self.enforced.policy.digest,
            disk=disk,
            size=size,
            base=base or "",
            runs=runs,
            time=int(self.clock.wall_s()),
        )
        handover = Handover(move=move, token=proposed(token))
        acceptance = await self._call(to, VM_ACCEPT, handover.encode(), timeout_s=_LONG_S)
        if read_acceptance(acceptance, self.owners.key_of) != token:
            raise NotTrusted("the host accepted another move than this one", where=to)
        laps.lap("accepted")
        envelope = countersigned(acceptance, self.key)
        await self.blocking(lambda: self._give(token, move, envelope, live=progress.live))
        laps.lap("given")

    async def _copy_live(self, progress: Progress, move: bytes, laps: Laps) -> tuple[bool, int, str]:
        """Whether it should run, and size and digest of a disk that is still to be put in place: there is none."""
        vm, to = progress.vm, progress.to
        progress.step = "asks whether it may come, while it runs"
        await self.live.begin(vm, to, move, self._call)
        laps.lap("prepared")
        progress.step = "is copied while it runs"

        def told(sent: SendingProgress, /) -> None:
            progress.sent_bytes = sent.disk_bytes + sent.memory_bytes

        await self.live.copied(vm, told, lambda: self._require_nothing_else(vm))
        laps.lap("copied")
        progress.step = "stands still for the rest"
        await self.live.ended(vm, laps)
        return True, 0, ""

    async def _copy_stopped(self, progress: Progress, move: bytes, laps: Laps) -> tuple[bool, int, str]:
        """Whether it should run, size and digest of its disk."""
        vm, to = progress.vm, progress.to
        progress.step = "asks whether it may come"
        size = await self.blocking(lambda: self.vms.images.size(vm))
        await self._prepare(vm, to, move, size)
        laps.lap("prepared")
        progress.step = "is stopped"
        runs, size = await self.blocking(lambda: self._stop(vm, to, move))
        laps.lap("stopped")
        progress.step, progress.disk_bytes = "its disk is sent", size
        await self._prepare(vm, to, move, size)
        disk = await self._send(progress, move) if size else ""
        laps.lap("copied")
        return runs, size, disk

    async def _attested(self, to: HostName) -> None:
        """The other host proves itself now, not only within its lease. Raises Refused where it does not in time."""
        now_s = self.clock.boottime_s()
        until_s = now_s + self.enforced.policy.intervals.timeout_s
        self.wake(to)
        while self.admissions.proved_s(to) < now_s:
            if self.clock.boottime_s() >= until_s:
                raise Refused("the host has not proved itself in time", where=to)
            await self.clock.sleep(_LOOK_S)

    async def _prepare(self, vm: VmName, to: HostName, move: bytes, size: int) -> None:
        message = Prepare(move=move, vm=vm, policy=self.enforced.policy.digest, size=size)
        await self._call(to, VM_PREPARE, message.encode(), timeout_s=_LONG_S)

    def _stop(self, vm: VmName, to: HostName, move: bytes) -> tuple[bool, int]:
        """Whether it should run, and how large its disk is now that nobody writes to it."""
        with self.vms.held():
            self._require_movable(vm)
            document = self._copying(vm, move)
            self.audit.append("vm.stop", vm, {"moves_to": to})
            self.store.put(DEPARTURES, vm, {**document, "stopped": True})
            self.vms.states.hypervisor.destroy(vm)
            return vm in self.vms.states.wanted(), self.vms.images.outgoing(vm)

    async def _send(self, progress: Progress, move: bytes) -> str:
        """Its digest. Raises ShamonError, also as soon as the other host's lease is over."""
        vm, digest, images = progress.vm, hashlib.sha256(), self.vms.images
        for offset in range(0, progress.disk_bytes, MAX_DISK_PART):
            length = min(MAX_DISK_PART, progress.disk_bytes - offset)

            def part(offset: int = offset, length: int = length) -> bytes:
                data = images.read(vm, offset, length)
                digest.update(data)
                return data

            data = await self.blocking(part)
            if len(data) != length:
                raise NotTrusted("the disk of the VM changed while it was sent", where=vm)
            if data.count(0) != length:
                message = DiskPart(move=move, vm=vm, offset=offset, data=data)
                await self._call(progress.to, VM_DISK, message.encode())
            progress.sent_bytes = offset + length
        return digest.hexdigest()

    def _give(self, token: VmToken, move: bytes, envelope: bytes, *, live: bool) -> None:
        """The one moment: until `take` has returned the VM is this host's."""
        vm, to = token.vm, token.owner
        with self.vms.held():
            self._require_movable(vm, stands_still=live)
            document, domain = self._copying(vm, move), self.vms.states.find(vm)
            if (domain is not None) is not live or (vm in self.vms.states.wanted()) is not token.runs:
                raise Refused("the VM was started or stopped meanwhile", where=vm)
            if token.policy != self.enforced.policy.digest:
                raise Refused("the policy changed meanwhile", where=vm)
            self._permit(vm, to)
            self.audit.append("vm.give", vm, {"to": to, "generation": token.generation, "disk": token.disk})
            given = {**document, "phase": Phase.GIVEN, "token": envelope.decode("ascii")}
            self.owners.take(token, envelope, {(DEPARTURES, vm): given, (VM_DOCUMENTS, vm): None})

    def _copying(self, vm: VmName, move: bytes) -> dict[str, Any]:
        """What is noted of the move. Raises Refused where it is over."""
        document = self.store.get(DEPARTURES, vm)
        if document is None or document["move"] != move.hex() or document["phase"] != Phase.COPYING:
            raise Refused("the move was given up meanwhile", where=vm)
        return document

    async def _hand(self, progress: Progress, move: bytes, laps: Laps) -> None:
        arrived = await self._tell(progress.vm, move)
        laps.lap("taken")
        if arrived is not None:
            for what, took_ms in progress.arrived(arrived, laps.parts_ms).items():
                self.measured(what, took_ms)

    # What may be, and what becomes of it

    def _require_movable(self, vm: VmName, *, stands_still: bool = False) -> None:
        """Nothing is under way with the VM that the other host would not know of. `stands_still`:
        it was stopped for this. Raises Refused, BadInput."""
        self._require_nothing_else(vm)
        self.vms.quarantines.require_kept(vm)
        domain = self.vms.states.find(vm)
        if domain is not None and (domain.state is DomainState.PAUSED) is not stands_still:
            why = "it is not suspended, as it was for this" if stands_still else "it is suspended"
            raise Refused("the VM does not move now", where=vm, found=why)

    def _require_nothing_else(self, vm: VmName) -> None:
        """Nothing else is asked of the VM, whatever its domain does. Raises Refused, BadInput."""
        states = self.vms.states
        states.entry(vm)
        quarantine, peers, why = states.quarantine(vm), states.suspended_for(vm), ""
        if quarantine is not None:
            why = f"it is in quarantine: {quarantine.reason}"
        elif states.replacing(vm) or states.needs_fresh(vm):
            why = "it is being replaced"
        elif peers:
            why = f"it is suspended for {', '.join(sorted(peers))}"
        elif self.pending(vm):
            why = "something is still to be done to it, as a peer failed"
        elif self.enforced.successor is not None:
            why = f"version {self.enforced.successor.version} of the policy is about to come into force"
        if why:
            raise Refused("the VM does not move now", where=vm, found=why)
        policy = self.enforced.policy
        why = why_not_its_disk(
            states.overlay_of(vm),
            has_disk=self.vms.images.overlay(vm) is not None,
            pin=policy.image_of(vm).sha256,
            stands_alone=policy.hypervisor_of(self.name) is HypervisorKind.XEN,
        )
        if why:
            raise Refused(
                "the VM does not move with its disk",
                where=vm,
                expected="one on the pinned clean image, which the other host has",
                found=why,
                remedy=f"`shamon vm replace {vm}` gives it a clean one; what it wrote is lost.",
            )

    def _permit(self, vm: VmName, to: HostName) -> None:
        """`vm.migrate`, as far as this host can tell: what runs there the other host knows. Raises Refused."""
        policy, state = self.enforced.policy, self.admissions.state(to)
        decision = monitor.vm_migrate(
            policy,
            vm,
            source=self.name,
            destination=to,
            running_there={},
            peer_state=state,
            local_tpm=self.own_tpm(),
            now_s=self.clock.boottime_s(),
        )
        self.audit.append(decision.check, vm, decision.as_detail())
        decision.enforce()
        if not self.policies.same(to):
            raise Refused("a VM moves between hosts with one policy alone", where=to, expected=policy.digest)

    async def _keep(self, vm: VmName, move: bytes, reason: str) -> bool:
        """The move came to nothing: the VM runs here again, if it is to. False where it is the other host's already."""

        def stays() -> bool:
            with self.vms.held():
                document = self.store.get(DEPARTURES, vm)
                if document is None or document["phase"] != Phase.COPYING:
                    return False
                self.audit.append("vm.stays", vm, {"to": document["to"], "reason": reason})
                return True

        def kept() -> None:
            with self.vms.held():
                self.store.put(DEPARTURES, vm, {**self._copying(vm, move), "phase": Phase.KEPT})

        if not await self.blocking(stays):
            return False
        try:
            await self.blocking(lambda: self.live.cancel(vm))
        except ShamonError as error:  # it is tried again with all that follows
            self.audit.append("vm.not-restored", vm, {"reason": str(error)})
        await self.blocking(kept)
        if await self._try_again(vm, ""):
            self.background.spawn(self.run_again(vm), f"{vm} runs again")
        self._tell_until_heard(vm, move)
        return True

    # What the other host is told afterwards

    def _tell_until_heard(self, vm: VmName, move: bytes) -> None:
        async def tell() -> None:
            told = ""
            while True:
                try:
                    await self._tell(vm, move)
                except ShamonError as error:
                    if told != str(error):
                        told = str(error)
                        self.audit.append("vm.not-handed-over", vm, {"reason": told})
                else:
                    return
                await self.clock.sleep(_AGAIN_S)

        self.background.spawn(tell(), f"what became of the move of {vm}")

    async def _tell(self, vm: VmName, move: bytes) -> Arrived | None:
        """Say to the other host what became of the move; nothing where that was heard. Raises ShamonError."""
        document = await self.blocking(lambda: self._to_be_told(vm, move))
        if document is None or document.get("heard"):
            return None
        to, arrived = HostName(document["to"]), None
        if document["phase"] == Phase.GIVEN:
            handover = Handover(move=move, token=document["token"].encode("ascii"))
            arrived = Arrived.decode(await self._call(to, VM_HAND, handover.encode(), timeout_s=_LONG_S))
        elif to in self.enforced.policy.hosts:  # one that is no more takes nothing either
            await self._call(to, VM_ABORT, Abort(move=move, vm=vm).encode(), admitted=False)
        await self.blocking(lambda: self._heard(vm, document))
        return arrived

    def _to_be_told(self, vm: VmName, move: bytes) -> dict[str, Any] | None:
        document = self.store.get(DEPARTURES, vm)
        if document is None or document["move"] != move.hex():
            return self.store.get(UNTOLD, move.hex())
        return None if document["phase"] == Phase.COPYING else document

    def _heard(self, vm: VmName, document: dict[str, Any]) -> None:
        with self.vms.held():
            now = self.store.get(DEPARTURES, vm)
            if now is None or now["move"] != document["move"]:
                self.store.delete(UNTOLD, document["move"])
                return
            if self._kept_stopped(vm) is not None:
                self.store.put(DEPARTURES, vm, {**now, "heard": True})
                return
            if document["phase"] == Phase.GIVEN:
                token = token_in(document["token"].encode("ascii"))
                self.audit.append("vm.moved", vm, {"to": token.owner, "generation": token.generation})
                if self.owners.newest(vm) == token:
                    self.vms.images.discard(vm)
            self.store.delete(DEPARTURES, vm)

    async def _call(
        self, to: HostName, path: str, body: bytes, *, timeout_s: float = 0.0, admitted: bool = True
    ) -> bytes:
        """Only while the other host is admitted and its lease lasts, but for what says nothing of the VM; an answer is
        not waited for any longer than that. Raises ShamonError."""
        if admitted:
            self._require_admitted(to)
        policy = self.enforced.policy
        entry = policy.hosts.get(to)
        if entry is None:
            raise Refused("the policy knows no such host", where=to)
        timeout_s = timeout_s or policy.intervals.timeout_s
        call = asyncio.ensure_future(self.transport.call(entry, path, body, timeout_s=timeout_s))
        try:
            while not (await asyncio.wait({call}, timeout=_LEASE_LOOK_S))[0]:
                if admitted:
                    self._require_admitted(to)
            return call.result()
        finally:
            if not call.done():
                call.cancel()
                await asyncio.wait({call})

    def _require_admitted(self, to: HostName) -> None:
        if not self.admissions.state(to).counts_at(self.clock.boottime_s()):
            raise Refused("the host is not admitted now", where=to)


def _as_ours(error: Exception) -> ShamonError:
    if isinstance(error, ShamonError):
        return error
    words = f"{type(error).__name__}: {error}"
    return BackendFailed("the move met what it was not made for", found=printable(words, _MAX_WORDS))
