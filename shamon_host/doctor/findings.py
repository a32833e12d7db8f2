"""What `shamon doctor` says: findings, each with what was expected, what was found and what to do."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from shamon_host.domain.text import printable

DOCUMENT = "docs/doctor.md"
_LONGEST = 600
"""Characters of a text: a file's content may be in it."""


class Verdict(StrEnum):
    OK = "ok"
    WARNING = "warning"
    """It works, and less well than it should, or something is still to be done."""
    WRONG = "wrong"
    UNKNOWN = "unknown"
    """It could not be looked at. Never taken for ok."""


class Subject(StrEnum):
    """What a check is about, in the order in which they are told: what others rest on comes first."""

    KERNEL = "kernel"
    MAC = "MAC"
    TPM = "TPM"
    HYPERVISOR = "hypervisor"
    NETWORK = "network"
    CLOCK = "clock"
    COALITION = "coalition"
    PROGRAM = "program"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one check found. `see`: the section of the documentation that says why it matters."""

    name: str
    subject: Subject
    verdict: Verdict
    found: str
    expected: str = ""
    remedy: str = ""

    @property
    def see(self) -> str:
        return f"{DOCUMENT}#{self.name}"


@dataclass(frozen=True, slots=True)
class Say:
    """Makes the finding of one check. Texts are made fit for a terminal, and cut where they are too long."""

    name: str
    subject: Subject

    def ok(self, found: str) -> Finding:
        return self._finding(Verdict.OK, found)

    def warning(self, found: str, *, expected: str, remedy: str) -> Finding:
        return self._finding(Verdict.WARNING, found, expected, remedy)

    def wrong(self, found: str, *, expected: str, remedy: str) -> Finding:
        return self._finding(Verdict.WRONG, found, expected, remedy)

    def unknown(self, found: str, *, remedy: str) -> Finding:
        return self._finding(Verdict.UNKNOWN, found, remedy=remedy)

    def _finding(self, verdict: Verdict, found: str, expected: str = "", remedy: str = "") -> Finding:
        return Finding(
            name=self.name,
            subject=self.subject,
            verdict=verdict,
            found=_shown(found),
            expected=_shown(expected),
            remedy=_shown(remedy),
        )


@dataclass(frozen=True, slots=True)
class Report:
    """All findings about a host, in the order of their checks."""

    findings: tuple[Finding, ...]

    def of(self, *verdicts: Verdict) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.verdict in verdicts)

    @property
    def fit(self) -> bool:
        """Nothing is wrong, nothing unknown, and something was looked at."""
        return bool(self.findings) and not self.of(Verdict.WRONG, Verdict.UNKNOWN)

    def to_document(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            "version": 1,
            "fit": self.fit,
            "counts": {verdict.value: len(self.of(verdict)) for verdict in Verdict},
            "findings": [asdict(finding) | {"see": finding.see} for finding in self.findings],
        }


def listed(names: Iterable[str], most: int = 8) -> str:
    """Names in one text, of many the first."""
    all_names = list(names)
    more = f" and {len(all_names) - most} more" if len(all_names) > most else ""
    return ", ".join(all_names[:most]) + more


def _shown(text: str) -> str:
    text = printable(text)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
