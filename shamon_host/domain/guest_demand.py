"""What the policy demands of VMs that are attested by their host, and when a result about one counts.

A VM has its own lease: it starts when the host begins to ask, and no port of the VM is in a bridge after it.
"""

from dataclasses import dataclass
from enum import StrEnum


class AfterFailure(StrEnum):
    """What becomes of a VM that fails, once it is in quarantine."""

    KEEP = "keep"
    """It stays there, until somebody starts or replaces it."""
    REPLACE = "replace"
    """It is replaced by a clean one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestDemand:
    """What a VM has to show that is made from one image. Times in seconds."""

    name: str
    sha256: str
    """Digest of its Reference Values (`attestation.guest_reference`), lower-case hexadecimal."""
    period_s: float = 30.0
    """How often its host asks."""
    lease_s: float = 90.0
    """How long a passing answer counts, and how long a VM may take for its first one."""
    on_failure: AfterFailure = AfterFailure.KEEP
