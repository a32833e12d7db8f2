"""Keys that the kernel measured when they were added to a keyring: which, by which entry, and whether they are known.

A policy rule `measure func=KEY_CHECK` logs each asymmetric key that is added to a keyring, as an `ima-buf` entry with
the keyring's name and the key's bytes, a certificate in DER. So an appraiser can demand that a host trusts only known
keys, and can check files with the keys the host itself had. A key in the log is worth no more than the log: it counts
for those entries alone that a quote vouches for, and only in keyrings that the kernel guards, whose names begin with a
dot. Any process may have a keyring of its own, of any other name.

Source: Linux security/integrity/ima/ima_asymmetric_keys.c (`ima_post_key_create_or_update`), ima_policy.c
(`func=KEY_CHECK keyrings=`), security/keys/keyctl.c (names with a dot are the kernel's).
"""

from collections.abc import Collection, Iterable, Iterator
from hashlib import sha256
from typing import NamedTuple

from shamon_host.attestation.ima_entry import ImaEntry, ImaFields
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


def measured_keys(entries: Iterable[ImaEntry], *, first_number: int = 1) -> Iterator[MeasuredKey]:
    """The keys in the order in which they were added. Raises `ImaLogError` at an entry whose fields are malformed."""
    for number, entry in enumerate(entries, first_number):
        if entry.violation:
            continue
        fields = entry.fields()
        if fields.buf is not None and (found := measured_key(fields, number)) is not None:
            yield found


def keys_of(measured: Iterable[MeasuredKey], keyrings: Collection[str] = FILE_KEYRINGS) -> SigningKeys:
    """The usable keys of some keyrings, to check signatures with."""
    return SigningKeys(
        found.key for found in measured if found.key is not None and not found.problem and found.keyring in keyrings
    )


def strange_keys(
    measured: Iterable[MeasuredKey], known: SigningKeys, keyrings: Collection[str] | None = None
) -> tuple[MeasuredKey, ...]:
    """What a host has added that is not one of `known`: other keys, unreadable ones, ones of a false digest.

    `keyrings` are those to look at; None for every one that the kernel guards (its name begins with a dot).
    """
    allowed = {key.spki for key in known}
    return tuple(
        found
        for found in measured
        if (found.keyring.startswith(".") if keyrings is None else found.keyring in keyrings)
        and (found.key is None or found.problem or found.key.spki not in allowed)
    )
