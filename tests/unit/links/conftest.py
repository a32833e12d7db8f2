"""Two or three hosts in memory: a kernel, a link manager and a store each, on one wire, with a clock set by hand."""

import secrets
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from shamon_host.domain.label_map import EMPTY, LabelMap, allocate
from shamon_host.domain.labels import HostName, TypeName
from shamon_host.links.manager import LinkManager
from shamon_host.links.station import Station
from shamon_host.links.tap_filter import TapFilter
from shamon_host.testing.kernel import MemoryKernel
from shamon_host.testing.kernel_selinux import SelinuxMode
from shamon_host.testing.kernel_sockets import MemoryFdStore
from shamon_host.testing.wire import MemoryWire

RED, BLUE = TypeName("acme/red"), TypeName("rival/blue")
LEASE_S = 90


@dataclass
class ManualClock:
    """Time passes when a test says so."""

    boottime: float = 1000.0
    wall: float = 1_700_000_000.0

    def boottime_s(self) -> float:
        return self.boottime

    def wall_s(self) -> float:
        return self.wall

    def advance(self, seconds: float) -> None:
        self.boottime += seconds
        self.wall += seconds


@dataclass
class MemoryDocuments:
    """The part of the daemon's store that links need."""

    kept: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)

    def get(self, kind: str, key: str) -> dict[str, Any] | None:
        return self.kept.get((kind, key))

    def items(self, kind: str) -> tuple[tuple[str, dict[str, Any]], ...]:
        return tuple((key, document) for (of, key), document in sorted(self.kept.items()) if of == kind)

    def change(self, documents: Mapping[tuple[str, str], Mapping[str, Any] | None]) -> None:
        for place, document in documents.items():
            if document is None:
                self.kept.pop(place, None)
            else:
                self.kept[place] = dict(document)


@dataclass(frozen=True)
class Agreed:
    """What a handshake would have agreed on."""

    type: TypeName
    local_port: int
    peer_port: int
    in_spi: int
    out_spi: int
    in_key: bytes
    out_key: bytes


class Host:
    """One host; `restart` is kill -9 of its daemon and a new one."""

    def __init__(self, name: str, address: str, wire: MemoryWire, types: Collection[TypeName] = (RED, BLUE)) -> None:
        self.name, self.address = HostName(name), address
        self.clock = ManualClock()
        self.fd_store = MemoryFdStore()
        self.kernel = MemoryKernel([address], wire, self.clock, fd_store=self.fd_store)
        self.documents = MemoryDocuments()
        self.label_map: LabelMap = allocate(EMPTY, types, [])
        self.boot_id = "boot-1"
        self.audited: list[tuple[str, str, Mapping[str, Any]]] = []
        self.received: dict[str, list[bytes]] = {}
        self.taps: dict[str, TypeName] = {}
        self.filters: dict[str, TapFilter] = {}
        """What its daemon asks for, each time that it looks (`look`)."""
        self.restart()

    def restart(self) -> None:
        self.kernel.close()
        self.links = LinkManager(
            host=self.name,
            address=self.address,
            kernel=self.kernel,
            documents=self.documents,
            label_map=lambda: self.label_map,
            audit=lambda kind, subject, detail: self.audited.append((kind, subject, detail)),
            boottime_s=self.clock.boottime_s,
            boot_id=self.boot_id,
        )

    def reboot(self, selinux: SelinuxMode = SelinuxMode.ENFORCING) -> None:
        self.kernel.reboot(selinux)
        self.boot_id += "x"
        self.taps.clear()
        self.restart()

    def look(self) -> None:
        self.links.reconcile(self.taps, self.filters)

    def start_vm(self, tap: str, name: TypeName) -> None:
        self.received[tap] = []
        self.kernel.plug_tap(tap, self.links.ensure_bridge(name), self.received[tap].append)
        self.taps[tap] = name
        self.links.reconcile(self.taps)


def agree(a: Host, b: Host, types: Collection[TypeName] = (RED,)) -> tuple[list[Agreed], list[Agreed]]:
    """What a handshake between two hosts agrees on, from both sides."""
    ours = {offer.type: offer for offer in a.links.offer(b.name, b.address, types)}
    theirs = {offer.type: offer for offer in b.links.offer(a.name, a.address, types)}
    of_a, of_b = [], []
    for name in sorted(set(ours) & set(theirs)):
        to_a, to_b = secrets.token_bytes(36), secrets.token_bytes(36)
        x, y = ours[name], theirs[name]
        of_a.append(Agreed(name, x.port, y.port, x.spi, y.spi, to_a, to_b))
        of_b.append(Agreed(name, y.port, x.port, y.spi, x.spi, to_b, to_a))
    return of_a, of_b


def join(a: Host, b: Host, types: Collection[TypeName] = (RED,), *, lease_s: int = LEASE_S) -> None:
    """A whole handshake: receiving sides, then sending sides."""
    of_a, of_b = agree(a, b, types)
    a.links.install_inbound(b.name, b.address, of_a, lifetime_s=lease_s)
    b.links.install_inbound(a.name, a.address, of_b, lifetime_s=lease_s)
    a.links.install_outbound(b.name, b.address, of_a, gate_s=lease_s - 2, lifetime_s=lease_s)
    b.links.install_outbound(a.name, a.address, of_b, gate_s=lease_s - 2, lifetime_s=lease_s)


def frame(text: str, *, source: int = 1, destination: bytes = b"\xff" * 6) -> bytes:
    """An Ethernet frame with something to recognise in it."""
    return destination + bytes([2, 0, 0, 0, 0, source]) + b"\x88\xb5" + text.encode().ljust(46)


def pinned(taps: Iterable[str]) -> dict[str, TapFilter]:
    """Each tap held to the address from which `frame` is, and to nothing else."""
    own = Station(mac="02:00:00:00:00:01")
    return {tap: TapFilter(device=tap, own=own) for tap in taps}


def carries(a: Host, tap_a: str, b: Host, tap_b: str) -> bool:
    """A frame from one tap arrives at the other."""
    text = secrets.token_hex(8)
    a.kernel.send_from_tap(tap_a, frame(text))
    return any(text.encode() in received for received in b.received[tap_b])


@pytest.fixture
def wire() -> MemoryWire:
    return MemoryWire()


@pytest.fixture
def alpha(wire: MemoryWire) -> Host:
    return Host("alpha", "192.0.2.1", wire)


@pytest.fixture
def beta(wire: MemoryWire) -> Host:
    host = Host("beta", "192.0.2.2", wire)
    host.label_map = allocate(EMPTY, [RED, BLUE, TypeName("aaa/first")], [])  # other categories than alpha's
    return host


@pytest.fixture
def gamma(wire: MemoryWire) -> Host:
    return Host("gamma", "192.0.2.3", wire)
