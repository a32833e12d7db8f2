"""How a telling of the story went: each step, the figures, and who is told while it goes on."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shamon_host.domain.errors import ShamonError


class StepFailed(ShamonError):
    """Something that the story says did not hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """One step as it went."""

    name: str
    ok: bool
    elapsed_ms: float
    detail: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoryReport:
    """The whole story; `as_json` is what `shamon demo --json` and the lab write."""

    steps: tuple[StepReport, ...]
    figures: Mapping[str, float]

    @property
    def ok(self) -> bool:
        return bool(self.steps) and all(step.ok for step in self.steps)

    def as_json(self) -> dict[str, Any]:
        return {
            "steps": [
                {"name": step.name, "ok": step.ok, "elapsed_ms": round(step.elapsed_ms, 1), "detail": dict(step.detail)}
                for step in self.steps
            ],
            "figures": dict(self.figures),
        }


class Observer:
    """Told as the story goes; the demo shows it live."""

    def begins(self, name: str) -> None: ...

    def ended(self, step: StepReport) -> None: ...
