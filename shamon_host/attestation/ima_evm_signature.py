"""Portable EVM signatures in the IMA log: over a file's owner, mode and security attributes, not over its content.

An `evm-sig` entry has all that such a signature is over, so a Verifier can make the digest again. The content comes in
by one of these attributes: `security.ima` must hold the digest that the entry has for the file, or a good signature
over it. Other templates show the signature (in `sig`, where there is no IMA signature), but not what it is over.

Source: Linux security/integrity/evm/evm_crypto.c (`evm_calc_hmac_or_hash`, `hmac_add_misc`), evm_main.c
(`evm_read_protected_xattrs`); ima/ima_template_lib.c. Made for kernels of 64 bits, whose `struct h_misc` has 24 bytes.
"""

from collections.abc import Mapping

from cryptography.hazmat.primitives import hashes

from shamon_host.attestation.ima_entry import FileDigest, ImaFields
from shamon_host.attestation.ima_signature import (
    HASHES,
    KERNEL_HASHES,
    XATTR_DIGEST,
    XATTR_DIGEST_NG,
    XATTR_PORTABLE_EVM,
    CheckedSignature,
    ImaSignatureError,
    SignatureVerdict,
    SigningKeys,
    examine_signature,
    kernel_hash_name,
    read_signature_header,
    unknown_key,
    verify_digest,
)

_ATTRIBUTES = ("xattrnames", "xattrlengths", "xattrvalues", "iuid", "igid", "imode")
_CONTENT = "security.ima"
_VERSIONS = frozenset({2, 3})
_NONE = CheckedSignature(SignatureVerdict.NONE)


def examine_evm_signature(fields: ImaFields, keys: SigningKeys) -> CheckedSignature:
    """Whether one of `keys` signed the file's attributes as the entry has them, and they are those of its content.

    None where the entry has no such signature, or not what it is over.
    """
    attribute = fields.raw.get("evmsig") or (fields.signature if is_portable_evm(fields.signature) else b"")
    if not attribute:
        return _NONE
    if not is_portable_evm(attribute) or attribute[1:2] not in {bytes([version]) for version in _VERSIONS}:
        return CheckedSignature(SignatureVerdict.BAD, "no portable EVM signature of a known version")
    try:
        header = read_signature_header(attribute)
    except ImaSignatureError as error:
        return CheckedSignature(SignatureVerdict.BAD, str(error))
    if not keys.by_id(header.key_id):
        return unknown_key(header)
    if any(name not in fields.raw for name in _ATTRIBUTES):
        return CheckedSignature(SignatureVerdict.NONE, "the entry has not what the signature is over", header.key_id)
    algorithm = HASHES.get(header.algorithm)
    if algorithm is None:
        return CheckedSignature(SignatureVerdict.BAD, f"{header.algorithm} cannot be checked here", header.key_id)
    try:
        attributes = file_attributes(fields.raw)
        digest = FileDigest(header.algorithm, _attributes_digest(fields.raw, attributes, algorithm))
    except ImaSignatureError as error:
        return CheckedSignature(SignatureVerdict.BAD, error.what, header.key_id)
    checked = verify_digest(header, digest, keys)
    if checked.verdict is not SignatureVerdict.GOOD:
        return checked
    return _of_this_content(fields, attributes[_CONTENT], keys, checked)


def is_portable_evm(attribute: bytes) -> bool:
    """Whether an attribute is a portable EVM signature, which may stand in `sig` as well."""
    return attribute[:1] == bytes([XATTR_PORTABLE_EVM])


def file_attributes(raw: Mapping[str, bytes]) -> dict[str, bytes]:
    """The security attributes of an `evm-sig` entry, by name. Raises `ImaSignatureError` where they do not fit."""
    names = raw["xattrnames"].rstrip(b"\0").decode("utf-8", "backslashreplace").split("|")
    sizes, values = raw["xattrlengths"], raw["xattrvalues"]
    lengths = [int.from_bytes(sizes[start : start + 4], "little") for start in range(0, len(sizes), 4)]
    if len(names) != len(lengths) or len(set(names)) != len(names) or sum(lengths) != len(values):
        raise ImaSignatureError("names, lengths and values of the file's attributes do not fit together")
    attributes, position = {}, 0
    for name, size in zip(names, lengths, strict=True):
        attributes[name] = values[position : position + size]
        position += size
    if _CONTENT not in attributes:
        raise ImaSignatureError("the signature is over no security.ima, hence over no content")
    return attributes


def _attributes_digest(
    raw: Mapping[str, bytes], attributes: Mapping[str, bytes], algorithm: hashes.HashAlgorithm
) -> bytes:
    uid, gid, mode = raw["iuid"], raw["igid"], raw["imode"]
    if (len(uid), len(gid), len(mode)) != (4, 4, 2):
        raise ImaSignatureError("owner or mode of the file are missing")
    hasher = hashes.Hash(algorithm)
    for value in attributes.values():
        hasher.update(value)
    # Inode number and generation are zero in a portable signature; two bytes of padding end the structure.
    hasher.update(bytes(12) + uid + gid + mode + bytes(2))
    return hasher.finalize()


def _of_this_content(
    fields: ImaFields, attribute: bytes, keys: SigningKeys, checked: CheckedSignature
) -> CheckedSignature:
    kind, found = attribute[:1], fields.file_digest
    if kind in {bytes([XATTR_DIGEST]), bytes([XATTR_DIGEST_NG])}:
        if found is not None and attribute == _digest_attribute(kind[0], found):
            return checked
        return CheckedSignature(SignatureVerdict.BAD, "it is over the digest of another content", checked.key_id)
    inner = examine_signature(fields._replace(signature=attribute), keys)
    if inner.verdict is SignatureVerdict.GOOD:
        return checked
    if inner.verdict is SignatureVerdict.UNKNOWN_KEY:
        return inner
    return CheckedSignature(SignatureVerdict.BAD, f"security.ima under it is not good: {inner.reason}", checked.key_id)


def _digest_attribute(kind: int, digest: FileDigest) -> bytes:
    """`security.ima` as it is for a file of this digest; empty for a hash that cannot stand there."""
    name = kernel_hash_name(digest)
    if kind == XATTR_DIGEST:
        return bytes([kind]) + digest.digest if name == "sha1" else b""
    return bytes([kind, KERNEL_HASHES.index(name)]) + digest.digest if name in KERNEL_HASHES else b""
