"""`LinuxLinkKernel`: the real kernel behind `links.ports.LinkKernel`.

It joins what the modules beside it do each for one part of the kernel: `linux_xfrm` (SAs and SPD entries), `linux_l2tp`
(tunnels over labelled sockets), `linux_bridges`, `linux_nft` (guard and gate), `linux_filters` (of taps),
`linux_events`. Only the composition root imports it. Needs CAP_NET_ADMIN, the nft program, and SELinux enforcing with
Shamon's module for what is labelled.
"""

import os
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import assert_never

from shamon_host import pyxfrm
from shamon_host.domain.errors import BackendFailed, BadInput
from shamon_host.links.batches import apply_in_batches, attempt_in_batches
from shamon_host.links.linux_bridges import (
    attach_port,
    create_bridge,
    delete_bridge,
    detach_port,
    read_bridges,
    stray_devices,
)
from shamon_host.links.linux_devices import Devices, read_sysctls
from shamon_host.links.linux_events import KernelEvents, OwnChanges
from shamon_host.links.linux_fd_store import FdStore
from shamon_host.links.linux_filter_table import filters_of, spoofed_of
from shamon_host.links.linux_filters import TapFilters
from shamon_host.links.linux_gates import Gates, canonical
from shamon_host.links.linux_l2tp import Tunnels
from shamon_host.links.linux_nft import Nft, counters_of, gates_of, is_expected
from shamon_host.links.linux_selinux import LINK_CONDITIONS
from shamon_host.links.linux_traffic import traffic_of
from shamon_host.links.linux_xfrm import LinkXfrm
from shamon_host.links.model import (
    AddSa,
    AddSpdEntry,
    AttachPort,
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
from shamon_host.links.planner import describe
from shamon_host.links.ports import KernelEvent, Traffic


class LinuxLinkKernel:
    """See `links.ports.LinkKernel`. Takes back link sockets from the service manager's store; raises BackendFailed."""

    def __init__(self, *, environment: MutableMapping[str, str] = os.environ) -> None:
        own = OwnChanges()
        self._nft = Nft()
        self._gates = Gates(nft=self._nft)
        self._filters = TapFilters(nft=self._nft)
        self._xfrm = LinkXfrm(own.expect)
        self._events = KernelEvents(own, self._nft.own_pids, self._xfrm.choose_routes_anew)
        self._devices = Devices(own.expect)
        self._tunnels = Tunnels(devices=self._devices, store=FdStore(environment), expect=own.expect)

    def read(self) -> KernelState:
        sas, foreign_sas = self._xfrm.read_sas()
        spd, socket_policies = self._xfrm.read_spd()
        tunnels, foreign_tunnels = self._tunnels.read()
        rules = self._nft.read()
        filters, changed_filters = filters_of(rules)
        return KernelState(
            sas=sas,
            spd=spd,
            tunnels=tunnels,
            passages=self._tunnels.read_passages(),
            bridges=read_bridges(self._devices),
            gate=gates_of(rules),
            guard=is_expected(rules),
            filters=filters,
            changed_filters=changed_filters,
            selinux_enforcing=LINK_CONDITIONS.enforcing(),
            selinux_missing=LINK_CONDITIONS.missing(),
            sysctls={name: read_sysctls(name) for name in SYSCTLS},
            foreign=(*foreign_sas, *socket_policies, *foreign_tunnels, *stray_devices(self._devices, tunnels)),
        )

    def apply(self, operations: Sequence[Operation]) -> None:
        apply_in_batches(operations, self._carry_out)

    def attempt(self, operations: Sequence[Operation]) -> tuple[BackendFailed, ...]:
        return attempt_in_batches(operations, self._carry_out)

    def _carry_out(self, batch: Sequence[Operation]) -> list[BackendFailed | None]:
        """A batch of one kind (`batches`); each failure names its operation."""
        try:
            outcomes = self._outcomes(batch)
        except BackendFailed as error:
            outcomes = [error] * len(batch)
        except (pyxfrm.XfrmError, ValueError, BadInput) as error:
            # A value that no kernel object has room for; none names a key.
            malformed = BackendFailed("a kernel operation is malformed", found=str(error)[:300])
            outcomes = [malformed] * len(batch)
        return [
            None if error is None else _naming(operation, error)
            for operation, error in zip(batch, outcomes, strict=True)
        ]

    def _outcomes(self, batch: Sequence[Operation]) -> Sequence[BackendFailed | None]:
        match batch[0]:
            case AddSa():
                return self._xfrm.add_sas([each.sa for each in batch if isinstance(each, AddSa)])
            case AddSpdEntry():
                return self._xfrm.add_entries([each.entry for each in batch if isinstance(each, AddSpdEntry)])
            case DeleteSpdEntry():
                return self._xfrm.delete_entries([each.entry for each in batch if isinstance(each, DeleteSpdEntry)])
            case DeleteTunnel():
                failed = self._tunnels.delete([each.local_port for each in batch if isinstance(each, DeleteTunnel)])
                return [failed.get(each.local_port) for each in batch if isinstance(each, DeleteTunnel)]
            case OpenGate():
                gates = [(canonical(each.address), each.seconds) for each in batch if isinstance(each, OpenGate)]
                failed_gates = self._gates.open(dict(gates))
                return [failed_gates.get(address) for address, _ in gates]
            case CloseGate():
                addresses = [canonical(each.address) for each in batch if isinstance(each, CloseGate)]
                failed_gates = self._gates.close(addresses)
                return [failed_gates.get(address) for address in addresses]
            case SetTapFilter():
                # In one transaction: each reading of their table has all of it.
                self._filters.set(*(each.filter for each in batch if isinstance(each, SetTapFilter)))
            case DeleteSas():
                self._xfrm.delete_sas([one for each in batch if isinstance(each, DeleteSas) for one in each.ids])
            case single:
                self._apply(single)
        return [None] * len(batch)

    def _apply(self, operation: Operation) -> None:
        match operation:
            case InstallGuard():
                self._nft.install()
            case CreateTunnel(tunnel=tunnel):
                self._tunnels.create(tunnel)
            case OpenPassage(passage=passage):
                self._tunnels.open_passage(passage)
            case ClosePassage(local_port=port):
                self._tunnels.close_passage(port)
            case CreateBridge(name=name):
                create_bridge(self._devices, name)
            case DeleteBridge(name=name):
                delete_bridge(self._devices, name)
            case AttachPort(bridge=bridge, interface=interface, isolated=isolated):
                attach_port(self._devices, bridge, interface, isolated=isolated)
            case DetachPort(interface=interface):
                detach_port(self._devices, interface)
            case SetTapFilter(filter=limits):
                self._filters.set(limits)
            case ClearTapFilter(device=device):
                self._filters.clear(device)
            case AddSa() | DeleteSas() | AddSpdEntry() | DeleteSpdEntry() | DeleteTunnel() | OpenGate() | CloseGate():
                raise AssertionError("goes in a batch")
            case _:
                assert_never(operation)

    def allocate_spi(self, *, source: str, destination: str) -> int:
        if destination not in self._devices.own_addresses():
            raise BackendFailed("nothing can arrive under an SPI: not an address of this host", where=destination)
        return self._xfrm.allocate_spi(source=source, destination=destination)

    def counters(self) -> Mapping[str, int]:
        try:
            refused = pyxfrm.xfrm_stat()
        except pyxfrm.XfrmError as error:
            raise BackendFailed("the counters of IPsec cannot be read", found=str(error)) from None
        rules = self._nft.read()
        spoofed = {f"spoofed {tap}": count for tap, count in spoofed_of(rules).items()}
        return {**refused, **counters_of(rules), **spoofed}

    def traffic(self) -> Mapping[str, Traffic]:
        return traffic_of(self._devices.bodies())

    def subscribe(self, event: Callable[[KernelEvent], None]) -> None:
        self._events.subscribe(event)

    def close(self) -> None:
        self._events.close()
        self._tunnels.close()
        self._devices.close()
        self._xfrm.close()


def _naming(operation: Operation, error: BackendFailed) -> BackendFailed:
    return BackendFailed("a kernel operation failed", where=describe(operation)[:300], found=str(error))
