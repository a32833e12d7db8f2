"""`shamon selinux`: what is printed, and the exit codes."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from shamon_host.cli import selinux
from shamon_host.cli.main import main
from shamon_host.testing.selinux import MemorySelinuxHost


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> MemorySelinuxHost:
    """The host that the commands see, without the modules; and root."""
    host = MemorySelinuxHost()

    def given(backend: Any) -> Callable[[], Any]:
        return lambda: backend

    monkeypatch.setattr(selinux, "SelinuxFs", given(host.kernel))
    monkeypatch.setattr(selinux, "SemoduleStore", given(host.store))
    monkeypatch.setattr(selinux, "LinuxLabelledHost", given(host.labels))
    monkeypatch.setattr("os.geteuid", lambda: 0)
    return host


def test_without_the_modules_the_check_fails_and_says_what_helps(
    host: MemorySelinuxHost, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["selinux", "check"]) == 1
    shown = capsys.readouterr().out
    assert "WRONG   contexts  shamon_link_t:s0:c10, shamon_link_t:s0:c1023, shamon_spd_t:s0:c10 and 1 more" in shown
    assert shown.endswith("What helps:\n  Load Shamon's module: shamon selinux install\n")


def test_installed_step_by_step_and_checked(host: MemorySelinuxHost, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["selinux", "install", "--kvm"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:4] == [
        "module shamon: will be installed",
        "module kvm_host: will be installed",
        "building and loading the policy",
        "labels of files: 5 files",
    ]
    assert lines[-1].startswith("All ")
    assert main(["selinux", "check"]) == 0
    assert main(["selinux", "install"]) == 0
    assert len(host.store.changes) == 1


def test_a_dry_run_ends_before_the_check(host: MemorySelinuxHost, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["selinux", "install", "--dry-run"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "files whose label would change: 5"
    assert host.store.changes == []


def test_json_has_every_answer(host: MemorySelinuxHost, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["selinux", "install", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["ok"]
    assert told["steps"][0] == "module shamon: will be installed"
    host.kernel.enforcing = False
    assert main(["selinux", "check", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    (wrong,) = [item for item in told["findings"] if not item["ok"]]
    assert (wrong["about"], wrong["who"], wrong["expected"], wrong["found"]) == ("mode", "kernel", "yes", "no")
    assert "enforcing=1" in wrong["remedy"]


def test_an_installation_that_fails_is_an_error_with_what_was_found(
    host: MemorySelinuxHost, capsys: pytest.CaptureFixture[str]
) -> None:
    host.store.configured = "mls"
    assert main(["selinux", "install"]) == 1
    assert "SELINUXTYPE=default" in capsys.readouterr().err


@pytest.mark.parametrize("action", ["install", "check", "remove"])
def test_nobody_but_root(action: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert main(["selinux", action]) == 1
    assert "root" in capsys.readouterr().err
