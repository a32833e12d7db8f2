"""Reference Values as a value: what good Evidence of one host looks like.

`reference_part` has what is accepted; here is what a host must have measured, and which version this is.
`reference_values` reads and writes them as JSON, `reference_record` takes them from a known-good boot and from images,
`appraisal` compares Evidence with them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from shamon_host.attestation.ports import QUOTED_PCRS
from shamon_host.attestation.reference_lookup import ReferenceLookup
from shamon_host.attestation.reference_part import (
    Digests,
    EventReference,
    PcrReference,
    ReferencePart,
    SelinuxReference,
    SignedFiles,
    merged_digests,
)
from shamon_host.domain.canonical import canonical_digest

__all__ = [
    "APPRAISED_PCRS",
    "FORMAT",
    "IMA_PCR",
    "CodeReference",
    "EventReference",
    "PcrReference",
    "ReferencePart",
    "ReferenceValues",
    "SelinuxReference",
    "SignedFiles",
    "merged_digests",
]

IMA_PCR = 10
APPRAISED_PCRS = tuple(pcr for pcr in QUOTED_PCRS if pcr != IMA_PCR)
"""PCR 0-9 and 11-14. PCR 10 is IMA's: its log is appraised entry by entry."""
FORMAT = "shamon-reference-values/2"


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeReference:
    """Shamon's own code: everything measured below `prefix` must be known, and one of `entries` must have been read."""

    prefix: str
    """With its final slash, e.g. `/opt/shamon/`."""
    entries: tuple[str, ...]
    """Paths of which at least one is read whenever the daemon runs."""


@dataclass(frozen=True, kw_only=True)
class ReferenceValues(ReferencePart):
    """Everything that Evidence of one host is compared with."""

    pcrs: Mapping[int, tuple[PcrReference, ...]]
    """For each of APPRAISED_PCRS the values that it may have."""
    selinux: SelinuxReference
    files: Digests
    ima_policy: str
    """Path of the IMA policy: its entry must be in the log, and data files may be excused before it only."""
    early: Mapping[str, str]
    """What must have been measured, by a word for people: `init`, `loader`, `libc` → path."""
    code: CodeReference
    version: int = 1
    """It only grows: a lower one than was in force is refused."""
    parent: str = ""
    """Digest of the Reference Values that these were made from; empty for the first ones."""

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the canonical form, hexadecimal: changes iff anything in it does."""
        return canonical_digest(self.to_document())

    @cached_property
    def lookup(self) -> ReferenceLookup:
        """For the walk over a log."""
        demanded = (self.ima_policy, *self.early.values(), *self.code.entries)
        return ReferenceLookup(self, demanded=demanded, code_prefix=self.code.prefix)

    def to_document(self) -> dict[str, Any]:
        """As a JSON object; `reference_values` reads it back."""
        return {
            "format": FORMAT,
            "version": self.version,
            "parent": self.parent,
            "ima_policy": self.ima_policy,
            "early": dict(sorted(self.early.items())),
            "code": {"prefix": self.code.prefix, "entries": list(self.code.entries)},
            **self.accepted_document(),
        }

    def merged(self, other: ReferencePart) -> "ReferenceValues":
        """Both: what either one accepts is accepted. What must be there (`ima_policy`, `early`, code prefix) is this
        one's, and so are version and parent."""
        both = super().merged(other)
        if not isinstance(other, ReferenceValues):
            return both
        entries = tuple(dict.fromkeys(self.code.entries + other.code.entries))
        return replace(both, code=replace(self.code, entries=entries))

    def following(self, before: "ReferenceValues") -> "ReferenceValues":
        """These, as the version after `before`."""
        return replace(self, version=before.version + 1, parent=before.digest)
