"""Messages survive their own encoding, and one byte more or less does not. Keys depend on all that they should."""

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shamon_host.attestation.evidence import Role
from shamon_host.domain.errors import BadInput, Refused
from shamon_host.domain.results import Claim, ClaimName, ClaimStatus
from shamon_host.peer.errors import Busy
from shamon_host.peer.key_schedule import HandshakeKeys, Proceedings, Share, length_prefixed, transcript
from shamon_host.peer.messages import (
    MAX_FAILURE_WORDS,
    MAX_FAILURES,
    Confirm,
    ConfirmAnswer,
    EvidenceAnswer,
    EvidenceRequest,
    Hello,
    Hint,
    Verdict,
    failure_words,
)
from shamon_host.peer.policy_commit import quorum
from shamon_host.peer.ports import LinkOffer, Terms
from shamon_host.peer.wire import MAX_HEADER_BYTES, Fields, decode_refusal, encode_object, encode_refusal
from tests.unit.peer.handshake_world import ALPHA, BETA, BLUE, GAMMA, RED

TERMS = Terms(
    coalition="example",
    policy_version=3,
    policy_digest="0f" * 32,
    peer_policy_digest="f0" * 32,
    shared=(RED, BLUE),
    certificate_sha256=bytes(32),
    ak_name=b"\x00\x0b" + bytes(32),
    ima_offset=12,
    ima_reset_count=4,
    offers=(LinkOffer(type=RED, port=40000, spi=256), LinkOffer(type=BLUE, port=40001, spi=(1 << 32) - 1)),
)
HELLO = Hello(role=Role.INITIATOR, sender=ALPHA, receiver=BETA, terms=TERMS, nonce=bytes(32), share=bytes(32))
VERDICT = Verdict(trusted=False, failures=("PCR 4: ünexpected",))
SESSION = bytes(range(16))


def test_messages_come_back_as_they_were() -> None:
    assert Hello.decode(HELLO.encode(), Role.INITIATOR) == HELLO
    answer = replace(HELLO, role=Role.RESPONDER, session=SESSION)
    assert Hello.decode(answer.encode(), Role.RESPONDER) == answer
    for shared in (None, ()):
        hello = replace(HELLO, terms=replace(TERMS, shared=shared))
        assert Hello.decode(hello.encode(), Role.INITIATOR) == hello
    request = EvidenceRequest(session=SESSION, evidence=b"\n{}\n\x00")
    assert EvidenceRequest.decode(request.encode()) == request
    reply = EvidenceAnswer(verdict=VERDICT, lease_ms=90_000, evidence=b"")
    assert EvidenceAnswer.decode(reply.encode()) == reply
    confirm = Confirm(session=SESSION, verdict=Verdict(trusted=True), lease_ms=1, mac=bytes(32))
    assert Confirm.decode(confirm.encode()) == confirm
    assert ConfirmAnswer.decode(ConfirmAnswer(mac=bytes(32)).encode()) == ConfirmAnswer(mac=bytes(32))
    assert Hint.decode(Hint(about=GAMMA).encode()) == Hint(about=GAMMA)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("v", 1),
        ("v", 3),
        ("v", True),
        ("v", "2"),
        ("role", "responder"),
        ("session", "11" * 16),
        ("session", ""),
        ("from", "../x"),
        ("to", 7),
        ("coalition", ""),
        ("coalition", "x" * 257),
        ("coalition", "a\nb"),
        ("coalition", "\ud800"),
        ("policy_version", -1),
        ("policy_version", 1.0),
        ("policy_version", 10**30),
        ("policy_digest", "AB" * 32),
        ("policy_digest", "ab"),
        ("peer_policy_digest", "AB" * 32),
        ("peer_policy_digest", ""),
        ("peer_policy_digest", None),
        ("shared", "acme/red"),
        ("shared", {}),
        ("shared", [None]),
        ("shared", ["red"]),
        ("shared", ["acme/red\n"]),
        ("shared", ["rival/blue", "acme/red"]),
        ("shared", ["acme/red", "acme/red"]),
        ("shared", [f"acme/t{number:04}" for number in range(1025)]),
        ("certificate", "AB" * 32),
        ("certificate", "00"),
        ("ak_name", ""),
        ("ak_name", "00" * 67),
        ("ima_offset", -1),
        ("ima_reset_count", 1 << 32),
        ("nonce", "00" * 31),
        ("share", None),
        ("offers", {}),
        ("offers", [1]),
        ("offers", [{}]),
        ("offers", [{"type": "red", "port": 1, "spi": 256}]),
        ("offers", [{"type": "acme/red", "port": 0, "spi": 256}]),
        ("offers", [{"type": "acme/red", "port": 65536, "spi": 256}]),
        ("offers", [{"type": "acme/red", "port": 1, "spi": 255}]),
        ("offers", [{"type": "acme/red", "port": 1, "spi": 1 << 32}]),
        ("offers", [{"type": "acme/red", "port": 1, "spi": 256, "more": 1}]),
        ("offers", [{"type": "acme/red", "port": n, "spi": 256 + n} for n in (1, 2)]),
        ("offers", [{"type": f"acme/x{n}", "port": 1, "spi": 256 + n} for n in (1, 2)]),
        ("offers", [{"type": f"acme/x{n}", "port": n, "spi": 256} for n in (1, 2)]),
        ("offers", [{"type": f"acme/x{n}", "port": n, "spi": 256 + n} for n in range(1, 600)]),
    ],
)
def test_hello_with_a_bad_field_is_refused(field: str, value: object) -> None:
    with pytest.raises(BadInput):
        Hello.decode(encode_object({**json.loads(HELLO.encode()), field: value}), Role.INITIATOR)


def test_missing_extra_or_repeated_fields_are_refused() -> None:
    fields = json.loads(HELLO.encode())
    del fields["nonce"]
    for bad in (
        encode_object(fields),
        encode_object({**json.loads(HELLO.encode()), "x": 1}),
        HELLO.encode()[:-1] + b',"v":2}',
        HELLO.encode() + b" ",
        b"\xef\xbb\xbf" + HELLO.encode(),
    ):
        with pytest.raises(BadInput):
            Hello.decode(bad, Role.INITIATOR)


@given(st.binary(max_size=200))
def test_random_bytes_raise_nothing_but_our_own_error(data: bytes) -> None:
    with pytest.raises(BadInput):
        Hello.decode(data, Role.INITIATOR)
    decoders: list[Callable[[bytes], object]] = [
        EvidenceRequest.decode,
        EvidenceAnswer.decode,
        Confirm.decode,
        ConfirmAnswer.decode,
        Hint.decode,
        Verdict.decode,
    ]
    for decode in decoders:
        with pytest.raises(BadInput):
            decode(data)
    assert isinstance(decode_refusal(data, "beta"), Refused)


@pytest.mark.parametrize(("trusted", "failures"), [(True, ["x"]), (False, []), (1, []), (False, "x"), (False, [1])])
def test_verdict_that_contradicts_itself_is_refused(trusted: object, failures: object) -> None:
    with pytest.raises(BadInput):
        Verdict.decode(encode_object({"trusted": trusted, "failures": failures}))


@given(st.lists(st.text(max_size=2000), min_size=1, max_size=40))
def test_reasons_are_bounded_printable_and_fit_a_message(reasons: list[str]) -> None:
    claims = [Claim(name=ClaimName.SOFTWARE, status=ClaimStatus.FAIL, reason=reason) for reason in reasons]
    verdict = Verdict(trusted=False, failures=failure_words(claims))
    assert len(verdict.failures) <= MAX_FAILURES
    assert all(len(words) <= MAX_FAILURE_WORDS and words.isprintable() for words in verdict.failures)
    answer = EvidenceAnswer(verdict=verdict, lease_ms=1, evidence=b"")
    assert EvidenceAnswer.decode(answer.encode()) == answer


def test_longest_verdict_fits_a_header() -> None:
    claims = [Claim(name=ClaimName.SOFTWARE, status=ClaimStatus.FAIL, reason="\U0001f600" * 600)] * 40
    answer = EvidenceAnswer(verdict=Verdict(trusted=False, failures=failure_words(claims)), lease_ms=1, evidence=b"")
    assert len(answer.encode()) < MAX_HEADER_BYTES
    assert EvidenceAnswer.decode(answer.encode()) == answer


def test_refusals_cross_in_words() -> None:
    refusal = decode_refusal(encode_refusal(BadInput("wrong\x1b[2J", where="file", remedy="Fix it.")), "beta")
    assert type(refusal) is Refused
    assert str(refusal) == "beta: file: wrong?[2J. Fix it."
    assert isinstance(decode_refusal(encode_refusal(Busy("later")), "beta"), Busy)


@given(st.lists(st.binary(max_size=8), max_size=5), st.lists(st.binary(max_size=8), max_size=5))
def test_length_prefixes_tell_lists_apart(one: list[bytes], other: list[bytes]) -> None:
    assert (length_prefixed(*one) == length_prefixed(*other)) is (one == other)


def agreed(salt: bytes = bytes(32)) -> tuple[HandshakeKeys, HandshakeKeys]:
    one, other = Share(), Share()
    return one.agree(other.public, salt), other.agree(one.public, salt)


def test_transcript_depends_on_every_byte_and_on_the_order() -> None:
    assert transcript(b"a", b"b") != transcript(b"b", b"a")
    assert transcript(b"ab", b"") != transcript(b"a", b"b")
    assert len(transcript(b"", b"")) == 32


def test_keys_differ_by_type_direction_spis_and_transcript() -> None:
    one, other = agreed()
    derive: list[Callable[[HandshakeKeys], bytes]] = [
        lambda keys: keys.sa_key(RED, Role.INITIATOR, initiator_spi=300, responder_spi=400),
        lambda keys: keys.sa_key(BLUE, Role.INITIATOR, initiator_spi=300, responder_spi=400),
        lambda keys: keys.sa_key(RED, Role.RESPONDER, initiator_spi=300, responder_spi=400),
        lambda keys: keys.sa_key(RED, Role.INITIATOR, initiator_spi=301, responder_spi=400),
        lambda keys: keys.sa_key(RED, Role.INITIATOR, initiator_spi=300, responder_spi=401),
        lambda keys: keys.sa_key(RED, Role.INITIATOR, initiator_spi=400, responder_spi=300),
        lambda keys: replace(keys, transcript=b"\x01" * 32).sa_key(
            RED, Role.INITIATOR, initiator_spi=300, responder_spi=400
        ),
    ]
    ours, theirs = [make(one) for make in derive], [make(other) for make in derive]
    assert ours == theirs
    assert len(set(ours)) == len(ours)
    assert "secret" not in repr(one)


def test_mac_covers_each_part_of_the_proceedings() -> None:
    keys, _ = agreed()
    base = Proceedings(
        initiator_evidence_sha256=bytes(32),
        responder_evidence_sha256=bytes([1]) * 32,
        responder_verdict=b"r",
        initiator_verdict=b"i",
        responder_lease_ms=1,
        initiator_lease_ms=2,
    )
    variants = [
        base,
        replace(base, initiator_evidence_sha256=bytes([2]) * 32),
        replace(base, responder_evidence_sha256=bytes([2]) * 32),
        replace(base, responder_verdict=b"x"),
        replace(base, initiator_verdict=b"x"),
        replace(base, responder_lease_ms=3),
        replace(base, initiator_lease_ms=3),
    ]
    macs = [keys.mac(role, variant) for role in Role for variant in variants]
    assert len(set(macs)) == 2 * len(variants)


def test_no_depth_of_nesting_gets_past_the_reader() -> None:
    """Somewhere there is a depth that can be read and not written again."""

    def nested(depth: int) -> bytes:
        return b'{"a":' + b"[" * depth + b"]" * depth + b"}"

    for depth in (*range(1, 50), *range(850, 1100), 5000, 60_000):
        with suppress(BadInput):
            Fields.parse(nested(depth), "deep", frozenset({"a"}))


@pytest.mark.parametrize(("hosts", "needed"), [(1, 1), (2, 2), (3, 3), (4, 3), (5, 4), (6, 4), (7, 5), (50, 26)])
def test_any_two_quorums_have_two_hosts_in_common(hosts: int, needed: int) -> None:
    assert quorum(hosts) == needed
    assert 2 * needed - hosts >= min(2, hosts)
