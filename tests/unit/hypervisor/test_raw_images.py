"""Raw copies for Xen on this machine's disk pass the contract of images; nothing but files is needed."""

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from shamon_host.domain.errors import BackendFailed, NotTrusted
from shamon_host.hypervisor.overlay_images import LoopbackImages, file_sha256
from shamon_host.testing.contracts.images import IMAGE, WEB, ImagesContract

_SIZE = (1 << 20) + 512
_MARK = b"written by a VM"


@dataclass(frozen=True, slots=True, kw_only=True)
class RawShelf:
    images: LoopbackImages
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
        return file_sha256(Path(overlay))

    def write(self, overlay: str) -> None:
        with Path(overlay).open("r+b") as file:
            file.write(_MARK)

    def is_written(self, overlay: str) -> bool:
        return Path(overlay).read_bytes().startswith(_MARK)


@pytest.fixture
def shelf(tmp_path: Path) -> RawShelf:
    clean = tmp_path / "clean.raw"
    content = bytearray(_SIZE)
    content[: 1 << 16] = os.urandom(1 << 16)
    content[-1] = 7
    clean.write_bytes(content)
    return RawShelf(
        images=LoopbackImages(images={IMAGE: (clean, "raw")}, directory=tmp_path / "overlays", kept=tmp_path / "kept"),
        clean=clean,
    )


class TestLoopbackImages(ImagesContract):
    @pytest.fixture
    def shelf(self, shelf: RawShelf) -> RawShelf:
        return shelf


def test_a_copy_has_holes_where_the_image_is_zero(shelf: RawShelf) -> None:
    overlay = Path(shelf.images.fresh_overlay(WEB, IMAGE, shelf.pin()))
    assert overlay.name == "web.raw"
    assert overlay.stat().st_size == _SIZE
    assert overlay.stat().st_blocks * 512 < _SIZE // 2
    assert overlay.read_bytes() == shelf.clean.read_bytes()


def test_an_image_of_zeros_alone(shelf: RawShelf) -> None:
    shelf.clean.write_bytes(bytes(1 << 18))
    overlay = Path(shelf.images.fresh_overlay(WEB, IMAGE, shelf.pin()))
    assert overlay.read_bytes() == bytes(1 << 18)


def test_a_copy_of_another_image_does_not_stay(shelf: RawShelf) -> None:
    pin = shelf.pin()
    shelf.write(shelf.images.fresh_overlay(WEB, IMAGE, pin))
    shelf.damage_clean_image()
    with pytest.raises(NotTrusted, match="not the pinned one"):
        shelf.images.fresh_overlay(WEB, IMAGE, pin)
    assert sorted(path.name for path in shelf.images.directory.iterdir()) == ["web.raw"]


def test_an_image_that_is_gone(shelf: RawShelf) -> None:
    pin = shelf.pin()
    shelf.clean.unlink()
    with pytest.raises(BackendFailed, match="cannot copy"):
        shelf.images.fresh_overlay(WEB, IMAGE, pin)
    assert shelf.images.overlay(WEB) is None
