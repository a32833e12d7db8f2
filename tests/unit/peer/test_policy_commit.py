"""The record of an update proves by itself that everybody agreed, whoever shows it."""

import json
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, derive_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from shamon_host.domain.errors import BadInput, NotTrusted
from shamon_host.domain.labels import HostName
from shamon_host.domain.policy_form import with_digest
from shamon_host.peer.policy_commit import (
    Statement,
    asked_of,
    combined,
    require_signed,
    signed_vote,
    statement_of,
)
from shamon_host.peer.policy_envelope import POLICY_TYPE
from shamon_host.peer.signed_record import COMMIT_TYPE, MAX_SIGNATURES, Envelope, PrivateKey, public_text
from tests.unit.domain.values import ALPHA, BETA, GAMMA, POLICY

NEXT = with_digest(replace(POLICY, version=2, parent=POLICY.digest))
KEYS: dict[HostName, PrivateKey] = {
    ALPHA: Ed25519PrivateKey.from_private_bytes(b"\1" * 32),
    BETA: derive_private_key(2, SECP256R1()),
    GAMMA: Ed25519PrivateKey.from_private_bytes(b"\3" * 32),
}
STRANGER = Ed25519PrivateKey.from_private_bytes(b"\4" * 32)
PUBLIC = {host: public_text(key) for host, key in KEYS.items()}
MEMBERS = frozenset({ALPHA, BETA, GAMMA})
STATEMENT = Statement(
    coalition=POLICY.coalition,
    update=b"\7" * 16,
    before=POLICY.digest,
    after=NEXT.digest,
    version=2,
    coordinator=ALPHA,
    participants=(ALPHA, BETA, GAMMA),
)
HOSTS = STATEMENT.participants


def votes(*hosts: HostName, statement: Statement = STATEMENT) -> list[bytes]:
    return [signed_vote(statement, KEYS[host]) for host in hosts]


# Statements

names = st.sets(st.sampled_from([HostName(f"host{number}") for number in range(9)]), max_size=6)


@given(st.binary(min_size=16, max_size=16), names, names, st.integers(2, 1 << 53))
def test_a_statement_comes_back(
    update: bytes, participants: set[HostName], without: set[HostName], number: int
) -> None:
    statement = replace(
        STATEMENT,
        update=update,
        participants=tuple(sorted(participants)),
        without=tuple(sorted(without)),
        version=number,
    )
    assert Statement.decode(statement.encode()) == statement


def test_its_bytes_are_what_is_signed_everywhere() -> None:
    assert json.loads(STATEMENT.encode()) == {
        "coalition": "supply-chain",
        "coordinator": "alpha",
        "from": POLICY.digest,
        "participants": ["alpha", "beta", "gamma"],
        "to": NEXT.digest,
        "update": "07" * 16,
        "version": 2,
        "without": [],
    }
    assert statement_of(signed_vote(STATEMENT, KEYS[ALPHA])) == STATEMENT


def encoded(**changes: Any) -> bytes:
    fields = {**json.loads(STATEMENT.encode()), **changes}
    return json.dumps(
        {key: value for key, value in fields.items() if value is not ...}, sort_keys=True, separators=(",", ":")
    ).encode()


BAD: list[dict[str, Any]] = [
    *({name: ...} for name in json.loads(STATEMENT.encode())),
    *({name: None} for name in json.loads(STATEMENT.encode())),
    {"more": 1},
    {"coalition": ""},
    {"coalition": "x" * 257},
    {"coalition": "two\nlines"},
    {"update": "07" * 15},
    {"update": "07" * 17},
    {"update": "0A" * 16},
    {"from": POLICY.digest[:-2]},
    {"from": "x" * 64},
    {"to": NEXT.digest.upper()},
    {"version": 1},
    {"version": -2},
    {"version": (1 << 53) + 1},
    {"version": True},
    {"version": "2"},
    {"coordinator": "Alpha"},
    {"coordinator": "al pha"},
    {"coordinator": "a" * 64},
    {"participants": ["beta", "alpha"]},
    {"participants": ["alpha", "alpha"]},
    {"participants": ["alpha", ""]},
    {"participants": ["alpha", 7]},
    {"participants": "alpha"},
    {"participants": [f"h{number:04}" for number in range(1025)]},
    {"without": ["Beta"]},
    {"without": {"alpha": 1}},
]


@pytest.mark.parametrize("change", BAD, ids=str)
def test_what_is_no_statement(change: dict[str, Any]) -> None:
    assert Statement.decode(encoded()) == STATEMENT
    with pytest.raises(BadInput):
        Statement.decode(encoded(**change))


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"null", STATEMENT.encode() + b" ", b" " + STATEMENT.encode()])
def test_other_bytes_for_it(data: bytes) -> None:
    with pytest.raises(BadInput):
        Statement.decode(data)


@given(st.binary(max_size=200))
def test_any_bytes_are_bad_input(data: bytes) -> None:
    with pytest.raises(BadInput):
        Statement.decode(data)
    with pytest.raises(BadInput):
        statement_of(data)


# What it is about


def test_a_statement_about_these_two_versions() -> None:
    STATEMENT.require_about(NEXT, POLICY, MEMBERS)
    without_gamma = replace(STATEMENT, participants=(ALPHA, BETA), without=(GAMMA,))
    without_gamma.require_about(NEXT, POLICY, {ALPHA, BETA})  # gamma was expelled, or never enrolled
    with pytest.raises(NotTrusted, match="3 of the 3 that are enrolled"):
        without_gamma.require_about(NEXT, POLICY, MEMBERS)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"coalition": "another"}, "another coalition"),
        ({"before": NEXT.digest}, "another version than the one in force"),
        ({"after": POLICY.digest}, "about another version"),
        ({"version": 3}, "about another version"),
        ({"participants": (ALPHA, BETA)}, "does not ask everybody"),
        ({"participants": (ALPHA, BETA, HostName("delta"), GAMMA)}, "does not ask everybody"),
        ({"participants": (ALPHA, BETA), "without": (HostName("delta"),)}, "does not ask everybody"),
        ({"without": (GAMMA,)}, "contradicts itself"),
        ({"participants": (BETA, GAMMA), "without": (ALPHA,)}, "contradicts itself"),
        ({"participants": (), "without": (ALPHA, BETA, GAMMA)}, "contradicts itself"),
        ({"coordinator": HostName("delta")}, "contradicts itself"),
        ({"participants": (ALPHA,), "without": (BETA, GAMMA)}, "asks too few hosts"),
    ],
)
def test_a_statement_about_something_else(change: dict[str, Any], words: str) -> None:
    with pytest.raises(NotTrusted, match=words):
        replace(STATEMENT, **change).require_about(NEXT, POLICY, MEMBERS)


def test_half_of_the_hosts_are_not_enough() -> None:
    """Otherwise two halves could put two versions in force."""
    four = with_digest(replace(POLICY, hosts={**POLICY.hosts, HostName("delta"): POLICY.hosts[ALPHA]}))
    after = with_digest(replace(four, version=2, parent=four.digest))
    half = replace(
        STATEMENT,
        before=four.digest,
        after=after.digest,
        participants=(ALPHA, BETA),
        without=(HostName("delta"), GAMMA),
    )
    with pytest.raises(NotTrusted, match="3 of the 4 that are enrolled"):
        half.require_about(after, four, {*MEMBERS, HostName("delta")})
    replace(half, participants=(ALPHA, BETA, GAMMA), without=(HostName("delta"),)).require_about(
        after, four, {*MEMBERS, HostName("delta")}
    )


def test_a_host_that_the_next_version_does_not_have_is_not_asked() -> None:
    after = with_digest(replace(NEXT, hosts={name: NEXT.hosts[name] for name in (ALPHA, BETA)}, vms={}))
    assert asked_of(after, POLICY) == {ALPHA, BETA}
    replace(STATEMENT, after=after.digest, participants=(ALPHA, BETA)).require_about(after, POLICY, MEMBERS)
    with pytest.raises(NotTrusted, match="everybody"):
        replace(STATEMENT, after=after.digest).require_about(after, POLICY, MEMBERS)


# Votes and records


def test_the_votes_of_all_are_a_record() -> None:
    record = combined(STATEMENT, votes(*HOSTS))
    require_signed(record, HOSTS, PUBLIC)
    assert statement_of(record) == STATEMENT


def test_the_order_of_the_votes_makes_no_difference() -> None:
    require_signed(combined(STATEMENT, reversed(votes(*HOSTS))), HOSTS, PUBLIC)


@pytest.mark.parametrize("missing", HOSTS)
def test_one_vote_less_is_no_record(missing: HostName) -> None:
    some = [host for host in HOSTS if host != missing]
    record = combined(STATEMENT, votes(*some))
    require_signed(record, some, PUBLIC)
    with pytest.raises(NotTrusted, match="not signed by everybody") as caught:
        require_signed(record, HOSTS, PUBLIC)
    assert caught.value.found == f"none of {missing}"


def test_one_host_s_vote_counts_once() -> None:
    with pytest.raises(NotTrusted, match="none of gamma"):
        require_signed(combined(STATEMENT, votes(ALPHA, BETA, ALPHA)), HOSTS, PUBLIC)


def test_a_vote_under_another_host_s_name_does_not_count() -> None:
    """A hint says which key to try; it is the key that counts."""
    envelope = Envelope(payload=STATEMENT.encode(), payload_type=COMMIT_TYPE).signed_by(STRANGER)
    hint = Envelope(payload=b"", payload_type=COMMIT_TYPE).signed_by(KEYS[GAMMA]).signatures[0][0]
    forged = replace(envelope, signatures=((hint, envelope.signatures[0][1]),)).encode()
    with pytest.raises(NotTrusted, match="none of gamma"):
        require_signed(combined(STATEMENT, [*votes(ALPHA, BETA), forged]), HOSTS, PUBLIC)


def test_a_vote_without_its_hint_counts() -> None:
    signature = Envelope(payload=STATEMENT.encode(), payload_type=COMMIT_TYPE).signed_by(KEYS[GAMMA]).signatures[0][1]
    plain = Envelope(payload=STATEMENT.encode(), payload_type=COMMIT_TYPE, signatures=(("", signature),)).encode()
    require_signed(combined(STATEMENT, [*votes(ALPHA, BETA), plain]), HOSTS, PUBLIC)


@pytest.mark.parametrize(
    "change", [{"update": b"\x08" * 16}, {"after": POLICY.digest}, {"without": (GAMMA,)}, {"version": 3}]
)
def test_a_vote_on_something_else(change: dict[str, Any]) -> None:
    other = replace(STATEMENT, **change)
    with pytest.raises(BadInput, match="another statement"):
        combined(STATEMENT, [*votes(ALPHA, BETA), *votes(GAMMA, statement=other)])
    # and its signature does not count under this one
    moved = Envelope(
        payload=STATEMENT.encode(),
        payload_type=COMMIT_TYPE,
        signatures=Envelope(payload=other.encode(), payload_type=COMMIT_TYPE).signed_by(KEYS[GAMMA]).signatures,
    ).encode()
    with pytest.raises(NotTrusted, match="none of gamma"):
        require_signed(combined(STATEMENT, [*votes(ALPHA, BETA), moved]), HOSTS, PUBLIC)


def test_a_signature_on_a_policy_is_no_vote() -> None:
    signed = Envelope(payload=STATEMENT.encode(), payload_type=POLICY_TYPE).signed_by(KEYS[GAMMA])
    with pytest.raises(BadInput, match="something else"):
        combined(STATEMENT, [signed.encode()])
    moved = replace(signed, payload_type=COMMIT_TYPE).encode()
    with pytest.raises(NotTrusted, match="none of gamma"):
        require_signed(combined(STATEMENT, [*votes(ALPHA, BETA), moved]), HOSTS, PUBLIC)


@pytest.mark.parametrize("keys", [{}, {GAMMA: ""}, {ALPHA: PUBLIC[ALPHA], BETA: PUBLIC[BETA]}])
def test_a_host_without_a_key_never_signed(keys: dict[HostName, str]) -> None:
    with pytest.raises(NotTrusted, match="gamma"):
        require_signed(combined(STATEMENT, votes(*HOSTS)), HOSTS, keys)


@pytest.mark.parametrize("vote", [b"", b"{}", STATEMENT.encode(), b"\xff"])
def test_what_is_no_vote(vote: bytes) -> None:
    with pytest.raises(BadInput):
        combined(STATEMENT, [vote])
    with pytest.raises(BadInput):
        require_signed(vote, HOSTS, PUBLIC)


def test_a_vote_that_is_stuffed_with_signatures() -> None:
    stuffed = Envelope(
        payload=STATEMENT.encode(), payload_type=COMMIT_TYPE, signatures=(("", b"\0" * 64),) * (MAX_SIGNATURES - 1)
    ).encode()
    with pytest.raises(BadInput, match="too many signatures"):
        combined(STATEMENT, [*votes(ALPHA, BETA), stuffed])
