"""libvirt, what it runs VMs with, and Xen. Pure."""

import re

from shamon_host.doctor.facts import HostFacts
from shamon_host.doctor.findings import Finding, Say, listed
from shamon_host.doctor.look import not_installed, require_seen
from shamon_host.domain.policy import HypervisorKind

_START = "Install libvirt-daemon-system and libvirt-clients; `systemctl status libvirtd.socket` says what is wrong."


def libvirt(say: Say, facts: HostFacts) -> Finding:
    capabilities = facts.hypervisor.capabilities
    if capabilities.value is not None:
        return say.ok(f"it answers, and runs {listed(sorted(capabilities.value.domains)) or 'nothing'}")
    if capabilities.unread == not_installed("virsh"):
        return say.unknown(capabilities.unread, remedy="Install libvirt-clients: virsh is what asks.")
    if not capabilities.unread.startswith("virsh"):  # else it was asked, and failed
        require_seen(say, capabilities, what="libvirt")
    return say.wrong(
        capabilities.bad or capabilities.unread or "it says nothing", expected="libvirt answers", remedy=_START
    )


def security_driver(say: Say, facts: HostFacts) -> Finding:
    wanted = "flask" if facts.on_xen else "selinux"
    capabilities = facts.hypervisor.capabilities.value
    if capabilities is None:
        return say.unknown("libvirt does not answer", remedy=_START)
    if wanted not in capabilities.security:
        return say.wrong(
            listed(sorted(capabilities.security)) or "none",
            expected=wanted,
            remedy="Build Xen with XSM and FLASK, and boot with flask=enforcing."
            if facts.on_xen
            else 'Boot with SELinux, put security_driver = "selinux" into /etc/libvirt/qemu.conf, restart libvirtd.',
        )
    return say.ok(listed(sorted(capabilities.security)))


def acceleration(say: Say, facts: HostFacts) -> Finding | None:
    """KVM. Xen's VMs are paravirtualised."""
    if facts.on_xen:
        return None
    capabilities, config = facts.hypervisor.capabilities.value, facts.coalition.config.value
    if capabilities is None:
        return say.unknown("libvirt does not answer", remedy=_START)
    if "kvm" in capabilities.domains:
        return say.ok("libvirt finds KVM")
    remedy = "Switch virtualisation on in the firmware, and load kvm_intel or kvm_amd."
    if config is not None and config.virt_type == "kvm":
        return say.wrong("libvirt finds no KVM", expected='KVM, as [hypervisor] type = "kvm" says', remedy=remedy)
    if "qemu" not in capabilities.domains:
        return say.wrong("libvirt can run neither KVM nor QEMU", expected="KVM", remedy="Install qemu-system-x86.")
    return say.warning("libvirt finds no KVM: VMs are emulated", expected="KVM", remedy=remedy)


def qemu_conf(say: Say, facts: HostFacts) -> Finding | None:
    if facts.on_xen:
        return None
    config = facts.hypervisor.qemu_conf
    require_seen(say, config, what="/etc/libvirt/qemu.conf")
    if config.value is None:
        return say.wrong(
            config.bad or "not there", expected="vm_images/host/root/etc/libvirt/qemu.conf", remedy="Put it there."
        )
    found = dict(re.findall(r"^[ \t]*(\w+)[ \t]*=[ \t]*(.*?)[ \t]*$", config.value, re.MULTILINE))
    driver = found.get("security_driver", "").replace(" ", "").strip("[]")
    restart = "and restart libvirtd"
    if driver != '"selinux"':
        return say.wrong(
            f"security_driver = {driver or 'not set'}",
            expected='security_driver = "selinux": libvirt must not fall back to another driver, or to none',
            remedy=f'Put security_driver = "selinux" into /etc/libvirt/qemu.conf, {restart}.',
        )
    lacking = [
        line
        for line, right in (
            ("security_require_confined = 1", found.get("security_require_confined") == "1"),
            ("namespaces = [ ]", found.get("namespaces", "").replace(" ", "") == "[]"),
        )
        if not right
    ]
    if lacking:
        return say.warning(
            f"without {listed(lacking)}",
            expected="both, under Debian's SELinux policy",
            remedy=f"Put {' and '.join(lacking)} into /etc/libvirt/qemu.conf, {restart}.",
        )
    return say.ok("the SELinux driver alone, confined, no mount namespaces")


def default_network(say: Say, facts: HostFacts) -> Finding | None:
    if facts.on_xen:
        return None
    active, automatic = facts.hypervisor.networks, facts.hypervisor.autostart
    require_seen(say, active, automatic, what="libvirt's networks", remedy=_START)
    on, later = active.value or frozenset(), automatic.value or frozenset()
    if "default" in on | later:
        return say.wrong(
            "libvirt's network default is on" if "default" in on else "libvirt's network default starts with libvirt",
            expected="off: it switches forwarding on, for which peers refuse this host",
            remedy="virsh net-destroy default; virsh net-autostart --disable default",
        )
    if on | later:
        return say.warning(
            f"networks of libvirt: {listed(sorted(on | later))}",
            expected="none",
            remedy="Take out those that forward (`virsh net-dumpxml NAME`): VMs' networks are Shamon's.",
        )
    return say.ok("no network of libvirt's is on")


def xen(say: Say, facts: HostFacts) -> Finding | None:
    """FLASK, on Xen; and that configuration and machine are of one kind."""
    config = facts.coalition.config.value
    configured = config.hypervisor if config is not None else facts.hypervisor.kind
    if configured is not facts.hypervisor.kind:
        runs = "runs on Xen" if facts.on_xen else "does not run on Xen"
        return say.wrong(
            f"this machine {runs}, and host.toml says otherwise",
            expected='[hypervisor] type = "xen" on Xen, and there alone',
            remedy="Boot the other kernel, or change host.toml and the policy.",
        )
    if configured is not HypervisorKind.XEN:
        return None
    flask = facts.hypervisor.flask
    if flask.unread:
        return say.unknown(
            f"FLASK: {flask.unread}",
            remedy="Once the daemon runs, `shamon status` says it; else `xl getenforce` in the toolstack's domain.",
        )
    if (flask.value or "").lower() != "enforcing":
        return say.wrong(
            f"FLASK is {flask.value or 'not there'}",
            expected="enforcing",
            remedy="Build Xen with XSM and FLASK, and boot with flask=enforcing.",
        )
    return say.ok("FLASK is enforcing")
