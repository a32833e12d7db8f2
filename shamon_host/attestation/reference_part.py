"""What Reference Values are put together from: everything that widens what is accepted, and nothing that demands.

A *part* is what `shamon reference from-packages`, `from-image`, `from-host` and `diff` write. Parts are merged with one
another and into Reference Values (`reference_model`), which add what a host must have measured. What a part accepts,
whatever it is merged with accepts too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self, TypeVar

from shamon_host.attestation.ima_entry import FileDigest

_T = TypeVar("_T")
PART_FORMAT = "shamon-reference-part/2"

Digests = Mapping[str, frozenset[str]]
"""Name → digests as texts, see `digest_text`; of anything but files, SHA-256 in lower-case hexadecimal."""
_FILE_HASHES = ("sha256", "sha384", "sha512")
"""Those of which a digest names one content. A kernel uses the one that `ima_hash` says."""


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

    states: tuple[str, ...] = ()
    """Whole `selinux-state` texts, each with initialized=1 and enforcing=1."""
    policy_digests: frozenset[str] = frozenset()
    """`selinux-policy-hash`: SHA-256 of the policy in the kernel, lower-case hexadecimal."""

    @property
    def demanded(self) -> bool:
        """Whether SELinux has to be there: always on a host, and in a guest that has it."""
        return bool(self.states or self.policy_digests)


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedFiles:
    """Files with a good IMA signature by one key."""

    key: str
    """Base64 of the DER form: a certificate, or a SubjectPublicKeyInfo."""
    prefix: str = "/"
    """A directory with its final slash: the rule is for files below it alone."""


@dataclass(frozen=True, kw_only=True)
class ReferencePart:
    """What may be measured. Digests of files are written as `digest_text` does."""

    pcrs: Mapping[int, tuple[PcrReference, ...]] = field(default_factory=dict)
    """PCR → values that it may have."""
    selinux: SelinuxReference = field(default_factory=SelinuxReference)
    files: Digests = field(default_factory=dict)
    """Path → digests that a file measured under it may have."""
    packages: Mapping[str, Digests] = field(default_factory=dict)
    """The same in groups: `coreutils 9.1-1` → path → digests. An upgrade replaces a group."""
    digests: frozenset[str] = frozenset()
    """Contents that are accepted under any path, unless something else is demanded of that path."""
    signed: tuple[SignedFiles, ...] = ()
    patterns: tuple[str, ...] = ()
    """Paths under which any content is accepted. Whoever can write there can run what they like: see
    `reference_paths`."""
    violations: tuple[str, ...] = ()
    """Paths of data files that may be written while they are measured. The kernel extends the same value for every
    violation, so that which file it was is the log's word alone."""
    buffers: Digests = field(default_factory=dict)
    """Critical data other than SELinux's, e.g. `kernel_version` → digests that the buffer may have."""
    early_data: tuple[str, ...] = ()
    """Globs of data files whose content differs from boot to boot, excused until the IMA policy is in force only:
    from then on a path says nothing about whether it is run."""

    def merged(self, other: "ReferencePart") -> Self:
        """Both: what either one accepts is accepted. What this one demands, if anything, it goes on to demand."""
        return replace(
            self,
            pcrs={
                pcr: _merged_pcr(self.pcrs.get(pcr, ()), other.pcrs.get(pcr, ()))
                for pcr in sorted({*self.pcrs, *other.pcrs})
            },
            selinux=SelinuxReference(
                states=_both(self.selinux.states, other.selinux.states),
                policy_digests=self.selinux.policy_digests | other.selinux.policy_digests,
            ),
            files=merged_digests(self.files, other.files),
            packages={
                name: merged_digests(self.packages.get(name, {}), other.packages.get(name, {}))
                for name in sorted({*self.packages, *other.packages})
            },
            digests=self.digests | other.digests,
            signed=_both(self.signed, other.signed),
            patterns=_both(self.patterns, other.patterns),
            violations=_both(self.violations, other.violations),
            buffers=merged_digests(self.buffers, other.buffers),
            early_data=_both(self.early_data, other.early_data),
        )

    def without_other_versions(self, newer: "ReferencePart") -> Self:
        """Without the groups of packages that `newer` has in another version: an upgrade took their place."""
        names = {package_name(group) for group in newer.packages}
        return replace(
            self,
            packages={
                group: files
                for group, files in self.packages.items()
                if group in newer.packages or package_name(group) not in names
            },
        )

    def grouped(self) -> Self:
        """The same, with no file beside a package that has it: else it would outlive the package's upgrade."""
        grouped = merged_digests(*self.packages.values())
        files = {path: digests - grouped.get(path, frozenset()) for path, digests in self.files.items()}
        return replace(self, files={path: digests for path, digests in files.items() if digests})

    def accepted_document(self) -> dict[str, Any]:
        """Everything that is accepted, as a JSON object: each key of it, also where it is empty."""
        return {
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
            "selinux": {
                "states": list(self.selinux.states),
                "policy_digests": sorted(self.selinux.policy_digests),
            },
            "files": _digest_lists(self.files),
            "packages": {name: _digest_lists(files) for name, files in sorted(self.packages.items())},
            "digests": sorted(self.digests),
            "signed": [{"key": rule.key, "prefix": rule.prefix} for rule in self.signed],
            "patterns": list(self.patterns),
            "violations": list(self.violations),
            "buffers": _digest_lists(self.buffers),
            "early_data": list(self.early_data),
        }


def part_document(part: ReferencePart) -> dict[str, Any]:
    """A part as a JSON object: what is empty in it is left out."""
    accepted = part.accepted_document()
    accepted["selinux"] = {key: value for key, value in accepted["selinux"].items() if value}
    return {"format": PART_FORMAT, **{key: value for key, value in accepted.items() if value}}


def digest_text(digest: FileDigest | None) -> str:
    """How a file's digest is written: SHA-256 in lower-case hexadecimal; others as `sha512:HEX`, `verity:sha256:HEX`.

    Empty for a hash that two files may share: no Reference Values have such a digest.
    """
    if digest is None or digest.algorithm not in _FILE_HASHES:
        return ""
    if digest.algorithm == "sha256" and digest.kind == "ima":
        return digest.digest.hex()
    return str(digest)


def package_name(group: str) -> str:
    """`coreutils` of `coreutils 9.1-1`."""
    return group.partition(" ")[0]


def merged_digests(*parts: Digests) -> dict[str, frozenset[str]]:
    """For each name the digests that any part has for it."""
    merged: dict[str, frozenset[str]] = {}
    for part in parts:
        for name, digests in part.items():
            merged[name] = merged[name] | digests if name in merged else digests
    return merged


def _both(first: tuple[_T, ...], second: tuple[_T, ...]) -> tuple[_T, ...]:
    return tuple(dict.fromkeys(first + second))


def _merged_pcr(first: Sequence[PcrReference], second: Sequence[PcrReference]) -> tuple[PcrReference, ...]:
    known = {reference.value for reference in first}
    return (*first, *(reference for reference in second if reference.value not in known))


def _digest_lists(digests: Digests) -> dict[str, list[str]]:
    return {name: sorted(values) for name, values in sorted(digests.items())}
