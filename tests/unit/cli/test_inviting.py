"""What `shamon coalition invite` and its neighbours refuse before anybody is invited."""

import base64
import json
import sys
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from types import ModuleType

import pytest

from shamon_host.cli.inviting import parse_address, parse_duration
from shamon_host.cli.main import main
from shamon_host.domain.errors import BadInput
from shamon_host.testing.memory_world import MEMORY_TIMING
from shamon_host.testing.story_policy import story_policy
from shamon_host.testing.tpm import MemoryTpm


@pytest.fixture
def root(tmp_path: Path) -> Path:
    assert main(["coalition", "init", "lab", "--ca", str(tmp_path / "ca")]) == 0
    (tmp_path / "policy.toml").write_text(story_policy(image_sha256="0" * 64, timing=MEMORY_TIMING))
    return tmp_path


def coalition(root: Path, *arguments: str) -> int:
    return main(["coalition", *arguments, "--ca", str(root / "ca"), "--registry", str(root / "peers")])


def invite(root: Path, *arguments: str, host: str = "alpha", listen: str = "127.0.0.1:0") -> int:
    out = ["--out", str(root / "invitation"), "--policy", str(root / "policy.toml"), "--listen", listen]
    return coalition(root, "invite", host, *out, *arguments)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--tpm", "hardware", "--trust-first-ek"], "a hardware TPM must be known"),
        (["--tpm", "software", "--ek", "00"], "bad digest of an EK"),
        (["--tpm", "software", "--ek-roots", "/nowhere"], "folder of EK roots cannot be read"),
        (["--tpm", "software", "--trust-first-ek", "--valid", "8d"], "bad duration"),
    ],
)
def test_a_bad_invitation_is_not_written(
    root: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert invite(root, *arguments) == 2
    assert words in capsys.readouterr().err
    assert not (root / "invitation").exists()


def test_a_host_that_the_policy_does_not_know_is_not_invited(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert invite(root, "--tpm", "software", "--trust-first-ek", host="delta") == 2
    assert "knows no such host" in capsys.readouterr().err


def test_a_file_that_is_there_is_left_alone(root: Path) -> None:
    (root / "invitation").write_text("something else")
    assert invite(root, "--tpm", "software", "--trust-first-ek") == 2
    assert (root / "invitation").read_text() == "something else"


def test_an_address_that_nobody_can_call_needs_another_one(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert invite(root, "--tpm", "software", "--trust-first-ek", listen="0.0.0.0:0") == 2
    assert "--reach" in capsys.readouterr().err


@pytest.mark.parametrize("ways", [[], ["--trust-first-ek", "--ek", "0" * 64]])
def test_there_is_exactly_one_way_to_know_the_tpm(root: Path, ways: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        invite(root, "--tpm", "software", *ways)
    assert caught.value.code == 2


def test_addresses_and_durations() -> None:
    assert parse_address("192.0.2.1:7444") == ("192.0.2.1", 7444)
    assert parse_address("[2001:db8::1]:0") == ("2001:db8::1", 0)
    for text in ("", "192.0.2.1", "host:1", "192.0.2.1:65536", "192.0.2.1:-1", "192.0.2.1:x", ":1"):
        with pytest.raises(BadInput):
            parse_address(text)
    assert [parse_duration(text) for text in ("90s", "15m", "2h", "7d")] == [
        timedelta(seconds=90),
        timedelta(minutes=15),
        timedelta(hours=2),
        timedelta(days=7),
    ]
    for text in ("", "15", "0m", "-1m", "1w", "9999999s", "1.5h", "8d"):
        with pytest.raises(BadInput):
            parse_duration(text)


def test_what_will_be_refused_is_not_invited(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An invitation would be used up by it."""
    policy = root / "policy.toml"
    text = policy.read_text()
    assert "allow_software_tpm = true" in text
    policy.write_text(text.replace("allow_software_tpm = true", "allow_software_tpm = false"))
    assert invite(root, "--tpm", "software", "--trust-first-ek") == 1
    assert "its TPM is software, which the policy does not allow" in capsys.readouterr().err
    policy.write_text(text)
    assert enrol(root, "alpha") == 0
    assert coalition(root, "expel", "alpha") == 0
    capsys.readouterr()
    assert invite(root, "--tpm", "software", "--trust-first-ek") == 1
    assert "alpha was expelled" in capsys.readouterr().err
    assert not (root / "invitation").exists()


def test_a_host_that_is_gone_is_released(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert enrol(root, "alpha") == 0
    assert coalition(root, "release", "alpha", "--reason", "its board was exchanged") == 0
    assert "alpha is released: it is out, and its name may be invited again" in capsys.readouterr().out
    assert coalition(root, "hosts") == 0
    assert "its board was exchanged" in capsys.readouterr().out
    assert coalition(root, "release", "alpha") == 1
    assert "out already" in capsys.readouterr().err
    assert enrol(root, "alpha") == 0


def enrol(root: Path, host: str) -> int:
    """By hand, always with the same AK."""
    if not (root / "ak").exists():
        (root / "ak").write_bytes(MemoryTpm(clock_s=lambda: 0.0).ak_public())
    files = ["--policy", str(root / "policy.toml"), "--ak", str(root / "ak"), "--out", str(root / "tls")]
    return coalition(root, "enrol", host, "--tpm", "software", *files)


def test_the_registry_is_printed_and_an_unknown_host_is_not_expelled(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "peers").mkdir()
    capsys.readouterr()
    assert coalition(root, "hosts") == 0
    assert capsys.readouterr().out == "no host is enrolled\n"
    assert coalition(root, "expel", "alpha") == 2
    assert "not enrolled" in capsys.readouterr().err
    assert enrol(root, "alpha") == 0
    capsys.readouterr()
    assert coalition(root, "hosts", "--json") == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["host"], row["ek"], len(row["ak_name"]), len(row["certificate"])) == ("alpha", None, 68, 64)
    assert coalition(root, "hosts") == 0
    words = capsys.readouterr().out.splitlines()[1].split()
    assert words == ["alpha", "enrolled", "1", "software", "not", "shown", row["ak_name"][:16], "-"]


@pytest.mark.parametrize("command", [["hosts"], ["expel", "alpha"], ["rotate-ca"]])
def test_a_registry_that_is_not_there_is_no_empty_one(
    root: Path, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = (root / "ca/ca.pem").read_bytes()
    assert coalition(root, *command) == 2
    assert "there is no such registry" in capsys.readouterr().err
    assert not (root / "peers").exists()
    assert (root / "ca/ca.pem").read_bytes() == before


def test_the_ca_is_rotated_again_only_when_every_host_has_a_certificate_of_the_present_one(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert enrol(root, "alpha") == 0
    capsys.readouterr()
    assert coalition(root, "rotate-ca") == 0
    assert "No host knows yet" in capsys.readouterr().out
    assert coalition(root, "rotate-ca") == 1
    assert "found: alpha\n" in capsys.readouterr().err
    assert enrol(root, "alpha") == 0
    assert coalition(root, "rotate-ca") == 0
    assert coalition(root, "expel", "alpha") == 0
    assert coalition(root, "rotate-ca") == 0


def test_the_ak_of_this_host_in_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tpm = MemoryTpm()
    backends = ModuleType("shamon_host.daemon.composition")
    vars(backends).update(open_tpm=lambda tcti: nullcontext(tpm))
    monkeypatch.setitem(sys.modules, backends.__name__, backends)
    out = tmp_path / "ak"
    for more in ([], ["--out", str(out)]):
        assert main(["coalition", "ak", "--json", *more]) == 0
        told = json.loads(capsys.readouterr().out)
        assert base64.b64decode(told["ak"]) == tpm.ak_public()
        assert told["out"] == (str(out) if more else None)
    assert out.read_bytes() == tpm.ak_public()
