"""QEMU domains through libvirt, with static SELinux labels (sVirt).

The label of the running process is read from the kernel as well as from libvirt, and the two must agree. Where SELinux
is not enforcing, libvirt ignores a label that it cannot set.
"""

from pathlib import Path
from typing import Any

import libvirt

from shamon_host.domain.errors import BadInput
from shamon_host.domain.labels import SelinuxContext, VmName
from shamon_host.hypervisor.libvirt_domain import QBOOT, Platform, domain_xml, tpm_xml
from shamon_host.hypervisor.libvirt_domains import LibvirtDomains
from shamon_host.hypervisor.ports import DomainReport, DomainState, VmSpec

AUTO = "auto"


class LibvirtQemu(LibvirtDomains):
    """libvirt's QEMU driver."""

    def __init__(self, uri: str, *, virt_type: str = AUTO, pid_directory: Path = Path("/run/libvirt/qemu")) -> None:
        """`virt_type` is `kvm`, `qemu`, or `auto`: KVM where libvirt finds it. Raises BackendFailed when libvirtd does
        not answer."""
        super().__init__(uri)
        self._pid_directory = pid_directory
        with self.connected() as connection:
            chosen = _virt_type(connection) if virt_type == AUTO else virt_type
        self.platform = Platform(virt_type=chosen, qboot=QBOOT.exists())

    def domain_xml(self, spec: VmSpec) -> str:
        return domain_xml(spec, self.platform)

    def forget_tpm(self, name: VmName, uuid: str) -> None:
        """By a definition with the same UUID, which libvirt removes with its TPM. One that was left behind by a daemon
        that died is taken up."""
        with self.connected() as connection:
            domain = connection.defineXML(tpm_xml(name, uuid))
            domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_TPM)

    def start_incoming(self, spec: VmSpec) -> DomainReport:
        """As `start_paused`, of a machine that waits for its memory (`libvirt_live`)."""
        return self.start(spec, domain_xml(spec, self.platform, incoming=True))

    def write_memory(self, domain: Any, path: str) -> None:
        """As an ELF core, by QEMU; libvirt gives the file the label of the VM."""
        domain.coreDumpWithFormat(path, libvirt.VIR_DOMAIN_CORE_DUMP_FORMAT_RAW, libvirt.VIR_DUMP_MEMORY_ONLY)

    def observed(
        self, domain: Any, name: VmName, state: DomainState
    ) -> tuple[DomainState, SelinuxContext | None, bool]:
        told, enforced = domain.securityLabel()
        return state, self._context(name, told), bool(enforced)

    def _context(self, name: str, told: str) -> SelinuxContext | None:
        """The label of the QEMU process: None unless libvirt and the kernel agree on one."""
        try:
            pid = int((self._pid_directory / f"{name}.pid").read_text())
            held = SelinuxContext.parse(Path(f"/proc/{pid}/attr/current").read_text().strip("\x00\n "))
            return held if SelinuxContext.parse(told) == held else None
        except (OSError, ValueError, BadInput):
            return None


def _virt_type(connection: Any) -> str:
    """`kvm` if libvirt's QEMU can use it, else `qemu`."""
    try:
        connection.getDomainCapabilities(None, "x86_64", "pc", "kvm")
    except libvirt.libvirtError:
        return "qemu"
    return "kvm"
