"""`python -m tests.integration.lab.story`: play the story of a coalition on real hosts, for a person to watch.

Prints each step as it ends, writes the report as JSON (`--json FILE`), and exits with 0 only if every step held. Needs
root, and the images that `make lab-images` builds.
"""

import argparse
import asyncio
import json
import sys
from pathlib import Path

from shamon_host.cli.demo_screen import PlainObserver
from shamon_host.testing.story import Story
from shamon_host.testing.story_report import Observer, StoryReport
from shamon_host.testing.world import Fault
from tests.integration.lab.images import host_images
from tests.integration.lab.lab import Lab
from tests.integration.lab.story_world import LabWorld

CORE_FAULTS = (Fault.PROGRAM,)


def play(lab: Lab, *, faults: tuple[Fault, ...], observer: Observer) -> StoryReport:
    """The story in this lab, whose hosts are still off."""
    return asyncio.run(Story(world=LabWorld(lab, faults=faults), observer=observer).play())


def main() -> int:
    """Play and report."""
    parser = argparse.ArgumentParser(prog="make lab", description=__doc__)
    parser.add_argument("--full", action="store_true", help="every fault of the story (default: one)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report there")
    parser.add_argument(
        "--logs", type=Path, metavar="DIR", help="keep the hosts' consoles and the wire's capture there"
    )
    arguments = parser.parse_args()
    with Lab(host_images(), keep=arguments.logs) as lab:
        print(f"three hosts under {lab.accelerator}; the first steps take minutes", flush=True)
        report = play(lab, faults=tuple(Fault) if arguments.full else CORE_FAULTS, observer=PlainObserver())
    print(f"{sum(step.ok for step in report.steps)} of {len(report.steps)} steps held. {dict(report.figures)}")
    if arguments.json:
        arguments.json.write_text(json.dumps(report.as_json(), indent=2) + "\n")
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main())
