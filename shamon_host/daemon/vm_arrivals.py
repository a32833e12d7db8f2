"""VMs that come to this host: migration, as the host that the VM moves to sees it (`peer.move_messages`).

What comes in lies beside the VM's disk, if it ever had one here, and is nothing to anybody until this host owns the VM:
by a token that both hosts have signed, written down in one transaction with what is to become of it. Then the disk is
put in place, and the VM starts like any other: paused, its label read back, and only then resumed.

What is under way lies in the store: `receiving`, `accepted` (this host has signed and the owner may have, so the disk
stays until it says), `owned` (the VM is this host's, and is not to be started until its disk is in its place) and
`placed` (it is to be started). A VM that moves while it runs (`live`, see `live_arrivals`) has no such disk: its domain
stands still here instead, from `receiving` on, and needs only to be resumed.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import partial
from typing import Any

from shamon_host.daemon.admissions import Admissions
from shamon_host.daemon.audit_log import AuditLog
from shamon_host.daemon.background import Background
from shamon_host.daemon.enforced_policy import EnforcedPolicy
from shamon_host.daemon.live_arrivals import LiveArrivals, arriving_in
from shamon_host.daemon.ports import Blocking, Clock
from shamon_host.daemon.store import Store
from shamon_host.daemon.vm_owners import VmOwners
from shamon_host.domain import monitor
from shamon_host.domain.errors import BadInput, NotTrusted, Refused, ShamonError
from shamon_host.domain.labels import HostName, VmName
from shamon_host.domain.policy import HypervisorKind, VmEntry
from shamon_host.domain.results import TpmKind
from shamon_host.domain.vm_tokens import VmToken, require_new, why_not_its_disk
from shamon_host.hypervisor.ports import DomainReport, DomainState
from shamon_host.hypervisor.vm_states import VM_DOCUMENTS
from shamon_host.hypervisor.vms import VmManager
from shamon_host.peer.errors import Busy
from shamon_host.peer.move_messages import MAX_STATE, Abort, Arrived, DiskPart, Handover, Join, Prepare, Receive
from shamon_host.peer.signed_record import PrivateKey
from shamon_host.peer.vm_token import countersigned, read_token, token_in
from shamon_host.peer.wire import VM_ABORT, VM_ACCEPT, VM_DISK, VM_HAND, VM_JOIN, VM_PREPARE, VM_RECEIVE, printable

ARRIVALS = "vm-arrival"


class Phase(StrEnum):
    """As written down; see the module."""

    RECEIVING = "receiving"
    ACCEPTED = "accepted"
    OWNED = "owned"
    PLACED = "placed"


@dataclass(kw_only=True)
class Arrivals:
    """One for each daemon. Implements `peer.ports.MoveHandler`."""

    name: HostName
    enforced: EnforcedPolicy
    admissions: Admissions
    owners: VmOwners
    vms: VmManager
    store: Store
    audit: AuditLog
    clock: Clock
    blocking: Blocking
    key: PrivateKey = field(repr=False)
    own_tpm: Callable[[], TpmKind]
    changed: Callable[[], None]
    """Domains, or who owns them, changed."""
    live: LiveArrivals
    background: Background
    _turn: asyncio.Lock = field(init=False, default_factory=asyncio.Lock)
    _open: dict[VmName, tuple[HostName, bytes]] = field(init=False, default_factory=dict)
    """VM → from whom its disk comes in, and in which move."""

    def why_not_to_be_started(self, vm: VmName) -> str:
        """Why this host must not start the VM now; empty where it may."""
        document = self.store.get(ARRIVALS, vm)
        return "its disk is not in its place yet" if document and document["phase"] == Phase.OWNED else ""

    def arriving(self) -> frozenset[VmName]:
        """VMs of other hosts whose domains wait here."""
        return frozenset(VmName(name) for name, document in self.store.items(ARRIVALS) if arriving_in(document))

    def restore(self) -> tuple[VmName, ...]:
        """At the start of the daemon, before any VM is: finish what an earlier run left, or forget it. Returns the VMs
        that have their disks, and may not have been started since."""
        placed = []
        for name, document in self.store.items(ARRIVALS):
            vm = VmName(name)
            try:
                if document["phase"] == Phase.RECEIVING:
                    self._forget(vm)
                elif document["phase"] != Phase.ACCEPTED:
                    self._place(vm)
                    placed.append(vm)
            except ShamonError as error:
                self.audit.append("vm.not-placed", vm, {"reason": str(error)})
        return tuple(placed)

    async def handle_move(self, peer: HostName, path: str, body: bytes) -> bytes:
        """Answer one request of an enrolled peer. Raises ShamonError."""
        if path == VM_DISK:
            return await self._receive(peer, DiskPart.decode(body))
        if path == VM_JOIN:
            await self.live.join(peer, Join.decode(body))
            return b""
        if self._turn.locked() and path in (VM_PREPARE, VM_RECEIVE):
            raise Busy("another VM is on its way to this host", where=self.name)
        async with self._turn:
            if path == VM_PREPARE:
                return await self._prepare(peer, Prepare.decode(body))
            if path == VM_RECEIVE:
                return await self._begin_live(peer, Receive.decode(body))
            if path == VM_ACCEPT:
                handover = Handover.decode(body)
                return await self.blocking(lambda: self._accept(peer, handover))
            if path == VM_HAND:
                token = Handover.decode(body).token
                return (await self._hand(token)).encode()
            if path == VM_ABORT:
                abort = Abort.decode(body)
                await self.blocking(lambda: self._abort(peer, abort))
                return b""
        raise BadInput("nothing is served here", where=path)

    async def learn(self, moves: Iterable[tuple[VmToken, bytes]]) -> None:
        """Tokens that peers' reports brought, verified. One that says that another host owns a VM ends it here; one of
        a VM that this host waits for is as good as told by the host that gives it. Raises BackendFailed."""
        for token, envelope in moves:
            if not await self.blocking(partial(self._note, token, envelope)):
                try:
                    async with self._turn:
                        await self._hand(envelope)
                except ShamonError as error:
                    self.audit.append("vm.not-placed", token.vm, {"reason": str(error)})
            self.changed()

    def _note(self, token: VmToken, envelope: bytes) -> bool:
        """False where it is of a VM that this host waits for."""
        with self.vms.held():
            try:
                require_new(token, self.enforced.policy, self.owners.newest(token.vm))
            except NotTrusted:  # by what is known meanwhile, or by a version that is in force since
                return True
            document = self.store.get(ARRIVALS, token.vm)
            if token.owner == self.name and document is not None and document["phase"] == Phase.ACCEPTED:
                return token_in(document["accepted"].encode("ascii")) != token
            self.audit.append("vm.owner", token.vm, _detail(token))
            self.owners.take(token, envelope)
            if document is not None and _ended_by(token, document):
                self._give_up(token.vm, document, f"it is {token.owner}'s")
            return True

    # The steps, in order

    async def _prepare(self, peer: HostName, message: Prepare) -> bytes:
        def check() -> bool:
            """Whether the clean image is still to be compared with its pin."""
            with self.vms.held():
                document = self._require_free(peer, message.vm, message.policy)
                return document is None or document["move"] != message.move.hex()

        if await self.blocking(check):
            entry = self.enforced.policy.vms[message.vm]
            pin = self.enforced.policy.images[entry.image]
            await self.blocking(lambda: self.vms.images.verify(pin.name, pin.sha256))

        def begin() -> None:
            with self.vms.held():
                if (self.store.get(ARRIVALS, message.vm) or {}).get("live"):
                    self._forget(message.vm)
                self._note_receiving(peer, message.vm, message.move, size=message.size)
                if message.size:
                    self.vms.images.begin_incoming(message.vm, message.size)
                else:
                    self.vms.images.discard_incoming(message.vm)

        await self.blocking(begin)
        self._open[message.vm] = (peer, message.move)
        return b""

    async def _begin_live(self, peer: HostName, message: Receive) -> bytes:
        """In place of `_prepare`. Asked again for the same move, it begins again."""
        vm = message.vm

        def begin() -> None:
            with self.vms.held():
                self._require_free(peer, vm, message.policy)
                self.live.require_possible(message, peer)
                self._forget(vm)
                self._note_receiving(peer, vm, message.move, size=0, live=True)

        def lost(reason: str) -> None:
            self.background.spawn(self._lose(vm, message.move, reason), f"{vm} does not come")

        await self.blocking(begin)
        try:
            await self.live.begin(peer, message, lost, permit=lambda: self._permit(peer, vm))
        except ShamonError as error:
            await self._lose(vm, message.move, str(error))
            raise
        return b""

    async def _lose(self, vm: VmName, move: bytes, reason: str) -> None:
        """Nothing comes of it any more, and this host has not said that all of it is there."""

        def lose() -> None:
            with self.vms.held():
                document = self.store.get(ARRIVALS, vm)
                if document is None or (document["move"], document["phase"]) != (move.hex(), Phase.RECEIVING):
                    return
                self._give_up(vm, document, reason)

        await self.blocking(lose)
        self.changed()

    async def _receive(self, peer: HostName, part: DiskPart) -> bytes:
        if self._open.get(part.vm) != (peer, part.move):
            raise Refused("no such VM is on its way to this host", where=part.vm)
        if not self.admissions.state(peer).counts_at(self.clock.boottime_s()):
            raise Refused("the host is not admitted now", where=peer)
        await self.blocking(lambda: self.vms.images.write_incoming(part.vm, part.offset, part.data))
        return b""

    def _accept(self, peer: HostName, handover: Handover) -> bytes:
        """All of it is there: this host signs that it takes the VM, if the one that owns it gives it."""
        token = token_in(handover.token)
        vm = token.vm
        document = self._on_its_way(peer, vm, handover.move)
        if document["phase"] == Phase.ACCEPTED:
            if token_in(document["accepted"].encode("ascii")) != token:
                raise Refused("another token was accepted for this move", where=vm)
            return str(document["accepted"]).encode("ascii")
        if document["phase"] != Phase.RECEIVING:
            raise Refused("the VM is this host's", where=vm)
        if document.get("live"):
            self.live.finish(vm)
        self._open.pop(vm, None)  # nothing more comes in
        found = self.vms.images.incoming_sha256(vm) if document["size"] else ""
        if (token.size, token.disk) != (document["size"], found):
            raise NotTrusted(
                "the disk did not arrive as it was sent",
                where=vm,
                expected=f"{token.size} bytes, sha256 {token.disk}",
                found=f"{document['size']} bytes, sha256 {found}",
            )
        if document["size"]:  # one that is of no use costs the host that gives it, which keeps the VM
            self.vms.images.fit_incoming(vm, self._entry(vm).image)
        with self.vms.held():
            if self._on_its_way(peer, vm, handover.move) != document:
                raise Refused("another answer was given of the move meanwhile", where=vm)
            policy = self.enforced.policy
            require_new(token, policy, self.owners.newest(vm))
            if (token.owner, token.previous, token.policy) != (self.name, peer, policy.digest):
                raise NotTrusted("the token is for another move", where=vm)
            if token.generation != self.owners.next_number(vm):
                raise NotTrusted("the token is not the next one of the VM", where=vm)
            why = why_not_its_disk(
                token.base,
                has_disk=bool(token.size or document.get("live")),
                pin=policy.images[self._entry(vm).image].sha256,
                stands_alone=policy.hypervisor_of(self.name) is HypervisorKind.XEN,
            )
            if why:
                raise NotTrusted("the VM does not come with its disk", where=vm, found=why)
            self._permit(peer, vm)
            self.audit.append("vm.accept", vm, _detail(token))
            accepted = countersigned(handover.token, self.key)
            self.store.put(ARRIVALS, vm, {**document, "phase": Phase.ACCEPTED, "accepted": accepted.decode("ascii")})
            return accepted

    async def _hand(self, envelope: bytes) -> Arrived:
        """The VM is this host's: the disk in its place, and started if it ran."""

        def own() -> VmToken:
            token = read_token(envelope, self.owners.key_of)
            vm = token.vm
            with self.vms.held():
                newest = self.owners.newest(vm)
                if newest != token and (newest is None or newest.generation <= token.generation):
                    require_new(token, self.enforced.policy, newest)
                    document = self._waited_for(token)
                    if document["size"]:  # or it stays with the host that gives it, which has its disk
                        self.vms.images.make_way(vm)
                    self.audit.append("vm.own", vm, _detail(token))
                    base = token.base or (None if token.size else "")
                    self.owners.take(
                        token,
                        envelope,
                        {
                            (ARRIVALS, vm): {**document, "phase": Phase.OWNED},
                            (VM_DOCUMENTS, vm): self.vms.states.arrived(
                                vm, wanted=token.runs, base=base, runs=bool(document.get("live"))
                            ),
                        },
                    )
                self._place(vm)
            return token

        token = await self.blocking(own)
        live = bool((self.store.get(ARRIVALS, token.vm) or {}).get("live"))
        try:
            arrived = await self.blocking(lambda: self._start(token.vm))
        finally:
            self.changed()
        if live and arrived.resumed:
            waited_ms, first_frame_ms = await self.live.first_frame(token.vm)
            arrived = replace(arrived, waited_ms=waited_ms, first_frame_ms=first_frame_ms)
        return arrived

    def _start(self, vm: VmName) -> Arrived:
        """It is this host's, whether it starts or not."""
        policy = self.enforced.policy
        if vm not in policy.vms or policy.host_of(vm) != self.name:
            return Arrived(resumed=False, state="it is another host's by now")
        try:
            domain = self._started(vm) if self.store.get(ARRIVALS, vm) else self.vms.states.find(vm)
        except ShamonError as error:
            self.audit.append("vm.not-restored", vm, {"reason": str(error)})
            self.started(vm)
            return Arrived(resumed=False, state=printable(f"it does not start: {error}", MAX_STATE))
        if domain is None:
            return Arrived(resumed=False, state="it is stopped")
        return Arrived(resumed=domain.state is DomainState.RUNNING, state=f"it is {domain.state}")

    def _started(self, vm: VmName) -> DomainReport | None:
        with self.vms.held():
            domain = self.vms.start_again(vm)
            self.started(vm)
            return domain

    def started(self, vm: VmName) -> None:
        """Whatever could be done for a VM that came to run here was done."""
        with self.vms.held():
            document = self.store.get(ARRIVALS, vm)
            if document is not None and document["phase"] == Phase.PLACED:
                self.store.delete(ARRIVALS, vm)

    def _abort(self, peer: HostName, abort: Abort) -> None:
        with self.vms.held():
            document = self.store.get(ARRIVALS, abort.vm)
            if document is None or (document["from"], document["move"]) != (peer, abort.move.hex()):
                return
            if document["phase"] in (Phase.OWNED, Phase.PLACED):
                raise Refused("the VM is this host's", where=abort.vm)
            self.audit.append("vm.arrival-given-up", abort.vm, {"from": peer})
            self._forget(abort.vm)

    # Parts

    def _permit(self, peer: HostName, vm: VmName) -> None:
        """`vm.migrate`, beside what runs here. Raises Refused."""
        policy = self.enforced.policy
        running = {
            report.name: policy.label_of(report.name)
            for report in self.vms.states.active()
            if report.name in policy.vms
        }
        decision = monitor.vm_migrate(
            policy,
            vm,
            source=peer,
            destination=self.name,
            running_there=running,
            peer_state=self.admissions.state(peer),
            local_tpm=self.own_tpm(),
            now_s=self.clock.boottime_s(),
        )
        self.audit.append(decision.check, vm, decision.as_detail())
        decision.enforce()
        if self.enforced.successor is not None:
            raise Refused("a version of the policy is about to come into force", where=self.name)

    def _require_free(self, peer: HostName, vm: VmName, digest: str) -> dict[str, Any] | None:
        """The VM may come, and no earlier move of it is to be finished here first; what is noted of one that came to
        nothing. Raises Refused."""
        if digest != self.enforced.policy.digest:
            raise Refused("a VM moves between hosts with one policy alone", where=self.name)
        self._permit(peer, vm)
        document = self.store.get(ARRIVALS, vm)
        if document is not None and document["phase"] in (Phase.OWNED, Phase.PLACED):
            raise Busy("an earlier move of the VM is not over here", where=vm)
        return document

    def _note_receiving(self, peer: HostName, vm: VmName, move: bytes, *, size: int, live: bool = False) -> None:
        document = {"move": move.hex(), "from": peer, "phase": Phase.RECEIVING, "size": size, "accepted": ""}
        self.store.put(ARRIVALS, vm, {**document, **({"live": True} if live else {})})

    def _on_its_way(self, peer: HostName, vm: VmName, move: bytes) -> dict[str, Any]:
        """What is noted of this move. Raises Refused where it is not waited for, or no more."""
        document = self.store.get(ARRIVALS, vm)
        if document is None or (document["from"], document["move"]) != (peer, move.hex()):
            raise Refused("no such VM is on its way to this host", where=vm)
        return document

    def _entry(self, vm: VmName) -> VmEntry:
        entry = self.enforced.policy.vms.get(vm)
        if entry is None:
            raise Refused("the policy has the VM no more", where=vm)
        return entry

    def _waited_for(self, token: VmToken) -> dict[str, Any]:
        """What was noted of the move by which this token was accepted. Raises Refused."""
        document = self.store.get(ARRIVALS, token.vm)
        if document is None or not document["accepted"] or token_in(document["accepted"].encode("ascii")) != token:
            raise Refused("this host has not accepted the VM, and has not its disk", where=token.vm)
        return document

    def _place(self, vm: VmName) -> None:
        """Again changes nothing. Raises ShamonError; the VM is not to be started then."""
        with self.vms.held():
            document = self.store.get(ARRIVALS, vm)
            if document is None or document["phase"] != Phase.OWNED:
                return
            if document.get("live"):
                pass  # QEMU wrote it where it is
            elif document["size"]:
                self.vms.images.place_incoming(vm, self._entry(vm).image)
            else:
                self.vms.images.discard(vm)
            self.store.put(ARRIVALS, vm, {**document, "phase": Phase.PLACED})

    def _give_up(self, vm: VmName, document: dict[str, Any], reason: str) -> None:
        self.audit.append("vm.arrival-given-up", vm, {"from": document["from"], "reason": reason})
        try:
            self._forget(vm)
        except ShamonError as error:
            self.audit.append("vm.not-destroyed", vm, {"reason": str(error)})

    def _forget(self, vm: VmName) -> None:
        """Of a VM that is not this host's. What its domain stands on goes before what is written down of it."""
        self._open.pop(vm, None)
        document = self.store.get(ARRIVALS, vm)
        if document is not None and document.get("live"):
            self.live.discard(vm)
        self.vms.images.discard_incoming(vm)
        self.store.delete(ARRIVALS, vm)


def _ended_by(token: VmToken, document: dict[str, Any]) -> bool:
    """Whether a newer token than was known says that nothing comes of a move to this host."""
    phase: str = document["phase"]
    return phase == Phase.ACCEPTED or (phase == Phase.RECEIVING and token.owner != str(document["from"]))


def _detail(token: VmToken) -> dict[str, Any]:
    return {"owner": token.owner, "from": token.previous, "generation": token.generation, "disk": token.disk}
