"""Whether there is to be a link at all, and why not: the stages before the first device.

In the order in which one follows from the other. First what this host alone decides (`Part.READY`): what the policies
permit, what its kernel is ready for, whether a VM needs it here. Then what there is between the two (`Part.TERMS`):
whether the peer is trusted, whether it needs the type too, and what the last handshake made of all that.
"""

from collections.abc import Callable

from shamon_host.domain.admission import AdmissionState
from shamon_host.links.desired import BLOCK_ENTRIES
from shamon_host.links.doctor_facts import Facts
from shamon_host.links.network_state import SYSCTLS
from shamon_host.links.path_report import Part, Stage, Verdict

_OK, _WRONG, _UNKNOWN = Verdict.OK, Verdict.WRONG, Verdict.UNKNOWN
_REPAIRED = "The daemon repairs this within a moment. If it stays, `journalctl -u shamon` and `shamon audit` say why."


def _policy(facts: Facts) -> Stage:
    name, looked_at = "policy", "what the policies of both hosts permit"
    if facts.denied:
        return facts.stage(
            Part.READY, name, looked_at, _WRONG, facts.denied,
            expected=f"{facts.host} and {facts.peer} may carry {facts.type}",
            remedy="`shamon peers --json` shows what may be shared, `shamon policy explain` why two VMs may not meet.",
        )  # fmt: skip
    return facts.stage(Part.READY, name, looked_at, _OK, f"both hosts may carry {facts.type}")


def _label_map(facts: Facts) -> Stage:
    name, looked_at = "label map", "the category of the type on this host"
    if facts.type not in facts.label_map.types:
        return facts.stage(
            Part.READY, name, looked_at, _WRONG, f"this host has no category for {facts.type}",
            expected="a category for each type of the host",
            remedy=f"The policy in force has to give {facts.type} to {facts.host}: see `shamon policy status`.",
        )  # fmt: skip
    context = facts.label_map.link_context(facts.type)
    return facts.stage(Part.READY, name, looked_at, _OK, f"{facts.bridge}, {context}")


def _selinux(facts: Facts) -> Stage:
    name, looked_at = "SELinux", "its mode, and whether the loaded policy is fit for links"
    if facts.state is None:
        return facts.unread(Part.READY, name, looked_at)
    if not facts.state.selinux_enforcing:
        return facts.stage(
            Part.READY, name, looked_at, _WRONG, "SELinux is not enforcing, so there are no links",
            expected="enforcing",
            remedy="Boot this host again with SELinux enforcing: its peers refuse it until then, and for good reason.",
        )  # fmt: skip
    if reason := facts.state.no_links_because:
        return facts.stage(
            Part.READY, name, looked_at, _WRONG, reason,
            expected="a policy that keeps types apart, with Shamon's module",
            remedy="As root: `shamon selinux check` says what is missing, `shamon selinux install` puts it there.",
        )  # fmt: skip
    return facts.stage(Part.READY, name, looked_at, _OK, "enforcing, and its policy is fit for links")


def _guard(facts: Facts) -> Stage:
    name, looked_at = "guard", "the nft table `shamon`, and the block entries of the SPD"
    if facts.state is None:
        return facts.unread(Part.READY, name, looked_at)
    missing = [entry for entry in BLOCK_ENTRIES if entry not in facts.state.spd]
    if facts.state.guard and not missing:
        return facts.stage(Part.READY, name, looked_at, _OK, "all rules and block entries are there")
    found = "the nft rules are missing, or others than this program installs"
    if facts.state.guard:
        found = f"{len(missing)} of {len(BLOCK_ENTRIES)} block entries are missing in the SPD"
    return facts.stage(
        Part.READY, name, looked_at, _WRONG, found,
        expected="the guard that keeps link packets from leaving in clear",
        remedy=f"Somebody changed it: new nft rules close all gates until the next handshake. {_REPAIRED}",
    )  # fmt: skip


def _settings(facts: Facts) -> Stage:
    name, looked_at = "settings", "sysctls that bear on IPsec and forwarding, and foreign objects in the way"
    if facts.state is None:
        return facts.unread(Part.READY, name, looked_at)
    wrong = [
        f"{sysctl} is {facts.state.sysctls.get(sysctl, 'not read')}, not {right[0]}"
        for sysctl, right in SYSCTLS.items()
        if facts.state.sysctls.get(sysctl) not in right
    ]
    if wrong or facts.state.foreign:
        return facts.stage(
            Part.READY, name, looked_at, _WRONG, "; ".join([*wrong, *facts.state.foreign]),
            expected="as peers demand it, or they refuse this host",
            remedy="Set them back by hand (`sysctl -w`), and remove what is in the way.",
        )  # fmt: skip
    return facts.stage(Part.READY, name, looked_at, _OK, "as peers demand")


def _vms(facts: Facts) -> Stage:
    name, looked_at = "VM", f"VMs of {facts.host} with an interface for {facts.type}"
    if facts.exchanging:
        found = ", ".join(vm.name for vm in facts.exchanging)
        others = "; ".join(str(vm) for vm in facts.vms if not vm.exchanges and facts.vm is None)
        if facts.not_followed:
            others = f"{facts.not_followed} more are not followed: name one with --vm"
        verb = "runs" if len(facts.exchanging) == 1 else "run"
        return facts.stage(
            Part.READY, name, looked_at, _OK, f"{found} {verb}" + (f" ({others})" if others else "")
        )  # fmt: skip
    asked = [vm for vm in facts.vms if facts.vm in (None, vm.name)]
    found = "; ".join(map(str, asked))
    if not asked:
        found = (
            f"{facts.vm or 'no VM of this host'} has " + ("no" if facts.vm else "an") + f" interface for {facts.type}"
        )
    return facts.stage(
        Part.READY, name, looked_at, _WRONG, found,
        expected="one that runs under its label, and in no quarantine",
        remedy="`shamon vm start NAME` starts or resumes one, and releases it from quarantine; see `shamon vms`.",
    )  # fmt: skip


def _admission(facts: Facts) -> Stage:
    name, looked_at, peer = "admission", f"what this host holds of {facts.peer}", facts.of_peer
    if peer.admitted:
        return facts.stage(Part.TERMS, name, looked_at, _OK, f"admitted, its lease ends in {peer.lease_s:.0f} s")
    state = "its lease is over" if peer.state is AdmissionState.ADMITTED else peer.state.value
    parts = [f"{facts.peer} is not admitted: {state}", peer.reason, peer.failed_claim, peer.last_error]
    found = "; ".join(dict.fromkeys(part for part in parts if part))
    if peer.refuses_us:
        remedy = f"It does not trust this host: run `shamon explain {facts.host}` on {facts.peer}."
    elif peer.state is AdmissionState.EXPELLED:
        remedy = "It was expelled, or left: it has to be enrolled anew."
    elif peer.failed_claim:
        remedy = f"{peer.clears} `shamon explain {facts.peer}` tells the whole story.".strip()
    else:
        remedy = f"Does its daemon run, and is {facts.peer} reachable at TCP 7443? Then `shamon attest`."
    return facts.stage(
        Part.TERMS, name, looked_at, _WRONG, found, expected="admitted, with a lease that goes on", remedy=remedy
    )


def _handshake(facts: Facts) -> Stage:
    name, looked_at, peer = "handshake", f"the last handshake with {facts.peer}", facts.of_peer
    if peer.last_error:
        left = f" The links end with the lease, in {peer.lease_s:.0f} s." if peer.admitted else ""
        return facts.stage(
            Part.TERMS, name, looked_at, _WRONG, f"it failed: {peer.last_error}",
            expected="one that is confirmed, in every period",
            remedy=f"Does its daemon run, and is it reachable at TCP 7443? See `journalctl -u shamon` there.{left}",
        )  # fmt: skip
    if not peer.admitted:
        return facts.stage(Part.TERMS, name, looked_at, _UNKNOWN, "none was confirmed")
    return facts.stage(Part.TERMS, name, looked_at, _OK, "it was confirmed")


def _offer(facts: Facts) -> Stage:
    name, looked_at, offered = "offer", f"what {facts.peer} offered in the last handshake", facts.of_peer.offered
    if offered is None or not facts.of_peer.admitted:
        return facts.stage(Part.TERMS, name, looked_at, _UNKNOWN, "no handshake since this daemon started tells")
    if facts.type in offered:
        return facts.stage(Part.TERMS, name, looked_at, _OK, f"it offered {facts.type}")
    return facts.stage(
        Part.TERMS, name, looked_at, _WRONG, f"{facts.peer} did not offer {facts.type}: no VM there uses it",
        expected=f"a VM of {facts.type} that runs on {facts.peer}",
        remedy=f"On {facts.peer}, `shamon vms` lists its VMs and `shamon vm start NAME` starts one; the link follows.",
    )  # fmt: skip


def _agreement(facts: Facts) -> Stage:
    name, looked_at, link = "link", "what this host has written down of the link", facts.after.link
    if link is None:
        return facts.stage(
            Part.TERMS, name, looked_at, _WRONG, f"no handshake agreed on a link of {facts.type} to {facts.peer}",
            expected="one link for each type that both hosts use",
            remedy="`shamon attest` asks for a handshake now.",
        )  # fmt: skip
    ports = f"port {link.local_port} here, {link.peer_port} there"
    if not link.attached:
        return facts.stage(
            Part.TERMS, name, looked_at, _WRONG, f"{ports}: its sending side is not installed yet",
            expected="both sides installed",
            remedy="A handshake is under way, or broke off: look again in a moment, or `shamon attest`.",
        )  # fmt: skip
    return facts.stage(Part.TERMS, name, looked_at, _OK, ports)


TERMS: tuple[Callable[[Facts], Stage], ...] = (
    _policy,
    _label_map,
    _selinux,
    _guard,
    _settings,
    _vms,
    _admission,
    _handshake,
    _offer,
    _agreement,
)
