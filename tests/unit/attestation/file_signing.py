"""Files signed as evmctl signs them, with keys made for the test, and certificates of those keys."""

import hashlib
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils
from cryptography.x509.oid import NameOID

from shamon_host.attestation.ima_signature import KERNEL_HASHES

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
HASHES: dict[str, tuple[str, hashes.HashAlgorithm]] = {
    "sha1": ("sha1", hashes.SHA1()),
    "sha224": ("sha224", hashes.SHA224()),
    "sha256": ("sha256", hashes.SHA256()),
    "sha384": ("sha384", hashes.SHA384()),
    "sha512": ("sha512", hashes.SHA512()),
    "sha3-256": ("sha3_256", hashes.SHA3_256()),
    "sha3-512": ("sha3_512", hashes.SHA3_512()),
}


"""hashlib's name and cryptography's class, by the kernel's name."""


def _raw_signature(key: PrivateKey, digest: bytes, algorithm: str) -> bytes:
    prehashed = utils.Prehashed(HASHES[algorithm][1])
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(digest, padding.PKCS1v15(), prehashed)
    return key.sign(digest, ec.ECDSA(prehashed))


def bit_string_id(key: PrivateKey) -> bytes:
    """The key id without this package's help: the last bytes of the hash over the key's own encoding."""
    if isinstance(key, rsa.RSAPrivateKey):
        own = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.PKCS1)
    else:
        encoding = serialization.Encoding.X962
        own = key.public_key().public_bytes(encoding, serialization.PublicFormat.UncompressedPoint)
    return hashlib.sha1(own).digest()[-4:]


def sign(
    key: PrivateKey,
    digest: bytes,
    *,
    algorithm: str = "sha256",
    kind: int = 3,
    version: int = 2,
    key_id: bytes | None = None,
) -> bytes:
    """A security.ima attribute, as `evmctl ima_sign` writes it."""
    header = bytes([kind, version, KERNEL_HASHES.index(algorithm)])
    if version == 3:
        digest = hashlib.new(HASHES[algorithm][0], bytes([kind, header[2]]) + digest).digest()
    made = _raw_signature(key, digest, algorithm)
    return header + (key_id or bit_string_id(key)) + len(made).to_bytes(2, "big") + made


def certificate(key: PrivateKey, subject_key_id: bytes | None = None) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "file signing")])
    start = datetime(2020, 1, 1, tzinfo=UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=1))
    )
    if subject_key_id is not None:
        builder = builder.add_extension(x509.SubjectKeyIdentifier(subject_key_id), critical=False)
    return builder.sign(key, hashes.SHA256())
