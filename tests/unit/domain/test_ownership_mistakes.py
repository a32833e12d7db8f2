"""Mistakes about who signs, who owns what, and what types mean: each with its key, its line, and words to act on."""

import base64

import pytest

from shamon_host.domain.labels import TypeName
from shamon_host.domain.policy import MAX_DEPTH
from tests.unit.domain.policy_text import FINANCE_TEXT, assert_one_mistake, changed_finance, errors, line_of, parse

OPS_1 = FINANCE_TEXT[FINANCE_TEXT.index("[keys.ops-1]") : FINANCE_TEXT.index("[keys.ops-2]")].split('"')[1]
OPS_2 = FINANCE_TEXT[FINANCE_TEXT.index("[keys.ops-2]") : FINANCE_TEXT.index("[keys.ops-3]")].split('"')[1]


@pytest.mark.parametrize(
    ("old", "new", "key", "words"),
    [
        # coalition
        ("+02:00", "", "coalition.expires", ["a date and time with its offset", "found a datetime"]),
        ("2027-06-30T02:00:00+02:00", "2027-06-30", "coalition.expires", ["with its offset", "found a date"]),
        ("2027-06-30T02:00:00+02:00", "02:00:00", "coalition.expires", ["with its offset", "found a time"]),
        ("2027-06-30T02:00:00+02:00", '"2027-06-30"', "coalition.expires", ["with its offset", "the string"]),
        ("2027-06-30T02:00:00+02:00", "-1", "coalition.expires", ["with its offset", "the integer -1"]),
        ("2027-06-30T02:00:00+02:00", "1969-12-31T23:59:59Z", "coalition.expires", ["with its offset"]),
        ("2027-06-30T02:00:00+02:00", "true", "coalition.expires", ["with its offset", "found true"]),
        ("2027-06-30T02:00:00+02:00", "1e9", "coalition.expires", ["with its offset", "the float"]),
        ('primary = "ste"', 'primary = "stee"', "coalition.primary", ['"chinese-wall", "ste"', "Did you mean ste?"]),
        ('primary = "ste"', "primary = 1", "coalition.primary", ["one of", "the integer 1"]),
        ("primary =", "primery =", "coalition.primery", ["unknown key", "Did you mean primary?"]),
        # signing and keys
        ("threshold = 2", "threshold = 0", "signing.threshold", ["an integer from 1 to 64"]),
        ("threshold = 2", "threshold = 4", "signing.threshold", ["cannot be met", "1 to 3, the number of keys"]),
        ("threshold = 2\n", "", "signing.threshold", ["missing"]),
        ('"ops-2"]', '"ops-4"]', "signing.keys", ["unknown signing key", "ops-4", "one of: bank-2026, ops-1"]),
        ('"ops-2"]', '"ops-1"]', "signing.keys", ["given twice", "ops-1"]),
        ('"ops-2"]', "2]", "signing.keys", ["a list of strings, names of keys"]),
        ('"ops-2"]', '"Ops 2"]', "signing.keys", ["bad name", "'Ops 2'"]),
        ("[signing]", "[signing]\nall = true", "signing.all", ["unknown key", "threshold, keys"]),
        (OPS_1, OPS_1[:-4], "keys.ops-1.public", ["not a public key", "base64 of a DER SubjectPublicKeyInfo"]),
        (OPS_1, OPS_1.replace("M", "*", 1), "keys.ops-1.public", ["not a public key"]),
        (OPS_1, base64.b64encode(bytes(43)).decode(), "keys.ops-1.public", ["not a public key"]),
        (OPS_1, base64.b64encode(bytes(160)).decode(), "keys.ops-1.public", ["not a public key"]),
        (OPS_1, OPS_1[:-1] + "\\n=", "keys.ops-1.public", ["not a public key"]),
        (OPS_1, OPS_1[:-2] + "9=", "keys.ops-1.public", ["not a public key"]),
        (OPS_2, OPS_1, "keys.ops-2.public", ["the key ops-1 too", "one name for each key"]),
        ("[keys.ops-3]\n", '[keys.ops-3]\nprivate = "x"\n', "keys.ops-3.private", ["unknown key", "public"]),
        # organisations and departments
        ('key = "bank-2026"', 'key = "bank-2027"', "organisations.bank.key", ["unknown signing key", "bank-2026?"]),
        ('key = "bank-2026"', 'key = ""', "organisations.bank.key", ["a string, the name of a key"]),
        ('key = "bank-2026"', 'keys = "ops-1"', "organisations.bank.keys", ["unknown key", "Did you mean key?"]),
        ("[organisations.rival]", "[organisations.rival]\nkey = 1", "organisations.rival.key", ["a string"]),
        (
            'of = "bank/markets"',
            'of = "bank/market"',
            'departments."bank/trading".of',
            ["unknown organisation or department", "Did you mean bank/markets?"],
        ),
        (
            "[organisations.audit]",
            '[departments."rival/desk"]\nof = "bank/trading"\n\n[organisations.audit]',
            'departments."rival/desk".of',
            ["begins with another organisation", "expected bank/...", "found rival/desk"],
        ),
        (
            "[organisations.audit]",
            '[departments."bank/desk"]\nof = "bank/tradings"\n\n[organisations.audit]',
            'departments."bank/desk".of',
            ["unknown organisation or department", "found bank/tradings", "Did you mean bank/trading?"],
        ),
        ('of = "bank/markets"\n', "", 'departments."bank/trading".of', ["missing", "an organisation or a department"]),
        (
            '[departments."bank/trading"]',
            '[departments."bank/trading"]\nhead = "bob"',
            'departments."bank/trading".head',
            ["unknown key"],
        ),
        (
            "[organisations.audit]",
            '[departments."audit/vault"]\nof = "audit"\n\n[organisations.audit]',
            'departments."audit/vault"',
            ["a type has the same name"],
        ),
        # walls
        ('["board", "lobby"]\n\n[coal', '["board", "lobby", "lobby"]\n\n[coal', "walls", ["given twice", "lobby"]),
        ('["board", "lobby"]\n\n[coal', '["board", "lobby", "A/B"]\n\n[coal', "walls", ["bad name", "'A/B'"]),
        ('["board", "lobby"]\n\n[coal', '["board", "lobby", "bank"]\n\n[coal', "walls", ["Chinese Wall type anyway"]),
        ('["board", "lobby"]\n\n[coal', '"board"\n\n[coal', "walls", ["a list of strings, Chinese Wall types"]),
    ],
)
def test_a_mistake_is_told_once_with_its_key_and_line(old: str, new: str, key: str, words: list[str]) -> None:
    assert_one_mistake(changed_finance(old, new), key, *words)


LEDGER = 'types."bank/ledger"'


@pytest.mark.parametrize(
    ("old", "new", "key", "words"),
    [
        ('owner = "bank/trading"', 'owner = "bank/trade"', f"{LEDGER}.owner", ["Did you mean bank/trading?"]),
        ('owner = "bank/trading"', "owner = 7", f"{LEDGER}.owner", ["a string, an organisation or a department"]),
        ('tpm = "hardware"', 'tpm = "software"', f"{LEDGER}.tpm", ['"any", "hardware"', "the string 'software'"]),
        ("confidentiality = 2", "confidentiality = 16", f"{LEDGER}.confidentiality", ["an integer from 0 to 15"]),
        ("confidentiality = 2", "confidentiality = -1", f"{LEDGER}.confidentiality", ["an integer from 0 to 15"]),
        ("confidentiality = 2", "confidentiality = true", f"{LEDGER}.confidentiality", ["found true"]),
        ("integrity = 1\napart", "integrity = 1.0\napart", f"{LEDGER}.integrity", ["an integer from 0 to 15"]),
        ('"rival", "lobby"]', '"rival", "attic"]', f"{LEDGER}.apart", ["unknown Chinese Wall type", "attic"]),
        ('"rival", "lobby"]', '"bank/ledger"]', f"{LEDGER}.apart", ["apart from itself or its owner"]),
        ('"rival", "lobby"]', '"rival", "rival"]', f"{LEDGER}.apart", ["given twice", "rival"]),
        ('equivalent = ["rival/books"]', 'equivalent = ["books"]', f"{LEDGER}.equivalent", ["bad type name"]),
        ('equivalent = ["rival/books"]', 'equivalent = ["bank/ledger"]', f"{LEDGER}.equivalent", ["itself anyway"]),
        ('equivalent = ["rival/books"]', "equivalent = true", f"{LEDGER}.equivalent", ["a list of strings, types"]),
        ('tpm = "hardware"', 'tmp = "hardware"', f"{LEDGER}.tmp", ["unknown key", "Did you mean tpm?"]),
        (
            "[organisations.audit]",
            '[types."acme/red"]\n\n[organisations.audit]',
            'types."acme/red"',
            ["unknown organisation", "expected one of: audit, bank, rival", "found acme"],
        ),
    ],
)
def test_mistakes_in_what_a_type_means(old: str, new: str, key: str, words: list[str]) -> None:
    assert_one_mistake(changed_finance(old, new), key, *words)


@pytest.mark.parametrize("owner", ["bank/trading", "bank/markets", "bank"])
def test_a_type_cannot_be_apart_from_its_owners(owner: str) -> None:
    """Nothing could ever run with it: every label with the type is then in conflict with itself too."""
    text = changed_finance('"rival", "lobby"]', f'"rival", "{owner}"]')
    first, *others = errors(text).findings
    assert (first.key, first.found, first.line) == (f"{LEDGER}.apart", owner, line_of(text, f"{LEDGER}.apart"))
    assert {finding.what for finding in others} == {"the label is in conflict with itself"}


def test_departments_in_a_circle_are_refused_each_with_the_way_round() -> None:
    text = changed_finance('of = "bank"\n', 'of = "bank/trading"\n')
    error = errors(text)
    found = {finding.key: finding for finding in error.findings}
    assert set(found) == {'departments."bank/markets".of', 'departments."bank/trading".of'}
    for key, finding in found.items():
        assert finding.what == "a department is part of itself"
        assert finding.line == line_of(text, key)
    assert found['departments."bank/markets".of'].found == "bank/markets of bank/trading of bank/markets"


def circle(length: int) -> str:
    """Departments in a circle, and one that is part of one of them."""
    departments = [f'[departments."bank/d{number}"]\nof = "bank/d{(number + 1) % length}"' for number in range(length)]
    return "\n".join([FINANCE_TEXT, *departments, '[departments."bank/outside"]\nof = "bank/d0"'])


@pytest.mark.parametrize("length", [1, 2, 3, MAX_DEPTH - 1])
def test_a_circle_is_told_by_everybody_in_it_and_nobody_else(length: int) -> None:
    findings = errors(circle(length)).findings
    assert {finding.key for finding in findings} == {f'departments."bank/d{number}".of' for number in range(length)}
    assert {finding.what for finding in findings} == {"a department is part of itself"}


def test_a_circle_that_is_longer_than_departments_may_be_deep_is_refused_as_that() -> None:
    assert {finding.what for finding in errors(circle(50)).findings} == {"too many departments above it"}


def deep(departments: int) -> str:
    """A type whose owner is the lowest of departments above one another."""
    text = "".join(
        f'[departments."rival/d{number}"]\nof = "rival{f"/d{number - 1}" if number else ""}"\n'
        for number in range(departments)
    )
    return f'{FINANCE_TEXT}{text}[types."rival/deep"]\nowner = "rival/d{departments - 1}"\n'


def test_departments_have_an_end() -> None:
    policy = parse(deep(MAX_DEPTH - 1))
    owners = policy.owners_of(TypeName("rival/deep"))
    assert owners == (*(f"rival/d{number}" for number in reversed(range(MAX_DEPTH - 1))), "rival")
    lowest = f'departments."rival/d{MAX_DEPTH - 1}".of'
    assert_one_mistake(deep(MAX_DEPTH), lowest, "too many departments above it", "an organisation after at most 31")


def test_a_policy_without_organisations_says_nothing_of_owners() -> None:
    """As before there were any: `acme/red` is a name, and nobody answers for it."""
    start, end = FINANCE_TEXT.index("[organisations.bank]"), FINANCE_TEXT.index("[types.")
    text = FINANCE_TEXT[:start] + FINANCE_TEXT[end:].replace('owner = "bank/trading"\n', "").replace(
        '"bank/markets", "rival"', '"bank/ledger", "rival/books"'
    ).replace('"rival", "lobby"', '"lobby"')
    policy = parse(text)
    assert all(definition.owner is None for definition in policy.definitions.values())
    assert policy.walls_of(policy.vm_labels["auditor"]) == {"audit/report"}


@pytest.mark.parametrize(
    ("section", "table"),
    [("organisations", "organisations.bank"), ("departments", 'departments."bank/markets"'), ("keys", "keys.ops-1")],
)
def test_a_broken_section_is_not_followed_by_its_consequences(section: str, table: str) -> None:
    start = FINANCE_TEXT.index(f"[{table}]")
    end = FINANCE_TEXT.index("\n[", FINANCE_TEXT.rindex(f"\n[{section}.") + 1)
    text = f"{section} = 7\n{FINANCE_TEXT[:start]}{FINANCE_TEXT[end:]}"
    error = errors(text)
    assert [(finding.key, finding.line) for finding in error.findings] == [(section, 1)]


def test_nobody_may_sign() -> None:
    keys = 'keys = ["ops-3", "ops-1", "ops-2"]'
    assert_one_mistake(changed_finance(keys, "keys = []"), "signing.keys", "nobody may sign", "at least one key")
    assert_one_mistake(changed_finance(keys, ""), "signing.keys", "nobody may sign", "at least one key")
