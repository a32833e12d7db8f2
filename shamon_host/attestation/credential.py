"""MakeCredential without a TPM: a secret that only the TPM with this EK gets, and only while it holds this AK.

The blob is encrypted to the EK and bound to the Name of the AK, so TPM2_ActivateCredential opens it only in a TPM that
has both loaded. A Name covers the AK's attributes, so the secret coming back proves a restricted key of that very TPM.
The primitives are `cryptography`'s; only how the TPM library puts them together is here. `open_credential` is what a
TPM does, for the one in memory.

Source: TCG TPM 2.0 Library Part 1, 24 (credential protection), 11.4.10 (KDFa, KDFe), B.10.3 and C.6.3 (secret sharing
by RSA and by ECC); Part 2, 12.4.3 (TPM2B_ID_OBJECT).
"""

import hashlib
import hmac
import secrets
from dataclasses import dataclass, field

from cryptography.hazmat.decrepit.ciphers.modes import CFB
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.kbkdf import KBKDFHMAC, CounterLocation, Mode

from shamon_host.attestation.byte_reader import ByteReader
from shamon_host.attestation.ek import EkPublic
from shamon_host.attestation.tpm_structures import TpmFormatError, sized_buffer
from shamon_host.domain.errors import BadInput

MAX_SECRET_BYTES = 32
"""What a TPM2B_DIGEST of a SHA-256 EK takes."""
MAX_BLOB_BYTES = 2 + 32 + 2 + MAX_SECRET_BYTES
MAX_ENCRYPTED_SECRET_BYTES = 256
_SEED_BYTES = 32
_COORDINATE_BYTES = 32
_IDENTITY, _STORAGE, _INTEGRITY = b"IDENTITY", b"STORAGE", b"INTEGRITY"

EkPrivate = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """What TPM2_ActivateCredential takes: contents of the TPM2B_ID_OBJECT and of the TPM2B_ENCRYPTED_SECRET."""

    blob: bytes = field(repr=False)
    encrypted_secret: bytes = field(repr=False)


class CredentialRefused(BadInput):
    """A credential for another EK or AK, or one that was changed (TPM_RC_INTEGRITY, TPM_RC_VALUE)."""


def make_credential(ek: EkPublic, ak_name: bytes, secret: bytes) -> Credential:
    """Wrap `secret` (1 to 32 bytes) for the TPM with this EK and an AK of this Name. Raises BadInput."""
    if not 0 < len(secret) <= MAX_SECRET_BYTES:
        raise BadInput("a credential of a wrong size", expected=f"1 to {MAX_SECRET_BYTES} bytes")
    if isinstance(ek.key, rsa.RSAPublicKey):
        seed = secrets.token_bytes(_SEED_BYTES)
        encrypted_secret = ek.key.encrypt(seed, _oaep())
    else:
        ephemeral = ec.generate_private_key(ec.SECP256R1())
        seed = _ecc_seed(ephemeral.exchange(ec.ECDH(), ek.key), ephemeral.public_key(), ek.key)
        encrypted_secret = b"".join(map(sized_buffer, _coordinates(ephemeral.public_key())))
    encryptor = Cipher(AES(_kdfa(seed, _STORAGE, ak_name, 16)), CFB(bytes(16))).encryptor()
    identity = encryptor.update(sized_buffer(secret)) + encryptor.finalize()
    integrity = _integrity(seed, identity, ak_name)
    return Credential(blob=sized_buffer(integrity) + identity, encrypted_secret=encrypted_secret)


def open_credential(private: EkPrivate, ak_name: bytes, credential: Credential) -> bytes:
    """The secret, as a TPM with this EK and an AK of this Name finds it. Raises BadInput."""
    try:
        seed = _seed(private, credential.encrypted_secret)
    except ValueError:
        raise CredentialRefused("the secret is not for this EK", where="credential") from None
    reader = ByteReader(credential.blob, order="big", error=TpmFormatError, where="TPM2B_ID_OBJECT")
    integrity = reader.sized(2, "integrityHMAC", limit=32)
    identity = reader.rest()
    if not hmac.compare_digest(integrity, _integrity(seed, identity, ak_name)):
        raise CredentialRefused("the credential is for another AK or EK, or was changed", where="credential")
    decryptor = Cipher(AES(_kdfa(seed, _STORAGE, ak_name, 16)), CFB(bytes(16))).decryptor()
    plain = ByteReader(
        decryptor.update(identity) + decryptor.finalize(), order="big", error=TpmFormatError, where="TPM2B_DIGEST"
    )
    secret = plain.sized(2, "credential", limit=MAX_SECRET_BYTES)
    plain.end()
    return secret


def _seed(private: EkPrivate, encrypted_secret: bytes) -> bytes:
    """Raises ValueError, TpmFormatError."""
    if isinstance(private, rsa.RSAPrivateKey):
        return private.decrypt(encrypted_secret, _oaep())
    reader = ByteReader(encrypted_secret, order="big", error=TpmFormatError, where="TPM2B_ENCRYPTED_SECRET")
    x, y = (int.from_bytes(reader.sized(2, what, limit=_COORDINATE_BYTES), "big") for what in ("x", "y"))
    reader.end()
    ephemeral = ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
    return _ecc_seed(private.exchange(ec.ECDH(), ephemeral), ephemeral, private.public_key())


def _ecc_seed(shared_x: bytes, ephemeral: ec.EllipticCurvePublicKey, ek: ec.EllipticCurvePublicKey) -> bytes:
    """KDFe (NIST SP 800-56A, one step), which needs no second round for 32 bytes of SHA-256."""
    party_u, party_v = _coordinates(ephemeral)[0], _coordinates(ek)[0]
    return hashlib.sha256((1).to_bytes(4, "big") + shared_x + _IDENTITY + b"\0" + party_u + party_v).digest()


def _coordinates(key: ec.EllipticCurvePublicKey) -> tuple[bytes, bytes]:
    numbers = key.public_numbers()
    return numbers.x.to_bytes(_COORDINATE_BYTES, "big"), numbers.y.to_bytes(_COORDINATE_BYTES, "big")


def _oaep() -> padding.OAEP:
    """The label ends in a zero byte, which is part of it (Part 1, B.4)."""
    return padding.OAEP(mgf=padding.MGF1(SHA256()), algorithm=SHA256(), label=_IDENTITY + b"\0")


def _kdfa(key: bytes, label: bytes, context: bytes, size: int) -> bytes:
    """KDFa (NIST SP 800-108 in counter mode): counter ‖ label ‖ 0 ‖ context ‖ length in bits, 32-bit numbers."""
    return KBKDFHMAC(
        algorithm=SHA256(),
        mode=Mode.CounterMode,
        length=size,
        rlen=4,
        llen=4,
        location=CounterLocation.BeforeFixed,
        label=label,
        context=context,
        fixed=None,
    ).derive(key)


def _integrity(seed: bytes, identity: bytes, ak_name: bytes) -> bytes:
    return hmac.digest(_kdfa(seed, _INTEGRITY, b"", 32), identity + ak_name, "sha256")
