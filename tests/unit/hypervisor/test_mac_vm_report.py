"""What a host reports of its MAC VM: what a right report looks like, and that nothing else passes."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shamon_host.domain.contexts import allocate_for, vm_context
from shamon_host.domain.errors import BadInput
from shamon_host.domain.label_map import LabelMap
from shamon_host.domain.labels import HostName, SelinuxContext, VmName
from shamon_host.domain.policy import HypervisorKind, Policy
from shamon_host.domain.results import Claim, ClaimStatus
from shamon_host.hypervisor.mac_vm_report import (
    MAX_REASON,
    NOT_YET,
    ReportedMacVm,
    ReportedRuntime,
    RuntimeState,
    check_mac_vm,
    is_not_yet,
    mac_vm_document,
    read_mac_vm,
    reason_in_report,
)
from shamon_host.hypervisor.ports import DomainReport, DomainState
from shamon_host.hypervisor.report import check_hypervisor_report, hypervisor_report, parse_hypervisor_report
from tests.unit.daemon.daemon_world import XEN, changed_policy

ALPHA, NAME = HostName("alpha"), VmName("alpha-mac")
POLICY = changed_policy(mac_vms=True)
PLAIN = changed_policy(mac_vms=True, attested=False)
PINS = POLICY.images["mac-vm"]
DEMAND = POLICY.guests["mac"]
ATTESTED = ReportedRuntime(reference_sha256=DEMAND.sha256, state=RuntimeState.ATTESTED)
WAITING = replace(ATTESTED, state=RuntimeState.WAITING)
FAILED = replace(ATTESTED, state=RuntimeState.FAILED, reason="software fail: a strange program")


def mac_vm(runtime: ReportedRuntime | None) -> ReportedMacVm:
    assert PINS.boot is not None
    return ReportedMacVm(name=NAME, image_sha256=PINS.sha256, boot=PINS.boot, runtime=runtime)


def label_map() -> LabelMap:
    return allocate_for(POLICY, ALPHA)


def running(context: SelinuxContext | None = None) -> DomainReport:
    found = context or vm_context(POLICY, label_map(), NAME)
    return DomainReport(name=NAME, uuid="", state=DomainState.RUNNING, context=found, interfaces=(), disk="")


def claim_about(runtime: ReportedRuntime | None, policy: Policy = POLICY, domain: DomainReport | None = None) -> Claim:
    data = hypervisor_report([domain or running()], label_map(), mac_vm=mac_vm(runtime))
    assert parse_hypervisor_report(data).mac_vm == mac_vm(runtime)
    return check_hypervisor_report(data, host=ALPHA, policy=policy)


def test_one_that_is_attested_passes_in_these_words() -> None:
    claim = claim_about(ATTESTED)
    assert claim.status is ClaimStatus.PASS
    assert "as its host attests (macvm.runtime pass)" in claim.reason


@pytest.mark.parametrize(
    ("runtime", "status", "words"),
    [
        (None, ClaimStatus.ABSENT, "nothing is said of the MAC VM's attestation"),
        (WAITING, ClaimStatus.ABSENT, NOT_YET),
        (FAILED, ClaimStatus.FAIL, "the MAC VM's attestation failed: software fail: a strange program"),
        (replace(ATTESTED, reference_sha256="0" * 64), ClaimStatus.FAIL, "other Reference Values"),
        (replace(WAITING, reference_sha256="0" * 64), ClaimStatus.FAIL, "other Reference Values"),
    ],
)
def test_anything_else_does_not_pass(runtime: ReportedRuntime | None, status: ClaimStatus, words: str) -> None:
    claim = claim_about(runtime)
    assert (claim.status, claim.where) == (status, NAME)
    assert words in claim.reason
    assert is_not_yet(claim) is (runtime == WAITING)


def test_where_the_policy_does_not_have_it_attested_nothing_is_asked_and_the_reason_is_told() -> None:
    for runtime in (None, ATTESTED, WAITING, FAILED):
        claim = claim_about(runtime, PLAIN)
        assert claim.status is ClaimStatus.PASS
        assert "macvm.runtime absent: the policy does not have it attested" in claim.reason


def test_on_xen_it_has_no_tpm() -> None:
    policy = changed_policy(XEN, mac_vms=True, attested=False)
    assert policy.hypervisor_of(ALPHA) is HypervisorKind.XEN
    words = check_mac_vm(mac_vm(None), runs=True, host=ALPHA, policy=policy)
    assert "macvm.runtime absent: a paravirtualised guest of Xen has no TPM" in str(words)


def test_that_it_is_not_attested_yet_hides_nothing_that_is_wrong() -> None:
    """It counts against nobody, so whatever does comes first."""
    other = SelinuxContext(user="system_u", role="system_r", type="svirt_t", categories=frozenset({1, 1000}))
    claim = claim_about(WAITING, domain=running(other))
    assert (claim.status, claim.reason) == (ClaimStatus.FAIL, "a domain runs under another label")


@pytest.mark.parametrize(
    "bad",
    [
        None,
        [],
        "attested",
        {},
        {"reference_sha256": DEMAND.sha256, "state": "attested"},
        {"reference_sha256": DEMAND.sha256, "state": "attested", "reason": "", "more": ""},
        {"reference_sha256": DEMAND.sha256, "state": "attested", "reason": None},
        {"reference_sha256": DEMAND.sha256, "state": "attested", "reason": "it is said to be"},
        {"reference_sha256": DEMAND.sha256, "state": "waiting", "reason": "for what"},
        {"reference_sha256": DEMAND.sha256, "state": "failed", "reason": ""},
        {"reference_sha256": DEMAND.sha256, "state": "failed", "reason": "x" * (MAX_REASON + 1)},
        {"reference_sha256": DEMAND.sha256, "state": "failed", "reason": "\x1b[31mred"},
        {"reference_sha256": DEMAND.sha256, "state": "failed", "reason": "über"},
        {"reference_sha256": DEMAND.sha256, "state": "ATTESTED", "reason": ""},
        {"reference_sha256": DEMAND.sha256, "state": True, "reason": ""},
        {"reference_sha256": DEMAND.sha256.upper(), "state": "attested", "reason": ""},
        {"reference_sha256": DEMAND.sha256[:-1], "state": "attested", "reason": ""},
        {"reference_sha256": 0, "state": "attested", "reason": ""},
    ],
)
def test_a_malformed_one_fails(bad: Any) -> None:
    document = json.loads(hypervisor_report([running()], label_map(), mac_vm=mac_vm(ATTESTED)))
    document["mac_vm"]["runtime"] = bad
    claim = check_hypervisor_report(json.dumps(document).encode(), host=ALPHA, policy=POLICY)
    assert claim.status is ClaimStatus.FAIL
    assert "malformed hypervisor report" in claim.reason


def test_one_without_the_field_reads_as_before() -> None:
    assert "runtime" not in mac_vm_document(mac_vm(None))
    assert read_mac_vm(mac_vm_document(mac_vm(None))) == mac_vm(None)


RUNTIMES = st.builds(
    lambda digest, state, reason: ReportedRuntime(
        reference_sha256=digest,
        state=state,
        reason=(reason_in_report(reason) or "?") if state is RuntimeState.FAILED else "",
    ),
    st.sampled_from([DEMAND.sha256, "0" * 64]),
    st.sampled_from(RuntimeState),
    st.text(max_size=2 * MAX_REASON),
)


@given(runtime=st.none() | RUNTIMES)
def test_what_is_reported_is_read_and_passes_only_if_it_is_attested_as_demanded(
    runtime: ReportedRuntime | None,
) -> None:
    assert read_mac_vm(json.loads(json.dumps(mac_vm_document(mac_vm(runtime))))) == mac_vm(runtime)
    assert (claim_about(runtime).status is ClaimStatus.PASS) == (runtime == ATTESTED)


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=70)
    | st.just(DEMAND.sha256)
    | st.sampled_from(RuntimeState),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["reference_sha256", "state", "reason", "more"]), inner, max_size=4)
    ),
    max_leaves=8,
)


@given(value=_JSON)
def test_whatever_stands_there_is_read_whole_or_refused(value: Any) -> None:
    document = json.loads(json.dumps(mac_vm_document(mac_vm(None)) | {"runtime": value}))
    try:
        found = read_mac_vm(document)
    except (BadInput, TypeError, KeyError, AttributeError):
        return
    assert mac_vm_document(found) == document
