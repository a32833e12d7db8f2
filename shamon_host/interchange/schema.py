"""The JSON Schema of the policy file, for editors and for programs that write policies.

It is written by hand, with words for people, in `policy.schema.json` beside this module; the tests hold it against the
reader of the file, key by key. A file that it refuses has a mistake; one that it accepts may still contradict itself.
"""

import json
from importlib.resources import files
from typing import Any

FILE = "policy.schema.json"


def schema_text() -> str:
    """The schema as JSON text (draft 2020-12)."""
    return files("shamon_host.interchange").joinpath(FILE).read_text(encoding="ascii")


def policy_schema() -> dict[str, Any]:
    """The schema as a value, a new one each time."""
    schema: dict[str, Any] = json.loads(schema_text())
    return schema
