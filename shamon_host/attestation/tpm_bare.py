"""Quotes of a TPM without the TPM2 software stack: three commands, written and read as the bytes that they are.

For the MAC VM, whose image has no room for that stack and what it is linked with, and where nothing else is asked of a
TPM. The AK is the one that `tpm_device` makes. Between commands the kernel's resource manager (`/dev/tpmrm0`) keeps it.

Source: TCG TPM 2.0 Library Part 1, 18 (command and response structure), 19.4 (password authorizations); Part 3, 18.4
(TPM2_Quote), 22.4 (TPM2_PCR_Read), 24.1 (TPM2_CreatePrimary).
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from shamon_host.attestation.byte_reader import ByteReader
from shamon_host.attestation.pcr import Bank, PcrSelection
from shamon_host.attestation.ports import QUOTED_PCRS, Quote
from shamon_host.attestation.quoting import SELECTION, no_bank, quote_with_values
from shamon_host.attestation.tpm_objects import TPM_ALG_NULL, TPM_RH_ENDORSEMENT, ak_template
from shamon_host.attestation.tpm_structures import (
    TPM_ST_NO_SESSIONS,
    TPM_ST_SESSIONS,
    TpmFormatError,
    encode_pcr_selection,
    read_pcr_selection,
    sized_buffer,
    tpm_command,
    tpm_response,
)
from shamon_host.domain.errors import BackendFailed

DEVICE = Path("/dev/tpmrm0")
MAX_RESPONSE = 4096
_CREATE_PRIMARY, _QUOTE, _PCR_READ = 0x131, 0x158, 0x17E
_NO_PASSWORD = bytes.fromhex("40000009 0000 00 0000")
"""TPM_RS_PW with an empty password: handle, nonce, attributes, password."""
_DIGEST_BYTES = 32

Exchange = Callable[[bytes], bytes]
"""One command to its response. Raises OSError."""


class BareTpm:
    """`attestation.ports.Quoting`. Makes the AK on first use, and keeps its handle. Not thread-safe."""

    def __init__(self, exchange: Exchange, *, where: str = str(DEVICE)) -> None:
        self._exchange, self._where = exchange, where
        self._ak: tuple[int, bytes] | None = None

    def ak_public(self) -> bytes:
        """TPMT_PUBLIC of the AK. Raises BackendFailed."""
        return self._created()[1]

    def quote(self, qualifying_data: bytes) -> Quote:
        """Quote PCR 0-14 of the SHA-256 bank over `qualifying_data` (32 bytes). Raises BackendFailed."""
        handle, _ = self._created()
        return quote_with_values(lambda: self._quote(handle, qualifying_data), self._read_pcrs, where=self._where)

    def _created(self) -> tuple[int, bytes]:
        if self._ak is None:
            secret, no_pcrs = sized_buffer(sized_buffer(b"") + sized_buffer(b"")), bytes(4)
            parameters = secret + sized_buffer(ak_template()) + sized_buffer(b"") + no_pcrs
            with self._reading():
                reader = self._command(_CREATE_PRIMARY, TPM_RH_ENDORSEMENT, parameters)
                handle = reader.u32("objectHandle")
                reader.u32("parameterSize")
                self._ak = handle, reader.sized(2, "outPublic", limit=MAX_RESPONSE)
        return self._ak

    def _quote(self, handle: int, qualifying_data: bytes) -> tuple[bytes, bytes]:
        parameters = sized_buffer(qualifying_data) + TPM_ALG_NULL.to_bytes(2, "big") + encode_pcr_selection(SELECTION)
        with self._reading():
            reader = self._command(_QUOTE, handle, parameters)
            told = ByteReader(
                reader.sized(4, "parameters", limit=MAX_RESPONSE), order="big", error=TpmFormatError, where="TPM2_Quote"
            )
            return told.sized(2, "quoted", limit=MAX_RESPONSE), told.rest()

    def _read_pcrs(self) -> dict[int, bytes]:
        """A TPM gives at most 8 for one command, and says which."""
        values: dict[int, bytes] = {}
        while missing := [pcr for pcr in QUOTED_PCRS if pcr not in values]:
            given = self._some_pcrs(missing)
            if not given or not set(given) <= set(missing):
                raise no_bank(f"no value for PCR {missing[0]}", where=self._where)
            values.update(given)
        return values

    def _some_pcrs(self, wanted: list[int]) -> dict[int, bytes]:
        with self._reading():
            reader = self._command(_PCR_READ, None, encode_pcr_selection(PcrSelection.of({Bank.SHA256: wanted})))
            reader.u32("pcrUpdateCounter")
            selected = [pcr for bank, pcrs in read_pcr_selection(reader).banks if bank is Bank.SHA256 for pcr in pcrs]
            count = reader.u32("number of digests")
            if count != len(selected):
                raise TpmFormatError("as many digests as PCRs", expected=str(len(selected)), found=str(count))
            return {pcr: reader.sized(2, "digest", limit=_DIGEST_BYTES) for pcr in selected}

    def _command(self, code: int, handle: int | None, parameters: bytes) -> ByteReader:
        """What follows the header of the response. Raises BackendFailed, TpmFormatError."""
        tag, body = TPM_ST_NO_SESSIONS, parameters
        if handle is not None:
            tag = TPM_ST_SESSIONS
            body = handle.to_bytes(4, "big") + len(_NO_PASSWORD).to_bytes(4, "big") + _NO_PASSWORD + parameters
        try:
            response = self._exchange(tpm_command(code, body, tag=tag))
        except OSError as error:
            found = error.strerror or type(error).__name__
            raise BackendFailed("the TPM does not answer", where=self._where, found=found) from error
        refusal, reader = tpm_response(response, tag=tag)
        if refusal:
            self._ak = None  # what this handle was of may be gone
            raise BackendFailed("the TPM refuses a command", where=f"{self._where}, {code:#x}", found=f"{refusal:#x}")
        return reader

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except TpmFormatError as error:
            raise BackendFailed(f"the TPM's response is unreadable: {error}", where=self._where) from error


@contextmanager
def open_bare_tpm(device: Path = DEVICE) -> Iterator[BareTpm]:
    """The TPM behind a device of the kernel's. Raises BackendFailed where it cannot be opened."""
    try:
        file = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise BackendFailed("cannot open the TPM", where=str(device), found=error.strerror or "") from error

    def exchange(command: bytes) -> bytes:
        os.write(file, command)
        return os.read(file, MAX_RESPONSE)

    try:
        yield BareTpm(exchange, where=str(device))
    finally:
        os.close(file)
