"""The TPM of this host through the TPM2 software stack: the `Tpm` port on hardware or swtpm.

The Attestation Key is a primary key of the endorsement hierarchy. It needs no storage: a TPM derives the same key from
the same template after every boot, for as long as it keeps its endorsement seed. Under that hierarchy a quote shows
the TPM's own reset count and firmware version; under the owner's they would be disguised.

The counter is an index in NV memory, looked up anew for each use: its owner may have removed it meanwhile.

The Endorsement Key is in `tpm_endorsement`, sealed secrets in `tpm_sealing`.

Source: TCG TPM 2.0 Library Part 1, 14 (primary seeds); Part 3, 18.4 (TPM2_Quote), 22.4 (TPM2_PCR_Read), 24.1
(TPM2_CreatePrimary), 30.2 (TPM2_GetCapability), 31.3 (TPM2_NV_DefineSpace), 31.8 (TPM2_NV_Increment), 31.13
(TPM2_NV_Read).
"""

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Self, TypeVar

# The stack prints errors to standard error by itself, and reads this when it first does; here they are exceptions.
os.environ.setdefault("TSS2_LOG", "all+NONE")

from tpm2_pytss import ESAPI, TSS2_Exception
from tpm2_pytss.constants import ESYS_TR, TPM2_ALG, TPM2_CAP, TPM2_PT
from tpm2_pytss.types import (
    TPM2B_NV_PUBLIC,
    TPM2B_PUBLIC,
    TPML_PCR_SELECTION,
    TPMS_NV_PUBLIC,
    TPMT_PUBLIC,
    TPMT_SIG_SCHEME,
)

from shamon_host.attestation.credential import Credential
from shamon_host.attestation.ek import EkKind
from shamon_host.attestation.nv_counter import COUNTER_SIZE, NvCounter
from shamon_host.attestation.pcr import Bank, PcrSelection
from shamon_host.attestation.ports import QUOTED_PCRS, Quote
from shamon_host.attestation.quoting import SELECTION, no_bank, quote_with_values
from shamon_host.attestation.tpm_endorsement import Endorsement, has_index
from shamon_host.attestation.tpm_objects import ak_template
from shamon_host.attestation.tpm_public import TpmPublic
from shamon_host.attestation.tpm_sealing import seal, unseal
from shamon_host.attestation.tpm_structures import (
    encode_pcr_selection,
)
from shamon_host.domain.errors import BackendFailed, BadInput

_TCTI = re.compile(r"(device|swtpm)(:[\x21-\x7e]+)?")

T = TypeVar("T")


class DeviceTpm:
    """A TPM behind a TCTI: `device:/dev/tpmrm0`, `swtpm:host=127.0.0.1,port=2321`.

    Connects on first use, creates the AK then and keeps it loaded (hardware may take a second for that) until `close`;
    the next use connects again. A TCTI that is none is BadInput then. Not thread-safe. `counter`: another one than the
    program's, for tests.
    """

    def __init__(self, tcti: str, *, counter: NvCounter | None = None, ek: EkKind | None = None) -> None:
        """`ek`: which EK to use; None: the one that has a certificate, else ECC."""
        self._tcti = tcti
        self._endorsement = Endorsement(self._do, kind=ek)
        self._counter = counter or NvCounter()
        self._esapi: Any = None
        self._ak: Any = None
        self._ak_public = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def ak_public(self) -> bytes:
        """TPMT_PUBLIC of the AK. Raises BackendFailed."""
        self._open()
        return self._ak_public

    def ek_public(self) -> bytes:
        """TPMT_PUBLIC of the EK (see `Tpm.ek_public`). Raises BackendFailed."""
        return self._endorsement.public(self._open())

    def ek_certificate(self) -> bytes:
        """The EK's certificate as its NV index holds it; empty where there is none. Raises BackendFailed."""
        return self._endorsement.certificate(self._open())

    def activate_credential(self, credential: Credential) -> bytes:
        """The secret in a credential for this EK and AK. Raises BackendFailed."""
        return self._endorsement.activate(self._open(), self._ak, credential)

    def seal(self, secret: bytes) -> bytes:
        """See `Tpm.seal`. Raises BackendFailed."""
        esapi = self._open()
        return self._do("seal a secret", lambda: seal(esapi, secret))

    def unseal(self, blob: bytes) -> bytes:
        """See `Tpm.unseal`. Raises BackendFailed."""
        esapi = self._open()
        try:
            return self._do(
                "open what was sealed", lambda: unseal(esapi, blob), remedy="Was it sealed by this very TPM?"
            )
        except BadInput as error:
            raise BackendFailed("what was sealed is unreadable", where=self._tcti, found=str(error)) from error

    def manufacturer(self) -> str:
        """TPM_PT_MANUFACTURER as text, e.g. `IBM` (libtpms), `INTC`. Raises BackendFailed."""
        esapi = self._open()
        _, capability = self._do(
            "read its properties", lambda: esapi.get_capability(TPM2_CAP.TPM_PROPERTIES, TPM2_PT.MANUFACTURER, 1)
        )
        for found in capability.data.tpmProperties:
            if int(found.property) == int(TPM2_PT.MANUFACTURER):
                text = int(found.value).to_bytes(4, "big").rstrip(b"\0 ")
                return text.decode("ascii", "backslashreplace")
        raise BackendFailed("the TPM does not name its manufacturer", where=self._tcti)

    def quote(self, qualifying_data: bytes) -> Quote:
        """Quote PCR 0-14 of the SHA-256 bank over `qualifying_data` (32 bytes). Raises BackendFailed."""
        self._open()
        return quote_with_values(lambda: self._quote_once(qualifying_data), self._read_pcrs, where=self._tcti)

    def counter(self) -> int | None:
        """The counter's value; None before its first increment. Raises BackendFailed."""
        esapi = self._open()
        if not self._counter_is_defined(esapi):
            return None
        with self._counter_handle(esapi) as handle:
            return self._read_counter(esapi, handle) if self._has_counted(esapi, handle) else None

    def increment_counter(self) -> int:
        """Define the counter where there is none, add one, return the new value. Raises BackendFailed."""
        esapi = self._open()
        if not self._counter_is_defined(esapi):
            self._define_counter(esapi)
        with self._counter_handle(esapi) as handle:
            self._has_counted(esapi, handle)  # or refuse what is in its place
            self._do(
                "increment its counter",
                lambda: esapi.nv_increment(handle, auth_handle=ESYS_TR.OWNER),
                remedy="The owner hierarchy must be enabled, with empty authorization.",
            )
            return self._read_counter(esapi, handle)

    def close(self) -> None:
        """Flush the AK and give the TPM back. Does nothing when not open; never raises."""
        esapi, self._esapi = self._esapi, None
        ak, self._ak = self._ak, None
        if esapi is None:
            return
        with contextlib.suppress(TSS2_Exception):
            if ak is not None:
                esapi.flush_context(ak)
        with contextlib.suppress(TSS2_Exception):
            esapi.close()

    def _open(self) -> Any:
        if self._esapi is not None:
            return self._esapi
        if not _TCTI.fullmatch(self._tcti):
            raise BadInput(
                "this is no way to reach a TPM",
                where="--tcti, or tpm.tcti in host.toml",
                expected="device:/dev/tpmrm0, or swtpm:host=HOST,port=PORT",
                found=repr(self._tcti),
            )
        self._esapi = self._do(
            "open it", lambda: ESAPI(self._tcti), remedy="Is there such a TPM? As a rule only root may open it."
        )
        try:
            self._create_ak()
        except BackendFailed:
            self.close()
            raise
        return self._esapi

    def _create_ak(self) -> None:
        area, _ = TPMT_PUBLIC.unmarshal(ak_template())
        self._ak, public, *_ = self._do(
            "create the Attestation Key",
            lambda: self._esapi.create_primary(None, TPM2B_PUBLIC(publicArea=area), ESYS_TR.ENDORSEMENT),
            remedy="The endorsement hierarchy must be enabled, with empty authorization.",
        )
        self._ak_public = bytes(public.publicArea.marshal())
        try:
            TpmPublic.parse(self._ak_public).require_attestation_key()
        except BadInput as error:
            raise BackendFailed(f"the TPM made another key than asked for: {error}", where=self._tcti) from error

    def _quote_once(self, qualifying_data: bytes) -> tuple[bytes, bytes]:
        selection = _tpml(SELECTION)
        scheme = TPMT_SIG_SCHEME(scheme=TPM2_ALG.NULL)  # the key has its own
        attest, signature = self._do("quote", lambda: self._esapi.quote(self._ak, selection, qualifying_data, scheme))
        return bytes(attest.attestationData), bytes(signature.marshal())

    def _read_pcrs(self) -> dict[int, bytes]:
        """The quoted PCRs; a TPM gives at most 8 for one command, and says which."""
        values: dict[int, bytes] = {}
        while missing := [pcr for pcr in QUOTED_PCRS if pcr not in values]:
            selection = _tpml(PcrSelection.of({Bank.SHA256: missing}))
            _, selected, digests = self._do("read PCRs", partial(self._esapi.pcr_read, selection))
            given = _pcrs_of(selected)
            if not given or len(given) != len(digests):
                raise no_bank(f"no value for PCR {missing[0]}", where=self._tcti)
            values.update(zip(given, (bytes(digest) for digest in digests), strict=True))
        return values

    def _counter_is_defined(self, esapi: Any) -> bool:
        index = self._counter.index
        return self._do("list its NV indices", lambda: has_index(esapi, index))

    def _define_counter(self, esapi: Any) -> None:
        area, _ = TPMS_NV_PUBLIC.unmarshal(self._counter.public(written=False))
        handle = self._do(
            "define its counter",
            lambda: esapi.nv_define_space(b"", TPM2B_NV_PUBLIC(nvPublic=area), auth_handle=ESYS_TR.OWNER),
            remedy="The owner hierarchy must be enabled, with empty authorization, and NV memory must have room.",
        )
        esapi.tr_close(handle)

    @contextlib.contextmanager
    def _counter_handle(self, esapi: Any) -> Iterator[Any]:
        """The stack's handle of the counter's index. It is gone already when a command failed, with the connection."""
        handle = self._do("find its counter", lambda: esapi.tr_from_tpmpublic(self._counter.index))
        try:
            yield handle
        finally:
            if self._esapi is esapi:
                esapi.tr_close(handle)

    def _has_counted(self, esapi: Any, handle: Any) -> bool:
        public, _ = self._do("look at its counter", lambda: esapi.nv_read_public(handle))
        return self._counter.has_counted(bytes(public.nvPublic.marshal()))

    def _read_counter(self, esapi: Any, handle: Any) -> int:
        data = self._do("read its counter", lambda: esapi.nv_read(handle, COUNTER_SIZE))
        return self._counter.value(bytes(data))

    def _do(self, what: str, command: Callable[[], T], *, remedy: str = "") -> T:
        """Run one TPM command. The stack's exceptions become BackendFailed, and the next use connects anew."""
        try:
            return command()
        except (TSS2_Exception, OSError, ValueError, TypeError, IndexError) as error:
            self.close()
            raise BackendFailed(
                f"the TPM does not let this program {what}", where=self._tcti, found=str(error), remedy=remedy
            ) from error


def _tpml(selection: PcrSelection) -> Any:
    parsed, _ = TPML_PCR_SELECTION.unmarshal(encode_pcr_selection(selection))
    return parsed


def _pcrs_of(selected: Any) -> list[int]:
    """The PCR indices of a TPML_PCR_SELECTION with one bank, ascending as their values are."""
    return [
        8 * byte + bit
        for bank in selected
        for byte, bits in enumerate(bytes(bank.pcrSelect)[: int(bank.sizeofSelect)])
        for bit in range(8)
        if bits >> bit & 1
    ]
