"""Signed Reference Values: taken only with the signatures that are demanded, and read after that."""

import json
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from shamon_host.domain.errors import BadInput, NotTrusted
from shamon_host.peer.policy_envelope import POLICY_TYPE
from shamon_host.peer.reference_envelope import ReferenceSigners, checked_signers, is_envelope, opened, sign
from shamon_host.peer.signed_record import Envelope, PrivateKey, public_text
from tests.unit.attestation.measured_world import good_reference

ONE, TWO, THREE = Ed25519PrivateKey.generate(), generate_private_key(SECP256R1()), Ed25519PrivateKey.generate()
KEYS = frozenset(map(public_text, (ONE, TWO, THREE)))


def signed(*keys: PrivateKey) -> bytes:
    envelope: Envelope = sign(good_reference(), keys[0])
    for key in keys[1:]:
        envelope = sign(envelope, key)
    return envelope.encode()


def of(threshold: int) -> ReferenceSigners:
    return checked_signers(sorted(KEYS), threshold)


def test_enough_signatures() -> None:
    both = signed(ONE, TWO)
    for data, signers in ((signed(ONE), of(1)), (both, of(2)), (both, of(1)), (both, None)):
        assert is_envelope(data)
        assert opened(data, signers, source="alpha.json") == good_reference()


@pytest.mark.parametrize("threshold", [2, 3])
def test_too_few(threshold: int) -> None:
    for data in (signed(ONE), signed(ONE, ONE), signed(ONE, Ed25519PrivateKey.generate())):
        with pytest.raises(NotTrusted) as caught:
            opened(data, of(threshold), source="alpha.json")
        assert str(threshold) in caught.value.expected
        assert "reference sign" in caught.value.remedy


def test_none_where_some_are_demanded() -> None:
    plain = json.dumps(good_reference().to_document(), indent=1).encode()
    assert not is_envelope(plain)
    assert opened(plain, None, source="alpha.json") == good_reference()
    with pytest.raises(NotTrusted, match="not signed"):
        opened(plain, of(1), source="alpha.json")


def test_a_signature_is_for_these_values_alone() -> None:
    other = sign(replace(good_reference(), version=9), ONE)
    (signature,) = sign(good_reference(), ONE).signatures
    for moved in (
        replace(other, signatures=(signature,)),
        replace(sign(good_reference(), ONE), payload_type=POLICY_TYPE),
    ):
        with pytest.raises((NotTrusted, BadInput)):
            opened(moved.encode(), of(1), source="alpha.json")


def test_what_was_signed_but_is_no_reference() -> None:
    empty = replace(sign(good_reference(), ONE), payload=b'{"a": 1}', signatures=())
    with pytest.raises(BadInput, match="unknown key"):
        opened(empty.signed_by(ONE).encode(), of(1), source="alpha.json")
    with pytest.raises(NotTrusted):  # before it is read at all
        opened(replace(empty, payload=b"{").encode(), of(1), source="alpha.json")


@pytest.mark.parametrize(("keys", "threshold"), [([], 1), (["x"], 1), (sorted(KEYS), 0), (sorted(KEYS), 4)])
def test_signers_that_cannot_be(keys: list[str], threshold: int) -> None:
    with pytest.raises(BadInput):
        checked_signers(keys, threshold)


def test_a_key_counts_once() -> None:
    with pytest.raises(BadInput, match="threshold"):
        checked_signers([public_text(ONE)] * 2, 2)
