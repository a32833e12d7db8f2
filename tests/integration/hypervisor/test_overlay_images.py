"""Overlays on this machine's disk pass the contract of images; needs `qemu-img` and `qemu-io`."""

import json
import os
import shutil
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from shamon_host.domain.errors import BackendFailed, BadInput, NotTrusted
from shamon_host.domain.labels import VmName
from shamon_host.hypervisor.overlay_images import OverlayImages, file_sha256
from shamon_host.hypervisor.programs import run_program
from shamon_host.testing.contracts.images import IMAGE, WEB, ImagesContract

needs_qemu = pytest.mark.skipif(
    not (shutil.which("qemu-img") and shutil.which("qemu-io")), reason="needs Debian's qemu-utils: qemu-img, qemu-io"
)
_SIZE = 1 << 20
_MARK = "0x5a"


@dataclass(frozen=True, slots=True, kw_only=True)
class OverlayShelf:
    images: OverlayImages
    clean: Path

    def pin(self) -> str:
        return file_sha256(self.clean)

    def damage_clean_image(self) -> None:
        with self.clean.open("r+b") as file:
            file.seek(_SIZE // 2)
            file.write(b"!")

    def boot_source(self) -> str:
        return str(self.clean)

    def base_sha256(self, overlay: str) -> str:
        told = subprocess.run(["qemu-img", "info", "--output=json", overlay], check=True, capture_output=True).stdout
        return file_sha256(Path(json.loads(told)["full-backing-filename"]))

    def write(self, overlay: str) -> None:
        self._io(f"write -P {_MARK} 0 4096", overlay)

    def is_written(self, overlay: str) -> bool:
        told = self._io(f"read -P {_MARK} 0 4096", overlay, check=False)
        return "Pattern verification failed" not in told

    def _io(self, command: str, overlay: str, *, check: bool = True) -> str:
        return subprocess.run(
            ["qemu-io", "-f", "qcow2", "-c", command, overlay],
            check=check,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ).stdout


@pytest.fixture
def overlays(tmp_path: Path) -> OverlayShelf:
    clean = tmp_path / "clean.raw"
    clean.write_bytes(bytes(_SIZE))
    images = OverlayImages(images={IMAGE: (clean, "raw")}, directory=tmp_path / "overlays", kept=tmp_path / "kept")
    return OverlayShelf(images=images, clean=clean)


@needs_qemu
class TestOverlayImages(ImagesContract):
    @pytest.fixture
    def shelf(self, overlays: OverlayShelf) -> OverlayShelf:
        return overlays

    def test_qemu_can_walk_to_an_overlay_whatever_the_umask(self, overlays: OverlayShelf) -> None:
        before = os.umask(0o077)
        try:
            overlays.images.fresh_overlay(WEB, IMAGE, overlays.pin())
        finally:
            os.umask(before)
        assert stat.S_IMODE(overlays.images.directory.stat().st_mode) == 0o711

    def test_left_overs_of_a_crash_do_not_matter(self, overlays: OverlayShelf) -> None:
        overlays.images.directory.mkdir()
        (overlays.images.directory / "web.new").write_bytes(b"half an overlay")
        assert not overlays.is_written(overlays.images.fresh_overlay(WEB, IMAGE, overlays.pin()))
        assert [path.name for path in overlays.images.directory.iterdir()] == ["web.qcow2"]

    def test_failed_overlay_leaves_the_old_one(self, overlays: OverlayShelf) -> None:
        pin = overlays.pin()
        kept = overlays.images.fresh_overlay(WEB, IMAGE, pin)
        overlays.write(kept)
        overlays.clean.unlink()
        with pytest.raises(BackendFailed, match="cannot read the clean image"):
            overlays.images.fresh_overlay(WEB, IMAGE, pin)
        overlays.clean.write_bytes(bytes(_SIZE))
        assert overlays.images.overlay(WEB) == kept
        assert overlays.is_written(kept)


def test_image_that_is_not_there(overlays: OverlayShelf) -> None:
    overlays.clean.unlink()
    with pytest.raises(BackendFailed, match="cannot read the clean image"):
        overlays.images.verify(IMAGE, "0" * 64)


@pytest.mark.parametrize("name", ["../web", "", "web/1", "WEB"])
def test_bad_names(overlays: OverlayShelf, name: str) -> None:
    with pytest.raises(BadInput):
        overlays.images.overlay(VmName(name))


def test_no_qemu_img(overlays: OverlayShelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shamon_host.hypervisor.overlay_images.os.defpath", "/nowhere")
    with pytest.raises(BackendFailed, match="not installed"):
        overlays.images.fresh_overlay(WEB, IMAGE, overlays.pin())


@needs_qemu
def test_what_comes_from_another_host_stands_on_this_host_s_clean_image(tmp_path: Path) -> None:
    """Its header names a path of the other host's; the guest sees the same content all the same."""
    hosts = []
    for name, format_ in (("alpha", "raw"), ("beta", "raw")):
        directory = tmp_path / name
        directory.mkdir()
        clean = directory / f"clean-of-{name}.raw"
        clean.write_bytes(b"clean".ljust(_SIZE, b"\1"))
        hosts.append(OverlayImages(images={IMAGE: (clean, format_)}, directory=directory / "o", kept=directory / "k"))
    alpha, beta = hosts
    overlay = alpha.fresh_overlay(WEB, IMAGE, file_sha256(tmp_path / "alpha/clean-of-alpha.raw"))
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", f"write -P {_MARK} 65536 4096", overlay], check=True)
    content = alpha.read(WEB, 0, alpha.outgoing(WEB))
    shutil.rmtree(tmp_path / "alpha")
    beta.begin_incoming(WEB, len(content))
    beta.write_incoming(WEB, 0, content)
    beta.place_incoming(WEB, IMAGE)
    placed = str(beta.overlay(WEB))
    told = subprocess.run(["qemu-img", "info", "--output=json", placed], check=True, capture_output=True).stdout
    assert json.loads(told)["full-backing-filename"] == str(tmp_path / "beta/clean-of-beta.raw")
    for pattern, where in ((_MARK, "65536 4096"), ("1", "131072 4096")):
        seen = subprocess.run(
            ["qemu-io", "-r", "-f", "qcow2", "-c", f"read -P {pattern} {where}", placed],
            check=True,
            capture_output=True,
        )
        assert b"Pattern verification failed" not in seen.stdout


@needs_qemu
def test_a_disk_with_a_bitmap_whose_name_is_no_text(overlays: OverlayShelf, tmp_path: Path) -> None:
    """Plain by its incompatible features; qemu-img prints the name as it is when it opens the file to write."""
    path = tmp_path / "hostile.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "1M"], check=True)
    subprocess.run(["qemu-img", "bitmap", "--add", path, "NAMENAMENAME"], check=True)
    data = bytearray(path.read_bytes())
    name = data.find(b"NAMENAMENAME")
    data[name - 24 + 17] = 60  # granularity
    data[name : name + 12] = b"\xff\xfe" * 6
    path.write_bytes(data)
    overlays.images.begin_incoming(WEB, len(data))
    overlays.images.write_incoming(WEB, 0, bytes(data))
    with pytest.raises(NotTrusted, match="autoclear"):
        overlays.images.fit_incoming(WEB, IMAGE)
    with pytest.raises(BackendFailed, match=r"qemu-img failed.*\\xff\\xfe"):
        run_program(
            "qemu-img", "rebase", "-u", "-f", "qcow2", "-b", "", str(path), timeout_s=60, failed="qemu-img failed"
        )
