"""`shamon reference`, with a machine in memory in place of this one."""

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from shamon_host.attestation.reference_values import load_reference_values
from shamon_host.cli import reference
from shamon_host.cli.main import main
from shamon_host.cli.recording import chosen_files, read_manifest, record_boot
from shamon_host.domain.errors import BadInput, NotTrusted
from shamon_host.testing.machine import MeasuredMachine

Shamon = Callable[..., int]


@pytest.fixture
def machine() -> MeasuredMachine:
    machine = MeasuredMachine()
    machine.boot()
    return machine


@pytest.fixture
def shamon(machine: MeasuredMachine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Shamon:
    """Runs `shamon` on that machine."""
    backends = ModuleType("shamon_host.daemon.composition")
    vars(backends).update(open_tpm=lambda tcti: machine.tpm, open_logs=lambda: machine.logs)
    monkeypatch.setitem(sys.modules, backends.__name__, backends)
    monkeypatch.setattr(reference, "DEFAULT_CONFIG", tmp_path / "host.toml")
    return lambda *arguments: main([str(argument) for argument in arguments])


def write_manifest(path: Path, files: object) -> Path:
    path.write_text(json.dumps({"files": files, "kernel": "ignored"}))
    return path


def test_records_and_shows(shamon: Shamon, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "alpha.json"
    assert shamon("reference", "record", "--host", "alpha", "--out", out) == 0
    recorded = load_reference_values(out)
    assert recorded.digest in capsys.readouterr().out
    assert shamon("reference", "show", out) == 0
    shown = capsys.readouterr().out
    assert recorded.digest in shown
    assert "enforcing=1" in shown
    assert shamon("reference", "show", out, "--json") == 0
    assert json.loads(capsys.readouterr().out)["values"] == recorded.to_document()
    assert [path.name for path in tmp_path.iterdir()] == ["alpha.json"]


def test_the_manifest_says_what_may_run_later(
    shamon: Shamon, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = write_manifest(tmp_path / "manifest.json", {"/usr/bin/later": ["ab" * 32]})
    out = tmp_path / "alpha.json"
    assert shamon("reference", "record", "--host", "alpha", "--out", out, "--manifest", manifest, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert load_reference_values(out).files["/usr/bin/later"] == {"ab" * 32}
    assert "/usr/lib/systemd/systemd" in told["boot_alone"]
    assert "/usr/bin/later" not in told["boot_alone"]


def test_files_of_the_host_and_of_another(shamon: Shamon, tmp_path: Path) -> None:
    own, other = tmp_path / "host.toml", tmp_path / "other.toml"
    own.write_text("own")
    other.write_text("other")
    out = tmp_path / "alpha.json"
    digests = {text: hashlib.sha256(text.encode()).hexdigest() for text in ("own", "other")}
    assert shamon("reference", "record", "--host", "alpha", "--out", out) == 0
    assert load_reference_values(out).files[str(own)] == {digests["own"]}
    assert shamon("reference", "record", "--host", "gamma", "--out", out, "--file", f"{own}={other}") == 0
    assert load_reference_values(out).files[str(own)] == {digests["other"]}


def test_nothing_is_written_when_the_logs_do_not_explain_the_quote(
    shamon: Shamon, machine: MeasuredMachine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "alpha.json"
    machine.logs.entries.pop()
    assert shamon("reference", "record", "--host", "alpha", "--out", out) == NotTrusted.exit_code
    assert "PCR 10" in capsys.readouterr().err
    machine.boot()
    machine.tpm.extend(4, bytes(32))
    assert shamon("reference", "record", "--host", "alpha", "--out", out) == NotTrusted.exit_code
    assert "PCR 4" in capsys.readouterr().err
    assert not out.exists()


def test_a_permissive_boot_is_not_recorded(machine: MeasuredMachine) -> None:
    machine.setenforce(enforcing=False)
    with pytest.raises(NotTrusted, match="not enforcing"):
        record_boot(machine.tpm, machine.logs)


@pytest.mark.parametrize(
    "files", [None, {}, [], {"/a": []}, {"/a": "ab" * 32}, {"/a": ["AB" * 32]}, {"a": ["ab" * 32]}, {"/a": [1]}]
)
def test_a_bad_manifest_is_refused(tmp_path: Path, files: object) -> None:
    with pytest.raises(BadInput, match=r"manifest\.json"):
        read_manifest(write_manifest(tmp_path / "manifest.json", files))


@pytest.mark.parametrize("chosen", ["relative", "/a/../b", "/nowhere/at/all", "/a=/nowhere"])
def test_a_bad_file_is_refused(chosen: str) -> None:
    with pytest.raises(BadInput):
        chosen_files([chosen], Path("/nowhere"))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": "other"}'])
def test_show_refuses_what_is_no_reference(tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "alpha.json"
    path.write_text(text)
    assert main(["reference", "show", str(path)]) == BadInput.exit_code
    assert str(path) in capsys.readouterr().err
