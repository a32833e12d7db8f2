"""Reference Values on disk: read back as written, and refused with file, key and what was expected."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shamon_host.attestation.reference_part import part_document
from shamon_host.attestation.reference_values import (
    ReferenceValues,
    dump_reference_values,
    load_reference_values,
    parse_any,
    parse_reference_values,
)
from shamon_host.domain.errors import BadInput
from tests.examples import examples
from tests.unit.attestation.appraised_world import recorded

DIGEST = "ab" * 32


@pytest.fixture(scope="module")
def reference() -> ReferenceValues:
    return recorded()


@pytest.fixture
def document(reference: ReferenceValues) -> dict[str, Any]:
    copied: dict[str, Any] = json.loads(json.dumps(reference.to_document()))
    return copied


def test_what_is_written_is_read_back(reference: ReferenceValues, tmp_path: Path) -> None:
    path = tmp_path / "beta.json"
    dump_reference_values(reference, path)
    again = load_reference_values(path)
    assert again == reference
    assert again.digest == reference.digest
    assert [item.name for item in tmp_path.iterdir()] == ["beta.json"]


def test_the_digest_changes_with_anything_in_it(reference: ReferenceValues) -> None:
    changes: list[dict[str, Any]] = [
        {"files": {**reference.files, "/bin/x": frozenset({DIGEST})}},
        {"ima_policy": "/etc/other"},
        {"early_data": ("/var/lib/x/*",)},
        {"selinux": replace(reference.selinux, policy_digests=frozenset({DIGEST}))},
        {"pcrs": {**reference.pcrs, 8: ()}},
        {"buffers": {}},
    ]
    assert len({replace(reference, **change).digest for change in changes} | {reference.digest}) == len(changes) + 1


def test_merged_accepts_what_either_accepts(reference: ReferenceValues) -> None:
    other = replace(
        reference,
        files={"/usr/sbin/libvirtd": frozenset({DIGEST}), "/bin/x": frozenset({DIGEST})},
        selinux=replace(reference.selinux, policy_digests=frozenset({DIGEST})),
    )
    merged = reference.merged(other)
    assert merged.files["/usr/sbin/libvirtd"] == reference.files["/usr/sbin/libvirtd"] | {DIGEST}
    assert merged.files["/bin/x"] == {DIGEST}
    assert merged.selinux.policy_digests == reference.selinux.policy_digests | {DIGEST}
    assert merged.pcrs == reference.pcrs
    assert reference.merged(reference).digest == reference.digest


def _set(*keys: str | int, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(document: Any) -> None:
        for key in keys[:-1]:
            document = document[key]
        document[keys[-1]] = value

    return change


def _drop(*keys: str) -> Callable[[dict[str, Any]], None]:
    def change(document: Any) -> None:
        for key in keys[:-1]:
            document = document[key]
        del document[keys[-1]]

    return change


@pytest.mark.parametrize(
    ("change", "key", "expected"),
    [
        (_drop("format"), "format", ""),
        (_set("format", value="other/9"), "format", "shamon-reference-values/2"),
        (_set("extra", value=1), "extra", "format, pcrs"),
        (_set("selinux", "mode", value="x"), "selinux.mode", "states, policy_digests"),
        (_drop("pcrs", "4"), "pcrs.4", ""),
        (_set("pcrs", "10", value=[]), "pcrs.10", "0, 1"),
        (_set("pcrs", "4", value=[]), "pcrs.4", "not empty"),
        (_set("pcrs", "4", 0, "value", value="AB" * 32), "pcrs.4.0.value", "64 lower-case"),
        (_set("pcrs", "4", 0, "events", 0, "digest", value=7), "pcrs.4.0.events.0.digest", "64 lower-case"),
        (_set("pcrs", "4", 0, "events", value={}), "pcrs.4.0.events", "a list"),
        (_set("ima_policy", value="etc/ima"), "ima_policy", "absolute path"),
        (_set("ima_policy", value="/etc/ima/unmeasured"), "files", "/etc/ima/unmeasured"),
        (_set("early", "libc", value="/lib/unknown.so"), "files", "libc"),
        (_set("early", value={}), "early", "not empty"),
        (_set("selinux", "states", value=["initialized=1;enforcing=0;"]), "selinux.states.0", "enforcing=1"),
        (_set("selinux", "states", value=[]), "selinux.states", "not empty"),
        (_set("code", "prefix", value="/"), "code.prefix", "final slash"),
        (_set("code", "prefix", value="/opt/shamon"), "code.prefix", "final slash"),
        (_set("code", "entries", value=[]), "code.entries", "not empty"),
        (_set("files", "/usr/bin/ls", value=[]), "files./usr/bin/ls", "not empty"),
        (_set("files", "/usr/bin/ls", value="x"), "files./usr/bin/ls", "list"),
        (_set("files", value=[]), "files", "table"),
        (_set("buffers", "kernel_version", value=["short"]), "buffers.kernel_version.0", "64 lower-case"),
        (_set("early_data", value=["/usr/lib/*"]), "early_data.0", "data files"),
        (_set("early_data", value=["/*"]), "early_data.0", "data files"),
        (_set("early_data", value=["/etc/../usr/*"]), "early_data.0", "absolute path"),
    ],
)
def test_a_mistake_is_named(
    document: dict[str, Any], change: Callable[[dict[str, Any]], None], key: str, expected: str
) -> None:
    change(document)
    with pytest.raises(BadInput) as caught:
        parse_reference_values(json.dumps(document).encode(), where="/etc/shamon/reference/beta.json")
    error = caught.value
    assert error.where == "/etc/shamon/reference/beta.json"
    assert key in error.what
    assert expected in error.expected
    assert "shamon reference record" in error.remedy


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"format": 1, "format": 2}', b"[" * 100_000]
)
def test_what_is_no_such_file_is_refused(data: bytes) -> None:
    with pytest.raises(BadInput):
        parse_reference_values(data)


def test_a_key_that_stands_twice_is_refused(reference: ReferenceValues) -> None:
    text = json.dumps(reference.to_document())
    doubled = text.replace('"ima_policy":', '"ima_policy": "/etc/ima/weaker", "ima_policy":')
    with pytest.raises(BadInput) as caught:
        parse_reference_values(doubled.encode())
    assert "ima_policy" in caught.value.found


def test_a_missing_file_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BadInput) as caught:
        load_reference_values(tmp_path / "gamma.json")
    assert str(tmp_path / "gamma.json") in str(caught.value)


def test_what_cannot_be_written_leaves_nothing(reference: ReferenceValues, tmp_path: Path) -> None:
    with pytest.raises(BadInput):
        dump_reference_values(reference, tmp_path / "nowhere" / "beta.json")
    (tmp_path / "taken.json").mkdir()
    with pytest.raises(BadInput):
        dump_reference_values(reference, tmp_path / "taken.json")
    assert [item.name for item in tmp_path.iterdir()] == ["taken.json"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["/a/b/c", DIGEST]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
KEYS = ("format", "version", "parent", "pcrs", "selinux", "files", "packages", "digests", "signed", "patterns")
MORE_KEYS = ("violations", "buffers", "early_data", "early", "code", "ima_policy", "other")


@settings(max_examples=examples(200), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.dictionaries(st.sampled_from(KEYS + MORE_KEYS), JSON, min_size=1, max_size=3), part=st.booleans())
def test_whatever_stands_under_a_key_is_read_or_refused(
    document: dict[str, Any], changes: dict[str, Any], part: bool
) -> None:
    base = {"format": "shamon-reference-part/2"} if part else document
    try:
        again = parse_any(json.dumps(base | changes).encode())
    except BadInput:
        return
    written = again.to_document() if isinstance(again, ReferenceValues) else part_document(again)
    assert parse_any(json.dumps(written).encode()) == again
