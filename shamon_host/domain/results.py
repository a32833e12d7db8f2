"""Attestation Results: what a Verifier says of one host (RFC 9334, section 8.4)."""

from dataclasses import dataclass
from enum import StrEnum

from shamon_host.domain.labels import HostName


class ClaimName(StrEnum):
    """The claims; every one of them is demanded, and an absent one is a failure."""

    BINDING = "binding"
    """The quote is fresh, signed by the enrolled AK, and made for this handshake."""
    BOOT_CHAIN = "boot-chain"
    IMA_POLICY = "ima-policy"
    """The IMA policy's own entry, init, the loader and libc are in the log, as they should be."""
    SELINUX = "selinux"
    """Enforcing ever since boot, with the expected policy in the kernel."""
    SOFTWARE = "software"
    SHAMON_CODE = "shamon-code"
    RUNNING_LABELS = "running-labels"
    NETWORK_STATE = "network-state"
    TPM_KIND = "tpm-kind"


class ClaimStatus(StrEnum):
    PASS = "pass"
    FAIL = "fail"
    ABSENT = "absent"


class TpmKind(StrEnum):
    HARDWARE = "hardware"
    SOFTWARE = "software"


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One claim. `where` names the PCR and event, the log entry or the object; `reason` is a sentence for people."""

    name: ClaimName
    status: ClaimStatus
    reason: str
    where: str = ""
    expected: str = ""
    found: str = ""
    sticky: bool = False
    """True: only a new boot (another resetCount) or changed Reference Values clear it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttestationResult:
    """All claims about one host from one piece of Evidence."""

    host: HostName
    ak_name: bytes
    """TPM Name of the AK that signed (TPM 2.0 Part 1, section 16)."""
    reset_count: int
    tpm: TpmKind
    claims: tuple[Claim, ...]

    @property
    def trusted(self) -> bool:
        """True iff every claim is there, once, and passes."""
        return sorted(claim.name for claim in self.claims) == sorted(ClaimName) and all(
            claim.status is ClaimStatus.PASS for claim in self.claims
        )

    @property
    def failures(self) -> tuple[Claim, ...]:
        """The claims that do not pass; a claim that is not there at all counts as absent."""
        named = {claim.name for claim in self.claims}
        missing = tuple(
            Claim(name=name, status=ClaimStatus.ABSENT, reason=f"the claim {name} was not made")
            for name in ClaimName
            if name not in named
        )
        return tuple(claim for claim in self.claims if claim.status is not ClaimStatus.PASS) + missing
