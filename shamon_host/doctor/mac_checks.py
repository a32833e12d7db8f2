"""SELinux and IMA: whether what peers demand of a host's log and policy will be there. Pure."""

import hashlib
import re
from itertools import dropwhile

from shamon_host.doctor.facts import HostFacts, ImaSummary
from shamon_host.doctor.findings import Finding, Say, listed
from shamon_host.doctor.kernel_checks import require_securityfs
from shamon_host.doctor.look import Look, require_seen
from shamon_host.selinux.checking import remedies
from shamon_host.selinux.questions import Group

_SELINUX_OFF = (
    "Install selinux-policy-default, and put lsm=...,selinux,... security=selinux enforcing=1 on the command line."
)
_RULES = (
    "measure func=BPRM_CHECK mask=MAY_EXEC",
    "measure func=MMAP_CHECK mask=MAY_EXEC",
    "measure func=MODULE_CHECK",
    "measure func=FIRMWARE_CHECK",
    "measure func=POLICY_CHECK",
    "measure func=KEXEC_KERNEL_CHECK",
    "measure func=KEXEC_INITRAMFS_CHECK",
    "measure func=KEXEC_CMDLINE",
    "measure func=CRITICAL_DATA label=selinux",
    "measure func=FILE_CHECK mask=MAY_READ subj_type=shamon_t",
)
"""Of vm_images/host/root/etc/ima/ima-policy: what must be measured. Which files are left out is the operator's."""
_PUT = "Put vm_images/host/root/etc/ima/ima-policy of this project at /etc/ima/ima-policy and reboot."
_NO_IMA = "Boot a kernel with IMA and a TPM, as root look at /sys/kernel/security/ima."


def selinux_mode(say: Say, facts: HostFacts) -> Finding:
    """Enforcing now, and at all times since the boot, as far as the log tells: peers look at the log."""
    status = facts.mac.status
    require_seen(say, status, what="SELinux's status")
    if status.value is None:
        return say.wrong("SELinux is not there", expected="enforcing", remedy=_SELINUX_OFF)
    if not status.value.enforcing:
        return say.wrong(
            "permissive",
            expected="enforcing since the boot",
            remedy="Boot with enforcing=1. `setenforce 1` is not enough: peers see in the log that it was permissive.",
        )
    ima = facts.mac.ima.value
    if ima is None:
        return say.unknown(
            f"enforcing now; whether it was since the boot is in the IMA log: {_why(facts.mac.ima)}",
            remedy="Run `shamon doctor` as root, on a kernel with IMA.",
        )
    # Before its policy is loaded, SELinux decides nothing.
    initialised = list(dropwhile(lambda flags: "initialized=0" in flags, (state.split(";") for state in ima.states)))
    if any("enforcing=1" not in flags for flags in initialised):
        return say.wrong(
            "enforcing now, permissive at some time since the boot",
            expected="enforcing since the boot",
            remedy="Find out who ran `setenforce 0`, and reboot: peers refuse this host until then.",
        )
    if not initialised:
        return say.wrong(
            "enforcing, but the IMA log does not say so",
            expected="selinux-state in the log",
            remedy="Put ima_policy=tcb|critical_data on the command line, and reboot.",
        )
    return say.ok("enforcing, as far back as the log goes")


def selinux_config(say: Say, facts: HostFacts) -> Finding:
    config = facts.mac.config
    require_seen(say, config, what="/etc/selinux/config")
    found = dict(re.findall(r"^[ \t]*(SELINUX|SELINUXTYPE)[ \t]*=[ \t]*(\S+)", config.value or "", re.MULTILINE))
    if (found.get("SELINUX"), found.get("SELINUXTYPE")) != ("enforcing", "default"):
        words = config.bad or ", ".join(f"{name}={value}" for name, value in sorted(found.items()))
        return say.wrong(
            words or "not there, or empty",
            expected="SELINUX=enforcing, SELINUXTYPE=default",
            remedy="Install selinux-policy-default and write both into /etc/selinux/config.",
        )
    return say.ok("SELINUX=enforcing, SELINUXTYPE=default")


def selinux_policy(say: Say, facts: HostFacts) -> Finding:
    """What `shamon selinux check` says, but for the mode, which is judged by itself."""
    asked = facts.mac.asked
    require_seen(say, asked, what="the loaded policy")
    if asked.value is None:
        return say.wrong(
            asked.bad or "SELinux is not there", expected="Debian's policy with module shamon", remedy=_SELINUX_OFF
        )
    judged = [item for item in asked.value if (item.group, item.what) != (Group.MODE, "enforces")]
    wrong = [item for item in judged if not item.ok]
    if wrong:
        help_ = remedies(wrong)
        return say.wrong(
            f"{len(wrong)} of {len(judged)} answers: {listed([f'{item.who}: {item.what}' for item in wrong], 3)}",
            expected="every answer right",
            remedy=f"{help_[0] if help_ else ''}. `shamon selinux check` has all of them.",
        )
    if not judged:
        return say.unknown("nothing was asked", remedy="See `shamon selinux check`.")
    return say.ok(f"all {len(judged)} answers are right")


def ima_log(say: Say, facts: HostFacts) -> Finding:
    """That IMA measures, with a hash that counts."""
    ima = facts.mac.ima
    require_seen(say, ima, what="the IMA log")
    require_securityfs(say, facts, ima)
    if ima.value is None or not ima.value.entries:
        return say.wrong(_why(ima), expected="a log in /sys/kernel/security/ima", remedy=_NO_IMA)
    weak = ima.value.algorithms & {"sha1", "md5", "md4"}
    if weak:
        return say.wrong(
            f"digests by {listed(sorted(weak))}",
            expected="SHA-256, or longer",
            remedy="Boot with ima_hash=sha256: SHA-1 is never accepted.",
        )
    return say.ok(f"{ima.value.entries} entries, digests by {listed(sorted(ima.value.algorithms)) or 'none yet'}")


def ima_rules(say: Say, facts: HostFacts) -> Finding:
    """What the policy file asks for."""
    file = facts.mac.policy_file
    require_seen(say, file, what="/etc/ima/ima-policy")
    if file.value is None:
        return say.wrong(file.bad or "not there", expected="the rules of docs/operating.md", remedy=_PUT)
    lines = (line.strip() for line in file.value.decode("utf-8", "replace").splitlines())
    rules = [" ".join(line.split()) for line in lines if line and not line.startswith("#")]
    missing = [rule for rule in _RULES if rule not in rules]
    if missing:
        return say.wrong(f"without: {listed(missing, 3)}", expected="all that peers demand", remedy=_PUT)
    early = next((rule for rule in rules if rule.startswith("dont_measure")), "")
    if early and any(rules.index(early) < rules.index(rule) for rule in _RULES[:4]):
        return say.wrong(
            f"`{early}` stands before a rule for what runs",
            expected="what runs is measured wherever it lies: those rules first",
            remedy=_PUT,
        )
    return say.ok(f"{len(rules)} rules, all that peers demand among them")


def ima_policy(say: Say, facts: HostFacts) -> Finding:
    """That the file which lies there is the one that was loaded in this boot."""
    file, ima = facts.mac.policy_file, facts.mac.ima
    for look, what in ((file, "/etc/ima/ima-policy"), (ima, "the IMA log")):
        require_seen(say, look, what=what)
    require_securityfs(say, facts, ima)
    if file.value is None or ima.value is None:
        what = "no policy file" if file.value is None else _why(ima)
        return say.wrong(what, expected="/etc/ima/ima-policy, loaded at boot", remedy=_PUT)
    if not ima.value.policies:
        return say.wrong(
            "the log has no entry of /etc/ima/ima-policy: it was not loaded",
            expected="loaded by systemd at boot",
            remedy="Put ima_policy=tcb|critical_data on the command line and reboot; `journalctl -b | grep -i ima` "
            "says why it was not loaded.",
        )
    loaded = ima.value.policies[-1]
    algorithm, _, digest = loaded.partition(":")
    try:
        own = hashlib.new(algorithm, file.value, usedforsecurity=False).hexdigest()
    except (ValueError, TypeError):  # no such hash here, or one without a length
        return say.unknown(f"the log has it by {algorithm}", remedy="Boot with ima_hash=sha256.")
    if own != digest:
        return say.wrong(
            f"the file has {algorithm}:{own[:16]}..., loaded was {loaded[:23]}...",
            expected="the file that was loaded at boot",
            remedy="Put the wanted file there and reboot: a policy is loaded once a boot.",
        )
    return say.ok(f"loaded at boot, {algorithm}:{own[:16]}...")


def _why(look: Look[ImaSummary]) -> str:
    if look.value is not None:
        return "it is empty"
    return look.bad or look.unread or "there is none"
