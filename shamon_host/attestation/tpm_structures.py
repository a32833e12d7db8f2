"""TPM 2.0 wire structures of a quote: TPMS_ATTEST, TPMT_SIGNATURE, PCR selections; parsed and built.

The Verifier parses what a TPM signed without any TPM library; the fake TPM builds the same bytes, so both sides of the
in-memory world go through real structures. A key's public area is in `tpm_public`; `quote` decides what to believe.

Source: TCG TPM 2.0 Library Part 2: TPMS_ATTEST (10.12.12), TPMS_CLOCK_INFO (10.11.1), TPMS_QUOTE_INFO,
TPML_PCR_SELECTION (10.9.7), TPMT_SIGNATURE (11.3.4). All integers are big-endian.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Self

from shamon_host.attestation.byte_reader import ByteReader
from shamon_host.attestation.pcr import PCR_COUNT, Bank, PcrError, PcrSelection
from shamon_host.domain.errors import BadInput

__all__ = [
    "TPM_GENERATED_VALUE",
    "TPM_ST_ATTEST_QUOTE",
    "ClockInfo",
    "PcrSelection",
    "QuoteAttest",
    "SignatureAlgorithm",
    "TpmFormatError",
    "TpmSignature",
    "sized_buffer",
    "tpm_command",
    "tpm_response",
]

TPM_GENERATED_VALUE = 0xFF544347
"""First word of every structure a TPM signs with a restricted key: 0xFF 'TCG'."""
TPM_ST_ATTEST_QUOTE = 0x8018
TPM_ST_NO_SESSIONS, TPM_ST_SESSIONS = 0x8001, 0x8002

_HEADER_BYTES = 10
MAX_NAME_SIZE = 2 + 64
MAX_QUALIFYING_DATA = 64 + 2
MAX_KEY_BYTES = 512
_MAX_SELECT_BYTES = 4
_MIN_SELECT_BYTES = (PCR_COUNT + 7) // 8
_MAX_BANKS = 16
_SAFE_VALUES = (0, 1)


class TpmFormatError(BadInput):
    """Bytes that are not the TPM structure they are said to be."""


class SignatureAlgorithm(IntEnum):
    """TPMI_ALG_SIG_SCHEME values this program verifies (TPM_ALG_ID)."""

    RSASSA = 0x0014
    RSAPSS = 0x0016
    ECDSA = 0x0018


def sized_buffer(data: bytes) -> bytes:
    """A TPM2B: 16-bit length and the bytes."""
    return len(data).to_bytes(2, "big") + data


def tpm_command(code: int, body: bytes, *, tag: int = TPM_ST_NO_SESSIONS) -> bytes:
    """A command with its header (TCG TPM 2.0 Library Part 1, 18.1)."""
    size = _HEADER_BYTES + len(body)
    return tag.to_bytes(2, "big") + size.to_bytes(4, "big") + code.to_bytes(4, "big") + body


def tpm_response(response: bytes, *, tag: int = TPM_ST_NO_SESSIONS) -> tuple[int, ByteReader]:
    """The response code, and what follows the header of a response to a command with that tag: nothing that counts
    where the code is not 0. Raises `TpmFormatError`."""
    reader = ByteReader(response, order="big", error=TpmFormatError, where="TPM response")
    told = reader.u16("tag"), reader.u32("responseSize")
    code = reader.u32("responseCode")
    if not code and told != (tag, len(response)):
        raise TpmFormatError("the header is not that of a response", expected=f"{len(response)} bytes")
    return code, reader


def read_bank(reader: ByteReader, what: str) -> Bank:
    """A TPMI_ALG_HASH as a bank. Raises `TpmFormatError` for an algorithm that this program does not know."""
    algorithm_id = reader.u16(what)
    bank = Bank.of_algorithm_id(algorithm_id)
    if bank is None:
        raise TpmFormatError(f"{what}: unknown hash algorithm", found=f"0x{algorithm_id:04x}")
    return bank


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockInfo:
    """TPMS_CLOCK_INFO: ms since the TPM was made, and how often it was reset (boots) and restarted (resumes).

    A TPM adds a number of its own to both counts (modulo 2**32) unless the signing key is in the endorsement or
    platform hierarchy, always the same for one key (reference code, `FillInAttestInfo`). So under one AK equal counts
    mean one boot, but they compare with nothing else, and an order need not hold.
    """

    clock_ms: int
    reset_count: int
    restart_count: int
    safe: bool

    def encode(self) -> bytes:
        return (
            self.clock_ms.to_bytes(8, "big")
            + self.reset_count.to_bytes(4, "big")
            + self.restart_count.to_bytes(4, "big")
            + bytes([self.safe])
        )

    @classmethod
    def read(cls, reader: ByteReader) -> Self:
        clock_ms = reader.u64("clock")
        reset_count = reader.u32("resetCount")
        restart_count = reader.u32("restartCount")
        safe = reader.u8("safe")
        if safe not in _SAFE_VALUES:
            raise TpmFormatError("clockInfo.safe is not a TPMI_YES_NO", found=str(safe))
        return cls(clock_ms=clock_ms, reset_count=reset_count, restart_count=restart_count, safe=bool(safe))


def encode_pcr_selection(selection: PcrSelection) -> bytes:
    """TPML_PCR_SELECTION with 3 select bytes for each bank, as a PC client TPM writes it."""
    out = bytearray(len(selection.banks).to_bytes(4, "big"))
    for bank, pcrs in selection.banks:
        bits = sum(1 << pcr for pcr in pcrs)
        out += bank.algorithm_id.to_bytes(2, "big")
        out += bytes([_MIN_SELECT_BYTES]) + bits.to_bytes(_MIN_SELECT_BYTES, "little")
    return bytes(out)


def read_pcr_selection(reader: ByteReader) -> PcrSelection:
    """TPML_PCR_SELECTION, the order of its banks kept. Raises `TpmFormatError`."""
    count = reader.u32("number of PCR selections")
    if count > _MAX_BANKS:
        raise TpmFormatError("too many PCR selections", expected=f"at most {_MAX_BANKS}", found=str(count))
    banks: list[tuple[Bank, tuple[int, ...]]] = []
    for _ in range(count):
        bank = read_bank(reader, "bank of a PCR selection")
        select = reader.sized(1, "pcrSelect", limit=_MAX_SELECT_BYTES)
        bits = int.from_bytes(select, "little")
        banks.append((bank, tuple(pcr for pcr in range(bits.bit_length()) if bits >> pcr & 1)))
    try:
        return PcrSelection(tuple(banks))
    except PcrError as error:
        raise TpmFormatError(f"PCR selection: {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class QuoteAttest:
    """TPMS_ATTEST of type TPM_ST_ATTEST_QUOTE."""

    qualified_signer: bytes
    """TPM2B_NAME: Qualified Name of the signing key."""
    extra_data: bytes
    """qualifyingData of the TPM2_Quote command."""
    clock_info: ClockInfo
    firmware_version: int
    selection: PcrSelection
    pcr_digest: bytes
    magic: int = TPM_GENERATED_VALUE
    attest_type: int = TPM_ST_ATTEST_QUOTE

    def encode(self) -> bytes:
        """The bytes a TPM would sign."""
        return (
            self.magic.to_bytes(4, "big")
            + self.attest_type.to_bytes(2, "big")
            + sized_buffer(self.qualified_signer)
            + sized_buffer(self.extra_data)
            + self.clock_info.encode()
            + self.firmware_version.to_bytes(8, "big")
            + encode_pcr_selection(self.selection)
            + sized_buffer(self.pcr_digest)
        )

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Raises `TpmFormatError` where `data` is not exactly one TPMS_ATTEST made by a TPM for a quote."""
        attest = cls.read_any(data)
        attest.require_quote()
        return attest

    def require_quote(self) -> None:
        """Raises `TpmFormatError` where no TPM has made this for a TPM2_Quote."""
        if self.magic != TPM_GENERATED_VALUE:
            raise TpmFormatError(
                "bad magic: not made by a TPM",
                where="TPMS_ATTEST",
                expected=f"0x{TPM_GENERATED_VALUE:08x}",
                found=f"0x{self.magic:08x}",
            )
        if self.attest_type != TPM_ST_ATTEST_QUOTE:
            raise TpmFormatError(
                "bad type: not a quote",
                where="TPMS_ATTEST",
                expected=f"0x{TPM_ST_ATTEST_QUOTE:04x}",
                found=f"0x{self.attest_type:04x}",
            )

    @classmethod
    def read_any(cls, data: bytes) -> Self:
        """What has the form of a quote, whoever made it: `require_quote` is still to be asked. Raises
        `TpmFormatError`."""
        reader = ByteReader(data, order="big", error=TpmFormatError, where="TPMS_ATTEST")
        magic = reader.u32("magic")
        attest_type = reader.u16("type")
        qualified_signer = reader.sized(2, "qualifiedSigner", limit=MAX_NAME_SIZE)
        extra_data = reader.sized(2, "extraData", limit=MAX_QUALIFYING_DATA)
        clock_info = ClockInfo.read(reader)
        firmware_version = reader.u64("firmwareVersion")
        selection = read_pcr_selection(reader)
        pcr_digest = reader.sized(2, "pcrDigest", limit=64)
        reader.end()
        return cls(
            qualified_signer=qualified_signer,
            extra_data=extra_data,
            clock_info=clock_info,
            firmware_version=firmware_version,
            selection=selection,
            pcr_digest=pcr_digest,
            magic=magic,
            attest_type=attest_type,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TpmSignature:
    """TPMT_SIGNATURE. `parts` is one byte string for RSA, r and s (big-endian) for ECDSA."""

    algorithm: SignatureAlgorithm
    hash_bank: Bank
    parts: tuple[bytes, ...]

    @classmethod
    def rsa(cls, algorithm: SignatureAlgorithm, hash_bank: Bank, signature: bytes) -> Self:
        return cls(algorithm=algorithm, hash_bank=hash_bank, parts=(signature,))

    @classmethod
    def ecdsa(cls, hash_bank: Bank, r: int, s: int, *, coordinate_size: int = 32) -> Self:
        """`coordinate_size` is the curve's, in bytes: TPMs pad r and s to it."""
        parts = (r.to_bytes(coordinate_size, "big"), s.to_bytes(coordinate_size, "big"))
        return cls(algorithm=SignatureAlgorithm.ECDSA, hash_bank=hash_bank, parts=parts)

    def encode(self) -> bytes:
        return (
            self.algorithm.to_bytes(2, "big")
            + self.hash_bank.algorithm_id.to_bytes(2, "big")
            + b"".join(sized_buffer(part) for part in self.parts)
        )

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Raises `TpmFormatError` where `data` is not exactly one RSASSA, RSAPSS or ECDSA TPMT_SIGNATURE."""
        reader = ByteReader(data, order="big", error=TpmFormatError, where="TPMT_SIGNATURE")
        algorithm_id = reader.u16("sigAlg")
        try:
            algorithm = SignatureAlgorithm(algorithm_id)
        except ValueError:
            raise TpmFormatError(
                "unknown signature algorithm", expected="RSASSA, RSAPSS or ECDSA", found=f"0x{algorithm_id:04x}"
            ) from None
        hash_bank = read_bank(reader, "hash of the signature")
        count = 2 if algorithm is SignatureAlgorithm.ECDSA else 1
        parts = tuple(reader.sized(2, "signature", limit=MAX_KEY_BYTES) for _ in range(count))
        reader.end()
        return cls(algorithm=algorithm, hash_bank=hash_bank, parts=parts)
