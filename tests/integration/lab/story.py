"""`python -m tests.integration.lab.story`: play the story of a coalition on real hosts, for a person to watch.

Prints each step as it ends, writes the report as JSON (`--json FILE`), and exits with 0 only if every step held. Needs
root, and the images that `make lab-images` builds.
"""

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from shamon_host.cli.demo_screen import PlainObserver
from shamon_host.domain.policy import HypervisorKind
from shamon_host.testing.story import Story
from shamon_host.testing.story_policy import HOST_ADDRESSES
from shamon_host.testing.story_report import Observer, StoryReport
from shamon_host.testing.world import Fault
from tests.integration.lab.images import attesting_host_images, host_images
from tests.integration.lab.lab import Lab
from tests.integration.lab.story_world import LabWorld

CORE_FAULTS = (Fault.PROGRAM,)
_NAMES = tuple(HOST_ADDRESSES)


def lab_of(kinds: Sequence[HypervisorKind], *, keep: Path | None = None, attesting: bool = False) -> Lab:
    """A lab whose hosts, in the story's order, run these hypervisors; the last kind goes for those that are left.
    `attesting`: those with QEMU can give TPMs to their VMs."""
    chosen = [*kinds, *[kinds[-1]] * len(_NAMES)]
    xen = [name for name, kind in zip(_NAMES, chosen, strict=False) if kind is HypervisorKind.XEN]
    images = attesting_host_images() if attesting else host_images()
    return Lab(images, keep=keep, xen_images=host_images(HypervisorKind.XEN) if xen else None, xen=xen)


def play(lab: Lab, *, faults: tuple[Fault, ...], observer: Observer, mac_vms: bool = False) -> StoryReport:
    """The story in this lab, whose hosts are still off; `mac_vms`: each host's links are held by a VM of its own."""
    return asyncio.run(Story(world=LabWorld(lab, faults=faults, mac_vms=mac_vms), observer=observer).play())


def told_on(
    kinds: Sequence[HypervisorKind], *, mac_vms: bool = False, attesting: bool = False
) -> Iterator[tuple[Lab, StoryReport]]:
    """For a fixture: the story with its core faults, in a lab that is there until the tests are done; `SHAMON_LAB_LOGS`
    names where its logs are kept. `attesting`: as for `lab_of`."""
    logs = os.environ.get("SHAMON_LAB_LOGS")
    with lab_of(kinds, keep=Path(logs) if logs else None, attesting=attesting) as lab:
        yield lab, play(lab, faults=CORE_FAULTS, observer=PlainObserver(), mac_vms=mac_vms)


def main() -> int:
    """Play and report."""
    parser = argparse.ArgumentParser(prog="make lab", description=__doc__)
    parser.add_argument("--full", action="store_true", help="every fault of the story (default: one)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report there")
    parser.add_argument(
        "--logs", type=Path, metavar="DIR", help="keep the hosts' consoles and the wire's capture there"
    )
    parser.add_argument(
        "--hosts",
        type=_kinds,
        default=(HypervisorKind.QEMU,),
        metavar="KIND,...",
        help="what alpha, beta and gamma run: qemu (or kvm) or xen; the last goes for those that are left",
    )
    parser.add_argument("--mac-vms", action="store_true", help="a VM of its own on each host holds its links")
    arguments = parser.parse_args()
    with lab_of(arguments.hosts, keep=arguments.logs) as lab:
        print(f"three hosts under {lab.accelerator}; the first steps take minutes", flush=True)
        faults = tuple(Fault) if arguments.full else CORE_FAULTS
        report = play(lab, faults=faults, observer=PlainObserver(), mac_vms=arguments.mac_vms)
    print(f"{sum(step.ok for step in report.steps)} of {len(report.steps)} steps held. {dict(report.figures)}")
    if arguments.json:
        arguments.json.write_text(json.dumps(report.as_json(), indent=2) + "\n")
    return 0 if report.ok else 1


def _kinds(text: str) -> tuple[HypervisorKind, ...]:
    """Raises ValueError, which argparse tells."""
    return tuple(HypervisorKind("qemu" if word == "kvm" else word) for word in text.split(","))


if __name__ == "__main__":
    sys.exit(main())
