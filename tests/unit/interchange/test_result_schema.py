"""The schema of Attestation Results and their reader agree, on what is good and on mistakes."""

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from jsonschema import Draft202012Validator

from shamon_host.attestation.result_document import FORMAT, MAX_TEXT, result_document
from shamon_host.domain.results import ClaimName, ClaimStatus, TpmKind
from shamon_host.interchange.schema import RESULT_FILE, result_schema, schema_text
from tests.unit.attestation.appraised_world import Attested
from tests.unit.attestation.result_records import attested, record_of, records
from tests.unit.attestation.test_result_document import MISTAKES

SCHEMA = result_schema()
VALIDATOR = Draft202012Validator(SCHEMA)
BEYOND_THE_SCHEMA = {"trusted", "claims", "appraised_at", "claims[2]"}
"""What a value must be because of another one: that is for the reader."""


def test_it_is_a_schema_in_which_everything_is_described() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    assert schema_text(RESULT_FILE).isascii()
    assert result_schema() is not result_schema()
    for table in (SCHEMA, SCHEMA["$defs"]["claim"], SCHEMA["$defs"]["place"]):
        assert table["additionalProperties"] is False
        assert all(each.get("description") for each in table["properties"].values())
    assert set(re.findall(r"#/\$defs/(\w+)", schema_text(RESULT_FILE))) == SCHEMA["$defs"].keys()


def test_names_and_limits_are_those_of_the_reader() -> None:
    claim = SCHEMA["$defs"]["claim"]["properties"]
    assert SCHEMA["properties"]["format"]["const"] == FORMAT
    assert claim["name"]["enum"] == list(ClaimName)
    assert claim["status"]["enum"] == list(ClaimStatus)
    assert SCHEMA["properties"]["tpm"]["enum"] == list(TpmKind)
    assert SCHEMA["properties"]["claims"]["minItems"] == SCHEMA["properties"]["claims"]["maxItems"] == len(ClaimName)
    assert {claim[name]["maxLength"] for name in ("reason", "where", "expected", "found")} == {MAX_TEXT}
    document = result_document(record_of())
    assert set(SCHEMA["required"]) == SCHEMA["properties"].keys() == document.keys()
    assert set(SCHEMA["$defs"]["claim"]["required"]) == claim.keys() == document["claims"][0].keys()


@given(records())
def test_every_document_fits(record: Any) -> None:
    assert [error.message for error in VALIDATOR.iter_errors(result_document(record))] == []


def test_the_document_of_a_real_appraisal_fits() -> None:
    world = Attested()
    world.machine.run_program("/tmp/unknown", b"unknown")
    VALIDATOR.validate(result_document(attested(world)))


@pytest.mark.parametrize(
    ("named", "change"), [(name, change) for name, change in MISTAKES if name not in BEYOND_THE_SCHEMA]
)
def test_what_the_schema_can_tell_it_refuses(named: str, change: Callable[[dict[str, Any]], Any]) -> None:
    document = copy.deepcopy(result_document(record_of()))
    change(document)
    assert list(VALIDATOR.iter_errors(document)), named
