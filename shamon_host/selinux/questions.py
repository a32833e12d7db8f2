"""Questions to the loaded policy, with the answers that are right, and what an answer means: pure.

The kernel answers for the policy as it is in force, constraints included, whichever module a rule came from. A domain
that is permissive may do everything, whatever the vector says: where something must not be, that counts as allowed;
where something must be allowed it does not, for the day on which the domain enforces.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum

from shamon_host.domain.errors import BackendFailed
from shamon_host.selinux.ports import KernelSelinux

LOAD = "Load Shamon's module: shamon selinux install"


class Group(StrEnum):
    """What a finding is about, in the order in which they are told."""

    MODE = "mode"
    CONTEXTS = "contexts"
    LINKS = "links"
    TYPES_APART = "types apart"
    NO_LOCK_OUT = "no lock-out"
    DAEMON = "daemon"
    PROCESSES = "processes"
    FILES = "files"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at. `ok` is whether it is as it must be; a remedy only where it is not."""

    group: Group
    who: str
    """The domain, context, process or file that it is about."""
    what: str
    expected: str
    found: str
    ok: bool
    remedy: str = ""
    of_policy: bool = True
    """About the modules that are loaded, not about this host's mode, processes or files."""

    @property
    def in_words(self) -> str:
        """In one line, with the remedy."""
        words = f"{self.who}: {self.what}: expected {self.expected}, found {self.found}"
        return f"{words} ({self.remedy})" if self.remedy else words


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """May `source` do `permissions` to `target`? `allowed`: the right answer is all of them, else none of them."""

    group: Group
    who: str
    what: str
    source: str
    target: str
    object_class: str
    permissions: frozenset[str]
    allowed: bool
    remedy: str = LOAD

    def judge(self, kernel: KernelSelinux) -> Finding:
        """Ask. A question that cannot be asked is answered wrongly."""
        try:
            answer = kernel.access(self.source, self.target, self.object_class)
        except BackendFailed as error:
            return self._finding(str(error), ok=False)
        granted = self.permissions & answer.allowed
        if self.allowed:
            lacking = self.permissions - granted
            return self._finding(f"denied: {self._named(lacking)}" if lacking else "allowed", ok=not lacking)
        if answer.permissive:
            return self._finding("the domain is permissive: nothing is denied to it", ok=False)
        return self._finding(f"allowed: {self._named(granted)}" if granted else "denied", ok=not granted)

    def _named(self, permissions: Iterable[str]) -> str:
        return f"{self.object_class} {' '.join(sorted(permissions))}"

    def _finding(self, found: str, *, ok: bool) -> Finding:
        return Finding(
            group=self.group, who=self.who, what=self.what, expected="allowed" if self.allowed else "denied",
            found=found, ok=ok, remedy="" if ok else self.remedy,
        )  # fmt: skip


def holds(group: Group, who: str, what: str, *, ok: bool, remedy: str, of_policy: bool = False) -> Finding:
    """Something that is so, or is not and should be."""
    return Finding(
        group=group, who=who, what=what, expected="yes", found="yes" if ok else "no", ok=ok,
        remedy="" if ok else remedy, of_policy=of_policy,
    )  # fmt: skip


def may(group: Group, what: str, source: str, target: str, vector: str, *, remedy: str = LOAD) -> Question:
    """`vector`: the class and the permissions, `"peer recv"`. All of them must be allowed."""
    object_class, *permissions = vector.split()
    return Question(
        group=group, who=type_of(source), what=what, source=source, target=target, object_class=object_class,
        permissions=frozenset(permissions), allowed=True, remedy=remedy,
    )  # fmt: skip


def must_not(group: Group, what: str, source: str, target: str, vector: str, *, remedy: str = LOAD) -> Question:
    """As `may`; none of them may be allowed."""
    return replace(may(group, what, source, target, vector, remedy=remedy), allowed=False)


def judge(kernel: KernelSelinux, questions: Iterable[Question]) -> tuple[Finding, ...]:
    """Ask all of them."""
    return tuple(question.judge(kernel) for question in questions)


def valid_contexts(kernel: KernelSelinux, contexts: Iterable[str]) -> tuple[str, ...]:
    """Those that the loaded policy knows. Raises BackendFailed."""
    return tuple(context for context in contexts if kernel.is_valid(context))


def type_of(context: str) -> str:
    """The type of a context; "" for what is no context."""
    parts = context.split(":")
    return parts[2] if len(parts) > 2 else ""
