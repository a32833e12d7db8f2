"""Keys that files are signed with: read from certificates or bare, and found by the ids that signatures have for them.

Source: Linux crypto/asymmetric_keys/asymmetric_type.c (a key is found by the end of its id), x509_public_key.c (the id
is the certificate's subjectKeyIdentifier); ima-evm-utils src/libimaevm.c (`calc_keyid_v2`: the end of the key's SHA-1).
"""

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from shamon_host.domain.errors import BadInput

_CURVES = frozenset({"secp256r1", "secp384r1", "secp521r1"})
_RSA_BITS = range(1024, 8192 + 1)
_MAX_KEY_BYTES = 64 * 1024
_KEY_KINDS = "an X.509 certificate or a public key (DER or PEM), RSA or ECDSA P-256, P-384 or P-521"

_ODD = (ValueError, TypeError)
"""What `cryptography` raises for the parts of a certificate that it reads only when they are asked for."""

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey


class SigningKeyError(BadInput):
    """The bytes are no key that a file can be signed with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningKey:
    """A key that files are signed with. Two are equal if it is the same key, wherever it came from."""

    public: PublicKey = field(compare=False, repr=False)
    spki: bytes = field(repr=False)
    """The key as SubjectPublicKeyInfo, DER."""
    key_ids: frozenset[int] = field(compare=False)
    """The 32-bit ids under which a signature may name it."""
    source: str = field(compare=False)
    """Where it came from, for people."""
    subject: str = field(default="", compare=False)
    """The certificate's subject (RFC 4514); empty for a bare key."""
    issued_as: tuple[bytes, int] | None = field(default=None, compare=False, repr=False)
    """The certificate's issuer (DER) and serial number, by which a PKCS#7 signature names it; None for a bare key."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the SubjectPublicKeyInfo, in hexadecimal: the name that a policy should use, not the key id."""
        return sha256(self.spki).hexdigest()

    def __str__(self) -> str:
        ids = ", ".join(f"{key_id:08x}" for key_id in sorted(self.key_ids))
        return f"{self.subject or 'key'} ({ids}, {self.source})"


class SigningKeys:
    """Keys by the id that a signature's header has. Several keys may share an id: it is 32 bits that anyone can hit."""

    __slots__ = ("_by_id", "_keys")

    def __init__(self, keys: Iterable[SigningKey] = ()) -> None:
        self._keys = tuple(dict.fromkeys(keys))
        by_id: dict[int, list[SigningKey]] = {}
        for key in self._keys:
            for key_id in key.key_ids:
                by_id.setdefault(key_id, []).append(key)
        self._by_id = {key_id: tuple(sharing) for key_id, sharing in by_id.items()}

    def by_id(self, key_id: int) -> tuple[SigningKey, ...]:
        """The keys with this 32-bit id; empty for none."""
        return self._by_id.get(key_id, ())

    def __iter__(self) -> Iterator[SigningKey]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)


def load_signing_key(data: bytes, *, where: str) -> SigningKey:
    """The key of an X.509 certificate or SubjectPublicKeyInfo, DER or PEM; `where` names its source in errors.

    Neither the certificate's dates nor its issuer are looked at: the kernel does not look at them either when it
    checks a file, and whoever gives the certificate here has decided to trust its key. Raises `SigningKeyError`.
    """
    if len(data) > _MAX_KEY_BYTES:
        raise SigningKeyError("the key is too long", where=where, expected=f"at most {_MAX_KEY_BYTES} bytes")
    if data.count(b"-----BEGIN ") > 1:
        raise SigningKeyError("more than one key", where=where, expected="one key in each file")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a serial number of zero, say: it is the key that counts
        return _load(data, where)


def _load(data: bytes, where: str) -> SigningKey:
    try:
        certificate = _certificate(data)
        public = _public_key(data) if certificate is None else certificate.public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion):
        raise SigningKeyError("no key that files are signed with", where=where, expected=_KEY_KINDS) from None
    match public:
        case rsa.RSAPublicKey() if public.key_size in _RSA_BITS:
            pass
        case ec.EllipticCurvePublicKey() if public.curve.name in _CURVES:
            pass
        case _:
            raise SigningKeyError("a key of another kind", where=where, expected=_KEY_KINDS)
    digests = (x509.SubjectKeyIdentifier.from_public_key(public).digest, _subject_key_id(certificate))
    return SigningKey(
        public=public,
        spki=public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo),
        key_ids=frozenset(int.from_bytes(digest[-4:], "big") for digest in digests if digest),
        source=where,
        subject=_subject(certificate),
        issued_as=_issued_as(certificate),
    )


def _certificate(data: bytes) -> x509.Certificate | None:
    if b"-----BEGIN " in data:
        return x509.load_pem_x509_certificate(data) if b"-----BEGIN CERTIFICATE-----" in data else None
    try:
        return x509.load_der_x509_certificate(data)
    except ValueError:
        return None


def _public_key(data: bytes) -> object:
    if b"-----BEGIN " in data:
        return serialization.load_pem_public_key(data)
    return serialization.load_der_public_key(data)


def _subject_key_id(certificate: x509.Certificate | None) -> bytes:
    if certificate is None:
        return b""
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    except (*_ODD, x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        return b""
    return extension.value.digest


def _subject(certificate: x509.Certificate | None) -> str:
    try:
        return "" if certificate is None else certificate.subject.rfc4514_string()
    except _ODD:
        return ""


def _issued_as(certificate: x509.Certificate | None) -> tuple[bytes, int] | None:
    try:
        return None if certificate is None else (certificate.issuer.public_bytes(), certificate.serial_number)
    except _ODD:
        return None
