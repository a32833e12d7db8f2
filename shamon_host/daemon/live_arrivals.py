"""VMs that come to this host while they run elsewhere: what `vm_arrivals` does beside that for them.

The VM is started here from this host's own configuration, on a fresh overlay, paused and waiting for its memory; its
label is read back before anything of it comes in. Then the link of one of its types is brought about, a passage opened
beside it, and the two streams that the other host connects there are given to the machine. It stands still, and is
another host's, until this one owns it by a token.
"""

import contextlib
import hmac
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from shamon_host.daemon.admissions import Admissions
from shamon_host.daemon.audit_log import AuditLog
from shamon_host.daemon.background import Background
from shamon_host.daemon.enforced_policy import EnforcedPolicy
from shamon_host.daemon.ports import Blocking, Clock, Waker
from shamon_host.domain.errors import BackendFailed, NotTrusted, Refused, ShamonError
from shamon_host.domain.labels import HostName, TypeName, VmName
from shamon_host.domain.policy import HypervisorKind
from shamon_host.domain.streams import Stream, read_exactly
from shamon_host.hypervisor.ports import LiveMigration, Receiving, VmSpec
from shamon_host.hypervisor.vms import VmManager
from shamon_host.links.manager import LinkManager
from shamon_host.links.ports import PassageListener, PassageStreams
from shamon_host.peer.move_messages import SECRET_BYTES, Join, Receive

DISK_STREAM, MEMORY_STREAM = b"D", b"M"
"""What the giver says first in each stream, behind the secret."""
HELLO_S = 20.0
"""For a stream to be connected, and to say whose it is; twice that for both."""
_LOOK_S = 0.2
_WATCH_S = 2.0
_WHOLE_S = 60.0
"""For what is on its way when the other host has sent all."""
_MOST_S = 3600.0
_FRAME_LOOK_S = 0.02
_FRAME_S = 2.0


@dataclass(kw_only=True)
class _Open:
    """A VM whose streams come in, or are about to."""

    peer: HostName
    move: bytes
    type: TypeName
    secret: bytes = field(repr=False)
    spec: VmSpec
    began_s: float
    listener: PassageListener | None = None
    receiving: Receiving | None = None
    streams: list[Stream] = field(default_factory=list)
    """That were connected, whoever has them."""
    joined: bool = False
    """The other host has said that they are, which it says once."""
    closed: bool = False


@dataclass(kw_only=True)
class LiveArrivals:
    """Part of `Arrivals`, which keeps what is written down. `live`: None on a host whose hypervisor is not QEMU."""

    name: HostName
    enforced: EnforcedPolicy
    admissions: Admissions
    vms: VmManager
    links: LinkManager
    live: LiveMigration | None
    streams: PassageStreams | None
    audit: AuditLog
    clock: Clock
    blocking: Blocking
    background: Background
    wake: Waker
    changed: Callable[[], None]
    """Domains changed."""
    _open: dict[VmName, _Open] = field(init=False, default_factory=dict)

    def require_possible(self, message: Receive, peer: HostName) -> None:
        """Raises Refused."""
        policy = self.enforced.policy
        carried = policy.label_of(message.vm).types & policy.hosts[self.name].types & policy.hosts[peer].types
        if self.live is None or self.streams is None:
            raise Refused("only QEMU's VMs move while they run", where=self.name, found=HypervisorKind.XEN)
        if message.type not in carried:
            raise Refused("the VM does not cross by a link of this type", where=message.vm, found=message.type)

    async def begin(
        self, peer: HostName, message: Receive, lost: Callable[[str], None], *, permit: Callable[[], None]
    ) -> None:
        """Until the other host can connect. `lost`: called, in the event loop, if nothing comes of it any more.
        `permit`: raises Refused where the VM may not come now. Raises ShamonError."""
        vm, live, streams = message.vm, self.live, self.streams
        if live is None or streams is None:
            raise Refused("only QEMU's VMs move while they run", where=self.name)
        spec = await self.blocking(lambda: self.vms.start_incoming(vm, live.start_incoming, permit=permit))
        self._open[vm] = opened = _Open(
            peer=peer,
            move=message.move,
            type=message.type,
            secret=message.secret,
            spec=spec,
            began_s=self.clock.boottime_s(),
        )
        self.changed()
        await linked(self.links, peer, message.type, clock=self.clock, wake=self.wake, within_s=self._patience_s())
        passage = await self.blocking(lambda: self.links.open_passage(peer, message.type, gives=False))
        opened.listener = await self.blocking(lambda: streams.listen(passage))
        self.background.spawn(self._watch(vm, opened, lost), f"{vm} comes from {peer}")

    async def join(self, peer: HostName, message: Join) -> None:
        """Both streams are connected: they are the machine's. Raises ShamonError."""
        opened = self._open.get(message.vm)
        if opened is None or opened.listener is None or (opened.peer, opened.move) != (peer, message.move):
            raise Refused("no such VM is on its way to this host", where=message.vm)
        if opened.receiving is not None:
            return
        if opened.joined:
            raise Refused("the streams of the move were announced before", where=message.vm)
        opened.joined, listener = True, opened.listener
        await self.blocking(lambda: self._join(message.vm, opened, listener))

    def _join(self, vm: VmName, opened: _Open, listener: PassageListener) -> None:
        """A thread is kept no longer than the two streams may take, nor once the move was given up."""
        until_s, live = self.clock.boottime_s() + 2 * HELLO_S, self.live

        def left_s() -> float:
            left = until_s - self.clock.boottime_s()
            if left <= 0 or opened.closed:
                raise Refused("the streams of the move were not there in time", where=vm)
            return left

        found: dict[bytes, Stream] = {}
        try:
            for _ in (DISK_STREAM, MEMORY_STREAM):
                stream = listener.accept(left_s())
                opened.streams.append(stream)
                which = _said(stream, opened.secret, left_s)
                if which in found or which not in (DISK_STREAM, MEMORY_STREAM):
                    raise NotTrusted("a stream of the move is not one that was announced", where=vm)
                found[which] = stream
            if live is None:
                raise Refused("only QEMU's VMs move while they run", where=self.name)
            opened.receiving = live.receive(opened.spec, disk=found[DISK_STREAM], memory=found[MEMORY_STREAM])
            if opened.closed:
                opened.receiving.close()
                raise Refused("the move was given up meanwhile", where=vm)
        except BaseException as error:
            _end(opened.streams)
            if isinstance(error, OSError):
                raise BackendFailed("a stream of the move ended too early", where=vm, found=str(error)) from None
            raise
        finally:
            listener.close()

    def finish(self, vm: VmName) -> None:
        """All of it is there, or BackendFailed, Refused. Synchronous."""
        opened = self._open.get(vm)
        if opened is None or opened.receiving is None:
            raise Refused("the VM did not come to this host", where=vm)
        opened.receiving.finish(_WHOLE_S)
        self._open.pop(vm, None)
        self._close(vm, opened)

    def discard(self, vm: VmName) -> None:
        """The VM stays where it is: what waits for it here goes. Again changes nothing. Synchronous. Raises
        BackendFailed."""
        opened = self._open.pop(vm, None)
        if opened is not None:
            self._close(vm, opened)
        self.vms.discard_incoming(vm)

    async def first_frame(self, vm: VmName) -> tuple[int, int]:
        """Milliseconds that were waited here, and until the VM sent a frame: 0 where it sent none in two seconds."""
        taps = await self.blocking(self.vms.states.devices)
        began_s = self.clock.boottime_s()
        before = await self.blocking(lambda: self._sent(taps.get(vm, ())))
        while self.clock.boottime_s() - began_s < _FRAME_S:
            await self.clock.sleep(_FRAME_LOOK_S)
            if await self.blocking(lambda: self._sent(taps.get(vm, ()))) > before:
                waited = max(1, round((self.clock.boottime_s() - began_s) * 1000))
                return waited, waited
        return round((self.clock.boottime_s() - began_s) * 1000), 0

    def _sent(self, taps: tuple[str, ...]) -> int:
        traffic = self.links.kernel.traffic()
        return sum(traffic[tap].rx_packets for tap in taps if tap in traffic)

    def _patience_s(self) -> float:
        return 3 * self.enforced.policy.intervals.timeout_s

    def _close(self, vm: VmName, opened: _Open) -> None:
        opened.closed = True
        if opened.listener is not None:
            opened.listener.close()
        if opened.receiving is not None:
            opened.receiving.close()
        _end(opened.streams)
        try:
            self.links.close_passage(opened.peer, opened.type)
        except BackendFailed as error:  # nobody wants it any more: the next look at the kernel removes it
            self.audit.append("link.passage-not-closed", vm, {"reason": str(error)})

    async def _watch(self, vm: VmName, opened: _Open, lost: Callable[[str], None]) -> None:
        """Nobody may ever say that the move is given up: the other host may have died."""
        while True:
            await self.clock.sleep(_WATCH_S)
            if self._open.get(vm) is not opened:
                return
            why, now = "", self.clock.boottime_s()
            if not self.admissions.state(opened.peer).counts_at(now):
                why = f"{opened.peer} is not admitted any more"
            elif now - opened.began_s > (_MOST_S if opened.receiving is not None else self._patience_s() + 2 * HELLO_S):
                why = "it took too long"
            elif (receiving := opened.receiving) is not None:
                try:
                    why = await self.blocking(receiving.failed)
                except ShamonError as error:
                    why = str(error)
            if why and self._open.get(vm) is opened:
                lost(why)
                return


async def linked(
    links: LinkManager, peer: HostName, name: TypeName, *, clock: Clock, wake: Waker, within_s: float
) -> None:
    """Wait until both sides have installed the link of a type. Raises Refused where they do not in time."""
    until_s = clock.boottime_s() + within_s
    while name not in links.carried(peer):
        if clock.boottime_s() >= until_s:
            raise Refused("no link of the type came up in time", where=peer, expected=name)
        if name not in links.linked(peer):
            wake(peer)
        await clock.sleep(_LOOK_S)


def _end(streams: Iterable[Stream]) -> None:
    """Whoever waits for one of them does not any more. Again changes nothing."""
    for stream in tuple(streams):
        with contextlib.suppress(OSError):
            stream.shutdown(socket.SHUT_RDWR)
        stream.close()


def _said(stream: Stream, secret: bytes, left_s: Callable[[], float]) -> bytes:
    """Which stream it is. Raises NotTrusted for one of a stranger, and what `left_s` does."""
    try:
        said = read_exactly(stream, SECRET_BYTES + 1, left_s)
    except OSError as error:
        raise NotTrusted("a stream of the move does not say whose it is", found=str(error)) from None
    if not hmac.compare_digest(said[:SECRET_BYTES], secret):
        raise NotTrusted("a stream of the move is a stranger's")
    return said[SECRET_BYTES:]


def arriving_in(documents: dict[str, Any]) -> bool:
    """By what is written down of a VM that comes (`vm_arrivals`): its domain waits here, or may."""
    return bool(documents.get("live")) and documents["phase"] in ("receiving", "accepted")
