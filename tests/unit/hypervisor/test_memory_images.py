"""The in-memory images pass the contract."""

from dataclasses import dataclass, field

import pytest

from shamon_host.testing.contracts.images import IMAGE, ImagesContract
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
