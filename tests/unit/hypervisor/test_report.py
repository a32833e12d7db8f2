"""The hypervisor report: what a right one looks like, and that nothing else passes."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shamon_host.domain.contexts import allocate_for, vm_context
from shamon_host.domain.errors import BadInput
from shamon_host.domain.labels import HostName, VmName
from shamon_host.domain.results import ClaimName, ClaimStatus
from shamon_host.hypervisor.ports import DomainReport, DomainState
from shamon_host.hypervisor.report import (
    MAX_REPORTED_TOKEN_BYTES,
    MAX_TOKENS,
    check_hypervisor_report,
    hypervisor_report,
    parse_hypervisor_report,
    tokens_in_report,
)
from tests.unit.hypervisor.vm_world import (
    ALPHA,
    BETA,
    BLACK,
    BLUE,
    DB,
    GATE,
    LABEL_MAP,
    POLICY,
    PROBE,
    RED,
    SHOP,
    WEB,
    context_of,
    with_disks,
)


def _running(name: VmName, state: DomainState = DomainState.RUNNING) -> DomainReport:
    return DomainReport(name=name, uuid="", state=state, context=context_of(name), interfaces=(), disk="")


RIGHT = hypervisor_report([_running(WEB), _running(SHOP, DomainState.PAUSED)], LABEL_MAP)


def _check(data: bytes, host: HostName = ALPHA) -> tuple[ClaimStatus, str]:
    claim = check_hypervisor_report(data, host=host, policy=POLICY)
    assert claim.name is ClaimName.RUNNING_LABELS
    return claim.status, f"{claim.where}: {claim.reason} {claim.expected} {claim.found}"


def _changed(**changes: Any) -> bytes:
    return json.dumps(json.loads(RIGHT) | changes).encode()


def _with_domain(**changes: Any) -> bytes:
    domain = {"name": "web", "state": "running", "context": str(context_of(WEB))} | changes
    return _changed(domains=[domain])


def test_right_one_passes() -> None:
    assert _check(RIGHT)[0] is ClaimStatus.PASS
    assert _check(hypervisor_report([], LABEL_MAP))[0] is ClaimStatus.PASS


def test_round_trip() -> None:
    report = parse_hypervisor_report(RIGHT)
    assert [(domain.name, domain.state) for domain in report.domains] == [
        (SHOP, DomainState.PAUSED),
        (WEB, DomainState.RUNNING),
    ]
    assert (report.label_map.types, report.label_map.vms) == (LABEL_MAP.types, LABEL_MAP.vms)
    assert report.flask is None


def test_same_domains_give_the_same_bytes() -> None:
    assert hypervisor_report([_running(SHOP, DomainState.PAUSED), _running(WEB)], LABEL_MAP) == RIGHT
    off = _running(GATE, DomainState.SHUT_OFF)
    assert hypervisor_report([off, _running(WEB), _running(SHOP, DomainState.PAUSED)], LABEL_MAP) == RIGHT


def test_contexts_are_compared_as_values() -> None:
    low, high = LABEL_MAP.vms[WEB]
    assert high == low + 1
    spelt_otherwise = f"system_u:system_r:svirt_t:s0:c{LABEL_MAP.types[RED]},c{low}.c{high}"
    assert _check(_with_domain(context=spelt_otherwise))[0] is ClaimStatus.PASS


@pytest.mark.parametrize(
    ("data", "status", "words"),
    [
        (_with_domain(context=str(context_of(SHOP))), ClaimStatus.FAIL, str(context_of(WEB))),
        (_with_domain(context=""), ClaimStatus.ABSENT, "without a label"),
        (_with_domain(context="system_u:system_r:svirt_t:s0-s0:c0.c1023"), ClaimStatus.FAIL, "bad SELinux context"),
        (_with_domain(name="stranger"), ClaimStatus.FAIL, "'stranger': a domain runs that the policy does not know"),
        (_with_domain(name="\x1b[2J"), ClaimStatus.FAIL, r"\x1b"),
        (_with_domain(name="db", context=str(context_of(DB))), ClaimStatus.FAIL, "another host"),
        (_with_domain(state="shut-off"), ClaimStatus.FAIL, "malformed"),
        (_with_domain(state=["running"]), ClaimStatus.FAIL, "malformed"),
        (_with_domain(name=["web"]), ClaimStatus.FAIL, "malformed"),
        (_with_domain(context=None), ClaimStatus.FAIL, "malformed"),
        (_with_domain(extra=1), ClaimStatus.FAIL, "malformed"),
        (_changed(domains={}), ClaimStatus.FAIL, "malformed"),
        (_changed(domains=7), ClaimStatus.FAIL, "malformed"),
        (_changed(domains=["web"]), ClaimStatus.FAIL, "malformed"),
        (_changed(extra=1), ClaimStatus.FAIL, "malformed"),
        (_changed(label_map=[]), ClaimStatus.FAIL, "malformed"),
        (_changed(label_map={"types": {}, "vms": {}}), ClaimStatus.ABSENT, "acme/red"),
        (_changed(label_map={"types": dict(LABEL_MAP.types), "vms": {}}), ClaimStatus.ABSENT, "lacks a VM"),
        (_changed(label_map={"types": dict.fromkeys(LABEL_MAP.types, 1), "vms": {}}), ClaimStatus.FAIL, "label map"),
        (_changed(label_map={"types": {"acme/red": True}, "vms": {}}), ClaimStatus.FAIL, "category"),
        (_changed(label_map={"types": {"acme/red": 600}, "vms": {}}), ClaimStatus.FAIL, "category"),
        (_changed(label_map={"types": {"../etc": 1}, "vms": {}}), ClaimStatus.FAIL, "bad type name"),
        (_changed(label_map={"types": {}, "vms": {"web": [512]}}), ClaimStatus.FAIL, "malformed"),
        (_changed(label_map={"types": {}, "vms": {"web": [512, 513], "db": [513, 9]}}), ClaimStatus.FAIL, "category"),
        (_changed(label_map={"types": {}, "vms": {"a": [512, 513], "b": [513, 514]}}), ClaimStatus.FAIL, "label map"),
        (b"", ClaimStatus.FAIL, "malformed"),
        (b"\xff\xfe", ClaimStatus.FAIL, "malformed"),
        (b"[" * 100_000, ClaimStatus.FAIL, "malformed"),
        (b'"' + b" " * (1 << 20) + b'"', ClaimStatus.FAIL, "too large"),
        (b"1" * 10_000, ClaimStatus.FAIL, "malformed"),
        (RIGHT[:-1], ClaimStatus.FAIL, "malformed"),
    ],
    ids=str,
)
def test_wrong_ones(data: bytes, status: ClaimStatus, words: str) -> None:
    found, text = _check(data)
    assert found is status
    assert words in text


def test_a_vm_has_the_categories_of_its_disks_and_no_others() -> None:
    policy = with_disks()
    label_map = allocate_for(policy, ALPHA)
    for vm, disks in ((WEB, ["cache", "manual"]), (SHOP, ["manual"])):
        for held, status in (
            (disks, ClaimStatus.PASS),
            (disks[1:], ClaimStatus.FAIL),
            (["cache", "manual"], ClaimStatus.PASS if vm == WEB else ClaimStatus.FAIL),
        ):
            context = label_map.vm_context(vm, POLICY.label_of(vm).types, held)
            report = hypervisor_report([replace(_running(vm), context=context)], label_map)
            claim = check_hypervisor_report(report, host=ALPHA, policy=policy)
            assert claim.status is status, claim
    lacking = replace(label_map, disks={"cache": label_map.disks["cache"]})
    context = label_map.vm_context(SHOP, [BLUE])
    claim = check_hypervisor_report(
        hypervisor_report([replace(_running(SHOP), context=context)], lacking), host=ALPHA, policy=policy
    )
    assert (claim.status, claim.where) == (ClaimStatus.ABSENT, "manual")


@pytest.mark.parametrize(
    ("disks", "words"),
    [
        ({"books": [600]}, "malformed"),
        ({"books": [3, 4]}, "category"),
        ({"../books": [600, 601]}, "bad name of a disk"),
        ({"books": [512, 513], "ledger": [513, 514]}, "label map"),
        ({"books": list(LABEL_MAP.vms[WEB])}, "label map"),
        ([], "malformed"),
    ],
)
def test_wrong_disks(disks: object, words: str) -> None:
    vms = {name: list(pair) for name, pair in LABEL_MAP.vms.items()}
    status, text = _check(_changed(label_map={"types": dict(LABEL_MAP.types), "vms": vms, "disks": disks}))
    assert status is ClaimStatus.FAIL
    assert words in text


def test_domain_of_another_host_passes_there() -> None:
    assert _check(hypervisor_report([_running(DB)], LABEL_MAP), BETA)[0] is ClaimStatus.PASS


def test_domain_reported_twice() -> None:
    domain = {"name": "web", "state": "running", "context": str(context_of(WEB))}
    assert _check(_changed(domains=[domain, domain]))[1].startswith("web: a domain is reported twice")


def test_types_in_conflict() -> None:
    status, words = _check(hypervisor_report([_running(WEB), _running(PROBE)], LABEL_MAP))
    assert status is ClaimStatus.FAIL
    assert f"{RED}" in words
    assert f"{BLACK}" in words


def test_label_that_nobody_enforces_is_none() -> None:
    permissive = DomainReport(
        name=WEB, uuid="", state=DomainState.RUNNING, context=context_of(WEB), interfaces=(), disk="", enforced=False
    )
    assert _check(hypervisor_report([permissive], LABEL_MAP))[0] is ClaimStatus.ABSENT


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)


@given(data=st.binary(max_size=400) | _json.map(lambda value: json.dumps(value).encode()))
def test_hostile_bytes_never_raise_and_never_pass(data: bytes) -> None:
    assert _check(data)[0] is not ClaimStatus.PASS


@given(
    domains=st.lists(st.fixed_dictionaries({"name": _json, "state": _json, "context": _json}) | _json) | _json,
    types=_json | st.just(dict(LABEL_MAP.types)),
    vms=_json,
)
def test_hostile_fields_never_raise_and_never_pass(domains: object, types: object, vms: object) -> None:
    hostile = {"domains": domains, "label_map": {"types": types, "vms": vms}}
    assert _check(json.dumps(hostile).encode())[0] is not ClaimStatus.PASS or domains == []


@given(position=st.integers(0, len(RIGHT) - 1), value=st.integers(0, 255))
def test_changed_byte(position: int, value: int) -> None:
    """It raises nothing, and it passes only if every domain that is still named is under its own label."""
    data = RIGHT[:position] + bytes([value]) + RIGHT[position + 1 :]
    if _check(data)[0] is not ClaimStatus.PASS:
        return
    report = parse_hypervisor_report(data)
    for domain in report.domains:
        assert domain.context == str(report.label_map.vm_context(domain.name, POLICY.label_of(domain.name).types))


def test_parse_raises_its_own_error_alone() -> None:
    with pytest.raises(BadInput):
        parse_hypervisor_report(b'{"domains": [{}], "label_map": {"types": {}, "vms": {}}}')


def test_tokens_of_vms_that_were_moved() -> None:
    report = hypervisor_report([_running(WEB)], LABEL_MAP, None, [b"one", b"another"])
    assert tokens_in_report(report) == (b"one", b"another")
    assert b"tokens" not in hypervisor_report([_running(WEB)], LABEL_MAP)
    assert _check(report)[0] is ClaimStatus.PASS, "what they say is asked elsewhere"


@pytest.mark.parametrize(
    "tokens", [[], "one", [1], ["é"], ["x" * (MAX_REPORTED_TOKEN_BYTES + 1)], ["x"] * (MAX_TOKENS + 1), None]
)
def test_bad_tokens(tokens: object) -> None:
    data = _changed(tokens=tokens)
    with pytest.raises(BadInput):
        tokens_in_report(data)
    assert _check(data)[0] is ClaimStatus.FAIL


def test_a_vm_is_where_it_was_moved_to() -> None:
    moving = {**POLICY.vms, WEB: replace(POLICY.vms[WEB], may_move_to=frozenset({BETA}))}
    policy = replace(POLICY, vms=moving)
    report = hypervisor_report([_running(WEB)], LABEL_MAP)
    for placed, host, passes, words in (
        (policy, ALPHA, True, ""),
        (policy, BETA, False, "another host than the policy says"),
        (policy.placed({WEB: BETA}), BETA, True, ""),
        (policy.placed({WEB: BETA}), ALPHA, False, "another host than the one that it was moved to"),
    ):
        claim = check_hypervisor_report(report, host=host, policy=placed)
        assert (claim.status is ClaimStatus.PASS) is passes
        assert words in claim.reason


@pytest.mark.parametrize(
    ("state", "may_come", "passes"),
    [(DomainState.PAUSED, True, True), (DomainState.RUNNING, True, False), (DomainState.PAUSED, False, False)],
)
def test_a_vm_stands_still_where_it_may_be_moved_to(state: DomainState, *, may_come: bool, passes: bool) -> None:
    """While it moves as it runs, a second domain of it waits there."""
    web = replace(POLICY.vms[WEB], may_move_to=frozenset({BETA} if may_come else ()))
    policy = replace(POLICY, vms={**POLICY.vms, WEB: web})
    label_map = allocate_for(policy, BETA)
    if WEB not in label_map.vms:
        label_map = replace(label_map, vms={**label_map.vms, WEB: LABEL_MAP.vms[WEB]})
    context = vm_context(policy, label_map, WEB)
    report = DomainReport(name=WEB, uuid="", state=state, context=context, interfaces=(), disk="")
    claim = check_hypervisor_report(hypervisor_report([report], label_map), host=BETA, policy=policy)
    assert (claim.status is ClaimStatus.PASS) is passes, claim
    if not passes:
        assert "runs on another host" in claim.reason


def test_what_stands_still_counts_for_conflict_sets() -> None:
    web = replace(POLICY.vms[WEB], host=BETA, may_move_to=frozenset({ALPHA}))
    policy = replace(POLICY, vms={**POLICY.vms, WEB: web})
    domains = [_running(WEB, DomainState.PAUSED), _running(PROBE)]
    claim = check_hypervisor_report(hypervisor_report(domains, LABEL_MAP), host=ALPHA, policy=policy)
    assert claim.status is ClaimStatus.FAIL
    assert "types in conflict run together" in claim.reason
