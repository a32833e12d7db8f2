"""The way of a packet through the kernel of one host in memory: bridge, link device, SPD, SAD, nft, wire, and back.

At each place it is dropped where Linux drops it, and counted under Linux's name for it.
"""

import struct
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from shamon_host.domain.errors import BackendFailed
from shamon_host.links.model import PASSAGE_SESSION, Direction, Passage, SaId
from shamon_host.links.ports import AcquireEvent, ExpireEvent, KernelEvent
from shamon_host.testing.ip_addresses import family
from shamon_host.testing.kernel_bridge import ETHERNET_HEADER, MemoryBridge, host_answer
from shamon_host.testing.kernel_filters import MemoryFilters
from shamon_host.testing.kernel_nft import MemoryGuard
from shamon_host.testing.kernel_sad import LARVAL_S, MemorySad, seal, unseal
from shamon_host.testing.kernel_selinux import MemorySelinux, SelinuxMode
from shamon_host.testing.kernel_sockets import LinkSocket
from shamon_host.testing.kernel_spd import Flow, MemorySpd
from shamon_host.testing.kernel_traffic import MemoryTraffic
from shamon_host.testing.wire import PROTO_UDP, MemoryWire, WirePacket, udp_packet

_L2TP_DATA = struct.Struct(">HHII")
"""Flags and version 3, reserved, session id, L2-specific sublayer (RFC 3931, sections 4.1.2.1 and 4.6)."""


class KernelClock(Protocol):
    """`testing.clock.VirtualClock`, or anything with these."""

    def boottime_s(self) -> float: ...

    def wall_s(self) -> float: ...


class PacketPath:
    """What one boot of the kernel holds. `tell` gets its events."""

    def __init__(
        self,
        addresses: Sequence[str],
        wire: MemoryWire,
        clock: KernelClock,
        mode: SelinuxMode,
        tell: Callable[[KernelEvent], None],
    ) -> None:
        self._addresses, self._wire, self._boottime_s, self._tell = addresses, wire, clock.boottime_s, tell
        self.selinux = MemorySelinux(mode=mode)
        self.spd = MemorySpd(self.selinux)
        self.sad = MemorySad(self.selinux, clock.wall_s, clock.boottime_s)
        self.sad.on_expired = lambda sa, hard: tell(ExpireEvent(destination=sa.destination, spi=sa.spi, hard=hard))
        self.guard = MemoryGuard(clock.boottime_s)
        self.filters = MemoryFilters(clock.boottime_s)
        self.bridges: dict[str, MemoryBridge] = {}
        self.forwards = False
        """net.ipv4.ip_forward."""
        self.taps: dict[str, Callable[[bytes], None]] = {}
        """Tap → the VM behind it."""
        self.tunnels: dict[int, tuple[str, LinkSocket]] = {}
        """Local port → device and socket."""
        self.passages: dict[int, tuple[Passage, Callable[[bytes], None] | None]] = {}
        """Local port of a link → the passage beside it, and what takes what comes out of it."""
        self.counters: Counter[str] = Counter()
        self.traffic = MemoryTraffic()
        self._acquired: dict[tuple[str, str, int], float] = {}

    def into_bridge(self, ingress: str, frame: bytes) -> None:
        bridge = next((bridge for bridge in self.bridges.values() if ingress in bridge.ports), None)
        self.traffic.received[ingress] += 1
        if bridge is None or not bridge.up or not self.filters.passes(ingress, frame, from_tap=True):
            return  # dropped before the bridge learns its sender
        if not bridge.forward(frame, ingress) or not self.guard.passes_host("host_in"):
            return
        if (answer := host_answer(bridge, self._addresses, frame)) is not None:
            bridge.reply(answer)
        if self.forwards and frame[:6] == bridge.mac and frame[12:14] == b"\x08\x00":
            # To the host by its address there; its routes lead to the other bridges that it has an address in.
            for other in self.bridges.values():
                if other is not bridge and not other.sealed:
                    other.reply(b"\xff" * 6 + other.mac + frame[12:])

    def to_port(self, interface: str, frame: bytes) -> None:
        if interface in self.taps:
            if self.filters.passes(interface, frame, from_tap=False):
                self.traffic.sent[interface] += 1
                self.taps[interface](frame)
            return
        for device, socket in tuple(self.tunnels.values()):
            if device == interface:
                passed = self.send(socket, _L2TP_DATA.pack(0x0003, 0, socket.peer_port, 0) + frame)
                (self.traffic.sent if passed else self.traffic.not_sent)[interface] += 1

    def attach_passage(self, local_port: int, receive: Callable[[bytes], None]) -> None:
        if local_port not in self.passages:
            raise BackendFailed("there is no such passage", where=str(local_port))
        self.passages[local_port] = (self.passages[local_port][0], receive)

    def close_passage(self, local_port: int) -> None:
        self.passages.pop(local_port, None)

    def send_in_passage(self, local_port: int, data: bytes) -> bool:
        """The guard is what keeps it from everybody but the daemon: without it, nothing is sent."""
        _, socket = self.tunnels.get(local_port, ("", None))
        if socket is None or local_port not in self.passages or not self.guard.whole:
            return False
        header = _L2TP_DATA.pack(0x0003, 0, socket.peer_port | PASSAGE_SESSION, 0)
        return self.send(socket, header + bytes(ETHERNET_HEADER) + data)

    def send(self, socket: LinkSocket, data: bytes) -> bool:
        """A UDP packet of a socket, as of `l2tp_xmit_skb`: SPD and SAD with its label, then nft's output hook, then
        the wire. False when it is refused on the way."""
        packet = udp_packet(socket.local, socket.local_port, socket.remote, socket.peer_port, data)
        ports = (socket.local_port, socket.peer_port)
        entry = self.spd.lookup(_flow(Direction.OUT, packet, ports), socket.context)
        item = None
        if entry is not None and entry.block:
            self.counters["XfrmOutPolBlock"] += 1
            return False
        if entry is not None and entry.reqid is not None:
            item = self.sad.outgoing(
                socket.local, socket.remote, entry.reqid, socket.context, labelled=entry.context is not None
            )
            if item is None:
                self.counters["XfrmOutNoStates"] += 1
                self._acquire(socket, entry.reqid)
                return False
        if not self.guard.passes("out", ports, socket.remote, ipsec=item is not None):
            return False
        if item is None:
            self._wire.send(packet)
            return True
        if not self.sad.usable(item):
            self.counters["XfrmOutStateExpired"] += 1
            return False
        item.sent += 1
        item.packets += 1
        item.bytes += len(packet.payload)
        self._wire.send(seal(item.sa, item.sent, packet.payload))
        return True

    def receive(self, packet: WirePacket) -> None:
        item = None
        if packet.is_esp:
            if len(packet.payload) < 16 + 17:
                self.counters["XfrmInHdrError"] += 1
                return
            spi = struct.unpack_from(">I", packet.payload)[0]
            item = self.sad.incoming(SaId(destination=packet.destination, spi=spi))
            if item is None:
                self.counters["XfrmInNoStates"] += 1
                return
            if not self.sad.usable(item):
                self.counters["XfrmInStateExpired"] += 1
                return
            plain = unseal(item, packet)
            if isinstance(plain, str):
                self.counters[plain] += 1
                return
            packet = replace(packet, protocol=PROTO_UDP, payload=plain)
        ports = packet.ports
        if ports is None or not self.guard.passes("in", ports, packet.source, ipsec=item is not None):
            return
        entry = self.spd.lookup(_flow(Direction.IN, packet, ports), item.sa.context if item else None)
        if entry is not None and entry.block:
            self.counters["XfrmInPolBlock"] += 1
            return
        if entry is not None and entry.reqid is not None and (item is None or item.sa.reqid != entry.reqid):
            self.counters["XfrmInTmplMismatch"] += 1
            return
        self._deliver(packet, ports)

    def _deliver(self, packet: WirePacket, ports: tuple[int, int]) -> None:
        """To the L2TP tunnel whose socket is connected to the sender, if there is one."""
        interface, socket = self.tunnels.get(ports[1], ("", None))
        data = packet.payload[8:]
        if socket is None or (socket.local, socket.remote, socket.peer_port) != (
            packet.destination,
            packet.source,
            ports[0],
        ):
            return
        if len(data) < _L2TP_DATA.size + ETHERNET_HEADER:
            return
        session = _L2TP_DATA.unpack_from(data)[2]
        if session == socket.local_port | PASSAGE_SESSION:
            _, receive = self.passages.get(socket.local_port, (None, None))
            if receive is not None:
                receive(data[_L2TP_DATA.size + ETHERNET_HEADER :])
        if session != socket.local_port:
            return
        self.into_bridge(interface, data[_L2TP_DATA.size :])

    def _acquire(self, socket: LinkSocket, reqid: int) -> None:
        """Told once for the same flow within LARVAL_S."""
        now, key = self._boottime_s(), (socket.local, socket.remote, reqid)
        if self._acquired.get(key, -LARVAL_S) + LARVAL_S > now:
            return
        self._acquired[key] = now
        self._tell(
            AcquireEvent(
                source=socket.local,
                destination=socket.remote,
                source_port=socket.local_port,
                destination_port=socket.peer_port,
                context=socket.context,
            )
        )


def _flow(direction: Direction, packet: WirePacket, ports: tuple[int, int]) -> Flow:
    return Flow(
        direction=direction,
        family=family(packet.source),
        source=packet.source,
        destination=packet.destination,
        source_port=ports[0],
        destination_port=ports[1],
    )
