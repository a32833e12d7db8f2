"""systemd as the daemon has it; runs inside a lab host (see `test_systemd_in_lab.py`).

Each test has a transient service of its own, in the daemon's SELinux domain: what the daemon may say to systemd, and
ask of it, is part of what is tested.
"""

import contextlib
import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shamon_host.daemon.ports import StopReason
from shamon_host.domain.errors import BackendFailed
from shamon_host.testing.contracts.service_manager import Service, ServiceManagerContract

_PROGRAM = Path(__file__).with_name("notifying_service.py")
_HOME = Path("/run/systemd-suite")
_IN_DOMAIN = "/usr/local/sbin/lab-in-domain"
_PATIENCE_S = 60.0
_NUMBERS = itertools.count()


class Proxy:
    """`daemon.ports.ServiceManager` of the service, asked over its socket."""

    def __init__(self, channel: socket.socket) -> None:
        self._lines = channel.makefile("rw")

    def ready(self) -> None:
        self.ask("ready")

    def status(self, text: str) -> None:
        self.ask("status", text)

    def stop_reason(self) -> StopReason:
        return StopReason(str(self.ask("stop_reason")))

    def ask(self, method: str, *arguments: str) -> object:
        """What `method` of the service's `Systemd` returns there. Raises BackendFailed as it does."""
        self._lines.write(json.dumps([method, *arguments]) + "\n")
        self._lines.flush()
        told = json.loads(self._lines.readline())
        if "error" in told:
            raise BackendFailed(told["error"])
        return told["answer"]


class TransientService:
    """A unit of Type=notify with the settings of `shamon.service` that matter here."""

    def __init__(self, unit: str, channel: socket.socket) -> None:
        self._unit = unit
        self.manager = Proxy(channel)

    def is_up(self) -> bool:
        return self._property("ActiveState") == "active"

    def shown(self) -> str:
        return self._property("StatusText")

    def ask(self, what: StopReason) -> None:
        if what is StopReason.SHUTDOWN:
            pytest.skip("the host that runs this suite stays up")
        _systemctl("--no-block", what.value, self._unit)
        assert self.until(lambda: self.manager.ask("told") is True), f"{what} did not reach the service"

    def until(self, condition: Callable[[], bool]) -> bool:
        return _until(condition)

    def _property(self, name: str) -> str:
        return _systemctl("show", "--property", name, "--value", self._unit)


@pytest.fixture
def transient_service() -> Iterator[TransientService]:
    """Started, and connected to the process in it."""
    unit = f"systemd-suite-{next(_NUMBERS)}.service"
    path = _HOME / unit
    _HOME.mkdir(exist_ok=True)
    subprocess.run(["chcon", "-t", "shamon_var_run_t", str(_HOME)], check=True)
    properties = ("Type=notify", "NotifyAccess=main", "KillMode=mixed", "TimeoutStopSec=60", "TimeoutStartSec=120")
    command = ["systemd-run", "-q", "--no-block", "--collect", f"--unit={unit}"]
    command += [f"--property={item}" for item in properties]
    command += [f"--setenv=PYTHONPATH={os.environ['PYTHONPATH']}", "--setenv=PYTHONDONTWRITEBYTECODE=1"]
    subprocess.run([*command, _IN_DOMAIN, sys.executable, str(_PROGRAM), str(path), unit], check=True)
    with socket.socket(socket.AF_UNIX) as channel:
        channel.settimeout(_PATIENCE_S)
        try:
            assert _until(lambda: channel.connect_ex(str(path)) == 0), _systemctl("status", unit)
            yield TransientService(unit, channel)
        finally:
            with contextlib.suppress(OSError):
                channel.shutdown(socket.SHUT_RDWR)  # it hangs up, and the service ends
            _systemctl("stop", unit)
            _systemctl("reset-failed", unit)
            shutil.rmtree(_HOME)


class TestSystemd(ServiceManagerContract):
    @pytest.fixture
    def service(self, transient_service: TransientService) -> Service:
        return transient_service


def test_the_service_is_in_the_daemons_domain(transient_service: TransientService) -> None:
    assert str(transient_service.manager.ask("domain")).startswith("system_u:system_r:shamon_t:")


def test_what_is_asked_of_another_unit_is_not_asked_of_this_one(transient_service: TransientService) -> None:
    """While any other unit restarts, a stop is a stop."""
    other = "systemd-suite-other.service"
    slow = ["systemd-run", "-q", "--collect", f"--unit={other}", "--property=ExecStop=/usr/bin/sleep 30"]
    subprocess.run([*slow, "/usr/bin/sleep", "600"], check=True)
    try:
        _systemctl("--no-block", "restart", other)
        assert _until(lambda: f"{other} restart" in " ".join(_systemctl("list-jobs", "--plain").split()))
        transient_service.ask(StopReason.STOP)
        assert transient_service.manager.stop_reason() is StopReason.STOP
    finally:
        _systemctl("kill", "--signal=KILL", other)
        _systemctl("stop", other)


def _systemctl(*arguments: str) -> str:
    return subprocess.run(
        ["systemctl", *arguments], check=False, capture_output=True, text=True, timeout=_PATIENCE_S
    ).stdout.strip()


def _until(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + _PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True
