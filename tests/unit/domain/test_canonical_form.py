"""The canonical form: one sequence of bytes for one policy, both ways, and nothing else is taken for it."""

import json
from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shamon_host.domain.consistency import inconsistencies
from shamon_host.domain.errors import BadInput
from shamon_host.domain.policy import Policy
from shamon_host.domain.policy_file import parse_canonical, parse_policy
from shamon_host.domain.policy_form import FORMAT, policy_bytes, policy_digest
from tests.examples import examples
from tests.unit.domain.generated import policies
from tests.unit.domain.policy_text import FINANCE_TEXT, parse
from tests.unit.domain.policy_toml import toml_text
from tests.unit.domain.values import POLICY

FINANCE = parse(FINANCE_TEXT)
FINANCE_BYTES = policy_bytes(FINANCE)


def read(data: bytes) -> Policy:
    return parse_canonical(data, source="peer")


@settings(max_examples=examples(120))
@given(policy=policies(), terse=st.booleans())
@example(policy=FINANCE, terse=False)
@example(policy=FINANCE, terse=True)
@example(policy=POLICY, terse=True)
def test_a_file_and_the_canonical_form_give_the_same_policy(policy: Policy, terse: bool) -> None:
    assert list(inconsistencies(policy)) == []
    from_file = parse_policy(toml_text(policy, terse=terse).encode(), source="policy.toml")
    assert from_file == policy
    data = policy_bytes(from_file)
    from_form = read(data)
    assert from_form == policy
    assert policy_bytes(from_form) == data
    assert from_form.digest == policy.digest == policy_digest(policy)


@settings(max_examples=examples(60))
@given(one=policies(), other=policies())
def test_two_policies_have_the_same_form_only_if_they_are_the_same(one: Policy, other: Policy) -> None:
    assert (policy_bytes(one) == policy_bytes(other)) == (one == other) == (one.digest == other.digest)


@settings(max_examples=examples(400))
@given(
    where=st.integers(0, len(FINANCE_BYTES) - 1),
    how=st.sampled_from(["change", "cut", "insert", "double"]),
    byte=st.integers(0, 255),
)
def test_any_changed_byte_is_refused_or_is_another_policy(where: int, how: str, byte: int) -> None:
    before, at, after = FINANCE_BYTES[:where], FINANCE_BYTES[where : where + 1], FINANCE_BYTES[where + 1 :]
    middle = {"change": bytes([byte]), "cut": b"", "insert": bytes([byte]) + at, "double": at + at}[how]
    data = before + middle + after
    if data == FINANCE_BYTES:
        return
    try:
        policy = read(data)
    except BadInput:
        return
    assert policy_bytes(policy) == data
    assert policy.digest != FINANCE.digest


def without_blanks(document: object) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


DOCUMENT = json.loads(FINANCE_BYTES)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"null",
        b"[]",
        b'"shamon-policy-2"',
        FINANCE_BYTES + b" ",
        b" " + FINANCE_BYTES,
        FINANCE_BYTES + b"\n",
        FINANCE_BYTES + FINANCE_BYTES,
        b"\xef\xbb\xbf" + FINANCE_BYTES,
        FINANCE_BYTES.decode().encode("utf-16"),
        FINANCE_BYTES.decode().encode("utf-32"),
        json.dumps(DOCUMENT, sort_keys=True).encode(),
        json.dumps(dict(reversed(DOCUMENT.items())), separators=(",", ":")).encode(),
        FINANCE_BYTES.replace(b"finance", b"\\u0066inance"),
        FINANCE_BYTES.replace(b"20.0", b"20"),
        FINANCE_BYTES.replace(b"20.0", b"2e1"),
        FINANCE_BYTES.replace(b"20.0", b"20.00"),
        FINANCE_BYTES.replace(b'"version":3', b'"version":3.0'),
        FINANCE_BYTES.replace(b"1814313600", b'"2027-06-30T00:00:00Z"'),
        # A key that is there twice, the last one right
        FINANCE_BYTES.replace(b'"version":3', b'"version":2,"version":3'),
        FINANCE_BYTES.replace(b'"hosts":{', b'"hosts":{"alpha":{},'),
        FINANCE_BYTES.replace(b'"format":', b'"format":"shamon-policy-1","format":'),
        # Numbers that are none
        FINANCE_BYTES.replace(b"20.0", b"NaN"),
        FINANCE_BYTES.replace(b"20.0", b"Infinity"),
        FINANCE_BYTES.replace(b"20.0", b"-Infinity"),
        FINANCE_BYTES.replace(b"20.0", b"1e999"),
        FINANCE_BYTES.replace(b'"version":3', b'"version":' + b"9" * 5000),
        FINANCE_BYTES.replace(b'"version":3', b'"version":NaN'),
        # Another format
        FINANCE_BYTES.replace(FORMAT.encode(), b"shamon-policy-1"),
        FINANCE_BYTES.replace(FORMAT.encode(), b"shamon-policy-3"),
        without_blanks({name: value for name, value in DOCUMENT.items() if name != "format"}),
        without_blanks({**DOCUMENT, "format": 2}),
        without_blanks({**DOCUMENT, "format": None}),
        # What a file may leave out or say otherwise, and the canonical form may not
        without_blanks({name: value for name, value in DOCUMENT.items() if name != "renames"}),
        without_blanks({**DOCUMENT, "walls": ["lobby", "board"]}),
        without_blanks({**DOCUMENT, "types": sorted(DOCUMENT["types"])}),
        without_blanks({**DOCUMENT, "walls": None}),
        without_blanks({**DOCUMENT, "more": {}}),
        without_blanks({**DOCUMENT, "digest": FINANCE.digest}),
    ],
    ids=range(40),
)
def test_bytes_that_say_it_otherwise_are_refused(data: bytes) -> None:
    assert data != FINANCE_BYTES
    with pytest.raises(BadInput, match=r"^peer: "):
        read(data)


@settings(max_examples=examples(100))
@given(data=st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_arbitrary_bytes_raise_bad_input_alone(data: bytes) -> None:
    with pytest.raises(BadInput):
        read(data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
WORDS = st.text(st.characters(categories=["Cc", "Cf", "Cs", "Lu", "Zl"]), max_size=12)


@settings(max_examples=examples(150))
@given(data=st.data())
def test_any_value_anywhere_raises_bad_input_or_nothing(data: st.DataObject) -> None:
    document = json.loads(FINANCE_BYTES)
    inner = document
    while True:
        key = data.draw(st.sampled_from(sorted(inner)))
        if not (isinstance(inner[key], dict) and inner[key] and data.draw(st.booleans())):
            break
        inner = inner[key]
    inner[data.draw(st.just(key) | WORDS)] = data.draw(JSON | WORDS)
    changed = without_blanks(document)
    refused = ""
    try:
        assert policy_bytes(read(changed)) == changed
    except BadInput as error:
        refused = str(error)
    assert refused.replace("\n  ", "").isprintable()


def test_what_is_shown_of_a_hostile_policy_is_fit_for_a_terminal() -> None:
    for name in ("\x1b[2J", "a\nb", "\ud800", "\u202e", "\x7f"):
        for document in (
            {**DOCUMENT, name: 1},
            {**DOCUMENT, "vms": {"web": {"label": name, "image": "app", "host": "alpha", "resources": []}}},
            {**DOCUMENT, "hosts": {"alpha": {**DOCUMENT["hosts"]["alpha"], "address": name}}},
            {**DOCUMENT, "conflicts": {"c": {"types": [name, "bank"]}}},
        ):
            with pytest.raises(BadInput) as caught:
                read(without_blanks(document))
            shown = str(caught.value).replace("\n  ", "")
            assert shown.isprintable(), ascii(shown)


def test_the_digest_is_of_everything_but_itself() -> None:
    assert policy_digest(replace(FINANCE, digest="0" * 64)) == FINANCE.digest
