"""Appended signatures of `ima-modsig` entries, made as the kernel's sign-file makes them, and malformed ones."""

import hashlib
from contextlib import suppress
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import pkcs7
from hypothesis import given, settings
from hypothesis import strategies as st

from shamon_host.attestation.ima_entry import ImaEntry, ImaFields
from shamon_host.attestation.ima_log import ima_sig_entry, parse_ima_log
from shamon_host.attestation.ima_modsig import examine_modsig, read_signers
from shamon_host.attestation.ima_signature import (
    ImaSignatureError,
    SignatureVerdict,
    SigningKeys,
    load_signing_key,
)
from tests.examples import examples
from tests.unit.attestation.file_signing import PrivateKey, certificate

_RSA = rsa.generate_private_key(65537, 2048)
_EC = ec.derive_private_key(0x5EED, ec.SECP256R1())
_MODULE = b"\x7fELF a kernel module"
_OPTIONS = (
    pkcs7.PKCS7Options.DetachedSignature,
    pkcs7.PKCS7Options.Binary,
    pkcs7.PKCS7Options.NoAttributes,
    pkcs7.PKCS7Options.NoCerts,
)


def _append(
    key: PrivateKey, made_for: x509.Certificate, algorithm: hashes.SHA256 | hashes.SHA512, *, attributes: bool = False
) -> bytes:
    builder = pkcs7.PKCS7SignatureBuilder().set_data(_MODULE).add_signer(made_for, key, algorithm)
    options = [option for option in _OPTIONS if not (attributes and option is pkcs7.PKCS7Options.NoAttributes)]
    return builder.sign(serialization.Encoding.DER, options)


def _loaded(*certificates: x509.Certificate) -> SigningKeys:
    der = serialization.Encoding.DER
    return SigningKeys(load_signing_key(found.public_bytes(der), where="key") for found in certificates)


def _fields(message: bytes, digest: bytes | None = None, algorithm: str = "sha256") -> ImaFields:
    over = hashlib.new(algorithm, _MODULE).digest() if digest is None else digest
    parts = (b"sha256:\0" + bytes(32), b"/x.ko\0", b"", algorithm.encode() + b":\0" + over if over else b"", message)
    measured = b"".join(len(part).to_bytes(4, "little") + part for part in parts)
    return ImaEntry(10, "ima-modsig", hashlib.sha1(measured).digest(), measured).fields()


_CERTIFICATES: dict[str, tuple[PrivateKey, x509.Certificate]] = {
    "RSA": (_RSA, certificate(_RSA)),
    "ECDSA": (_EC, certificate(_EC)),
}


@pytest.mark.parametrize("name", _CERTIFICATES)
def test_appended_signatures(name: str) -> None:
    key, own = _CERTIFICATES[name]
    message = _append(key, own, hashes.SHA256())
    checked = examine_modsig(_fields(message), _loaded(*(found for _, found in _CERTIFICATES.values())))
    assert checked.verdict is SignatureVerdict.GOOD
    assert checked.key is not None
    assert checked.key.spki == next(iter(_loaded(own))).spki
    assert examine_modsig(_fields(message, bytes(32)), _loaded(own)).verdict is SignatureVerdict.BAD
    assert examine_modsig(_fields(message, b""), _loaded(own)).verdict is SignatureVerdict.BAD
    assert examine_modsig(_fields(message), SigningKeys()).verdict is SignatureVerdict.UNKNOWN_KEY


def test_the_hash_is_that_of_the_entry() -> None:
    message = _append(_RSA, certificate(_RSA), hashes.SHA512())
    (signer,) = read_signers(message)
    assert signer.algorithm == "sha512"
    keys = _loaded(certificate(_RSA))
    assert examine_modsig(_fields(message, algorithm="sha512"), keys).verdict is SignatureVerdict.GOOD
    assert examine_modsig(_fields(message), keys).verdict is SignatureVerdict.BAD


def test_a_certificate_of_another_key_under_the_same_name_did_not_make_it() -> None:
    # Issuer and serial number of both certificates are the same.
    message = _append(_RSA, certificate(_RSA), hashes.SHA256())
    assert examine_modsig(_fields(message), _loaded(certificate(_EC))).verdict is SignatureVerdict.BAD


def test_signed_attributes_are_what_the_kernel_then_logs_the_digest_of() -> None:
    message = _append(_RSA, certificate(_RSA), hashes.SHA256(), attributes=True)
    # The first attribute is contentType; the set of them stands behind [0], and is hashed as a SET.
    start = message.index(bytes.fromhex("301806092a864886f70d010903"))
    assert message[start - 3 : start - 1] == b"\xa0\x81"
    signed = b"\x31" + message[start - 2 : start + message[start - 1]]
    keys = _loaded(certificate(_RSA))
    assert examine_modsig(_fields(message, hashlib.sha256(signed).digest()), keys).verdict is SignatureVerdict.GOOD
    assert examine_modsig(_fields(message), keys).verdict is SignatureVerdict.BAD


def test_entries_without_one() -> None:
    for fields in (ima_sig_entry("/x", bytes(32)).fields(), _fields(b"")):
        assert examine_modsig(fields, _loaded(certificate(_RSA))).verdict is SignatureVerdict.NONE


def test_the_signature_of_a_real_kernel_image(vectors: Path) -> None:
    entries = parse_ima_log((vectors / "ibmtss-templates.ima").read_bytes())
    found = [entry.fields() for entry in entries if entry.template == "ima-modsig"]
    verdicts = [examine_modsig(fields, _loaded(certificate(_RSA))).verdict for fields in found]
    assert verdicts == [SignatureVerdict.NONE, SignatureVerdict.UNKNOWN_KEY]
    (signer,) = read_signers(found[1].raw["modsig"])
    assert (signer.algorithm, len(signer.signature), signer.key_id) == ("sha256", 256, b"")
    assert signer.serial == 0x250B78A054442C431874FD0A7339E6F67BD3AB83


_MESSAGE = _append(_EC, certificate(_EC), hashes.SHA256())


def test_every_truncation_is_refused() -> None:
    assert len(read_signers(_MESSAGE)) == 1
    for cut in range(len(_MESSAGE)):
        with pytest.raises(ImaSignatureError):
            read_signers(_MESSAGE[:cut])
    with pytest.raises(ImaSignatureError):
        read_signers(_MESSAGE + b"\0")


@settings(max_examples=examples(300))
@given(st.binary(max_size=60), st.integers(0, len(_MESSAGE)), st.integers(0, 20))
def test_any_bytes_are_a_message_or_the_own_error(junk: bytes, position: int, cut: int) -> None:
    for message in (junk, _MESSAGE[:position] + junk + _MESSAGE[position + cut :], b"\x30\x84\xff\xff\xff\xff" + junk):
        with suppress(ImaSignatureError):
            read_signers(message)
        verdict = examine_modsig(_fields(message or b"\0"), _loaded(certificate(_RSA))).verdict
        assert verdict in {SignatureVerdict.BAD, SignatureVerdict.UNKNOWN_KEY}
