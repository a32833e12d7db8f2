"""What objects in a TPM are made from: attributes, algorithms, and the template of the AK.

Source: TCG TPM 2.0 Library Part 2: TPM_ALG_ID (6.3), TPM_RH (7.4), TPMA_OBJECT (8.3), TPMT_PUBLIC (12.2.4).
"""

import hashlib
from enum import IntFlag

from shamon_host.attestation.pcr import Bank
from shamon_host.attestation.tpm_structures import SignatureAlgorithm, sized_buffer

TPM_ALG_RSA = 0x0001
TPM_ALG_NULL = 0x0010
TPM_ALG_ECC = 0x0023
TPM_RH_OWNER = 0x40000001
TPM_RH_ENDORSEMENT = 0x4000000B
_NIST_P256 = 0x0003
_UNIQUE = hashlib.sha256(b"shamon attestation key").digest()
"""Keeps this key apart from other primaries of the same form that somebody else made in this TPM."""


class ObjectAttributes(IntFlag):
    """TPMA_OBJECT bits."""

    FIXED_TPM = 1 << 1
    ST_CLEAR = 1 << 2
    FIXED_PARENT = 1 << 4
    SENSITIVE_DATA_ORIGIN = 1 << 5
    USER_WITH_AUTH = 1 << 6
    ADMIN_WITH_POLICY = 1 << 7
    NO_DA = 1 << 10
    ENCRYPTED_DUPLICATION = 1 << 11
    RESTRICTED = 1 << 16
    DECRYPT = 1 << 17
    SIGN = 1 << 18


AK_ATTRIBUTES = (
    ObjectAttributes.FIXED_TPM
    | ObjectAttributes.FIXED_PARENT
    | ObjectAttributes.SENSITIVE_DATA_ORIGIN
    | ObjectAttributes.USER_WITH_AUTH
    | ObjectAttributes.NO_DA
    | ObjectAttributes.RESTRICTED
    | ObjectAttributes.SIGN
)
"""Attributes of the AK template: made in this TPM, bound to it, signs only what the TPM itself made."""


def ak_template() -> bytes:
    """TPMT_PUBLIC to create the AK from: P-256, ECDSA with SHA-256, the attributes of an attestation key."""
    ids = (TPM_ALG_ECC, Bank.SHA256.algorithm_id)
    scheme = (TPM_ALG_NULL, SignatureAlgorithm.ECDSA, Bank.SHA256.algorithm_id, _NIST_P256, TPM_ALG_NULL)
    return (
        b"".join(value.to_bytes(2, "big") for value in ids)
        + int(AK_ATTRIBUTES).to_bytes(4, "big")
        + sized_buffer(b"")
        + b"".join(int(value).to_bytes(2, "big") for value in scheme)
        + sized_buffer(_UNIQUE)
        + sized_buffer(bytes(len(_UNIQUE)))
    )
