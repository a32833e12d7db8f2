"""TPMT_PUBLIC of a signing key, its Name, and what makes it an attestation key.

A quote is worth as much as the key that signed it: only a *restricted* signing key refuses to sign bytes that merely
look like a quote. So an AK is enrolled as its whole public area, not as a bare key, and `require_attestation_key` looks
at the attributes. The Name binds all of it in one digest, which is what hosts write down about each other.

Source: TCG TPM 2.0 Library Part 2: TPMA_OBJECT (8.3), TPMT_PUBLIC (12.2.4); Part 1, 16 (Names and Qualified Names).
"""

from dataclasses import dataclass
from typing import Self

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from shamon_host.attestation.byte_reader import ByteReader
from shamon_host.attestation.pcr import Bank
from shamon_host.attestation.tpm_objects import (
    AK_ATTRIBUTES,
    TPM_ALG_ECC,
    TPM_ALG_NULL,
    TPM_ALG_RSA,
    TPM_RH_OWNER,
    ObjectAttributes,
)
from shamon_host.attestation.tpm_structures import (
    MAX_KEY_BYTES,
    SignatureAlgorithm,
    TpmFormatError,
    read_bank,
    sized_buffer,
)

_DEFAULT_RSA_EXPONENT = 65537
_MIN_RSA_BITS = 2048
_MAX_RSA_BITS = 4096

PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey
"""What `cryptography` verifies with."""


_REQUIRED = (
    ObjectAttributes.FIXED_TPM
    | ObjectAttributes.FIXED_PARENT
    | ObjectAttributes.SENSITIVE_DATA_ORIGIN
    | ObjectAttributes.RESTRICTED
    | ObjectAttributes.SIGN
)

_CURVES: dict[int, ec.EllipticCurve] = {0x0003: ec.SECP256R1(), 0x0004: ec.SECP384R1(), 0x0005: ec.SECP521R1()}
_CURVE_IDS = {curve.name: curve_id for curve_id, curve in _CURVES.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class TpmPublic:
    """TPMT_PUBLIC of an RSA or ECC signing key.

    `scheme` and `scheme_hash` are None where the key leaves the scheme to the command (never so for a restricted key).
    """

    key: PublicKey
    attributes: ObjectAttributes
    name_hash: Bank = Bank.SHA256
    auth_policy: bytes = b""
    scheme: SignatureAlgorithm | None
    scheme_hash: Bank | None

    @classmethod
    def attestation_key(cls, key: PublicKey) -> Self:
        """The public area of an AK with this key: ECDSA or RSASSA with SHA-256, restricted, bound to its TPM."""
        scheme = SignatureAlgorithm.ECDSA if isinstance(key, ec.EllipticCurvePublicKey) else SignatureAlgorithm.RSASSA
        return cls(key=key, attributes=AK_ATTRIBUTES, scheme=scheme, scheme_hash=Bank.SHA256)

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Raises `TpmFormatError` where `data` is not exactly one TPMT_PUBLIC of a signing key (NIST curve, RSA)."""
        reader = ByteReader(data, order="big", error=TpmFormatError, where="TPMT_PUBLIC")
        key_type = reader.u16("type")
        name_hash = read_bank(reader, "nameAlg")
        attributes = ObjectAttributes(reader.u32("objectAttributes"))
        auth_policy = reader.sized(2, "authPolicy", limit=64)
        symmetric = reader.u16("symmetric")
        if symmetric != TPM_ALG_NULL:
            raise TpmFormatError(
                "the key has a symmetric algorithm, so it is a storage key", where="TPMT_PUBLIC", found=hex(symmetric)
            )
        scheme, scheme_hash = _read_scheme(reader)
        key: PublicKey
        match key_type:
            case 0x0023:
                key = _read_ecc(reader)
            case 0x0001:
                key = _read_rsa(reader)
            case other:
                raise TpmFormatError("not an RSA or ECC key", where="TPMT_PUBLIC", found=f"0x{other:04x}")
        reader.end()
        return cls(
            key=key,
            attributes=attributes,
            name_hash=name_hash,
            auth_policy=auth_policy,
            scheme=scheme,
            scheme_hash=scheme_hash,
        )

    @classmethod
    def parse_sized(cls, data: bytes) -> Self:
        """TPM2B_PUBLIC (a 16-bit length, then TPMT_PUBLIC), as tpm2-tools writes a public area to a file."""
        reader = ByteReader(data, order="big", error=TpmFormatError, where="TPM2B_PUBLIC")
        body = reader.sized(2, "publicArea", limit=2 * MAX_KEY_BYTES)
        reader.end()
        return cls.parse(body)

    def encode(self) -> bytes:
        """The TPMT_PUBLIC bytes."""
        ecc = isinstance(self.key, ec.EllipticCurvePublicKey)
        head = (
            (TPM_ALG_ECC if ecc else TPM_ALG_RSA).to_bytes(2, "big")
            + self.name_hash.algorithm_id.to_bytes(2, "big")
            + int(self.attributes).to_bytes(4, "big")
            + sized_buffer(self.auth_policy)
            + TPM_ALG_NULL.to_bytes(2, "big")
        )
        if self.scheme is None or self.scheme_hash is None:
            head += TPM_ALG_NULL.to_bytes(2, "big")
        else:
            head += self.scheme.to_bytes(2, "big") + self.scheme_hash.algorithm_id.to_bytes(2, "big")
        return head + (
            _encode_ecc(self.key) if isinstance(self.key, ec.EllipticCurvePublicKey) else _encode_rsa(self.key)
        )

    @property
    def name(self) -> bytes:
        """The object's Name: nameAlg ‖ H_nameAlg(TPMT_PUBLIC)."""
        return self.name_hash.algorithm_id.to_bytes(2, "big") + self.name_hash.digest(self.encode())

    def qualified_name(self, parent: int = TPM_RH_OWNER) -> bytes:
        """The Qualified Name of this key as a primary of hierarchy `parent`, as in a quote's qualifiedSigner."""
        material = parent.to_bytes(4, "big") + self.name
        return self.name_hash.algorithm_id.to_bytes(2, "big") + self.name_hash.digest(material)

    def require_attestation_key(self) -> None:
        """Raises `TpmFormatError` naming the attributes that keep this key from being an AK."""
        missing = _REQUIRED & ~self.attributes
        if missing:
            raise TpmFormatError(
                "the key is not an attestation key",
                where="TPMT_PUBLIC.objectAttributes",
                expected=_names(_REQUIRED),
                found=f"without {_names(missing)}",
                remedy="Create the AK as a restricted signing key of the TPM.",
            )
        if self.attributes & ObjectAttributes.DECRYPT:
            raise TpmFormatError("the key can also decrypt, so it is not an attestation key", where="TPMT_PUBLIC")
        if self.scheme is None or self.scheme_hash is None:
            raise TpmFormatError("an attestation key must fix its signing scheme", where="TPMT_PUBLIC")


def _names(attributes: ObjectAttributes) -> str:
    return ", ".join((flag.name or str(flag)).lower() for flag in attributes)


def _read_scheme(reader: ByteReader) -> tuple[SignatureAlgorithm | None, Bank | None]:
    scheme_id = reader.u16("scheme")
    if scheme_id == TPM_ALG_NULL:
        return None, None
    try:
        scheme = SignatureAlgorithm(scheme_id)
    except ValueError:
        raise TpmFormatError("unknown signing scheme", where="TPMT_PUBLIC", found=f"0x{scheme_id:04x}") from None
    return scheme, read_bank(reader, "hash of the scheme")


def _read_ecc(reader: ByteReader) -> ec.EllipticCurvePublicKey:
    curve_id = reader.u16("curveID")
    curve = _CURVES.get(curve_id)
    if curve is None:
        raise TpmFormatError(
            "unknown curve", where="TPMT_PUBLIC", expected="P-256, P-384 or P-521", found=f"0x{curve_id:04x}"
        )
    kdf = reader.u16("kdf")
    if kdf != TPM_ALG_NULL:
        raise TpmFormatError("a signing key has no key derivation", where="TPMT_PUBLIC", found=f"0x{kdf:04x}")
    x = reader.sized(2, "x", limit=(curve.key_size + 7) // 8)
    y = reader.sized(2, "y", limit=(curve.key_size + 7) // 8)
    numbers = ec.EllipticCurvePublicNumbers(int.from_bytes(x, "big"), int.from_bytes(y, "big"), curve)
    try:
        return numbers.public_key()
    except (ValueError, UnsupportedAlgorithm):
        raise TpmFormatError("the point is not on the curve", where="TPMT_PUBLIC", expected=curve.name) from None


def _encode_ecc(key: ec.EllipticCurvePublicKey) -> bytes:
    numbers = key.public_numbers()
    size = (key.curve.key_size + 7) // 8
    return (
        _CURVE_IDS[key.curve.name].to_bytes(2, "big")
        + TPM_ALG_NULL.to_bytes(2, "big")
        + sized_buffer(numbers.x.to_bytes(size, "big"))
        + sized_buffer(numbers.y.to_bytes(size, "big"))
    )


def _read_rsa(reader: ByteReader) -> rsa.RSAPublicKey:
    bits = reader.u16("keyBits")
    exponent = reader.u32("exponent") or _DEFAULT_RSA_EXPONENT
    modulus = int.from_bytes(reader.sized(2, "modulus", limit=MAX_KEY_BYTES), "big")
    if not _MIN_RSA_BITS <= bits <= _MAX_RSA_BITS or modulus.bit_length() != bits:
        raise TpmFormatError(
            "unfit RSA key",
            where="TPMT_PUBLIC",
            expected=f"{_MIN_RSA_BITS}-{_MAX_RSA_BITS} bits",
            found=f"keyBits {bits}, modulus of {modulus.bit_length()} bits",
        )
    try:
        return rsa.RSAPublicNumbers(exponent, modulus).public_key()
    except ValueError:
        raise TpmFormatError("not an RSA public key", where="TPMT_PUBLIC") from None


def _encode_rsa(key: rsa.RSAPublicKey) -> bytes:
    numbers = key.public_numbers()
    exponent = 0 if numbers.e == _DEFAULT_RSA_EXPONENT else numbers.e
    modulus = numbers.n.to_bytes((key.key_size + 7) // 8, "big")
    return key.key_size.to_bytes(2, "big") + exponent.to_bytes(4, "big") + sized_buffer(modulus)
