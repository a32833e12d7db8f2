"""What the benches' command lines have in common: `--json` and `--rounds`, and how they end."""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from tests.bench.answers import WrongAnswer


class Reported(Protocol):
    """What a bench found out."""

    def as_json(self) -> Mapping[str, Any]: ...


def bench_parser(name: str, description: str | None, *, rounds: int) -> argparse.ArgumentParser:
    """The parser of the bench `name`; `rounds` is its default."""
    parser = argparse.ArgumentParser(prog=f"make {name}", description=description)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report there")
    parser.add_argument(
        "--rounds", type=int, default=rounds, metavar="N", help=f"measure everything N times (default: {rounds})"
    )
    return parser


def run_bench(
    name: str,
    parser: argparse.ArgumentParser,
    given: Sequence[str] | None,
    *,
    takes: str,
    bench: Callable[[argparse.Namespace], Reported],
    show: Callable[[Mapping[str, Any]], None],
) -> int:
    """Measure and report; the exit code is 1 where something was computed that is not so. `takes`: how long it does."""
    arguments = parser.parse_args(given)
    if arguments.rounds < 1:
        parser.error("--rounds: at least 1")
    print(f"checking the answers, then measuring: {takes}, more on a busy machine", file=sys.stderr)
    try:
        report = bench(arguments)
    except WrongAnswer as wrong:
        print(f"{name}: wrong answer: {wrong}", file=sys.stderr)
        return 1
    show(report.as_json())
    if arguments.json:
        arguments.json.write_text(json.dumps(report.as_json(), indent=2) + "\n")
    return 0
