"""A hypervisor in memory whose guests are small machines with a network card and a disk.

Labels behave as sVirt does on SELinux: an enforcing kernel refuses a context that its policy does not know; a
permissive one runs the domain as the hypervisor's own domain instead, silently. Domains outlive the daemon and die
with their host.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from shamon_host.domain.errors import BackendFailed
from shamon_host.domain.labels import SelinuxContext, VmName
from shamon_host.hypervisor.ports import DomainReport, DomainState, VmInterface, VmSpec
from shamon_host.testing import frames
from shamon_host.testing.frames import Frame, Kind

KNOWN_DOMAIN_TYPES = ("svirt_t",)
_FALLBACK = SelinuxContext(user="system_u", role="system_r", type="virtd_t")
_ACTIVE = (DomainState.RUNNING, DomainState.PAUSED)


class TapSwitch(Protocol):
    """The bridges of the host's kernel, as taps see them."""

    def plug_tap(self, interface: str, bridge: str, receive: Callable[[bytes], None]) -> None: ...

    def unplug_tap(self, interface: str) -> None: ...

    def send_from_tap(self, interface: str, frame: bytes) -> None: ...


@dataclass(kw_only=True)
class MemoryGuest:
    """What runs in a domain: answers ARP, neighbour discovery and echo requests to its own addresses."""

    name: str
    addresses: tuple[str, ...]
    send: Callable[[bytes], None]
    mac: bytes
    running: Callable[[], bool]
    _neighbours: dict[str, bytes] = field(default_factory=dict)
    _replies: set[tuple[str, int]] = field(default_factory=set)
    _identifier: int = 0

    def receive(self, data: bytes) -> None:
        """A frame arrives at the network card."""
        frame = frames.parse(data)
        if frame is None or not self.running() or frame.destination_mac not in (self.mac, frames.BROADCAST):
            return
        if frame.destination not in self.addresses:
            return
        match frame.kind:
            case Kind.ARP_REQUEST:
                self._answer(frame, Kind.ARP_REPLY)
            case Kind.NEIGHBOUR_SOLICITATION:
                self._answer(frame, Kind.NEIGHBOUR_ADVERTISEMENT)
            case Kind.ECHO_REQUEST:
                self._answer(frame, Kind.ECHO_REPLY)
            case Kind.ARP_REPLY | Kind.NEIGHBOUR_ADVERTISEMENT:
                self._neighbours[frame.source] = frame.source_mac
            case Kind.ECHO_REPLY:
                self._replies.add((frame.source, frame.identifier))

    def resolve(self, address: str) -> bool:
        """ARP or neighbour discovery, afresh. Delivery in memory is immediate."""
        if not self.running():
            return False
        self._neighbours.pop(address, None)
        kind = Kind.NEIGHBOUR_SOLICITATION if ":" in address else Kind.ARP_REQUEST
        self._send(kind, frames.BROADCAST, address)
        return address in self._neighbours

    def ping(self, address: str) -> bool:
        """Resolve the neighbour, send one echo request; True iff its reply came."""
        if not self.resolve(address):
            return False
        self._identifier = self._identifier % 0xFFFF + 1
        self._send(Kind.ECHO_REQUEST, self._neighbours[address], address)
        return (address, self._identifier) in self._replies

    def _send(self, kind: Kind, destination_mac: bytes, address: str) -> None:
        own = next((own for own in self.addresses if (":" in own) == (":" in address)), None)
        if own is not None:
            self.send(
                frames.build(
                    Frame(
                        kind=kind, source_mac=self.mac, destination_mac=destination_mac, source=own,
                        destination=address, identifier=self._identifier,
                    )
                )
            )

    def _answer(self, asked: Frame, kind: Kind) -> None:
        self.send(
            frames.build(
                Frame(
                    kind=kind, source_mac=self.mac, destination_mac=asked.source_mac, source=asked.destination,
                    destination=asked.source, identifier=asked.identifier,
                )
            )
        )


@dataclass(kw_only=True)
class _Domain:
    spec: VmSpec
    state: DomainState
    context: SelinuxContext | None
    guest: MemoryGuest | None = None


@dataclass(kw_only=True)
class MemoryHypervisor:
    """`hypervisor.ports.Hypervisor`. `addresses`: VM → its IP addresses; `enforcing`: what SELinux says now."""

    switch: TapSwitch
    addresses: Mapping[str, tuple[str, ...]]
    enforcing: Callable[[], bool]
    _domains: dict[VmName, _Domain] = field(default_factory=dict)
    _subscribers: list[Callable[[], None]] = field(default_factory=list)

    def start_paused(self, spec: VmSpec) -> DomainReport:
        if spec.name in self._domains and self._domains[spec.name].state in _ACTIVE:
            raise BackendFailed("the domain is active already", where=spec.name)
        context = spec.context
        if context.type not in KNOWN_DOMAIN_TYPES:
            if self.enforcing():
                raise BackendFailed("SELinux refuses the context", where=spec.name, found=str(context))
            context = _FALLBACK
        domain = _Domain(spec=spec, state=DomainState.PAUSED, context=context)
        self._domains[spec.name] = domain
        for interface in spec.interfaces:
            self._plug(domain, interface)
        self._notify()
        return self._report(domain)

    def resume(self, name: VmName) -> None:
        self._set(name, DomainState.PAUSED, DomainState.RUNNING)

    def suspend(self, name: VmName) -> None:
        self._set(name, DomainState.RUNNING, DomainState.PAUSED)

    def destroy(self, name: VmName) -> None:
        domain = self._domains.pop(name, None)
        if domain is None:
            return
        if domain.state in _ACTIVE:
            self._unplug(domain)
        self._notify()

    def domains(self) -> Sequence[DomainReport]:
        return tuple(self._report(domain) for domain in self._domains.values())

    def subscribe(self, changed: Callable[[], None]) -> None:
        self._subscribers.append(changed)

    # What tests and worlds do to it

    def guest(self, name: str) -> MemoryGuest:
        """The guest of an active domain. Raises BackendFailed."""
        domain = self._domains.get(VmName(name))
        if domain is None or domain.guest is None or domain.state not in _ACTIVE:
            raise BackendFailed("no such guest runs", where=name)
        return domain.guest

    def crash(self, name: VmName) -> None:
        """The guest crashes; its domain stays defined."""
        domain = self._find(name)
        self._unplug(domain)
        domain.state, domain.context = DomainState.CRASHED, None
        self._notify()

    def relabel(self, name: VmName, context: SelinuxContext | None) -> None:
        """Somebody with the power to do it gives the running process another label."""
        self._find(name).context = context
        self._notify()

    def power_off(self) -> None:
        """The host goes down: every domain is gone, and so is whoever listened."""
        for domain in self._domains.values():
            if domain.state in _ACTIVE:
                self._unplug(domain)
        self._domains.clear()
        self._subscribers.clear()

    def forget_subscribers(self) -> None:
        """The daemon died."""
        self._subscribers.clear()

    def _plug(self, domain: _Domain, interface: VmInterface) -> None:
        mac = bytes.fromhex(interface.mac.replace(":", ""))

        def send(frame: bytes) -> None:
            self.switch.send_from_tap(interface.device, frame)

        guest = MemoryGuest(
            name=domain.spec.name, addresses=tuple(self.addresses.get(domain.spec.name, ())), send=send, mac=mac,
            running=lambda: domain.state is DomainState.RUNNING,
        )
        self.switch.plug_tap(interface.device, interface.bridge, guest.receive)
        if domain.guest is None:
            domain.guest = guest

    def _unplug(self, domain: _Domain) -> None:
        for interface in domain.spec.interfaces:
            self.switch.unplug_tap(interface.device)

    def _set(self, name: VmName, source: DomainState, target: DomainState) -> None:
        domain = self._find(name)
        if domain.state is source:
            domain.state = target
            self._notify()

    def _find(self, name: VmName) -> _Domain:
        if name not in self._domains:
            raise BackendFailed("no such domain", where=name)
        return self._domains[name]

    def _report(self, domain: _Domain) -> DomainReport:
        spec = domain.spec
        return DomainReport(
            name=spec.name, uuid=spec.uuid, state=domain.state, interfaces=spec.interfaces, disk=spec.disk,
            context=replace(domain.context) if domain.context and domain.state in _ACTIVE else None,
        )

    def _notify(self) -> None:
        for changed in self._subscribers:
            changed()
