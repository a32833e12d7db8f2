"""What is kept of VMs: whole or not there, for root alone, and never written over."""

import stat
from pathlib import Path

import pytest

from shamon_host.domain.errors import BackendFailed
from shamon_host.hypervisor.kept_files import keeping, make_directory, move


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_file_is_there_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "kept" / "web.memory"
    with keeping(path, labels=False) as part:
        part.write_bytes(b"half")
        part.chmod(0o644)
        assert not path.exists()
        part.write_bytes(b"whole")
    assert (path.read_bytes(), _mode(path), _mode(path.parent)) == (b"whole", 0o600, 0o700)
    assert [each.name for each in path.parent.iterdir()] == ["web.memory"]


def test_what_fails_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "web.memory"

    def write(part: Path) -> None:
        part.write_bytes(b"half")
        raise ValueError("a test")

    with pytest.raises(ValueError, match="a test"), keeping(path, labels=False) as part:
        write(part)
    assert list(tmp_path.iterdir()) == []


def test_what_an_attempt_that_was_cut_short_left_makes_no_difference(tmp_path: Path) -> None:
    path = tmp_path / "web.memory"
    (tmp_path / "web.memory.part").write_bytes(b"half")
    with keeping(path, labels=False) as part:
        assert not part.exists()
        part.write_bytes(b"whole")
    assert path.read_bytes() == b"whole"


def test_a_body_that_wrote_nothing_kept_nothing(tmp_path: Path) -> None:
    with pytest.raises(BackendFailed, match="cannot keep"), keeping(tmp_path / "web.memory", labels=False):
        pass


def test_nothing_is_written_over(tmp_path: Path) -> None:
    source, target = tmp_path / "new", tmp_path / "old"
    source.write_text("new")
    target.write_text("old")
    with pytest.raises(BackendFailed, match="never overwritten"):
        move(source, target)
    assert (source.read_text(), target.read_text()) == ("new", "old")


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BackendFailed) as raised:
        make_directory(tmp_path / "file" / "kept")
    assert "kept" in raised.value.where
