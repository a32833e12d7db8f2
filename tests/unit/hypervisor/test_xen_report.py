"""The hypervisor report of a host with Xen: FLASK contexts, and exactly the policy that the Verifier has."""

import json
import tracemalloc
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shamon_host.domain.contexts import allocate_for, vm_context
from shamon_host.domain.flask_expected import MAX_LABELS_AT_HOME, expected_flask
from shamon_host.domain.flask_labels import flask_context
from shamon_host.domain.labels import VmName
from shamon_host.domain.policy import HypervisorKind, Policy
from shamon_host.domain.results import Claim, ClaimName, ClaimStatus
from shamon_host.hypervisor.flask_report import (
    MAX_ANSWERS,
    MAX_BOOLEANS,
    MAX_FOREIGN,
    MAX_SETS,
    MAX_TYPES,
    flask_document,
    read_flask_document,
)
from shamon_host.hypervisor.ports import DomainReport, DomainState, FlaskState
from shamon_host.hypervisor.report import (
    MAX_REPORT_BYTES,
    check_hypervisor_report,
    hypervisor_report,
    parse_hypervisor_report,
)
from shamon_host.testing.contracts.flask import ALPHA, BLUE, POLICY, RED, SENDER, with_many_labels

LABEL_MAP = allocate_for(POLICY, ALPHA)
EXPECTED = expected_flask(POLICY, ALPHA)
STATE = FlaskState(enforcing=True, booleans={"prot_doms_locked": False}, access=EXPECTED.access)
WEB, GATE, TOOLS = VmName("web"), VmName("gate"), VmName("tools")
ON_QEMU = replace(POLICY, hosts={ALPHA: replace(POLICY.hosts[ALPHA], hypervisor=HypervisorKind.QEMU)})


def domain(name: VmName, policy: Policy = POLICY) -> DomainReport:
    context = vm_context(policy, LABEL_MAP, name)
    return DomainReport(name=name, uuid="", state=DomainState.RUNNING, context=context, interfaces=(), disk="")


DOMAINS = [domain(WEB), domain(GATE), domain(TOOLS)]
RIGHT = hypervisor_report(DOMAINS, LABEL_MAP, STATE)
FLASK: dict[str, Any] = json.loads(RIGHT)["flask"]


def claim(data: bytes, policy: Policy = POLICY) -> Claim:
    found = check_hypervisor_report(data, host=ALPHA, policy=policy)
    assert found.name is ClaimName.RUNNING_LABELS
    return found


def words(data: bytes) -> str:
    found = claim(data)
    assert found.status is ClaimStatus.FAIL
    return f"{found.where}: {found.reason} {found.expected} {found.found}"


def with_state(**changes: Any) -> bytes:
    return hypervisor_report(DOMAINS, LABEL_MAP, replace(STATE, **changes))


def with_document(**changes: Any) -> bytes:
    return json.dumps(json.loads(RIGHT) | {"flask": FLASK | changes}).encode()


def test_a_right_one_passes_and_is_read_as_it_was() -> None:
    assert claim(RIGHT).status is ClaimStatus.PASS
    report = parse_hypervisor_report(RIGHT)
    assert [each.context for each in report.domains] == [
        str(flask_context(each)) for each in ("both", "unlabelled", "red")
    ]
    assert report.flask == replace(STATE, access={question: each for question, each in EXPECTED.access.items() if each})
    assert hypervisor_report(DOMAINS, LABEL_MAP, report.flask) == RIGHT


def test_without_flask_a_host_with_xen_is_believed_nothing() -> None:
    found = claim(hypervisor_report(DOMAINS, LABEL_MAP))
    assert (found.status, found.where) == (ClaimStatus.ABSENT, ALPHA)
    assert "FLASK" in found.reason


def test_a_host_that_has_another_hypervisor_than_the_policy_says() -> None:
    right = hypervisor_report([domain(WEB, ON_QEMU)], LABEL_MAP)
    assert claim(right, ON_QEMU).status is ClaimStatus.PASS
    assert claim(right).status is ClaimStatus.ABSENT
    found = claim(RIGHT, ON_QEMU)
    assert (found.status, found.reason) == (ClaimStatus.FAIL, "a host with QEMU has a FLASK policy")
    svirt = replace(domain(WEB, ON_QEMU), name=WEB)
    assert "bad FLASK context" in words(hypervisor_report([svirt], LABEL_MAP, STATE))


def test_a_domain_under_another_label() -> None:
    other = replace(domain(WEB), context=flask_context("both"))
    told = words(hypervisor_report([other], LABEL_MAP, STATE))
    assert told == (
        "web: a domain runs under another label system_u:system_r:shamon_vm_red_t system_u:system_r:shamon_vm_both_t"
    )
    nobody = replace(domain(WEB), enforced=False)
    assert claim(hypervisor_report([nobody], LABEL_MAP, STATE)).status is ClaimStatus.ABSENT


def test_every_difference_is_found_and_named() -> None:
    assert "FLASK is permissive" in words(with_state(enforcing=False))
    assert "the boolean guest_writeconsole is on" in words(with_state(booleans={"guest_writeconsole": True}))
    more = {**EXPECTED.access, (RED, SENDER, "grant"): frozenset({"map_read"})}
    assert f"{RED} may map_read {SENDER} (grant), more than the policy says" in words(with_state(access=more))
    beyond = {**EXPECTED.access, (BLUE, RED, "mmu"): frozenset({"map_read"})}
    assert f"answers what nobody asks it  {BLUE} {RED} mmu" in words(with_state(access=beyond))
    fewer = {question: each for question, each in EXPECTED.access.items() if "grant" not in question}
    assert "shamon_mac_t may not copy" in words(with_state(access=fewer))
    assert words(with_state(access={})).endswith("; and more")


def test_what_was_foreign_a_short_while_ago_fails_however_right_it_is_now() -> None:
    data = with_state(foreign="red may map_read blue")
    assert words(data) == "alpha: Xen enforced another FLASK policy a short while ago  red may map_read blue"
    state = parse_hypervisor_report(data).flask
    assert state is not None
    assert hypervisor_report(DOMAINS, LABEL_MAP, state) == data
    long = parse_hypervisor_report(with_state(foreign="x" * (MAX_FOREIGN + 1))).flask
    assert long is not None
    assert len(long.foreign) == MAX_FOREIGN


def hostile(permissions: str, sources: range, *, types: int = 1000) -> bytes:
    """Answers to as many questions as fit, all about types that nobody has."""
    rows = [[source, *range(types)] for source in sources]
    access = {"grant": {permissions: rows}}
    return with_document(types=[f"t{number}" for number in range(types)], access=access)


@pytest.mark.parametrize("case", ["answers", "questions", "names"])
def test_reading_takes_not_much_more_memory_than_the_report_has(case: str) -> None:
    claim(RIGHT)  # computes what is expected
    permissions = " ".join(f"{chr(97 + number % 26)}{number:x<29}" for number in range(32))
    if case == "answers":
        data = hostile(permissions, range(200))
    elif case == "questions":
        data = hostile(permissions, range(MAX_ANSWERS // 1000))
    else:
        types = sorted({name for question in EXPECTED.access for name in question[:2]})
        rows = [[source, *range(len(types))] for source in range(len(types))]
        sets = {permissions: rows}
        data = with_document(types=types, access=dict.fromkeys(("grant", "mmu", "event", "domain", "hvm"), sets))
    assert len(data) < MAX_REPORT_BYTES
    tracemalloc.start()
    try:
        found = claim(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found.status is ClaimStatus.FAIL
    assert peak < 32 << 20
    assert len(found.found) < 1000


@given(data=st.data())
def test_no_other_access_passes(data: st.DataObject) -> None:
    question = data.draw(st.sampled_from(sorted(EXPECTED.access)))
    permissions = data.draw(st.frozensets(st.sampled_from(["map_read", "bind", "send", "create", "status", "pause"])))
    changed = {**EXPECTED.access, question: permissions}
    passes = claim(with_state(access=changed)).status is ClaimStatus.PASS
    assert passes == (permissions == EXPECTED.access[question])


def test_the_largest_one_fits() -> None:
    large = with_many_labels(MAX_LABELS_AT_HOME)
    access = expected_flask(large, ALPHA).access
    long_names = {
        tuple(f"{name:x<80}" if name.startswith("shamon") else name for name in question[:2]) + question[2:]: each
        for question, each in access.items()
    }
    label_map = allocate_for(large, ALPHA)
    for answers in (access, long_names):
        state = FlaskState(enforcing=True, booleans={}, access=answers)  # type: ignore[arg-type]
        assert len(hypervisor_report([], label_map, state)) < MAX_REPORT_BYTES // 2
    right = hypervisor_report([], label_map, FlaskState(enforcing=True, booleans={}, access=access))
    assert claim(right, large).status is ClaimStatus.PASS
    assert sum(map(bool, access.values())) < MAX_ANSWERS // 2


def test_a_coalition_may_have_many_labels_that_are_not_at_home() -> None:
    red = POLICY.vm_labels["red"]
    labels = {f"l{number}": replace(red, name=f"l{number}") for number in range(350)}
    many = replace(POLICY, vm_labels={**POLICY.vm_labels, **labels})
    right = hypervisor_report(DOMAINS, LABEL_MAP, replace(STATE, access=expected_flask(many, ALPHA).access))
    assert claim(right, many).status is ClaimStatus.PASS


def test_too_many_labels_are_never_believed() -> None:
    many = with_many_labels(MAX_LABELS_AT_HOME + 1)
    found = claim(hypervisor_report([], allocate_for(many, ALPHA), STATE), many)
    assert found.status is ClaimStatus.FAIL
    assert "too many labels" in found.reason


@pytest.mark.parametrize(
    "flask",
    [
        None,
        [],
        {},
        FLASK | {"enforcing": 1},
        FLASK | {"booleans": {"one": 1}},
        FLASK | {"booleans": []},
        FLASK | {"booleans": {"../one": True}},
        FLASK | {"booleans": {f"b{number}": False for number in range(MAX_BOOLEANS + 1)}},
        FLASK | {"types": [f"t{number}" for number in range(MAX_TYPES + 1)]},
        FLASK | {"types": [*FLASK["types"], FLASK["types"][0]]},
        FLASK | {"types": {}},
        FLASK | {"types": ["\x1b[2J"]},
        FLASK | {"types": [7]},
        FLASK | {"more": 1},
        FLASK | {"foreign": ""},
        FLASK | {"foreign": "\x1b[2J"},
        FLASK | {"foreign": ["one"]},
        FLASK | {"foreign": "x" * (MAX_FOREIGN + 1)},
        FLASK | {"access": {"grant": {f"p{number}": [[0, 1]] for number in range(MAX_SETS + 1)}}},
        FLASK | {"access": {"grant": {"p" * 33: [[0, 1]]}}},
        FLASK | {"access": []},
        FLASK | {"access": {"grant": []}},
        FLASK | {"access": {"grant": {"": [[0, 1]]}}},
        FLASK | {"access": {"grant": {"copy  copy": [[0, 1]]}}},
        FLASK | {"access": {"grant": {"Copy": [[0, 1]]}}},
        FLASK | {"access": {"gr nt": {"copy": [[0, 1]]}}},
        FLASK | {"access": {"grant": {"copy": [[0]]}}},
        FLASK | {"access": {"grant": {"copy": [[0, -1]]}}},
        FLASK | {"access": {"grant": {"copy": [[0, True]]}}},
        FLASK | {"access": {"grant": {"copy": [[0, 100_000]]}}},
        FLASK | {"access": {"grant": {"copy": [0, 1]}}},
        FLASK | {"access": {"grant": {"copy": [[0, 1, 1]]}}},
        FLASK | {"access": {"grant": {"copy": [[0, 1]], "unmap": [[0, 1]]}}},
    ],
    ids=lambda value: json.dumps(value)[-60:] if value else str(value),
)
def test_malformed_ones(flask: object) -> None:
    data = json.dumps(json.loads(RIGHT) | {"flask": flask}).encode()
    assert "malformed" in words(data)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)


@given(changes=st.dictionaries(st.sampled_from(sorted(FLASK)), _json, min_size=1))
def test_hostile_fields_never_raise_and_never_pass(changes: dict[str, Any]) -> None:
    found = claim(with_document(**changes))
    harmless = changes.keys() <= {"booleans"} or changes == {"enforcing": True}
    assert found.status is ClaimStatus.FAIL or harmless


@given(position=st.integers(0, len(RIGHT) - 1), value=st.integers(0, 255))
def test_changed_byte(position: int, value: int) -> None:
    """It raises nothing, and passes only if what it says of FLASK is the same."""
    data = RIGHT[:position] + bytes([value]) + RIGHT[position + 1 :]
    if claim(data).status is ClaimStatus.PASS:
        state = parse_hypervisor_report(data).flask
        assert state is not None
        assert state.enforcing
        assert state.access == parse_hypervisor_report(RIGHT).flask.access  # type: ignore[union-attr]


_NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True)
_STATES = st.builds(
    FlaskState,
    enforcing=st.booleans(),
    booleans=st.dictionaries(_NAMES, st.booleans(), max_size=4),
    access=st.dictionaries(st.tuples(_NAMES, _NAMES, _NAMES), st.frozensets(_NAMES, max_size=4), max_size=12),
)


@given(_STATES)
def test_every_state_is_read_back(state: FlaskState) -> None:
    document = flask_document(state)
    again = read_flask_document(json.loads(json.dumps(document)))
    assert again == replace(state, access={question: each for question, each in state.access.items() if each})
    assert flask_document(again) == document
