"""The monotonic counter that a host's TPM keeps for this program: where it lies, and how it must have been defined.

Whoever puts an older state of the host back (a snapshot, a backup) cannot put the TPM's NV memory back with it: a
counter only grows, and one that is removed and defined again begins above what it had. An index at that place with any
other attribute could be turned back, so it is refused.

Knows no TPM library: the adapter and the TPM in memory share it, hence the bytes and the refusals are the same.

Source: TCG TPM 2.0 Library 1.59 Part 3, 31.2 (NV counters): a new one is initialized "with a number that is greater
than any count value for any NV counter on the TPM since the time of TPM manufacture" (version 185: than any that a
counter of the same Name has had); Part 2, 13.4 (TPMA_NV) and 13.5 (TPMS_NV_PUBLIC). All integers are big-endian.
"""

from dataclasses import dataclass
from enum import IntFlag

from shamon_host.attestation.pcr import Bank
from shamon_host.attestation.tpm_structures import sized_buffer
from shamon_host.domain.errors import BackendFailed

COUNTER_INDEX = 0x0193_5348
"""Of the owner's range, 0x01800000-0x01BFFFFF (TCG Registry of Reserved TPM 2.0 Handles and Localities 1.1, 2.2.2).

Nobody assigns numbers in it and no TPM enforces it; this one means nothing, and is far from where others begin."""
COUNTER_SIZE = 8
"""Bytes, which is what every NV counter has."""
_MAX_SHOWN = 80
"""No TPMS_NV_PUBLIC is longer: a policy digest has at most 64 bytes."""


class NvAttribute(IntFlag):
    """TPMA_NV, as far as the counter needs it; bits 4-7 are the kind of index (TPM_NT)."""

    OWNERWRITE = 1 << 1
    COUNTER = 1 << 4
    OWNERREAD = 1 << 17
    AUTHREAD = 1 << 18
    NO_DA = 1 << 25
    WRITTEN = 1 << 29


COUNTER_ATTRIBUTES = (
    NvAttribute.COUNTER | NvAttribute.OWNERWRITE | NvAttribute.OWNERREAD | NvAttribute.AUTHREAD | NvAttribute.NO_DA
)
"""The owner increments, everybody who reaches the TPM reads (the index has an empty authorization value).

NO_DA: what somebody else did wrong must not lock this host out of its own counter.

Not ORDERLY: such a counter lives in RAM, and after a shutdown that was not orderly the TPM "shall OR MAX_ORDERLY_COUNT
to the contents of the non-volatile counter" (Part 3, 31.2). That does not go back, but jumps ahead of every state that
was written down: each power failure would look like a rollback. And libtpms 0.9 forgets its value in TPM2_Clear."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NvCounter:
    """A counter of this program's kind at an NV index (tests have theirs at another one)."""

    index: int = COUNTER_INDEX

    def public(self, *, written: bool) -> bytes:
        """TPMS_NV_PUBLIC: as it is defined with, or (`written`) as it is from its first increment on."""
        attributes = COUNTER_ATTRIBUTES | NvAttribute.WRITTEN if written else COUNTER_ATTRIBUTES
        no_policy = sized_buffer(b"")
        return (
            self.index.to_bytes(4, "big")
            + Bank.SHA256.algorithm_id.to_bytes(2, "big")
            + int(attributes).to_bytes(4, "big")
            + no_policy
            + COUNTER_SIZE.to_bytes(2, "big")
        )

    def has_counted(self, public: bytes) -> bool:
        """Whether the counter has a value: it has none between its definition and its first increment.

        `public` is the TPMS_NV_PUBLIC found at its index. Raises BackendFailed where that is not such a counter.
        """
        if public == self.public(written=True):
            return True
        if public == self.public(written=False):
            return False
        raise BackendFailed(
            "what the TPM has in the place of this program's counter is not that counter",
            where=self._where,
            expected=f"TPMS_NV_PUBLIC {self.public(written=False).hex()}",
            found=public[:_MAX_SHOWN].hex() or "nothing",
            remedy=f"See whose it is (`tpm2_nvreadpublic 0x{self.index:08x}`). If nobody needs it, remove it "
            f"(`tpm2_nvundefine -C o 0x{self.index:08x}`); the counter is then made anew.",
        )

    def value(self, data: bytes) -> int:
        """The count in what TPM2_NV_Read gave. Raises BackendFailed."""
        if len(data) != COUNTER_SIZE:
            raise BackendFailed(
                "the TPM's counter is unreadable",
                where=self._where,
                expected=f"{COUNTER_SIZE} bytes",
                found=str(len(data)),
            )
        return int.from_bytes(data, "big")

    @property
    def _where(self) -> str:
        return f"NV index 0x{self.index:08x}"
