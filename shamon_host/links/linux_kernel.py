"""`LinuxLinkKernel`: the real kernel behind `links.ports.LinkKernel`.

It joins what the modules beside it do each for one part of the kernel: `linux_xfrm` (SAs and SPD entries), `linux_l2tp`
(tunnels over labelled sockets), `linux_bridges`, `linux_nft` (guard and gate), `linux_filters` (of taps),
`linux_events`. Only the composition root imports it. Needs CAP_NET_ADMIN, the nft program, and SELinux enforcing with
Shamon's module for what is labelled.
"""

import os
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import assert_never

from shamon_host import pyxfrm
from shamon_host.domain.errors import BackendFailed, BadInput
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
from shamon_host.links.linux_l2tp import Tunnels
from shamon_host.links.linux_labelled_socket import selinux_enforcing
from shamon_host.links.linux_nft import Nft, counters_of, gates_of, is_expected
from shamon_host.links.linux_xfrm import LinkXfrm
from shamon_host.links.model import (
    AddSa,
    AddSpdEntry,
    AttachPort,
    ClearTapFilter,
    CloseGate,
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
    Operation,
    SetTapFilter,
)
from shamon_host.links.network_state import SYSCTLS
from shamon_host.links.planner import describe
from shamon_host.links.ports import KernelEvent


class LinuxLinkKernel:
    """See `links.ports.LinkKernel`. Takes back link sockets from the service manager's store; raises BackendFailed."""

    def __init__(self, *, environment: MutableMapping[str, str] = os.environ) -> None:
        own = OwnChanges()
        self._nft = Nft()
        self._filters = TapFilters(nft=self._nft)
        self._events = KernelEvents(own, self._nft.own_pids)
        self._xfrm = LinkXfrm(own.expect)
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
            bridges=read_bridges(self._devices),
            gate=gates_of(rules),
            guard=is_expected(rules),
            filters=filters,
            changed_filters=changed_filters,
            selinux_enforcing=selinux_enforcing(),
            sysctls={name: read_sysctls(name) for name in SYSCTLS},
            foreign=(*foreign_sas, *socket_policies, *foreign_tunnels, *stray_devices(self._devices, tunnels)),
        )

    def apply(self, operations: Sequence[Operation]) -> None:
        for _, group in groupby(operations, key=lambda item: isinstance(item, SetTapFilter)):
            run = list(group)
            if filters := [item.filter for item in run if isinstance(item, SetTapFilter)]:
                # In one transaction: each reading of their table has all of it.
                with _named(run[0]):
                    self._filters.set(*filters)
                continue
            for operation in run:
                with _named(operation):
                    self._apply(operation)

    def _apply(self, operation: Operation) -> None:  # noqa: PLR0912 one case for each operation
        match operation:
            case InstallGuard():
                self._nft.install()
            case AddSa(sa=sa):
                self._xfrm.add_sa(sa)
            case DeleteSas(ids=ids):
                self._xfrm.delete_sas(ids)
            case AddSpdEntry(entry=entry):
                self._xfrm.add_entry(entry)
            case DeleteSpdEntry(entry=entry):
                self._xfrm.delete_entry(entry)
            case CreateTunnel(tunnel=tunnel):
                self._tunnels.create(tunnel)
            case DeleteTunnel(local_port=port):
                self._tunnels.delete(port)
            case CreateBridge(name=name):
                create_bridge(self._devices, name)
            case DeleteBridge(name=name):
                delete_bridge(self._devices, name)
            case AttachPort(bridge=bridge, interface=interface, isolated=isolated):
                attach_port(self._devices, bridge, interface, isolated=isolated)
            case DetachPort(interface=interface):
                detach_port(self._devices, interface)
            case OpenGate(address=address, seconds=seconds):
                self._nft.open_gate(address, seconds)
            case CloseGate(address=address):
                self._nft.close_gate(address)
            case SetTapFilter(filter=limits):
                self._filters.set(limits)
            case ClearTapFilter(device=device):
                self._filters.clear(device)
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

    def subscribe(self, event: Callable[[KernelEvent], None]) -> None:
        self._events.subscribe(event)

    def close(self) -> None:
        self._events.close()
        self._tunnels.close()
        self._devices.close()
        self._xfrm.close()


@contextmanager
def _named(operation: Operation) -> Iterator[None]:
    """What goes wrong names the operation."""
    try:
        yield
    except BackendFailed as error:
        raise BackendFailed("a kernel operation failed", where=describe(operation)[:300], found=str(error)) from error
    except (pyxfrm.XfrmError, ValueError, BadInput) as error:
        # A value that no kernel object has room for; none names a key.
        raise BackendFailed(
            "a kernel operation is malformed", where=describe(operation)[:300], found=str(error)[:300]
        ) from None
