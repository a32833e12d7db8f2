"""The text of a policy file, with one thing in it changed, and what is then wrong with it."""

from pathlib import Path

import pytest

from shamon_host.domain.policy import Policy
from shamon_host.domain.policy_file import PolicyErrors, parse_policy
from tests.unit.domain.values import POLICY_BYTES

SOURCE = "coalition.toml"
TEXT = POLICY_BYTES.decode()
FINANCE_TEXT = (Path(__file__).parent / "finance.toml").read_text()
"""A policy with every section and every key."""


def parse(text: str) -> Policy:
    return parse_policy(text.encode(), source=SOURCE)


def changed(old: str, new: str, text: str = TEXT) -> str:
    assert text.count(old) == 1, f"{text.count(old)} × {old}"
    return text.replace(old, new)


def changed_finance(old: str, new: str) -> str:
    return changed(old, new, FINANCE_TEXT)


def errors(text: str) -> PolicyErrors:
    with pytest.raises(PolicyErrors) as caught:
        parse(text)
    assert caught.value.exit_code == 2
    assert SOURCE in str(caught.value)
    return caught.value


def line_of(text: str, key: str) -> int:
    """Where a person would look for a key: at its own header, else below that of its table; at the latter if the key
    is not there at all. Knows files with one key or header in a line alone."""
    lines = text.splitlines()
    if f"[{key}]" in lines:
        return lines.index(f"[{key}]") + 1
    table, _, name = key.rpartition(".")
    header = lines.index(f"[{table}]") if table else -1
    for number, line in enumerate(lines[header + 1 :], start=header + 2):
        if line.startswith(f"{name} ="):
            return number
        if line.startswith("["):
            break
    return header + 1


def assert_one_mistake(text: str, key: str, *words: str) -> None:
    """The policy has this mistake and no other one; it is told with its place in the file and these words."""
    error = errors(text)
    assert [finding.key for finding in error.findings] == [key]
    assert error.where == f"{SOURCE}: line {line_of(text, key)}: {key}"
    for word in words:
        assert word in str(error)
