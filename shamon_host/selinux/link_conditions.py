"""What must hold in the kernel before the first labelled object of a link is made: pure.

Once one labelled xfrm object exists the kernel checks all traffic of the host as a peer's. So the policy has to let
every domain receive what has no label (else the host locks itself out, ssh included), and to keep types apart (else the
labels mean nothing). The daemon asks each time that a policy was loaded; `shamon selinux check` asks too, for all
domains that run.

Source: Linux security/selinux/hooks.c (selinux_peerlbl_enabled, selinux_socket_sock_rcv_skb, selinux_ip_postroute),
security/selinux/xfrm.c (selinux_xfrm_policy_lookup, selinux_xfrm_state_pol_flow_match).
"""

from collections.abc import Iterable

from shamon_host.selinux import DAEMON_TYPE, LINK_TYPE, SPD_TYPE
from shamon_host.selinux.ports import KernelSelinux
from shamon_host.selinux.questions import (
    LOAD,
    Finding,
    Group,
    Question,
    holds,
    judge,
    may,
    must_not,
    type_of,
    valid_contexts,
)

_RANGE = "s0-s0:c0.c1023"
DAEMON = f"system_u:system_r:{DAEMON_TYPE}:{_RANGE}"
_SYSTEM = (
    "init_t", "initrc_t", "kernel_t", "sshd_t", "virtd_t", "syslogd_t", "dhcpc_t", "chronyd_t", "ntpd_t", "crond_t",
    "system_dbusd_t", "udev_t", "dnsmasq_t", "getty_t", "local_login_t", "systemd_logind_t", "systemd_machined_t",
    "systemd_networkd_t", "systemd_resolved_t",
)  # fmt: skip
WELL_KNOWN = (
    *(f"system_u:system_r:{name}:{_RANGE}" for name in _SYSTEM),
    f"unconfined_u:unconfined_r:unconfined_t:{_RANGE}",
    f"root:sysadm_r:sysadm_t:{_RANGE}",
    "user_u:user_r:user_t:s0",
)
"""Domains that most hosts have. Those that the policy does not know are left out when it is asked."""
_ONE, _OTHER = "c10", "c11"
_SVIRT = "system_u:system_r:svirt_t:s0:c10,c512,c513"
_FLAGS = {
    "mls": "has levels and categories",
    "policy_capabilities/network_peer_controls": "checks peers on the network",
}
_OTHERS = "Remove the rule or the permissive domain that another module brings (semodule -lfull)"
_DEFAULT = "Use Debian's policy: SELINUXTYPE=default in /etc/selinux/config, and reboot"
_PERMISSIVE = "Let the domain enforce: semodule -r permissive_NAME, or semanage permissive -d NAME"


def link_context(category: str) -> str:
    return f"system_u:object_r:{LINK_TYPE}:s0:{category}"


def spd_context(category: str) -> str:
    return f"system_u:object_r:{SPD_TYPE}:s0:{category}"


def link_findings(kernel: KernelSelinux, *, own: str, domains: Iterable[str]) -> tuple[Finding, ...]:
    """Everything that must hold. `own`: the context of the daemon; `domains`: contexts of processes beside
    `WELL_KNOWN`. Raises BackendFailed where the kernel cannot be asked at all."""
    flags = [_flag(kernel, name, what) for name, what in _FLAGS.items()]
    contexts = [link_context(_ONE), link_context("c1023"), spd_context(_ONE), own]
    known = [_known(kernel, context) for context in contexts]
    if not all(finding.ok for finding in (*flags, *known)):
        return (*flags, *known)  # nothing else can be asked
    others = _distinct(valid_contexts(kernel, (*WELL_KNOWN, *domains)))
    unlabelled = kernel.initial_context("unlabeled")
    questions = [
        *_own(own),
        *_apart(unlabelled),
        *(question for context in others if type_of(context) != type_of(own) for question in _nobody_else(context)),
        *(question for context in (own, *others) for question in _no_lock_out(context, unlabelled)),
        *_network(kernel, unlabelled, others),
    ]
    enforcing = [enforced(kernel, item) for item in (own, link_context(_ONE), *valid_contexts(kernel, (_SVIRT,)))]
    return (*flags, *enforcing, *known, *judge(kernel, questions))


def own_domain(own: str) -> Finding:
    """The process that labels runs in the daemon's own domain."""
    right = type_of(own) == DAEMON_TYPE
    remedy = "Label the program and start it by systemd: shamon selinux install; systemctl restart shamon"
    return Finding(
        group=Group.DAEMON, who="the daemon", what="runs in its own domain", expected=DAEMON_TYPE,
        found=type_of(own) or own or "none", ok=right, remedy="" if right else remedy, of_policy=False,
    )  # fmt: skip


def enforced(kernel: KernelSelinux, context: str) -> Finding:
    """The domain is not permissive. Raises BackendFailed."""
    ok = not kernel.access(context, context, "process").permissive
    what = "enforces, is no permissive domain"
    return holds(Group.MODE, type_of(context), what, ok=ok, remedy=_PERMISSIVE, of_policy=True)


def missing(findings: Iterable[Finding]) -> tuple[str, ...]:
    """What is not as it must be, in words."""
    return tuple(finding.in_words for finding in findings if not finding.ok)


def _own(own: str) -> list[Question]:
    link, group = link_context(_ONE), Group.LINKS
    return [
        may(group, "labels SAs", own, link, "association setcontext"),
        may(group, "labels SPD entries", own, spd_context(_ONE), "association setcontext"),
        may(group, "makes link sockets", own, link, "udp_socket create bind connect"),
        may(group, "chooses a socket's label", own, own, "process setsockcreate"),
    ]


def _nobody_else(context: str) -> list[Question]:
    link, group = link_context(_ONE), Group.LINKS
    return [
        must_not(group, "labels SAs", context, link, "association setcontext", remedy=_OTHERS),
        must_not(group, "labels SPD entries", context, spd_context(_ONE), "association setcontext", remedy=_OTHERS),
        must_not(group, "makes link sockets", context, link, "udp_socket create", remedy=_OTHERS),
    ]


def _apart(unlabelled: str) -> list[Question]:
    """Packets, SAs and SPD entries meet with equal categories and with no others, not even more of them."""
    group, one, found = Group.TYPES_APART, link_context(_ONE), []
    for words, target, vector in (
        ("SPD entry", spd_context, "association polmatch"),
        ("SA", link_context, "association sendto recvfrom"),
    ):
        found.append(may(group, f"{_ONE} meets an {words} of {_ONE}", one, target(_ONE), vector))
        for more in (_OTHER, f"{_ONE},{_OTHER}"):
            found.append(must_not(group, f"{_ONE} meets an {words} of {more}", one, target(more), vector))
            found.append(
                must_not(group, f"{more} meets an {words} of {_ONE}", link_context(more), target(_ONE), vector)
            )
    spd = spd_context(_ONE)
    found.append(must_not(group, "meets an SPD entry with a label", unlabelled, spd, "association polmatch"))
    return found


def _no_lock_out(context: str, unlabelled: str) -> list[Question]:
    group, vector = Group.NO_LOCK_OUT, "association sendto recvfrom polmatch"
    return [
        may(group, "receives what has no label", context, unlabelled, "peer recv"),
        may(group, "uses SAs and SPD entries without a label", context, unlabelled, vector),
    ]


def _network(kernel: KernelSelinux, unlabelled: str, others: Iterable[str]) -> list[Question]:
    """Packets pass interfaces and nodes: those without a label in and out, those of ssh out."""
    netif, node = kernel.initial_context("netif"), kernel.initial_context("node")
    group = Group.NO_LOCK_OUT
    found = [
        may(group, "comes in by any interface", unlabelled, netif, "netif ingress"),
        may(group, "comes from any address", unlabelled, node, "node recvfrom"),
    ]
    for context in (unlabelled, *(context for context in others if type_of(context) == "sshd_t")):
        found.append(may(group, "goes out by any interface", context, netif, "netif egress"))
        found.append(may(group, "goes to any address", context, node, "node sendto"))
    return found


def _flag(kernel: KernelSelinux, name: str, what: str) -> Finding:
    return holds(Group.MODE, "policy", what, ok=kernel.flag(name), remedy=_DEFAULT, of_policy=True)


def _known(kernel: KernelSelinux, context: str) -> Finding:
    short = context.split(":", 2)[-1]
    return holds(Group.CONTEXTS, short, "is known", ok=kernel.is_valid(context), remedy=LOAD, of_policy=True)


def _distinct(contexts: Iterable[str]) -> tuple[str, ...]:
    """One for each type: rules are of types, and levels play no part in the rules that are asked about."""
    found: dict[str, str] = {}
    for context in contexts:
        found.setdefault(type_of(context), context)
    return tuple(found.values())
