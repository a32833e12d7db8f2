"""The JSON Schemas of what other programs read and write: the policy file, and Attestation Results.

They are written by hand, with words for people, beside this module; the tests hold each against the reader, key by key.
A file that a schema refuses has a mistake; one that it accepts may still contradict itself.
"""

import json
from importlib.resources import files
from typing import Any

FILE = "policy.schema.json"
RESULT_FILE = "attestation-result.schema.json"


def schema_text(file: str = FILE) -> str:
    """A schema as JSON text (draft 2020-12)."""
    return files("shamon_host.interchange").joinpath(file).read_text(encoding="ascii")


def policy_schema() -> dict[str, Any]:
    """The policy's schema as a value, a new one each time."""
    return _value(FILE)


def result_schema() -> dict[str, Any]:
    """The schema of Attestation Results as a value, a new one each time."""
    return _value(RESULT_FILE)


def _value(file: str) -> dict[str, Any]:
    schema: dict[str, Any] = json.loads(schema_text(file))
    return schema
