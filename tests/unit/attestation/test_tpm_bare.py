"""Quotes without the software stack: over a chip that answers in the bytes of the TPM library, or in others."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shamon_host.attestation.byte_reader import ByteReader
from shamon_host.attestation.pcr import Bank, PcrSelection
from shamon_host.attestation.quote import verify_quote
from shamon_host.attestation.quoting import SELECTION
from shamon_host.attestation.tpm_bare import BareTpm, open_bare_tpm
from shamon_host.attestation.tpm_objects import TPM_RH_ENDORSEMENT, ak_template
from shamon_host.attestation.tpm_public import TpmPublic
from shamon_host.attestation.tpm_structures import (
    TpmFormatError,
    encode_pcr_selection,
    read_pcr_selection,
    sized_buffer,
)
from shamon_host.domain.errors import BackendFailed
from shamon_host.testing.tpm import MemoryTpm

NONCE = bytes(range(32))
HANDLE = 0x80FFFFFF
_PASSWORD = bytes.fromhex("00000009 40000009 0000 00 0000")
_ACKNOWLEDGED = bytes.fromhex("0000 01 0000")
"""The session's part of a response."""


class Chip:
    """A TPM in memory behind the bytes of its commands."""

    def __init__(self) -> None:
        self.tpm = MemoryTpm()
        self.asked: list[int] = []
        self.change: Callable[[int, bytes], bytes] = lambda _code, response: response
        self.between: Callable[[], None] = lambda: None

    def exchange(self, command: bytes) -> bytes:
        reader = ByteReader(command, order="big", error=TpmFormatError, where="command")
        tag, size, code = reader.u16("tag"), reader.u32("size"), reader.u32("code")
        assert size == len(command)
        self.asked.append(code)
        body = {0x131: self._create, 0x158: self._quote, 0x17E: self._read}[code](reader)
        reader.end()
        return self.change(code, tag.to_bytes(2, "big") + (10 + len(body)).to_bytes(4, "big") + bytes(4) + body)

    def _create(self, reader: ByteReader) -> bytes:
        assert reader.u32("hierarchy") == TPM_RH_ENDORSEMENT
        assert reader.take(len(_PASSWORD), "session") == _PASSWORD
        assert reader.sized(2, "inSensitive", limit=4) == bytes(4)
        assert reader.sized(2, "inPublic", limit=200) == ak_template()
        assert reader.sized(2, "outsideInfo", limit=0) == b""
        assert reader.u32("creationPCR") == 0
        parameters = sized_buffer(self.tpm.ak_public()) + sized_buffer(b"creation data") + sized_buffer(bytes(32))
        return HANDLE.to_bytes(4, "big") + len(parameters).to_bytes(4, "big") + parameters + _ACKNOWLEDGED

    def _quote(self, reader: ByteReader) -> bytes:
        assert reader.u32("key") == HANDLE
        assert reader.take(len(_PASSWORD), "session") == _PASSWORD
        quote = self.tpm.quote(reader.sized(2, "qualifyingData", limit=32))
        assert reader.u16("scheme") == 0x10
        assert read_pcr_selection(reader) == SELECTION
        self.between()
        parameters = sized_buffer(quote.attest) + quote.signature
        return len(parameters).to_bytes(4, "big") + parameters + _ACKNOWLEDGED

    def _read(self, reader: ByteReader) -> bytes:
        ((_, wanted),) = read_pcr_selection(reader).banks
        given = wanted[:8]
        values = b"".join(sized_buffer(self.tpm.pcrs[pcr]) for pcr in given)
        selected = encode_pcr_selection(PcrSelection.of({Bank.SHA256: given}))
        return (7).to_bytes(4, "big") + selected + len(given).to_bytes(4, "big") + values


def test_a_quote_by_the_key_that_it_shows() -> None:
    chip = Chip()
    chip.tpm.extend(10, bytes(32))
    tpm = BareTpm(chip.exchange)
    TpmPublic.parse(tpm.ak_public()).require_attestation_key()
    quote = tpm.quote(NONCE)
    verified = verify_quote(
        quote.attest, quote.signature, tpm.ak_public(), NONCE, SELECTION, {Bank.SHA256: quote.pcr_values}
    )
    assert verified.pcrs[Bank.SHA256] == {pcr: chip.tpm.pcrs[pcr] for pcr in range(15)}
    assert chip.asked == [0x131, 0x158, 0x17E, 0x17E], "the key is made once, and 15 PCRs are read by 8"


def test_a_program_that_starts_between_quote_and_reading() -> None:
    chip, times = Chip(), iter(range(3))

    def extend() -> None:
        if next(times, None) is not None:
            chip.tpm.extend(10, bytes(32))

    chip.between = extend
    quote = BareTpm(chip.exchange).quote(NONCE)
    assert quote.pcr_values[10] == chip.tpm.pcrs[10]
    assert chip.asked.count(0x158) == 4


def test_a_command_that_is_refused_is_told_and_the_next_one_begins_anew() -> None:
    chip = Chip()
    tpm = BareTpm(chip.exchange, where="/dev/tpmrm0")
    tpm.ak_public()
    chip.change = lambda _code, _response: bytes.fromhex("8001 0000000a 00000910")
    with pytest.raises(BackendFailed, match="refuses a command") as raised:
        tpm.quote(NONCE)
    assert (raised.value.where, raised.value.found) == ("/dev/tpmrm0, 0x158", "0x910")
    chip.change = lambda _code, response: response
    assert tpm.quote(NONCE).pcr_values
    assert chip.asked.count(0x131) == 2


def test_a_device_that_fails_or_is_not_there() -> None:
    def broken(_command: bytes) -> bytes:
        raise OSError(5, "Input/output error")

    with pytest.raises(BackendFailed, match="does not answer"):
        BareTpm(broken).quote(NONCE)
    with pytest.raises(BackendFailed, match="cannot open the TPM"), open_bare_tpm(Path("/nonexistent/tpmrm0")):
        pytest.fail("there is no such TPM")


@pytest.mark.parametrize("code", [0x131, 0x158, 0x17E])
@given(data=st.data())
def test_whatever_a_chip_answers_ends_in_a_quote_or_an_error(code: int, data: st.DataObject) -> None:
    chip = Chip()

    def change(asked: int, response: bytes) -> bytes:
        if asked != code:
            return response
        at = data.draw(st.integers(0, len(response)))
        return data.draw(
            st.sampled_from([response[:at], response[:at] + bytes([255]) + response[at + 1 :], response + bytes(at)])
        )

    chip.change = change
    with suppress(BackendFailed):
        BareTpm(chip.exchange).quote(NONCE)
