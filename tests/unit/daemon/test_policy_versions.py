"""Versions on disk: one is in force at every moment, what is coming is not lost, and eight are kept."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shamon_host.daemon.database import Database
from shamon_host.daemon.policy_versions import (
    MAX_HISTORY,
    PolicyRecord,
    PolicyVersions,
    label_map_document,
    label_map_from,
)
from shamon_host.daemon.store import MAX_DOCUMENT_BYTES, Store
from shamon_host.domain.errors import BackendFailed, BadInput
from shamon_host.domain.label_map import EMPTY, LabelMap, allocate
from shamon_host.domain.labels import VmName
from shamon_host.domain.policy import Policy
from tests.unit.daemon.versions_world import DyingStore, successor
from tests.unit.domain.values import POLICY, RED

LABELS = allocate(EMPTY, POLICY.types, [VmName("web"), VmName("db")])


@pytest.fixture
def store() -> Iterator[DyingStore]:
    database = Database(":memory:")
    yield DyingStore(database)
    database.close()


@pytest.fixture
def versions(store: DyingStore) -> PolicyVersions:
    return PolicyVersions(store)


def line(length: int, first: Policy = POLICY) -> list[Policy]:
    policies = [first]
    while len(policies) < length:
        policies.append(successor(policies[-1]))
    return policies


def nothing_but(versions: PolicyVersions, *there: str) -> bool:
    names = ("current", "pending", "label_map", "prepared")
    return {name for name in names if getattr(versions, name)() is not None} == set(there)


def test_at_first_nothing_is_there(versions: PolicyVersions) -> None:
    assert nothing_but(versions)
    assert versions.enforced(POLICY.digest) is None
    assert versions.sent(POLICY.digest) is None


def test_a_version_that_comes_into_force(versions: PolicyVersions) -> None:
    record = PolicyRecord(policy=POLICY, envelope=b"{envelope}", commit=b"{commit}", counter=42)
    versions.prepare({"statement": "agreed"})
    versions.begin(replace(record, counter=None))
    assert versions.pending() == replace(record, counter=None)
    assert versions.current() is None
    assert versions.prepared() == {"statement": "agreed"}
    versions.finish(record, LABELS)
    assert versions.current() == versions.enforced(POLICY.digest) == record
    assert versions.label_map() == LABELS
    assert versions.sent(POLICY.digest) == (b"{envelope}", b"{commit}")
    assert nothing_but(versions, "current", "label_map")


def test_finishing_is_all_or_nothing(store: DyingStore, versions: PolicyVersions) -> None:
    first, second = line(2)
    versions.finish(PolicyRecord(policy=first, counter=1), LABELS)
    versions.begin(PolicyRecord(policy=second))
    store.dies = 1
    with pytest.raises(BackendFailed):
        versions.finish(PolicyRecord(policy=second, counter=2), EMPTY)
    assert versions.current() == PolicyRecord(policy=first, counter=1)
    assert versions.label_map() == LABELS
    assert versions.enforced(second.digest) is None
    assert versions.pending() == PolicyRecord(policy=second)


def test_what_was_prepared_may_come_to_nothing(versions: PolicyVersions) -> None:
    versions.prepare({"statement": "one"})
    versions.prepare({"statement": "two"})
    assert versions.prepared() == {"statement": "two"}
    versions.prepare(None)
    versions.prepare(None)
    assert versions.prepared() is None


def test_a_version_that_cannot_be_read_is_as_one_that_is_not_kept(store: DyingStore, versions: PolicyVersions) -> None:
    versions.finish(PolicyRecord(policy=POLICY), LABELS)
    assert versions.policy(POLICY.digest) == POLICY
    assert versions.policy("another") is None
    store.put("policy-history", POLICY.digest, {"version": 1, "policy": "{}"})
    assert versions.policy(POLICY.digest) is None


def test_the_eight_newest_are_kept(versions: PolicyVersions) -> None:
    policies = line(MAX_HISTORY + 4)
    for counter, policy in enumerate(policies):
        versions.finish(PolicyRecord(policy=policy, counter=counter), LABELS)
    kept = [policy for policy in policies if versions.enforced(policy.digest)]
    assert kept == policies[-MAX_HISTORY:]
    assert versions.enforced(policies[-1].digest) == PolicyRecord(policy=policies[-1], counter=len(policies) - 1)


def test_finishing_the_one_in_force_again_forgets_none(versions: PolicyVersions) -> None:
    """As a start does that finds another label map."""
    policies = line(MAX_HISTORY)
    for policy in policies:
        versions.finish(PolicyRecord(policy=policy), LABELS)
    for _ in range(3):
        versions.finish(PolicyRecord(policy=policies[-1]), EMPTY)
    assert all(versions.enforced(policy.digest) for policy in policies)
    assert versions.label_map() == EMPTY


def test_it_is_there_after_a_restart(tmp_path: Path) -> None:
    first, second = line(2)
    for turn in range(2):
        database = Database(tmp_path / "shamon.sqlite")
        versions = PolicyVersions(Store(database))
        if turn == 0:
            versions.finish(PolicyRecord(policy=first, envelope=b"one", counter=7), LABELS)
            versions.begin(PolicyRecord(policy=second, commit=b"two", counter=8))
        assert versions.current() == PolicyRecord(policy=first, envelope=b"one", counter=7)
        assert versions.pending() == PolicyRecord(policy=second, commit=b"two", counter=8)
        database.close()


# Documents


@pytest.mark.parametrize(
    "label_map", [EMPTY, LABELS, LabelMap(types={RED: 511}, vms={}, next_category=1, next_pair=1022)]
)
def test_label_maps_come_back(label_map: LabelMap) -> None:
    assert label_map_from(label_map_document(label_map)) == label_map


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"types": {}, "vms": {}},
        {"types": [], "vms": {}, "next_category": 1},
        {"types": {}, "vms": {"web": [1]}, "next_category": 1},
        {"types": {}, "vms": {"web": 7}, "next_category": 1},
        {"types": None, "vms": {}, "next_category": 1},
    ],
)
def test_a_label_map_that_was_never_written(document: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match="label map is malformed"):
        label_map_from(document)


RECORD = PolicyRecord(policy=POLICY, envelope=b"e", commit=b"c", counter=3)


@pytest.mark.parametrize(
    "change",
    [
        {"policy": None},
        {"policy": "{}"},
        {"policy": RECORD.to_document()["policy"] + " "},
        {"counter": "three"},
        {"counter": [3]},
        {"envelope": "é"},
    ],
)
def test_a_record_that_was_never_written(change: dict[str, Any]) -> None:
    document = RECORD.to_document()
    assert PolicyRecord.from_document(document) == RECORD
    with pytest.raises(BadInput):
        PolicyRecord.from_document({**document, **change})
    for name in document:
        with pytest.raises(BadInput, match="malformed"):
            PolicyRecord.from_document({key: value for key, value in document.items() if key != name})


@pytest.mark.parametrize("field", ["envelope", "commit"])
@pytest.mark.parametrize("data", [b"\xff\xfe", '{"note": "é"}'.encode()])
def test_what_could_not_be_written_down_is_no_record(field: str, data: bytes) -> None:
    """Peers send both, and nobody reads all of them: found out here, not by whoever writes them down later."""
    with pytest.raises(BadInput, match="not ASCII"):
        PolicyRecord(policy=POLICY, **{field: data})  # type: ignore[arg-type]


# The store's transaction


def test_a_change_is_whole_or_not_at_all(store: DyingStore) -> None:
    store.put("kind", "kept", {"turn": 1})
    store.put("kind", "gone", {"turn": 1})
    store.change({("kind", "kept"): {"turn": 2}, ("kind", "gone"): None, ("kind", "new"): {"turn": 2}})
    assert store.items("kind") == (("kept", {"turn": 2}), ("new", {"turn": 2}))
    for key, document in (("bad\0name", {}), ("not json", {"x": b""}), ("large", {"x": "x" * MAX_DOCUMENT_BYTES})):
        with pytest.raises(BadInput):
            store.change({("kind", "kept"): None, ("kind", "new"): {"turn": 3}, ("kind", key): document})
        assert store.items("kind") == (("kept", {"turn": 2}), ("new", {"turn": 2}))


def test_changing_nothing(store: DyingStore) -> None:
    store.change({})
    store.change({("kind", "never there"): None})
    assert store.items("kind") == ()


def test_a_label_map_of_an_earlier_version_of_this_program_is_read() -> None:
    document = label_map_document(LABELS)
    del document["next_pair"]
    assert label_map_from(document) == replace(LABELS, next_pair=512)
