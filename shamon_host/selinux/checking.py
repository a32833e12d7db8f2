"""`shamon selinux check`: everything that a host must show, read from the kernel, from processes and from files.

Files of the policy store are not asked: what counts is what is loaded. Groups that ask the loaded policy are judged
first; when Shamon's types are unknown to it, there is nothing more to ask.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace

from shamon_host.selinux.file_labels import expected_type
from shamon_host.selinux.least_privilege import least_privilege_findings
from shamon_host.selinux.link_conditions import DAEMON, enforced, link_findings, own_domain
from shamon_host.selinux.ports import KernelSelinux, LabelledHost
from shamon_host.selinux.questions import Finding, Group, holds, type_of, valid_contexts

_BOOLEANS = {
    "allow_ptrace": "administrators' domains do not trace others",
    "allow_raw_memory_access": "no program reads the memory of the host",
    "init_daemons_use_tty": "daemons do not use terminals",
}
"""Each off; None of them in a policy is as good."""
_ENFORCE = "Put enforcing=1 on the kernel's command line and reboot: peers refuse a host that was permissive since boot"
_APPLIED = "Take checkreqprot=1 off the kernel's command line, and reboot"
_RELABEL = "Label it: shamon selinux install"
_NAMED = 3


def check_host(kernel: KernelSelinux, host: LabelledHost) -> tuple[Finding, ...]:
    """Raises BackendFailed where the kernel or the processes cannot be looked at."""
    kernel.status()  # where SELinux is off, that is what is told
    processes = host.processes()
    findings = [
        *mode_findings(kernel),
        *_boolean_findings(kernel),
        *link_findings(kernel, own=DAEMON, domains=set(processes.values())),
    ]
    if all(finding.ok for finding in findings if finding.group is Group.CONTEXTS):
        findings += least_privilege_findings(kernel, DAEMON)
        findings += _permissive_processes(kernel, processes.values())
        findings += [_daemon(pid, processes.get(pid, "")) for pid in sorted(host.daemon_processes())]
        findings += _files(host.files())
    order = list(Group)
    return tuple(sorted(findings, key=lambda finding: order.index(finding.group)))


def mode_findings(kernel: KernelSelinux) -> tuple[Finding, ...]:
    """Enforcing, and protections checked as they are applied. Raises BackendFailed."""
    status = kernel.status()
    unknown = "yes" if status.deny_unknown else "no"
    applied = "checks the protection that is applied (checkreqprot 0)"
    return (
        holds(Group.MODE, "kernel", "enforces", ok=status.enforcing, remedy=_ENFORCE),
        holds(Group.MODE, "kernel", applied, ok=not kernel.flag("checkreqprot"), remedy=_APPLIED),
        # Told, not judged: whatever is asked about here is known to the policy, or the answer is wrong.
        Finding(
            group=Group.MODE,
            who="policy",
            what="denies what it does not know (deny_unknown)",
            expected="either",
            found=unknown,
            ok=True,
            of_policy=False,
        ),
    )


def _boolean_findings(kernel: KernelSelinux) -> list[Finding]:
    return [
        holds(
            Group.MODE, f"boolean {name}", f"is off: {what}", ok=not kernel.boolean(name),
            remedy=f"setsebool -P {name} off",
        )
        for name, what in _BOOLEANS.items()
    ]  # fmt: skip


def in_rows(findings: Iterable[Finding]) -> list[dict[str, str]]:
    """For a table: findings that say the same of several are one row."""
    rows: dict[tuple[str, ...], list[str]] = {}
    for finding in findings:
        result = "ok" if finding.ok else "WRONG"
        rows.setdefault((result, finding.group, finding.what, finding.expected, finding.found), []).append(finding.who)
    return [
        {
            "result": result,
            "about": about,
            "who": _listed(who, all_well=result == "ok"),
            "what": what,
            "expected": expected,
            "found": found,
        }
        for (result, about, what, expected, found), who in rows.items()
    ]


def remedies(findings: Iterable[Finding]) -> tuple[str, ...]:
    """What to do, each thing once, that which helps most first."""
    return tuple(remedy for remedy, _ in Counter(f.remedy for f in findings if not f.ok and f.remedy).most_common())


def _listed(who: list[str], *, all_well: bool) -> str:
    """Of many that are well, how many; of many that are not, the first."""
    distinct = list(dict.fromkeys(who))
    if len(distinct) <= _NAMED:
        return ", ".join(distinct)
    return (
        f"{len(distinct)} of them" if all_well else f"{', '.join(distinct[:_NAMED])} and {len(distinct) - _NAMED} more"
    )


def _permissive_processes(kernel: KernelSelinux, contexts: Iterable[str]) -> list[Finding]:
    """A permissive domain is a way round the policy for whatever runs in it."""
    one_of_each = {type_of(context): context for context in valid_contexts(kernel, sorted(set(contexts)))}
    found = [enforced(kernel, context) for _, context in sorted(one_of_each.items())]
    return [replace(finding, group=Group.PROCESSES, of_policy=False) for finding in found]


def _daemon(pid: int, context: str) -> Finding:
    return replace(own_domain(context), who=f"process {pid}")


def _files(labels: Mapping[str, str]) -> list[Finding]:
    found = []
    for path, context in sorted(labels.items()):
        wanted, type_found = expected_type(path), type_of(context)
        if wanted is not None:
            finding = Finding(
                group=Group.FILES, who=path, what="has its type", expected=wanted, found=type_found or "no label",
                ok=type_found == wanted, remedy="" if type_found == wanted else _RELABEL, of_policy=False,
            )  # fmt: skip
            found.append(finding)
    return found
