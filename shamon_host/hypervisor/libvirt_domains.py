"""Domains through libvirt: what its drivers for QEMU and for Xen have in common.

What libvirt is told is not believed: the label of what runs is read from where it is enforced, and the caller's
comparison is what counts (`hypervisor.vms`).

Domains are transient: libvirt keeps no definition that somebody could start again under an old label. One that somebody
else made, with all that belongs to it, is theirs to remove, and nothing starts beside it.
"""

import contextlib
import threading
import time
import xml.etree.ElementTree as ET
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import libvirt

from shamon_host.domain.errors import BackendFailed
from shamon_host.domain.labels import VmContext, VmName
from shamon_host.hypervisor.kept_files import keeping
from shamon_host.hypervisor.libvirt_domain import boot_in, cid_in, disk_in, disks_in, has_own_tpm, interfaces_in
from shamon_host.hypervisor.ports import RUNNING_STATES, DomainReport, DomainState, VmSpec

_STATES = {
    libvirt.VIR_DOMAIN_RUNNING: DomainState.RUNNING,
    libvirt.VIR_DOMAIN_BLOCKED: DomainState.RUNNING,
    libvirt.VIR_DOMAIN_SHUTDOWN: DomainState.RUNNING,
    libvirt.VIR_DOMAIN_PAUSED: DomainState.PAUSED,
    libvirt.VIR_DOMAIN_PMSUSPENDED: DomainState.PAUSED,
    libvirt.VIR_DOMAIN_SHUTOFF: DomainState.SHUT_OFF,
    libvirt.VIR_DOMAIN_CRASHED: DomainState.CRASHED,
}
_EVENTS = (
    libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE,
    libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_ADDED,
    libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED,
)
_TAP_NAME_LIMIT = 15
"""IFNAMSIZ less its final zero; libvirt would cut a longer name short and say nothing."""
_LISTINGS = 3
_DUMPS = 10
"""Tries, each of which waits for half a minute where libvirt is busy with the domain."""
_LIST_AGAIN_S = 0.3
_RECONNECT_S = 1.0
_event_thread = threading.Lock()
_event_thread_runs = False


class LibvirtDomains(ABC):
    """`hypervisor.ports.Hypervisor` on one libvirt connection, made again when libvirtd was restarted."""

    def __init__(self, uri: str) -> None:
        """Raises BackendFailed when libvirtd does not answer."""
        libvirt.registerErrorHandler(lambda _context, _error: None, None)
        self._uri = uri
        self._subscribers: list[Callable[[], None]] = []
        self._connection: Any = None
        self._lock = threading.Lock()
        self._closing = threading.Event()
        _start_event_thread()
        with self.connected():
            pass

    @abstractmethod
    def domain_xml(self, spec: VmSpec) -> str:
        """What libvirt is asked for."""

    def listed(self, connection: Any) -> Sequence[Any]:
        """libvirt's domains that are VMs."""
        return list(connection.listAllDomains())

    @abstractmethod
    def observed(self, domain: Any, name: VmName, state: DomainState) -> tuple[DomainState, VmContext | None, bool]:
        """The state of a domain that libvirt says is active, its label as what enforces it has it, and whether that
        binds. Raises BackendFailed, and libvirt's own error."""

    @abstractmethod
    def write_memory(self, domain: Any, path: str) -> None:
        """Have the memory of a domain written to a file. Raises libvirt's own error."""

    def start_paused(self, spec: VmSpec) -> DomainReport:
        return self.start(spec, self.domain_xml(spec))

    def start(self, spec: VmSpec, xml: str) -> DomainReport:
        """Paused, from this XML."""
        for interface in spec.interfaces:
            if not 0 < len(interface.device) <= _TAP_NAME_LIMIT:
                raise BackendFailed(
                    "bad name of a tap",
                    where=spec.name,
                    expected=f"1 to {_TAP_NAME_LIMIT} characters",
                    found=interface.device[:40],
                )
        with self.connected() as connection:
            with _allowing(libvirt.VIR_ERR_NO_DOMAIN):
                _refuse_definition(connection.lookupByName(spec.name), spec.name)
            domain = connection.createXML(xml, libvirt.VIR_DOMAIN_START_PAUSED)
            return self._report(domain)

    def resume(self, name: VmName) -> None:
        with self.connected() as connection:
            domain = connection.lookupByName(name)
            if domain.state()[0] == libvirt.VIR_DOMAIN_PAUSED:
                domain.resume()

    def suspend(self, name: VmName) -> None:
        with self.connected() as connection:
            domain = connection.lookupByName(name)
            if domain.state()[0] == libvirt.VIR_DOMAIN_RUNNING:
                domain.suspend()

    def destroy(self, name: VmName) -> None:
        with self.connected() as connection, _allowing(libvirt.VIR_ERR_NO_DOMAIN):
            domain = connection.lookupByName(name)
            with _allowing(libvirt.VIR_ERR_OPERATION_INVALID):  # it does not run
                domain.destroy()

    @abstractmethod
    def forget_tpm(self, name: VmName, uuid: str) -> None:
        """See `Hypervisor.forget_tpm`."""

    def dump_memory(self, name: VmName, path: str) -> None:
        if Path(path).exists():
            return
        with self.connected() as connection, keeping(Path(path), labels=True) as part:
            domain = connection.lookupByName(name)
            for _ in range(_DUMPS):
                with _allowing(libvirt.VIR_ERR_OPERATION_TIMEOUT):  # libvirt still writes for a daemon that died
                    self.write_memory(domain, str(part))
                    break
            else:
                raise BackendFailed(
                    "libvirt does not come to write the memory: it is busy with the domain all the time",
                    where=name,
                    remedy=f"See `virsh domjobinfo {name}`; when nothing is under way, ask for the quarantine again.",
                )

    def domains(self) -> Sequence[DomainReport]:
        for _ in range(_LISTINGS - 1):
            # A process may be gone a moment before libvirt knows: then its label cannot be read, and the next list is
            # without it. What fails again and again is told.
            with contextlib.suppress(BackendFailed):
                return self._list()
            time.sleep(_LIST_AGAIN_S)
        return self._list()

    def _list(self) -> Sequence[DomainReport]:
        with self.connected() as connection:
            reports = []
            for domain in self.listed(connection):
                with _allowing(libvirt.VIR_ERR_NO_DOMAIN):  # it went while the list was read
                    reports.append(self._report(domain))
            return tuple(reports)

    def subscribe(self, changed: Callable[[], None]) -> None:
        """As the port says; `changed` is also called when libvirtd was restarted, since events may have been missed."""
        with self.connected():
            self._subscribers.append(changed)

    def close(self) -> None:
        """Give the connection back; no more events."""
        self._closing.set()
        self._subscribers.clear()
        with self._lock, contextlib.suppress(libvirt.libvirtError):
            if self._connection is not None:
                self._connection.unregisterCloseCallback()
                self._connection.close()
            self._connection = None

    @contextlib.contextmanager
    def connected(self) -> Iterator[Any]:
        """A living connection; libvirt's errors become BackendFailed."""
        try:
            yield self._living_connection()
        except libvirt.libvirtError as error:
            raise BackendFailed(
                "libvirt failed",
                where=self._uri,
                found=str(error)[:500],
                remedy="See the journal of libvirtd on this host.",
            ) from error

    def _living_connection(self) -> Any:
        with self._lock:
            if self._connection is None or not self._connection.isAlive():
                connection = libvirt.open(self._uri)
                connection.setKeepAlive(5, 3)
                connection.registerCloseCallback(self._lost, None)
                for event in _EVENTS:
                    connection.domainEventRegisterAny(None, event, lambda *_arguments: self._tell(), None)
                self._connection = connection
            return self._connection

    def _tell(self) -> None:
        for changed in tuple(self._subscribers):
            changed()

    def _lost(self, *_arguments: object) -> None:
        """libvirtd went away. libvirt's event thread, which calls this, must not wait for it to come back."""
        if not self._closing.is_set():
            threading.Thread(target=self._reconnect, name="libvirt reconnect", daemon=True).start()

    def _reconnect(self) -> None:
        self._tell()
        while not self._closing.wait(_RECONNECT_S):
            with contextlib.suppress(libvirt.libvirtError):
                self._living_connection()
                self._tell()
                return

    def _report(self, domain: Any) -> DomainReport:
        state = _STATES.get(domain.state()[0], DomainState.SHUT_OFF)
        root = ET.fromstring(domain.XMLDesc())
        name = VmName(domain.name())
        context, enforced = None, True
        if state in RUNNING_STATES:
            state, context, enforced = self.observed(domain, name, state)
        return DomainReport(
            name=name,
            uuid=domain.UUIDString(),
            state=state,
            context=context,
            interfaces=tuple(interfaces_in(root)),
            disk=disk_in(root),
            disks=tuple(disks_in(root)),
            enforced=enforced,
            cid=cid_in(root),
            tpm=has_own_tpm(root),
            boot=boot_in(root),
        )


def _refuse_definition(domain: Any, name: VmName) -> None:
    """Raises BackendFailed where libvirt would keep what is started."""
    if domain.isPersistent():
        raise BackendFailed(
            "somebody has defined a domain with the VM's name in libvirt",
            where=name,
            found=f"UUID {domain.UUIDString()}",
            remedy=f"Keep it if it is needed (`virsh dumpxml {name}`), and take it away with `virsh undefine {name}`; "
            "then start the VM again.",
        )


@contextlib.contextmanager
def _allowing(code: int) -> Iterator[None]:
    """Go on after libvirt's error `code`."""
    try:
        yield
    except libvirt.libvirtError as error:
        if error.get_error_code() != code:
            raise


def _start_event_thread() -> None:
    """libvirt's events need a loop of their own, once in a process."""
    global _event_thread_runs  # noqa: PLW0603  libvirt's event loop is one for the whole process
    with _event_thread:
        if not _event_thread_runs:
            libvirt.virEventRegisterDefaultImpl()
            threading.Thread(target=_run_events, name="libvirt events", daemon=True).start()
            _event_thread_runs = True


def _run_events() -> None:
    while True:
        with contextlib.suppress(libvirt.libvirtError):
            libvirt.virEventRunDefaultImpl()
