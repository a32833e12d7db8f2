"""Envelopes: who signed counts, not what the envelope says about it; and whatever is malformed is refused as that."""

import base64
import contextlib
import json
import math
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, x448
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from securesystemslib.exceptions import UnverifiedSignatureError
from securesystemslib.signer import SSlibKey  # type: ignore[attr-defined]  # no __all__ there

from shamon_host.domain.authority import Requirement, required_signatures
from shamon_host.domain.canonical import canonical_json
from shamon_host.domain.errors import BadInput, NotTrusted, ShamonError
from shamon_host.domain.policy_file import MAX_POLICY_BYTES, parse_canonical, parse_policy
from shamon_host.domain.policy_form import policy_bytes
from shamon_host.peer.policy_envelope import (
    MAX_ENVELOPE_BYTES,
    POLICY_TYPE,
    assess,
    key_id,
    lacking,
    payload_of,
    public_text,
    read_envelope,
    read_public,
    sign,
    verify,
)
from shamon_host.peer.signed_record import (
    COMMIT_TYPE,
    MAX_RECORD_BYTES,
    MAX_SIGNATURES,
    Envelope,
    sign_record,
    verify_record,
)
from tests.examples import examples

PAYLOAD = b'{"format":"made up","version":1}'
ONE = ed25519.Ed25519PrivateKey.from_private_bytes(b"\1" * 32)
TWO = ec.derive_private_key(2, ec.SECP256R1())
THREE = ed25519.Ed25519PrivateKey.from_private_bytes(b"\3" * 32)
STRANGER = ed25519.Ed25519PrivateKey.from_private_bytes(b"\4" * 32)
NAMES = {public_text(ONE): "one", public_text(TWO): "two", public_text(THREE): "three"}


def required(threshold: int = 2, *keys: Any, reason: str = "signing keys of version 1") -> Requirement:
    chosen = keys or (ONE, TWO, THREE)
    return Requirement(
        keys=frozenset(public_text(key) for key in chosen), threshold=threshold, reason=reason, names=NAMES
    )


def signed(*keys: Any, payload: bytes = PAYLOAD) -> Envelope:
    envelope = Envelope(payload=payload, payload_type=POLICY_TYPE)
    for key in keys:
        envelope = sign(envelope, key)
    return envelope


def changed(change: Callable[[dict[str, Any]], object], *keys: Any) -> bytes:
    """The JSON form of an envelope after a change."""
    document = json.loads(signed(*keys).encode())
    change(document)
    return json.dumps(document).encode()


# Thresholds


@pytest.mark.parametrize(
    ("keys", "threshold", "met"),
    [
        ((ONE, TWO), 2, True),
        ((THREE, TWO), 2, True),
        ((ONE, TWO, THREE), 3, True),
        ((ONE, TWO, THREE), 1, True),
        ((ONE,), 2, False),
        ((ONE, STRANGER), 2, False),
        ((ONE, ONE), 2, False),
        ((), 1, False),
        ((ONE, TWO, THREE), 4, False),
    ],
)
def test_k_of_n(keys: tuple[Any, ...], threshold: int, met: bool) -> None:
    data = signed(*keys).encode()
    if met:
        assert verify(data, [required(threshold)]) == PAYLOAD
    else:
        with pytest.raises(NotTrusted, match=f"of {threshold}"):
            verify(data, [required(threshold)])


def test_every_requirement_counts_for_itself() -> None:
    both = [required(2), required(1, STRANGER, reason="organisation bank: type bank/a is added")]
    with pytest.raises(NotTrusted) as caught:
        verify(signed(ONE, TWO).encode(), both)
    assert "organisation bank" in caught.value.found
    assert "signing keys" not in caught.value.found
    assert verify(signed(ONE, TWO, STRANGER).encode(), both) == PAYLOAD


def test_one_key_may_count_for_several_requirements() -> None:
    assert verify(signed(ONE).encode(), [required(1), required(1, ONE, reason="organisation bank")]) == PAYLOAD


def test_rotation_needs_the_thresholds_of_both() -> None:
    old, new = required(2, ONE, TWO, reason="signing keys of version 1"), required(1, THREE, reason="of version 2")
    for keys in ((ONE, TWO), (THREE,), (ONE, THREE)):
        with pytest.raises(NotTrusted):
            verify(signed(*keys).encode(), [old, new])
    assert verify(signed(ONE, TWO, THREE).encode(), [old, new]) == PAYLOAD


def test_a_revoked_key_counts_for_nothing() -> None:
    with pytest.raises(NotTrusted, match="not signed by two"):
        verify(signed(ONE, THREE).encode(), [required(2, ONE, TWO)])


def test_the_error_names_who_signed_and_who_did_not() -> None:
    with pytest.raises(NotTrusted) as caught:
        verify(signed(TWO).encode(), [required(2)], source="v2.dsse")
    assert caught.value.found == "signing keys of version 1: 1 of 2, signed by two, not signed by one, three"
    assert caught.value.where == "v2.dsse"


def test_where_nobody_has_to_sign_nothing_is_trusted() -> None:
    with pytest.raises(NotTrusted, match="nobody"):
        verify(signed(ONE).encode(), [])


def test_lacking_is_what_verify_complains_about() -> None:
    assert lacking(signed(ONE, TWO), [required(2)]) == ()
    assert [text.partition(":")[0] for text in lacking(signed(ONE), [required(1), required(2)])] == [
        "signing keys of version 1"
    ]


# Hints


def test_two_signatures_of_one_key_under_two_ids_count_once() -> None:
    by_one = signed(ONE).signatures[0][1]
    pairs = ((key_id(public_text(ONE)), by_one), (key_id(public_text(TWO)), by_one), ("", by_one), ("one", by_one))
    data = Envelope(payload=PAYLOAD, payload_type=POLICY_TYPE, signatures=pairs).encode()
    (assessment,) = assess(read_envelope(data), [required(2)])
    assert assessment.signed == {public_text(ONE)}
    with pytest.raises(NotTrusted):
        verify(data, [required(2)])


def test_two_different_signatures_of_one_key_count_once() -> None:
    pairs = tuple(signed(TWO).signatures[0] for _ in range(2))
    assert pairs[0] != pairs[1]  # ECDSA is randomised
    data = Envelope(payload=PAYLOAD, payload_type=POLICY_TYPE, signatures=pairs).encode()
    with pytest.raises(NotTrusted):
        verify(data, [required(2)])


@pytest.mark.parametrize("hints", [("", ""), ("x", "y"), (key_id(public_text(TWO)), key_id(public_text(ONE)))])
def test_signatures_count_whatever_their_hints_say(hints: tuple[str, str]) -> None:
    pairs = [signature for _, signature in signed(ONE, TWO).signatures]
    envelope = Envelope(payload=PAYLOAD, payload_type=POLICY_TYPE, signatures=tuple(zip(hints, pairs, strict=True)))
    assert verify(envelope.encode(), [required(2)]) == PAYLOAD


def test_a_signature_without_a_hint_counts() -> None:
    data = changed(lambda document: [each.pop("keyid") for each in document["signatures"]], ONE, TWO)
    assert verify(data, [required(2)]) == PAYLOAD


def test_guessing_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """64 signatures under hints that say nothing, and 64 keys: each attempt may be a hash over megabytes."""
    tried = []

    def verify_signature(key: SSlibKey, *_: object) -> None:
        tried.append(key.keyid)
        raise UnverifiedSignatureError

    monkeypatch.setattr(SSlibKey, "verify_signature", verify_signature)
    junk = tuple((f"hint {number}", bytes(64)) for number in range(MAX_SIGNATURES))
    envelope = Envelope(payload=PAYLOAD, payload_type=POLICY_TYPE, signatures=junk)
    keys = [ec.derive_private_key(number, ec.SECP256R1()) for number in range(1, 65)]
    (assessment,) = assess(envelope, [required(1, *keys)])
    assert not assessment.signed
    assert 64 <= len(tried) <= 256


def test_junk_before_a_good_signature_does_not_hide_it() -> None:
    junk = tuple((key_id(public_text(ONE)), bytes([number]) * 64) for number in range(MAX_SIGNATURES - 1))
    envelope = Envelope(payload=PAYLOAD, payload_type=POLICY_TYPE, signatures=(*junk, signed(ONE).signatures[0]))
    assert verify(envelope.encode(), [required(1)]) == PAYLOAD


# What is signed


@given(st.data())
@settings(max_examples=examples(200), deadline=None)
def test_a_payload_with_any_byte_changed_is_refused(data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(PAYLOAD) - 1))
    other = data.draw(st.integers(1, 255))
    payload = bytearray(PAYLOAD)
    payload[place] ^= other
    envelope = Envelope(payload=bytes(payload), payload_type=POLICY_TYPE, signatures=signed(ONE, THREE).signatures)
    with pytest.raises(NotTrusted):
        verify(envelope.encode(), [required(1)])


@given(st.data())
@settings(max_examples=examples(300), deadline=None)
def test_an_envelope_with_any_byte_changed_is_refused_or_says_the_same(data: st.DataObject) -> None:
    """White space, hints and the alphabet of base64 may differ; the payload that comes out may not."""
    encoded = bytearray(signed(ONE, THREE).encode())  # Ed25519: the same signatures each time
    encoded[data.draw(st.integers(0, len(encoded) - 1))] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(BadInput, NotTrusted):
        assert verify(bytes(encoded), [required(2)]) == PAYLOAD


@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
@settings(max_examples=examples(200), deadline=None)
def test_arbitrary_bytes_are_bad_input(data: bytes) -> None:
    with pytest.raises(BadInput):
        verify(data, [required(1)])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(["payload", "payloadType", "signatures"]), JSON)
@settings(max_examples=examples(200), deadline=None)
def test_any_other_value_of_a_field_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ShamonError):
        verify(changed(lambda document: document.update({name: value}), ONE), [required(1)])


@given(st.sampled_from(["keyid", "sig"]), JSON)
@settings(max_examples=examples(200), deadline=None)
def test_any_other_value_in_a_signature_is_refused_or_only_a_hint(name: str, value: Any) -> None:
    data = changed(lambda document: document["signatures"][0].update({name: value}), ONE)
    try:
        assert verify(data, [required(1)]) == PAYLOAD
        assert name == "keyid"
        assert isinstance(value, str)
    except (BadInput, NotTrusted):
        assert name == "sig" or not isinstance(value, str)


def test_a_signature_over_another_type_is_none() -> None:
    record = Envelope(payload=PAYLOAD, payload_type=COMMIT_TYPE).signed_by(ONE)
    envelope = Envelope(payload=PAYLOAD, payload_type=POLICY_TYPE, signatures=record.signatures)
    with pytest.raises(NotTrusted):
        verify(envelope.encode(), [required(1)])
    with pytest.raises(BadInput, match="something else"):
        verify(record.encode(), [required(1)])


def test_the_bytes_that_are_signed_are_those_of_dsse() -> None:
    """The pre-authentication encoding, written out (DSSE protocol 1.0.0)."""
    ((hint, signature),) = signed(ONE).signatures
    ONE.public_key().verify(signature, b"DSSEv1 34 application/vnd.shamon.policy+json 32 " + PAYLOAD)
    assert hint == key_id(public_text(ONE))
    assert (len(POLICY_TYPE), len(PAYLOAD)) == (34, 32)


# Malformed


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "not JSON"),
        (b"[]", "not a JSON object"),
        (b"null", "not a JSON object"),
        (b"{}", "something else"),
        (b"\xff\xfe{\0}\0", "not JSON"),
        (b"\xef\xbb\xbf{}", "not JSON"),
        (b'{"a":NaN}', "not a number"),
        (b'{"a":-Infinity}', "not a number"),
        (b'{"payload":"","payload":""}', "twice"),
        (b'{"signatures":[{"sig":"","sig":"AA=="}]}', "twice"),
        (b'{"a":' + b"9" * 10_000 + b"}", "not JSON"),
        (b'{"a":' * 900 + b"1" + b"}" * 900, "something else|not JSON"),
        (b"[" * 2000, "not JSON"),
        (b"[" * 1_000_000, "too many parts"),
        (b'{"a":[' + b"[]," * 1_000_000 + b"[]]}", "too many parts"),
        (b" " * (MAX_ENVELOPE_BYTES + 1), "too large"),
    ],
)
def test_malformed_json(data: bytes, told: str) -> None:
    with pytest.raises(BadInput, match=told):
        verify(data, [required(1)])


@pytest.mark.parametrize(
    "text", ["a", "ab", "abc", "YR==", "YQ", "YQ=", "Y Q==", "YQ==\n", "Y*==", "ü", "\ud800", "===="]
)
@pytest.mark.parametrize("where", ["payload", "sig"])
def test_malformed_base64(text: str, where: str) -> None:
    def change(document: dict[str, Any]) -> None:
        (document if where == "payload" else document["signatures"][0])[where] = text

    with pytest.raises(BadInput, match="not base64"):
        verify(changed(change, ONE), [required(1)])


def test_either_alphabet_of_base64_is_read() -> None:
    payload = b'{"a":"\xfb\xff\xbf"}'
    standard = signed(ONE, payload=payload).encode()
    assert b"+" in standard
    document = json.loads(standard)
    document["payload"] = document["payload"].replace("+", "-").replace("/", "_")
    assert verify(json.dumps(document).encode(), [required(1)]) == payload


def test_fields_that_dsse_does_not_name_are_ignored() -> None:
    assert verify(changed(lambda document: document.update(more=[1, {"a": None}]), ONE), [required(1)]) == PAYLOAD


@pytest.mark.parametrize(
    "signatures",
    [None, {}, "x", [None], [[]], [{}], [{"sig": 1}], [{"sig": "AA==", "keyid": None}], [{"keyid": ""}],
     [{"sig": "AA==", "keyid": "k" * 257}], [{"sig": "A" * 1000}], [{"sig": "AA=="}] * 65],
)  # fmt: skip
def test_malformed_signatures(signatures: Any) -> None:
    with pytest.raises(BadInput):
        verify(changed(lambda document: document.update(signatures=signatures), ONE), [required(1)])


def test_a_payload_that_is_too_large_is_neither_signed_nor_read() -> None:
    with pytest.raises(BadInput, match="too large"):
        sign(bytes(MAX_POLICY_BYTES + 1), ONE)
    envelope = Envelope(payload=bytes(MAX_POLICY_BYTES + 1), payload_type=POLICY_TYPE)
    with pytest.raises(BadInput, match="too long"):
        read_envelope(envelope.encode())


def test_the_largest_envelope_is_read() -> None:
    junk = tuple((f"{number:0256}", bytes(512)) for number in range(MAX_SIGNATURES))
    envelope = Envelope(payload=bytes(MAX_POLICY_BYTES), payload_type=POLICY_TYPE, signatures=junk)
    assert len(envelope.encode()) <= MAX_ENVELOPE_BYTES
    assert read_envelope(envelope.encode()) == envelope


def test_a_full_envelope_takes_only_a_new_signature_by_the_same_key() -> None:
    junk = tuple((str(number), bytes(64)) for number in range(MAX_SIGNATURES - 1))
    envelope = Envelope(payload=PAYLOAD, payload_type=POLICY_TYPE, signatures=junk).signed_by(ONE)
    assert len(sign(envelope, ONE).signatures) == MAX_SIGNATURES
    with pytest.raises(BadInput, match="full"):
        sign(envelope, TWO)


def test_signing_again_replaces_the_signature() -> None:
    again = sign(signed(TWO, ONE), TWO)
    assert [hint for hint, _ in again.signatures] == [key_id(public_text(ONE)), key_id(public_text(TWO))]


# Keys


@pytest.mark.parametrize("key", [ONE, TWO])
def test_a_key_is_read_as_it_was_written(key: Any) -> None:
    assert public_text(read_public(public_text(key))) == public_text(key.public_key()) == public_text(key)


def spki(key: Any, point: PublicFormat = PublicFormat.SubjectPublicKeyInfo) -> bytes:
    der: bytes = key.public_key().public_bytes(Encoding.DER, point)
    return der


COMPRESSED = bytes.fromhex("3039301306072a8648ce3d020106082a8648ce3d030107032200") + TWO.public_key().public_bytes(
    Encoding.X962, PublicFormat.CompressedPoint
)
WRONG_KEYS = {
    "P-384": spki(ec.derive_private_key(2, ec.SECP384R1())),
    "secp256k1": spki(ec.derive_private_key(2, ec.SECP256K1())),
    "RSA": spki(rsa.generate_private_key(65537, 2048)),
    "X448": spki(x448.X448PrivateKey.generate()),
    "a compressed point": COMPRESSED,
    "a byte too much": spki(ONE) + b"\0",
    "cut off": spki(ONE)[:-1],
    "not on the curve": spki(TWO)[:-1] + bytes([spki(TWO)[-1] ^ 1]),
    "nothing": b"",
}


@pytest.mark.parametrize("der", WRONG_KEYS.values(), ids=WRONG_KEYS)
def test_any_other_key_is_refused(der: bytes) -> None:
    with pytest.raises(BadInput):
        read_public(base64.b64encode(der).decode())
    requirement = Requirement(keys=frozenset({base64.b64encode(der).decode()}), threshold=1, reason="nobody")
    with pytest.raises(BadInput):
        verify(signed(ONE).encode(), [requirement])


@pytest.mark.parametrize(
    "text", ["", "x", "ü", "\ud800", "A" * 10_000, public_text(ONE) + "\n", " " + public_text(ONE)]
)
def test_text_that_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(BadInput):
        read_public(text)


@given(st.integers(0, 43), st.integers(1, 255))
@settings(max_examples=examples(200), deadline=None)
def test_no_text_but_its_own_is_read_as_a_key(place: int, other: int) -> None:
    der = bytearray(spki(ONE))
    der[place] ^= other
    text = base64.b64encode(der).decode()
    with contextlib.suppress(BadInput):
        assert public_text(read_public(text)) == text


@pytest.mark.parametrize("key", [rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP384R1()), "key"])
def test_no_other_key_signs(key: Any) -> None:
    with pytest.raises(BadInput, match="another kind"):
        sign(PAYLOAD, key)


# Policies


def test_a_policy_is_signed_read_and_trusted() -> None:
    text = f"""
types = ["bank/a"]
[coalition]
name = "finance"
version = 1
[signing]
threshold = 2
keys = ["one", "two"]
[keys.one]
public = "{public_text(ONE)}"
[keys.two]
public = "{public_text(TWO)}"
[keys.three]
public = "{public_text(THREE)}"
[organisations.bank]
key = "three"
[labels.a]
types = ["bank/a"]
[hosts.alpha]
address = "192.0.2.1"
types = ["bank/a"]
"""
    policy = parse_policy(text.encode(), source="policy.toml")
    data = sign(sign(policy_bytes(policy), ONE), TWO).encode()
    read = parse_canonical(payload_of(data), source="envelope")
    assert read.digest == policy.digest
    with pytest.raises(NotTrusted, match="organisation bank, owner of bank/a: 0 of 1, not signed by three"):
        verify(data, required_signatures(read, None))
    data = sign(read_envelope(data), THREE).encode()
    assert verify(data, required_signatures(read, None)) == policy_bytes(policy)


@pytest.mark.parametrize(
    "payload",
    [
        b'{"format":"shamon-policy-2","walls":[],"walls":[]}',
        b'{"format":"shamon-policy-2","intervals":NaN}',
        b"[" * 5000,
    ],
)
def test_a_payload_that_is_signed_and_malformed_is_bad_input(payload: bytes) -> None:
    data = signed(ONE, TWO, payload=payload).encode()
    with pytest.raises(BadInput):
        parse_canonical(verify(data, [required(2)]), source="envelope")


# Records


@pytest.mark.parametrize("key", [ONE, TWO])
def test_a_record_is_read_with_the_key_that_signed_it(key: Any) -> None:
    record = {"update": "00ff", "host": "alpha", "count": 3}
    data = sign_record(record, key)
    assert verify_record(data, public_text(key)) == record
    with pytest.raises(NotTrusted):
        verify_record(data, public_text(STRANGER))


def test_a_record_of_another_type_is_refused() -> None:
    data = sign_record({"a": 1}, ONE, payload_type="application/vnd.shamon.other+json")
    with pytest.raises(BadInput):
        verify_record(data, public_text(ONE))
    assert verify_record(data, public_text(ONE), payload_type="application/vnd.shamon.other+json") == {"a": 1}


@pytest.mark.parametrize(
    "payload", [b"[]", b'{"a": 1}', b'{"a":1,"a":1}', b'{"b":1,"a":2}', b'{"a":NaN}', b"{", b"\xff"]
)
def test_a_record_that_is_signed_and_not_canonical_is_bad_input(payload: bytes) -> None:
    data = Envelope(payload=payload, payload_type=COMMIT_TYPE).signed_by(ONE).encode()
    with pytest.raises(BadInput):
        verify_record(data, public_text(ONE))
    with pytest.raises(NotTrusted):  # nothing is read before it is verified
        verify_record(data, public_text(TWO))


def test_a_record_with_any_byte_changed_is_refused() -> None:
    record = canonical_json({"update": "00ff"})
    by_one = Envelope(payload=record, payload_type=COMMIT_TYPE).signed_by(ONE)
    for place in range(len(record)):
        payload = bytearray(record)
        payload[place] ^= 1
        changed_record = Envelope(payload=bytes(payload), payload_type=COMMIT_TYPE, signatures=by_one.signatures)
        with pytest.raises(NotTrusted):
            verify_record(changed_record.encode(), public_text(ONE))


def test_what_has_no_canonical_form_or_is_too_large_is_no_record() -> None:
    for record in ({"a": math.nan}, {"a": b""}, {"a": "x" * MAX_RECORD_BYTES}):
        with pytest.raises(BadInput):
            sign_record(record, ONE)
    large = {"a": "x" * MAX_RECORD_BYTES}
    data = sign_record(large, ONE, most=1 << 20)
    assert verify_record(data, public_text(ONE), most=1 << 20) == large
    with pytest.raises(BadInput):
        verify_record(data, public_text(ONE))
