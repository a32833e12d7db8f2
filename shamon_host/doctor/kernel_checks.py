"""Whether the kernel was built and booted as a host needs it. Pure."""

import re
from typing import Any

from shamon_host.doctor.facts import HostFacts
from shamon_host.doctor.findings import Finding, Say, listed
from shamon_host.doctor.look import Judged, Look, require_seen

_OLDEST = 6, 1
"""What has been tried, and what Debian 12 has."""
_NEEDED = (
    "SECURITYFS", "SECURITY_SELINUX", "SECURITY_NETWORK_XFRM", "SECURITY_LOCKDOWN_LSM", "AUDIT", "IMA", "IMA_LSM_RULES",
    "TCG_TPM", "XFRM_USER", "INET_ESP", "CRYPTO_GCM", "L2TP", "L2TP_V3", "L2TP_ETH", "BRIDGE", "TUN", "NF_TABLES",
    "NF_TABLES_INET", "NF_TABLES_BRIDGE", "NFT_BRIDGE_META",
)  # fmt: skip
_ONE_OF = ("TCG_TIS", "TCG_CRB")
_BETTER = {
    "INET6_ESP": "links between IPv6 addresses",
    "VHOST_VSOCK": "VMs that are attested",
    "KVM": "VMs that are not emulated",
    "XFRM_STATISTICS": "counters of what IPsec refuses",
}
MODULES = {
    "xfrm_user": "XFRM_USER",
    "esp4": "INET_ESP",
    "esp6": "INET6_ESP",
    "l2tp_core": "L2TP",
    "l2tp_netlink": "L2TP",
    "l2tp_eth": "L2TP_ETH",
    "bridge": "BRIDGE",
    "tun": "TUN",
    "nf_tables": "NF_TABLES",
    "nft_meta_bridge": "NFT_BRIDGE_META",
}
"""What a host has loaded before its daemon starts (vm_images/host/root/etc/modules-load.d/shamon.conf) → the option
that builds it."""
_LOAD = "Put {} into /etc/modules-load.d/shamon.conf, one a line, and reboot (or `modprobe` them)."
_NO_SECURITYFS = "/sys/kernel/security has nothing in it"
_MOUNT_SECURITYFS = (
    "Mount securityfs at /sys/kernel/security (or boot a kernel that has it): without it the kernel shows neither its "
    "security modules nor IMA's log nor the firmware's."
)
_UKI = "make the host's EFI file anew and boot it"


def require_securityfs(say: Say, facts: HostFacts, look: Look[Any]) -> None:
    """Raises Judged where what should be in securityfs is not there, because nothing is: not even `lsm`, which every
    kernel has there."""
    if look.absent and facts.kernel.lsm.absent:
        raise Judged(say.unknown(_NO_SECURITYFS, remedy=_MOUNT_SECURITYFS))


def kernel_version(say: Say, facts: HostFacts) -> Finding:
    release = facts.kernel.release
    require_seen(say, release, what="the kernel's release")
    match = re.match(r"(\d{1,4})\.(\d{1,4})", release.value or "")
    if match is None:
        return say.unknown(f"no version: {release.bad or release.value or 'nothing'}", remedy="Look at `uname -r`.")
    if (int(match[1]), int(match[2])) < _OLDEST:
        return say.warning(
            release.value or "",
            expected="{}.{} or newer".format(*_OLDEST),
            remedy="Use the kernel of Debian 12 or newer: nobody has tried an older one.",
        )
    return say.ok(release.value or "")


def kernel_options(say: Say, facts: HostFacts) -> Finding:
    config = facts.kernel.config
    require_seen(say, config, what="the kernel's build options")
    if config.value is None:
        return say.unknown(
            config.bad or "neither /boot/config-RELEASE nor /proc/config.gz is there",
            remedy="Install the package of the kernel that runs: it brings the file.",
        )
    found = {name for name, _ in re.findall(r"^CONFIG_(\w+)=([ym])$", config.value, re.MULTILINE)}
    missing = [name for name in _NEEDED if name not in found]
    if not any(name in found for name in _ONE_OF):
        missing.append(" or ".join(_ONE_OF))
    if missing:
        return say.wrong(
            f"built without {listed(missing)}",
            expected="all that links, SELinux, IMA and the TPM need",
            remedy="Use Debian's linux-image-amd64, or build the kernel with these options.",
        )
    lacking = [f"{name} ({why})" for name, why in _BETTER.items() if name not in found]
    if lacking:
        return say.warning(
            f"built without {listed(lacking)}", expected="these too", remedy="Use Debian's linux-image-amd64."
        )
    return say.ok(f"all {len(_NEEDED) + 1} that are needed are built in, or modules")


def modules(say: Say, facts: HostFacts) -> Finding:
    """Those that are not loaded yet but will be at the next boot are a warning."""
    kernel = facts.kernel
    for look, what in ((kernel.modules, "loaded modules"), (kernel.load_list, "/etc/modules-load.d")):
        require_seen(say, look, what=what)
    lacking = [name for name, option in MODULES.items() if not kernel.loaded(name, option)]
    if not lacking:
        return say.ok("all are loaded, or built in")
    if kernel.modules.absent:
        return say.wrong(
            f"this kernel loads no modules, and these are not in it: {listed(lacking)}",
            expected="loaded, or built in",
            remedy="Use Debian's linux-image-amd64.",
        )
    unlisted = [name for name in lacking if name not in (kernel.load_list.value or frozenset())]
    if unlisted:
        return say.wrong(
            f"not loaded: {listed(unlisted)}",
            expected="loaded before the daemon starts",
            remedy=_LOAD.format(", ".join(unlisted)),
        )
    return say.warning(
        f"not loaded, though asked for at boot: {listed(lacking)}",
        expected="loaded",
        remedy="Reboot; `journalctl -b -u systemd-modules-load` says why if they are not loaded then.",
    )


def command_line(say: Say, facts: HostFacts) -> Finding:
    cmdline = facts.kernel.cmdline
    require_seen(say, cmdline, what="/proc/cmdline")
    if cmdline.value is None:
        return say.unknown(cmdline.bad or "/proc/cmdline is not there", remedy="Mount /proc.")
    words: dict[str, str] = {}
    for word in cmdline.value.split():
        name, _, value = word.partition("=")
        words[name] = value  # of several the last one counts
    wrong = [
        text
        for text, right in (
            ("lsm=...,selinux,... without apparmor before it", _selinux_first(words.get("lsm", ""))),
            ("security=selinux", words.get("security") == "selinux"),
            ("enforcing=1", words.get("enforcing") == "1"),
            ("lockdown=confidentiality", words.get("lockdown") == "confidentiality"),
            ("ima_policy=tcb|critical_data", {"tcb", "critical_data"} <= set(words.get("ima_policy", "").split("|"))),
        )
        if not right
    ]
    harmful = [
        f"{name}={value}"
        for name, value in sorted(words.items())
        if (name, value) in (("selinux", "0"), ("checkreqprot", "1"), ("ima", "off"), ("ima_hash", "sha1"))
    ]
    if wrong or harmful:
        found = [f"missing: {listed(wrong)}"] if wrong else []
        found += [f"must go: {listed(harmful)}"] if harmful else []
        return say.wrong(
            "; ".join(found),
            expected="the parameters of docs/operating.md, section 1",
            remedy=f"Change the command line, {_UKI}.",
        )
    return say.ok("all parameters are there")


def _selinux_first(order: str) -> bool:
    names = order.split(",")
    return "selinux" in names and ("apparmor" not in names or names.index("selinux") < names.index("apparmor"))


def lsm_order(say: Say, facts: HostFacts) -> Finding:
    lsm = facts.kernel.lsm
    require_seen(say, lsm, what="/sys/kernel/security/lsm")
    if lsm.value is None:
        return say.unknown(lsm.bad or _NO_SECURITYFS, remedy=_MOUNT_SECURITYFS)
    active = lsm.value.split(",")
    missing = [name for name in ("selinux", "lockdown") if name not in active]
    if missing or "apparmor" in active:
        return say.wrong(
            lsm.value,
            expected="selinux and lockdown in it, apparmor not",
            remedy="Boot with lsm=landlock,lockdown,yama,integrity,selinux,bpf security=selinux: Debian's default is "
            "AppArmor.",
        )
    return say.ok(lsm.value)


def lockdown(say: Say, facts: HostFacts) -> Finding:
    found = facts.kernel.lockdown
    require_seen(say, found, what="/sys/kernel/security/lockdown")
    require_securityfs(say, facts, found)
    match = re.search(r"\[(\w+)\]", found.value or "")
    if found.absent or (match is not None and match[1] != "confidentiality"):
        return say.wrong(
            match[1] if match else "the kernel has no lockdown",
            expected="confidentiality",
            remedy=f"Put lockdown=confidentiality on the command line, {_UKI}: it keeps keys out of root's dumps.",
        )
    if match is None:
        return say.unknown(f"not understood: {found.bad or found.value}", remedy="Look at it with `cat`.")
    return say.ok("confidentiality")
