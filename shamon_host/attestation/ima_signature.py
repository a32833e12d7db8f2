"""Signatures of files in the IMA log: whether one is good, and by which key.

An `ima-sig` entry holds a file's `security.ima` attribute: a short header with a 32-bit key id, and a signature over
the file's digest as the same entry has it. So a Verifier that knows the key can accept a file that it has no digest
of. The entry alone proves nothing of the kind: every verdict here is about bytes, and only a quote that vouches for
the log says that a kernel wrote them.

Source: Linux security/integrity/integrity.h (`struct signature_v2_hdr`, `enum evm_ima_xattr_type`,
`struct ima_file_id`), digsig_asymmetric.c (`asymmetric_verify`, `calc_file_id_hash`), ima/ima_appraise.c
(`xattr_verify`), include/uapi/linux/hash_info.h.
"""

from enum import StrEnum
from typing import NamedTuple

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from shamon_host.attestation.ima_entry import FileDigest, ImaFields
from shamon_host.attestation.ima_signing_key import (
    PublicKey,
    SigningKey,
    SigningKeyError,
    SigningKeys,
    load_signing_key,
)
from shamon_host.domain.errors import BadInput

__all__ = [
    "HASHES",
    "KERNEL_HASHES",
    "CheckedSignature",
    "ImaSignatureError",
    "SignatureHeader",
    "SignatureVerdict",
    "SigningKey",
    "SigningKeyError",
    "SigningKeys",
    "check_signature",
    "examine_signature",
    "kernel_hash_name",
    "load_signing_key",
    "read_signature_header",
    "signed_by",
    "unknown_key",
    "verify_digest",
]

XATTR_DIGEST = 0x01
XATTR_SIGNATURE = 0x03
XATTR_DIGEST_NG = 0x04
XATTR_PORTABLE_EVM = 0x05
XATTR_VERITY = 0x06
"""First byte of a `security.ima` or `security.evm` attribute (`enum evm_ima_xattr_type`)."""

_HEADER_BYTES = 9
_OVER_DIGEST = 2
_OVER_FILE_ID = 3
_VERSION_1 = 1

KERNEL_HASHES = (
    *("md4", "md5", "sha1", "rmd160", "sha256", "sha384", "sha512", "sha224", "rmd128", "rmd256", "rmd320"),
    *("wp256", "wp384", "wp512", "tgr128", "tgr160", "tgr192", "sm3", "streebog256", "streebog512"),
    *("sha3-256", "sha3-384", "sha3-512"),
)
"""Names by the number that a signature's header has for them (`enum hash_algo`, `hash_algo_name`)."""
_OTHER_NAMES = {"sm3-256": "sm3", "sm3_256": "sm3"}

HASHES: dict[str, hashes.HashAlgorithm] = {
    "sha1": hashes.SHA1(),  # noqa: S303 - as old hosts have it; the policy says which keys count, hence which hosts
    "sha224": hashes.SHA224(),
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
    "sm3": hashes.SM3(),
    "sha3-256": hashes.SHA3_256(),
    "sha3-384": hashes.SHA3_384(),
    "sha3-512": hashes.SHA3_512(),
}
"""The hashes that a signature can be checked with. Not MD5: two files with one digest are made in seconds."""


class ImaSignatureError(BadInput):
    """The bytes are no signature of a file."""


class SignatureVerdict(StrEnum):
    GOOD = "good"
    BAD = "bad"
    """Malformed, of another hash than the entry's, or not made by the key it names."""
    UNKNOWN_KEY = "unknown_key"
    NONE = "none"


class CheckedSignature(NamedTuple):
    """A verdict and what led to it."""

    verdict: SignatureVerdict
    reason: str = ""
    """Why it is not good; empty where it is, or where there is none."""
    key_id: int | None = None
    key: SigningKey | None = None
    """The key that made a good signature."""


class SignatureHeader(NamedTuple):
    """`struct signature_v2_hdr`, and what follows it."""

    kind: int
    version: int
    algorithm: str
    key_id: int
    signature: bytes


_NO_SIGNATURE = CheckedSignature(SignatureVerdict.NONE)


def read_signature_header(attribute: bytes) -> SignatureHeader:
    """A signature of version 2 or 3, as it stands in `security.ima`. Raises `ImaSignatureError` where it is none."""
    if len(attribute) <= _HEADER_BYTES:
        raise ImaSignatureError("a signature is shorter than its header", found=f"{len(attribute)} bytes")
    kind, version, hash_id = attribute[:3]
    said, signature = int.from_bytes(attribute[7:9], "big"), attribute[_HEADER_BYTES:]
    if said != len(signature):
        raise ImaSignatureError("a signature has not the length it says", expected=str(said), found=str(len(signature)))
    if hash_id >= len(KERNEL_HASHES):
        raise ImaSignatureError("a signature names no known hash", found=str(hash_id))
    return SignatureHeader(kind, version, KERNEL_HASHES[hash_id], int.from_bytes(attribute[3:7], "big"), signature)


def check_signature(fields: ImaFields, keys: SigningKeys) -> SignatureVerdict:
    """Whether the entry's `sig` is a signature, by one of `keys`, over the file's digest in the same entry."""
    return examine_signature(fields, keys).verdict


def examine_signature(fields: ImaFields, keys: SigningKeys) -> CheckedSignature:
    """As `check_signature`, with the reason and the key.

    No signature is a plain digest, and neither is a portable EVM signature, which the kernel shows where a file has
    no IMA signature: it is over the file's attributes and says nothing that this entry could be checked against.
    """
    attribute = fields.signature
    if not attribute or attribute[0] in {XATTR_DIGEST, XATTR_DIGEST_NG, XATTR_PORTABLE_EVM}:
        return _NO_SIGNATURE
    kind, version = attribute[0], attribute[1] if len(attribute) > 1 else 0
    if kind == XATTR_SIGNATURE and version == _VERSION_1:
        return CheckedSignature(SignatureVerdict.UNKNOWN_KEY, "a signature of version 1, whose keys have 64-bit ids")
    versions = {XATTR_SIGNATURE: {_OVER_DIGEST, _OVER_FILE_ID}, XATTR_VERITY: {_OVER_FILE_ID}}.get(kind, set())
    if version not in versions:
        return CheckedSignature(SignatureVerdict.BAD, f"no known kind of signature: type {kind}, version {version}")
    try:
        header = read_signature_header(attribute)
    except ImaSignatureError as error:
        return CheckedSignature(SignatureVerdict.BAD, str(error))
    if not keys.by_id(header.key_id):
        return unknown_key(header)
    digest = fields.file_digest
    if digest is None:
        return CheckedSignature(SignatureVerdict.BAD, "the entry has no file digest to check it against", header.key_id)
    # d-ng does not tell a verity digest from that of the content; d-ngv2 does, and a signature is for one of them.
    if digest.kind != ("verity" if kind == XATTR_VERITY else "ima") and "d-ngv2" in fields.raw:
        return CheckedSignature(SignatureVerdict.BAD, f"it is not for a digest of kind {digest.kind}", header.key_id)
    return verify_digest(header, digest, keys)


def verify_digest(header: SignatureHeader, digest: FileDigest, keys: SigningKeys) -> CheckedSignature:
    """Whether one of the keys that the header may mean signed `digest` (version 3: the hash of `ima_file_id`)."""
    candidates = keys.by_id(header.key_id)
    if not candidates:
        return unknown_key(header)
    if kernel_hash_name(digest) != header.algorithm:
        reason = f"it is over a {header.algorithm} digest, the entry has {digest.algorithm}"
        return CheckedSignature(SignatureVerdict.BAD, reason, header.key_id)
    algorithm = HASHES.get(header.algorithm)
    if algorithm is None or len(digest.digest) != algorithm.digest_size:
        return CheckedSignature(SignatureVerdict.BAD, f"{header.algorithm} cannot be checked here", header.key_id)
    signed = digest.digest
    if header.version == _OVER_FILE_ID:
        hasher = hashes.Hash(algorithm)
        hasher.update(bytes([header.kind, KERNEL_HASHES.index(header.algorithm)]) + signed)
        signed = hasher.finalize()
    for key in candidates:
        if _verifies(key.public, header.signature, signed, algorithm):
            return CheckedSignature(SignatureVerdict.GOOD, "", header.key_id, key)
    return CheckedSignature(SignatureVerdict.BAD, "it is not by the key that it names", header.key_id)


def kernel_hash_name(digest: FileDigest) -> str:
    """The name that newer kernels have for a digest's hash: SM3 had others."""
    return _OTHER_NAMES.get(digest.algorithm, digest.algorithm)


def signed_by(key: SigningKey, signature: bytes, digest: FileDigest) -> bool:
    """Whether a key made a signature over `digest` itself. False as well for a hash that cannot be checked here."""
    algorithm = HASHES.get(kernel_hash_name(digest))
    if algorithm is None or len(digest.digest) != algorithm.digest_size:
        return False
    return _verifies(key.public, signature, digest.digest, algorithm)


def unknown_key(header: SignatureHeader) -> CheckedSignature:
    """The verdict where no key has the header's id."""
    return CheckedSignature(SignatureVerdict.UNKNOWN_KEY, f"no key has the id {header.key_id:08x}", header.key_id)


def _verifies(public: PublicKey, signature: bytes, digest: bytes, algorithm: hashes.HashAlgorithm) -> bool:
    try:
        if isinstance(public, rsa.RSAPublicKey):
            public.verify(signature, digest, padding.PKCS1v15(), Prehashed(algorithm))
        else:
            public.verify(signature, digest, ec.ECDSA(Prehashed(algorithm)))
    except (InvalidSignature, UnsupportedAlgorithm, ValueError):
        return False
    return True
