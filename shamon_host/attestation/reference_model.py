"""Reference Values as a value: what good Evidence of one host looks like.

`reference_values` reads and writes them as JSON, `reference_record` takes them from a known-good boot and from images,
`appraisal` compares Evidence with them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from shamon_host.attestation.ports import QUOTED_PCRS
from shamon_host.domain.canonical import canonical_digest

IMA_PCR = 10
APPRAISED_PCRS = tuple(pcr for pcr in QUOTED_PCRS if pcr != IMA_PCR)
"""PCR 0-9 and 11-14. PCR 10 is IMA's: its log is appraised entry by entry."""
FORMAT = "shamon-reference-values/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class EventReference:
    """One event of a good boot."""

    type: str
    """As the specification names it, or a number in hex."""
    digest: bytes
    """SHA-256 bank, 32 bytes."""
    description: str
    """For people, see `event_describe`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PcrReference:
    """One value that a PCR may have, with the events that lead to it."""

    value: bytes
    """SHA-256 bank, 32 bytes."""
    events: tuple[EventReference, ...] = ()
    """Empty where there is no log (Xen) or no event: then a mismatch names the PCR alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SelinuxReference:
    """What the kernel may say of SELinux in IMA's log."""

    states: tuple[str, ...]
    """Whole `selinux-state` texts, each with initialized=1 and enforcing=1."""
    policy_digests: frozenset[str]
    """`selinux-policy-hash`: SHA-256 of the policy in the kernel, lower-case hexadecimal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeReference:
    """Shamon's own code: everything measured below `prefix` must be known, and one of `entries` must have been read."""

    prefix: str
    """With its final slash, e.g. `/opt/shamon/`."""
    entries: tuple[str, ...]
    """Paths of which at least one is read whenever the daemon runs."""


@dataclass(frozen=True, kw_only=True)
class ReferenceValues:
    """Everything that Evidence of one host is compared with. File digests are SHA-256, lower-case hexadecimal."""

    pcrs: Mapping[int, tuple[PcrReference, ...]]
    """For each of APPRAISED_PCRS the values that it may have."""
    ima_policy: str
    """Path of the IMA policy: its entry must be in the log, and data files may be excused before it only."""
    early: Mapping[str, str]
    """What must have been measured, by a word for people: `init`, `loader`, `libc` → path."""
    selinux: SelinuxReference
    code: CodeReference
    files: Mapping[str, frozenset[str]]
    """The runtime policy: path → digests that a file measured under it may have."""
    buffers: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Critical data other than SELinux's, e.g. `kernel_version` → digests that the buffer may have."""
    early_data: tuple[str, ...] = ()
    """Globs of data files whose content differs from boot to boot, excused until the IMA policy is in force only:
    from then on a path says nothing about whether it is run."""

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the canonical form, hexadecimal: changes iff anything in it does."""
        return canonical_digest(self.to_document())

    def to_document(self) -> dict[str, Any]:
        """As a JSON object; `reference_values` reads it back."""
        return {
            "format": FORMAT,
            "pcrs": {
                str(pcr): [
                    {
                        "value": reference.value.hex(),
                        "events": [
                            {"type": event.type, "digest": event.digest.hex(), "description": event.description}
                            for event in reference.events
                        ],
                    }
                    for reference in references
                ]
                for pcr, references in sorted(self.pcrs.items())
            },
            "ima_policy": self.ima_policy,
            "early": dict(sorted(self.early.items())),
            "selinux": {
                "states": list(self.selinux.states),
                "policy_digests": sorted(self.selinux.policy_digests),
            },
            "code": {"prefix": self.code.prefix, "entries": list(self.code.entries)},
            "files": _digest_lists(self.files),
            "buffers": _digest_lists(self.buffers),
            "early_data": list(self.early_data),
        }

    def merged(self, other: "ReferenceValues") -> "ReferenceValues":
        """Both: what either one accepts is accepted. What must be there (`ima_policy`, `early`, code prefix) is this
        one's."""
        return replace(
            self,
            pcrs={
                pcr: _merged_pcr(self.pcrs.get(pcr, ()), other.pcrs.get(pcr, ()))
                for pcr in sorted({*self.pcrs, *other.pcrs})
            },
            selinux=SelinuxReference(
                states=tuple(dict.fromkeys(self.selinux.states + other.selinux.states)),
                policy_digests=self.selinux.policy_digests | other.selinux.policy_digests,
            ),
            code=replace(self.code, entries=tuple(dict.fromkeys(self.code.entries + other.code.entries))),
            files=merged_digests(self.files, other.files),
            buffers=merged_digests(self.buffers, other.buffers),
            early_data=tuple(dict.fromkeys(self.early_data + other.early_data)),
        )


def merged_digests(*parts: Mapping[str, frozenset[str]]) -> dict[str, frozenset[str]]:
    """For each name the digests that any part has for it."""
    merged: dict[str, frozenset[str]] = {}
    for part in parts:
        for name, digests in part.items():
            merged[name] = merged[name] | digests if name in merged else digests
    return merged


def _merged_pcr(first: Sequence[PcrReference], second: Sequence[PcrReference]) -> tuple[PcrReference, ...]:
    known = {reference.value for reference in first}
    return (*first, *(reference for reference in second if reference.value not in known))


def _digest_lists(digests: Mapping[str, frozenset[str]]) -> dict[str, list[str]]:
    return {name: sorted(values) for name, values in sorted(digests.items())}
