"""Bridges in memory: learning, isolated ports, and a host behind them that answers unless the guard keeps it out."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, ip_address

ETHERNET_HEADER = 14
HAIRPIN = "hairpin is 1"
_LLDP = 14
_CONTROL = bytes.fromhex("0180c20000")
_ARP_REQUEST = bytes.fromhex("0001080006040001")


@dataclass(kw_only=True)
class MemoryBridge:
    """`ports`: interface → isolated. `deliver` hands a frame to whatever is behind a port."""

    name: str
    mac: bytes
    deliver: Callable[[str, bytes], None]
    sealed: bool = True
    up: bool = True
    ports: dict[str, bool] = field(default_factory=dict)
    hairpin: set[str] = field(default_factory=set)
    """Ports out of which goes again what comes in there."""
    _learnt: dict[bytes, str] = field(default_factory=dict)

    def detach(self, interface: str) -> None:
        self.ports.pop(interface, None)
        self.hairpin.discard(interface)
        self._learnt = {mac: port for mac, port in self._learnt.items() if port != interface}

    def forward(self, frame: bytes, ingress: str) -> bool:
        """Send a frame from one port on to the others. Returns whether the host behind the bridge gets it too."""
        destination, source = frame[:6], frame[6:12]
        if destination[:5] == _CONTROL and 0 < destination[5] < 16:
            # To the bridge itself: past its rules with LLDP (br_handle_frame), and no further. Only spanning tree's
            # go on, for there is none here.
            return destination[5] != _LLDP
        self._learnt[source] = ingress
        known = None if destination[0] & 1 else self._learnt.get(destination)
        if known == ingress and ingress not in self.hairpin:
            return False
        for port, isolated in tuple(self.ports.items()):
            if (
                (port != ingress or port in self.hairpin)
                and known in (None, port)
                and not (isolated and self.ports.get(ingress))
            ):
                self.deliver(port, frame)
        return bool(destination[0] & 1) or destination == self.mac

    def reply(self, frame: bytes) -> None:
        """The host itself sends into the bridge."""
        known = self._learnt.get(frame[:6])
        for port in tuple(self.ports):
            if known in (None, port):
                self.deliver(port, frame)


def host_answer(bridge: MemoryBridge, addresses: Iterable[str], frame: bytes) -> bytes | None:
    """What Linux answers to an ARP request for any of its addresses, on any interface that is up (arp_ignore 0)."""
    if frame[12:14] != b"\x08\x06" or frame[14:22] != _ARP_REQUEST or len(frame) < ETHERNET_HEADER + 28:
        return None
    target = frame[38:42]
    if target not in {ip_address(a).packed for a in addresses if isinstance(ip_address(a), IPv4Address)}:
        return None
    reply = bytes.fromhex("0001080006040002") + bridge.mac + target + frame[22:32]
    return frame[6:12] + bridge.mac + b"\x08\x06" + reply
