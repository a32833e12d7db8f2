"""Evidence files: whole again when read, and hostile bytes are bad input."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shamon_host.attestation.evidence_file import FORMAT, decode_file, encode_file
from shamon_host.domain.errors import BadInput
from tests.unit.attestation.appraised_world import Attested
from tests.unit.attestation.result_records import kept

WORLD = Attested()
FIRST, SECOND = kept(WORLD), kept(WORLD)
FIELDS = json.loads(encode_file(SECOND))


def test_it_is_read_as_it_was_written() -> None:
    for file in (FIRST, SECOND):
        assert decode_file(encode_file(file)) == file
    assert FIRST.state is None
    assert SECOND.state is not None
    assert FIELDS["format"] == FORMAT


@pytest.mark.parametrize(
    "change",
    [
        {"format": "shamon-evidence/2"},
        {"format": None},
        {"more": 1},
        {"role": "bystander"},
        {"transcript": "00" * 31},
        {"transcript": 7},
        {"qualifying_data": "zz" * 32},
        {"ak_public": "!"},
        {"ak_public": "AAAA" * 2000},
        {"tpm": "none"},
        {"tpm": []},
        {"state": {}},
        {"state": []},
        {"state": 7},
        {"state": {**FIELDS["state"], "ima_offset": -1}},
        {"evidence": None},
        {"evidence": {}},
        {"evidence": {**FIELDS["evidence"], "ima_log": "?"}},
        {"evidence": {**FIELDS["evidence"], "pcrs": {}}},
        {"result": {}},
        {"result": None},
    ],
)
def test_mistakes_are_bad_input(change: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        decode_file(json.dumps({**FIELDS, **change}).encode())


@pytest.mark.parametrize("missing", sorted(FIELDS))
def test_everything_must_be_there(missing: str) -> None:
    with pytest.raises(BadInput):
        decode_file(json.dumps({key: value for key, value in FIELDS.items() if key != missing}).encode())


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_other_bytes_are_bad_input(data: bytes) -> None:
    with pytest.raises(BadInput):
        decode_file(data)


@pytest.mark.parametrize("data", [b"[" * 100_000, b'{"format":' * 10_000])
def test_deep_nesting_is_bad_input(data: bytes) -> None:
    with pytest.raises(BadInput):
        decode_file(data)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


@given(st.data())
def test_any_value_in_any_place_is_bad_input_or_read(data: st.DataObject) -> None:
    fields = json.loads(json.dumps(FIELDS))
    target = data.draw(st.sampled_from([fields, fields["evidence"], fields["state"], fields["state"]["facts"]]))
    target[data.draw(st.sampled_from(sorted(target)))] = data.draw(_json)
    try:
        decode_file(json.dumps(fields).encode())
    except BadInput:
        return
