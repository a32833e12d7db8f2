"""What the Attester needs of a host: its TPM and its measurement logs.

Real: `tpm_device`, `linux_logs`. In memory: `shamon_host.testing.tpm`, `shamon_host.testing.machine`.
Contract suites: `shamon_host.testing.contracts.tpm`, `...contracts.logs`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # an agent in a VM quotes without it
    from shamon_host.attestation.credential import Credential

QUOTED_PCRS = tuple(range(15))
"""PCR 0-14: what a quote of this program always covers, in the SHA-256 bank."""

MAX_SEALED_BYTES = 128
"""What every TPM takes into one object (MAX_SYM_DATA)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote:
    """A quote with the PCR values that it was made over (they match its pcrDigest, the TPM port sees to it)."""

    attest: bytes
    """TPMS_ATTEST as signed."""
    signature: bytes
    """TPMT_SIGNATURE."""
    pcr_values: Mapping[int, bytes]
    """SHA-256 bank, PCR 0-14, 32 bytes each."""


class Quoting(Protocol):
    """A TPM's Attestation Key. Synchronous and not thread-safe; one quote takes 1-300 ms."""

    def ak_public(self) -> bytes:
        """TPMT_PUBLIC of the AK. The same over reboots. Raises BackendFailed."""
        ...

    def quote(self, qualifying_data: bytes) -> Quote:
        """Quote PCR 0-14 of the SHA-256 bank over `qualifying_data` (32 bytes). Raises BackendFailed."""
        ...


class Tpm(Quoting, Protocol):
    """The TPM of this host, with its Attestation Key."""

    def ek_public(self) -> bytes:
        """TPMT_PUBLIC of its Endorsement Key, of one of the templates of `ek`: the one that has a certificate, else
        the ECC one. Raises BackendFailed."""
        ...

    def ek_certificate(self) -> bytes:
        """The certificate of that key (DER, what fills the NV index behind it included); empty where there is none.
        Raises BackendFailed."""
        ...

    def activate_credential(self, credential: "Credential") -> bytes:
        """The secret in a credential for this EK and this AK. Raises BackendFailed, also for one that is not."""
        ...

    def seal(self, secret: bytes) -> bytes:
        """A blob from which this TPM, and no other, makes `secret` (1 to `MAX_SEALED_BYTES`) again, over reboots
        until its owner clears it (TPM2_Clear). Raises BackendFailed."""
        ...

    def unseal(self, blob: bytes) -> bytes:
        """The secret in a blob of `seal`. Raises BackendFailed, also for one of another TPM."""
        ...

    def manufacturer(self) -> str:
        """TPM_PT_MANUFACTURER as text, e.g. `IBM` (libtpms), `INTC`. Raises BackendFailed."""
        ...

    def counter(self) -> int | None:
        """The TPM's monotonic counter of this program (`nv_counter`), by which a state that was put back is told.

        None before the first increment, and after the TPM's owner removed the counter (TPM2_Clear does too): then the
        next value is above all before. It does not go back, neither over reboots nor power failures. The TPM does not
        sign it: for this host's own use only. Raises BackendFailed, also when something else is in the counter's place.
        """
        ...

    def increment_counter(self) -> int:
        """Add one, defining the counter first where there is none; return the new value.

        A write to the TPM's NV memory, which wears and which a TPM may slow down (TPM_RC_NV_RATE): for rare events.
        Raises BackendFailed: as `counter`, and it may have counted all the same.
        """
        ...


class MeasurementLogs(Protocol):
    """The kernel's logs of this host."""

    def event_log(self) -> bytes:
        """The firmware's TCG event log. Raises BackendFailed when there is none."""
        ...

    def ima_log(self, offset: int) -> bytes:
        """IMA's binary runtime log from byte `offset` (at an entry's boundary) to its end. Raises BackendFailed."""
        ...

    def measurement_count(self) -> int:
        """IMA's runtime measurement count, the cheap change detector. Raises BackendFailed."""
        ...
