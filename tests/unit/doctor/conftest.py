"""A good host for each test; the coalition's files are made once."""

from pathlib import Path

import pytest

from tests.unit.doctor.host_tree import HostTree, found_coalition


@pytest.fixture(scope="session")
def coalition(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("coalition")
    found_coalition(root)
    return root


@pytest.fixture
def host(tmp_path: Path, coalition: Path) -> HostTree:
    host = HostTree(tmp_path / "host")
    host.make(coalition)
    return host
