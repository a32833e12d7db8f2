"""Running tests inside a lab host, in the daemon's SELinux domain: contract suites on the real kernel, TPM and libvirt.

The host's image has no pytest; this machine's own, which is pure Python, is sent along. The IMA log of the host then names files that no Reference
Value knows, so a host used this way cannot be attested until it boots again.
"""

import importlib.util
import io
import shlex
import tarfile
from pathlib import Path

from tests.integration.lab.errors import LabError
from tests.integration.lab.host import LabHost
from tests.integration.lab.ssh import Result
from vm_images.cache import source_files

_REPOSITORY = Path(__file__).parents[3]
_HOME = "/var/lab-tests"
_PLUGINS = ("pytest", "_pytest", "pluggy", "iniconfig", "packaging", "pygments", "pytest_asyncio", "typing_extensions")


def send_tests(host: LabHost) -> None:
    """Put the checkout's tests and pytest on the host, in place of what an earlier call left."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        archive.add(_REPOSITORY / "pyproject.toml", "pyproject.toml")
        for path in source_files(_REPOSITORY / "tests"):
            archive.add(path, str(path.relative_to(_REPOSITORY)))
        for name in _PLUGINS:
            archive.add(_package(name), f"packages/{_package(name).name}", filter=_without_bytecode)
    host.run(f"rm -rf {_HOME} && mkdir {_HOME} && tar -C {_HOME} -xf -", stdin=packed.getvalue())


def run_tests(host: LabHost, *arguments: str, timeout_s: float = 600) -> Result:
    """Run pytest with these arguments (paths as in the checkout) on the host, in the daemon's domain.

    Raises:
        LabError: a test failed; the message is pytest's own report.
    """
    words = " ".join(shlex.quote(word) for word in arguments)
    command = f"/opt/shamon/bin/python -B -m pytest -p no:cacheprovider -p pytest_asyncio -q --tb=short {words}"
    where = f"-p WorkingDirectory={_HOME} -E PYTHONPATH={_HOME}/packages -E SHAMON_IN_LAB_HOST=1"
    result = run_in_domain(host, command, systemd_options=where, timeout_s=timeout_s)
    if result.status != 0:
        raise LabError(f"{host.name}: tests exited with {result.status}\n{result.stdout[-8000:]}{result.stderr[-2000:]}")
    return result


def run_in_domain(host: LabHost, command: str, *, systemd_options: str = "", timeout_s: float = 60) -> Result:
    """Run a program in the daemon's SELinux domain; its status is not checked."""
    run = f"systemd-run -q --wait --pipe -p Type=exec {systemd_options}"
    return host.run(f"{run} /usr/local/sbin/lab-in-domain {command}", check=False, timeout_s=timeout_s)


def _package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise LabError(f"{name} is not installed here: run make once, which sets the environment up")
    origin = Path(spec.origin)
    return origin.parent if origin.name == "__init__.py" else origin


def _without_bytecode(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if "__pycache__" in entry.name else entry
