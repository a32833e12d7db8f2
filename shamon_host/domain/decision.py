"""What the reference monitor answers: a decision on one check, with rule and reason, ready for the audit log."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from shamon_host.domain.errors import Refused


class Check(StrEnum):
    """The 13 checks. The first eight set up, the last five apply to normal operation."""

    POLICY_INSTALL = "policy.install"
    POLICY_UPDATE = "policy.update"
    HOST_ENROL = "host.enrol"
    HOST_ADMIT = "host.admit"
    REFERENCE_UPDATE = "reference.update"
    LABELMAP_INSTALL = "labelmap.install"
    LABEL_VM = "label.vm"
    LABEL_RESOURCE = "label.resource"
    VM_START = "vm.start"
    """Also resume, and release from quarantine."""
    VM_ATTACH = "vm.attach"
    VM_MIGRATE = "vm.migrate"
    LINK_OPEN = "link.open"
    LINK_ACCEPT = "link.accept"


class Rule(StrEnum):
    """What decided: the rule that denied, or, when all held, `all`."""

    ALL = "all"
    KNOWN = "known"
    """Everything named is in the policy."""
    WELL_FORMED = "well-formed"
    LINEAGE = "lineage"
    """Same coalition, and the next version of what is in force."""
    ASSIGNMENT = "assignment"
    """A VM runs on the host that the policy gives it to."""
    MANAGEMENT_LABEL = "management-label"
    """A host carries only types of its own management label."""
    CHINESE_WALL = "chinese-wall"
    STE = "ste"
    LABEL = "label"
    """What was read back is what the label map gives."""
    IDENTITY = "identity"
    """A host is who it is enrolled as, and its keys are no other's."""
    EXPELLED = "expelled"
    ATTESTATION = "attestation"
    TPM_KIND = "tpm-kind"
    EXPIRED = "expired"
    """The policy's time is over."""
    SIGNATURE = "signature"
    """Whoever must sign has signed."""
    ROLLBACK = "rollback"
    """No older version than one that was seen before."""
    RUNNING = "running"
    """What runs is permitted by the new version too."""
    COMPATIBLE = "compatible"
    """Both hosts' policies permit every flow that comes of sharing a type."""
    ADMISSION = "admission"
    LEASE = "lease"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """One answer. `subject` asks, `object` is what it asks for; `reason` is a sentence for people."""

    check: Check
    permitted: bool
    rule: Rule
    reason: str
    subject: str
    object: str
    key: str = ""
    """Path of the key of the policy that denies, where there is one."""

    def enforce(self) -> Self:
        """Return the decision if it permits; raise Refused, with rule and reason, if it denies."""
        if not self.permitted:
            raise Refused(f"{self.check} denied by the rule {self.rule}: {self.reason}", where=self.subject)
        return self

    def as_detail(self) -> dict[str, str | bool]:
        """The detail of its record in the audit log."""
        return {
            "permitted": self.permitted,
            "rule": self.rule.value,
            "reason": self.reason,
            "subject": self.subject,
            "object": self.object,
        }
