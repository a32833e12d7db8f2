"""What each part of the bench of links finds out, and how parts are found: `links_memory`, `links_kernel`, ...

A part is a module `tests.bench.links_NAME` with a function `measure(rounds) -> PartReport`. It is imported only when
it is asked for: parts that run in a lab need what the others do not have.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

PARTS = {
    "memory": "planner, records and memory of 200 peers with 50 types each; runs anywhere",
    "kernel": "SAs added and removed by the kernel of a lab VM, against iproute2 (root, lab images)",
    "throughput": "a labelled link against other tunnels, between two lab VMs (root, lab images)",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PartReport:
    """What one part found out."""

    clock: str
    """Which time its figures are in, in words."""
    measurements: tuple[Mapping[str, Any], ...]
    """As `measuring.Measurement.as_json` has them: for a part that runs elsewhere they come as JSON."""
    memory: Mapping[str, int] = field(default_factory=dict)
    """Bytes."""
    notes: tuple[str, ...] = ()
    """What else there is to say, one line each."""

    def as_json(self) -> Mapping[str, Any]:
        return {
            "clock": self.clock,
            "measurements": list(self.measurements),
            "memory_bytes": dict(self.memory),
            "notes": list(self.notes),
        }


def part(name: str) -> Callable[[int], PartReport]:
    """The part of that name of `PARTS`."""
    measure: Callable[[int], PartReport] = importlib.import_module(f"tests.bench.links_{name}").measure
    return measure
