"""Messages of an update: each has one form, and whatever else comes is bad input."""

import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shamon_host.domain.errors import BadInput
from shamon_host.peer.policy_messages import (
    MAX_RECORD_ENVELOPE_BYTES,
    MAX_VIOLATION_WORDS,
    MAX_VIOLATIONS,
    Abort,
    Fetch,
    Fetched,
    Prepare,
    Vote,
)
from shamon_host.peer.signed_record import MAX_RECORD_BYTES, encoded_size
from shamon_host.peer.wire import MAX_HEADER_BYTES
from tests.unit.peer.test_policy_commit import STATEMENT

DIGEST = "0123456789abcdef" * 4
DECODERS: list[Callable[[bytes], object]] = [Prepare.decode, Vote.decode, Abort.decode, Fetch.decode, Fetched.decode]
sentences = st.lists(
    st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=40), min_size=1, max_size=8
).map(tuple)


# Round trips


@given(st.binary(max_size=100))
def test_a_question_comes_back_whatever_the_envelope(envelope: bytes) -> None:
    message = Prepare(statement=STATEMENT, envelope=envelope)
    assert Prepare.decode(message.encode()) == message


@given(sentences)
def test_a_no_comes_back(violations: tuple[str, ...]) -> None:
    assert Vote.decode(Vote(violations=violations).encode()) == Vote(violations=violations)


@given(st.binary(min_size=1, max_size=100))
def test_a_yes_comes_back(signed: bytes) -> None:
    assert Vote.decode(Vote(signed=signed).encode()) == Vote(signed=signed)


@given(st.binary(min_size=16, max_size=16))
def test_an_abort_comes_back(update: bytes) -> None:
    assert Abort.decode(Abort(update=update).encode()) == Abort(update=update)


def test_a_fetch_comes_back() -> None:
    assert Fetch.decode(Fetch(digest=DIGEST).encode()) == Fetch(digest=DIGEST)


@given(st.binary(max_size=100), st.binary(max_size=100))
def test_what_was_fetched_comes_back_as_two_parts(envelope: bytes, record: bytes) -> None:
    message = Fetched(envelope=envelope, record=record)
    assert Fetched.decode(message.encode()) == message


def test_the_largest_record_fits() -> None:
    assert encoded_size(MAX_RECORD_BYTES) <= MAX_RECORD_ENVELOPE_BYTES
    message = Fetched(envelope=b"e", record=b"r" * MAX_RECORD_ENVELOPE_BYTES)
    assert Fetched.decode(message.encode()) == message


# Words of a peer


def test_a_no_is_cut_and_made_printable_before_it_is_sent() -> None:
    words = ("x" * 10_000, "two\nlines \x1b[2J", *("more" for _ in range(1000)))
    vote = Vote.decode(Vote(violations=words).encode())
    assert len(vote.violations) == MAX_VIOLATIONS
    assert vote.violations[0] == "x" * MAX_VIOLATION_WORDS
    assert vote.violations[1] == "two?lines ?[2J"


def test_words_that_were_not_made_printable_are_when_they_come() -> None:
    assert Vote.decode(b'{"violations":["\\u001b[2J\\n\\u202e"]}\n').violations == ("?[2J??",)


# What is malformed


def canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"[]",
        b"7",
        b"null",
        b"not json",
        b"\xff",
        b"[" * 10_000,
        b'{"a":' * 5_000,
        b'{"violations":[],"violations":[]}',
        b'{"record_bytes":1e2}',
        b'{"record_bytes":NaN}',
        b" " * (MAX_HEADER_BYTES + 2),
        canonical({}),
        canonical({"update": "07" * 16, "digest": DIGEST}),
    ],
    ids=lambda header: repr(header[:20]),
)
@pytest.mark.parametrize("decode", DECODERS)
def test_what_is_no_message(decode: Callable[[bytes], object], header: bytes) -> None:
    for body in (header, header + b"\n", header + b"\npayload"):
        with pytest.raises(BadInput):
            decode(body)


@given(st.binary(max_size=300))
@pytest.mark.parametrize("decode", DECODERS)
def test_any_bytes(decode: Callable[[bytes], object], body: bytes) -> None:
    with pytest.raises(BadInput):
        decode(body)


@pytest.mark.parametrize(
    ("decode", "body"),
    [
        (Prepare.decode, STATEMENT.encode()),
        (Prepare.decode, STATEMENT.encode() + b" \nenvelope"),
        (Vote.decode, canonical({"violations": []})),
        (Vote.decode, canonical({"violations": []}) + b"\n"),
        (Vote.decode, canonical({"violations": ["no"]}) + b"\nsigned"),
        (Vote.decode, canonical({"violations": "no"}) + b"\n"),
        (Vote.decode, canonical({"violations": [7]}) + b"\n"),
        (Vote.decode, canonical({"violations": ["x" * (MAX_VIOLATION_WORDS + 1)]}) + b"\n"),
        (Vote.decode, canonical({"violations": ["no"] * (MAX_VIOLATIONS + 1)}) + b"\n"),
        (Vote.decode, b'{"violations": ["no"]}\n'),
        (Abort.decode, canonical({"update": "07" * 15})),
        (Abort.decode, canonical({"update": "07" * 17})),
        (Abort.decode, canonical({"update": "0A" * 16})),
        (Abort.decode, canonical({"update": 7})),
        (Abort.decode, canonical({"update": "07" * 16}) + b"\n"),
        (Fetch.decode, canonical({"digest": DIGEST[:-2]})),
        (Fetch.decode, canonical({"digest": DIGEST.upper()})),
        (Fetch.decode, canonical({"digest": None})),
        (Fetch.decode, canonical({"digest": "../../etc/passwd".ljust(64, "/")})),
        (Fetched.decode, canonical({"record_bytes": 0})),
        (Fetched.decode, canonical({"record_bytes": 4}) + b"\nabc"),
        (Fetched.decode, canonical({"record_bytes": -1}) + b"\nabc"),
        (Fetched.decode, canonical({"record_bytes": True}) + b"\nabc"),
        (Fetched.decode, canonical({"record_bytes": "1"}) + b"\nabc"),
        (Fetched.decode, canonical({"record_bytes": 1 << 70}) + b"\nabc"),
        (
            Fetched.decode,
            canonical({"record_bytes": MAX_RECORD_ENVELOPE_BYTES + 1}) + b"\n" + b"r" * (MAX_RECORD_ENVELOPE_BYTES + 1),
        ),
    ],
    ids=lambda value: repr(value[:40]) if isinstance(value, bytes) else value.__qualname__,
)
def test_what_has_another_form(decode: Callable[[bytes], object], body: bytes) -> None:
    with pytest.raises(BadInput):
        decode(body)
