"""What the Verifier remembers of one AK between two pieces of Evidence.

`appraisal` takes the state of the last appraisal and returns the next one; the daemon stores it as a JSON object. It
makes three things possible: the IMA log travels as increments from an offset that the Verifier vouches for; a failure
that IMA logs only once counts until the host boots again (another resetCount) or its Reference Values change; and when
they do, what was vouched for is judged anew from the `ledger`, without asking for the log again.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from shamon_host.attestation.ledger import Ledger
from shamon_host.attestation.tpm_structures import ClockInfo
from shamon_host.domain.errors import BadInput
from shamon_host.domain.results import Claim, ClaimName, ClaimStatus

_DIGEST_BYTES = 32
_STICKY_CLAIMS = (ClaimName.IMA_POLICY, ClaimName.SELINUX, ClaimName.SOFTWARE, ClaimName.SHAMON_CODE)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogFacts:
    """What the vouched part of an IMA log has shown so far."""

    boot_aggregate: bool = False
    ima_policy: bool = False
    """The IMA policy's entry, with an expected digest."""
    early: frozenset[str] = frozenset()
    """Words (`init`, `loader`, `libc`) whose file was measured with an expected digest."""
    selinux_state: str = ""
    """The last `selinux-state`; empty before the first."""
    selinux_policy: str = ""
    """The last `selinux-policy-hash`, hexadecimal."""
    code_entry: bool = False
    """One of Shamon's own entry modules was read."""
    entries: int = 0
    """How many entries the vouched part has."""
    signed: int = 0
    """How many files were accepted by their signature."""
    excused: int = 0
    """How many files were accepted by the pattern of their path alone."""
    violations: int = 0
    """How many violations the Reference Values tolerated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifierState:
    """The state of one AK; a new AK starts without one. `reference_digest` says which Reference Values it stands on."""

    reset_count: int
    restart_count: int
    clock_ms: int
    firmware_version: int | None = None
    """Of the TPM, as its quotes say; None where no quote has said it yet."""
    reference_digest: str
    ima_offset: int = 0
    """Bytes of the IMA log that quotes have vouched for: the next Evidence may start here."""
    ima_pcr: bytes = bytes(_DIGEST_BYTES)
    """PCR 10 at that offset, SHA-256 bank."""
    facts: LogFacts = LogFacts()
    sticky: Mapping[ClaimName, Claim] = field(default_factory=dict)
    """The first failure of each sticky claim in this boot."""
    ledger: Ledger = field(default_factory=Ledger, compare=False)
    """What the vouched part measured. Not in the document: it is stored apart, piece after piece."""

    @classmethod
    def unseen(cls) -> "VerifierState":
        """The state of an AK whose first Evidence was not to be believed."""
        return cls(reset_count=0, restart_count=0, clock_ms=0, reference_digest="")

    @classmethod
    def of_boot(cls, clock: ClockInfo, firmware_version: int, reference_digest: str) -> "VerifierState":
        """The state before the first entry of a boot."""
        return cls(
            reset_count=clock.reset_count,
            restart_count=clock.restart_count,
            clock_ms=clock.clock_ms,
            firmware_version=firmware_version,
            reference_digest=reference_digest,
        )

    @property
    def seen(self) -> bool:
        """Whether any Evidence of this AK has been believed."""
        return bool(self.reference_digest)

    def under(self, reference_digest: str) -> "VerifierState":
        """The same under these Reference Values: where they are others, all that was judged by the old ones is void,
        and the log is wanted from its beginning. That is for who has no ledger."""
        if reference_digest == self.reference_digest or not self.seen:
            return self
        return self.of_its_tpm_alone(reference_digest)

    def of_its_tpm_alone(self, reference_digest: str) -> "VerifierState":
        """What quotes have said of the TPM, and nothing of any log."""
        return VerifierState(
            reset_count=self.reset_count,
            restart_count=self.restart_count,
            clock_ms=self.clock_ms,
            firmware_version=self.firmware_version,
            reference_digest=reference_digest,
        )

    def at(self, clock: ClockInfo, firmware_version: int) -> "VerifierState":
        """The same with what a newer quote says of the TPM."""
        return replace(
            self,
            restart_count=clock.restart_count,
            clock_ms=clock.clock_ms,
            firmware_version=firmware_version,
        )

    def with_ledger(self, ledger: Ledger) -> "VerifierState":
        """The same, to be judged anew if the Reference Values are others."""
        return replace(self, ledger=ledger)

    def to_document(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            "reset_count": self.reset_count,
            "restart_count": self.restart_count,
            "clock_ms": self.clock_ms,
            "firmware_version": self.firmware_version,
            "reference_digest": self.reference_digest,
            "ima_offset": self.ima_offset,
            "ima_pcr": self.ima_pcr.hex(),
            "facts": {
                "boot_aggregate": self.facts.boot_aggregate,
                "ima_policy": self.facts.ima_policy,
                "early": sorted(self.facts.early),
                "selinux_state": self.facts.selinux_state,
                "selinux_policy": self.facts.selinux_policy,
                "code_entry": self.facts.code_entry,
                "entries": self.facts.entries,
                "signed": self.facts.signed,
                "excused": self.facts.excused,
                "violations": self.facts.violations,
            },
            "sticky": [
                {
                    "name": claim.name.value,
                    "reason": claim.reason,
                    "where": claim.where,
                    "expected": claim.expected,
                    "found": claim.found,
                }
                for claim in self.sticky.values()
            ],
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "VerifierState":
        """Reads what `to_document` made. Raises BadInput: a store that was changed is no state."""
        try:
            facts = document["facts"]
            sticky = [
                Claim(
                    name=ClaimName(item["name"]),
                    status=ClaimStatus.FAIL,
                    reason=str(item["reason"]),
                    where=str(item["where"]),
                    expected=str(item["expected"]),
                    found=str(item["found"]),
                    sticky=True,
                )
                for item in document["sticky"]
            ]
            state = cls(
                reset_count=_count(document["reset_count"]),
                restart_count=_count(document["restart_count"]),
                clock_ms=_count(document["clock_ms"]),
                firmware_version=None if (firmware := document.get("firmware_version")) is None else _count(firmware),
                reference_digest=str(document["reference_digest"]),
                ima_offset=_count(document["ima_offset"]),
                ima_pcr=bytes.fromhex(document["ima_pcr"]),
                facts=LogFacts(
                    boot_aggregate=facts["boot_aggregate"] is True,
                    ima_policy=facts["ima_policy"] is True,
                    early=frozenset(str(word) for word in facts["early"]),
                    selinux_state=str(facts["selinux_state"]),
                    selinux_policy=str(facts["selinux_policy"]),
                    code_entry=facts["code_entry"] is True,
                    entries=_count(facts["entries"]),
                    signed=_count(facts.get("signed", 0)),
                    excused=_count(facts.get("excused", 0)),
                    violations=_count(facts.get("violations", 0)),
                ),
                sticky={claim.name: claim for claim in sticky},
                ledger=Ledger(elsewhere=_count(facts["entries"])),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BadInput("a stored Verifier state is malformed", found=f"{type(error).__name__}: {error}") from error
        if len(state.ima_pcr) != _DIGEST_BYTES or not set(state.sticky) <= set(_STICKY_CLAIMS):
            raise BadInput("a stored Verifier state is malformed", expected="a PCR of 32 bytes, claims that can stick")
        return state


def _count(value: object) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"not a count: {value!r}")
    return value
