"""The network between hosts in memory: it carries packets at once, records all of them, and lets a test interfere.

What is on the wire is what a stranger would see: UDP in clear, or ESP with real AES-GCM.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address

from shamon_host.links.model import PORT_BLOCK

PROTO_UDP = 17
PROTO_ESP = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class WirePacket:
    """An IP packet without its header's details. `payload` starts with the UDP or ESP header."""

    source: str
    destination: str
    protocol: int
    payload: bytes

    @property
    def is_esp(self) -> bool:
        return self.protocol == PROTO_ESP

    @property
    def ports(self) -> tuple[int, int] | None:
        """UDP source and destination port; None for anything else."""
        if self.protocol != PROTO_UDP or len(self.payload) < 8:
            return None
        source, destination = struct.unpack_from(">HH", self.payload)
        return source, destination

    @property
    def is_clear_link(self) -> bool:
        """A packet of a link that is not protected: what must never be seen."""
        return self.ports is not None and any(port in PORT_BLOCK for port in self.ports)


def udp_packet(source: str, source_port: int, destination: str, destination_port: int, data: bytes) -> WirePacket:
    """A UDP packet in clear (its checksum left out, as IPv4 allows)."""
    header = struct.pack(">HHHH", source_port, destination_port, 8 + len(data), 0)
    return WirePacket(source=source, destination=destination, protocol=PROTO_UDP, payload=header + data)


class MemoryWire:
    """One network for all hosts of a test. Delivery is immediate and in order."""

    def __init__(self) -> None:
        self._receivers: dict[str, Callable[[WirePacket], None]] = {}
        self._cut: set[str] = set()
        self.packets: list[WirePacket] = []
        """Everything that hosts have sent, oldest first."""

    def attach(self, address: str, receive: Callable[[WirePacket], None]) -> None:
        """Give `address` to a host. Raises ValueError when another host has it."""
        address = str(ip_address(address))
        if address in self._receivers:
            raise ValueError(f"{address} is on the wire already")
        self._receivers[address] = receive

    def detach(self, address: str) -> None:
        """The host with this address is switched off."""
        del self._receivers[address]

    def send(self, packet: WirePacket) -> None:
        """A host sends: recorded, then delivered to whoever has the address."""
        if packet.source in self._cut:
            return
        self.packets.append(packet)
        self.inject(packet)

    def inject(self, packet: WirePacket) -> None:
        """A stranger sends, or a recorded packet is sent again: delivered, not recorded."""
        receive = self._receivers.get(packet.destination)
        if receive is not None and packet.destination not in self._cut:
            receive(packet)

    def cut(self, address: str) -> None:
        """Pull the cable of the host with this address."""
        self._cut.add(address)

    def restore(self, address: str) -> None:
        """Put it back."""
        self._cut.discard(address)

    def mark(self) -> int:
        """A place in the record, for `since`."""
        return len(self.packets)

    def since(self, mark: int = 0) -> tuple[WirePacket, ...]:
        """What hosts have sent since then."""
        return tuple(self.packets[mark:])
