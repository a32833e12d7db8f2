"""`Look`: one thing that was looked at, which may be there, absent, malformed, or not to be seen."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Self, TypeVar

from shamon_host.doctor.findings import Finding, Say

T = TypeVar("T")
S = TypeVar("S")

PERMISSION = "permission denied"
_REFUSALS = ("permission denied", "operation not permitted", "access denied", "authentication")
ROOT = "Run `shamon doctor` as root."


@dataclass(frozen=True, slots=True)
class Look(Generic[T]):
    """At most one of the three is set; with none of them, the thing is not there."""

    value: T | None = None
    bad: str = ""
    """It is there and cannot be understood: how so."""
    unread: str = ""
    """It could not be looked at: why."""

    @property
    def absent(self) -> bool:
        return self.value is None and not self.bad and not self.unread

    def then(self, change: Callable[[T], "Look[S]"]) -> "Look[S]":
        """What `change` makes of the value; everything else stays what it is."""
        return change(self.value) if self.value is not None else Look(bad=self.bad, unread=self.unread)

    @classmethod
    def failed(cls, error: OSError) -> Self:
        """By what went wrong when it was read."""
        if isinstance(error, (FileNotFoundError, NotADirectoryError)):
            return cls()
        if isinstance(error, PermissionError):
            return cls(unread=PERMISSION)
        return cls(unread=error.strerror or type(error).__name__)


def reason_of(words: str) -> str:
    """Why something is unread, of what an error or a program says: PERMISSION where it was refused."""
    return PERMISSION if any(refusal in words.lower() for refusal in _REFUSALS) else words


def not_installed(program: str) -> str:
    """Why a program said nothing."""
    return f"the program {program} is not installed"


NOTHING: Look[Any] = Look()
"""Not there."""


class Judged(Exception):
    """Ends a check with its finding, where what it rests on could not be had."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.found)
        self.finding = finding


def require_seen(say: Say, *looks: Look[Any], what: str, remedy: str = "") -> None:
    """Raises Judged for the first of them that could not be looked at."""
    for look in looks:
        if look.unread:
            other = remedy or "Find out why: until then nothing is known of it."
            raise Judged(say.unknown(f"{what}: {look.unread}", remedy=ROOT if look.unread == PERMISSION else other))
