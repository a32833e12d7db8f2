"""The Endorsement Key of this host's TPM, for `tpm_device`: made anew where it is needed, and flushed afterwards.

A TPM has room for three loaded keys or so. The EK is needed on enrolment alone, so it is not kept loaded. To use it one
has to satisfy its policy, which asks for the authorization of the endorsement hierarchy (empty, unless set).

Source: TCG TPM 2.0 Library Part 3, 12.5 (TPM2_ActivateCredential), 23.4 (TPM2_PolicySecret), 31.13 (TPM2_NV_Read);
TCG EK Credential Profile 2.5, 2.2.1.4 (NV indices of EK certificates).
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeVar

from tpm2_pytss import TSS2_Exception
from tpm2_pytss.constants import ESYS_TR, TPM2_ALG, TPM2_CAP, TPM2_SE
from tpm2_pytss.types import (
    TPM2B_ENCRYPTED_SECRET,
    TPM2B_ID_OBJECT,
    TPM2B_PUBLIC,
    TPMT_PUBLIC,
    TPMT_SYM_DEF,
)

from shamon_host.attestation.credential import Credential
from shamon_host.attestation.ek import EkKind, EkPublic
from shamon_host.attestation.ek_certificate import MAX_CERTIFICATE_BYTES
from shamon_host.domain.errors import BackendFailed, BadInput

T = TypeVar("T")
_CHUNK = 512
"""Bytes of one TPM2_NV_Read: every TPM gives at least so many (TPM_PT_NV_BUFFER_MAX)."""
_REMEDY = "The endorsement hierarchy must be enabled, with empty authorization."


class _Do(Protocol):
    def __call__(self, what: str, command: Callable[[], T], *, remedy: str = "") -> T:
        """Run TPM commands; the stack's exceptions become BackendFailed."""
        ...


class Endorsement:
    """See the module. `do` runs commands, as `DeviceTpm` does."""

    def __init__(self, do: _Do, *, kind: EkKind | None = None) -> None:
        self._do = do
        self._kind = kind
        self._public: bytes = b""

    def public(self, esapi: Any) -> bytes:
        """TPMT_PUBLIC of the EK. Raises BackendFailed."""
        if not self._public:
            kind = self._choose(esapi)

            def read() -> bytes:
                with _loaded(esapi, kind) as (_, public):
                    return public

            self._public = self._do("create its Endorsement Key", read, remedy=_REMEDY)
            try:
                EkPublic.parse(self._public)
            except BadInput as error:
                raise BackendFailed(f"the TPM made another key than asked for: {error}", where="TPM") from error
        return self._public

    def certificate(self, esapi: Any) -> bytes:
        """What its NV index holds; empty where it is not defined. Raises BackendFailed."""
        index = self._choose(esapi).certificate_index
        if not self._do("list its NV indices", lambda: has_index(esapi, index)):
            return b""
        data = self._do("read its EK certificate", lambda: _read_index(esapi, index))
        if data is None:
            raise BackendFailed(
                "the TPM's EK certificate is too long",
                where=f"NV index 0x{index:08x}",
                expected=f"at most {MAX_CERTIFICATE_BYTES} bytes",
            )
        return data

    def activate(self, esapi: Any, ak: Any, credential: Credential) -> bytes:
        """TPM2_ActivateCredential with this EK and the loaded AK. Raises BackendFailed."""
        kind = self._choose(esapi)

        def run() -> bytes:
            with _loaded(esapi, kind) as (ek, _):
                return _activate(esapi, ak, ek, credential)

        return self._do("activate a credential", run, remedy=_REMEDY)

    def _choose(self, esapi: Any) -> EkKind:
        if self._kind is None:
            kinds = (EkKind.ECC, EkKind.RSA)
            certified = self._do(
                "list its NV indices", lambda: [kind for kind in kinds if has_index(esapi, kind.certificate_index)]
            )
            self._kind = next(iter(certified), EkKind.ECC)
        return self._kind


def has_index(esapi: Any, index: int) -> bool:
    """Whether this NV index is defined. A TPM lists handles from the one asked for on: the first is that one, or it is
    not there. Raises TSS2_Exception."""
    _, capability = esapi.get_capability(TPM2_CAP.HANDLES, index, 1)
    return any(int(handle) == index for handle in capability.data.handles)


@contextlib.contextmanager
def _loaded(esapi: Any, kind: EkKind) -> Iterator[tuple[Any, bytes]]:
    """The handle of the EK and its TPMT_PUBLIC, while it is needed. Raises TSS2_Exception."""
    area, _ = TPMT_PUBLIC.unmarshal(kind.template())
    handle, public, *_ = esapi.create_primary(None, TPM2B_PUBLIC(publicArea=area), ESYS_TR.ENDORSEMENT)
    try:
        yield handle, bytes(public.publicArea.marshal())
    finally:
        with contextlib.suppress(TSS2_Exception):
            esapi.flush_context(handle)


def _read_index(esapi: Any, index: int) -> bytes | None:
    """All that an NV index holds, read by its own (empty) authorization; None where that is too much."""
    handle = esapi.tr_from_tpmpublic(index)
    try:
        public, _ = esapi.nv_read_public(handle)
        size = int(public.nvPublic.dataSize)
        if size > MAX_CERTIFICATE_BYTES:
            return None
        data = b""
        while len(data) < size:
            data += bytes(esapi.nv_read(handle, min(_CHUNK, size - len(data)), offset=len(data)))
        return data
    finally:
        esapi.tr_close(handle)


def _activate(esapi: Any, ak: Any, ek: Any, credential: Credential) -> bytes:
    session = esapi.start_auth_session(
        tpm_key=ESYS_TR.NONE,
        bind=ESYS_TR.NONE,
        session_type=TPM2_SE.POLICY,
        symmetric=TPMT_SYM_DEF(algorithm=TPM2_ALG.NULL),
        auth_hash=TPM2_ALG.SHA256,
    )
    try:
        esapi.policy_secret(ESYS_TR.ENDORSEMENT, session, b"", b"", b"", 0)
        secret = esapi.activate_credential(
            ak,
            ek,
            TPM2B_ID_OBJECT(credential=credential.blob),
            TPM2B_ENCRYPTED_SECRET(secret=credential.encrypted_secret),
            session1=ESYS_TR.PASSWORD,
            session2=session,
        )
        return bytes(secret)
    finally:
        with contextlib.suppress(TSS2_Exception):
            esapi.flush_context(session)
