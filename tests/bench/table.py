"""Prints reports of the benches: a rich table on a terminal, aligned columns elsewhere."""

import sys
from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from shamon_host.cli.output import print_table

COLUMNS = ("figure", "median", "spread", "goal", "met", "against")


def print_report(report: Mapping[str, Any]) -> None:
    """Of the policy bench: what was measured, with what, and the table. `report` is in the form of the JSON file."""
    policy, load = report["policy"], ", ".join(f"{each:.1f}" for each in report["load_average"])
    print(
        f"{policy['types']:,} types, {policy['labels']:,} labels, {policy['conflict_sets']:,} conflict sets,"
        f" {policy['file_bytes']:,} bytes of TOML; {policy['shared_types']:,} types shared with the peer's policy.\n"
        f"Medians of {report['rounds']} rounds, in {report['clock']}: other work on this machine slows it down and does"
        f" not count as time.\nRatios are to a baseline of the same rounds. Python {report['python']},"
        f" {report['cpus']} CPUs, load average {load}.\n"
    )
    print_measurements(report["measurements"])
    print_memory(report["memory_bytes"])


def print_measurements(measurements: Iterable[Mapping[str, Any]]) -> None:
    """The table."""
    rows = [_row(each) for each in measurements]
    if sys.stdout.isatty():
        _print_rich(rows)
    else:
        print_table(rows, COLUMNS, empty="nothing was measured")


def print_memory(memory: Mapping[str, int]) -> None:
    """What takes how many bytes."""
    print("\nmemory: " + "; ".join(f"{name} {_bytes(count)}" for name, count in memory.items()))


def _print_rich(rows: list[dict[str, str]]) -> None:
    table = Table(*COLUMNS, box=None, pad_edge=False)
    for row in rows:
        style = {"yes": "green", "no": "red"}.get(row["met"])
        table.add_row(*row.values(), style=style)
    Console().print(table)


def _row(measurement: Mapping[str, Any]) -> dict[str, str]:
    unit, baseline = measurement["unit"], measurement["baseline"]
    return {
        "figure": measurement["name"],
        "median": _figure(measurement["median"], unit),
        "spread": f"{_number(measurement['lowest'], unit)}–{_number(measurement['highest'], unit)}",
        "goal": _goals(measurement),
        "met": {None: "", True: "yes", False: "no"}[measurement["met"]],
        "against": f"{_ratio(baseline['ratio'])} × {baseline['name']}",
    }


def _goals(measurement: Mapping[str, Any]) -> str:
    unit, goal, ratio = measurement["unit"], measurement["goal"], measurement["baseline"]["goal"]
    goals = [] if goal is None else [f"{'≤' if unit == 's' else '≥'} {_figure(goal, unit)}"]
    if ratio is not None:
        goals.append(f"≤ {_ratio(ratio)} ×")
    return " or ".join(goals)


def _ratio(value: float) -> str:
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _figure(value: float, unit: str) -> str:
    return f"{_number(value, unit)} {'s' if unit == 's' else 'k/s'}"


def _number(value: float, unit: str) -> str:
    """Seconds, or thousands a second."""
    if unit == "s":
        return f"{value:.3f}" if value >= 0.1 else f"{value:.5f}"
    return f"{value / 1000:,.0f}" if value >= 100_000 else f"{value / 1000:,.1f}"


def _bytes(count: int) -> str:
    return f"{count / (1 << 20):.1f} MiB" if count >= 1 << 20 else f"{count:,} bytes"
