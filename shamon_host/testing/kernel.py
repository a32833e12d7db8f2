"""`MemoryKernel`: the kernel of one host in memory, behind `links.ports.LinkKernel`, with packets that really pass.

A frame from a VM's tap goes through the bridge into a link's device, out of its labelled socket, through SPD, SAD and
nft, over the `MemoryWire` into the other host's kernel and up again, and is dropped where Linux would drop it. What the
product forgets shows: without guard and policies the frame is on the wire in clear.

It plays the adapter too: operations are read back, and a label that the kernel dropped is an error. Methods under "by
hand" are what an operator, an attacker or another program does behind the product's back.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from ipaddress import ip_address
from typing import assert_never

from shamon_host.domain.errors import BackendFailed
from shamon_host.links.batches import apply_in_batches, attempt_each
from shamon_host.links.model import (
    AddSa,
    AddSpdEntry,
    AttachPort,
    Bridge,
    ClearTapFilter,
    CloseGate,
    ClosePassage,
    CreateBridge,
    CreateTunnel,
    DeleteBridge,
    DeleteSas,
    DeleteSpdEntry,
    DeleteTunnel,
    DetachPort,
    InstallGuard,
    KernelState,
    OpenGate,
    OpenPassage,
    Operation,
    Passage,
    SecurityAssociation,
    SetTapFilter,
    SpdEntry,
    Tunnel,
)
from shamon_host.links.network_state import SYSCTLS
from shamon_host.links.planner import describe
from shamon_host.links.ports import ChangedEvent, KernelEvent, Traffic
from shamon_host.links.tap_filter import is_device
from shamon_host.testing.kernel_bridge import ETHERNET_HEADER, HAIRPIN, MemoryBridge
from shamon_host.testing.kernel_nft import GUARD_COUNTERS
from shamon_host.testing.kernel_packets import KernelClock, PacketPath
from shamon_host.testing.kernel_selinux import LINK_TYPE, MemorySelinux, SelinuxMode
from shamon_host.testing.kernel_sockets import LinkSocket, MemoryFdStore
from shamon_host.testing.wire import MemoryWire, WirePacket

FORWARDING = ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding")
"""Of the sysctls, those whose changes the kernel tells."""
_XFRM_COUNTERS = (
    "XfrmInHdrError",
    "XfrmInNoStates",
    "XfrmInStateProtoError",
    "XfrmInStateSeqError",
    "XfrmInStateExpired",
    "XfrmInTmplMismatch",
    "XfrmInPolBlock",
    "XfrmOutNoStates",
    "XfrmOutStateExpired",
    "XfrmOutPolBlock",
)


class MemoryKernel:
    """See the module. `addresses`: the host's own, on the wire. `fd_store` is of the host's service manager."""

    def __init__(
        self,
        addresses: Sequence[str],
        wire: MemoryWire,
        clock: KernelClock,
        *,
        selinux: SelinuxMode = SelinuxMode.ENFORCING,
        fd_store: MemoryFdStore | None = None,
    ) -> None:
        self.addresses = tuple(str(ip_address(address)) for address in addresses)
        self.wire = wire
        self._clock = clock
        self.fd_store = fd_store or MemoryFdStore()
        self.fd_store.on_close = self._socket_closed
        self._subscribers: list[Callable[[KernelEvent], None]] = []
        self.fail_after: int | None = None
        """After so many more operations, the next one fails (once) and does nothing."""
        self._boot(selinux)
        for address in self.addresses:
            wire.attach(address, self._receive)

    def _boot(self, mode: SelinuxMode) -> None:
        self._path = PacketPath(self.addresses, self.wire, self._clock, mode, self._tell)
        self._sysctls = {name: right[0] for name, right in SYSCTLS.items()}

    def _receive(self, packet: WirePacket) -> None:
        self._path.receive(packet)

    @property
    def selinux(self) -> MemorySelinux:
        """The mode and the denials."""
        return self._path.selinux

    # The port

    def read(self) -> KernelState:
        return KernelState(
            sas=self._path.sad.read(),
            spd=self._path.spd.read(),
            tunnels=frozenset(
                Tunnel(
                    interface=interface,
                    local=socket.local,
                    remote=socket.remote,
                    local_port=socket.local_port,
                    peer_port=socket.peer_port,
                    context=socket.context,
                )
                for interface, socket in self._path.tunnels.values()
            ),
            passages=frozenset(passage for passage, _ in self._path.passages.values()),
            bridges={
                name: Bridge(
                    name=name,
                    ports=dict(bridge.ports),
                    sealed=bridge.sealed and bridge.up,
                    faulty=dict.fromkeys(sorted(bridge.hairpin), HAIRPIN),
                )
                for name, bridge in self._path.bridges.items()
            },
            gate=self._path.guard.gate(),
            guard=self._path.guard.whole,
            filters=self._path.filters.read(),
            changed_filters=self._path.filters.changed(),
            selinux_enforcing=self.selinux.mode is SelinuxMode.ENFORCING,
            selinux_missing=self.selinux.missing(),
            sysctls=dict(self._sysctls),
        )

    def apply(self, operations: Sequence[Operation]) -> None:
        apply_in_batches(operations, self.carry_out)

    def attempt(self, operations: Sequence[Operation]) -> tuple[BackendFailed, ...]:
        # By way of `apply`: a test that watches or replaces that one sees the way down too.
        return attempt_each(operations, self.apply)

    def allocate_spi(self, *, source: str, destination: str) -> int:
        if destination not in self.addresses:
            raise BackendFailed("not an address of this host", where=destination)
        return self._path.sad.allocate(destination)

    def counters(self) -> Mapping[str, int]:
        nft = {name: self._path.guard.dropped[name] for name in GUARD_COUNTERS}
        spoofed = {f"spoofed {tap}": count for tap, count in self._path.filters.spoofed().items()}
        return {**{name: self._path.counters[name] for name in _XFRM_COUNTERS}, **nft, **spoofed}

    def traffic(self) -> Mapping[str, Traffic]:
        bridges = {name: bridge.up for name, bridge in self._path.bridges.items()}
        ports = {port for bridge in self._path.bridges.values() for port in bridge.ports}
        devices = {**bridges, **{device: device in ports for device in self._devices()}}
        return {name: self._path.traffic.of(name, up=up) for name, up in devices.items()}

    def subscribe(self, event: Callable[[KernelEvent], None]) -> None:
        self._subscribers.append(event)

    def close(self) -> None:
        self._subscribers.clear()

    # The VMs' side

    def plug_tap(self, interface: str, bridge: str, receive: Callable[[bytes], None]) -> None:
        """A VM starts: make its tap a port of the bridge. Raises BackendFailed, as libvirt would, when it cannot."""
        if bridge not in self._path.bridges:
            raise BackendFailed("no tap for the VM", where=interface, found=f"bridge {bridge}")
        self.add_tap(interface, receive)
        self._path.bridges[bridge].ports[interface] = False

    def add_tap(self, interface: str, receive: Callable[[bytes], None]) -> None:
        """A tap with a VM behind it, in no bridge. Raises BackendFailed when there is one of its name."""
        if interface in self._devices():
            raise BackendFailed("no tap for the VM", where=interface, found="a device of this name")
        self._path.taps[interface] = receive

    def unplug_tap(self, interface: str) -> None:
        """The VM is gone, and its tap with it. No error if there is none."""
        self._path.taps.pop(interface, None)
        self._path.traffic.forget(interface)
        self._detach(interface)

    def send_from_tap(self, interface: str, frame: bytes) -> None:
        """The VM sends a frame."""
        if interface not in self._path.taps or len(frame) < ETHERNET_HEADER:
            raise ValueError(f"no VM can send this frame from {interface}")
        self._path.into_bridge(interface, frame)

    # The daemon's side of passages

    def attach_passage(self, local_port: int, receive: Callable[[bytes], None]) -> None:
        """What comes out of a passage goes there. Raises BackendFailed where there is none."""
        self._path.attach_passage(local_port, receive)

    def is_attached(self, passage: Passage, receive: Callable[[bytes], None]) -> bool:
        return self._path.passages.get(passage.local_port) == (passage, receive)

    def send_in_passage(self, local_port: int, data: bytes) -> bool:
        """False where it is refused on its way, or there is no passage."""
        return self._path.send_in_passage(local_port, data)

    # By hand

    def send_from_socket(self, tunnel: Tunnel, data: bytes) -> None:
        """A program with a socket of this label and these ports sends a UDP packet."""
        socket = LinkSocket(
            local=tunnel.local,
            local_port=tunnel.local_port,
            remote=tunnel.remote,
            peer_port=tunnel.peer_port,
            context=self.selinux.keep(tunnel.context, LINK_TYPE),
        )
        self._path.send(socket, data)

    @property
    def reserved_spis(self) -> frozenset[int]:
        """Of larval SAs: `ip xfrm state` shows them, a read of links does not."""
        return frozenset(sa_id.spi for sa_id in self._path.sad.reserved())

    @property
    def avc(self) -> Sequence[str]:
        """SELinux denials so far."""
        return tuple(self.selinux.avc)

    def reboot(self, selinux: SelinuxMode = SelinuxMode.ENFORCING) -> None:
        """Everything in the kernel and in the service manager's store is lost; taps too."""
        self.fd_store.sockets.clear()
        self._subscribers.clear()
        self._boot(selinux)

    def power_off(self) -> None:
        """Off the wire for good; another kernel may take the addresses."""
        self.reboot()
        for address in self.addresses:
            self.wire.detach(address)

    def load_policy(self, *, module: bool = True, permissive: Collection[str] = ()) -> None:
        """`semodule`: another policy is loaded, with or without Shamon's module, with these domains permissive."""
        self.selinux.module, self.selinux.permissive = module, set(permissive)
        self._tell(ChangedEvent(what="an SELinux policy was loaded"))

    def set_enforcing(self, enforcing: bool) -> None:
        """`setenforce`."""
        self.selinux.set_enforcing(enforcing)
        self._tell(ChangedEvent(what="SELinux's mode was set"))

    def set_sysctl(self, name: str, value: str) -> None:
        if name not in self._sysctls:
            raise ValueError(f"{name} is not modelled")
        self._sysctls[name] = value
        self._path.forwards = self._sysctls["net.ipv4.ip_forward"] == "1"
        if name in FORWARDING and value != "0":
            self._tell(ChangedEvent(what="forwarding was switched on"))

    def flush_policies(self) -> None:
        """`ip xfrm policy flush`."""
        self._path.spd.flush()
        self._tell(ChangedEvent(what="SPD flushed"))

    def flush_sas(self) -> None:
        """`ip xfrm state flush`."""
        self._path.sad.flush()
        self._tell(ChangedEvent(what="SAs flushed"))

    def flush_nft(self) -> None:
        """`nft flush ruleset`."""
        self._path.guard.flush()
        self._path.filters.flush()
        self._tell(ChangedEvent(what="nft ruleset flushed"))

    def damage_guard(self) -> None:
        """`nft delete rule`: one rule of the guard is gone."""
        self._path.guard.damaged = self._path.guard.present
        self._tell(ChangedEvent(what="nft rule deleted"))

    def damage_filter(self, device: str) -> None:
        """`nft delete rule`: one rule of the tap's filter is gone. Raises ValueError when it has none."""
        self._path.filters.damage(device)
        self._tell(ChangedEvent(what="nft rule deleted"))

    def put_policy(self, entry: SpdEntry) -> None:
        """`ip xfrm policy add`."""
        self._path.spd.update(entry)
        self._tell(ChangedEvent(what="SPD entry added"))

    def put_sa(self, sa: SecurityAssociation) -> None:
        """`ip xfrm state add`."""
        self._path.sad.add(sa)
        self._tell(ChangedEvent(what="SA added"))

    def put_port(self, bridge: str, interface: str, *, isolated: bool = False) -> None:
        """`ip link set INTERFACE master BRIDGE`: a port of somebody else's making, or a port of ours changed."""
        if interface not in self._devices():
            self._path.taps[interface] = lambda _: None
        self._detach(interface)
        self._path.bridges[bridge].ports[interface] = isolated
        self._tell(ChangedEvent(what=f"{interface} changed"))

    def set_hairpin(self, bridge: str, interface: str) -> None:
        """`bridge link set dev INTERFACE hairpin on`. Raises KeyError when it is no port of the bridge."""
        if interface not in self._path.bridges[bridge].ports:
            raise KeyError(interface)
        self._path.bridges[bridge].hairpin.add(interface)
        self._tell(ChangedEvent(what=f"{interface} changed"))

    def unseal(self, bridge: str) -> None:
        """`ip address add ... dev BRIDGE`."""
        self._path.bridges[bridge].sealed = False
        self._tell(ChangedEvent(what=f"{bridge} changed"))

    def set_down(self, bridge: str) -> None:
        """`ip link set BRIDGE down`: it forwards nothing."""
        self._path.bridges[bridge].up = False
        self._tell(ChangedEvent(what=f"{bridge} changed"))

    # Operations

    def carry_out(self, batch: Sequence[Operation]) -> Sequence[BackendFailed | None]:
        """What goes to the kernel together: each operation is done, or why it failed. All operations come by here."""
        return [self._failure(operation) for operation in batch]

    def _failure(self, operation: Operation) -> BackendFailed | None:
        try:
            if self.fail_after is not None:
                self.fail_after -= 1
                if self.fail_after < 0:
                    self.fail_after = None
                    raise BackendFailed("the kernel refused (as the test asked)", where=type(operation).__name__)
            self._apply(operation)
        except BackendFailed as error:
            return BackendFailed("a kernel operation failed", where=describe(operation)[:300], found=str(error))
        return None

    def _apply(self, operation: Operation) -> None:  # noqa: PLR0912, PLR0915 one case for each operation
        match operation:
            case InstallGuard():
                self._path.guard.install()
            case AddSa(sa=sa):
                self.selinux.demand_fit()
                if self._path.sad.add(sa).context != sa.context:
                    self._path.sad.delete(sa.id)
                    raise BackendFailed("the kernel dropped the SA's label", where=f"spi {sa.spi:#010x}", found="none")
            case DeleteSas(ids=ids):
                for sa_id in ids:
                    self._path.sad.delete(sa_id)
            case AddSpdEntry(entry=entry):
                if entry.context is not None:
                    self.selinux.demand_fit()
                stored = self._path.spd.update(entry)
                if stored != entry:
                    self._path.spd.delete(stored)
                    raise BackendFailed("the kernel dropped the SPD entry's label", where=entry.source, found="none")
            case DeleteSpdEntry(entry=entry):
                self._path.spd.delete(entry)
            case CreateTunnel(tunnel=tunnel):
                self.selinux.demand_fit()
                self._create_tunnel(tunnel)
            case DeleteTunnel(local_port=port):
                self.fd_store.remove(_fd_name(port))
            case OpenPassage(passage=passage):
                self._open_passage(passage)
            case ClosePassage(local_port=port):
                self._path.close_passage(port)
            case CreateBridge(name=name):
                if name not in self._path.bridges:
                    mac = b"\x02\x00" + len(self._path.bridges).to_bytes(1, "big") + name.encode()[-3:].rjust(3, b"\0")
                    self._path.bridges[name] = MemoryBridge(name=name, mac=mac, deliver=self._path.to_port)
                self._path.bridges[name].sealed = self._path.bridges[name].up = True
            case DeleteBridge(name=name):
                self._path.bridges.pop(name, None)
            case AttachPort(bridge=bridge, interface=interface, isolated=isolated):
                if bridge not in self._path.bridges or interface not in self._devices():
                    raise BackendFailed("no such device", where=f"{interface} to {bridge}")
                self._detach(interface)
                self._path.bridges[bridge].ports[interface] = isolated
            case DetachPort(interface=interface):
                self._detach(interface)
            case OpenGate(address=address, seconds=seconds):
                self._path.guard.open_gate(address, seconds)
            case CloseGate(address=address):
                self._path.guard.close_gate(address)
            case SetTapFilter(filter=limits):
                self._path.filters.set(limits)
            case ClearTapFilter(device=device):
                if not is_device(device):
                    raise BackendFailed("this is no name of a VM's tap", where=device[:40])
                self._path.filters.clear(device)
            case _:
                assert_never(operation)

    def _create_tunnel(self, tunnel: Tunnel) -> None:
        if tunnel.local not in self.addresses:
            raise BackendFailed("not an address of this host", where=tunnel.local)
        if tunnel.local_port in self._path.tunnels or tunnel.interface in self._devices():
            raise BackendFailed("the tunnel exists", where=tunnel.interface)
        context = self.selinux.keep(tunnel.context, LINK_TYPE)
        if context != tunnel.context:
            raise BackendFailed("the socket has not the label asked for", where=tunnel.interface, found=str(context))
        socket = LinkSocket(
            local=tunnel.local,
            local_port=tunnel.local_port,
            remote=tunnel.remote,
            peer_port=tunnel.peer_port,
            context=context,
        )
        self.fd_store.put(_fd_name(tunnel.local_port), socket)
        self._path.tunnels[tunnel.local_port] = (tunnel.interface, socket)

    def _open_passage(self, passage: Passage) -> None:
        interface, socket = self._path.tunnels.get(passage.local_port, ("", None))
        if socket is None or socket.peer_port != passage.peer_port:
            raise BackendFailed("there is no tunnel for the passage", where=passage.interface, found=interface)
        held, _ = self._path.passages.get(passage.local_port, (None, None))
        if held is not None and held != passage:
            raise BackendFailed("there is another passage in this one's place", where=passage.interface)
        if held is None:
            self._path.passages[passage.local_port] = (passage, None)

    def _socket_closed(self, socket: LinkSocket) -> None:
        """An L2TP tunnel is deleted with its socket, and its device with it."""
        interface, held = self._path.tunnels.get(socket.local_port, ("", None))
        if held is socket:
            del self._path.tunnels[socket.local_port]
            self._path.close_passage(socket.local_port)
            self._path.traffic.forget(interface)
            self._detach(interface)

    def _devices(self) -> set[str]:
        return {*self._path.taps, *(interface for interface, _ in self._path.tunnels.values())}

    def _detach(self, interface: str) -> None:
        for bridge in self._path.bridges.values():
            bridge.detach(interface)

    def _tell(self, event: KernelEvent) -> None:
        for subscriber in tuple(self._subscribers):
            subscriber(event)


def _fd_name(local_port: int) -> str:
    return f"link-{local_port}"
