"""Denials out of a kernel log, here a file with one record: the kernel gives one with each read."""

from pathlib import Path

import pytest

from shamon_host.domain.errors import BackendFailed
from shamon_host.link_agent.kernel_log import denials

_DENIED = "audit: type=1400 audit(1.2:3): avc:  denied  { polmatch } for scontext=a tcontext=b tclass=association"


def test_a_denial(tmp_path: Path) -> None:
    log = tmp_path / "kmsg"
    log.write_text(f"5,1,2,-;{_DENIED}\n SUBSYSTEM=x\n")
    assert denials(log) == (_DENIED,)


def test_anything_else(tmp_path: Path) -> None:
    log = tmp_path / "kmsg"
    log.write_text("5,1,2,-;avc:  granted\n")
    assert denials(log) == ()
    log.write_text("")
    assert denials(log) == ()


def test_no_log(tmp_path: Path) -> None:
    with pytest.raises(BackendFailed, match="log cannot be read"):
        denials(tmp_path / "none")
