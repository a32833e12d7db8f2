"""The lease of a VM that is attested: from its start, through its answers, to its failure. Pure.

A start begins it, without a result: the VM's ports are down. An answer that passes makes the ports go up until the
lease ends. Bad Evidence ends it at once, and so does a boot of the VM that is no start of it, since what ran before
that is in no log any more; silence, and a log that does not lead to its quote, once the time is over that the VM has
for an answer. Times are CLOCK_BOOTTIME in seconds.
"""

from dataclasses import dataclass, replace
from enum import StrEnum

from shamon_host.domain.guest_demand import AfterFailure, GuestDemand

BOOTED = "it booted by itself: what it ran since it was asked before that, nobody can tell"


class Answer(StrEnum):
    """What asking a VM came to."""

    PASSES = "passes"
    FAILS = "fails"
    """Its Evidence shows that it is not as it should be."""
    NONE = "none"
    """Nothing that counts: silence, a refusal, a log behind its quote."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestLease:
    """Of one start of one VM."""

    mark: str
    """Tells this start from every other one."""
    boot_id: str
    """Of the host's boot that it belongs to: another one has another CLOCK_BOOTTIME."""
    since_s: float
    """When it began."""
    fresh: bool
    """The VM was started clean."""
    until_s: float | None = None
    """When its ports go down; None: they are."""
    passed: bool = False
    """It has passed since its start."""
    reference: str = ""
    """The digest of the Reference Values by which it passed last."""
    failed: str = ""
    """Why it counts for nothing any more."""
    reset_count: int | None = None
    """Of the VM's TPM when it first passed, which tells a boot of it from the next one; None: it has not passed."""

    def holds(self, *, now_s: float, boot_id: str) -> bool:
        """Whether the VM's ports may be up."""
        return self.boot_id == boot_id and not self.failed and self.until_s is not None and now_s < self.until_s

    def ended(self) -> "GuestLease":
        """The same without a result that counts."""
        return replace(self, until_s=None)

    def after(
        self,
        answer: Answer,
        demand: GuestDemand,
        *,
        asked_s: float,
        now_s: float,
        reason: str = "",
        reset_count: int | None = None,
    ) -> "GuestLease":
        """The same once the VM was asked. `asked_s`: before the question was sent; `reason`: why it does not pass;
        `reset_count`: of its TPM, where the answer is by its AK."""
        if self.failed:
            return self
        if self.reset_count is not None and reset_count not in (None, self.reset_count):
            return replace(self, until_s=None, failed=BOOTED)
        match answer:
            case Answer.PASSES:
                first = reset_count if self.reset_count is None else self.reset_count
                until_s, reference = asked_s + demand.lease_s, demand.sha256
                return replace(self, until_s=until_s, passed=True, reference=reference, reset_count=first)
            case Answer.FAILS:
                return replace(self, until_s=None, failed=reason or "it failed")
            case Answer.NONE:
                due_s = self.since_s + demand.lease_s if self.until_s is None else self.until_s
                return self if now_s < due_s else replace(self, until_s=None, failed=reason or "it does not answer")

    def replaces(self, demand: GuestDemand) -> bool:
        """Whether the VM is replaced, having failed. A clean one that never passed is not: the next one would fail,
        too, and its image or its Reference Values are wrong."""
        return bool(self.failed) and demand.on_failure is AfterFailure.REPLACE and (self.passed or not self.fresh)
