"""`examine`: every check, in order, over the facts of one host. Pure."""

from collections.abc import Callable, Collection
from dataclasses import dataclass

from shamon_host.doctor import (
    clock_checks,
    coalition_checks,
    hypervisor_checks,
    kernel_checks,
    mac_checks,
    network_checks,
    program_checks,
    tpm_checks,
)
from shamon_host.doctor.facts import HostFacts
from shamon_host.doctor.findings import Finding, Report, Say, Subject
from shamon_host.doctor.look import Judged


@dataclass(frozen=True, slots=True)
class Check:
    """`judge` gives None where the check is of no account on this host, and may raise Judged."""

    name: str
    subject: Subject
    judge: Callable[[Say, HostFacts], Finding | None]

    def finding(self, facts: HostFacts) -> Finding | None:
        try:
            return self.judge(Say(self.name, self.subject), facts)
        except Judged as judged:
            return judged.finding


CHECKS = (
    Check("kernel-version", Subject.KERNEL, kernel_checks.kernel_version),
    Check("kernel-options", Subject.KERNEL, kernel_checks.kernel_options),
    Check("modules", Subject.KERNEL, kernel_checks.modules),
    Check("command-line", Subject.KERNEL, kernel_checks.command_line),
    Check("lsm-order", Subject.KERNEL, kernel_checks.lsm_order),
    Check("lockdown", Subject.KERNEL, kernel_checks.lockdown),
    Check("selinux-mode", Subject.MAC, mac_checks.selinux_mode),
    Check("selinux-config", Subject.MAC, mac_checks.selinux_config),
    Check("selinux-policy", Subject.MAC, mac_checks.selinux_policy),
    Check("ima-log", Subject.MAC, mac_checks.ima_log),
    Check("ima-rules", Subject.MAC, mac_checks.ima_rules),
    Check("ima-policy", Subject.MAC, mac_checks.ima_policy),
    Check("tpm", Subject.TPM, tpm_checks.tpm),
    Check("tpm-bank", Subject.TPM, tpm_checks.tpm_bank),
    Check("ek-certificate", Subject.TPM, tpm_checks.ek_certificate),
    Check("uefi", Subject.TPM, tpm_checks.uefi),
    Check("event-log", Subject.TPM, tpm_checks.event_log),
    Check("pcr-extenders", Subject.TPM, tpm_checks.pcr_extenders),
    Check("libvirt", Subject.HYPERVISOR, hypervisor_checks.libvirt),
    Check("security-driver", Subject.HYPERVISOR, hypervisor_checks.security_driver),
    Check("acceleration", Subject.HYPERVISOR, hypervisor_checks.acceleration),
    Check("qemu-conf", Subject.HYPERVISOR, hypervisor_checks.qemu_conf),
    Check("default-network", Subject.HYPERVISOR, hypervisor_checks.default_network),
    Check("xen", Subject.HYPERVISOR, hypervisor_checks.xen),
    Check("sysctls", Subject.NETWORK, network_checks.sysctls),
    Check("peer-port", Subject.NETWORK, network_checks.peer_port),
    Check("link-ports", Subject.NETWORK, network_checks.link_ports),
    Check("local-ports", Subject.NETWORK, network_checks.local_ports),
    Check("packet-filter", Subject.NETWORK, network_checks.packet_filter),
    Check("address", Subject.NETWORK, network_checks.address),
    Check("clock-synchronised", Subject.CLOCK, clock_checks.clock_synchronised),
    Check("clock-sane", Subject.CLOCK, clock_checks.clock_sane),
    Check("configuration", Subject.COALITION, coalition_checks.configuration),
    Check("policy", Subject.COALITION, coalition_checks.policy),
    Check("ca", Subject.COALITION, coalition_checks.ca),
    Check("certificate", Subject.COALITION, coalition_checks.certificate),
    Check("host-key", Subject.COALITION, coalition_checks.host_key),
    Check("registry", Subject.COALITION, coalition_checks.registry),
    Check("reference-values", Subject.COALITION, coalition_checks.reference_values),
    Check("images", Subject.COALITION, coalition_checks.images),
    Check("disk-space", Subject.PROGRAM, program_checks.disk_space),
    Check("unit", Subject.PROGRAM, program_checks.unit),
    Check("daemon", Subject.PROGRAM, program_checks.daemon),
)
"""In the order in which they are told."""
NAMES = tuple(check.name for check in CHECKS)
ASK_PROGRAMS = frozenset({"libvirt", "security-driver", "acceleration", "default-network", "xen", "packet-filter"})
"""Those that rest on what virsh, nft and xl say."""


def examine(facts: HostFacts, only: Collection[str] = ()) -> Report:
    """Every check that is of account on this host, or those of the names in `only`."""
    findings = (check.finding(facts) for check in CHECKS if not only or check.name in only)
    return Report(tuple(finding for finding in findings if finding is not None))
