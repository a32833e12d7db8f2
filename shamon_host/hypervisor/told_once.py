"""What is tried again and again is in the audit log once, until it is over."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from shamon_host.domain.errors import ShamonError
from shamon_host.hypervisor.ports import Audit


@dataclass(kw_only=True)
class ToldOnce:
    """`ports.Audit`, but for what it was told of the same subject before, and is not over."""

    audit: Audit
    _told: dict[str, dict[str, Mapping[str, Any]]] = field(default_factory=dict, repr=False)

    def __call__(self, kind: str, subject: str, detail: Mapping[str, Any]) -> None:
        told = self._told.setdefault(subject, {})
        if told.get(kind) != detail:
            self.audit(kind, subject, detail)
            told[kind] = dict(detail)

    def failed(self, kind: str, subject: str, error: ShamonError) -> None:
        self(kind, subject, {"reason": str(error)})

    def over_but_for(self, subjects: Iterable[str]) -> None:
        """With every other subject it is over: if it comes again, it is told of again."""
        still = set(subjects)
        self._told = {subject: told for subject, told in self._told.items() if subject in still}
