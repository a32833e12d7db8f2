"""The Endorsement Key of a TPM: what its public area must be, and the Name by which an operator may pin it.

An EK is made in the TPM from a template that the TCG fixes, and can only decrypt: it signs nothing. Whoever shows that
he can decrypt with it (`credential`) holds that TPM. Whose TPM it is says its certificate (`ek_certificate`), or an
operator who wrote its digest down. Knows no TPM library.

Source: TCG EK Credential Profile for TPM Family 2.0, 2.5, B.3.3 (template L-1: RSA 2048) and B.3.4 (template L-2: ECC
NIST P-256); TPM 2.0 Library Part 2, 12.2.4 (TPMT_PUBLIC).
"""

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from shamon_host.attestation.byte_reader import ByteReader
from shamon_host.attestation.pcr import Bank
from shamon_host.attestation.tpm_objects import TPM_ALG_ECC, TPM_ALG_NULL, TPM_ALG_RSA, ObjectAttributes
from shamon_host.attestation.tpm_public import PublicKey
from shamon_host.attestation.tpm_structures import TpmFormatError, sized_buffer

EK_POLICY = bytes.fromhex("837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa")
"""Digest of PolicySecret(TPM_RH_ENDORSEMENT) in SHA-256 (EK Credential Profile, B.6.2: PolicyA)."""
EK_ATTRIBUTES = (
    ObjectAttributes.FIXED_TPM
    | ObjectAttributes.FIXED_PARENT
    | ObjectAttributes.SENSITIVE_DATA_ORIGIN
    | ObjectAttributes.ADMIN_WITH_POLICY
    | ObjectAttributes.RESTRICTED
    | ObjectAttributes.DECRYPT
)
MAX_EK_BYTES = 512
_WHERE = "EK public"
_AES, _AES_BITS, _CFB = 0x0006, 128, 0x0043
_P256 = 0x0003
_RSA_BITS, _RSA_BYTES, _ECC_BYTES = 2048, 256, 32
_DEFAULT_RSA_EXPONENT = 65537


class EkKind(StrEnum):
    RSA = "rsa-2048"
    """Template L-1; its certificate is at NV index 0x01c00002."""
    ECC = "ecc-p256"
    """Template L-2; its certificate is at NV index 0x01c0000a."""

    @property
    def certificate_index(self) -> int:
        """NV index of its certificate (EK Credential Profile, 2.2.1.4)."""
        return 0x01C00002 if self is EkKind.RSA else 0x01C0000A

    def template(self) -> bytes:
        """TPMT_PUBLIC to create the key from: `unique` is zeros."""
        if self is EkKind.RSA:
            return _head(TPM_ALG_RSA) + _rsa_tail(bytes(_RSA_BYTES))
        return _head(TPM_ALG_ECC) + _ecc_tail(bytes(_ECC_BYTES), bytes(_ECC_BYTES))


@dataclass(frozen=True, slots=True, kw_only=True)
class EkPublic:
    """An EK of one of the two templates: the key is all in which two of a kind differ."""

    key: PublicKey

    @property
    def kind(self) -> EkKind:
        return EkKind.RSA if isinstance(self.key, rsa.RSAPublicKey) else EkKind.ECC

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Raises TpmFormatError where `data` is not exactly the TPMT_PUBLIC of an EK of these templates."""
        reader = ByteReader(data, order="big", error=TpmFormatError, where=_WHERE)
        key_type = reader.u16("type")
        name_hash = reader.u16("nameAlg")
        attributes = ObjectAttributes(reader.u32("objectAttributes"))
        policy = reader.sized(2, "authPolicy", limit=64)
        symmetric = (reader.u16("symmetric"), reader.u16("keyBits"), reader.u16("mode"))
        scheme = reader.u16("scheme")
        for what, expected, found in (
            ("nameAlg", f"0x{Bank.SHA256.algorithm_id:04x}", f"0x{name_hash:04x}"),
            ("objectAttributes", _names(EK_ATTRIBUTES), _names(attributes)),
            ("authPolicy", EK_POLICY.hex(), policy.hex()),
            ("symmetric", "AES-128-CFB", "AES-128-CFB" if symmetric == (_AES, _AES_BITS, _CFB) else str(symmetric)),
            ("scheme", f"0x{TPM_ALG_NULL:04x}", f"0x{scheme:04x}"),
        ):
            if expected != found:
                raise TpmFormatError(
                    "not an Endorsement Key of the TCG's templates",
                    where=f"{_WHERE}: {what}",
                    expected=expected,
                    found=found,
                )
        key: PublicKey
        match key_type:
            case 0x0001:
                key = _read_rsa(reader)
            case 0x0023:
                key = _read_ecc(reader)
            case other:
                raise TpmFormatError("not an RSA or ECC key", where=_WHERE, found=f"0x{other:04x}")
        reader.end()
        return cls(key=key)

    @classmethod
    def of(cls, key: object) -> Self:
        """The EK with this key. Raises TpmFormatError for a key of another kind or size."""
        match key:
            case rsa.RSAPublicKey() if key.key_size == _RSA_BITS and key.public_numbers().e == _DEFAULT_RSA_EXPONENT:
                return cls(key=key)
            case ec.EllipticCurvePublicKey() if isinstance(key.curve, ec.SECP256R1):
                return cls(key=key)
        raise TpmFormatError("not the key of an EK", where=_WHERE, expected="RSA 2048 or ECC P-256")

    def encode(self) -> bytes:
        """The TPMT_PUBLIC bytes."""
        if isinstance(self.key, rsa.RSAPublicKey):
            return _head(TPM_ALG_RSA) + _rsa_tail(self.key.public_numbers().n.to_bytes(_RSA_BYTES, "big"))
        numbers = self.key.public_numbers()
        x, y = (number.to_bytes(_ECC_BYTES, "big") for number in (numbers.x, numbers.y))
        return _head(TPM_ALG_ECC) + _ecc_tail(x, y)

    @property
    def sha256(self) -> bytes:
        """SHA-256 over the TPMT_PUBLIC: what an operator pins, and hosts write down. The Name is 000b and this."""
        return hashlib.sha256(self.encode()).digest()


def _head(key_type: int) -> bytes:
    return (
        key_type.to_bytes(2, "big")
        + Bank.SHA256.algorithm_id.to_bytes(2, "big")
        + int(EK_ATTRIBUTES).to_bytes(4, "big")
        + sized_buffer(EK_POLICY)
        + b"".join(value.to_bytes(2, "big") for value in (_AES, _AES_BITS, _CFB, TPM_ALG_NULL))
    )


def _rsa_tail(modulus: bytes) -> bytes:
    return _RSA_BITS.to_bytes(2, "big") + bytes(4) + sized_buffer(modulus)


def _ecc_tail(x: bytes, y: bytes) -> bytes:
    return _P256.to_bytes(2, "big") + TPM_ALG_NULL.to_bytes(2, "big") + sized_buffer(x) + sized_buffer(y)


def _read_rsa(reader: ByteReader) -> rsa.RSAPublicKey:
    bits, exponent = reader.u16("keyBits"), reader.u32("exponent")
    modulus = int.from_bytes(reader.sized(2, "modulus", limit=_RSA_BYTES), "big")
    if (bits, exponent, modulus.bit_length()) != (_RSA_BITS, 0, _RSA_BITS):
        raise TpmFormatError(
            "not the RSA key of an EK",
            where=_WHERE,
            expected="2048 bits, exponent 65537 (written as 0)",
            found=f"{bits} bits, exponent {exponent}, a modulus of {modulus.bit_length()} bits",
        )
    try:
        return rsa.RSAPublicNumbers(_DEFAULT_RSA_EXPONENT, modulus).public_key()
    except ValueError:
        raise TpmFormatError("not an RSA public key", where=_WHERE) from None


def _read_ecc(reader: ByteReader) -> ec.EllipticCurvePublicKey:
    curve, kdf = reader.u16("curveID"), reader.u16("kdf")
    x, y = (reader.sized(2, what, limit=_ECC_BYTES) for what in ("x", "y"))
    if (curve, kdf, len(x), len(y)) != (_P256, TPM_ALG_NULL, _ECC_BYTES, _ECC_BYTES):
        raise TpmFormatError(
            "not the ECC key of an EK",
            where=_WHERE,
            expected="NIST P-256 without a KDF, coordinates of 32 bytes",
            found=f"curve 0x{curve:04x}, kdf 0x{kdf:04x}, coordinates of {len(x)} and {len(y)} bytes",
        )
    numbers = ec.EllipticCurvePublicNumbers(int.from_bytes(x, "big"), int.from_bytes(y, "big"), ec.SECP256R1())
    try:
        return numbers.public_key()
    except (ValueError, UnsupportedAlgorithm):
        raise TpmFormatError("the point is not on the curve", where=_WHERE) from None


def _names(attributes: ObjectAttributes) -> str:
    return ", ".join((flag.name or str(int(flag))).lower() for flag in attributes) or "none"
