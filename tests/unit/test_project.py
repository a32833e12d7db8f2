"""The project's own files: one version everywhere, and lock files that pin by hash and name no address."""

import importlib.metadata
import re
import tomllib
from pathlib import Path

import pytest

import shamon_host

ROOT = Path(__file__).resolve().parents[2]
LOCK_FILES = sorted((ROOT / "requirements").glob("*.txt"))


def test_the_installed_version_is_the_packages_own() -> None:
    assert importlib.metadata.version("shamon-host") == shamon_host.__version__


def test_the_package_ships_its_type_marker() -> None:
    assert (Path(shamon_host.__file__).parent / "py.typed").is_file()


def test_there_are_lock_files() -> None:
    assert {path.stem for path in LOCK_FILES} >= {"run", "dev", "host", "build"}


@pytest.mark.parametrize("path", LOCK_FILES, ids=lambda path: path.name)
def test_a_lock_file_names_no_address(path: Path) -> None:
    assert not re.search(r"://|--(extra-)?index|--find-links|--trusted-host", path.read_text())


@pytest.mark.parametrize("path", LOCK_FILES, ids=lambda path: path.name)
def test_every_pin_of_a_lock_file_has_a_hash(path: Path) -> None:
    entries = path.read_text().replace("\\\n", " ").splitlines()
    pins = [entry for entry in entries if entry and not entry.startswith("#")]
    assert pins
    assert [pin for pin in pins if not re.match(r"\S+==\S+ .*--hash=sha256:[0-9a-f]{64}", pin)] == []


def test_every_dependency_of_the_runtime_is_locked() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    locked = set(re.findall(r"^([\w.-]+)==", (ROOT / "requirements/run.txt").read_text(), re.MULTILINE))
    assert {re.split(r"[<>=~!\[]", each)[0] for each in project["dependencies"]} <= locked
