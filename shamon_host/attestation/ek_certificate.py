"""Whose TPM it is: the certificate of an EK, up to a root that the operator trusts.

A folder holds the roots of the TPM makers that are trusted (or of the one swtpm that makes a lab's TPMs), and the
certificates between. A certificate that issued itself there is a root; others only lead to one. What is not proven
whole is not believed, and the reason says what is missing.

By hand, and not by `cryptography.x509.verification`: that is for the names of servers, and refuses the directory name
in a subjectAltName by which an EK certificate says what TPM it is for. A critical extension of a kind that is not
looked at here ends the search, as RFC 5280, section 4.2, demands.

Source: RFC 5280, section 6.1; TCG EK Credential Profile 2.5, 3.2 (fields of an EK certificate).
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from cryptography.x509.oid import ExtensionOID, ObjectIdentifier

from shamon_host.attestation.byte_reader import ByteReader
from shamon_host.attestation.ek import EkPublic
from shamon_host.attestation.tpm_structures import TpmFormatError
from shamon_host.domain.errors import BadInput, NotTrusted

MAX_CERTIFICATE_BYTES = 8 * 1024
MAX_ROOT_FILES = 512
MAX_DEPTH = 6
"""Certificates above that of the EK."""
_MAX_SIGNATURES = 64
_MIN_RSA_BITS = 2048
_WHERE = "EK certificate"
_UNREADABLE = (
    ValueError,
    TypeError,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
    UnsupportedAlgorithm,
)
"""What `cryptography` raises for certificates that it cannot read, now or when a part of them is asked for."""
_RSAES_OAEP = ObjectIdentifier("1.2.840.113549.1.1.7")
_TCG_KP_EK_CERTIFICATE = ObjectIdentifier("2.23.133.8.1")
_UNDERSTOOD = frozenset(
    {
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
        ExtensionOID.CERTIFICATE_POLICIES,
        ExtensionOID.SUBJECT_DIRECTORY_ATTRIBUTES,
    }
)


def load_roots(directory: Path) -> tuple[x509.Certificate, ...]:
    """Every certificate of a folder, in PEM (several in a file) or DER. Raises BadInput naming the file."""
    try:
        paths = sorted(path for path in directory.iterdir() if path.is_file() and not path.name.startswith("."))
    except OSError as error:
        found_error = error.strerror or type(error).__name__
        raise BadInput("the folder of EK roots cannot be read", where=str(directory), found=found_error) from error
    if not 0 < len(paths) <= MAX_ROOT_FILES:
        raise BadInput(
            "no folder of EK roots",
            where=str(directory),
            expected=f"1 to {MAX_ROOT_FILES} files with certificates",
            found=f"{len(paths)} files",
        )
    found: list[x509.Certificate] = []
    for path in paths:
        try:
            with path.open("rb") as file:
                data = file.read(64 * MAX_CERTIFICATE_BYTES)
            pem = b"-----BEGIN" in data
            found += x509.load_pem_x509_certificates(data) if pem else [x509.load_der_x509_certificate(data)]
        except (OSError, ValueError, x509.InvalidVersion) as error:
            raise BadInput(
                "not a certificate", where=str(path), expected="PEM or DER", found=type(error).__name__
            ) from error
    return tuple(found)


def read_ek_certificate(data: bytes) -> x509.Certificate:
    """An EK certificate in DER, as a TPM keeps it: what follows it in its NV index is filling. Raises NotTrusted."""
    try:
        if not 4 < len(data) <= MAX_CERTIFICATE_BYTES:
            raise ValueError
        if data[:2] == b"\x30\x82":
            data = data[: 4 + int.from_bytes(data[2:4], "big")]
        certificate = x509.load_der_x509_certificate(data)
        # These are parsed when they are asked for: from here on nobody need expect an error then.
        _ = (certificate.subject, certificate.issuer, certificate.extensions, certificate.signature_algorithm_oid)
        return certificate
    except _UNREADABLE:
        raise NotTrusted(
            "it cannot be read", where=_WHERE, expected=f"X.509 in DER, at most {MAX_CERTIFICATE_BYTES} bytes"
        ) from None


def verify_ek_certificate(
    data: bytes, ek: EkPublic, trusted: Sequence[x509.Certificate], now: datetime
) -> tuple[x509.Certificate, ...]:
    """The chain from the EK certificate `data` (DER) to a root among `trusted`.

    Raises NotTrusted: a certificate for another key, not valid at `now`, or without a chain that is proven whole.
    """
    leaf = read_ek_certificate(data)
    if _key_bytes(leaf) != ek.key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo):
        raise NotTrusted(
            "it is for another key than the TPM's EK",
            where=_WHERE,
            expected=f"the EK {ek.sha256.hex()}",
            remedy="This TPM does not belong to this certificate.",
        )
    _require_leaf(leaf, now)
    search = _Search(trusted, now)
    chain = search.from_certificate(leaf, (leaf,))
    if chain is None:
        raise NotTrusted(
            "no chain to a root that is trusted",
            where=_WHERE,
            expected=f"one issued by {_name(leaf.issuer)}",
            found="; ".join(search.reasons[:4]) or "no certificate of that name in the folder of roots",
            remedy="Put the maker's root and the certificates between into the folder of EK roots, if you trust it.",
        )
    return chain


class _Search:
    """Looks for a chain, depth first, with bounds on its length and on the signatures that are checked."""

    def __init__(self, trusted: Iterable[x509.Certificate], now: datetime) -> None:
        self._trusted = tuple(trusted)
        self._now = now
        self._left = _MAX_SIGNATURES
        self.reasons: list[str] = []

    def from_certificate(
        self, certificate: x509.Certificate, chain: tuple[x509.Certificate, ...]
    ) -> tuple[x509.Certificate, ...] | None:
        for issuer in self._trusted:
            if issuer.subject != certificate.issuer or issuer in chain:
                continue
            reason = self._unfit(certificate, issuer, below=len(chain) - 1)
            if reason:
                self.reasons.append(f"{_name(issuer.subject)}: {reason}")
                continue
            if issuer.issuer == issuer.subject:
                # A root is trusted for being here, yet its own signature tells it from one that only has its name.
                reason = self._unsigned(issuer, issuer)
                if not reason:
                    return (*chain, issuer)
                self.reasons.append(f"{_name(issuer.subject)}: {reason}")
                continue
            if len(chain) >= MAX_DEPTH:
                self.reasons.append(f"{_name(issuer.subject)}: the chain is longer than {MAX_DEPTH}")
                continue
            found = self.from_certificate(issuer, (*chain, issuer))
            if found is not None:
                return found
        return None

    def _unfit(self, certificate: x509.Certificate, issuer: x509.Certificate, *, below: int) -> str:
        """Why `issuer` cannot have issued `certificate`, in words; empty when it can. `below`: CAs under it so far."""
        try:
            extensions = issuer.extensions
            constraints = extensions.get_extension_for_class(x509.BasicConstraints).value
        except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension):
            return "it is not the certificate of a CA (basicConstraints)"
        if not constraints.ca:
            return "it is not the certificate of a CA (basicConstraints)"
        if constraints.path_length is not None and below > constraints.path_length:
            return f"its path length is {constraints.path_length}, and {below} CAs are under it"
        try:
            if not extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign:
                return "its key may not sign certificates (keyUsage)"
        except x509.ExtensionNotFound:
            pass  # allowed: the usage is not limited (RFC 5280, section 4.2.1.3)
        return _out_of_date(issuer, self._now) or _not_understood(issuer) or self._unsigned(certificate, issuer)

    def _unsigned(self, certificate: x509.Certificate, issuer: x509.Certificate) -> str:
        if self._left <= 0:
            return f"more than {_MAX_SIGNATURES} signatures to look at"
        self._left -= 1
        try:
            key = issuer.public_key()
            if isinstance(key, rsa.RSAPublicKey) and key.key_size < _MIN_RSA_BITS:
                return f"its key has {key.key_size} bits"
            if not isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
                return "its key is neither RSA nor ECC"
            certificate.verify_directly_issued_by(issuer)
        except (InvalidSignature, UnsupportedAlgorithm, ValueError, TypeError) as error:
            return f"it did not sign {_name(certificate.subject)} ({type(error).__name__})"
        return ""


def _require_leaf(leaf: x509.Certificate, now: datetime) -> None:
    reason = _out_of_date(leaf, now) or _not_understood(leaf)
    if not reason:
        for extension in leaf.extensions:
            match extension.value:
                case x509.BasicConstraints(ca=True):
                    reason = "it is the certificate of a CA"
                case x509.ExtendedKeyUsage() as usage if _TCG_KP_EK_CERTIFICATE not in usage:
                    reason = "it is not for an EK (extendedKeyUsage)"
                case x509.KeyUsage() as use if not (use.key_encipherment or use.key_agreement):
                    reason = "its key is not one to encrypt to (keyUsage)"
    if reason:
        raise NotTrusted(reason, where=_WHERE)


def _out_of_date(certificate: x509.Certificate, now: datetime) -> str:
    if certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        return ""
    return (
        f"it is valid from {certificate.not_valid_before_utc:%Y-%m-%d} to {certificate.not_valid_after_utc:%Y-%m-%d}, "
        f"not on {now:%Y-%m-%d}"
    )


def _not_understood(certificate: x509.Certificate) -> str:
    try:
        unknown = [each.oid for each in certificate.extensions if each.critical and each.oid not in _UNDERSTOOD]
    except (ValueError, x509.DuplicateExtension) as error:
        return f"its extensions cannot be read ({type(error).__name__})"
    return f"its critical extension {unknown[0].dotted_string} is not understood" if unknown else ""


def _key_bytes(certificate: x509.Certificate) -> bytes:
    """DER SubjectPublicKeyInfo of its key, in the one form that an EK's has here. Raises NotTrusted."""
    try:
        if certificate.public_key_algorithm_oid == _RSAES_OAEP:
            key: object = load_der_public_key(_key_of_tbs(certificate.tbs_certificate_bytes))
        else:
            key = certificate.public_key()
        return EkPublic.of(key).key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, UnsupportedAlgorithm, BadInput):
        raise NotTrusted("its key is of a kind that is not known here", where=_WHERE) from None


def _key_of_tbs(data: bytes) -> bytes:
    """The RSAPublicKey (RFC 8017, A.1.1) in a TBSCertificate (RFC 5280, section 4.1). Raises TpmFormatError.

    Some makers say of an EK that it is for RSAES-OAEP alone (RFC 4055, section 4.1). `cryptography` reads no such key.
    """
    tbs = _reader(_der(_reader(data)))
    for _ in range(6):  # version, serialNumber, signature, issuer, validity, subject
        _der(tbs)
    info = _reader(_der(tbs))
    _der(info)  # algorithm
    bits = _der(info)
    if bits[:1] != b"\0":
        raise TpmFormatError("a key of a part of a byte", where=_WHERE)
    return bits[1:]


def _reader(data: bytes) -> ByteReader:
    return ByteReader(data, order="big", error=TpmFormatError, where=_WHERE)


def _der(reader: ByteReader) -> bytes:
    """The contents of the next value (X.690, section 8.1). Raises TpmFormatError."""
    reader.u8("tag")
    size = reader.u8("length")
    if size in {0x81, 0x82}:
        size = reader.uint(size & 0x7F, "length")
    elif size > 0x7F:
        raise TpmFormatError("a length that is too long", where=_WHERE)
    return reader.take(size, "value")


def _name(name: x509.Name) -> str:
    text = name.rfc4514_string()
    return "".join(character if character.isprintable() else "?" for character in text)[:120] or "(no name)"
