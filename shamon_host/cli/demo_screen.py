"""How the story is shown: live on a terminal (rich), in plain lines otherwise, or as JSON."""

import sys
from collections.abc import Callable, Sequence
from functools import partial

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from shamon_host.cli.output import print_json, printable
from shamon_host.domain.policy import HypervisorKind
from shamon_host.testing.clock import run_virtual
from shamon_host.testing.memory_world import MemoryWorld
from shamon_host.testing.story import Story
from shamon_host.testing.story_report import Observer, StepReport, StoryReport

_WIDTH = 100


def show_demo(*, as_json: bool, hypervisors: Sequence[HypervisorKind] = (), mac_vms: bool = False) -> int:
    """Play the story in memory, on hosts with these hypervisors, and with MAC VMs or without; return the exit code."""
    world = partial(MemoryWorld, hypervisors=hypervisors, mac_vms=mac_vms)
    console = Console()
    if as_json:
        report = _play(Observer(), world)
        print_json(report.as_json())
    elif console.is_terminal:
        with Live(console=console, refresh_per_second=12) as live:
            report = _play(_LiveObserver(live), world)
        _print_figures(report)
    else:
        report = _play(PlainObserver(), world)
        _print_figures(report)
    return 0 if report.ok else 1


def _play(observer: Observer, made: Callable[[], MemoryWorld]) -> StoryReport:
    async def play() -> StoryReport:
        async with made() as world:
            return await Story(world=world, observer=observer).play()

    return run_virtual(play())


class PlainObserver(Observer):
    """One line for each step as it ends, and below it what it found."""

    def ended(self, step: StepReport) -> None:
        print(f"{'ok  ' if step.ok else 'FAIL'} {step.name} ({step.elapsed_ms:.0f} ms)")
        for line in detail_lines(step):
            print(f"       {line}")
        sys.stdout.flush()


class _LiveObserver(Observer):
    """A table that grows."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._done: list[StepReport] = []
        self._now = ""

    def begins(self, name: str) -> None:
        self._now = name
        self._draw()

    def ended(self, step: StepReport) -> None:
        self._done.append(step)
        self._now = ""
        self._draw()

    def _draw(self) -> None:
        table = Table(show_header=False, box=None, padding=(0, 1))
        for step in self._done:
            table.add_row(
                Text("✓" if step.ok else "✗", style="green" if step.ok else "bold red"),
                step.name,
                Text(f"{step.elapsed_ms:.0f} ms", style="dim"),
            )
            for line in detail_lines(step):
                table.add_row("", Text(line, style="dim" if step.ok else "red"), "")
        if self._now:
            table.add_row(Text("…", style="yellow"), self._now, "")
        self._live.update(table)


def detail_lines(step: StepReport) -> list[str]:
    """What a step found, each value in a line of its own, cut to a screen's width."""
    lines = []
    for name, value in step.detail.items():
        text = printable(value)
        lines.append(f"{name.replace('_', ' ')}: {text if not step.ok or len(text) <= _WIDTH else text[:_WIDTH] + '…'}")
    return lines


def _print_figures(report: StoryReport) -> None:
    held = sum(step.ok for step in report.steps)
    figures = ", ".join(f"{name} {value:g}" for name, value in report.figures.items())
    print(f"{held} of {len(report.steps)} steps held. {figures}")
