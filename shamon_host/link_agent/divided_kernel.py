"""`DividedKernel`: the two kernels of a host in the profile `vm` as one, behind `links.ports.LinkKernel`.

Taps of VMs and their filters are in the host's kernel; SPD, SAs, tunnels and gate in the MAC VM's. The bridge of a type
is in both, joined by an interface of the MAC VM's, whose tap is a port of the host's bridge. Whoever plans sees one
bridge, with the VMs' taps and the links' devices as its ports, and it is whole only while both halves are, and joined.

While the MAC VM is in quarantine they are apart: then a bridge is whole only while its halves are not joined.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import assert_never

from shamon_host.domain.errors import BackendFailed
from shamon_host.link_agent.setup import HOST_UPLINK_PREFIX, host_uplink, uplink
from shamon_host.links.model import (
    BRIDGE_PREFIX,
    TAP_PREFIX,
    TUNNEL_PREFIX,
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
    SetTapFilter,
)
from shamon_host.links.network_state import SYSCTLS
from shamon_host.links.ports import KernelEvent, LinkKernel, Traffic

IN_MAC_VM = "in the MAC VM: "
ON_HOST = "on the host: "


class DividedKernel:
    """See the module. Raises BackendFailed, also for what only one of the two did."""

    def __init__(self, *, host: LinkKernel, mac_vm: LinkKernel) -> None:
        self.host, self.mac_vm = host, mac_vm
        self.beside: Callable[[], Sequence[str]] = tuple
        """What else is wrong on the host, in words."""
        self.apart: Callable[[], bool] = lambda: False
        """Whether the halves of each bridge are to be apart now."""

    def read(self) -> KernelState:
        host, mac_vm = self.host.read(), self.mac_vm.read()
        on_host = (*host.foreign, *_links_on(host), *self.beside())
        return replace(
            mac_vm,
            bridges=_joined_bridges(host.bridges, mac_vm.bridges, apart=self.apart()),
            guard=host.guard and mac_vm.guard,
            filters=host.filters,
            changed_filters=host.changed_filters,
            selinux_enforcing=host.selinux_enforcing and mac_vm.selinux_enforcing,
            selinux_missing=(*_from(ON_HOST, host.selinux_missing), *_from(IN_MAC_VM, mac_vm.selinux_missing)),
            sysctls={name: _worse(name, host.sysctls, mac_vm.sysctls) for name in SYSCTLS},
            foreign=(*_from(ON_HOST, on_host), *_from(IN_MAC_VM, mac_vm.foreign)),
        )

    def read_host(self) -> KernelState:
        """The host's half alone, of which nothing waits for the MAC VM."""
        return self.host.read()

    def apply(self, operations: Sequence[Operation]) -> None:
        for kernel, run in _runs(operations):
            if kernel is None:
                for operation in run:
                    self._on_both(operation)
            else:
                (self.host if kernel else self.mac_vm).apply(run)

    def attempt(self, operations: Sequence[Operation]) -> tuple[BackendFailed, ...]:
        failures: list[BackendFailed] = []
        for kernel, run in _runs(operations):
            if kernel is not None:
                failures += (self.host if kernel else self.mac_vm).attempt(run)
                continue
            for operation in run:
                try:
                    self._on_both(operation)
                except BackendFailed as error:
                    failures.append(error)
        return tuple(failures)

    def prepare(self, bridges: Sequence[str]) -> None:
        """The host's halves of these, for the MAC VM to be started with a tap in each, behind the guard."""
        self.host.apply([InstallGuard(), *(CreateBridge(name=name) for name in bridges)])

    def _on_both(self, operation: Operation) -> None:
        match operation:
            case InstallGuard():
                self.mac_vm.apply([operation])
                self.host.apply([operation])
            case CreateBridge(name=name):
                joint = AttachPort(bridge=name, interface=host_uplink(name), isolated=False)
                self.host.apply([operation, DetachPort(interface=joint.interface) if self.apart() else joint])
                self.mac_vm.apply([operation, AttachPort(bridge=name, interface=uplink(name), isolated=False)])
            case DeleteBridge(name=name):
                self._delete_bridge(name)
            case DetachPort():  # a stranger may have any name
                self.host.apply([operation])
                self.mac_vm.apply([operation])
            case _:
                raise AssertionError("goes to one of the two")

    def _delete_bridge(self, name: str) -> None:
        """The host's half stays, with the MAC VM's tap as its only port: a type that comes back finds it there."""
        self.mac_vm.apply([DeleteBridge(name=name)])
        found = self.host.read().bridges.get(name)
        ports = found.ports if found is not None else {}
        self.host.apply([DetachPort(interface=port) for port in ports if port != host_uplink(name)])

    def allocate_spi(self, *, source: str, destination: str) -> int:
        return self.mac_vm.allocate_spi(source=source, destination=destination)

    def counters(self) -> Mapping[str, int]:
        host, mac_vm = self.host.counters(), self.mac_vm.counters()
        return {name: host.get(name, 0) + mac_vm.get(name, 0) for name in (*mac_vm, *(set(host) - set(mac_vm)))}

    def traffic(self) -> Mapping[str, Traffic]:
        """Of a bridge, what the host's half counted."""
        host, mac_vm = self.host.traffic(), self.mac_vm.traffic()
        half = {name for name in host if name.startswith(BRIDGE_PREFIX) and name not in mac_vm}
        return {**mac_vm, **{name: counted for name, counted in host.items() if name not in half}}

    def subscribe(self, event: Callable[[KernelEvent], None]) -> None:
        self.host.subscribe(event)
        self.mac_vm.subscribe(event)

    def close(self) -> None:
        self.host.close()
        self.mac_vm.close()


def _joined_bridges(host: Mapping[str, Bridge], mac_vm: Mapping[str, Bridge], *, apart: bool) -> dict[str, Bridge]:
    """One bridge for each type. The ends of what joins the halves do not show where they are as they should be; what is
    half a bridge is not sealed, so that it is made anew or goes."""
    bridges = {}
    for name in sorted({*host, *mac_vm}):
        near, far = host.get(name), mac_vm.get(name)
        if far is None and near is not None and not set(near.ports) - {host_uplink(name)}:
            continue  # what `_delete_bridge` leaves: nobody is in it
        empty = Bridge(name=name, sealed=False)
        near_ports, near_whole = _without_uplink(near or empty, host_uplink(name), apart=apart)
        far_ports, far_whole = _without_uplink(far or empty, uplink(name))
        bridges[name] = Bridge(
            name=name,
            ports={**far_ports, **near_ports},
            sealed=near_whole and far_whole,
            faulty={**(far or empty).faulty, **(near or empty).faulty},
        )
    return bridges


def _without_uplink(bridge: Bridge, port: str, *, apart: bool = False) -> tuple[dict[str, bool], bool]:
    """Its other ports, and whether it is sealed and joined to its other half, or apart from it."""
    joined = port not in bridge.ports if apart else bridge.ports.get(port) is False and port not in bridge.faulty
    return {name: flag for name, flag in bridge.ports.items() if name != port}, bridge.sealed and joined


def _links_on(host: KernelState) -> list[str]:
    """What belongs into the MAC VM: labelled SPD entries, SAs and tunnels in the host's own kernel."""
    entries = [f"SPD entry {entry.source} to {entry.destination}" for entry in host.spd if not entry.block]
    sas = [f"SA {sa.spi:#x} to {sa.destination}" for sa in host.sas]
    return sorted([*entries, *sas, *(f"tunnel {tunnel.interface}" for tunnel in host.tunnels)])


def _worse(name: str, host: Mapping[str, str], mac_vm: Mapping[str, str]) -> str:
    """The value that is not right, if there is one."""
    ours, theirs = host.get(name, "unknown"), mac_vm.get(name, "unknown")
    if ours not in SYSCTLS[name]:
        return f"{ours} {ON_HOST.rstrip(': ')}"
    return theirs if theirs in SYSCTLS[name] else f"{theirs} {IN_MAC_VM.rstrip(': ')}"


def _from(where: str, words: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{where}{each}" for each in words)


def _runs(operations: Sequence[Operation]) -> list[tuple[bool | None, list[Operation]]]:
    """Operations that stand next to each other and go to one place: True is the host, False the MAC VM, None both."""
    runs: list[tuple[bool | None, list[Operation]]] = []
    for operation in operations:
        place = _place(operation)
        if runs and runs[-1][0] is place:
            runs[-1][1].append(operation)
        else:
            runs.append((place, [operation]))
    return runs


def _place(operation: Operation) -> bool | None:
    match operation:
        case AttachPort(interface=interface):
            return not interface.startswith(TUNNEL_PREFIX)
        case SetTapFilter() | ClearTapFilter():
            return True
        case DetachPort(interface=interface) if interface.startswith((TAP_PREFIX, HOST_UPLINK_PREFIX)):
            return True
        case InstallGuard() | CreateBridge() | DeleteBridge() | DetachPort():
            return None
        case (
            AddSa() | DeleteSas() | AddSpdEntry() | DeleteSpdEntry() | CreateTunnel() | DeleteTunnel() | OpenGate()
            | CloseGate() | OpenPassage() | ClosePassage()
        ):  # fmt: skip
            return False
        case _:
            assert_never(operation)
