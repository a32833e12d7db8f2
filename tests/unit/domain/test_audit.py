"""The hash chain: any change, gap or reordering is found, at the first record that it touches."""

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shamon_host.domain import audit
from shamon_host.domain.audit import ZERO_HEAD, AuditRecord
from shamon_host.domain.canonical import canonical_json
from shamon_host.domain.errors import BadInput, NotTrusted


def chain(count: int) -> list[AuditRecord]:
    records: list[AuditRecord] = []
    for number in range(count):
        records.append(
            audit.append(
                records[-1] if records else None,
                kind="vm.start",
                subject=f"vm{number}",
                detail={"permitted": True, "number": number},
                wall_s=1e9 + number,
                boottime_s=float(number),
            )
        )
    return records


def one(detail: dict[str, Any], **fields: Any) -> AuditRecord:
    values: dict[str, Any] = {"kind": "vm.start", "subject": "web", "wall_s": 0.0, "boottime_s": 0.0} | fields
    return audit.append(None, detail=detail, **values)


def test_a_whole_chain_verifies_and_gives_its_last_record() -> None:
    records = chain(5)
    assert audit.verify_chain(records) == records[-1]
    assert audit.verify_chain(records[3:], after=records[2]) == records[-1]
    assert audit.verify_chain([]) is None
    assert records[0].previous == ZERO_HEAD
    assert [record.sequence for record in records] == [1, 2, 3, 4, 5]


CHANGES: list[dict[str, Any]] = [
    {"kind": "vm.stop"},
    {"subject": "other"},
    {"detail": {"permitted": False, "number": 0}},
    {"detail": {}},
    {"wall_s": 5.0},
    {"boottime_s": 0.5},
    {"digest": bytes(32)},
    {"digest": b""},
    {"previous": b"\x01" * 32},
    {"sequence": 77},
]


@settings(deadline=None)
@given(index=st.integers(0, 7), change=st.sampled_from(CHANGES))
def test_a_changed_record_is_found_where_it_is(index: int, change: dict[str, Any]) -> None:
    records = chain(8)
    records[index] = replace(records[index], **change)
    with pytest.raises(NotTrusted, match=rf"broken at record {index + 1}:"):
        audit.verify_chain(records)


@settings(deadline=None)
@given(index=st.integers(0, 6))
def test_a_removed_record_is_found(index: int) -> None:
    records = chain(8)
    del records[index]
    with pytest.raises(NotTrusted, match=rf"broken at record {index + 1}: a record is missing"):
        audit.verify_chain(records)


@settings(deadline=None)
@given(order=st.permutations(range(6)))
def test_only_one_order_is_right(order: list[int]) -> None:
    records = chain(6)
    if order == sorted(order):
        return
    with pytest.raises(NotTrusted):
        audit.verify_chain([records[index] for index in order])


def test_a_record_rewritten_with_its_digest_breaks_the_next_one() -> None:
    records = chain(3)
    records[1] = audit.append(records[0], kind="vm.start", subject="forged", detail={}, wall_s=1e9, boottime_s=1.0)
    with pytest.raises(NotTrusted, match="broken at record 3: it does not follow"):
        audit.verify_chain(records)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(detail=st.dictionaries(st.sampled_from(["reason", "found", "items"]), JSON), subject=st.text(max_size=400))
def test_whatever_json_is_logged_verifies(detail: dict[str, Any], subject: str) -> None:
    record = one(detail, subject=subject)
    assert audit.verify_chain([record]) == record
    assert len(record.subject) <= audit.MAX_SUBJECT
    record.subject.encode()


def test_a_peers_words_cannot_keep_a_record_out_of_the_log() -> None:
    words = {"reason": "x" * 1_000_000, "failures": ["y"] * 10_000, "odd": "\ud800\0"}
    deep: Any = "end"
    for _ in range(100):
        deep = [deep]
    record = one({**words, "deep": deep, "late_s": math.inf, "count": 10**5000})
    assert len(record.detail["reason"]) == audit.MAX_TEXT
    assert record.detail["reason"].endswith("…")
    assert len(record.detail["failures"]) == audit.MAX_ITEMS
    assert record.detail["odd"] == "\\ud800\\0"
    assert record.detail["late_s"] == "inf"
    assert record.detail["count"] == "(a large integer)"
    wide = one({"failures": [["z" * 5000] * 1000] * 1000})
    assert wide.detail["failures"][0][0].startswith("zzz")
    assert len(canonical_json(wide.detail)) < 2 * audit.MAX_DETAIL


@pytest.mark.parametrize(
    "detail",
    [
        {"in_key": "00"},
        {"private_blob": "x"},
        {"Password": "x"},
        {"nested": [{"shared_secret": "x"}]},
        {"raw": b"bytes"},
        {"set": {1}},
        {"nested": {"key": "x"}},
        {1: "x"},
    ],
)
def test_secrets_and_what_is_not_json_are_refused(detail: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match="audit log"):
        one(detail)


def test_a_refusal_does_not_show_the_secret() -> None:
    with pytest.raises(BadInput) as caught:
        one({"passphrase": "correct horse"})
    assert "horse" not in str(caught.value)


@pytest.mark.parametrize("fields", [{"kind": "Vm Start"}, {"kind": ""}, {"wall_s": math.nan}, {"boottime_s": math.inf}])
def test_malformed_records_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        one({}, **fields)
