"""What a TPM's owner does to NV indices behind the adapter's back, over the TPM2 software stack.

Imports the stack when it is used: it is in lab hosts, and not wherever suites are collected.
"""

from typing import Any

ORDINARY = 0x0006_0006
"""TPMA_NV of an ordinary index: written and read by the owner, and by anybody with its (empty) authorization."""


def remove(tcti: str, index: int) -> bool:
    """TPM2_NV_UndefineSpace; False where nothing is at the index."""
    from tpm2_pytss import ESAPI, TSS2_Exception

    with ESAPI(tcti) as esapi:
        try:
            handle = esapi.tr_from_tpmpublic(index)
        except TSS2_Exception:
            return False
        esapi.nv_undefine_space(handle)
        return True


def define(tcti: str, public: bytes) -> None:
    """TPM2_NV_DefineSpace of this TPMS_NV_PUBLIC, with empty authorization."""
    from tpm2_pytss import ESAPI
    from tpm2_pytss.types import TPM2B_NV_PUBLIC, TPMS_NV_PUBLIC

    area, _ = TPMS_NV_PUBLIC.unmarshal(public)
    with ESAPI(tcti) as esapi:
        esapi.nv_define_space(b"", TPM2B_NV_PUBLIC(nvPublic=area))


def define_ordinary(tcti: str, index: int) -> None:
    """An index of 8 bytes that is no counter."""
    define(tcti, b"".join((index.to_bytes(4, "big"), b"\0\x0b", ORDINARY.to_bytes(4, "big"), bytes(2), b"\0\x08")))


def clear(tcti: str) -> None:
    """TPM2_Clear, with the lockout hierarchy's empty authorization: everything of the owner's is gone."""
    from tpm2_pytss import ESAPI
    from tpm2_pytss.constants import ESYS_TR

    with ESAPI(tcti) as esapi:
        lockout: Any = ESYS_TR.LOCKOUT
        esapi.clear(lockout)
