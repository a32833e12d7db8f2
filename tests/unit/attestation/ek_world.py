"""A maker of TPMs for tests: its CAs, and the certificates that they give to EKs."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID, ObjectIdentifier
from hypothesis import strategies as st

from shamon_host.attestation.ek import EkPublic

NOW = datetime(2026, 6, 1, tzinfo=UTC)
EK_USAGE = ObjectIdentifier("2.23.133.8.1")
_TPM_MANUFACTURER = ObjectIdentifier("2.23.133.2.1")


@st.composite
def mutated(draw: st.DrawFn, data: bytes) -> bytes:
    """`data` with a few bytes changed, taken out or put in."""
    changed = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(changed) - 1))
        match draw(st.integers(0, 5)):
            case 0:
                del changed[at]
            case 1:
                changed.insert(at, draw(st.integers(0, 255)))
            case _:
                changed[at] = draw(st.integers(0, 255))
    return bytes(changed)


def der(tag: int, content: bytes) -> bytes:
    """A value in DER."""
    size = len(content)
    length = bytes([size]) if size < 0x80 else b"\x82" + size.to_bytes(2, "big")
    return bytes([tag]) + length + content


def name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def usage(*, certificates: bool, encrypts: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=encrypts,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=certificates,
        crl_sign=certificates,
        encipher_only=False,
        decipher_only=False,
    )


@dataclass(kw_only=True)
class Authority:
    """A CA. `path_length`, `ca` and `valid` are what goes into its own certificate."""

    text: str
    issuer: Self | None = None
    path_length: int | None = None
    ca: bool = True
    may_sign: bool = True
    valid: tuple[timedelta, timedelta] = (timedelta(days=-100), timedelta(days=100))
    extra: Sequence[x509.ExtensionType] = ()
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    certificate: x509.Certificate = field(init=False)

    def __post_init__(self) -> None:
        builder = self._builder(name(self.text), self.key.public_key(), self.valid)
        builder = builder.add_extension(
            x509.BasicConstraints(ca=self.ca, path_length=self.path_length if self.ca else None), critical=True
        ).add_extension(usage(certificates=self.may_sign, encrypts=False), critical=True)
        for extension in self.extra:
            builder = builder.add_extension(extension, critical=True)
        issuer = self.issuer or self
        self.certificate = builder.issuer_name(name(issuer.text)).sign(issuer.key, SHA256())

    def certify(
        self,
        ek: EkPublic,
        *,
        valid: tuple[timedelta, timedelta] = (timedelta(days=-1), timedelta(days=1)),
        extended: ObjectIdentifier | None = EK_USAGE,
        ca: bool = False,
        encrypts: bool = True,
        extra: Sequence[x509.ExtensionType] = (),
    ) -> bytes:
        """The certificate of an EK, DER, with the critical subjectAltName that names the TPM's maker."""
        maker = x509.Name([x509.NameAttribute(_TPM_MANUFACTURER, "id:00001014")])
        builder = (
            self._builder(x509.Name([]), ek.key, valid)
            .add_extension(x509.SubjectAlternativeName([x509.DirectoryName(maker)]), critical=True)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(usage(certificates=False, encrypts=encrypts), critical=True)
        )
        if extended is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage([extended]), critical=False)
        for extension in extra:
            builder = builder.add_extension(extension, critical=True)
        return builder.issuer_name(name(self.text)).sign(self.key, SHA256()).public_bytes(Encoding.DER)

    def certify_for_oaep(self, ek: EkPublic) -> bytes:
        """As some makers do: the key's algorithm is id-RSAES-OAEP (RFC 4055), which no builder here writes."""
        plain = x509.load_der_x509_certificate(self.certify(ek))
        tbs = plain.tbs_certificate_bytes
        rsa_encryption, rsaes_oaep = (bytes.fromhex("06092a864886f70d0101") + bytes([last]) for last in (1, 7))
        assert tbs.count(rsa_encryption) == 1
        tbs = tbs.replace(rsa_encryption, rsaes_oaep)
        signature = self.key.sign(tbs, ec.ECDSA(SHA256()))
        ecdsa_with_sha256 = bytes.fromhex("300a06082a8648ce3d040302")
        return der(0x30, tbs + ecdsa_with_sha256 + der(0x03, b"\0" + signature))

    @staticmethod
    def _builder(subject: x509.Name, key: object, valid: tuple[timedelta, timedelta]) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .public_key(key)  # type: ignore[arg-type]  # an EK's is one of those that it takes
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW + valid[0])
            .not_valid_after(NOW + valid[1])
        )
