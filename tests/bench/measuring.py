"""Measures work against a baseline in the same rounds, by the CPU time of this process.

A machine that does other things as well slows both down alike: wall-clock time would tell about them, CPU time tells
about the work, and the ratio hardly depends on the machine at all.
"""

import gc
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from time import get_clock_info, process_time
from typing import Any, Generic, Protocol, TypeVar

Prepared = TypeVar("Prepared")
_TICK_S = get_clock_info("process_time").resolution


class Unit(StrEnum):
    """What a figure counts."""

    SECONDS = "s"
    """CPU seconds: less is better."""
    RATE = "1/s"
    """Operations in a CPU second: more is better."""


class Costed(Protocol):
    """What can be measured, here or in another process."""

    @property
    def name(self) -> str: ...

    def cost_s(self) -> float:
        """Do it once: CPU seconds of one operation."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Work(Generic[Prepared]):
    """Something to measure: `run` gets what `prepare`, which is not measured, made for this round."""

    name: str
    prepare: Callable[[], Prepared]
    run: Callable[[Prepared], object]
    operations: int = 1
    """How many one run does."""

    def cost_s(self) -> float:
        """CPU seconds of one operation."""
        prepared = self.prepare()
        start = process_time()
        self.run(prepared)
        return max(process_time() - start, _TICK_S) / self.operations


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """Costs are CPU seconds of one operation, one for each round; those of the baseline are of the same rounds."""

    name: str
    unit: Unit
    costs_s: tuple[float, ...]
    baseline: str
    baseline_costs_s: tuple[float, ...]
    goal: float | None = None
    """At most so many seconds, or at least such a rate."""
    ratio_goal: float | None = None
    """At most so many times the baseline's cost."""

    @property
    def figures(self) -> tuple[float, ...]:
        """In the unit, ascending."""
        return tuple(sorted(cost if self.unit is Unit.SECONDS else 1 / cost for cost in self.costs_s))

    @property
    def median(self) -> float:
        return statistics.median(self.figures)

    @property
    def ratio(self) -> float:
        """How many times the baseline's cost one operation costs: the median over the rounds."""
        return statistics.median(map(_divided, self.costs_s, self.baseline_costs_s))

    @property
    def met(self) -> bool | None:
        """Whether it is as good as one of its goals; None without any."""
        reached = []
        if self.goal is not None:
            reached.append(self.median <= self.goal if self.unit is Unit.SECONDS else self.median >= self.goal)
        if self.ratio_goal is not None:
            reached.append(self.ratio <= self.ratio_goal)
        return any(reached) if reached else None

    def as_json(self) -> Mapping[str, Any]:
        return {
            "name": self.name,
            "unit": self.unit.value,
            "median": self.median,
            "lowest": self.figures[0],
            "highest": self.figures[-1],
            "goal": self.goal,
            "met": self.met,
            "baseline": {"name": self.baseline, "ratio": self.ratio, "goal": self.ratio_goal},
        }


def measured(
    work: Costed,
    baseline: Costed,
    *,
    unit: Unit,
    rounds: int,
    goal: float | None = None,
    ratio_goal: float | None = None,
) -> Measurement:
    """Run both in turn, once more than `rounds`: the first time warms up."""
    # Garbage collection counts, but only of what the work itself makes: the bench holds more than any host does.
    frozen_before = gc.get_freeze_count()
    gc.collect()
    gc.freeze()
    try:
        costs = [(baseline.cost_s(), work.cost_s()) for _ in range(rounds + 1)][1:]
    finally:
        if not frozen_before:  # there is no way to unfreeze only what was frozen here
            gc.unfreeze()
    return Measurement(
        name=work.name,
        unit=unit,
        costs_s=tuple(cost for _, cost in costs),
        baseline=baseline.name,
        baseline_costs_s=tuple(cost for cost, _ in costs),
        goal=goal,
        ratio_goal=ratio_goal,
    )


def _divided(cost_s: float, baseline_s: float) -> float:
    return cost_s / baseline_s
