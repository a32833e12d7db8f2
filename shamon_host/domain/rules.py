"""The rules that several of the monitor's checks share, each a sequence of reasons to deny.

Most basic first; a check stops at the first, so later rules may rely on what came before. A reason names the rule, says
in words what is wrong, and gives the key of the policy that it comes from, where there is one.
"""

from collections.abc import Callable, Iterator, Mapping, Set
from typing import NamedTuple

from shamon_host.domain.admission import AdmissionState, PeerState
from shamon_host.domain.consistency import inconsistencies
from shamon_host.domain.decision import Rule
from shamon_host.domain.decisions import conflict_with, may_use
from shamon_host.domain.findings import quoted
from shamon_host.domain.labels import UNLABELLED, HostName, TypeName, VmContext, VmLabel, VmName
from shamon_host.domain.policy import Policy, Primary, TpmDemand
from shamon_host.domain.policy_form import policy_digest
from shamon_host.domain.results import TpmKind
from shamon_host.domain.ste import lacking_types, listed


class Deny(NamedTuple):
    """One reason to deny."""

    rule: Rule
    reason: str
    key: str = ""
    """Path of a key of the policy, as in its findings: `conflicts.audit`."""


Denials = Iterator[Deny]


def malformed(policy: Policy) -> Denials:
    """It does not hang together, or is not what its digest says."""
    for finding in inconsistencies(policy):
        yield Deny(Rule.WELL_FORMED, str(finding), finding.key)
    digest = policy_digest(policy)
    if policy.digest != digest:
        yield Deny(Rule.WELL_FORMED, f"its digest is {digest}, not {policy.digest}")


def expired(policy: Policy, now_wall_s: float) -> Denials:
    """Its time is over: nobody can be held back on an old version."""
    if policy.expires_s is not None and now_wall_s >= policy.expires_s:
        ago = int(now_wall_s - policy.expires_s)
        yield Deny(Rule.EXPIRED, f"version {policy.version} expired {ago} s ago", "coalition.expires")


def mislabelled(wanted: VmContext, found: VmContext | None) -> Denials:
    """What was read back is not what the label map gives."""
    if found is None:
        yield Deny(Rule.LABEL, f"it has no label; {wanted} is expected")
    if found != wanted:
        yield Deny(Rule.LABEL, f"its label is {found}; {wanted} is expected")


def unassigned(policy: Policy, vm: VmName, host: HostName) -> Denials:
    """The policy gives the VM to another host, or does not know it."""
    entry = policy.vms.get(vm)
    if entry is None:
        yield Deny(Rule.KNOWN, f"the policy knows no VM {vm}")
    elif host not in policy.hosts_for(vm):
        yield Deny(Rule.ASSIGNMENT, f"the policy gives {vm} to {entry.host}, not to {host}", f"vms.{quoted(vm)}.host")
    else:
        yield from not_owned(policy, vm, host)


def not_owned(policy: Policy, vm: VmName, host: HostName) -> Denials:
    """Another host owns the VM now (`Policy.host_of`), or the policy does not know it."""
    if vm not in policy.vms:
        yield Deny(Rule.KNOWN, f"the policy knows no VM {vm}")
    elif policy.host_of(vm) != host:
        owner, moved = policy.host_of(vm), policy.host_of(vm) != policy.vms[vm].host
        why = f"{vm} was moved to {owner}" if moved else f"the policy gives {vm} to {owner}, not to {host}"
        yield Deny(Rule.ASSIGNMENT, why, f"vms.{quoted(vm)}.host")


def not_runnable(
    policy: Policy,
    vm: VmName,
    host: HostName,
    running: Mapping[VmName, VmLabel],
    *,
    host_tpm: TpmKind | None = None,
    admitted: bool = True,
) -> Denials:
    """Management label, TPM, Chinese Wall, simple type enforcement of the VM's resources. The VM is known.

    `host_tpm`: what the host is enrolled with; None where that was asked elsewhere (`host.admit`). `admitted`: some
    peer admitted the host in this boot.
    """
    if host not in policy.hosts:
        yield Deny(Rule.KNOWN, f"the policy knows no host {host}")
    label = label_of(policy, vm)
    if not label.types and label is not UNLABELLED:
        yield Deny(Rule.WELL_FORMED, f"the label of {vm} has no type")
    lacking = lacking_types(label.types, policy.hosts[host].types)
    if lacking:
        yield Deny(Rule.MANAGEMENT_LABEL, f"the label of {host} lacks {listed(lacking)}", f"hosts.{quoted(host)}.types")
    starting = policy.hosts[host].starting
    if not admitted and starting is not None and label.types - starting:
        yield Deny(
            Rule.MANAGEMENT_LABEL,
            f"no peer has admitted {host} in this boot: it runs {listed(starting)} only",
            f"hosts.{quoted(host)}.starting",
        )
    if host_tpm is not None:
        yield from weak_tpm(policy, host, host_tpm, label.types)
    rules: list[Callable[[], Denials]] = [
        lambda: _walled(policy, vm, label, host, running),
        lambda: _unusable(policy, vm, label),
    ]
    if policy.primary is Primary.STE:
        rules.reverse()
    for rule in rules:
        yield from rule()


def weak_tpm(policy: Policy, host: HostName, tpm: TpmKind, types: Set[TypeName]) -> Denials:
    """A type demands a hardware TPM of the hosts that carry it."""
    for name in sorted(types):
        definition = policy.definitions.get(name)
        if definition is not None and definition.tpm is TpmDemand.HARDWARE and tpm is not TpmKind.HARDWARE:
            yield Deny(
                Rule.TPM_KIND, f"{name} demands a hardware TPM, and that of {host} is software", f'types."{name}".tpm'
            )


def _walled(policy: Policy, vm: VmName, label: VmLabel, host: HostName, running: Mapping[VmName, VmLabel]) -> Denials:
    others = {name: other for name, other in running.items() if name != vm}
    conflict = conflict_with(policy, label, others.values())
    if conflict is not None:
        blamed = sorted(name for name, other in others.items() if policy.walls_of(other) & conflict.types)
        yield Deny(
            Rule.CHINESE_WALL,
            f"{conflict} would run together on {host}; running: {', '.join(blamed) or 'none'}",
            f"conflicts.{quoted(conflict.conflict_set)}"
            if conflict.conflict_set in policy.conflict_sets
            else f'types."{conflict.conflict_set.partition(" ")[0]}".apart',
        )


def _unusable(policy: Policy, vm: VmName, label: VmLabel) -> Denials:
    for resource in policy.vms[vm].resources:
        other = policy.resource_labels.get(resource)
        if other is None:
            yield Deny(Rule.KNOWN, f"the policy knows no resource {resource}", f"vms.{quoted(vm)}.resources")
        elif other.inaccessible:
            yield Deny(Rule.STE, f"the resource {resource} of {vm} is inaccessible", f"resources.{quoted(resource)}")
        elif not may_use(policy, label, other):
            yield Deny(
                Rule.STE,
                f"{vm} ({listed(label.types)}) and its resource {resource} ({listed(other.types)}) share no type"
                + (" that it reads" if label.types & other.types else ""),
                f"resources.{quoted(resource)}.types",
            )


def not_admitted(policy: Policy, peer: HostName, state: PeerState, now_s: float) -> Denials:
    """The peer is not a member whose proof holds at `now_s` (CLOCK_BOOTTIME)."""
    if peer not in policy.hosts:
        yield Deny(Rule.KNOWN, f"the policy knows no host {peer}")
    if state.host != peer:
        yield Deny(Rule.IDENTITY, f"the state is about {state.host}")
    if state.state is AdmissionState.EXPELLED:
        yield Deny(Rule.EXPELLED, f"{peer} was expelled: {state.reason or 'no reason was given'}")
    if state.state is not AdmissionState.ADMITTED:
        yield Deny(Rule.ADMISSION, f"{peer} is {state.state}" + (f": {state.reason}" if state.reason else ""))
    if not state.counts_at(now_s):
        yield Deny(Rule.LEASE, f"the lease of {peer} has ended")


def label_of(policy: Policy, vm: VmName) -> VmLabel:
    """The label of a VM that is known; an empty one where its label is not there, so that the caller denies."""
    name = policy.vms[vm].label
    if name == UNLABELLED.name:
        return UNLABELLED
    return policy.vm_labels.get(name) or VmLabel(name=name, types=frozenset())
