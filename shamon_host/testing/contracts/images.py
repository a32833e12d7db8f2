"""What every `hypervisor.ports.Images` must do: subclass `ImagesContract`, give it a `shelf`."""

import hashlib
from collections.abc import Iterator
from functools import partial
from typing import Protocol

import pytest

from shamon_host.domain.errors import BackendFailed, BadInput, NotTrusted
from shamon_host.domain.labels import VmName
from shamon_host.hypervisor.ports import BootFile, Images

WEB, DB = VmName("web"), VmName("db")
IMAGE, MISSING_IMAGE = "app", "no-such-image"


class Shelf(Protocol):
    """A place with one clean image, `app`, and what the contract does to it behind the port's back."""

    @property
    def images(self) -> Images: ...

    def pin(self) -> str:
        """SHA-256 of the clean image as it was put there, lower-case hexadecimal."""
        ...

    def damage_clean_image(self) -> None:
        """Change the clean image in one place."""
        ...

    def boot_source(self) -> str:
        """Path of a file with the content of the clean image as it was put there."""
        ...

    def base_sha256(self, overlay: str) -> str:
        """SHA-256 of the image that the overlay stands on."""
        ...

    def write(self, overlay: str) -> None:
        """Do what a VM does to its own disk."""
        ...

    def is_written(self, overlay: str) -> bool:
        """Whether a VM wrote to this overlay, also where it was moved aside."""
        ...


class ImagesContract:
    """The suite. No VM has an overlay before a test."""

    @pytest.fixture
    def shelf(self) -> Iterator[Shelf]:
        """A shelf with the clean image and nothing else."""
        raise NotImplementedError

    def test_pinned_image(self, shelf: Shelf) -> None:
        shelf.images.verify(IMAGE, shelf.pin())

    def test_image_that_was_changed(self, shelf: Shelf) -> None:
        pin = shelf.pin()
        shelf.damage_clean_image()
        with pytest.raises(NotTrusted) as raised:
            shelf.images.verify(IMAGE, pin)
        assert pin in raised.value.expected
        assert pin not in raised.value.found

    def test_unknown_image(self, shelf: Shelf) -> None:
        with pytest.raises(BadInput, match=MISSING_IMAGE):
            shelf.images.verify(MISSING_IMAGE, shelf.pin())
        with pytest.raises(BadInput, match=MISSING_IMAGE):
            shelf.images.fresh_overlay(WEB, MISSING_IMAGE, shelf.pin())
        assert shelf.images.overlay(WEB) is None

    def test_what_a_vm_is_booted_from_is_copied_and_compared(self, shelf: Shelf) -> None:
        source = shelf.boot_source()
        files = [
            shelf.images.boot_file(vm, kind, source, shelf.pin())
            for vm in (WEB, DB)
            for kind in (BootFile.KERNEL, BootFile.INITRD)
        ]
        assert len({*files, source}) == 5
        assert shelf.images.boot_file(WEB, BootFile.KERNEL, source, shelf.pin()) == files[0]
        assert shelf.images.boot_path(WEB, BootFile.KERNEL) == files[0]
        with pytest.raises(NotTrusted):
            shelf.images.boot_file(WEB, BootFile.KERNEL, source, "0" * 64)
        with pytest.raises(BackendFailed):
            shelf.images.boot_file(WEB, BootFile.KERNEL, source + ".none", shelf.pin())

    def test_no_overlay_at_first(self, shelf: Shelf) -> None:
        assert shelf.images.overlay(WEB) is None
        shelf.images.discard(WEB)

    def test_each_vm_has_its_own_overlay(self, shelf: Shelf) -> None:
        web, db = (shelf.images.fresh_overlay(vm, IMAGE, shelf.pin()) for vm in (WEB, DB))
        assert web != db
        assert (shelf.images.overlay(WEB), shelf.images.overlay(DB)) == (web, db)
        assert shelf.base_sha256(web) == shelf.base_sha256(db) == shelf.pin()

    def test_what_a_vm_writes_stays_in_its_overlay(self, shelf: Shelf) -> None:
        web, db = (shelf.images.fresh_overlay(vm, IMAGE, shelf.pin()) for vm in (WEB, DB))
        assert not shelf.is_written(web)
        shelf.write(web)
        assert shelf.is_written(web)
        assert not shelf.is_written(db)
        shelf.images.verify(IMAGE, shelf.pin())

    def test_fresh_overlay_has_nothing_of_the_old_one(self, shelf: Shelf) -> None:
        shelf.write(shelf.images.fresh_overlay(WEB, IMAGE, shelf.pin()))
        fresh = shelf.images.fresh_overlay(WEB, IMAGE, shelf.pin())
        assert shelf.images.overlay(WEB) == fresh
        assert not shelf.is_written(fresh)

    def test_what_changed_since_it_was_verified_is_not_run(self, shelf: Shelf) -> None:
        """Whoever else verifies it meanwhile, and whatever that says."""
        pin = shelf.pin()
        kept = shelf.images.fresh_overlay(WEB, IMAGE, pin)
        shelf.write(kept)
        shelf.images.verify(IMAGE, pin)
        shelf.damage_clean_image()
        for vm in (WEB, DB):
            with pytest.raises(NotTrusted, match="not the pinned one"):
                shelf.images.fresh_overlay(vm, IMAGE, pin)
            with pytest.raises(NotTrusted):
                shelf.images.verify(IMAGE, pin)
        assert (shelf.images.overlay(WEB), shelf.images.overlay(DB)) == (kept, None)
        assert shelf.is_written(kept), "the old one is as it was"

    def test_discards(self, shelf: Shelf) -> None:
        shelf.write(shelf.images.fresh_overlay(WEB, IMAGE, shelf.pin()))
        kept = shelf.images.fresh_overlay(DB, IMAGE, shelf.pin())
        for _ in range(2):
            shelf.images.discard(WEB)
        assert shelf.images.overlay(WEB) is None
        assert shelf.images.overlay(DB) == kept
        assert not shelf.is_written(shelf.images.fresh_overlay(WEB, IMAGE, shelf.pin()))

    def test_what_is_set_aside_stays_as_it_was(self, shelf: Shelf) -> None:
        assert shelf.images.set_aside(WEB, "web-1.disk") is None
        shelf.write(shelf.images.fresh_overlay(WEB, IMAGE, shelf.pin()))
        kept = shelf.images.set_aside(WEB, "web-1.disk")
        assert kept == shelf.images.kept_path("web-1.disk")
        assert shelf.images.overlay(WEB) is None
        assert shelf.images.set_aside(WEB, "web-1.disk") == kept, "it was moved before"
        fresh = shelf.images.fresh_overlay(WEB, IMAGE, shelf.pin())
        assert not shelf.is_written(fresh)
        with pytest.raises(BackendFailed):
            shelf.images.set_aside(WEB, "web-1.disk")
        assert shelf.images.overlay(WEB) == fresh
        assert shelf.images.set_aside(WEB, "web-2.disk") != kept
        shelf.images.discard(WEB)
        assert shelf.is_written(kept)

    def test_a_disk_moves_from_host_to_host(self, shelf: Shelf) -> None:
        """Here from one VM to another: what came in is the other one's disk once it is placed, and not before."""
        images = shelf.images
        assert images.outgoing(WEB) == images.size(WEB) == 0
        shelf.write(images.fresh_overlay(WEB, IMAGE, shelf.pin()))
        size = images.outgoing(WEB)
        assert size == images.size(WEB)
        content = images.read(WEB, 0, size + 1)
        assert len(content) == size > 8
        assert images.read(WEB, 4, 4) == content[4:8]
        images.begin_incoming(DB, 3)
        images.begin_incoming(DB, size)
        assert images.incoming_sha256(DB) == hashlib.sha256(bytes(size)).hexdigest()
        for offset in range(0, size, size // 3):
            images.write_incoming(DB, offset, images.read(WEB, offset, size // 3))
        assert images.incoming_sha256(DB) == hashlib.sha256(content).hexdigest()
        assert images.overlay(DB) is None
        for _ in range(2):
            images.place_incoming(DB, IMAGE)
            placed = images.overlay(DB)
            assert placed is not None
            assert shelf.is_written(placed)
        with pytest.raises(BackendFailed):
            images.write_incoming(DB, 0, b"late")

    def test_what_comes_in_takes_the_place_of_what_was_there(self, shelf: Shelf) -> None:
        images = shelf.images
        shelf.write(images.fresh_overlay(WEB, IMAGE, shelf.pin()))
        placed = images.fresh_overlay(DB, IMAGE, shelf.pin())
        content = images.read(WEB, 0, images.outgoing(WEB))
        images.begin_incoming(DB, len(content))
        images.write_incoming(DB, 0, content)
        assert not shelf.is_written(placed)
        images.make_way(DB)
        images.make_way(DB)
        assert images.overlay(DB) is None
        images.place_incoming(DB, IMAGE)
        assert shelf.is_written(placed)

    def test_what_does_not_come_to_its_end(self, shelf: Shelf) -> None:
        images = shelf.images
        with pytest.raises(BackendFailed):
            images.write_incoming(WEB, 0, b"nothing was begun")
        images.begin_incoming(WEB, 8)
        with pytest.raises(BackendFailed):
            images.write_incoming(WEB, 4, b"too long")
        for _ in range(2):
            images.discard_incoming(WEB)
        for act in (partial(images.place_incoming, WEB, IMAGE), partial(images.fit_incoming, WEB, IMAGE)):
            with pytest.raises(BackendFailed):
                act()
        kept = images.fresh_overlay(WEB, IMAGE, shelf.pin())
        with pytest.raises(BackendFailed):
            images.make_way(WEB)
        assert images.overlay(WEB) == kept, "nothing came in: it is the VM's own"

    @pytest.mark.parametrize("file", ["../web", "a/b", ""])
    def test_what_is_kept_lies_in_its_directory(self, shelf: Shelf, file: str) -> None:
        with pytest.raises(BadInput):
            shelf.images.set_aside(WEB, file)
        with pytest.raises(BadInput):
            shelf.images.kept_path(file)
