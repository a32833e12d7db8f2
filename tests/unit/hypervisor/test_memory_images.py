"""The in-memory images pass the contract."""

from dataclasses import dataclass, field

import pytest

from shamon_host.testing.contracts.images import IMAGE, WEB, ImagesContract
from shamon_host.testing.images import MemoryImages, sha256_of

_CONTENT = b"a clean disk image"


@dataclass(kw_only=True)
class MemoryShelf:
    images: MemoryImages = field(default_factory=lambda: MemoryImages(clean={IMAGE: _CONTENT}))

    def pin(self) -> str:
        return sha256_of(_CONTENT)

    def damage_clean_image(self) -> None:
        self.images.clean[IMAGE] = _CONTENT + b"!"

    def boot_source(self) -> str:
        self.images.files["/boot/kernel"] = _CONTENT
        return "/boot/kernel"

    def base_sha256(self, overlay: str) -> str:
        return self.images.overlays[overlay].base_sha256

    def write(self, overlay: str) -> None:
        self.images.overlays[overlay].written = "written"

    def is_written(self, overlay: str) -> bool:
        return bool((self.images.overlays | self.images.kept)[overlay].written)


class TestMemoryImages(ImagesContract):
    @pytest.fixture
    def shelf(self) -> MemoryShelf:
        return MemoryShelf()


def test_what_came_in_stands_on_this_host_s_clean_image() -> None:
    """As `qemu-img rebase -u` makes it, whatever it stood on before."""
    alpha, beta = MemoryImages(clean={IMAGE: b"older"}), MemoryImages(clean={IMAGE: b"newer"})
    alpha.fresh_overlay(WEB, IMAGE, sha256_of(b"older"))
    content = alpha.read(WEB, 0, alpha.size(WEB))
    beta.begin_incoming(WEB, len(content))
    beta.write_incoming(WEB, 0, content)
    beta.place_incoming(WEB, IMAGE)
    assert [overlay.base_sha256 for overlay in beta.overlays.values()] == [sha256_of(b"newer")]
