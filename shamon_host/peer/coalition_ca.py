"""The coalition's certificate authority, and the TLS certificates of its hosts.

TLS only says which enrolled host is at the other end; whether it can be trusted is for attestation to say. So this
stays small: one P-256 CA whose key lies with the operator, and one certificate for each host with its name as the only
dNSName. Private keys are written with mode 0600, whole or not at all, and go nowhere else.
"""

import os
import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from shamon_host.domain.errors import BackendFailed, BadInput
from shamon_host.domain.labels import HostName

CA_CERTIFICATE = "ca.pem"
CA_KEY = "ca.key"
CA_CROSS = "ca.cross.pem"
_NEXT_KEY = "ca.key.next"
_MAX_COMMON_NAME = 64
_CA_DAYS = 3650
_HOST_DAYS = 825
MAX_CAS = 2
_UNREADABLE = (
    ValueError,
    TypeError,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
    UnsupportedAlgorithm,
)
"""What `cryptography` raises for certificates that it cannot read, now or when a part of them is asked for."""
_BACKDATE = timedelta(hours=1)
"""Clocks of hosts differ a little."""


CertifiedKey = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedCertificate:
    """Where the certificate and the key of a host were written."""

    certificate: Path
    key: Path


def init_coalition(directory: Path, coalition: str) -> Path:
    """Make `ca.key` and `ca.pem` in `directory` (created with mode 0700) and return the path of `ca.pem`.

    Raises BadInput when there is a CA already: a new one would cut off every host.
    """
    if not 0 < len(coalition) <= 64 or not coalition.isprintable():
        raise BadInput("bad name of a coalition", expected="1 to 64 printable characters")
    make_directory(directory)
    certificate_path, key_path = directory / CA_CERTIFICATE, directory / CA_KEY
    for path in (certificate_path, key_path):
        if path.exists():
            raise BadInput("the coalition has a CA already", where=str(path), remedy="Choose another directory.")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Shamon coalition {coalition}"[:_MAX_COMMON_NAME])])
    certificate = _ca_certificate(name, key.public_key(), issuer=name, issuer_key=key)
    write_atomically(key_path, key_pem(key), mode=0o600)
    write_atomically(certificate_path, certificate.public_bytes(Encoding.PEM), mode=0o644)
    return certificate_path


@dataclass(frozen=True, slots=True, kw_only=True)
class CoalitionCa:
    """The CA with its key, on the operator's machine. `certificates`: its own first, then an older one."""

    certificates: tuple[x509.Certificate, ...]
    key: ec.EllipticCurvePrivateKey = field(repr=False)
    cross: x509.Certificate | None = None
    """After a rotation: the older CA's certificate for this one's key. Who knows only the older one takes it."""

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Read `ca.pem` and `ca.key`. Raises BadInput, also where the two do not belong together."""
        certificates = read_ca_certificates(directory / CA_CERTIFICATE)
        key = _load_key(directory / CA_KEY)
        next_key = directory / _NEXT_KEY
        if key.public_key() != certificates[0].public_key() and next_key.exists():
            key = _load_key(next_key)  # a rotation that was cut short
            next_key.replace(directory / CA_KEY)
        path = directory / CA_CROSS
        cross = parse_certificate(_read(path), where=str(path)) if path.exists() else None
        if cross is not None and cross.public_key() != key.public_key():
            cross = None  # of a rotation that was cut short before it counted
        if key.public_key() != certificates[0].public_key():
            raise BadInput("the key is not that of the certificate", where=str(directory), expected="one CA")
        return cls(certificates=certificates, key=key, cross=cross)

    def rotate(self, directory: Path) -> "CoalitionCa":
        """Make a new CA in place of this one, which certifies it for the last time. Raises BackendFailed.

        `ca.pem` has both from then on, `ca.cross.pem` the old one's word for the new one. The old key is gone.
        """
        old = self.certificates[0]
        key = ec.generate_private_key(ec.SECP256R1())
        name = _next_name(old.subject)
        new = _ca_certificate(name, key.public_key(), issuer=name, issuer_key=key)
        cross = _ca_certificate(name, key.public_key(), issuer=old.subject, issuer_key=self.key, until=old)
        rotated = CoalitionCa(certificates=(new, old), key=key, cross=cross)
        # The key last: until then this CA is whole, and `load` finishes what was begun.
        write_atomically(directory / _NEXT_KEY, key_pem(key), mode=0o600)
        write_atomically(directory / CA_CROSS, cross.public_bytes(Encoding.PEM), mode=0o644)
        write_atomically(directory / CA_CERTIFICATE, rotated.pem, mode=0o644)
        (directory / _NEXT_KEY).replace(directory / CA_KEY)
        return rotated

    @property
    def pem(self) -> bytes:
        """What hosts have as `ca.pem`."""
        return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in self.certificates)

    def issue_host(self, host: HostName, key: CertifiedKey) -> x509.Certificate:
        """A host's TLS certificate, with its name as the only dNSName."""
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        return self._issue(host, key, timedelta(days=_HOST_DAYS), usages)

    def issue_operator(self, name: str, key: CertifiedKey, valid: timedelta, *, server: bool) -> x509.Certificate:
        """A short-lived certificate of the operator's own, under a name that no host can have."""
        usage = ExtendedKeyUsageOID.SERVER_AUTH if server else ExtendedKeyUsageOID.CLIENT_AUTH
        return self._issue(name, key, valid, [usage])

    def _issue(
        self, name: str, key: CertifiedKey, valid: timedelta, usages: list[x509.ObjectIdentifier]
    ) -> x509.Certificate:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])
        return (
            _builder(subject, self.certificates[0].subject, key, valid)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
            .sign(self.key, SHA256())
        )


def issue_host_certificate(ca_directory: Path, host: HostName, destination: Path) -> IssuedCertificate:
    """Make a TLS key and a certificate for `host`, `HOST.key` and `HOST.pem` in `destination`.

    Raises BadInput when the CA cannot be read. An older certificate of the host is replaced.
    """
    ca = CoalitionCa.load(ca_directory)
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = ca.issue_host(host, key.public_key())
    make_directory(destination)
    issued = IssuedCertificate(certificate=destination / f"{host}.pem", key=destination / f"{host}.key")
    write_atomically(issued.key, key_pem(key), mode=0o600)
    write_atomically(issued.certificate, certificate.public_bytes(Encoding.PEM), mode=0o644)
    return issued


def read_ca_certificates(path: Path) -> tuple[x509.Certificate, ...]:
    """The CAs in a `ca.pem`: one, or two in a rotation, the one that issues now first. Raises BadInput."""
    return parse_ca_certificates(_read(path), where=str(path))


def parse_ca_certificates(pem: bytes, *, where: str) -> tuple[x509.Certificate, ...]:
    """As `read_ca_certificates`, from what such a file holds."""
    certificates = parse_certificates(pem, where=where)
    if len(certificates) > MAX_CAS:
        raise BadInput("too many CAs", where=where, expected=f"at most {MAX_CAS}", found=str(len(certificates)))
    return certificates


def parse_certificates(pem: bytes, *, where: str) -> tuple[x509.Certificate, ...]:
    """One certificate or more in PEM; names, key and extensions can be read. Raises BadInput naming `where`."""
    try:
        certificates = tuple(x509.load_pem_x509_certificates(pem))
        for certificate in certificates:
            _require_readable(certificate)
    except _UNREADABLE as error:
        raise BadInput("not a certificate", where=where, expected="certificates in PEM") from error
    return certificates


def read_der_certificate(data: bytes, *, where: str) -> x509.Certificate:
    """One certificate in DER, with names, key and extensions that can be read. Raises BadInput naming `where`."""
    try:
        certificate = x509.load_der_x509_certificate(data)
        _require_readable(certificate)
    except _UNREADABLE as error:
        raise BadInput(
            "not a certificate", where=where, expected="one certificate in DER", found=type(error).__name__
        ) from None
    return certificate


def parse_certificate(pem: bytes, *, where: str) -> x509.Certificate:
    """One certificate in PEM. Raises BadInput naming `where`."""
    try:
        certificates = x509.load_pem_x509_certificates(pem)
    except (ValueError, x509.InvalidVersion) as error:
        raise BadInput("not a certificate", where=where, expected="one certificate in PEM") from error
    if len(certificates) != 1:
        raise BadInput(
            "not a certificate",
            where=where,
            expected="one certificate in PEM",
            found=f"{len(certificates)} certificates",
        )
    return certificates[0]


def _require_readable(certificate: x509.Certificate) -> None:
    """Raises one of _UNREADABLE. What is asked for here is parsed only then: whoever has the certificate need not
    expect an error later."""
    _ = (certificate.subject, certificate.issuer, certificate.extensions, certificate.public_key())


def certificate_names(certificate: x509.Certificate) -> tuple[str, ...]:
    """The dNSNames of its subjectAltName (RFC 5280, section 4.2.1.6); none where it has no such extension."""
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        return ()
    return tuple(extension.value.get_values_for_type(x509.DNSName))


def write_atomically(path: Path, data: bytes, *, mode: int) -> None:
    """Write a file whole or not at all, with `mode` from the start. Raises BackendFailed, without the content."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
        try:
            with os.fdopen(descriptor, "wb") as file:
                os.fchmod(file.fileno(), mode)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise BackendFailed("cannot be written", where=str(path), found=error.strerror or "") from error


def _ca_certificate(
    subject: x509.Name,
    key: ec.EllipticCurvePublicKey,
    *,
    issuer: x509.Name,
    issuer_key: ec.EllipticCurvePrivateKey,
    until: x509.Certificate | None = None,
) -> x509.Certificate:
    """Of a CA, by itself or by the one before it (then no longer valid than that one, `until`).

    A path length of 1: below a root there may be the CA that comes after it, and nothing below that but hosts.
    """
    valid = timedelta(days=_CA_DAYS)
    if until is not None:
        valid = min(valid, until.not_valid_after_utc - datetime.now(UTC))
    return (
        _builder(subject, issuer, key, valid)
        .add_extension(x509.BasicConstraints(ca=True, path_length=1 if until is None else 0), critical=True)
        .add_extension(_key_usage(certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
        .sign(issuer_key, SHA256())
    )


def _next_name(name: x509.Name) -> x509.Name:
    """`Shamon coalition lab`, then `Shamon coalition lab #2`, and so on."""
    text = str(name.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)
    base, _, number = text.rpartition(" #")
    if not base or not number.isdecimal():
        base, number = text, "1"
    suffix = f" #{int(number) + 1}"
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, base[: _MAX_COMMON_NAME - len(suffix)] + suffix)])


def _builder(subject: x509.Name, issuer: x509.Name, key: CertifiedKey, valid: timedelta) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATE)
        .not_valid_after(now + valid)
    )


def _key_usage(*, certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not certificates,
        key_cert_sign=certificates,
        crl_sign=certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """PKCS #8 in PEM, not encrypted: for a file of mode 0600."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def make_directory(directory: Path) -> None:
    """Make it with mode 0700 where it is not there. Raises BackendFailed."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise BackendFailed("the directory cannot be made", where=str(directory), found=error.strerror or "") from error


def _load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = load_pem_private_key(_read(path), password=None)
    except (ValueError, TypeError):
        raise BadInput("not a private key", where=str(path), expected="PEM without a password") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise BadInput("not an EC key", where=str(path))
    return key


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadInput(
            "cannot be read",
            where=str(path),
            found=error.strerror or "",
            remedy="Make the CA with `shamon coalition init`.",
        ) from error
