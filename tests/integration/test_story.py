"""The story on real hosts: its core, with one failure, in CI; every failure in the full run."""

import os
from pathlib import Path

import pytest

from shamon_host.cli.demo_screen import PlainObserver
from shamon_host.testing.world import Fault
from tests.integration.lab.lab import Lab
from tests.integration.lab.story import CORE_FAULTS, play


def _play(images: Path, faults: tuple[Fault, ...]) -> None:
    logs = os.environ.get("SHAMON_LAB_LOGS")
    with Lab(images, keep=Path(logs) if logs else None) as lab:
        report = play(lab, faults=faults, observer=PlainObserver())
    assert report.ok, [step for step in report.steps if not step.ok]
    assert {"handshake_ms", "quote_ms", "detect_to_teardown_ms"} <= set(report.figures)


def test_the_core_of_the_story(images: Path) -> None:
    _play(images, CORE_FAULTS)


@pytest.mark.full
def test_the_other_failures_of_the_story(images: Path) -> None:
    _play(images, tuple(fault for fault in Fault if fault not in CORE_FAULTS))
