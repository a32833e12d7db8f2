"""Bad input on the command line: the exit code, and an error that says file, key, what was expected and what to do."""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from shamon_host.cli.main import build_parser, main
from shamon_host.testing.story_policy import story_policy
from shamon_host.testing.world import Timing

GOOD = story_policy(
    image_sha256="0" * 64, timing=Timing(period_s=10, lease_s=30, margin_s=1, timeout_s=5, action_delay_s=0)
)


def check(text: str, tmp_path: Path) -> int:
    path = tmp_path / "policy.toml"
    path.write_text(text)
    return main(["policy", "check", str(path)])


def test_a_good_policy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(GOOD, tmp_path) == 0
    assert "policy.toml: good. lab, version 1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "needles"),
    [
        (('types = ["acme/red"]', 'types = ["acme/rde"]'), ["labels.red", "acme/rde", "acme/red"]),
        (("[labels.blue]", "[labels.red]"), ["red", "line"]),
        (("version = 1", 'version = "one"'), ["coalition.version", "integer", "one"]),
        (("lease_s = 30.0", "lease_s = 5.0"), ["intervals", "period"]),
        (('image = "app"', 'image = "ap"'), ["vms", "app"]),
        (('name = "lab"', 'name = "lab'), ["line"]),
        (("margin_s = 1.0", "margin_s = 1.0\nmargin = 3"), ["margin"]),
    ],
)
def test_a_bad_policy(
    change: tuple[str, str], needles: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert change[0] in GOOD
    assert check(GOOD.replace(*change, 1), tmp_path) == 2
    told = capsys.readouterr().err
    assert "policy.toml" in told
    for needle in needles:
        assert needle in told


def test_a_policy_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["policy", "check", str(tmp_path / "none.toml"), "--json"]) == 2
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["exit_code"] == 2
    assert "none.toml" in error["where"]


def test_no_daemon_is_unreachable(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--socket", str(tmp_path / "none.sock")]) == 4
    assert "systemctl status shamon" in capsys.readouterr().err


def test_wrong_usage_exits_with_2() -> None:
    with pytest.raises(SystemExit) as caught:
        main(["vm", "explode", "web"])
    assert caught.value.code == 2


def test_enrolment_that_is_refused_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text(GOOD)
    ak = tmp_path / "delta.ak"
    ak.write_bytes(_ak())
    assert main(["coalition", "init", "lab", "--ca", str(tmp_path / "ca")]) == 0
    arguments = ["--ca", str(tmp_path / "ca"), "--policy", str(policy), "--tpm", "software"]
    places = ["--registry", str(tmp_path / "peers"), "--out", str(tmp_path / "tls")]
    assert main(["coalition", "enrol", "delta", "--ak", str(ak), *arguments, *places]) == 1
    assert "delta" in capsys.readouterr().err
    assert not (tmp_path / "tls").exists()
    assert not list((tmp_path / "peers").iterdir())


def test_the_same_ak_for_two_hosts_is_refused(tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text(GOOD)
    ak = tmp_path / "one.ak"
    ak.write_bytes(_ak())
    main(["coalition", "init", "lab", "--ca", str(tmp_path / "ca")])
    arguments = ["--ca", str(tmp_path / "ca"), "--policy", str(policy), "--tpm", "software", "--ak", str(ak)]
    places = ["--registry", str(tmp_path / "peers"), "--out", str(tmp_path / "tls")]
    assert main(["coalition", "enrol", "alpha", *arguments, *places]) == 0
    assert main(["coalition", "enrol", "beta", *arguments, *places]) == 1
    assert [path.name for path in (tmp_path / "peers").iterdir()] == ["alpha.record"]


def _ak() -> bytes:
    from shamon_host.testing.tpm import MemoryTpm

    return MemoryTpm().ak_public()


def test_every_argument_says_what_it_is_for() -> None:
    assert [name for name, help_text in _arguments(build_parser()) if not help_text] == []


def _arguments(parser: argparse.ArgumentParser) -> Iterator[tuple[str, str | None]]:
    """Of the command and all below it: command and argument, and the help on it."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _arguments(command)
        else:
            yield f"{parser.prog} {action.option_strings or action.dest}", action.help
