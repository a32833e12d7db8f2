"""The JSON Schema and the reader of policy files agree: on every section and key, on what is good, and on mistakes."""

import copy
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from jsonschema import Draft202012Validator

from shamon_host.domain.consistency import inconsistencies
from shamon_host.domain.guest_demand import AfterFailure, GuestDemand
from shamon_host.domain.labels import ResourceKind
from shamon_host.domain.overlay import MAX_PEERS, MAX_PORTS, MAX_RATE_BYTES_S
from shamon_host.domain.policy import (
    LEVELS,
    Demands,
    FailureAction,
    HypervisorKind,
    Intervals,
    Policy,
    Primary,
    TpmDemand,
)
from shamon_host.domain.policy_form import policy_document
from shamon_host.domain.policy_sections import DEFAULT_PORT, SECTIONS, read_sections
from shamon_host.domain.quarantine import Grade
from shamon_host.domain.toml_reader import Reader
from shamon_host.interchange.policy_toml import policy_toml
from shamon_host.interchange.schema import policy_schema, schema_text
from tests.examples import examples
from tests.unit.domain.generated import policies
from tests.unit.domain.policy_text import FINANCE_TEXT, TEXT
from tests.unit.interchange.policies import Document, big_document, policy_of

ROOT = Path(__file__).resolve().parents[3]
EXAMPLES = sorted((ROOT / "examples").rglob("*.toml"))
SCHEMA = policy_schema()
VALIDATOR = Draft202012Validator(SCHEMA)
FINANCE: Document = tomllib.loads(FINANCE_TEXT)
"""Every section and every key."""
Path_ = tuple[str, ...]


def as_json(value: Any) -> Any:
    """A value of a TOML file as editors give it to a schema: a date is a string."""
    match value:
        case dict():
            return {key: as_json(each) for key, each in value.items()}
        case list():
            return [as_json(each) for each in value]
        case datetime():
            return value.isoformat()
        case _:
            return value


def schema_mistakes(document: Document) -> list[str]:
    return [f"{error.json_path}: {error.message}" for error in VALIDATOR.iter_errors(as_json(document))]


def schema_refuses(document: Document) -> bool:
    """As an editor says at the first mistake."""
    return not VALIDATOR.is_valid(as_json(document))


def reader_mistakes(document: Document) -> list[str]:
    reader = Reader(document)
    policy = read_sections(reader)
    return [str(finding) for finding in (*reader.findings, *inconsistencies(policy))]


class ListeningReader(Reader):
    """Notes which keys may be in which table."""

    def __init__(self, root: Mapping[str, Any]) -> None:
        super().__init__(root)
        self.allowed: dict[str, frozenset[str]] = {}

    def only(self, path: str, table: Mapping[str, Any], allowed: Sequence[str]) -> None:
        super().only(path, table, allowed)
        section = re.split(r"\.(?=[^.])", path)[0]
        assert self.allowed.setdefault(section, frozenset(allowed)) == frozenset(allowed)


def resolved(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    while "$ref" in schema:
        schema = SCHEMA["$defs"][schema["$ref"].removeprefix("#/$defs/")]
    return schema


def table_schema(section: str) -> Mapping[str, Any]:
    """The schema of a table of a section: of the section itself, or of each table in it."""
    schema = resolved(SCHEMA["properties"][section])
    if section == "types":
        schema = schema["oneOf"][1]
    return schema if "properties" in schema else resolved(schema["additionalProperties"])


def schemas(schema: Any) -> Iterator[Mapping[str, Any]]:
    """Every schema below one, that with `$defs` too."""
    if isinstance(schema, dict):
        yield schema
        for each in schema.values():
            yield from schemas(each)
    elif isinstance(schema, list):
        for each in schema:
            yield from schemas(each)


def test_it_is_a_schema() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert SCHEMA["title"]
    assert schema_text().isascii()
    assert policy_schema() is not policy_schema()


def test_everything_has_a_description_and_nothing_else_is_allowed() -> None:
    for schema in schemas(SCHEMA):
        if schema.get("type") == "object":
            assert "additionalProperties" in schema
        if isinstance(schema.get("properties"), dict) and "type" in schema:
            assert schema["additionalProperties"] is False
            for key, each in schema["properties"].items():
                assert each.get("description") or resolved(each).get("description"), key
    used = set(re.findall(r"#/\$defs/(\w+)", schema_text()))
    assert used == SCHEMA["$defs"].keys()


def test_every_section_and_key_of_the_reader_is_there_and_no_other() -> None:
    reader = ListeningReader(FINANCE)
    read_sections(reader)
    assert reader.findings == []
    tables = reader.allowed
    assert tables.pop("") == set(SECTIONS) == SCHEMA["properties"].keys()
    assert tables.keys() == set(SECTIONS) - {"walls"}
    for section, keys in tables.items():
        assert table_schema(section)["properties"].keys() == keys, section


def test_choices_and_defaults_are_those_of_the_language() -> None:
    for section, key, choices in (
        ("coalition", "primary", Primary),
        ("types", "on_failure", FailureAction),
        ("types", "tpm", TpmDemand),
        ("resources", "kind", ResourceKind),
        ("labels", "quarantine", Grade),
        ("vms", "quarantine", Grade),
        ("hosts", "hypervisor", HypervisorKind),
        ("guests", "on_failure", AfterFailure),
    ):
        assert table_schema(section)["properties"][key]["enum"] == [each.value for each in choices]
    for name, default in (("intervals", Intervals()), ("demands", Demands())):
        for key, each in table_schema(name)["properties"].items():
            value = getattr(default, key)
            assert each["default"] == (list(value) if isinstance(value, tuple) else value)
    assert table_schema("hosts")["properties"]["port"]["default"] == DEFAULT_PORT
    guest = GuestDemand(name="app", sha256="")
    for key, each in table_schema("guests")["properties"].items():
        assert "default" not in each or each["default"] == getattr(guest, key)
    level = SCHEMA["$defs"]["level"]
    assert range(level["minimum"], level["maximum"] + 1) == LEVELS
    overlay = table_schema("overlays")["properties"]
    limits = (overlay["peers"]["maxItems"], overlay["ports"]["maxItems"], overlay["rate_bytes_s"]["maximum"])
    assert limits == (MAX_PEERS, MAX_PORTS, MAX_RATE_BYTES_S)


def test_defaults_may_be_written_out() -> None:
    least = {
        "coalition": {"name": "one", "version": 1},
        "types": {"acme/red": {}},
        "labels": {"red": {"types": ["acme/red"]}},
        "resources": {"disk": {"types": ["acme/red"]}},
        "hosts": {"alpha": {"address": "192.0.2.1", "types": ["acme/red"]}},
    }
    assert schema_mistakes(least) == []
    policy = policy_of(least)
    written = policy_document(policy)
    del written["format"]
    assert schema_mistakes(written) == []
    for section in ("types", "labels", "resources", "hosts", "coalition"):
        schema = table_schema(section)
        (table,) = written[section].values() if section != "coalition" else (written[section],)
        for key, each in schema["properties"].items():
            if "default" in each and key not in ("inaccessible", "quarantine", "hypervisor"):
                assert table[key] == each["default"], (section, key)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_is_good(path: Path) -> None:
    assert schema_mistakes(tomllib.loads(path.read_text())) == []


@pytest.mark.parametrize("text", [FINANCE_TEXT, TEXT], ids=["finance", "coalition"])
def test_the_policies_of_the_other_tests_are_good(text: str) -> None:
    assert schema_mistakes(tomllib.loads(text)) == []


@settings(max_examples=examples(60), suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(policies())
def test_every_generated_policy_is_good(policy: Policy) -> None:
    assert schema_mistakes(tomllib.loads(policy_toml(policy))) == []
    written = policy_document(policy)
    del written["format"]
    assert schema_mistakes(written) == []


def test_a_big_policy_is_good() -> None:
    assert schema_mistakes(big_document(organisations=6, types=60)) == []


def test_types_may_be_a_list() -> None:
    document = tomllib.loads(TEXT)
    document["types"] = sorted(document["types"])
    assert schema_mistakes(document) == []
    document["types"].append("acme")
    assert schema_refuses(document)


# Mistakes


def places(value: Any, path: Path_ = ()) -> Iterator[Path_]:
    """Everything in a document, as keys from the root on."""
    if isinstance(value, dict):
        for key, each in value.items():
            yield (*path, key)
            yield from places(each, (*path, key))


def at(document: Any, path: Path_) -> Any:
    for key in path:
        document = document[key]
    return document


def with_value(path: Path_, value: Any) -> Document:
    changed = copy.deepcopy(FINANCE)
    at(changed, path[:-1])[path[-1]] = value
    return changed


ALL = list(places(FINANCE))
TABLES = [(), *(path for path in ALL if isinstance(at(FINANCE, path), dict))]
VALUES = [path for path in ALL if path not in TABLES]


@pytest.mark.parametrize("path", TABLES, ids=".".join)
def test_both_refuse_a_key_that_is_not_in_the_language(path: Path_) -> None:
    wrong = with_value((*path, "No such key"), {} if path else {"x": 1})
    assert schema_refuses(wrong)
    assert reader_mistakes(wrong)


@pytest.mark.parametrize("path", ALL, ids=".".join)
def test_both_refuse_values_of_another_kind(path: Path_) -> None:
    there = at(FINANCE, path)
    others: tuple[Any, ...] = ({"a": 1}, [{}], [1.5], 1.5, -1, True, "No name", ["No name"], [[]])
    for value in others:
        if isinstance(value, type(there)) and not isinstance(value, (str, list, dict)):
            continue
        if isinstance(value, (int, float)) and isinstance(there, (int, float)) and not isinstance(value, bool):
            continue
        wrong = with_value(path, value)
        assert schema_refuses(wrong), value
        assert reader_mistakes(wrong), value


REQUIRED = [
    ("coalition",), ("types",), ("hosts",), ("coalition", "name"), ("coalition", "version"), ("coalition", "parent"),
    ("signing", "threshold"), ("signing", "keys"), ("keys", "ops-1", "public"), ("departments", "bank/markets", "of"),
    ("labels", "auditor", "types"), ("resources", "report-net", "types"), ("conflicts", "rooms", "types"),
    ("hosts", "alpha", "address"), ("hosts", "alpha", "types"), ("images", "app", "sha256"), ("vms", "desk", "label"),
    ("vms", "desk", "image"), ("vms", "desk", "host"), ("guests", "app", "sha256"), ("overlays", "quiet", "label"),
]  # fmt: skip


@pytest.mark.parametrize("path", REQUIRED, ids=".".join)
def test_both_refuse_that_something_is_missing(path: Path_) -> None:
    wrong = copy.deepcopy(FINANCE)
    del at(wrong, path[:-1])[path[-1]]
    assert schema_refuses(wrong)
    assert reader_mistakes(wrong)


@pytest.mark.parametrize("path", [path for path in ALL if path not in REQUIRED], ids=".".join)
def test_the_schema_demands_nothing_that_may_be_missing(path: Path_) -> None:
    less = copy.deepcopy(FINANCE)
    del at(less, path[:-1])[path[-1]]
    told = [mistake for mistake in reader_mistakes(less) if "missing" in mistake]
    assert schema_refuses(less) is bool(told)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("walls",), ["board", "board"]),
        (("walls",), ["Board"]),
        (("coalition", "name"), "-finance"),
        (("coalition", "name"), "f" * 64),
        (("coalition", "version"), 0),
        (("coalition", "version"), 1),  # has a parent, and renames
        (("coalition", "parent"), "AB" * 32),
        (("coalition", "expires"), "tomorrow"),
        (("coalition", "expires"), -1),
        (("coalition", "primary"), "biba"),
        (("signing", "threshold"), 0),
        (("signing", "threshold"), 65),
        (("signing", "keys"), []),
        (("keys", "ops-1", "public"), "not base64"),
        (("keys", "ops-1", "public"), "AAAA"),
        (("types",), {}),
        (("types",), []),
        (("types", "bank/ledger", "confidentiality"), 16),
        (("types", "bank/ledger", "integrity"), -1),
        (("types", "bank/ledger", "tpm"), "soft"),
        (("types", "bank/ledger", "apart"), ["rival", "rival"]),
        (("types", "bank/ledger", "equivalent"), ["rival"]),
        (("types", "ledger"), {}),
        (("labels", "unlabelled"), {"types": ["audit/report"]}),
        (("labels", "auditor"), {"types": []}),
        (("labels", "auditor"), {"reads": [], "writes": []}),
        (("resources", "old"), {"inaccessible": True, "types": ["audit/report"]}),
        (("resources", "old"), {"inaccessible": False}),
        (("resources", "old"), {"types": []}),
        (("resources", "ledger-disk", "kind"), "tape"),
        (("conflicts", "rooms", "types"), ["board"]),
        (("hosts",), {}),
        (("hosts", "alpha", "address"), "alpha.example"),
        (("hosts", "alpha", "port"), 0),
        (("hosts", "alpha", "port"), 65536),
        (("hosts", "alpha", "types"), []),
        (("hosts", "alpha", "hypervisor"), "kvm"),
        (("images", "app", "sha256"), "9f86"),
        (("guests", "app", "sha256"), "9f86"),
        (("guests", "app", "period_s"), 0.5),
        (("guests", "app", "lease_s"), 86401),
        (("guests", "app", "on_failure"), "suspend"),
        (("vms", "desk", "interfaces"), ["bank/mail", "bank/mail"]),
        (("overlays", "office-hours", "ports"), ["tcp/0"]),
        (("overlays", "office-hours", "ports"), ["icmp/8"]),
        (("overlays", "office-hours", "times"), ["mon-fri 8:00-18:00"]),
        (("overlays", "office-hours", "times"), ["always"]),
        (("overlays", "office-hours", "ports"), [f"tcp/{number}" for number in range(1, MAX_PORTS + 2)]),
        (("overlays", "office-hours", "peers"), [f"v{number}" for number in range(MAX_PEERS + 1)]),
        (("overlays", "office-hours", "rate_bytes_s"), 999),
        (("overlays", "office-hours", "rate_bytes_s"), MAX_RATE_BYTES_S + 1),
        (("renames", "types"), {"bank/post": "mail"}),
        (("renames", "labels"), {"dealer": "No name"}),
        (("intervals", "period_s"), 0),
        (("intervals", "lease_s"), 86401),
        (("intervals", "margin_s"), -0.5),
        (("intervals", "timeout_s"), 1e9),
        (("demands", "empty_pcrs"), [24]),
        (("demands", "allow_software_tpm"), "yes"),
    ],
    ids=lambda value: ".".join(value) if isinstance(value, tuple) else None,
)
def test_both_refuse_values_that_the_language_has_not(path: Path_, value: Any) -> None:
    wrong = with_value(path, value)
    assert schema_refuses(wrong)
    assert reader_mistakes(wrong)


def test_only_the_check_sees_what_is_beyond_a_schema() -> None:
    wrong = with_value(("vms", "desk", "image"), "no-such-image")
    assert schema_mistakes(wrong) == []
    assert reader_mistakes(wrong)
