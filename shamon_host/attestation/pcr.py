"""PCR banks and what a TPM does with them: extend, composite digest, selections.

Everything that is replayed or compared in attestation (event log, IMA log, quote) ends in these few functions. They are
the TPM's arithmetic in software, so that a Verifier needs no TPM, and the fake TPM uses the same.

Source: TCG PC Client Platform TPM Profile, PCR attributes (initial values); TPM 2.0 Library Part 1, 17 (PCR
operations), Part 3, 18.4 (the digest in TPM2_Quote is over the selected PCRs in the order of the selection, ascending
within a bank).
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from shamon_host.domain.errors import BadInput

PCR_COUNT = 24
"""PCRs 0-23 exist on a PC client platform."""

_DRTM_PCRS = range(17, 23)
"""PCRs that hold all ones until a dynamic launch (PC Client TPM Profile)."""


class PcrError(BadInput):
    """A PCR index, value or digest that no TPM could hold."""


class Bank(StrEnum):
    """A PCR bank, named by its hash algorithm as tpm2-tools and the kernel name it."""

    SHA1 = "sha1"
    SHA256 = "sha256"
    SHA384 = "sha384"
    SHA512 = "sha512"

    @property
    def digest_size(self) -> int:
        """Bytes in one digest, hence in one PCR of the bank."""
        return _DIGEST_SIZES[self]

    @property
    def algorithm_id(self) -> int:
        """TPM_ALG_ID of the bank's hash (TPM 2.0 Library Part 2, table 9)."""
        return _ALGORITHM_IDS[self]

    @classmethod
    def of_algorithm_id(cls, algorithm_id: int) -> "Bank | None":
        """The bank of a TPM_ALG_ID, or None where this program has no such bank."""
        return _BANKS_BY_ID.get(algorithm_id)

    def digest(self, data: bytes) -> bytes:
        """The bank's hash of `data`."""
        return hashlib.new(self.value, data).digest()


_DIGEST_SIZES = {Bank.SHA1: 20, Bank.SHA256: 32, Bank.SHA384: 48, Bank.SHA512: 64}
_ALGORITHM_IDS = {Bank.SHA1: 0x0004, Bank.SHA256: 0x000B, Bank.SHA384: 0x000C, Bank.SHA512: 0x000D}
_BANKS_BY_ID = {algorithm_id: bank for bank, algorithm_id in _ALGORITHM_IDS.items()}


PcrValues = Mapping[Bank, Mapping[int, bytes]]
"""Values by bank and PCR index."""


def initial_value(bank: Bank, pcr: int, *, startup_locality: int = 0) -> bytes:
    """The value of a PCR after TPM2_Startup(CLEAR), before any event.

    `startup_locality` is 3 or 4 where the platform started its TPM from there; it shows in the last byte of PCR 0.
    """
    require_pcr(pcr)
    if pcr in _DRTM_PCRS:
        return b"\xff" * bank.digest_size
    if pcr == 0:
        return startup_locality.to_bytes(bank.digest_size, "big")
    return bytes(bank.digest_size)


def extend(bank: Bank, value: bytes, digest: bytes) -> bytes:
    """The PCR's new value: H(value ‖ digest). Raises `PcrError` if a length is not the bank's."""
    if len(value) != bank.digest_size or len(digest) != bank.digest_size:
        raise PcrError(
            f"a value or digest is not of the {bank} bank",
            expected=f"{bank.digest_size} bytes",
            found=f"value {len(value)}, digest {len(digest)} bytes",
        )
    return bank.digest(value + digest)


def replay(bank: Bank, digests: Iterable[bytes], start: bytes) -> bytes:
    """The value after extending `start` with each digest in turn."""
    value = start
    for digest in digests:
        value = extend(bank, value, digest)
    return value


def require_pcr(pcr: int) -> int:
    """The index itself. Raises `PcrError` if there is no such PCR."""
    if not 0 <= pcr < PCR_COUNT:
        raise PcrError("no such PCR", expected=f"0-{PCR_COUNT - 1}", found=str(pcr))
    return pcr


@dataclass(frozen=True, slots=True)
class PcrSelection:
    """Which PCRs of which banks, in the order in which a quote covers them.

    `banks` pairs each bank with its PCR indices, ascending and without duplicates; a bank stands there once.
    """

    banks: tuple[tuple[Bank, tuple[int, ...]], ...]

    def __post_init__(self) -> None:
        names = [bank for bank, _ in self.banks]
        if len(set(names)) != len(names):
            raise PcrError("a bank is selected twice", found=", ".join(names))
        for _, pcrs in self.banks:
            for pcr in pcrs:
                require_pcr(pcr)
            if list(pcrs) != sorted(set(pcrs)):
                raise PcrError("PCRs of a selection are not ascending", found=str(pcrs))

    @classmethod
    def of(cls, selected: Mapping[Bank, Iterable[int]]) -> Self:
        """`PcrSelection.of({Bank.SHA256: range(15)})`: indices in any order, the banks in the mapping's order."""
        return cls(tuple((Bank(bank), tuple(sorted(set(pcrs)))) for bank, pcrs in selected.items()))

    def as_mapping(self) -> dict[Bank, tuple[int, ...]]:
        """Bank → PCR indices, without the order of the banks."""
        return dict(self.banks)

    def __iter__(self) -> Iterator[tuple[Bank, int]]:
        return ((bank, pcr) for bank, pcrs in self.banks for pcr in pcrs)

    def __str__(self) -> str:
        """tpm2-tools' form: `sha256:0,1,2`."""
        return "+".join(f"{bank}:{','.join(map(str, pcrs))}" for bank, pcrs in self.banks) or "none"


def composite_digest(hash_bank: Bank, selection: PcrSelection, values: PcrValues) -> bytes:
    """What TPM2_Quote puts into pcrDigest: `hash_bank`'s hash over the selected values, concatenated.

    `hash_bank` is the hash of the signing scheme, not of the PCR bank. Raises `PcrError` naming a PCR that has no value
    or one of the wrong length.
    """
    concatenated = bytearray()
    for bank, pcr in selection:
        value = values.get(bank, {}).get(pcr)
        if value is None:
            raise PcrError("a selected PCR has no value", where=f"PCR {pcr}, bank {bank}")
        if len(value) != bank.digest_size:
            raise PcrError(
                "a PCR value has the wrong length",
                where=f"PCR {pcr}, bank {bank}",
                expected=f"{bank.digest_size} bytes",
                found=str(len(value)),
            )
        concatenated += value
    return hash_bank.digest(bytes(concatenated))
