"""The story on real hosts: its core, with one failure, in CI; every failure in the full run.

The hosts of the core are used once more, for what has to be shown of their links.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from shamon_host.cli.demo_screen import PlainObserver
from shamon_host.testing.story_report import StoryReport
from shamon_host.testing.world import Fault
from tests.integration.lab.lab import Lab
from tests.integration.lab.link_pair import LinkPair
from tests.integration.lab.story import CORE_FAULTS, play
from tests.integration.links.proofs import LinkProofs


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """A story that was told, and the hosts that it leaves: alpha's daemon is stopped, everything else runs."""

    lab: Lab
    report: StoryReport


def _lab(images: Path) -> Lab:
    logs = os.environ.get("SHAMON_LAB_LOGS")
    return Lab(images, keep=Path(logs) if logs else None)


def _check(report: StoryReport) -> None:
    assert report.ok, [step for step in report.steps if not step.ok]
    assert {"handshake_ms", "quote_ms", "detect_to_teardown_ms"} <= set(report.figures)


@pytest.fixture(scope="module")
def told(images: Path) -> Iterator[Told]:
    with _lab(images) as lab:
        yield Told(lab=lab, report=play(lab, faults=CORE_FAULTS, observer=PlainObserver()))


@pytest.fixture(scope="module")
def pair(told: Told) -> LinkPair:
    if not told.report.ok:
        pytest.skip("the story did not come to its end")
    pair = LinkPair(told.lab)
    pair.start()
    return pair


def test_the_core_of_the_story(told: Told) -> None:
    _check(told.report)


class TestTheCore(LinkProofs):
    """The hosts of the core, once more."""


@pytest.mark.full
def test_the_other_failures_of_the_story(images: Path) -> None:
    with _lab(images) as lab:
        report = play(lab, faults=tuple(fault for fault in Fault if fault not in CORE_FAULTS), observer=PlainObserver())
    _check(report)
