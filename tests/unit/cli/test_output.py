"""What reaches a terminal: aligned, in one line, and nothing that a peer wrote to take the terminal over."""

import json
from pathlib import Path

import pytest

from shamon_host.cli.main import main
from shamon_host.cli.output import print_error, print_json, print_table, printable
from shamon_host.domain.errors import NotTrusted

HOSTILE = "\x1b[2J\x9b31m\u202ewords\r\n\x07\x00\u2028\ud800"


def tame(text: str) -> bool:
    return all(character.isprintable() or character == "\n" for character in text)


def test_tables(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"host": "alpha", "reason": HOSTILE, "types": ["a", "b"]}, {"host": "b", "types": []}]
    print_table(rows, ("host", "reason", "types"), empty="nobody")
    out = capsys.readouterr().out
    assert tame(out)
    assert out.splitlines()[0].split() == ["HOST", "REASON", "TYPES"]
    assert out.splitlines()[1].endswith("a, b")
    assert len(out.splitlines()) == 3
    print_table([], ("host",), empty="nobody")
    assert capsys.readouterr().out == "nobody\n"


@pytest.mark.parametrize("value", [HOSTILE, [HOSTILE], {HOSTILE: [HOSTILE]}, None, "", 1.5])
def test_printable(value: object) -> None:
    assert printable(value).isprintable()
    assert printable(value)


def test_errors(capsys: pytest.CaptureFixture[str]) -> None:
    error = NotTrusted(HOSTILE, where=HOSTILE, expected=HOSTILE, found=HOSTILE, remedy=HOSTILE)
    print_error(error, as_json=False)
    err = capsys.readouterr().err
    assert tame(err)
    assert err.startswith("shamon: ")
    assert len(err.splitlines()) == 4
    print_error(error, as_json=True)
    out = capsys.readouterr().out
    assert tame(out)
    assert json.loads(out)["error"]["what"] == HOSTILE


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"reason": HOSTILE})
    out = capsys.readouterr().out
    assert tame(out)
    assert out.isascii()
    assert json.loads(out) == {"reason": HOSTILE}


def test_a_file_that_cannot_be_written_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main(["coalition", "init", "lab", "--ca", str(tmp_path / "file" / "ca")]) in (1, 2)
    err = capsys.readouterr().err
    assert err.startswith("shamon: ")
    assert "Traceback" not in err


def test_a_socket_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path, tmp_path / ("x" * 200)):
        assert main(["peers", "--socket", str(path)]) == 4
        assert "does not answer" in capsys.readouterr().err


def test_every_mistake_of_a_policy_has_a_line_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "policy.toml"
    path.write_text('[coalition]\nname = "x"\nversion = 1\ntypes = ["a/b"]\n')
    assert main(["policy", "check", str(path)]) == 2
    first, *others = capsys.readouterr().err.splitlines()
    assert first == f"shamon: {path}: 3 mistakes in the policy:"
    assert [line.split(":")[0] for line in others] == ["  line 4", "  types", "  hosts"]
