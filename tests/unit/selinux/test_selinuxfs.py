"""selinuxfs as files: what is read is understood, and what is not understood is an error.

The answers to questions need a kernel, and are tested in the lab."""

import struct
from pathlib import Path

import pytest

from shamon_host.domain.errors import BackendFailed
from shamon_host.selinux.selinuxfs import SelinuxFs


def _status(*, sequence: int = 2, enforcing: int = 1, loads: int = 3, deny_unknown: int = 0) -> bytes:
    return struct.pack("=5I", 1, sequence, enforcing, loads, deny_unknown)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "status").write_bytes(_status())
    (tmp_path / "mls").write_text("1")
    (tmp_path / "booleans").mkdir()
    (tmp_path / "booleans/allow_ptrace").write_text("0 1\0")
    (tmp_path / "initial_contexts").mkdir()
    (tmp_path / "initial_contexts/unlabeled").write_bytes(b"system_u:object_r:unlabeled_t:s0\0")
    permissions = tmp_path / "class/peer/perms"
    permissions.mkdir(parents=True)
    (tmp_path / "class/peer/index").write_text("68")
    (permissions / "recv").write_text("1")
    return tmp_path


def test_status(root: Path) -> None:
    selinux = SelinuxFs(root)
    status = selinux.status()
    assert (status.enforcing, status.policy_loads, status.deny_unknown) == (True, 3, False)
    (root / "status").write_bytes(_status(enforcing=0, loads=4, deny_unknown=1))
    status = selinux.status()
    assert (status.enforcing, status.policy_loads, status.deny_unknown) == (False, 4, True)


@pytest.mark.parametrize("content", [b"", b"1", _status()[:-1], _status(sequence=3)])
def test_a_status_that_is_none_or_never_comes_to_rest(root: Path, content: bytes) -> None:
    (root / "status").write_bytes(content)
    with pytest.raises(BackendFailed, match="status"):
        SelinuxFs(root).status()


def test_without_selinux_there_is_a_remedy(tmp_path: Path) -> None:
    selinux = SelinuxFs(tmp_path / "nowhere")
    for ask in (selinux.status, lambda: selinux.flag("mls"), lambda: selinux.is_valid("a:b:c:s0")):
        with pytest.raises(BackendFailed, match="cannot be asked") as failed:
            ask()
        assert "security=selinux" in failed.value.remedy


def test_flags_booleans_and_initial_contexts(root: Path) -> None:
    selinux = SelinuxFs(root)
    assert selinux.flag("mls")
    (root / "mls").write_text("0\n")
    assert not selinux.flag("mls")
    assert selinux.boolean("allow_ptrace") is False, "the first is in force, the second pending"
    assert selinux.boolean("no_such") is None
    assert selinux.initial_context("unlabeled") == "system_u:object_r:unlabeled_t:s0"


@pytest.mark.parametrize("content", ["", "2", "yes", "11"])
def test_a_flag_that_is_neither(root: Path, content: str) -> None:
    (root / "mls").write_text(content)
    (root / "booleans/allow_ptrace").write_text(content)
    with pytest.raises(BackendFailed, match="neither 0 nor 1"):
        SelinuxFs(root).flag("mls")
    with pytest.raises(BackendFailed, match="neither 0 nor 1"):
        SelinuxFs(root).boolean("allow_ptrace")


def test_a_class_that_is_unknown_or_unreadable(root: Path) -> None:
    selinux = SelinuxFs(root)
    with pytest.raises(BackendFailed, match="no such class"):
        selinux.access("a", "b", "pear")
    (root / "class/peer/perms/recv").write_text("one")
    with pytest.raises(BackendFailed, match="cannot be understood"):
        selinux.access("a", "b", "peer")


def test_an_answer_that_is_none(root: Path) -> None:
    """A file that gives back what was written is no kernel."""
    (root / "access").write_text("")
    with pytest.raises(BackendFailed, match="cannot be understood"):
        SelinuxFs(root).access("a", "b", "peer")
