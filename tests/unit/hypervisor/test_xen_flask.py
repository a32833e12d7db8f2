"""FLASK policies compiled from a host's base, and what the hypervisor's answers are read as."""

import errno
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shamon_host.domain.errors import BackendFailed
from shamon_host.hypervisor.xen_control import XenControl
from shamon_host.hypervisor.xen_flask import XenFlask, classes_of

BEFORE = """
# class commented { out }
class grant
class event   # not the first
class version
sid xen
class grant { map_read map_write }
class event { bind
    send }
"""


class Control(XenControl):
    """A hypervisor that knows two types, and lets each do what its bits say."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[int, int, int]] = []

    def sid_of(self, context: str) -> int | None:
        return {"system_u:system_r:red_t": 7, "system_u:object_r:red_t_channel": 8}.get(context)

    def access(self, source: int, target: int, class_number: int) -> int:
        self.asked.append((source, target, class_number))
        return 0b101

    def enforcing(self) -> bool:
        return True

    def booleans(self) -> dict[str, bool]:
        return {"guest_writeconsole": False}


def flask(tmp_path: Path) -> XenFlask:
    (tmp_path / "before.conf").write_text(BEFORE)
    (tmp_path / "after.conf").write_text("")
    return XenFlask(control=Control(), work=tmp_path, base=tmp_path)


def test_numbers_are_those_of_the_order() -> None:
    assert classes_of(BEFORE) == {
        "grant": (1, ("map_read", "map_write")),
        "event": (2, ("bind", "send")),
        "version": (3, ()),
    }


def test_answers_have_names_and_what_is_unknown_has_no_entry(tmp_path: Path) -> None:
    made = flask(tmp_path)
    state = made.state([("red_t", "red_t_channel", "event"), ("red_t", "blue_t", "grant")])
    assert state.access == {("red_t", "red_t_channel", "event"): {"bind", "bit2"}}
    assert (state.enforcing, state.booleans) == (True, {"guest_writeconsole": False})
    assert isinstance(made.control, Control)
    assert made.control.asked == [(7, 8, 2)]


def test_a_base_that_is_gone(tmp_path: Path) -> None:
    made = flask(tmp_path)
    (tmp_path / "before.conf").unlink()
    with pytest.raises(BackendFailed, match=r"before\.conf"):
        made.load("")


@pytest.mark.skipif(not shutil.which("checkpolicy"), reason="checkpolicy is not installed (Debian: checkpolicy)")
def test_a_policy_that_checkpolicy_refuses_is_not_loaded(tmp_path: Path) -> None:
    with pytest.raises(BackendFailed, match="checkpolicy refused"):
        flask(tmp_path).load("allow red_t blue_t:grant map_read;\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["after.conf", "before.conf"]


def failing(error: BaseException) -> Callable[..., Any]:
    def fail(*_arguments: object, **_options: object) -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    ("where", "error"),
    [
        ((tempfile, "TemporaryDirectory"), OSError(errno.EROFS, os.strerror(errno.EROFS))),
        ((Path, "write_text"), OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))),
        ((subprocess, "run"), PermissionError(errno.EACCES, os.strerror(errno.EACCES))),
        ((subprocess, "run"), FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))),
        ((Path, "read_bytes"), FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))),
    ],
    ids=["read-only", "full", "not to be run", "not there", "nothing written"],
)
def test_a_policy_that_cannot_be_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: tuple[object, str], error: OSError
) -> None:
    made = flask(tmp_path)
    monkeypatch.setattr(subprocess, "run", lambda *_arguments, **_options: None)
    monkeypatch.setattr(*where, failing(error))
    with pytest.raises(BackendFailed):
        made.load("")


def test_no_room_for_it_at_all(tmp_path: Path) -> None:
    made = flask(tmp_path)
    with pytest.raises(BackendFailed, match="cannot be compiled"):
        XenFlask(control=made.control, work=tmp_path / "gone", base=tmp_path).load("")
    with pytest.raises(BackendFailed, match="cannot be compiled"):
        made.load("# \u00e9")


def test_a_base_of_another_hypervisor(tmp_path: Path) -> None:
    with pytest.raises(BackendFailed, match="expected argo"):
        flask(tmp_path).state([("red_t", "red_t_channel", "argo")])


def test_no_hypervisor() -> None:
    with pytest.raises(BackendFailed, match="cannot be loaded"):
        XenControl("libxenctrl.so.0.0").enforcing()
