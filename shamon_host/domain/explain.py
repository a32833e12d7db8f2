"""Why something is permitted or denied: every rule that bears on it, with its answer and the keys of the policy.

`explain` is about two VMs, or a VM and a resource; `dry_run` asks every check that a VM would meet on a host, without
doing anything. Keys are paths in the policy file, so that whoever has the file can point to its lines.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from shamon_host.domain import monitor
from shamon_host.domain.admission import AdmissionState, PeerState
from shamon_host.domain.decision import Decision
from shamon_host.domain.decisions import conflict_with, may_send, may_use
from shamon_host.domain.errors import BadInput
from shamon_host.domain.findings import nearest, quoted
from shamon_host.domain.labels import UNLABELLED, HostName, ResourceKind, ResourceLabel, TypeName, VmLabel, VmName
from shamon_host.domain.policy import Policy
from shamon_host.domain.results import AttestationResult, TpmKind
from shamon_host.domain.ste import listed, may_write


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """One answer. `check` is one of the 13, or the rule that is asked; `keys` are paths in the policy."""

    check: str
    subject: str
    object: str
    permitted: bool
    rule: str
    reason: str
    keys: tuple[str, ...] = ()


def explain(policy: Policy, one: str, other: str) -> tuple[Explanation, ...]:
    """What the policy says of two VMs, or of a VM and a resource; names of labels will do for VMs. Raises BadInput."""
    if _is_resource(policy, one) and not _is_resource(policy, other):
        one, other = other, one
    subject = _vm(policy, one)
    if _is_resource(policy, other):
        return (_use(policy, one, subject.label, subject.keys, policy.resource_labels[other]),)
    target = _vm(policy, other)
    return _send(policy, subject, target), _send(policy, target, subject), _beside(policy, subject, target)


def _is_resource(policy: Policy, name: str) -> bool:
    return name in policy.resource_labels and VmName(name) not in policy.vms and name not in policy.vm_labels


class _Named(NamedTuple):
    """A VM, or a label as any VM would have it."""

    name: str
    label: VmLabel
    interfaces: frozenset[TypeName]
    keys: tuple[str, ...]
    """What says so."""


def _send(policy: Policy, sender: _Named, receiver: _Named) -> Explanation:
    one, other = sender.name, receiver.name
    types, keys = may_send(policy, sender.label, receiver.label), (*sender.keys, *receiver.keys)
    connected = types & sender.interfaces & receiver.interfaces
    limits = tuple(
        f"overlays.{quoted(name)}"
        for name, each in sorted(policy.overlays.items())
        if each.label in (sender.label.name, receiver.label.name)
    )
    if connected:
        reason = f"{one} writes and {other} reads {listed(connected)}"
        if limits:
            reason += f"; less what {', '.join(limits)} take away"
            keys += limits
    elif types:
        reason = f"{one} and {other} have no interfaces for the same one of {listed(types)}"
        keys += tuple(f"vms.{quoted(each.name)}.interfaces" for each in (sender, receiver) if types - each.interfaces)
    else:
        shared = sender.label.types & receiver.label.types
        one_way = f", and {listed(shared)} one way only" if shared else ""
        reason = f"{one} writes {listed(sender.label.writes)}; {other} reads {listed(receiver.label.reads)}{one_way}"
    return Explanation(
        check="exchange frames",
        subject=one,
        object=other,
        permitted=bool(connected),
        rule="ste",
        reason=reason,
        keys=keys,
    )


def _beside(policy: Policy, one: _Named, other: _Named) -> Explanation:
    conflict = conflict_with(policy, one.label, [other.label])
    keys: tuple[str, ...] = (*one.keys, *other.keys)
    if conflict is not None:
        known = conflict.conflict_set in policy.conflict_sets
        first = conflict.conflict_set.partition(" ")[0]
        keys += (f"conflicts.{quoted(conflict.conflict_set)}" if known else f'types."{first}".apart',)
    return Explanation(
        check="run on one host",
        subject=one.name,
        object=other.name,
        permitted=conflict is None,
        rule="chinese-wall",
        reason=f"{conflict} would run together" if conflict else "no conflict set has something of both",
        keys=keys,
    )


def _use(policy: Policy, vm: str, label: VmLabel, keys: tuple[str, ...], resource: ResourceLabel) -> Explanation:
    types = may_use(policy, label, resource)
    if resource.inaccessible:
        reason = f"{resource.name} is inaccessible"
    elif types:
        reason = f"both have {listed(types)}"
        if resource.kind is ResourceKind.DISK and not may_write(label, resource):
            reason += "; read-only: " + ("its content is pinned" if resource.pinned else f"{vm} only reads them")
    else:
        reason = f"{vm} has {listed(label.types)}; {resource.name} has {listed(resource.types)}"
        if label.types & resource.types:
            reason += f", of which {vm} reads none"
    return Explanation(
        check="use",
        subject=vm,
        object=resource.name,
        permitted=bool(types),
        rule="ste",
        reason=reason,
        keys=(*keys, f"resources.{quoted(resource.name)}"),
    )


def dry_run(
    policy: Policy,
    vm: VmName,
    host: HostName,
    *,
    start: Sequence[Decision],
    host_tpm: TpmKind,
    shared: Mapping[HostName, frozenset[TypeName]] | None = None,
) -> tuple[Explanation, ...]:
    """Every check that the VM would meet if it were started on the host now.

    `start`: what the monitor says of the start itself, of which whoever asks knows the state. `shared`: what the host
    may share with each peer, as their policies are; all types where that is not known. Peers count as admitted: whether
    they are is another matter. Raises BadInput for unknown names.
    """
    if vm not in policy.vms:
        raise _unknown("VM", vm, policy.vms)
    if host not in policy.hosts:
        raise _unknown("host", host, policy.hosts)
    keys = _vm(policy, vm).keys
    return (
        *(_of(decision, keys) for decision in start),
        *_dry_run(policy, vm, host, host_tpm=host_tpm, shared=shared or {}),
    )


def _dry_run(
    policy: Policy,
    vm: VmName,
    host: HostName,
    *,
    host_tpm: TpmKind,
    shared: Mapping[HostName, frozenset[TypeName]],
) -> Iterator[Explanation]:
    """What follows the start itself: resources, interfaces, and links for these."""
    keys = _vm(policy, vm).keys
    for resource in policy.vms[vm].resources:
        yield _use(policy, vm, policy.label_of(vm), keys, policy.resource_labels[resource])
    for name in policy.interfaces_of(vm):
        yield _of(monitor.vm_attach(policy, vm, name), keys)
        users = {
            policy.host_of(other): other
            for other in sorted(policy.vms)
            if policy.host_of(other) != host and name in policy.interfaces_of(other)
        }
        for peer, other in sorted(users.items()):
            decision = monitor.link_open(
                policy,
                host,
                peer,
                name,
                _admitted(peer),
                shared=shared.get(peer, policy.types),
                local_tpm=host_tpm,
                now_s=0.0,
            )
            hosts = (f"hosts.{quoted(host)}.types", f"hosts.{quoted(peer)}.types")
            yield _of(decision, (*hosts, f"vms.{quoted(other)}"))


def _admitted(peer: HostName) -> PeerState:
    """A peer that is admitted, with the best of proofs."""
    result = AttestationResult(host=peer, ak_name=b"", reset_count=0, tpm=TpmKind.HARDWARE, claims=())
    return PeerState(host=peer, state=AdmissionState.ADMITTED, lease_until_s=1.0, result=result)


def _of(decision: Decision, keys: tuple[str, ...]) -> Explanation:
    return Explanation(
        check=decision.check,
        subject=decision.subject,
        object=decision.object,
        permitted=decision.permitted,
        rule=decision.rule,
        reason=decision.reason,
        keys=(decision.key,) if decision.key else keys,
    )


def _vm(policy: Policy, name: str) -> _Named:
    """A VM with its label, or a label. Raises BadInput for any other name."""
    entry = policy.vms.get(VmName(name))
    if entry is not None:
        label = policy.label_of(entry.name)
        keys = (f"vms.{quoted(name)}.label", *(() if label is UNLABELLED else (f"labels.{quoted(label.name)}",)))
        return _Named(name=name, label=label, interfaces=frozenset(policy.interfaces_of(entry.name)), keys=keys)
    if name in policy.vm_labels:
        label = policy.vm_labels[name]
        return _Named(name=name, label=label, interfaces=label.types, keys=(f"labels.{quoted(name)}",))
    if name in policy.resource_labels:
        raise BadInput("two resources do not meet", where=name, expected="a VM or a label, and what it may meet")
    raise _unknown("VM, label or resource", name, [*policy.vms, *policy.vm_labels, *policy.resource_labels])


def _unknown(kind: str, name: str, names: Iterable[str]) -> BadInput:
    known = sorted(names)
    close = nearest(name, known)
    return BadInput(
        f"the policy has no such {kind}",
        where=name[:80],
        expected=", ".join(known[:8]) or "none is there",
        remedy=f"Did you mean {close}?" if close else "",
    )
