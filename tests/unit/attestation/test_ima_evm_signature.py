"""Portable EVM signatures of `evm-sig` entries: good ones, ones of another content, and malformed ones."""

import hashlib
import struct
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from shamon_host.attestation.ima_entry import ImaEntry, ImaFields
from shamon_host.attestation.ima_evm_signature import examine_evm_signature, file_attributes
from shamon_host.attestation.ima_log import ima_sig_entry, parse_ima_log
from shamon_host.attestation.ima_signature import SignatureVerdict, SigningKeys, load_signing_key
from tests.examples import examples
from tests.unit.attestation.file_signing import PrivateKey, certificate, sign

_RSA = rsa.generate_private_key(65537, 2048)
_EC = ec.derive_private_key(0x5EED, ec.SECP256R1())
_DIGEST = hashlib.sha256(b"content").digest()
_LABEL = b"system_u:object_r:bin_t:s0\0"


def _keys(*keys: PrivateKey) -> SigningKeys:
    der = serialization.Encoding.DER
    return SigningKeys(load_signing_key(certificate(key).public_bytes(der), where="key") for key in keys)


def _evm_digest(values: list[bytes], *, uid: int = 0, gid: int = 0, mode: int = 0o100755) -> bytes:
    """`evm_calc_hmac_or_hash` for EVM_XATTR_PORTABLE_DIGSIG: struct h_misc of a 64-bit kernel behind the attributes."""
    misc = struct.pack("<QIIIH2x", 0, 0, uid, gid, mode)
    return hashlib.sha256(b"".join(values) + misc).digest()


def _fields(
    signature: bytes,
    *,
    ima: bytes = b"\x04\x04" + _DIGEST,
    digest: bytes = _DIGEST,
    mode: int = 0o100755,
    names: bytes = b"security.selinux|security.ima\0",
) -> ImaFields:
    values = [_LABEL, ima]
    parts = (
        b"sha256:\0" + digest,
        b"/bin/x\0",
        signature,
        names,
        b"".join(len(value).to_bytes(4, "little") for value in values),
        b"".join(values),
        bytes(4),
        bytes(4),
        mode.to_bytes(2, "little"),
    )
    measured = b"".join(len(part).to_bytes(4, "little") + part for part in parts)
    return ImaEntry(10, "evm-sig", hashlib.sha1(measured).digest(), measured).fields()


@pytest.mark.parametrize("key", [_RSA, _EC], ids=["RSA", "ECDSA"])
def test_a_signature_over_attributes_and_content(key: PrivateKey) -> None:
    signature = sign(key, _evm_digest([_LABEL, b"\x04\x04" + _DIGEST]), kind=5)
    checked = examine_evm_signature(_fields(signature), _keys(_RSA, _EC))
    assert (checked.verdict, checked.reason) == (SignatureVerdict.GOOD, "")
    assert checked.key is not None
    other = b"\x04\x04" + bytes(32)
    for changed in (
        _fields(signature, mode=0o104755),
        _fields(signature, digest=bytes(32)),
        _fields(signature, ima=other, digest=bytes(32)),
        _fields(signature, names=b"security.selinux|security.apparmor\0"),
        _fields(signature, names=b"security.ima\0"),
        _fields(signature, names=b"security.ima|security.ima\0"),
        _fields(signature, names=b"security.ima|security.ima|security.selinux\0"),
        _fields(b"\x03" + signature[1:]),
        _fields(signature[:-1]),
    ):
        assert examine_evm_signature(changed, _keys(key)).verdict is SignatureVerdict.BAD
    assert examine_evm_signature(_fields(signature), SigningKeys()).verdict is SignatureVerdict.UNKNOWN_KEY


def test_the_content_may_come_in_by_a_signature_of_its_own() -> None:
    for inner_digest, keys, verdict in (
        (_DIGEST, _keys(_EC, _RSA), SignatureVerdict.GOOD),
        (_DIGEST, _keys(_EC), SignatureVerdict.UNKNOWN_KEY),
        (bytes(32), _keys(_EC, _RSA), SignatureVerdict.BAD),
    ):
        inner = sign(_RSA, inner_digest)
        signature = sign(_EC, _evm_digest([_LABEL, inner]), kind=5)
        assert examine_evm_signature(_fields(signature, ima=inner), keys).verdict is verdict
    strange = b"\x02anything"
    signature = sign(_EC, _evm_digest([_LABEL, strange]), kind=5)
    assert examine_evm_signature(_fields(signature, ima=strange), _keys(_EC)).verdict is SignatureVerdict.BAD


def test_entries_without_one() -> None:
    signature = sign(_EC, _evm_digest([_LABEL, b"\x04\x04" + _DIGEST]), kind=5)
    assert examine_evm_signature(_fields(b""), _keys(_EC)).verdict is SignatureVerdict.NONE
    plain = ima_sig_entry("/bin/x", _DIGEST, signature=signature).fields()
    checked = examine_evm_signature(plain, _keys(_EC))
    assert (checked.verdict, checked.reason) == (SignatureVerdict.NONE, "the entry has not what the signature is over")
    assert examine_evm_signature(plain, _keys(_RSA)).verdict is SignatureVerdict.UNKNOWN_KEY
    signed_content = ima_sig_entry("/bin/x", _DIGEST, signature=sign(_EC, _DIGEST)).fields()
    assert examine_evm_signature(signed_content, _keys(_EC)).verdict is SignatureVerdict.NONE
    measured = len(signature).to_bytes(4, "little") + signature
    bare = ImaEntry(10, "evmsig", hashlib.sha1(measured).digest(), measured).fields()
    assert examine_evm_signature(bare, _keys(_EC)).verdict is SignatureVerdict.NONE


def test_the_entry_of_a_real_log(vectors: Path) -> None:
    entries = parse_ima_log((vectors / "ibmtss-templates.ima").read_bytes())
    (fields,) = (entry.fields() for entry in entries if entry.template == "evm-sig")
    attributes = file_attributes(fields.raw)
    assert list(attributes) == ["security.selinux", "security.ima"]
    assert fields.file_digest is not None
    assert attributes["security.ima"] == b"\x04\x04" + fields.file_digest.digest
    checked = examine_evm_signature(fields, _keys(_EC))
    assert (checked.verdict, checked.key_id) == (SignatureVerdict.UNKNOWN_KEY, 0x78511C2A)


@settings(max_examples=examples(200))
@given(
    st.binary(max_size=40),
    st.binary(max_size=20),
    st.binary(max_size=60),
    st.sampled_from([b"", bytes(4), b"\xff" * 4, b"abc"]),
)
def test_any_fields_end_in_a_verdict(names: bytes, lengths: bytes, values: bytes, owner: bytes) -> None:
    signature = sign(_EC, _DIGEST, kind=5)
    parts = (b"sha256:\0" + _DIGEST, b"/x\0", signature, names, lengths, values, owner, owner, owner[:2])
    measured = b"".join(len(part).to_bytes(4, "little") + part for part in parts)
    fields = ImaEntry(10, "evm-sig", hashlib.sha1(measured).digest(), measured).fields()
    assert examine_evm_signature(fields, _keys(_EC)).verdict is SignatureVerdict.BAD
