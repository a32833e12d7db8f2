"""Signatures of files: made here as evmctl makes them, taken from real logs, and every way of being no good."""

import hashlib
from pathlib import Path

import pytest
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils
from hypothesis import given, settings
from hypothesis import strategies as st

from shamon_host.attestation.ima_entry import ImaEntry, ImaFields
from shamon_host.attestation.ima_log import ima_buf_entry, ima_sig_entry, parse_ima_log, violation_entry
from shamon_host.attestation.ima_signature import (
    KERNEL_HASHES,
    ImaSignatureError,
    SignatureVerdict,
    SigningKey,
    SigningKeyError,
    SigningKeys,
    check_signature,
    examine_signature,
    load_signing_key,
    read_signature_header,
)
from shamon_host.attestation.pcr import Bank
from tests.examples import examples
from tests.unit.attestation.file_signing import HASHES, PrivateKey, bit_string_id, certificate, sign

_RSA = rsa.generate_private_key(65537, 2048)
_KEYS: dict[str, PrivateKey] = {
    "RSA": _RSA,
    "P-256": ec.derive_private_key(0x5EED, ec.SECP256R1()),
    "P-384": ec.derive_private_key(0x5EED, ec.SECP384R1()),
    "P-521": ec.derive_private_key(0x5EED, ec.SECP521R1()),
}
_P256 = _KEYS["P-256"]
_CONTENT = b"#!/bin/sh\n"


def _digest(algorithm: str = "sha256", content: bytes = _CONTENT) -> bytes:
    return hashlib.new(HASHES[algorithm][0], content).digest()


def _spki(key: PrivateKey, encoding: serialization.Encoding = serialization.Encoding.DER) -> bytes:
    return key.public_key().public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo)


def _loaded(*keys: PrivateKey) -> SigningKeys:
    return SigningKeys(load_signing_key(_spki(key), where="test") for key in keys)


def _fields(signature: bytes, *, algorithm: str = "sha256", digest: bytes | None = None) -> ImaFields:
    found = _digest(algorithm) if digest is None else digest
    return ima_sig_entry("/bin/x", found, algorithm=algorithm, signature=signature).fields()


def _v2_fields(kind: bytes, signature: bytes) -> ImaFields:
    parts = (kind + b":sha256:\0" + _digest(), b"/bin/x\0", signature)
    measured = b"".join(len(part).to_bytes(4, "little") + part for part in parts)
    return ImaEntry(10, "ima-sigv2", hashlib.sha1(measured).digest(), measured).fields()


@pytest.mark.parametrize("algorithm", HASHES)
@pytest.mark.parametrize("name", _KEYS)
def test_signatures_of_every_key_and_hash(name: str, algorithm: str) -> None:
    key = _KEYS[name]
    fields = _fields(sign(key, _digest(algorithm), algorithm=algorithm), algorithm=algorithm)
    found = examine_signature(fields, _loaded(*_KEYS.values()))
    assert (found.verdict, found.reason) == (SignatureVerdict.GOOD, "")
    assert found.key is not None
    assert found.key.spki == _spki(key)
    other = _fields(fields.signature, algorithm=algorithm, digest=_digest(algorithm, b"other content"))
    assert check_signature(other, _loaded(key)) is SignatureVerdict.BAD


def test_a_key_is_found_by_both_of_its_ids() -> None:
    key_id = bytes.fromhex("00112233445566778899")
    loaded = load_signing_key(certificate(_P256, key_id).public_bytes(serialization.Encoding.DER), where="a.der")
    assert loaded.key_ids == {0x66778899, int.from_bytes(bit_string_id(_P256), "big")}
    keys = SigningKeys([loaded])
    for wanted in (key_id[-4:], bit_string_id(_P256)):
        assert check_signature(_fields(sign(_P256, _digest(), key_id=wanted)), keys) is SignatureVerdict.GOOD
    assert check_signature(_fields(sign(_P256, _digest(), key_id=b"\0\0\0\1")), keys) is SignatureVerdict.UNKNOWN_KEY
    bare = load_signing_key(_spki(_P256), where="b.der")
    assert bare.key_ids == {int.from_bytes(bit_string_id(_P256), "big")}
    assert bare == loaded
    assert len(SigningKeys([bare, loaded])) == 1
    assert bare.fingerprint == hashlib.sha256(_spki(_P256)).hexdigest()


@pytest.mark.parametrize("key", _KEYS.values(), ids=list(_KEYS))
def test_keys_in_every_form(key: PrivateKey) -> None:
    der, pem = serialization.Encoding.DER, serialization.Encoding.PEM
    forms = [_spki(key), _spki(key, pem), certificate(key).public_bytes(der), certificate(key).public_bytes(pem)]
    loaded = [load_signing_key(data, where="key") for data in forms]
    assert {found.spki for found in loaded} == {_spki(key)}
    assert {found.key_ids for found in loaded} == {frozenset({int.from_bytes(bit_string_id(key), "big")})}
    assert [found.subject for found in loaded] == ["", "", "CN=file signing", "CN=file signing"]


def test_an_odd_certificate_gives_its_key_all_the_same() -> None:
    der = bytearray(certificate(_P256, bytes(20)).public_bytes(serialization.Encoding.DER))
    serial = der.index(b"\x02\x01\x07")
    der[serial + 2] = 0  # not a positive serial number: only a warning, and not one for the terminal
    assert load_signing_key(bytes(der), where="odd").spki == _spki(_P256)
    name = der.index(b"\x0c\x0cfile signing")
    der[name] = 3  # the common name as a bit string, here and in the issuer
    der[der.index(b"\x0c\x0cfile signing")] = 3
    odd = load_signing_key(bytes(der), where="odd")
    assert (odd.spki, odd.subject) == (_spki(_P256), "")


def test_two_keys_with_one_id_are_both_tried() -> None:
    own = bit_string_id(_P256)
    clash = load_signing_key(certificate(_RSA, own).public_bytes(serialization.Encoding.PEM), where="clash")
    keys = SigningKeys([clash, load_signing_key(_spki(_P256), where="key")])
    assert len(keys.by_id(int.from_bytes(own, "big"))) == 2
    assert check_signature(_fields(sign(_P256, _digest())), keys) is SignatureVerdict.GOOD
    assert check_signature(_fields(sign(_RSA, _digest(), key_id=own)), keys) is SignatureVerdict.GOOD
    assert check_signature(_fields(sign(_KEYS["P-384"], _digest(), key_id=own)), keys) is SignatureVerdict.BAD


def test_no_signature_is_none() -> None:
    keys = _loaded(_P256)
    digest = _digest()
    for attribute in (b"", b"\x01" + digest[:20], b"\x04\x04" + digest, b"\x05\x02\x04" + bytes(70)):
        assert check_signature(_fields(attribute), keys) is SignatureVerdict.NONE
    for entry in (ima_buf_entry("selinux-state", b"x"), violation_entry("/tmp/x")):
        assert check_signature(entry.fields(), keys) is SignatureVerdict.NONE


def test_verity_signatures_are_over_the_file_id() -> None:
    keys = _loaded(_P256)
    good = sign(_P256, _digest(), kind=6, version=3)
    assert check_signature(_v2_fields(b"verity", good), keys) is SignatureVerdict.GOOD
    assert check_signature(_fields(good), keys) is SignatureVerdict.GOOD  # d-ng does not tell the kind
    assert check_signature(_v2_fields(b"ima", good), keys) is SignatureVerdict.BAD
    plain = sign(_P256, _digest())
    assert check_signature(_v2_fields(b"ima", plain), keys) is SignatureVerdict.GOOD
    assert check_signature(_v2_fields(b"verity", plain), keys) is SignatureVerdict.BAD
    # The digest itself, signed, does not pass as a signed file id, and a type does not pass as the other.
    for wrong in (b"\x06\x03" + plain[2:], b"\x06\x02" + plain[2:], b"\x03\x03" + good[2:], b"\x03\x02" + good[2:]):
        for fields in (_v2_fields(b"verity", wrong), _v2_fields(b"ima", wrong)):
            assert check_signature(fields, keys) is SignatureVerdict.BAD
    typed = sign(_P256, _digest(), kind=3, version=3)
    assert check_signature(_v2_fields(b"ima", typed), keys) is SignatureVerdict.GOOD


def test_a_signature_over_another_hash_is_bad() -> None:
    signed = sign(_P256, _digest("sha384"), algorithm="sha384")
    found = examine_signature(_fields(signed), _loaded(_P256))
    assert found.verdict is SignatureVerdict.BAD
    assert "sha384" in found.reason
    assert "sha256" in found.reason
    # A hash of the same length does not pass as the other either.
    other = bytearray(sign(_P256, _digest()))
    other[2] = KERNEL_HASHES.index("sha3-256")
    assert check_signature(_fields(bytes(other)), _loaded(_P256)) is SignatureVerdict.BAD


@pytest.mark.parametrize("name", ["sm3", "sm3-256", "sm3_256"])
def test_sm3_by_each_of_its_names(name: str) -> None:
    digest = bytes(range(32))
    try:
        made = _RSA.sign(digest, padding.PKCS1v15(), utils.Prehashed(hashes.SM3()))
    except UnsupportedAlgorithm:
        pytest.skip("OpenSSL is built without SM3 here")
    attribute = b"\x03\x02" + bytes([KERNEL_HASHES.index("sm3")]) + bit_string_id(_RSA)
    attribute += len(made).to_bytes(2, "big") + made
    assert check_signature(_fields(attribute, algorithm=name, digest=digest), _loaded(_RSA)) is SignatureVerdict.GOOD


@pytest.mark.parametrize(
    ("attribute", "reason"),
    [
        (b"\x03", "version 0"),
        (b"\x03\x02", "shorter than its header"),
        (b"\x03\x02\x04abcd\0\0", "shorter than its header"),
        (b"\x03\x02\x04abcd\0\x02x", "length it says"),
        (b"\x03\x02\x04abcd\0\x01xx", "length it says"),
        (b"\x03\x02\xffabcd\0\x01x", "no known hash"),
        (b"\x03\x04\x04abcd\0\x01x", "version 4"),
        (b"\x02\x02\x04abcd\0\x01x", "type 2"),
        (b"\x99", "type 153"),
    ],
)
def test_malformed_signatures_are_bad(attribute: bytes, reason: str) -> None:
    found = examine_signature(_fields(attribute), _loaded(_P256))
    assert found.verdict is SignatureVerdict.BAD
    assert reason in found.reason


def test_the_first_version_names_no_key_that_can_be_known() -> None:
    assert check_signature(_fields(b"\x03\x01" + bytes(300)), _loaded(_RSA)) is SignatureVerdict.UNKNOWN_KEY


def test_an_entry_without_digest_has_no_good_signature() -> None:
    signature = sign(_P256, _digest())
    measured = len(signature).to_bytes(4, "little") + signature
    fields = ImaEntry(10, "sig", hashlib.sha1(measured).digest(), measured).fields()
    found = examine_signature(fields, _loaded(_P256))
    assert (found.verdict, found.key) == (SignatureVerdict.BAD, None)
    assert "no file digest" in found.reason


def test_every_flipped_bit_makes_it_no_longer_good() -> None:
    keys = _loaded(_P256)
    good = sign(_P256, _digest())
    for position in range(8 * len(good)):
        changed = bytearray(good)
        changed[position // 8] ^= 1 << position % 8
        assert check_signature(_fields(bytes(changed)), keys) is not SignatureVerdict.GOOD


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no key",
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
        _spki(_P256, serialization.Encoding.PEM) * 2,
        bytes(70_000),
        ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32))
        .public_key()
        .public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo),
        _spki(ec.derive_private_key(7, ec.SECP256K1())),
        _P256.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
    ],
)
def test_what_is_no_signing_key_is_refused(data: bytes) -> None:
    with pytest.raises(SigningKeyError, match="that file"):
        load_signing_key(data, where="that file")


def test_signed_entries_of_a_real_log(vectors: Path) -> None:
    entries = parse_ima_log((vectors / "ibmtss-sha256.ima").read_bytes(), log_bank=Bank.SHA256)
    signed = [entry.fields() for entry in entries if entry.fields().signature]
    assert len(signed) == 21
    headers = [read_signature_header(fields.signature) for fields in signed]
    assert {(header.kind, header.version, header.algorithm, header.key_id) for header in headers} == {
        (3, 2, "sha256", 0xA3204A9E)
    }
    assert {check_signature(fields, _loaded(_P256)) for fields in signed} == {SignatureVerdict.UNKNOWN_KEY}
    # Under a key that claims the same id, none of them is good.
    claimed = certificate(_P256, bytes.fromhex("a3204a9e")).public_bytes(serialization.Encoding.DER)
    keys = SigningKeys([load_signing_key(claimed, where="claimed")])
    assert {check_signature(fields, keys) for fields in signed} == {SignatureVerdict.BAD}


def test_signatures_of_the_template_log(vectors: Path) -> None:
    entries = parse_ima_log((vectors / "ibmtss-templates.ima").read_bytes())
    found = [examine_signature(entry.fields(), SigningKeys()) for entry in entries]
    assert [(item.key_id, item.verdict) for item in found if item.key_id is not None] == [
        (0x6E6C1046, SignatureVerdict.UNKNOWN_KEY),
        (0xF1F2BA3C, SignatureVerdict.UNKNOWN_KEY),
    ]


@settings(max_examples=examples(300))
@given(st.binary(max_size=120), st.integers(0, 90), st.integers(0, 20), st.integers(0, 255))
def test_changed_signatures_and_keys_end_in_a_verdict_or_the_own_error(
    junk: bytes, position: int, cut: int, kind: int
) -> None:
    good = sign(_P256, _digest())
    changed = good[:position] + junk + good[position + cut :]
    for attribute in (junk, bytes([kind]) + junk, b"\x03\x02" + junk, changed):
        verdict = check_signature(_fields(attribute), _loaded(_P256))
        assert (verdict is SignatureVerdict.GOOD) <= (attribute == good)
        try:
            read_signature_header(attribute)
        except ImaSignatureError:
            continue
    der = certificate(_P256).public_bytes(serialization.Encoding.DER)
    for data in (junk, der[:position] + junk + der[position + cut :]):
        try:
            assert isinstance(load_signing_key(data, where="key"), SigningKey)
        except SigningKeyError:
            continue
