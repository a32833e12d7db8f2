"""Secrets that only this host's TPM opens again, for `tpm_device`: under a storage key of the endorsement hierarchy.

The storage key is derived anew like the AK, from a fixed template, so the sealed blob is all that has to be kept. It
does not outlive TPM2_Clear, which changes the hierarchy's proof, and with it what the storage key protects. No PCR is
asked for: what a host may do after a changed boot is for attestation to say, and an update must not lock it out.

Source: TCG TPM 2.0 Library Part 1, 23 (protected storage); Part 3, 12.1 (TPM2_Create), 12.2 (TPM2_Load), 12.7
(TPM2_Unseal).
"""

import contextlib
import hashlib
from collections.abc import Iterator
from typing import Any

from tpm2_pytss import TSS2_Exception
from tpm2_pytss.constants import ESYS_TR
from tpm2_pytss.types import (
    TPM2B_PRIVATE,
    TPM2B_PUBLIC,
    TPM2B_SENSITIVE_CREATE,
    TPMS_SENSITIVE_CREATE,
    TPMT_PUBLIC,
)

from shamon_host.attestation.byte_reader import ByteReader
from shamon_host.attestation.pcr import Bank
from shamon_host.attestation.tpm_objects import TPM_ALG_ECC, TPM_ALG_NULL, ObjectAttributes
from shamon_host.attestation.tpm_structures import TpmFormatError, sized_buffer

_UNIQUE = hashlib.sha256(b"shamon storage key").digest()
_KEYED_HASH, _AES, _AES_BITS, _CFB, _P256 = 0x0008, 0x0006, 128, 0x0043, 0x0003
_BOUND = ObjectAttributes.FIXED_TPM | ObjectAttributes.FIXED_PARENT | ObjectAttributes.USER_WITH_AUTH
_BOUND |= ObjectAttributes.NO_DA
_PARENT = _BOUND | ObjectAttributes.SENSITIVE_DATA_ORIGIN | ObjectAttributes.RESTRICTED | ObjectAttributes.DECRYPT
_MAX_PART = 1024


def seal(esapi: Any, secret: bytes) -> bytes:
    """TPM2B_PUBLIC and TPM2B_PRIVATE of an object that holds `secret`. Raises TSS2_Exception."""
    area, _ = TPMT_PUBLIC.unmarshal(_sealed_template())
    sensitive = TPM2B_SENSITIVE_CREATE(TPMS_SENSITIVE_CREATE(data=secret))
    with _storage_key(esapi) as parent:
        private, public, *_ = esapi.create(parent, sensitive, TPM2B_PUBLIC(publicArea=area))
    return sized_buffer(bytes(public.publicArea.marshal())) + sized_buffer(bytes(private))


def unseal(esapi: Any, blob: bytes) -> bytes:
    """The secret again. Raises TSS2_Exception, TpmFormatError."""
    reader = ByteReader(blob, order="big", error=TpmFormatError, where="sealed secret")
    public, private = (reader.sized(2, what, limit=_MAX_PART) for what in ("public", "private"))
    reader.end()
    area, rest = TPMT_PUBLIC.unmarshal(public)
    if rest != len(public):
        raise TpmFormatError("not a sealed object", where="sealed secret")
    with _storage_key(esapi) as parent:
        handle = esapi.load(parent, TPM2B_PRIVATE(private), TPM2B_PUBLIC(publicArea=area))
        try:
            return bytes(esapi.unseal(handle))
        finally:
            with contextlib.suppress(TSS2_Exception):
                esapi.flush_context(handle)


@contextlib.contextmanager
def _storage_key(esapi: Any) -> Iterator[Any]:
    area, _ = TPMT_PUBLIC.unmarshal(_storage_template())
    handle, *_ = esapi.create_primary(None, TPM2B_PUBLIC(publicArea=area), ESYS_TR.ENDORSEMENT)
    try:
        yield handle
    finally:
        with contextlib.suppress(TSS2_Exception):
            esapi.flush_context(handle)


def _storage_template() -> bytes:
    ids = (_AES, _AES_BITS, _CFB, TPM_ALG_NULL, _P256, TPM_ALG_NULL)
    return _head(TPM_ALG_ECC, _PARENT) + _numbers(*ids) + sized_buffer(_UNIQUE) + sized_buffer(bytes(len(_UNIQUE)))


def _sealed_template() -> bytes:
    return _head(_KEYED_HASH, _BOUND) + _numbers(TPM_ALG_NULL) + sized_buffer(b"")


def _head(key_type: int, attributes: ObjectAttributes) -> bytes:
    return _numbers(key_type, Bank.SHA256.algorithm_id) + int(attributes).to_bytes(4, "big") + sized_buffer(b"")


def _numbers(*values: int) -> bytes:
    return b"".join(value.to_bytes(2, "big") for value in values)
