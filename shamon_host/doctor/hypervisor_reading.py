"""libvirt as it answers `virsh`, its configuration, and Xen's word about FLASK. Nothing needs libvirt's Python module.

To ask libvirt may start it: where its socket is there, systemd does so for whoever connects.
"""

from xml.etree.ElementTree import ParseError

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import fromstring

from shamon_host.attestation.linux_logs import HYPERVISOR_TYPE
from shamon_host.doctor.bounded import Run
from shamon_host.doctor.facts import Capabilities, HypervisorFacts
from shamon_host.doctor.host_files import HostFiles
from shamon_host.doctor.look import Look
from shamon_host.domain.policy import HypervisorKind


def read_hypervisor(files: HostFiles, run: Run, *, uri: str) -> HypervisorFacts:
    """`uri`: of libvirt, as host.toml has it; "" where there is none yet."""
    on_xen = files.text(HYPERVISOR_TYPE).value == "xen"
    kind = HypervisorKind.XEN if on_xen else HypervisorKind.QEMU
    virsh = ["virsh", "-q", "-c", uri or f"{kind}:///system"]
    capabilities = run([*virsh, "capabilities"])
    reached = capabilities.value is not None
    unasked: Look[str] = Look(unread="libvirt does not answer")
    active = run([*virsh, "net-list", "--name"]) if reached and not on_xen else unasked
    automatic = run([*virsh, "net-list", "--all", "--autostart", "--name"]) if reached and not on_xen else unasked
    return HypervisorFacts(
        kind=kind,
        capabilities=capabilities.then(capabilities_of),
        networks=active.then(_names),
        autostart=automatic.then(_names),
        qemu_conf=files.text("/etc/libvirt/qemu.conf"),
        flask=run(["xl", "getenforce"]).then(lambda text: Look(text.strip())) if on_xen else Look(),
    )


def capabilities_of(text: str) -> Look[Capabilities]:
    """From what `virsh capabilities` prints (libvirt, formatcaps.html)."""
    try:
        root = fromstring(text)
    except (ParseError, DefusedXmlException, ValueError) as error:
        return Look(bad=f"`virsh capabilities` printed what is no XML: {type(error).__name__}")
    models = (element.text or "" for element in root.iterfind("host/secmodel/model"))
    domains = (element.get("type", "") for element in root.iterfind("guest/arch/domain"))
    return Look(Capabilities(security=frozenset(filter(None, models)), domains=frozenset(filter(None, domains))))


def _names(text: str) -> Look[frozenset[str]]:
    return Look(frozenset(line.strip() for line in text.splitlines() if line.strip()))
