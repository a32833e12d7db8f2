"""What a program prints about a file of another host is anything but text."""

from pathlib import Path

import pytest

from shamon_host.domain.errors import BackendFailed
from shamon_host.hypervisor.overlay_images import OverlayImages
from shamon_host.hypervisor.programs import run_program
from tests.unit.hypervisor.vm_world import WEB


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory in which programs are found."""
    monkeypatch.setattr("os.defpath", str(tmp_path))
    return tmp_path


def add(programs: Path, name: str, *lines: str) -> None:
    path = programs / name
    path.write_text("\n".join(("#!/bin/sh", *lines)))
    path.chmod(0o700)


def words_of(*command: str, timeout_s: float = 10, lines: int = 1) -> str:
    with pytest.raises(BackendFailed, match="it failed") as caught:
        run_program(*command, timeout_s=timeout_s, failed="it failed", where="web", lines=lines)
    return caught.value.found


def test_bytes_that_are_no_text(programs: Path) -> None:
    add(programs, "say", r"printf 'bitmap \377\376\033[31m\n\n' >&2", "exit 1")
    assert words_of("say") == r"bitmap \xff\xfe?[31m"


def test_the_last_lines(programs: Path) -> None:
    add(programs, "say", r"printf 'one\ntwo\nthree\n' >&2", "exit 1")
    assert (words_of("say"), words_of("say", lines=2)) == ("three", "two / three")
    add(programs, "many", r"printf '%02000d' 7 >&2", "exit 1")
    assert len(words_of("many")) == 400


def test_one_that_says_nothing(programs: Path) -> None:
    add(programs, "mute", "exit 3")
    assert "3" in words_of("mute")
    add(programs, "sleeps", "exec /bin/sleep 600")
    assert "timed out" in words_of("sleeps", timeout_s=0.05)


def test_one_that_cannot_be_run(programs: Path) -> None:
    (programs / "data").write_text("no program")
    assert words_of("data") == "Permission denied"
    with pytest.raises(BackendFailed, match=r"gone is not installed\. Install Debian's things"):
        run_program("gone", timeout_s=1, failed="it failed", package="things")


def test_one_that_succeeds(programs: Path) -> None:
    add(programs, "well", r"printf '\377'")
    run_program("well", timeout_s=10, failed="it failed")


def test_a_disk_of_which_qemu_img_says_what_is_no_text(programs: Path, tmp_path: Path) -> None:
    add(programs, "qemu-img", r"printf 'bitmap \377\376 is bad' >&2", "exit 1")
    clean = tmp_path / "clean.raw"
    clean.write_bytes(bytes(512))
    images = OverlayImages(images={"app": (clean, "raw")}, directory=tmp_path / "overlays", kept=tmp_path / "kept")
    images.begin_incoming(WEB, 1024)
    images.write_incoming(WEB, 0, b"QFI\xfb\0\0\0\3")
    for act in (images.fit_incoming, images.place_incoming):
        with pytest.raises(BackendFailed, match="qemu-img failed"):
            act(WEB, "app")
