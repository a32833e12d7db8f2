"""Answers of one policy that are asked for again and again, remembered, with figures that people can look at.

A cache belongs to one policy, which never changes: another version comes with a cache of its own, empty. So nothing can
be remembered that is not so any more. Only what follows from the policy and the question alone is remembered, never
what depends on the time or on a peer.
"""

from collections.abc import Callable, Hashable
from dataclasses import asdict, dataclass
from typing import Any, TypeVar, cast

Answer = TypeVar("Answer")
MAX_ENTRIES = 1 << 18
"""Then all is forgotten: the questions of one host are far fewer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheFigures:
    hits: int
    misses: int
    entries: int
    dropped: int
    """How often everything was forgotten."""

    def as_detail(self) -> dict[str, int]:
        return asdict(self)


class DecisionCache:
    """Safe to use from several threads: at worst an answer is computed twice."""

    __slots__ = ("_answers", "_dropped", "_hits", "_misses")

    def __init__(self) -> None:
        self._answers: dict[Hashable, object] = {}
        self._hits = self._misses = self._dropped = 0

    def remember(self, question: Hashable, compute: Callable[[], Answer]) -> Answer:
        """The answer to `question`, which names everything that it depends on beside the policy."""
        found = self._answers.get(question, _NOTHING)
        if found is not _NOTHING:
            self._hits += 1
            return cast(Answer, found)
        self._misses += 1
        if len(self._answers) >= MAX_ENTRIES:
            self._answers.clear()
            self._dropped += 1
        answer = self._answers[question] = compute()
        return answer

    def figures(self) -> CacheFigures:
        return CacheFigures(hits=self._hits, misses=self._misses, entries=len(self._answers), dropped=self._dropped)


_NOTHING: Any = object()
