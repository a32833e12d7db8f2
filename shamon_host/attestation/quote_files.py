"""A quote as tools leave it in files: which of the usual forms each file has.

`shamon inspect quote` reads what tpm2-tools, the TSS libraries or a kernel module wrote. The structures may stand alone
or behind their 16-bit size (TPM2B_*), a signature may be a TPMT_SIGNATURE or nothing but the signature's bytes. What is
read is then believed or not by `quote`, as Evidence is.

Source: TCG TPM 2.0 Library Part 2: TPM2B_ATTEST (10.12.13), TPMT_SIGNATURE (11.3.4), TPM2B_PUBLIC (12.2.5); RFC 3279,
section 2.2.3 (Ecdsa-Sig-Value).
"""

from collections.abc import Callable
from typing import TypeVar

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa, utils

from shamon_host.attestation.pcr import Bank
from shamon_host.attestation.quote import QuoteError, load_ak, verify_signature
from shamon_host.attestation.tpm_public import PublicKey, TpmPublic
from shamon_host.attestation.tpm_structures import QuoteAttest, SignatureAlgorithm, TpmFormatError, TpmSignature

MAX_FILE_BYTES = 16 * 1024
_PLAIN_HASHES = (Bank.SHA256, Bank.SHA384, Bank.SHA512, Bank.SHA1)
_RSA_SCHEMES = (SignatureAlgorithm.RSASSA, SignatureAlgorithm.RSAPSS)

T = TypeVar("T")
AkPublic = TpmPublic | PublicKey
"""What `quote.load_ak` takes."""


def read_attest(data: bytes) -> tuple[bytes, QuoteAttest]:
    """The signed bytes and what they say, from a TPMS_ATTEST or TPM2B_ATTEST.

    What is read has the form of a quote; whether a TPM has made it is still to be asked. Raises `TpmFormatError`.
    """
    return _bare_or_sized(data, "attest", lambda body: (body, QuoteAttest.read_any(body)))


def read_public(data: bytes) -> AkPublic:
    """The key in a PEM public key, a TPMT_PUBLIC or a TPM2B_PUBLIC, fit for an AK or not. Raises `TpmFormatError`."""
    if not data.lstrip().startswith(b"-----BEGIN"):
        return _bare_or_sized(data, "public key", TpmPublic.parse)
    try:
        key = serialization.load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
        raise TpmFormatError("this is no PEM public key of an AK", expected="an ECC or RSA public key")
    return key


def read_signatures(data: bytes, public: AkPublic) -> tuple[TpmSignature, ...]:
    """What the file may be: one TPMT_SIGNATURE, or each scheme and hash that plain bytes may be of.

    Raises `TpmFormatError` where it has the form of no signature by this key, `QuoteError` where the key is unfit.
    """
    try:
        return (TpmSignature.parse(data),)
    except TpmFormatError as error:
        key, area = load_ak(public)
        plain = _plain(data, key, area)
        if not plain:
            raise TpmFormatError(
                "this is no signature by such a key",
                where="signature",
                expected="TPMT_SIGNATURE, or the signature alone: DER or raw r and s for ECDSA, raw for RSA",
                found=f"{len(data)} bytes; as TPMT_SIGNATURE: {error.what}",
            ) from error
        return plain


def signed_by(
    attest: bytes, signatures: tuple[TpmSignature, ...], public: AkPublic, *, allow_sha1: bool = False
) -> TpmSignature:
    """The one of `signatures` that verifies. Raises `QuoteError`: the last one's reason."""
    key, area = load_ak(public)
    for signed in signatures[:-1]:
        try:
            verify_signature(attest, signed, key, area, allow_sha1=allow_sha1)
        except QuoteError:
            continue
        return signed
    verify_signature(attest, signatures[-1], key, area, allow_sha1=allow_sha1)
    return signatures[-1]


def _bare_or_sized(data: bytes, what: str, read: Callable[[bytes], T]) -> T:
    if len(data) > MAX_FILE_BYTES:
        raise TpmFormatError(f"the {what} is too long", expected=f"at most {MAX_FILE_BYTES} bytes")
    if len(data) > 2 and int.from_bytes(data[:2], "big") == len(data) - 2:
        return read(data[2:])
    return read(data)


def _plain(data: bytes, key: PublicKey, area: TpmPublic | None) -> tuple[TpmSignature, ...]:
    """The same bytes under each scheme that the key may have signed with; one alone where its area fixes the scheme."""
    fixed = area.scheme_hash if area is not None else None
    hashes = (fixed,) if fixed is not None else _PLAIN_HASHES
    if isinstance(key, rsa.RSAPublicKey):
        if len(data) != (key.key_size + 7) // 8:
            return ()
        schemes = (area.scheme,) if area is not None and area.scheme is not None else _RSA_SCHEMES
        return tuple(TpmSignature.rsa(scheme, bank, data) for bank in hashes for scheme in schemes)
    numbers = _r_and_s(data, key)
    if numbers is None:
        return ()
    size = (key.curve.key_size + 7) // 8
    return tuple(TpmSignature.ecdsa(bank, *numbers, coordinate_size=size) for bank in hashes)


def _r_and_s(data: bytes, key: ec.EllipticCurvePublicKey) -> tuple[int, int] | None:
    size = (key.curve.key_size + 7) // 8
    if len(data) == 2 * size:
        return int.from_bytes(data[:size], "big"), int.from_bytes(data[size:], "big")
    try:
        r, s = utils.decode_dss_signature(data)
    except ValueError:
        return None
    return (r, s) if 0 < r < 1 << 8 * size and 0 < s < 1 << 8 * size else None
