"""Keys that the kernel measured when they were added to a keyring: which, and by which entry.

A policy rule `measure func=KEY_CHECK` logs each asymmetric key that is added to a keyring, as an `ima-buf` entry with
the keyring's name and the key's bytes, a certificate in DER. An appraisal takes it as any other buffer, by its digest
(`ReferencePart.buffers`): a key that is not expected fails the host. Here is what the key is, and what files it signed.
A key in the log is worth no more than the log: it counts for those entries alone that a quote vouches for, and only in
keyrings that the kernel guards, whose names begin with a dot. Any process may have a keyring of its own, of any other
name.

Source: Linux security/integrity/ima/ima_asymmetric_keys.c (`ima_post_key_create_or_update`), ima_policy.c
(`func=KEY_CHECK keyrings=`), security/keys/keyctl.c (names with a dot are the kernel's).
"""

from collections.abc import Collection, Iterable
from hashlib import sha256
from typing import NamedTuple

from shamon_host.attestation.ima_entry import ImaFields
from shamon_host.attestation.ima_signature import SigningKey, SigningKeyError, SigningKeys, load_signing_key
from shamon_host.attestation.pcr import Bank

FILE_KEYRINGS = frozenset({".ima", ".evm"})
"""Keyrings whose keys the kernel checks file signatures with. Others only decide what may be added to these."""
_SEQUENCE = b"\x30"


class MeasuredKey(NamedTuple):
    """One key that was added to a keyring."""

    number: int
    """Of the log's entry, counted from 1."""
    keyring: str
    data_digest: str
    """SHA-256 of the measured bytes, in hexadecimal."""
    key: SigningKey | None
    problem: str = ""
    """Why there is no key, or why it is not to be used; empty for a good one."""


def measured_key(fields: ImaFields, number: int) -> MeasuredKey | None:
    """The key that an entry says was added; None for an entry of another kind.

    Every buffer under a keyring's name is one, readable or not, and so is a certificate under any name.
    """
    name, data = fields.path, fields.buf
    if name is None or data is None:
        return None
    is_keyring = name.startswith(".")
    if not is_keyring and not data.startswith(_SEQUENCE):
        return None
    key, problem = None, ""
    try:
        key = load_signing_key(data, where=f"entry {number}, keyring {name}")
    except SigningKeyError as error:
        if not is_keyring:
            return None
        problem = error.what
    digest = fields.file_digest
    if digest is not None and digest.algorithm in frozenset(Bank) and not fields.buffer_matches_digest:
        problem = "the entry's digest is not that of its buffer"
    return MeasuredKey(number, name, sha256(data).hexdigest(), key, problem)


def keys_of(measured: Iterable[MeasuredKey], keyrings: Collection[str] = FILE_KEYRINGS) -> SigningKeys:
    """The usable keys of some keyrings, to check signatures with."""
    return SigningKeys(
        found.key for found in measured if found.key is not None and not found.problem and found.keyring in keyrings
    )
