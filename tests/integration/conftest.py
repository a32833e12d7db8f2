"""Fixtures of the integration tests: one lab for the session, and its two hosts, booted once for all tests that leave
them as they were.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.lab import Lab, LabHost
from tests.integration.lab.images import host_images


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests with a lab of their own come first: later the session's hosts run beside everything. Then those that look
    at hosts as they booted, then the suites that run programs of their own on them.
    """

    def turn(item: pytest.Item) -> int:
        if "lab" not in getattr(item, "fixturenames", ()):
            return 0
        return 1 if item.path.name == "test_lab_smoke.py" else 2

    items.sort(key=turn)


@pytest.fixture(scope="session")
def images() -> Path:
    """The directory of the host images, built first when needed."""
    if os.geteuid() != 0 and "SHAMON_LAB_IMAGES" not in os.environ:
        pytest.skip(
            "the lab's images are built by root: run as root, or name a directory of images in SHAMON_LAB_IMAGES"
        )
    return host_images()


@pytest.fixture(scope="session")
def lab(images: Path) -> Iterator[Lab]:
    """The lab of this session; SHAMON_LAB_LOGS names a directory for its logs and its capture file."""
    logs = os.environ.get("SHAMON_LAB_LOGS")
    with Lab(images, keep=Path(logs) if logs else None) as lab:
        yield lab


@pytest.fixture(scope="session")
def hosts(lab: Lab) -> list[LabHost]:
    """alpha and beta, running. A test that boots them otherwise, or leaves anything behind, has a lab of its own."""
    return lab.boot("alpha", "beta")


@pytest.fixture
def alpha(hosts: list[LabHost]) -> LabHost:
    """The first shared host."""
    return hosts[0]


@pytest.fixture
def beta(hosts: list[LabHost]) -> LabHost:
    """The second shared host."""
    return hosts[1]
