"""A policy written as a file says what it said, to the last default."""

import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shamon_host.domain.labels import TypeName
from shamon_host.domain.policy import Policy, TypeDefinition
from shamon_host.domain.policy_file import MAX_DOTS_IN_LINE, parse_policy
from shamon_host.domain.policy_form import with_digest
from shamon_host.interchange.policy_toml import policy_toml
from tests.examples import examples
from tests.unit.domain.generated import policies
from tests.unit.domain.policy_text import FINANCE_TEXT
from tests.unit.domain.values import POLICY, POLICY_BYTES

EXAMPLES = sorted((Path(__file__).parents[3] / "examples").glob("*.toml"))


def read_back(policy: Policy, comment: str = "") -> Policy:
    return parse_policy(policy_toml(policy, comment=comment).encode(), source="written.toml")


@given(policies())
@settings(max_examples=examples(150), deadline=None)
def test_what_was_written_reads_as_the_same_policy(policy: Policy) -> None:
    again = read_back(policy)
    assert again.digest == policy.digest
    assert again == policy


@pytest.mark.parametrize(
    "text", [POLICY_BYTES.decode(), FINANCE_TEXT, *(each.read_text() for each in EXAMPLES)], ids=lambda text: text[:30]
)
def test_files_of_people_come_back(text: str) -> None:
    policy = parse_policy(text.encode(), source="people.toml")
    assert read_back(policy) == policy


def test_writing_twice_gives_the_same_file() -> None:
    assert policy_toml(read_back(POLICY)) == policy_toml(POLICY)


@given(st.text())
@settings(max_examples=examples(300), deadline=None)
def test_a_comment_stays_a_comment(comment: str) -> None:
    assert read_back(POLICY, comment).digest == POLICY.digest


def test_the_comment_is_on_top_line_by_line() -> None:
    lines = policy_toml(POLICY, comment="one\ntwo = 2\n\nthree").splitlines()
    assert lines[:4] == ["# one", "# two = 2", "#", "# three"]
    assert tomllib.loads("\n".join(lines)).keys().isdisjoint({"two"})
    assert policy_toml(POLICY).startswith("[coalition]\n")


def test_what_nobody_may_see_in_a_comment_is_a_question_mark() -> None:
    assert policy_toml(POLICY, comment="\x1b[2Ja\x00\ud800\x7fé").startswith("# ?[2Ja???é\n")


def test_names_that_toml_would_take_apart_are_quoted() -> None:
    text = policy_toml(POLICY)
    assert '[types."acme/red"]' in text
    policy = with_digest(
        replace(POLICY, vm_labels={**POLICY.vm_labels, "red.v2": replace(POLICY.vm_labels["red"], name="red.v2")})
    )
    assert '[labels."red.v2"]' in policy_toml(policy)
    assert "[labels.red-orders]" in policy_toml(policy)
    assert read_back(policy) == policy


def test_lists_that_a_reader_would_not_take_in_one_line_are_broken() -> None:
    """A line may have so many dots, and a name may have some."""
    names = [TypeName(f"acme/a.b.c.{number}") for number in range(MAX_DOTS_IN_LINE)]
    definitions = {name: TypeDefinition(name=name) for name in names}
    host = next(iter(POLICY.hosts.values()))
    policy = with_digest(
        replace(
            POLICY,
            definitions={**POLICY.definitions, **definitions},
            hosts={**POLICY.hosts, host.name: replace(host, types=host.types.union(names))},
        )
    )
    assert read_back(policy) == policy
    assert max(map(len, policy_toml(policy).splitlines())) <= 140


def test_empty_lists_that_say_something_stay() -> None:
    """No interfaces is not the same as one for each type; no port is not the same as any."""
    text = FINANCE_TEXT.replace('ports = ["tcp/443", "udp/53"]', "ports = []").replace(
        'peers = ["reviewer"]', "peers = []"
    )
    text = text.replace('starting = ["audit/report", "bank/ledger"]', "starting = []")
    policy = parse_policy(text.encode(), source="finance.toml")
    again = read_back(policy)
    assert again == policy
    assert again.overlays["office-hours"].ports == frozenset()
    assert next(host.starting for host in again.hosts.values() if host.name == "alpha") == frozenset()
    assert again.overlays["quiet"].peers is None
