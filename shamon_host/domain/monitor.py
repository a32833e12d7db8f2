"""The reference monitor: 13 checks, each a pure function of policy and state that returns a `Decision`.

Nothing acts without its check. The caller puts the decision into the audit log, then calls `enforce()`, then acts.
What only narrows (suspend, expel, quarantine) needs no check. Within a check the rules are asked in order, and the
first that denies gives its name and its reason; whatever the rules do not expressly permit is denied.

State comes in as arguments: what runs, as the hypervisor reports it; what a peer has proved, as a `PeerState`; the
time on CLOCK_BOOTTIME.
"""

from collections.abc import Iterator, Mapping, Set

from shamon_host.domain.admission import AdmissionState, PeerState
from shamon_host.domain.chinese_wall import conflicts
from shamon_host.domain.consistency import inconsistencies
from shamon_host.domain.decision import Check, Decision, Rule
from shamon_host.domain.label_map import TYPE_CATEGORIES, VM_CATEGORIES, LabelMap
from shamon_host.domain.labels import HostName, SelinuxContext, TypeName, VmLabel, VmName
from shamon_host.domain.policy import Policy, PolicyVersion
from shamon_host.domain.policy_form import policy_digest
from shamon_host.domain.results import AttestationResult, TpmKind
from shamon_host.domain.ste import lacking_types, listed, shared_types

__all__ = [
    "Check",
    "Decision",
    "Rule",
    "host_admit",
    "host_enrol",
    "label_resource",
    "label_vm",
    "labelmap_install",
    "link_accept",
    "link_open",
    "policy_install",
    "policy_update",
    "reference_update",
    "vm_attach",
    "vm_migrate",
    "vm_start",
]

Denials = Iterator[tuple[Rule, str]]
"""Reasons to deny, most basic first; a check stops at the first, so later ones may rely on what came before."""


def _decide(check: Check, subject: str, target: str, denials: Denials) -> Decision:
    """The first denial, or permission if there is none."""
    for rule, reason in denials:
        return Decision(check=check, permitted=False, rule=rule, reason=reason, subject=subject, object=target)
    return Decision(
        check=check, permitted=True, rule=Rule.ALL, reason="every rule holds", subject=subject, object=target
    )


# Setup


def policy_install(policy: Policy, current: PolicyVersion | None) -> Decision:
    """May `policy` be the first one on this host? The one in force may be installed again (a restart)."""

    def denials() -> Denials:
        yield from _malformed(policy)
        if current is not None and current.digest != policy.digest:
            yield (
                Rule.LINEAGE,
                (
                    f"version {current.version} of {current.coalition} is in force: another one replaces it only "
                    "as its update"
                ),
            )

    return _decide(Check.POLICY_INSTALL, policy.coalition, _version(policy), denials())


def policy_update(policy: Policy, current: PolicyVersion) -> Decision:
    """May `policy` replace `current`? Only as its direct successor."""

    def denials() -> Denials:
        yield from _malformed(policy)
        if policy.coalition != current.coalition:
            yield Rule.LINEAGE, f"it is the policy of {policy.coalition}, not of {current.coalition}"
        if policy.version != current.version + 1:
            yield Rule.LINEAGE, f"it is version {policy.version}; the next one is {current.version + 1}"
        if policy.parent != current.digest:
            yield Rule.LINEAGE, f"its parent is {policy.parent or 'none'}; the one in force is {current.digest}"

    return _decide(Check.POLICY_UPDATE, policy.coalition, _version(policy), denials())


def host_enrol(
    policy: Policy,
    host: HostName,
    *,
    ak_name: bytes,
    enrolled: Mapping[HostName, bytes],
    expelled: Set[HostName] = frozenset(),
) -> Decision:
    """May `host` be registered with the AK of this TPM Name? `enrolled`: the hosts that are, with their AK Names."""

    def denials() -> Denials:
        if host not in policy.hosts:
            yield Rule.KNOWN, f"the policy knows no host {host}"
        if host in expelled:
            yield Rule.EXPELLED, f"{host} was expelled"
        if not ak_name:
            yield Rule.IDENTITY, "it has no AK"
        if enrolled.get(host, ak_name) != ak_name:
            yield Rule.IDENTITY, f"{host} is enrolled with another AK"
        for other, other_ak in sorted(enrolled.items()):
            if other != host and other_ak == ak_name:
                yield Rule.IDENTITY, f"{other} is enrolled with the same AK"

    return _decide(Check.HOST_ENROL, host, ak_name.hex(), denials())


def host_admit(
    policy: Policy, peer: HostName, result: AttestationResult, *, peer_policy_digest: str, state: PeerState
) -> Decision:
    """May `peer` be admitted, admitted again or have its lease renewed on the strength of `result`?

    `peer_policy_digest` is the digest of the policy that the peer says it enforces.
    """

    def denials() -> Denials:
        if peer not in policy.hosts:
            yield Rule.KNOWN, f"the policy knows no host {peer}"
        if result.host != peer or state.host != peer:
            yield Rule.IDENTITY, f"the result is about {result.host}, the state about {state.host}"
        if state.state is AdmissionState.EXPELLED:
            yield Rule.EXPELLED, f"{peer} was expelled: {state.reason or 'no reason was given'}"
        if peer_policy_digest != policy.digest:
            yield Rule.SAME_POLICY, f"it enforces the policy {peer_policy_digest[:64]}, not {policy.digest}"
        if not result.trusted:
            failed = "; ".join(f"{claim.name} {claim.status}: {claim.reason}" for claim in result.failures)
            yield Rule.ATTESTATION, (failed or "a claim was made twice")[:2000]
        if result.tpm is not TpmKind.HARDWARE and not policy.demands.allow_software_tpm:
            yield Rule.TPM_KIND, "its TPM is software, which the policy does not allow"

    return _decide(Check.HOST_ADMIT, peer, result.ak_name.hex(), denials())


def reference_update(
    policy: Policy, host: HostName, *, made_for: HostName, current: str | None, replaces: str | None, new: str
) -> Decision:
    """May the Reference Values of `host` change? Digests: what is in force, what the change replaces, the new ones.

    A change names what it replaces, so that an old one cannot be played again over a newer one.
    """

    def denials() -> Denials:
        if host not in policy.hosts:
            yield Rule.KNOWN, f"the policy knows no host {host}"
        if made_for != host:
            yield Rule.IDENTITY, f"they were made for {made_for}"
        if not new:
            yield Rule.WELL_FORMED, "they have no digest"
        if replaces != current:
            yield Rule.LINEAGE, f"they replace {replaces or 'none'}; in force is {current or 'none'}"

    return _decide(Check.REFERENCE_UPDATE, host, new, denials())


def labelmap_install(policy: Policy, label_map: LabelMap) -> Decision:
    """May this host work under `label_map`? Every type and VM has categories of its own, and nothing else has any."""

    def denials() -> Denials:
        for kind, wanted, given in (
            ("type", set(policy.types), set(label_map.types)),
            ("VM", set(policy.vms), set(label_map.vms)),
        ):
            if wanted - given:
                yield Rule.KNOWN, f"no category for {kind} {', '.join(sorted(wanted - given))}"
            if given - wanted:
                yield Rule.KNOWN, f"categories for {kind} {', '.join(sorted(given - wanted))}, not in the policy"
        pairs = [category for pair in label_map.vms.values() for category in pair]
        for kind, categories, allowed in (
            ("types", list(label_map.types.values()), TYPE_CATEGORIES),
            ("VMs", pairs, VM_CATEGORIES),
        ):
            if len(set(categories)) != len(categories):
                yield Rule.WELL_FORMED, f"two of the {kind} have the same category"
            if not set(categories) <= set(allowed):
                yield Rule.WELL_FORMED, f"a category of the {kind} is not in c{allowed.start}-c{allowed.stop - 1}"

    return _decide(Check.LABELMAP_INSTALL, policy.coalition, f"{len(label_map.types)} types", denials())


def label_vm(policy: Policy, vm: VmName, *, wanted: SelinuxContext, found: SelinuxContext | None) -> Decision:
    """May the VM run under the context that was read back? `found` is None where there is none."""

    def denials() -> Denials:
        if vm not in policy.vms:
            yield Rule.KNOWN, f"the policy knows no VM {vm}"
        yield from _mislabelled(wanted, found)

    return _decide(Check.LABEL_VM, vm, str(wanted), denials())


def label_resource(policy: Policy, resource: str, *, wanted: SelinuxContext, found: SelinuxContext | None) -> Decision:
    """May the disk or network be used under the context that was read back? `found` is None where there is none."""

    def denials() -> Denials:
        if resource not in policy.resource_labels:
            yield Rule.KNOWN, f"the policy knows no resource {resource}"
        yield from _mislabelled(wanted, found)

    return _decide(Check.LABEL_RESOURCE, resource, str(wanted), denials())


# Normal operation


def vm_start(policy: Policy, vm: VmName, *, host: HostName, running: Mapping[VmName, VmLabel]) -> Decision:
    """May the VM start (or resume) on `host`? `running`: the other VMs that run or are suspended there."""

    def denials() -> Denials:
        yield from _unassigned(policy, vm, host)
        yield from _not_runnable(policy, vm, host, running)

    return _decide(Check.VM_START, vm, host, denials())


def vm_attach(policy: Policy, vm: VmName, type_name: TypeName) -> Decision:
    """May an interface of the VM be a port of the bridge of this type?"""

    def denials() -> Denials:
        if vm not in policy.vms:
            yield Rule.KNOWN, f"the policy knows no VM {vm}"
        if type_name not in policy.types:
            yield Rule.KNOWN, f"the policy knows no type {type_name}"
        types = _types(policy, vm)
        if type_name not in types:
            yield Rule.STE, f"the label of {vm} has {listed(types)}, not {type_name}"

    return _decide(Check.VM_ATTACH, vm, type_name, denials())


def vm_migrate(
    policy: Policy,
    vm: VmName,
    *,
    source: HostName,
    destination: HostName,
    running_there: Mapping[VmName, VmLabel],
    peer_state: PeerState,
    now_s: float,
) -> Decision:
    """May the VM move from `source` to `destination`, where `running_there` runs?

    Either side asks; `peer_state` is what it holds of the other one.
    """

    def denials() -> Denials:
        yield from _unassigned(policy, vm, source)
        if destination == source:
            yield Rule.ASSIGNMENT, f"it is on {source} already"
        if peer_state.host not in (source, destination):
            yield Rule.IDENTITY, f"the state is about {peer_state.host}"
        yield from _not_admitted(policy, peer_state.host, peer_state, now_s)
        yield from _not_runnable(policy, vm, destination, running_there)

    return _decide(Check.VM_MIGRATE, vm, destination, denials())


def link_open(
    policy: Policy, local: HostName, peer: HostName, type_name: TypeName, peer_state: PeerState, *, now_s: float
) -> Decision:
    """May `local`, which asked for it, carry a type to and from `peer`? `now_s` is CLOCK_BOOTTIME."""
    return _decide(
        Check.LINK_OPEN,
        local,
        f"{peer} {type_name}",
        _link_denials(policy, local, peer, type_name, peer_state, now_s=now_s),
    )


def link_accept(
    policy: Policy, local: HostName, peer: HostName, type_name: TypeName, peer_state: PeerState, *, now_s: float
) -> Decision:
    """May `local`, which was asked for it, carry a type to and from `peer`? The rules are those of `link_open`."""
    return _decide(
        Check.LINK_ACCEPT,
        local,
        f"{peer} {type_name}",
        _link_denials(policy, local, peer, type_name, peer_state, now_s=now_s),
    )


# Rules that several checks share


def _malformed(policy: Policy) -> Denials:
    for finding in inconsistencies(policy):
        yield Rule.WELL_FORMED, str(finding)
    digest = policy_digest(policy)
    if policy.digest != digest:
        yield Rule.WELL_FORMED, f"its digest is {digest}, not {policy.digest}"


def _mislabelled(wanted: SelinuxContext, found: SelinuxContext | None) -> Denials:
    if found is None:
        yield Rule.LABEL, f"it has no label; {wanted} is expected"
    if found != wanted:
        yield Rule.LABEL, f"its label is {found}; {wanted} is expected"


def _unassigned(policy: Policy, vm: VmName, host: HostName) -> Denials:
    entry = policy.vms.get(vm)
    if entry is None:
        yield Rule.KNOWN, f"the policy knows no VM {vm}"
    elif entry.host != host:
        yield Rule.ASSIGNMENT, f"the policy gives {vm} to {entry.host}, not to {host}"


def _not_runnable(policy: Policy, vm: VmName, host: HostName, running: Mapping[VmName, VmLabel]) -> Denials:
    """Management label, Chinese Wall, simple type enforcement of the VM's resources. The VM is known."""
    if host not in policy.hosts:
        yield Rule.KNOWN, f"the policy knows no host {host}"
    types = _types(policy, vm)
    if not types:
        yield Rule.WELL_FORMED, f"the label of {vm} has no type"
    lacking = lacking_types(types, policy.hosts[host].types)
    if lacking:
        yield Rule.MANAGEMENT_LABEL, f"the label of {host} lacks {listed(lacking)}"
    others = {name: label for name, label in running.items() if name != vm}
    conflict = conflicts(policy, types, (name for label in others.values() for name in label.types))
    if conflict is not None:
        blamed = sorted(name for name, label in others.items() if label.types & conflict.types)
        yield Rule.CHINESE_WALL, f"{conflict} would run together on {host}; running: {', '.join(blamed) or 'none'}"
    for resource in policy.vms[vm].resources:
        label = policy.resource_labels.get(resource)
        if label is None:
            yield Rule.KNOWN, f"the policy knows no resource {resource}"
        elif not shared_types(types, label.types):
            yield Rule.STE, f"{vm} ({listed(types)}) and its resource {resource} ({listed(label.types)}) share no type"


def _not_admitted(policy: Policy, peer: HostName, state: PeerState, now_s: float) -> Denials:
    if peer not in policy.hosts:
        yield Rule.KNOWN, f"the policy knows no host {peer}"
    if state.host != peer:
        yield Rule.IDENTITY, f"the state is about {state.host}"
    if state.state is AdmissionState.EXPELLED:
        yield Rule.EXPELLED, f"{peer} was expelled: {state.reason or 'no reason was given'}"
    if state.state is not AdmissionState.ADMITTED:
        yield Rule.ADMISSION, f"{peer} is {state.state}" + (f": {state.reason}" if state.reason else "")
    if not state.counts_at(now_s):
        yield Rule.LEASE, f"the lease of {peer} has ended"


def _link_denials(
    policy: Policy, local: HostName, peer: HostName, type_name: TypeName, state: PeerState, *, now_s: float
) -> Denials:
    if type_name not in policy.types:
        yield Rule.KNOWN, f"the policy knows no type {type_name}"
    if local == peer:
        yield Rule.IDENTITY, "a link to this host itself"
    if local not in policy.hosts:
        yield Rule.KNOWN, f"the policy knows no host {local}"
    yield from _not_admitted(policy, peer, state, now_s)
    for host in (local, peer):
        if type_name not in policy.hosts[host].types:
            yield Rule.MANAGEMENT_LABEL, f"the label of {host} lacks {type_name}"


def _types(policy: Policy, vm: VmName) -> frozenset[TypeName]:
    """The types of a VM that is known; none where its label is not, so that the caller denies."""
    label = policy.vm_labels.get(policy.vms[vm].label)
    return label.types if label else frozenset()


def _version(policy: Policy) -> str:
    return f"version {policy.version}, {policy.digest}"
