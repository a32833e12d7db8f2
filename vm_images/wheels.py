"""The host's Python packages: installed into /opt/shamon inside a Debian root with compilers, then carried into the
image without them.

The build root is kept, because the project's own package is built there whenever its code changes.
"""

import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from vm_images.commands import run, run_in_root
from vm_images.debian import make_root, read_list

VENV = "/opt/shamon"
REQUIREMENTS = Path(__file__).parents[1] / "requirements"
_TOOLS = "/opt/build"
# What the host needs, what builds those of its packages that come as source, and what builds this project: all pinned
# with hashes.
_HOST, _HOST_BUILD, _BUILD = (REQUIREMENTS / name for name in ("host.txt", "host-build.txt", "build.txt"))
LOCK_FILES = (_HOST, _HOST_BUILD, _BUILD)


def make_build_root(root: Path, package_list: Path) -> None:
    """A root with compilers, headers and a virtual environment of everything that builds wheels."""
    make_root(root, read_list(package_list), excludes=["/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*"])
    run_in_root(root, ["python3", "-m", "venv", _TOOLS])
    for lock in (_HOST_BUILD, _BUILD):
        _pip(root, ["install", "--require-hashes", "-r", "/tmp/lock.txt"], {lock: "/tmp/lock.txt"})


def install_requirements(build_root: Path, target_root: Path) -> None:
    """Make /opt/shamon in `target_root` from the host's lock file."""
    venv = build_root / VENV.lstrip("/")
    if venv.exists():
        shutil.rmtree(venv)
    run_in_root(build_root, ["python3", "-m", "venv", "--without-pip", VENV])
    with tempfile.TemporaryDirectory() as made:
        binds = {_HOST: "/tmp/lock.txt", Path(made): "/tmp/wheels"}
        _pip(
            build_root,
            ["wheel", "--require-hashes", "--no-build-isolation", "-w", "/tmp/wheels", "-r", "/tmp/lock.txt"],
            binds,
        )
        wheels = [f"/tmp/wheels/{wheel.name}" for wheel in sorted(Path(made).iterdir())]
        _pip(
            build_root,
            ["--python", f"{VENV}/bin/python", "install", "--no-compile", "--no-deps", "--no-index", *wheels],
            binds,
        )
    run(["cp", "-a", venv, target_root / "opt/"])


def install_project(build_root: Path, source: Path, target_root: Path) -> None:
    """Install the project at `source` (a clean copy of it) into /opt/shamon of `target_root`, dependencies left
    alone.
    """
    binds = {target_root / VENV.lstrip("/"): VENV, source: "/tmp/source"}
    _pip(build_root, ["wheel", "--no-deps", "--no-build-isolation", "-w", "/tmp/source/wheel", "/tmp/source"], binds)
    python = ["--python", f"{VENV}/bin/python"]
    _pip(
        build_root,
        [*python, "install", "--no-deps", "--no-index", "--find-links", "/tmp/source/wheel", "shamon-host"],
        binds,
    )


def _pip(root: Path, arguments: list[str], binds: Mapping[Path, str] | None = None) -> None:
    machine = _settings_of_this_machine()
    files = {path: str(path) for path in (Path("/etc/resolv.conf"), Path("/etc/hosts"), *machine.paths)}
    resolved = {Path(os.path.realpath(path)): inside for path, inside in files.items()}
    python = [f"{_TOOLS}/bin/python", "-m", "pip", "--no-cache-dir", "--disable-pip-version-check", *arguments]
    run_in_root(root, python, binds={**resolved, **(binds or {})}, env=machine.env)


class _Settings:
    """What this machine's pip goes by: environment, and the files and directories that its settings name."""

    def __init__(self, env: dict[str, str], paths: list[Path]) -> None:
        self.env = env
        self.paths = paths


def _settings_of_this_machine() -> _Settings:
    wanted = re.compile(r"PIP_.*|.*_proxy|SSL_CERT_(FILE|DIR)|REQUESTS_CA_BUNDLE", re.IGNORECASE)
    env = {name: value for name, value in os.environ.items() if wanted.fullmatch(name)}
    files = [
        Path("/etc/pip.conf"),
        Path("/etc/xdg/pip/pip.conf"),
        Path.home() / ".pip/pip.conf",
        Path.home() / ".config/pip/pip.conf",
    ]
    if "PIP_CONFIG_FILE" in env:
        files.append(Path(env["PIP_CONFIG_FILE"]))
    configured = [path for path in files if path.is_file()]
    words = " ".join([*env.values(), *(path.read_text() for path in configured)]).split()
    named = {Path(word.removeprefix("file://")) for word in words if word.removeprefix("file://").startswith("/")}
    trees = {_index_root(path) for path in named if path.exists()}
    env["HOME"] = str(Path.home())
    return _Settings(env, [*configured, *sorted(trees)])


def _index_root(path: Path) -> Path:
    """A simple index refers to files beside it (``../../files``): take its parent too."""
    return path.parent if path.name == "simple" else path
