"""`LinuxLinkKernel`: the real kernel behind `links.ports.LinkKernel`.

It joins what the modules beside it do each for one part of the kernel: `linux_spd` (SAs and SPD entries), `linux_l2tp`
(tunnels over labelled sockets), `linux_bridges`, `linux_nft` (guard and gate). Only the composition root imports it.

Everything runs in one thread of its own: the context of the next socket is a thread's property, and pyroute2's
synchronous calls cannot be made where an event loop runs.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar, assert_never

from pyroute2 import IPRoute, L2tp

from shamon_host.links.linux_bridges import LinuxBridges
from shamon_host.links.linux_errors import as_backend_failure
from shamon_host.links.linux_events import LinuxEvents
from shamon_host.links.linux_fd_store import FdStore
from shamon_host.links.linux_l2tp import SOCKET_PREFIX, LinuxTunnels
from shamon_host.links.linux_labelled_socket import selinux_enforcing
from shamon_host.links.linux_nft import NftGuard
from shamon_host.links.linux_spd import LinuxSpd
from shamon_host.links.model import (
    AddSa,
    AddSpdEntry,
    AttachPort,
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
)
from shamon_host.links.network_state import SYSCTLS
from shamon_host.links.planner import describe
from shamon_host.links.ports import KernelEvent
from shamon_host.pyxfrm import xfrm_stat
from shamon_host.pyxfrm.client import Xfrm

T = TypeVar("T")
_SYSCTL = Path("/proc/sys")


class LinuxLinkKernel:
    """See `links.ports.LinkKernel`. Link sockets that the service manager kept are taken over. Raises BackendFailed."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="link-kernel")
        self._call("open the kernel's netlink families", self._open)

    def _open(self) -> None:
        self._xfrm, self._route, self._l2tp = Xfrm(), IPRoute(), L2tp()
        self._store = FdStore(SOCKET_PREFIX)
        self._spd, self._nft, self._bridges = LinuxSpd(self._xfrm), NftGuard(), LinuxBridges(self._route)
        self._tunnels = LinuxTunnels(self._l2tp, self._store, self._bridges.configure_link, self._bridges.delete)
        self._tunnels.forget_strays()
        self._events = LinuxEvents()

    def read(self) -> KernelState:
        return self._call("read the kernel", self._read)

    def apply(self, operations: Sequence[Operation]) -> None:
        for operation in operations:
            self._call(describe(operation), lambda operation=operation: self._apply(operation))  # type: ignore[misc]

    def allocate_spi(self, *, source: str, destination: str) -> int:
        return self._call("allocate an SPI", lambda: self._spd.allocate_spi(source=source, destination=destination))

    def counters(self) -> Mapping[str, int]:
        return self._call("read counters", lambda: {**xfrm_stat(), **self._nft.read().counters})

    def subscribe(self, event: Callable[[KernelEvent], None]) -> None:
        self._events.subscribe(event)

    def close(self) -> None:
        self._events.close()
        self._call("close", self._close)
        self._thread.shutdown()

    def _close(self) -> None:
        self._store.close()
        self._xfrm.close()
        self._route.close()
        self._l2tp.close()

    def _read(self) -> KernelState:
        guard, devices = self._nft.read(), self._bridges.read()
        return KernelState(
            sas=self._spd.sas(),
            spd=self._spd.entries(),
            tunnels=self._tunnels.read(devices.links),
            bridges=devices.bridges,
            gate=guard.gate,
            guard=guard.whole,
            selinux_enforcing=selinux_enforcing(),
            sysctls={name: _sysctl(name) for name in SYSCTLS},
        )

    def _apply(self, operation: Operation) -> None:
        with self._events.own_change():
            match operation:
                case InstallGuard():
                    self._nft.install()
                case AddSa(sa=sa):
                    self._spd.add_sa(sa)
                case DeleteSas(ids=ids):
                    self._spd.delete_sas(ids)
                case AddSpdEntry(entry=entry):
                    self._spd.add_entry(entry)
                case DeleteSpdEntry(entry=entry):
                    self._spd.delete_entry(entry)
                case CreateTunnel(tunnel=tunnel):
                    self._tunnels.create(tunnel)
                case DeleteTunnel(local_port=local_port):
                    self._tunnels.delete(local_port)
                case CreateBridge(name=name):
                    self._bridges.create(name)
                case DeleteBridge(name=name):
                    self._bridges.delete(name)
                case AttachPort(bridge=bridge, interface=interface, isolated=isolated):
                    self._bridges.attach(bridge, interface, isolated=isolated)
                case DetachPort(interface=interface):
                    self._bridges.detach(interface)
                case OpenGate(address=address, seconds=seconds):
                    self._nft.open_gate(address, seconds)
                case CloseGate(address=address):
                    self._nft.close_gate(address)
                case _:
                    assert_never(operation)

    def _call(self, what: str, call: Callable[[], T]) -> T:
        """Run it in the thread of this kernel and wait. What it raises comes out as BackendFailed naming `what`."""

        def guarded() -> T:
            with as_backend_failure(what):
                return call()

        return self._thread.submit(guarded).result()


def _sysctl(name: str) -> str:
    """The value; for a name with `*` the values of all its files but lo's, without repetition, joined by commas."""
    first, star, last = name.partition("*")
    if not star:
        return _read_sysctl(_SYSCTL / name.replace(".", "/"))
    folder = _SYSCTL / first.replace(".", "/")
    found = {
        _read_sysctl(interface / last.removeprefix("."))
        for interface in (folder.iterdir() if folder.is_dir() else ())
        if interface.name != "lo"
    }
    return ",".join(sorted(found)) or "absent"


def _read_sysctl(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()[:80]
    except FileNotFoundError:
        return "absent"
