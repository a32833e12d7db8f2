"""What runs in a domain of the in-memory hypervisor: a machine that speaks ARP, neighbour discovery and ICMP echo."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from shamon_host.testing import frames
from shamon_host.testing.frames import Frame, Kind


class TapSwitch(Protocol):
    """The bridges of the host's kernel, as taps see them."""

    def plug_tap(self, interface: str, bridge: str, receive: Callable[[bytes], None]) -> None:
        """Raises BackendFailed when there is no such bridge, or there is such a tap already."""
        ...

    def unplug_tap(self, interface: str) -> None: ...

    def send_from_tap(self, interface: str, frame: bytes) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Card:
    mac: bytes
    send: Callable[[bytes], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Neighbour:
    mac: bytes
    card: _Card


@dataclass(kw_only=True)
class MemoryGuest:
    """Answers requests for its own addresses on every card, as Linux does, and asks on every card.

    Delivery in memory is immediate: an answer is there when the question was sent, or never comes.
    """

    name: str
    addresses: tuple[str, ...]
    running: Callable[[], bool]
    note: str = ""
    """In its memory, for tests."""
    _cards: list[_Card] = field(default_factory=list)
    _neighbours: dict[str, _Neighbour] = field(default_factory=dict)
    _replies: set[tuple[str, int]] = field(default_factory=set)
    _identifier: int = 0

    def add_card(self, mac: bytes, send: Callable[[bytes], None]) -> Callable[[bytes], None]:
        """Put a network card in; returns what takes the frames that arrive at it."""
        card = _Card(mac=mac, send=send)
        self._cards.append(card)
        return lambda data: self._receive(card, data)

    def memory(self) -> dict[str, object]:
        """What it knows, in JSON's types."""
        neighbours = {
            address: [each.mac.hex(), self._cards.index(each.card)] for address, each in self._neighbours.items()
        }
        return {"note": self.note, "identifier": self._identifier, "neighbours": neighbours}

    def load(self, memory: Mapping[str, Any]) -> None:
        """What another machine with the same cards knew. Raises KeyError, ValueError, IndexError."""
        self.note, self._identifier = str(memory["note"]), int(memory["identifier"])
        self._neighbours = {
            address: _Neighbour(mac=bytes.fromhex(mac), card=self._cards[card])
            for address, (mac, card) in memory["neighbours"].items()
        }

    def resolve(self, address: str) -> bool:
        """ARP or neighbour discovery, afresh, on each card in turn."""
        self._neighbours.pop(address, None)
        kind = Kind.NEIGHBOUR_SOLICITATION if ":" in address else Kind.ARP_REQUEST
        for card in self._cards:
            self._send(card, kind, frames.BROADCAST, address)
            if address in self._neighbours:
                return True
        return False

    def ping(self, address: str) -> bool:
        """Resolve the neighbour, send one echo request; True iff its reply came."""
        if not self.resolve(address):
            return False
        neighbour = self._neighbours[address]
        self._identifier = self._identifier % 0xFFFF + 1
        self._replies.discard((address, self._identifier))
        self._send(neighbour.card, Kind.ECHO_REQUEST, neighbour.mac, address)
        return (address, self._identifier) in self._replies

    def _receive(self, card: _Card, data: bytes) -> None:
        frame = frames.parse(data)
        if frame is None or not self.running() or frame.destination_mac not in (card.mac, frames.BROADCAST):
            return
        if frame.destination not in self.addresses:
            return
        match frame.kind:
            case Kind.ARP_REQUEST:
                self._answer(card, frame, Kind.ARP_REPLY)
            case Kind.NEIGHBOUR_SOLICITATION:
                self._answer(card, frame, Kind.NEIGHBOUR_ADVERTISEMENT)
            case Kind.ECHO_REQUEST:
                self._answer(card, frame, Kind.ECHO_REPLY)
            case Kind.ARP_REPLY | Kind.NEIGHBOUR_ADVERTISEMENT:
                self._neighbours[frame.source] = _Neighbour(mac=frame.source_mac, card=card)
            case Kind.ECHO_REPLY:
                self._replies.add((frame.source, frame.identifier))

    def _send(self, card: _Card, kind: Kind, destination_mac: bytes, address: str) -> None:
        own = next((own for own in self.addresses if (":" in own) == (":" in address)), None)
        if own is None or not self.running():
            return
        card.send(
            frames.build(
                Frame(
                    kind=kind,
                    source_mac=card.mac,
                    destination_mac=destination_mac,
                    source=own,
                    destination=address,
                    identifier=self._identifier if kind is Kind.ECHO_REQUEST else 0,
                )
            )
        )

    def _answer(self, card: _Card, asked: Frame, kind: Kind) -> None:
        card.send(
            frames.build(
                Frame(
                    kind=kind,
                    source_mac=card.mac,
                    destination_mac=asked.source_mac,
                    source=asked.destination,
                    destination=asked.source,
                    identifier=asked.identifier,
                )
            )
        )
