"""Verification of a TPM quote: what a Verifier may believe of it, or the precise reason why nothing.

A quote arrives with Evidence (or from the local TPM, on enrolment). `verify_quote` parses the signed structure, checks
the signature first, then everything the signature covers against what was asked for. It never returns a bool: it
returns the verified facts or raises. `cryptography` does the arithmetic; no TPM is needed.

Source: TCG TPM 2.0 Library Part 3, 18.4 (TPM2_Quote); RFC 9334, 10 (freshness by nonce).
"""

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils

from shamon_host.attestation.pcr import Bank, PcrError, PcrValues, composite_digest
from shamon_host.attestation.tpm_public import PublicKey, TpmPublic
from shamon_host.attestation.tpm_structures import (
    ClockInfo,
    PcrSelection,
    QuoteAttest,
    SignatureAlgorithm,
    TpmFormatError,
    TpmSignature,
)
from shamon_host.domain.errors import NotTrusted

_HASHES: dict[Bank, hashes.HashAlgorithm] = {
    Bank.SHA1: hashes.SHA1(),  # noqa: S303 -- refused unless the caller allows it
    Bank.SHA256: hashes.SHA256(),
    Bank.SHA384: hashes.SHA384(),
    Bank.SHA512: hashes.SHA512(),
}
_CURVES = ("secp256r1", "secp384r1", "secp521r1")
_MIN_RSA_BITS = 2048
_MAX_ATTEST_BYTES = 1024
_MAX_SIGNATURE_BYTES = 2048
_MAX_KEY_FILE_BYTES = 4096


class QuoteFault(StrEnum):
    """Why a quote is not believed."""

    MALFORMED = "malformed"
    KEY = "key"
    SHA1 = "sha1"
    SIGNATURE = "signature"
    NONCE = "nonce"
    SELECTION = "selection"
    PCR_DIGEST = "pcr_digest"


class QuoteError(NotTrusted):
    """The quote is not to be trusted; `fault` says in one word why."""

    def __init__(
        self,
        what: str,
        *,
        fault: QuoteFault,
        where: str = "quote",
        expected: str = "",
        found: str = "",
        remedy: str = "",
    ) -> None:
        super().__init__(what, where=where, expected=expected, found=found, remedy=remedy)
        self.fault = fault


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedQuote:
    """What a TPM with the given AK has said, once, for the given qualifying data."""

    qualified_signer: bytes
    clock: ClockInfo
    firmware_version: int
    selection: PcrSelection
    pcrs: Mapping[Bank, Mapping[int, bytes]]
    """The selected values, and only those: bank → PCR index → value."""


def load_ak(ak_public: bytes | TpmPublic | PublicKey) -> tuple[PublicKey, TpmPublic | None]:
    """The key to verify with, and its public area where one was given.

    `ak_public` is TPMT_PUBLIC bytes, a PEM public key, or either one already loaded. A public area must be that of an
    attestation key; a PEM says nothing of how the key is kept, so its owner has to have checked that on enrolment.
    Raises `QuoteError`.
    """
    match ak_public:
        case TpmPublic():
            area = ak_public
        case bytes() if ak_public.lstrip().startswith(b"-----BEGIN"):
            return _fit_key(_load_pem(ak_public)), None
        case bytes():
            try:
                area = TpmPublic.parse(ak_public)
            except TpmFormatError as error:
                raise QuoteError(f"the AK is unreadable: {error}", fault=QuoteFault.KEY) from error
        case ec.EllipticCurvePublicKey() | rsa.RSAPublicKey():
            return _fit_key(ak_public), None
        case _:
            raise QuoteError("the AK is not a public key", fault=QuoteFault.KEY, found=type(ak_public).__name__)
    try:
        area.require_attestation_key()
    except TpmFormatError as error:
        raise QuoteError(str(error), fault=QuoteFault.KEY) from error
    return _fit_key(area.key), area


def _load_pem(pem: bytes) -> object:
    try:
        if len(pem) > _MAX_KEY_FILE_BYTES:
            raise ValueError
        return serialization.load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        raise QuoteError("the AK is not a PEM public key", fault=QuoteFault.KEY) from None


def _fit_key(key: object) -> PublicKey:
    match key:
        case ec.EllipticCurvePublicKey() if key.curve.name in _CURVES:
            return key
        case rsa.RSAPublicKey() if key.key_size >= _MIN_RSA_BITS:
            return key
        case _:
            raise QuoteError(
                "the AK is of a kind or size that is not accepted",
                fault=QuoteFault.KEY,
                expected="ECC P-256, P-384 or P-521, or RSA of 2048 bits or more",
                found=type(key).__name__,
            )


def verify_quote(  # noqa: PLR0917 -- TPM2_Quote has so many parts
    attest: bytes,
    signature: bytes,
    ak_public: bytes | TpmPublic | PublicKey,
    expected_qualifying_data: bytes,
    expected_selection: PcrSelection,
    pcr_values: PcrValues,
    *,
    allow_sha1: bool = False,
) -> VerifiedQuote:
    """Believes a quote, or raises `QuoteError`.

    `attest` is the TPMS_ATTEST, `signature` the TPMT_SIGNATURE, both as the TPM gave them. `pcr_values` are the values
    that the Attester claims; values outside of the selection are ignored and not returned. `allow_sha1`: also believe
    a signature over SHA-1, and the SHA-1 bank. Order of checks: key, form, hash, signature, qualifying data, selection
    inside the signed structure, PCR digest.
    """
    key, area = load_ak(ak_public)
    if len(attest) > _MAX_ATTEST_BYTES or len(signature) > _MAX_SIGNATURE_BYTES:
        raise QuoteError("the quote is too long", fault=QuoteFault.MALFORMED, found=f"{len(attest)} bytes")
    try:
        quoted = QuoteAttest.parse(attest)
        signed = TpmSignature.parse(signature)
    except TpmFormatError as error:
        raise QuoteError(str(error), fault=QuoteFault.MALFORMED) from error
    verify_signature(attest, signed, key, area, allow_sha1=allow_sha1)
    require_qualifying_data(quoted, expected_qualifying_data)
    _check_selection(quoted.selection, expected_selection, allow_sha1=allow_sha1)
    try:
        digest = composite_digest(signed.hash_bank, quoted.selection, pcr_values)
    except PcrError as error:
        raise QuoteError(str(error), fault=QuoteFault.PCR_DIGEST) from error
    if not hmac.compare_digest(digest, quoted.pcr_digest):
        raise QuoteError(
            "the PCR values are not the quoted ones",
            fault=QuoteFault.PCR_DIGEST,
            expected=quoted.pcr_digest.hex(),
            found=digest.hex(),
        )
    return VerifiedQuote(
        qualified_signer=quoted.qualified_signer,
        clock=quoted.clock_info,
        firmware_version=quoted.firmware_version,
        selection=quoted.selection,
        pcrs={bank: {pcr: bytes(pcr_values[bank][pcr]) for pcr in pcrs} for bank, pcrs in quoted.selection.banks},
    )


def require_qualifying_data(quoted: QuoteAttest, expected: bytes) -> None:
    """Raises `QuoteError` where the quote was not made for what it was asked for."""
    if not hmac.compare_digest(quoted.extra_data, expected):
        raise QuoteError(
            "the quote is for other qualifying data",
            fault=QuoteFault.NONCE,
            expected=expected.hex() or "none",
            found=quoted.extra_data.hex() or "none",
            remedy="Old or foreign Evidence; ask again with a fresh nonce.",
        )


def verify_signature(
    attest: bytes, signed: TpmSignature, key: PublicKey, area: TpmPublic | None, *, allow_sha1: bool = False
) -> None:
    """Raises `QuoteError` where `key` has not signed `attest`, or not in the way that its public area fixes."""
    _check_scheme(signed, area, allow_sha1=allow_sha1)
    _check_signature(attest, signed, key)


def _check_scheme(signed: TpmSignature, area: TpmPublic | None, *, allow_sha1: bool) -> None:
    if signed.hash_bank is Bank.SHA1 and not allow_sha1:
        raise QuoteError(
            "the quote is signed over SHA-1", fault=QuoteFault.SHA1, expected="SHA-256, SHA-384 or SHA-512"
        )
    if area is not None and (signed.algorithm, signed.hash_bank) != (area.scheme, area.scheme_hash):
        raise QuoteError(
            "the signature's scheme is not the key's",
            fault=QuoteFault.SIGNATURE,
            expected=f"{area.scheme.name if area.scheme else 'none'} with {area.scheme_hash}",
            found=f"{signed.algorithm.name} with {signed.hash_bank}",
        )


def _check_signature(attest: bytes, signed: TpmSignature, key: PublicKey) -> None:
    algorithm = _HASHES[signed.hash_bank]
    try:
        match signed.algorithm:
            case SignatureAlgorithm.ECDSA:
                if not isinstance(key, ec.EllipticCurvePublicKey):
                    raise InvalidSignature
                r, s = (int.from_bytes(part, "big") for part in signed.parts)
                key.verify(utils.encode_dss_signature(r, s), attest, ec.ECDSA(algorithm))
            case SignatureAlgorithm.RSASSA:
                if not isinstance(key, rsa.RSAPublicKey):
                    raise InvalidSignature
                key.verify(signed.parts[0], attest, padding.PKCS1v15(), algorithm)
            case SignatureAlgorithm.RSAPSS:
                if not isinstance(key, rsa.RSAPublicKey):
                    raise InvalidSignature
                # The salt is as long as the key allows on some TPMs and as long as the hash on others.
                pss = padding.PSS(mgf=padding.MGF1(algorithm), salt_length=padding.PSS.AUTO)
                key.verify(signed.parts[0], attest, pss, algorithm)
            case _:
                assert_never(signed.algorithm)
    except (InvalidSignature, ValueError):
        raise QuoteError(
            "the signature is not by the expected AK",
            fault=QuoteFault.SIGNATURE,
            remedy="Check that the AK enrolled for this host is the one its TPM holds.",
        ) from None


def _check_selection(quoted: PcrSelection, expected: PcrSelection, *, allow_sha1: bool) -> None:
    if quoted.as_mapping() != expected.as_mapping():
        raise QuoteError(
            "the signed structure selects other PCRs",
            fault=QuoteFault.SELECTION,
            expected=str(expected),
            found=str(quoted),
        )
    if Bank.SHA1 in quoted.as_mapping() and not allow_sha1:
        raise QuoteError("the SHA-1 bank proves nothing", fault=QuoteFault.SHA1, expected="another bank")
