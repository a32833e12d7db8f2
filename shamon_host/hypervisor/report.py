"""The hypervisor report: every domain of a host with its context, in canonical JSON, and the check of a peer's.

The Attester puts the digest of these bytes into its leaf; the Verifier reads them as hostile input and checks that
every domain that runs is a VM of the policy, on its own host, under exactly the context that the label map gives to
its types, and that no conflicting types run together.

On a host with Xen that context is of FLASK, whose policy the hypervisor enforces: the report has what Xen answered
about it (`domain.flask_expected`), and the Verifier checks that it is exactly what its own copy of the policy gives.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shamon_host.domain.chinese_wall import conflicts
from shamon_host.domain.contexts import vm_context
from shamon_host.domain.errors import BadInput
from shamon_host.domain.flask_expected import ExpectedFlask, expected_flask, flask_differences, some
from shamon_host.domain.label_map import TYPE_CATEGORIES, VM_CATEGORIES, LabelMap
from shamon_host.domain.labels import HostName, VmLabel, VmName, plain_name, type_name
from shamon_host.domain.policy import HypervisorKind, Policy
from shamon_host.domain.results import Claim, ClaimName, ClaimStatus
from shamon_host.hypervisor.flask_report import flask_document, read_flask_document
from shamon_host.hypervisor.mac_vm_report import ReportedMacVm, check_mac_vm, is_not_yet, mac_vm_document, read_mac_vm
from shamon_host.hypervisor.ports import RUNNING_STATES, DomainReport, DomainState, FlaskState

MAX_REPORT_BYTES = 1 << 20
_FURTHER = {"flask", "tokens", "mac_vm"}
"""What a report may have beside domains and label map."""
MAX_TOKENS = 256
"""Tokens of VMs that were moved, in one report."""
MAX_REPORTED_TOKEN_BYTES = 4096
_REPORTED_STATES = tuple(state.value for state in RUNNING_STATES)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedDomain:
    name: VmName
    state: DomainState
    context: str
    """As the hypervisor has it; empty when it has none, or one that nobody enforces."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedHypervisor:
    """A report as it was read."""

    domains: tuple[ReportedDomain, ...]
    label_map: LabelMap
    flask: FlaskState | None
    """None where it says nothing of FLASK: the hypervisor is QEMU."""
    tokens: tuple[bytes, ...] = ()
    """Of VMs that were moved to this host or away from it: envelopes of which nothing is verified."""
    mac_vm: ReportedMacVm | None = None
    """None where the host itself holds its links."""

    @property
    def mac_vm_runs(self) -> bool:
        """It is among the domains that run."""
        return self.mac_vm is not None and any(
            each.name == self.mac_vm.name and each.state is DomainState.RUNNING for each in self.domains
        )


def hypervisor_report(
    domains: Sequence[DomainReport],
    label_map: LabelMap,
    flask: FlaskState | None = None,
    tokens: Sequence[bytes] = (),
    mac_vm: ReportedMacVm | None = None,
) -> bytes:
    """Canonical JSON of every domain that runs or is paused, of the label map that their contexts come from, of what
    Xen says of FLASK, of the tokens by which VMs were moved to this host or away from it, and of the MAC VM.

    `disks` is left out where there are none, as in reports from before there were any; `flask` where there is no Xen,
    `tokens` where nothing was moved, and `mac_vm` where there is none.
    """
    disks = {name: list(pair) for name, pair in sorted(label_map.disks.items())}
    return json.dumps(
        {
            "domains": [
                {
                    "name": domain.name,
                    "state": domain.state.value,
                    "context": str(domain.context) if domain.context and domain.enforced else "",
                }
                for domain in sorted(domains, key=lambda domain: domain.name)
                if domain.state in RUNNING_STATES
            ],
            "label_map": {
                "types": dict(sorted(label_map.types.items())),
                "vms": {name: list(pair) for name, pair in sorted(label_map.vms.items())},
                **({"disks": disks} if disks else {}),
            },
            **({"flask": flask_document(flask)} if flask else {}),
            **({"tokens": [token.decode("ascii") for token in tokens]} if tokens else {}),
            **({"mac_vm": mac_vm_document(mac_vm)} if mac_vm else {}),
        },
        sort_keys=True,
        separators=(",", ":"),
    ).encode()


def parse_hypervisor_report(data: bytes) -> ReportedHypervisor:
    """Read a report from a peer. Raises BadInput."""
    if len(data) > MAX_REPORT_BYTES:
        raise BadInput("hypervisor report is too large", expected=f"at most {MAX_REPORT_BYTES} bytes")
    try:
        told = json.loads(data)
        present, mapped = set(told) - _FURTHER, set(told["label_map"]) - {"disks"}
        if present != {"domains", "label_map"} or mapped != {"types", "vms"}:
            raise BadInput("malformed hypervisor report", expected="domains and label_map")
        if not isinstance(told["domains"], list):
            raise BadInput("malformed hypervisor report", expected="a list of domains")
        domains = tuple(_domain(item) for item in told["domains"])
        types = {type_name(name): _category(value, TYPE_CATEGORIES) for name, value in _items(told, "types")}
        vms = {VmName(plain_name(name, "VM name")): _pair(pair) for name, pair in _items(told, "vms")}
        disks = {plain_name(name, "name of a disk"): _pair(pair) for name, pair in _items(told, "disks")}
        flask = read_flask_document(told["flask"]) if "flask" in told else None
        tokens = _tokens(told["tokens"]) if "tokens" in told else ()
        mac_vm = read_mac_vm(told["mac_vm"]) if "mac_vm" in told else None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BadInput("malformed hypervisor report", found=type(error).__name__) from error
    flat = [category for pair in (*vms.values(), *disks.values()) for category in pair]
    if len(set(types.values())) != len(types) or len(set(flat)) != len(flat):
        raise BadInput("malformed label map", expected="categories of its own for every type, VM and disk")
    return ReportedHypervisor(
        domains=domains,
        label_map=LabelMap(types=types, vms=vms, disks=disks),
        flask=flask,
        tokens=tokens,
        mac_vm=mac_vm,
    )


def tokens_in_report(data: bytes) -> tuple[bytes, ...]:
    """The tokens in a report from a peer, of which nothing is verified. Raises BadInput."""
    return parse_hypervisor_report(data).tokens


def check_hypervisor_report(data: bytes, *, host: HostName, policy: Policy) -> Claim:
    """The claim `running-labels` about `host`. Never raises on bad bytes: they make the claim fail."""
    try:
        report = parse_hypervisor_report(data)
    except BadInput as error:
        return _claim(ClaimStatus.FAIL, str(error))
    domains, label_map = report.domains, report.label_map
    claim = _check_flask(report.flask, host=host, policy=policy)
    if claim is not None:
        return claim
    of_mac_vm = check_mac_vm(report.mac_vm, runs=report.mac_vm_runs, host=host, policy=policy)
    if isinstance(of_mac_vm, Claim) and not is_not_yet(of_mac_vm):
        return of_mac_vm
    lacking = policy.hosts[host].types - set(label_map.types) if host in policy.hosts else policy.types
    if lacking:
        return _claim(ClaimStatus.ABSENT, "the label map lacks types of the host", expected=", ".join(sorted(lacking)))
    seen: set[VmName] = set()
    running: dict[str, VmLabel] = {}
    for domain in domains:
        claim = _check_domain(domain, host=host, policy=policy, label_map=label_map)
        if claim is not None:
            return claim
        if domain.name in seen:
            return _claim(ClaimStatus.FAIL, "a domain is reported twice", where=domain.name)
        seen.add(domain.name)
        running[domain.name] = policy.label_of(domain.name)
    for name, label in running.items():
        found = conflicts(policy, label, (other for peer, other in running.items() if peer != name))
        if found:
            return _claim(ClaimStatus.FAIL, f"types in conflict run together: {found}", where=name)
    if isinstance(of_mac_vm, Claim):  # behind whatever counts against the host
        return of_mac_vm
    return _claim(ClaimStatus.PASS, f"{len(domains)} domains run under their labels{of_mac_vm}")


def _check_flask(flask: FlaskState | None, *, host: HostName, policy: Policy) -> Claim | None:
    """The MAC policy that the hypervisor of a host with Xen enforces is the Verifier's own."""
    on_xen = policy.hypervisor_of(host) is HypervisorKind.XEN
    if flask is None:
        return _claim(ClaimStatus.ABSENT, "a host with Xen says nothing of FLASK", where=host) if on_xen else None
    if not on_xen:
        return _claim(ClaimStatus.FAIL, "a host with QEMU has a FLASK policy", where=host, expected="none")
    try:
        expected = expected_flask(policy, host)
    except BadInput as error:
        return _claim(ClaimStatus.FAIL, str(error))
    beyond = next((" ".join(each) for each in flask.access if each not in expected.access), "")
    if beyond:
        return _claim(ClaimStatus.FAIL, "a host with Xen answers what nobody asks it", where=host, found=beyond)
    found = some(flask_state_differences(expected, flask))
    if found:
        return _claim(
            ClaimStatus.FAIL, "Xen enforces another FLASK policy than the coalition's", where=host, found=found
        )
    if flask.foreign:
        return _claim(
            ClaimStatus.FAIL, "Xen enforced another FLASK policy a short while ago", where=host, found=flask.foreign
        )
    return None


def flask_state_differences(expected: ExpectedFlask, state: FlaskState) -> Iterator[str]:
    """`domain.flask_expected.flask_differences` of what a hypervisor says."""
    return flask_differences(expected, enforcing=state.enforcing, booleans=state.booleans, answers=state.access)


def _check_domain(domain: ReportedDomain, *, host: HostName, policy: Policy, label_map: LabelMap) -> Claim | None:
    entry = policy.vms.get(domain.name)
    if entry is None:
        return _claim(ClaimStatus.FAIL, "a domain runs that the policy does not know", where=ascii(domain.name)[:80])
    owner = policy.host_of(domain.name)
    if owner != host and not _stands_by(domain, host, policy):
        return _claim(
            ClaimStatus.FAIL,
            "a VM runs on another host than the policy says"
            if owner == entry.host
            else "a VM runs on another host than the one that it was moved to",
            where=domain.name,
            expected=owner,
            found=host,
        )
    if domain.name not in label_map.vms:
        return _claim(ClaimStatus.ABSENT, "the label map lacks a VM that runs", where=domain.name)
    unmapped = set(policy.disks_of(domain.name)) - set(label_map.disks)
    if unmapped:
        return _claim(ClaimStatus.ABSENT, "the label map lacks a disk of a VM that runs", where=min(unmapped))
    expected = vm_context(policy, label_map, domain.name)
    if not domain.context:
        return _claim(ClaimStatus.ABSENT, "a domain runs without a label", where=domain.name, expected=str(expected))
    try:
        found = type(expected).parse(domain.context)
    except BadInput as error:
        return _claim(ClaimStatus.FAIL, str(error), where=domain.name)
    if found != expected:
        return _claim(
            ClaimStatus.FAIL,
            "a domain runs under another label",
            where=domain.name,
            expected=str(expected),
            found=str(found),
        )
    return None


def _stands_by(domain: ReportedDomain, host: HostName, policy: Policy) -> bool:
    """A VM of another host that moves while it runs waits here, or has left and is about to be destroyed: it stands
    still on a host that it may be on."""
    return domain.state is DomainState.PAUSED and host in policy.hosts_for(domain.name)


def _tokens(value: object) -> tuple[bytes, ...]:
    if not isinstance(value, list) or not 0 < len(value) <= MAX_TOKENS:
        raise BadInput("malformed hypervisor report", expected=f"1 to {MAX_TOKENS} tokens")
    if not all(isinstance(each, str) and each.isascii() and len(each) <= MAX_REPORTED_TOKEN_BYTES for each in value):
        raise BadInput("malformed hypervisor report", expected=f"tokens of at most {MAX_REPORTED_TOKEN_BYTES} bytes")
    return tuple(each.encode("ascii") for each in value)


def _domain(item: Mapping[str, Any]) -> ReportedDomain:
    if set(item) != {"name", "state", "context"}:
        raise BadInput("malformed domain in hypervisor report", expected="name, state and context")
    name, state, context = item["name"], item["state"], item["context"]
    if not isinstance(name, str) or not isinstance(context, str) or state not in _REPORTED_STATES:
        raise BadInput("malformed domain in hypervisor report", expected="a name, running or paused, and a context")
    return ReportedDomain(name=VmName(name), state=DomainState(state), context=context)


def _items(fields: Mapping[str, Any], name: str) -> list[tuple[str, Any]]:
    return list(fields["label_map"].get(name, {}).items())


def _pair(value: Sequence[object]) -> tuple[int, int]:
    low, high = (_category(each, VM_CATEGORIES) for each in value)
    return low, high


def _category(value: object, allowed: range) -> int:
    if type(value) is not int or value not in allowed:
        raise BadInput(
            "bad category in label map", expected=f"{allowed.start} to {allowed.stop - 1}", found=str(value)[:40]
        )
    return value


def _claim(status: ClaimStatus, reason: str, *, where: str = "", expected: str = "", found: str = "") -> Claim:
    return Claim(
        name=ClaimName.RUNNING_LABELS, status=status, reason=reason, where=where, expected=expected, found=found
    )
