"""`shamon doctor`: what it prints, and its exit codes."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from shamon_host.cli.api_client import ApiClient
from shamon_host.cli.host_doctor import _daemon_version
from shamon_host.cli.main import main
from shamon_host.doctor import bounded, host_files
from shamon_host.doctor.bounded import no_program
from shamon_host.doctor.host_files import HostFiles
from shamon_host.doctor.look import PERMISSION, Look
from shamon_host.domain.errors import BadInput, Unreachable


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The root of the host that the command looks at."""
    monkeypatch.setattr(host_files, "HostFiles", lambda: HostFiles(tmp_path))
    monkeypatch.setattr(bounded, "run_program", no_program)
    return tmp_path


def test_a_table_then_what_to_do(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert out.splitlines()[0].split() == ["SUBJECT", "CHECK", "VERDICT", "FOUND"]
    assert out.count("\nkernel ") == 1
    assert "\nWrong:\n" in out
    assert "  tpm: there is no /dev/tpmrm0\n    expected: a TPM 2.0 that answers\n    to do: " in out
    assert "    see: docs/doctor.md#tpm\n" in out
    assert "\nNot known, so not taken for right:\n" in out
    assert out.endswith("This host is not fit yet.\n")


def test_json_has_the_same(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["fit"] is False
    found = {item["name"]: item for item in told["findings"]}
    assert found["uefi"]["verdict"] == "wrong"
    assert sum(told["counts"].values()) == len(told["findings"])
    assert all(item["see"] == f"docs/doctor.md#{name}" for name, item in found.items())


def test_one_check_alone(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "proc/sys/kernel").mkdir(parents=True)
    (root / "proc/sys/kernel/osrelease").write_text("6.1.0\n")
    assert main(["doctor", "--only", "kernel-version"]) == 0
    assert capsys.readouterr().out.endswith("1 ok, 0 warning, 0 wrong, 0 unknown. This host is fit for a coalition.\n")
    assert main(["doctor", "--only", "kernel-version", "--only", "uefi"]) == 1


def test_a_warning_alone_is_exit_code_0(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--only", "policy"]) == 0
    assert "this host has not joined yet" in capsys.readouterr().out


def test_what_is_unknown_is_not_fit(root: Path) -> None:
    assert main(["doctor", "--only", "lsm-order"]) == 1


@pytest.mark.parametrize("options", [["--no-programs"], ["--only", "tpm", "--only", "sysctls"]])
def test_no_program_is_run_where_none_is_needed(
    root: Path, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    def run(arguments: Sequence[str]) -> Look[str]:
        raise AssertionError(arguments)

    monkeypatch.setattr(bounded, "run_program", run)
    assert main(["doctor", *options]) == 1


def test_long_words_are_cut_in_the_table_alone(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "proc").mkdir()
    (root / "proc/cmdline").write_text("quiet\n")
    assert main(["doctor", "--only", "command-line"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].endswith("...")
    assert any(line.endswith("ima_policy=tcb|critical_data") for line in lines)


def test_a_check_that_is_none(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--only", "no\x1bsuch"]) == 2
    err = capsys.readouterr().err
    assert "no such check" in err
    assert "\x1b" not in err


def test_another_configuration(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "other.toml").write_text('name = "delta"\n')
    assert main(["doctor", "--only", "configuration", "--config", "/other.toml"]) == 0
    assert "this host is delta" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("answer", "seen"),
    [
        ({"version": "1.2"}, Look("1.2")),
        ({}, Look(unread="'version'")),
        (Unreachable("it does not answer", found="[Errno 111] Connection refused"), Look()),
        (Unreachable("it does not answer", found="[Errno 13] Permission denied"), Look(unread=PERMISSION)),
        (BadInput("no such request"), Look(unread="no such request")),
    ],
)
def test_the_daemon_is_asked_for_its_version(monkeypatch: pytest.MonkeyPatch, answer: Any, seen: Look[str]) -> None:
    def get(_: ApiClient, path: str) -> Any:
        assert path == "/v1/status"
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(ApiClient, "get", get)
    assert _daemon_version(Path("/run/shamon/shamon.sock")) == seen
