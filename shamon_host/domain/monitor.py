"""The reference monitor: 13 checks, each a pure function of policy and state that returns a `Decision`.

Nothing acts without its check. The caller puts the decision into the audit log, then calls `enforce()`, then acts.
What only narrows (suspend, expel, quarantine) needs no check. Within a check the rules are asked in order, and the
first that denies gives its name and its reason; whatever the rules do not expressly permit is denied.

State comes in as arguments: what runs, as the hypervisor reports it; what a peer has proved, as a `PeerState`; the
time on CLOCK_BOOTTIME.
"""

from collections.abc import Mapping, Sequence, Set

from shamon_host.domain.admission import AdmissionState, PeerState
from shamon_host.domain.decision import Check, Decision, Rule
from shamon_host.domain.findings import quoted
from shamon_host.domain.flask_expected import some
from shamon_host.domain.label_map import TYPE_CATEGORIES, VM_CATEGORIES, LabelMap
from shamon_host.domain.labels import HostName, SelinuxContext, TypeName, VmContext, VmLabel, VmName
from shamon_host.domain.policy import HypervisorKind, Policy, PolicyVersion
from shamon_host.domain.results import AttestationResult, TpmKind
from shamon_host.domain.rules import (
    Denials,
    Deny,
    expired,
    label_of,
    malformed,
    mislabelled,
    not_admitted,
    not_owned,
    not_runnable,
    unassigned,
    weak_tpm,
)
from shamon_host.domain.ste import listed

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


def _decide(check: Check, subject: str, target: str, denials: Denials) -> Decision:
    """The first denial, or permission if there is none."""
    for rule, reason, key in denials:
        return Decision(check=check, permitted=False, rule=rule, reason=reason, subject=subject, object=target, key=key)
    return Decision(
        check=check, permitted=True, rule=Rule.ALL, reason="every rule holds", subject=subject, object=target
    )


# Setup


def policy_install(
    policy: Policy, current: PolicyVersion | None, *, now_wall_s: float, unsigned: Sequence[str] = ()
) -> Decision:
    """May `policy` be the first one on this host? The one in force may be installed again (a restart).

    `unsigned`: the signatures that a first one lacks, in words.
    """

    def denials() -> Denials:
        yield from malformed(policy)
        yield from expired(policy, now_wall_s)
        if current is not None and current.digest != policy.digest:
            yield Deny(
                Rule.LINEAGE,
                f"version {current.version} of {current.coalition} is in force: another one replaces it only as its "
                "update",
            )
        for lacking in unsigned:
            yield Deny(Rule.SIGNATURE, lacking)

    return _decide(Check.POLICY_INSTALL, policy.coalition, _version(policy), denials())


def policy_update(
    policy: Policy, current: Policy, *, now_wall_s: float, unsigned: Sequence[str], violations: Sequence[str] = ()
) -> Decision:
    """May `policy` replace `current`? Only as its direct successor.

    `unsigned`: the signatures that it lacks, in words. `violations`: what runs on this host that it would forbid.
    """

    def denials() -> Denials:
        yield from malformed(policy)
        yield from expired(policy, now_wall_s)
        if policy.coalition != current.coalition:
            yield Deny(Rule.LINEAGE, f"it is the policy of {policy.coalition}, not of {current.coalition}")
        if policy.version <= current.version:
            yield Deny(Rule.ROLLBACK, f"it is version {policy.version}; version {current.version} is in force")
        if policy.version != current.version + 1:
            yield Deny(Rule.LINEAGE, f"it is version {policy.version}; the next one is {current.version + 1}")
        if policy.parent != current.digest:
            yield Deny(Rule.LINEAGE, f"its parent is {policy.parent or 'none'}; the one in force is {current.digest}")
        for kind, renames, before in (
            ("type", policy.renames.types, frozenset[str](current.types)),
            ("label", policy.renames.labels, frozenset(current.vm_labels)),
        ):
            for old, new in sorted(renames.items()):
                key = f"renames.{kind}s.{quoted(old)}"
                if old not in before:
                    yield Deny(Rule.KNOWN, f"there is no {kind} {old} to rename", key)
                if new in before:
                    yield Deny(Rule.WELL_FORMED, f"{old} cannot be renamed to {new}: there is such a {kind}", key)
        for lacking in unsigned:
            yield Deny(Rule.SIGNATURE, lacking)
        for violation in violations:
            yield Deny(Rule.RUNNING, violation)

    return _decide(Check.POLICY_UPDATE, policy.coalition, _version(policy), denials())


def host_enrol(
    policy: Policy,
    host: HostName,
    *,
    ak_name: bytes,
    ek: bytes = b"",
    tpm: TpmKind | None = None,
    enrolled: Mapping[HostName, bytes],
    endorsed: Mapping[HostName, bytes] | None = None,
    expelled: Set[HostName] = frozenset(),
) -> Decision:
    """May `host` be registered with the AK of this TPM Name, in the TPM with this EK?

    `enrolled`: the hosts that are, and those that were expelled, with their AK Names; `endorsed`: with the digests of
    their EKs, where they are known. `tpm`: what kind of TPM it is; None where that is not decided here.
    """
    endorsed = endorsed or {}

    def denials() -> Denials:
        if host not in policy.hosts:
            yield Deny(Rule.KNOWN, f"the policy knows no host {host}")
        if host in expelled:
            yield Deny(Rule.EXPELLED, f"{host} was expelled")
        if not ak_name:
            yield Deny(Rule.IDENTITY, "it has no AK")
        if enrolled.get(host, ak_name) != ak_name:
            yield Deny(Rule.IDENTITY, f"{host} is enrolled with another AK")
        for other, other_ak in sorted(enrolled.items()):
            if other != host and other_ak == ak_name:
                yield Deny(Rule.IDENTITY, f"{other} is enrolled with the same AK")
        if not ek and host in endorsed:
            yield Deny(Rule.IDENTITY, f"{host} has shown its TPM before, and does not now")
        if ek and endorsed.get(host, ek) != ek:
            yield Deny(Rule.IDENTITY, f"{host} is enrolled with another TPM")
        for other, other_ek in sorted(endorsed.items()):
            if ek and other != host and other_ek == ek:
                yield Deny(Rule.IDENTITY, f"{other} is enrolled with the same TPM")
        if tpm is TpmKind.SOFTWARE and not policy.demands.allow_software_tpm:
            yield Deny(
                Rule.TPM_KIND, "its TPM is software, which the policy does not allow", "demands.allow_software_tpm"
            )

    return _decide(Check.HOST_ENROL, host, ak_name.hex(), denials())


def host_admit(
    policy: Policy,
    peer: HostName,
    result: AttestationResult,
    *,
    peer_policy: PolicyVersion,
    newest_seen: int,
    state: PeerState,
    now_wall_s: float,
) -> Decision:
    """May `peer` be admitted, admitted again or have its lease renewed on the strength of `result`?

    `peer_policy` is the policy that the peer says it enforces, `newest_seen` the highest version that it ever said.
    That its policy may be another one decides which types are carried (`link.open`), not whether it is a member.
    """

    def denials() -> Denials:
        if peer not in policy.hosts:
            yield Deny(Rule.KNOWN, f"the policy knows no host {peer}")
        if result.host != peer or state.host != peer:
            yield Deny(Rule.IDENTITY, f"the result is about {result.host}, the state about {state.host}")
        if state.state is AdmissionState.EXPELLED:
            yield Deny(Rule.EXPELLED, f"{peer} was expelled: {state.reason or 'no reason was given'}")
        yield from expired(policy, now_wall_s)
        if peer_policy.coalition != policy.coalition:
            yield Deny(Rule.LINEAGE, f"it is of the coalition {peer_policy.coalition}, not of {policy.coalition}")
        if peer_policy.version < newest_seen:
            yield Deny(
                Rule.ROLLBACK,
                f"it enforces version {peer_policy.version} of the policy, and has enforced version {newest_seen}",
            )
        if not result.trusted:
            failed = "; ".join(f"{claim.name} {claim.status}: {claim.reason}" for claim in result.failures)
            yield Deny(Rule.ATTESTATION, (failed or "a claim was made twice")[:2000])
        if result.tpm is not TpmKind.HARDWARE and not policy.demands.allow_software_tpm:
            yield Deny(
                Rule.TPM_KIND, "its TPM is software, which the policy does not allow", "demands.allow_software_tpm"
            )

    return _decide(Check.HOST_ADMIT, peer, result.ak_name.hex(), denials())


def reference_update(
    policy: Policy,
    host: HostName,
    *,
    made_for: HostName,
    current: str | None,
    replaces: str | None,
    new: str,
    version: int = 1,
    newest_seen: int = 0,
    signed: bool = False,
) -> Decision:
    """May the Reference Values of `host` change? Digests: what is in force, what the change replaces, the new ones.

    A change names what it replaces, so that an old one cannot be played again over a newer one. Nor can an older
    version (`newest_seen` is the newest that was in force); where they are `signed`, each change is another version.
    """

    def denials() -> Denials:
        if host not in policy.hosts:
            yield Deny(Rule.KNOWN, f"the policy knows no host {host}")
        if made_for != host:
            yield Deny(Rule.IDENTITY, f"they were made for {made_for}")
        if not new:
            yield Deny(Rule.WELL_FORMED, "they have no digest")
        if replaces != current:
            yield Deny(Rule.LINEAGE, f"they replace {replaces or 'none'}; in force is {current or 'none'}")
        if version < newest_seen:
            yield Deny(Rule.ROLLBACK, f"they are version {version}; version {newest_seen} was in force")
        elif signed and version == newest_seen and new != current:
            yield Deny(Rule.ROLLBACK, f"they are another version {version} than the one that was in force")

    return _decide(Check.REFERENCE_UPDATE, host, new, denials())


def labelmap_install(policy: Policy, host: HostName, label_map: LabelMap) -> Decision:
    """May `host` work under `label_map`? Each of its types, VMs and its VMs' disks has categories of its own, and
    nothing else has any."""

    def denials() -> Denials:
        if host not in policy.hosts:
            yield Deny(Rule.KNOWN, f"the policy knows no host {host}")
        for kind, wanted, given in (
            ("type", set(policy.hosts[host].types), set(label_map.types)),
            ("VM", set(policy.possible_on(host)), set(label_map.vms)),
            ("disk", set(policy.disks_on(host)), set(label_map.disks)),
        ):
            if wanted - given:
                yield Deny(Rule.KNOWN, f"no category for {kind} {', '.join(sorted(wanted - given))}")
            if given - wanted:
                yield Deny(Rule.KNOWN, f"categories for {kind} {', '.join(sorted(given - wanted))}, not in the policy")
        pairs = [category for each in (label_map.vms, label_map.disks) for pair in each.values() for category in pair]
        for kind, categories, allowed in (
            ("types", list(label_map.types.values()), TYPE_CATEGORIES),
            ("VMs and disks", pairs, VM_CATEGORIES),
        ):
            if len(set(categories)) != len(categories):
                yield Deny(Rule.WELL_FORMED, f"two of the {kind} have the same category")
            if not set(categories) <= set(allowed):
                yield Deny(Rule.WELL_FORMED, f"a category of the {kind} is not in c{allowed.start}-c{allowed.stop - 1}")

    return _decide(Check.LABELMAP_INSTALL, policy.coalition, f"{len(label_map.types)} types", denials())


def flask_install(policy: Policy, host: HostName, differences: Sequence[str]) -> Decision:
    """`labelmap.install` of a host with Xen, where labels mean what the hypervisor's FLASK policy says: may VMs start
    under it? `differences` of what the hypervisor answered from what it must (`flask_expected.flask_differences`)."""

    def denials() -> Denials:
        if policy.hypervisor_of(host) is not HypervisorKind.XEN:
            yield Deny(Rule.ASSIGNMENT, f"{host} has no Xen", f"hosts.{quoted(host)}.hypervisor")
        if differences:
            yield Deny(Rule.LABEL, f"Xen enforces another FLASK policy: {some(differences)}")

    return _decide(Check.LABELMAP_INSTALL, policy.coalition, "FLASK", denials())


def label_vm(policy: Policy, vm: VmName, *, wanted: VmContext, found: VmContext | None) -> Decision:
    """May the VM run under the context that was read back? `found` is None where there is none."""

    def denials() -> Denials:
        if vm not in policy.vms:
            yield Deny(Rule.KNOWN, f"the policy knows no VM {vm}")
        yield from mislabelled(wanted, found)

    return _decide(Check.LABEL_VM, vm, str(wanted), denials())


def label_resource(policy: Policy, resource: str, *, wanted: SelinuxContext, found: SelinuxContext | None) -> Decision:
    """May the disk or network be used under the context that was read back? `found` is None where there is none."""

    def denials() -> Denials:
        if resource not in policy.resource_labels:
            yield Deny(Rule.KNOWN, f"the policy knows no resource {resource}")
        yield from mislabelled(wanted, found)

    return _decide(Check.LABEL_RESOURCE, resource, str(wanted), denials())


# Normal operation


def vm_start(
    policy: Policy,
    vm: VmName,
    *,
    host: HostName,
    running: Mapping[VmName, VmLabel],
    host_tpm: TpmKind,
    admitted: bool = True,
) -> Decision:
    """May the VM start (or resume) on `host`? `running`: the other VMs that run or are suspended there.

    `host_tpm` is what the host is enrolled with; `admitted`: some peer has admitted it in this boot.
    """

    def denials() -> Denials:
        yield from unassigned(policy, vm, host)
        yield from not_runnable(policy, vm, host, running, host_tpm=host_tpm, admitted=admitted)

    return _decide(Check.VM_START, vm, host, denials())


def vm_attach(policy: Policy, vm: VmName, type_name: TypeName) -> Decision:
    """May an interface of the VM be a port of the bridge of this type?"""

    def denials() -> Denials:
        if vm not in policy.vms:
            yield Deny(Rule.KNOWN, f"the policy knows no VM {vm}")
        if type_name not in policy.types:
            yield Deny(Rule.KNOWN, f"the policy knows no type {type_name}")
        label = label_of(policy, vm)
        if type_name not in label.types:
            yield Deny(
                Rule.STE,
                f"the label of {vm} has {listed(label.types)}, not {type_name}",
                f"labels.{quoted(label.name)}.types",
            )
        if type_name not in policy.interfaces_of(vm):
            yield Deny(Rule.STE, f"no interface of {vm} is for {type_name}", f"vms.{quoted(vm)}.interfaces")

    return _decide(Check.VM_ATTACH, vm, type_name, denials())


def vm_migrate(
    policy: Policy,
    vm: VmName,
    *,
    source: HostName,
    destination: HostName,
    running_there: Mapping[VmName, VmLabel],
    peer_state: PeerState,
    local_tpm: TpmKind,
    now_s: float,
) -> Decision:
    """May the VM move from `source` to `destination`, where `running_there` runs?

    Either side asks; `peer_state` is what it holds of the other one, `local_tpm` what it is enrolled with itself.
    """

    def denials() -> Denials:
        yield from not_owned(policy, vm, source)
        if destination == source:
            yield Deny(Rule.ASSIGNMENT, f"it is on {source} already")
        here, beyond = policy.hypervisor_of(source), policy.hypervisor_of(destination)
        if here is not beyond:
            yield Deny(Rule.ASSIGNMENT, f"{source} has {here} and {destination} {beyond}: no VM moves between them")
        if destination not in policy.hosts_for(vm):
            yield Deny(
                Rule.ASSIGNMENT,
                f"the policy does not let {vm} move to {destination}",
                f"vms.{quoted(vm)}.may_move_to",
            )
        if peer_state.host not in (source, destination):
            yield Deny(Rule.IDENTITY, f"the state is about {peer_state.host}")
        yield from not_admitted(policy, peer_state.host, peer_state, now_s)
        there = peer_state.result.tpm if peer_state.result and peer_state.host == destination else local_tpm
        yield from not_runnable(policy, vm, destination, running_there, host_tpm=there)

    return _decide(Check.VM_MIGRATE, vm, destination, denials())


def link_open(
    policy: Policy,
    local: HostName,
    peer: HostName,
    type_name: TypeName,
    peer_state: PeerState,
    *,
    shared: Set[TypeName],
    local_tpm: TpmKind,
    now_s: float,
) -> Decision:
    """May `local`, which asked for it, carry a type to and from `peer`?

    `shared`: what the policies of both hosts may share (`compatibility`). `local_tpm`: what this host is enrolled with.
    `now_s` is CLOCK_BOOTTIME.
    """
    denials = _link_denials(policy, local, peer, type_name, peer_state, shared=shared, local_tpm=local_tpm, now_s=now_s)
    return _decide(Check.LINK_OPEN, local, f"{peer} {type_name}", denials)


def link_accept(
    policy: Policy,
    local: HostName,
    peer: HostName,
    type_name: TypeName,
    peer_state: PeerState,
    *,
    shared: Set[TypeName],
    local_tpm: TpmKind,
    now_s: float,
) -> Decision:
    """May `local`, which was asked for it, carry a type to and from `peer`? The rules are those of `link_open`."""
    denials = _link_denials(policy, local, peer, type_name, peer_state, shared=shared, local_tpm=local_tpm, now_s=now_s)
    return _decide(Check.LINK_ACCEPT, local, f"{peer} {type_name}", denials)


def _link_denials(
    policy: Policy,
    local: HostName,
    peer: HostName,
    type_name: TypeName,
    state: PeerState,
    *,
    shared: Set[TypeName],
    local_tpm: TpmKind,
    now_s: float,
) -> Denials:
    if type_name not in policy.types:
        yield Deny(Rule.KNOWN, f"the policy knows no type {type_name}")
    if local == peer:
        yield Deny(Rule.IDENTITY, "a link to this host itself")
    if local not in policy.hosts:
        yield Deny(Rule.KNOWN, f"the policy knows no host {local}")
    yield from not_admitted(policy, peer, state, now_s)
    for host in (local, peer):
        if type_name not in policy.hosts[host].types:
            yield Deny(Rule.MANAGEMENT_LABEL, f"the label of {host} lacks {type_name}", f"hosts.{quoted(host)}.types")
    if type_name not in shared:
        yield Deny(Rule.COMPATIBLE, f"the policy of {peer} and this one may not share {type_name}")
    yield from weak_tpm(policy, local, local_tpm, {type_name})
    if state.result is not None:
        yield from weak_tpm(policy, peer, state.result.tpm, {type_name})


def _version(policy: Policy) -> str:
    return f"version {policy.version}, {policy.digest}"
