"""QEMU domains through libvirt, with static SELinux labels (sVirt).

What libvirt is told is not believed: the label of the running process is read from the kernel as well as from
libvirt, and the two must agree. Where SELinux is not enforcing, libvirt ignores a label that it cannot set, so the
caller's comparison is what counts (`hypervisor.vms`).
"""

import contextlib
import threading
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import libvirt

from shamon_host.domain.errors import BackendFailed, BadInput
from shamon_host.domain.labels import SelinuxContext, VmName
from shamon_host.hypervisor.ports import DomainReport, DomainState, VmInterface, VmSpec

T = TypeVar("T")

_STATES = {
    libvirt.VIR_DOMAIN_RUNNING: DomainState.RUNNING,
    libvirt.VIR_DOMAIN_BLOCKED: DomainState.RUNNING,
    libvirt.VIR_DOMAIN_SHUTDOWN: DomainState.RUNNING,
    libvirt.VIR_DOMAIN_PAUSED: DomainState.PAUSED,
    libvirt.VIR_DOMAIN_PMSUSPENDED: DomainState.PAUSED,
    libvirt.VIR_DOMAIN_SHUTOFF: DomainState.SHUT_OFF,
    libvirt.VIR_DOMAIN_CRASHED: DomainState.CRASHED,
}
_EVENT_LOOP = threading.Lock()
_event_thread: threading.Thread | None = None


class LibvirtQemu:
    """`hypervisor.ports.Hypervisor` on one libvirt connection; reconnects when libvirtd was restarted."""

    def __init__(self, uri: str, *, virt_type: str, pid_directory: Path = Path("/run/libvirt/qemu")) -> None:
        """`virt_type` is `kvm` or `qemu`. Raises BackendFailed when libvirtd does not answer."""
        libvirt.registerErrorHandler(lambda _context, _error: None, None)
        self._uri = uri
        self._virt_type = virt_type
        self._pid_directory = pid_directory
        self._changed: Callable[[], None] | None = None
        self._connection: Any = None
        self._lock = threading.RLock()
        _start_event_thread()
        with self._connected():
            pass

    def start_paused(self, spec: VmSpec) -> DomainReport:
        with self._connected() as connection:
            domain = connection.defineXML(domain_xml(spec, virt_type=self._virt_type))
            domain.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)
            return self._report(domain)

    def resume(self, name: VmName) -> None:
        with self._connected() as connection:
            domain = connection.lookupByName(name)
            if domain.state()[0] == libvirt.VIR_DOMAIN_PAUSED:
                domain.resume()

    def suspend(self, name: VmName) -> None:
        with self._connected() as connection:
            domain = connection.lookupByName(name)
            if domain.state()[0] == libvirt.VIR_DOMAIN_RUNNING:
                domain.suspend()

    def destroy(self, name: VmName) -> None:
        with self._connected() as connection:
            try:
                domain = connection.lookupByName(name)
            except libvirt.libvirtError as error:
                if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                    return
                raise
            if domain.isActive():
                domain.destroy()
            domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_NVRAM | libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE)

    def domains(self) -> Sequence[DomainReport]:
        with self._connected() as connection:
            reports = []
            for domain in connection.listAllDomains():
                with _vanishing():
                    reports.append(self._report(domain))
            return tuple(reports)

    def subscribe(self, changed: Callable[[], None]) -> None:
        with self._connected() as connection:
            self._changed = changed
            self._register(connection)

    def _register(self, connection: Any) -> None:
        changed = self._changed
        if changed is not None:
            connection.domainEventRegisterAny(
                None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, lambda *_arguments: changed(), None
            )

    @contextlib.contextmanager
    def _connected(self) -> Iterator[Any]:
        """A living connection; libvirt's errors become BackendFailed."""
        with self._lock:
            try:
                if self._connection is None or not self._connection.isAlive():
                    self._connection = libvirt.open(self._uri)
                    self._connection.setKeepAlive(5, 3)
                    self._register(self._connection)
                yield self._connection
            except libvirt.libvirtError as error:
                raise BackendFailed(
                    "libvirt failed", where=self._uri, found=str(error)[:500],
                    remedy="See the journal of libvirtd on this host.",
                ) from error

    def _report(self, domain: Any) -> DomainReport:
        state = _STATES.get(domain.state()[0], DomainState.SHUT_OFF)
        root = ET.fromstring(domain.XMLDesc())
        name = VmName(domain.name())
        running = state in (DomainState.RUNNING, DomainState.PAUSED)
        return DomainReport(
            name=name,
            uuid=domain.UUIDString(),
            state=state,
            context=self._context(domain, name) if running else None,
            interfaces=tuple(_interfaces(root)),
            disk=_attribute(root, "./devices/disk[@device='disk']/source", "file"),
        )

    def _context(self, domain: Any, name: str) -> SelinuxContext | None:
        """The label of the QEMU process: None unless libvirt and the kernel agree on one."""
        told = domain.securityLabel()[0]
        try:
            pid = int((self._pid_directory / f"{name}.pid").read_text())
            held = Path(f"/proc/{pid}/attr/current").read_text().strip("\x00\n ")
            context = SelinuxContext.parse(held)
            return context if SelinuxContext.parse(told) == context else None
        except (OSError, ValueError, BadInput):
            return None


def domain_xml(spec: VmSpec, *, virt_type: str) -> str:
    """The domain as libvirt wants it: one disk, interfaces on their bridges, a serial pty, a static label."""
    root = ET.Element("domain", type=virt_type)
    _text(root, "name", spec.name)
    _text(root, "uuid", spec.uuid)
    _text(root, "memory", str(spec.memory_mib), unit="MiB")
    _text(root, "vcpu", str(spec.vcpus))
    boot = ET.SubElement(root, "os")
    _text(boot, "type", "hvm", arch="x86_64", machine="pc")
    if spec.kernel:
        _text(boot, "kernel", spec.kernel)
        _text(boot, "initrd", spec.initrd)
        _text(boot, "cmdline", spec.cmdline)
    if virt_type == "kvm":
        ET.SubElement(root, "cpu", mode="host-passthrough")
    features = ET.SubElement(root, "features")
    ET.SubElement(features, "acpi")
    _text(root, "on_reboot", "restart")
    _text(root, "on_crash", "preserve")
    devices = ET.SubElement(root, "devices")
    disk = ET.SubElement(devices, "disk", type="file", device="disk")
    ET.SubElement(disk, "driver", name="qemu", type="qcow2")
    ET.SubElement(disk, "source", file=spec.disk)
    ET.SubElement(disk, "target", dev="vda", bus="virtio")
    for interface in spec.interfaces:
        element = ET.SubElement(devices, "interface", type="bridge")
        ET.SubElement(element, "mac", address=interface.mac)
        ET.SubElement(element, "source", bridge=interface.bridge)
        ET.SubElement(element, "target", dev=interface.device)
        ET.SubElement(element, "model", type="virtio")
        ET.SubElement(element, "rom", enabled="no")
    serial = ET.SubElement(devices, "serial", type="pty")
    ET.SubElement(serial, "target", port="0")
    ET.SubElement(devices, "memballoon", model="none")
    label = ET.SubElement(root, "seclabel", type="static", model="selinux", relabel="yes")
    _text(label, "label", str(spec.context))
    return ET.tostring(root, encoding="unicode")


def _text(parent: ET.Element, tag: str, text: str, **attributes: str) -> None:
    ET.SubElement(parent, tag, attributes).text = text


def _interfaces(root: ET.Element) -> Iterator[VmInterface]:
    for element in root.findall("./devices/interface"):
        yield VmInterface(
            device=_attribute(element, "target", "dev"),
            bridge=_attribute(element, "source", "bridge"),
            mac=_attribute(element, "mac", "address"),
        )


def _attribute(root: ET.Element, path: str, name: str) -> str:
    element = root.find(path)
    return "" if element is None else element.get(name, "")


@contextlib.contextmanager
def _vanishing() -> Iterator[None]:
    """Skip a domain that was undefined while the list was read."""
    try:
        yield
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
            raise


def _start_event_thread() -> None:
    """libvirt's events need a loop of their own, once in a process."""
    global _event_thread  # noqa: PLW0603  libvirt's event loop is one for the whole process
    with _EVENT_LOOP:
        if _event_thread is not None:
            return
        libvirt.virEventRegisterDefaultImpl()
        _event_thread = threading.Thread(target=_run_events, name="libvirt events", daemon=True)
        _event_thread.start()


def _run_events() -> None:
    while True:
        with contextlib.suppress(libvirt.libvirtError):
            libvirt.virEventRunDefaultImpl()
