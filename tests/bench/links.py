"""`python -m tests.bench.links [PART...]`: what many links cost, and how fast one of them is.

Prints medians over several rounds, the goal of each figure where there is one, and the ratio to a baseline that ran in
the same rounds; `--json FILE` writes them down. Without a part named it is `memory`. A goal that is not met is no
failure: machines differ, and this one may be busy. Exits with 1 only if something was computed that is not so.
"""

import argparse
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.bench.command import bench_parser, run_bench
from tests.bench.links_parts import PARTS, PartReport, part
from tests.bench.table import print_measurements, print_memory

FORMAT = "shamon-bench-links-1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything that was found out, by part."""

    rounds: int
    parts: Mapping[str, PartReport]

    def as_json(self) -> Mapping[str, Any]:
        """`format`, what it was measured with, and `parts`: each with its `clock`, `measurements` as in the bench of
        policies, `memory_bytes` and `notes`."""
        return {
            "format": FORMAT,
            "python": platform.python_version(),
            "cpus": os.cpu_count(),
            "load_average": list(os.getloadavg()),
            "rounds": self.rounds,
            "parts": {name: found.as_json() for name, found in self.parts.items()},
        }


def print_report(report: Mapping[str, Any]) -> None:
    """A table for each part. `report` is in the form of the JSON file."""
    load = ", ".join(f"{each:.1f}" for each in report["load_average"])
    print(
        f"Medians of {report['rounds']} rounds; ratios are to a baseline of the same rounds."
        f" Python {report['python']}, {report['cpus']} CPUs, load average {load}."
    )
    for name, found in report["parts"].items():
        print(f"\n{name}: in {found['clock']}\n")
        print_measurements(found["measurements"])
        if found["memory_bytes"]:
            print_memory(found["memory_bytes"])
        for note in found["notes"]:
            print(note)


def _part_name(text: str) -> str:
    if text not in PARTS:
        raise argparse.ArgumentTypeError(f"{text}: not one of {', '.join(PARTS)}")
    return text


def main(given: Sequence[str] | None = None) -> int:
    """Measure and report."""
    parser = bench_parser("bench-links", __doc__, rounds=5)
    words = "; ".join(f"{name}: {what}" for name, what in PARTS.items())
    parser.add_argument("part", nargs="*", type=_part_name, metavar="PART", help=f"{words} (default: memory)")
    return run_bench(
        "bench-links",
        parser,
        given,
        takes="a minute in memory, several in a lab",
        bench=lambda arguments: Report(
            rounds=arguments.rounds,
            parts={name: part(name)(arguments.rounds) for name in dict.fromkeys(arguments.part or ["memory"])},
        ),
        show=print_report,
    )


if __name__ == "__main__":
    sys.exit(main())
