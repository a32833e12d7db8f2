"""Contract suites on the real thing: a suite and pytest go to a lab host, run there, and each test is reported here.

A suite is a module of this repository that pytest would collect if it were named so (`libvirt_suite.py`, not
`test_...`), and that can be imported without what only the host has: adapters are imported inside fixtures. It runs
under the host's own Python, as unconfined root or in the daemon's SELinux domain, with this checkout's code in front of
the installed one. Beside the suite, a test module names it::

    SUITE = "tests/integration/hypervisor/libvirt_suite.py"

    @pytest.fixture(scope="module")
    def outcomes(hosts: list[LabHost]) -> RemoteOutcomes:
        return run_suite(hosts[0], SUITE)

    @pytest.mark.parametrize("test", suite_tests(SUITE))
    def test_in_host(outcomes: RemoteOutcomes, test: str) -> None:
        outcomes.report(test)

Files lie on the host's tmpfs, which IMA leaves out, so a host that ran a suite unconfined still attests as before.
"""

import importlib
import importlib.metadata
import importlib.util
import inspect
import io
import json
import shlex
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integration.lab.errors import LabError
from tests.integration.lab.host import LabHost
from vm_images.cache import source_files

_REPOSITORY = Path(__file__).parents[3]
_DISTRIBUTIONS = ("pytest", "pytest-asyncio", "pluggy", "iniconfig", "packaging", "typing_extensions")
_PYTHON = "/opt/shamon/bin/python"
_HOME = "/run/suite"
_PLUGIN = Path(__file__).with_name("remote_reporter.py")
_TAIL = 4000


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteOutcome:
    """What one test did in one of its phases."""

    test: str
    """`Class::function` or `function`, without what stands in brackets."""
    outcome: str
    words: str
    duration_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteOutcomes:
    """All tests of one run of a suite."""

    outcomes: Sequence[RemoteOutcome]
    output: str
    """What pytest printed in the host."""

    def report(self, test: str) -> None:
        """Pass, fail or skip here as `test` did in the host, all its parameters together; fail if it did not run."""
        found = [outcome for outcome in self.outcomes if outcome.test == test]
        failures = [outcome.words for outcome in found if outcome.outcome == "failed"]
        if failures:
            pytest.fail("\n\n".join(failures), pytrace=False)
        skips = [outcome.words for outcome in found if outcome.outcome == "skipped"]
        if skips and len(skips) == len(found):
            pytest.skip(skips[0])
        if not found:
            pytest.fail(f"{test} did not run in the host\n{self.output[-_TAIL:]}", pytrace=False)


def suite_tests(suite: str) -> list[str]:
    """The tests of a suite, `Class::function` or `function`, those that its classes inherit included."""
    module = importlib.import_module(suite.removesuffix(".py").replace("/", "."))
    names = [name for name, value in vars(module).items() if name.startswith("test") and inspect.isfunction(value)]
    for name, value in vars(module).items():
        if name.startswith("Test") and inspect.isclass(value):
            names += [f"{name}::{function}" for function in dir(value) if function.startswith("test")]
    if not names:
        raise LabError(f"{suite} has no tests")
    return names


def run_suite(
    host: LabHost,
    suite: str,
    *,
    confined: bool = False,
    environment: Mapping[str, str] | None = None,
    arguments: Sequence[str] = (),
    timeout_s: float = 300,
) -> RemoteOutcomes:
    """Run `suite` (a path in this repository) in `host`, as root; `confined`: in the daemon's SELinux domain.

    A confined run executes a program that no Reference Value knows, and IMA logs it: the host then no longer attests.

    Raises:
        LabError: the suite could not be sent, or was not done within `timeout_s`.
    """
    _send(host)
    report = f"{_HOME}/report.jsonl"
    variables = {
        "PYTHONPATH": f"{_HOME}/code:{_HOME}/lib",
        "SHAMON_REPORT": report,
        "HOME": _HOME,
        **(environment or {}),
    }
    path = Path(_HOME) / "code" / suite
    options = ["-c", "/dev/null", f"--rootdir={_HOME}/code", f"--confcutdir={path.parent}", "--import-mode=importlib"]
    options += ["-p", "no:cacheprovider", "-p", _PLUGIN.stem, "-W", "error", "-o", "asyncio_mode=auto"]
    options += ["-o", "asyncio_default_fixture_loop_scope=function", "-q", *arguments, str(path)]
    settings = [f"{name}={value}" for name, value in variables.items()]
    if confined:
        # systemd's way into the daemon's domain is a program of the daemon's type.
        host.run(f"printf '#!%s\\nimport pytest, sys\\nsys.exit(pytest.main(sys.argv[1:]))\\n' {_PYTHON} > {_HOME}/run")
        host.run(f"chmod 0755 {_HOME}/run && chcon -t shamon_exec_t {_HOME}/run")
        command = ["systemd-run", "-q", "--wait", "--pipe", "--collect", *(f"--setenv={item}" for item in settings)]
        command += [f"--property=WorkingDirectory={_HOME}/code", f"{_HOME}/run", *options]
    else:
        command = ["env", "-C", f"{_HOME}/code", *settings, _PYTHON, "-m", "pytest", *options]
    result = host.run(f"timeout {timeout_s:.0f} {shlex.join(command)} 2>&1", check=False, timeout_s=timeout_s + 30)
    told = host.run(f"cat {report} 2>/dev/null", check=False).stdout
    return RemoteOutcomes(outcomes=tuple(_outcomes(told)), output=result.stdout)


def _outcomes(told: str) -> Iterator[RemoteOutcome]:
    for line in told.splitlines():
        fields = json.loads(line)
        test = fields["nodeid"].partition("::")[2].partition("[")[0]
        yield RemoteOutcome(
            test=test, outcome=fields["outcome"], words=fields["words"], duration_s=fields["duration_s"]
        )


def _send(host: LabHost) -> None:
    """Put this checkout's code and pytest on the host, compiled already: a host in the emulator is slow at that."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name in ("shamon_host", "tests"):
            for path in source_files(_REPOSITORY / name):
                if path.suffix in (".py", ".md"):
                    _add(archive, path, f"code/{path.relative_to(_REPOSITORY)}")
        for name in _DISTRIBUTIONS:
            for file in importlib.metadata.files(name) or ():
                path = Path(str(file.locate()))
                if path.is_file() and ".." not in file.parts and path.suffix != ".pyc":
                    _add(archive, path, f"lib/{file}")
        _add(archive, _PLUGIN, f"lib/{_PLUGIN.name}")
    mounted = f"umount -q {_HOME}; mkdir -p {_HOME} && mount -t tmpfs -o mode=0700 suite {_HOME}"
    host.run(f"{mounted} && tar -C {_HOME} -xf -", stdin=packed.getvalue(), timeout_s=120)


def _add(archive: tarfile.TarFile, path: Path, name: str) -> None:
    archive.add(path, arcname=name)
    compiled = Path(importlib.util.cache_from_source(str(path)))
    if path.suffix == ".py" and compiled.exists():
        archive.add(compiled, arcname=str(Path(name).parent / "__pycache__" / compiled.name))
