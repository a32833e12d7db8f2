"""Pinned clean images and what VMs run on instead of them, on this host's disk: qcow2 overlays made with `qemu-img`, or
raw copies for Xen, whose dom0 gives a guest a file through a loop device.

A clean image is never written to. It is read whole and compared with the policy's pin each time an overlay is made from
it; where it is copied, the copy is.
"""

import hashlib
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from shamon_host.domain.errors import BackendFailed, BadInput, NotTrusted
from shamon_host.domain.labels import VmName, plain_name
from shamon_host.hypervisor import moving_disks
from shamon_host.hypervisor.kept_files import make_directory, move
from shamon_host.hypervisor.ports import BootFile
from shamon_host.hypervisor.programs import run_program

_CHUNK = 1 << 20
_HOLE = 1 << 16
"""Bytes: as much as is left out of a copy at once."""
_TIMEOUT_S = 120
_DIRECTORY_MODE = 0o711
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


@dataclass(frozen=True, kw_only=True)
class _ImageFiles(ABC):
    """`images`: name → path of the clean image and its format (`raw` or `qcow2`); `directory`: where overlays live;
    `kept`: where those are that were moved aside, on the same file system."""

    images: Mapping[str, tuple[Path, str]]
    directory: Path
    kept: Path
    suffix: ClassVar[str]

    def verify(self, image: str, sha256: str) -> None:
        path, _ = self._image(image)
        try:
            found = file_sha256(path)
        except OSError as error:
            raise BackendFailed(
                "cannot read the clean image",
                where=str(path),
                found=error.strerror or "",
                remedy="Put the image there, or correct images in the host's configuration.",
            ) from error
        _require_pinned(path, sha256, found)

    def fresh_overlay(self, vm: VmName, image: str, sha256: str) -> str:
        self._image(image)
        target = self._path(vm)
        fresh = target.with_suffix(".new")
        self._make_directory()
        fresh.unlink(missing_ok=True)
        self._make(image, fresh, sha256)
        os.replace(fresh, target)
        return str(target)

    @abstractmethod
    def _make(self, image: str, fresh: Path, sha256: str) -> None:
        """Make a new overlay at this path, where nothing is, above what has this digest."""

    def overlay(self, vm: VmName) -> str | None:
        path = self._path(vm)
        return str(path) if path.exists() else None

    def discard(self, vm: VmName) -> None:
        self._path(vm).unlink(missing_ok=True)

    def boot_file(self, vm: VmName, kind: BootFile, source: str, sha256: str) -> str:
        target = Path(self.boot_path(vm, kind))
        fresh = target.with_name(target.name + ".new")
        self._make_directory()
        fresh.unlink(missing_ok=True)
        self._copy_pinned(Path(source), fresh, sha256)
        os.replace(fresh, target)
        return str(target)

    def boot_path(self, vm: VmName, kind: BootFile) -> str:
        return str(self.directory / f"{plain_name(vm, 'VM name')}.{kind}")

    @staticmethod
    def _copy_pinned(source: Path, target: Path, sha256: str) -> None:
        """Copy, and leave nothing that has another digest. Raises NotTrusted, BackendFailed."""
        try:
            found = _copied(source, target)
        except OSError as error:
            target.unlink(missing_ok=True)
            raise BackendFailed("cannot copy an image", where=str(source), found=error.strerror or "") from error
        try:
            _require_pinned(source, sha256, found)
        except NotTrusted:
            target.unlink(missing_ok=True)
            raise

    def set_aside(self, vm: VmName, file: str) -> str | None:
        source, target = self._path(vm), Path(self.kept_path(file))
        if source.exists():
            make_directory(self.kept)
            move(source, target)
        return str(target) if target.exists() else None

    def kept_path(self, file: str) -> str:
        if not _FILE_NAME.fullmatch(file):
            raise BadInput("bad name of a kept file", found=repr(file[:80]))
        return str(self.kept / file)

    def size(self, vm: VmName) -> int:
        path = self._path(vm)
        return path.stat().st_size if path.exists() else 0

    def outgoing(self, vm: VmName) -> int:
        path = self._path(vm)
        return moving_disks.release(path) if path.exists() else 0

    def read(self, vm: VmName, offset: int, length: int) -> bytes:
        return moving_disks.read(self._path(vm), offset, length)

    def begin_incoming(self, vm: VmName, size: int) -> None:
        self._make_directory()
        moving_disks.begin(self._incoming(vm), size)

    def write_incoming(self, vm: VmName, offset: int, data: bytes) -> None:
        moving_disks.write(self._incoming(vm), offset, data)

    def incoming_sha256(self, vm: VmName) -> str:
        path = self._incoming(vm)
        moving_disks.settle(path)
        try:
            return file_sha256(path)
        except OSError as error:
            raise BackendFailed("cannot read a disk", where=str(path), found=error.strerror or "") from error

    def make_way(self, vm: VmName) -> None:
        self._require_came(vm)
        self.discard(vm)

    def fit_incoming(self, vm: VmName, image: str) -> None:
        self._fit(self._require_came(vm), image)

    def place_incoming(self, vm: VmName, image: str) -> None:
        target = self._path(vm)
        if self._incoming(vm).exists() or not target.exists():
            self.fit_incoming(vm, image)
            moving_disks.place(self._incoming(vm), target)

    def discard_incoming(self, vm: VmName) -> None:
        self._incoming(vm).unlink(missing_ok=True)

    def _incoming(self, vm: VmName) -> Path:
        path = self._path(vm)
        return path.with_name(path.name + moving_disks.INCOMING)

    def _require_came(self, vm: VmName) -> Path:
        incoming = self._incoming(vm)
        if not incoming.exists():
            raise BackendFailed(
                "the disk that came in is gone",
                where=str(incoming),
                remedy="The host that gave the VM away has its disk until this one has taken it: copy it from there.",
            )
        return incoming

    @abstractmethod
    def _fit(self, incoming: Path, image: str) -> None:
        """Make what came in an overlay of this host. Again changes nothing. Raises NotTrusted, BackendFailed."""

    def _image(self, image: str) -> tuple[Path, str]:
        if image not in self.images:
            raise BadInput(
                f"no path for image {image!r}",
                expected=f"[images.{image}] in the host's configuration",
                found=", ".join(sorted(self.images)) or "no images",
            )
        return self.images[image]

    def _make_directory(self) -> None:
        """QEMU, where it runs as a user of its own, walks through it and may not list it, whatever our umask."""
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            self.directory.chmod(_DIRECTORY_MODE)
        except OSError as error:
            raise BackendFailed(
                "cannot make the directory of overlays", where=str(self.directory), found=error.strerror or ""
            ) from error

    def _path(self, vm: VmName) -> Path:
        return self.directory / f"{plain_name(vm, 'VM name')}{self.suffix}"


class OverlayImages(_ImageFiles):
    """`ports.Images` for QEMU: an overlay is a qcow2 file above the clean image."""

    suffix = ".qcow2"

    def _make(self, image: str, fresh: Path, sha256: str) -> None:
        self.verify(image, sha256)
        base, base_format = self._image(image)
        _qemu_img("create", "-q", "-f", "qcow2", "-b", str(base), "-F", base_format, str(fresh))

    def _fit(self, incoming: Path, image: str) -> None:
        """The header of the file names the clean image, which may lie elsewhere here."""
        moving_disks.require_plain_qcow2(incoming)
        base, base_format = self._image(image)
        _qemu_img("rebase", "-q", "-u", "-f", "qcow2", "-b", str(base), "-F", base_format, str(incoming))
        moving_disks.settle(incoming)


class LoopbackImages(_ImageFiles):
    """`ports.Images` for Xen: an overlay is a copy of the raw clean image, sparse where that is zero.

    The copy is what VMs run on, so it is what is compared with the pin: the clean image may change meanwhile.
    """

    suffix = ".raw"

    def _make(self, image: str, fresh: Path, sha256: str) -> None:
        base, _ = self._image(image)
        self._copy_pinned(base, fresh, sha256)

    def _fit(self, incoming: Path, image: str) -> None:
        """A copy stands by itself."""


def _require_pinned(path: Path, sha256: str, found: str) -> None:
    """Raises NotTrusted."""
    if found != sha256:
        raise NotTrusted(
            "the clean image is not the pinned one",
            where=str(path),
            expected=f"sha256 {sha256}",
            found=f"sha256 {found}",
            remedy="Put the pinned image back; nothing was started from this one.",
        )


def _copied(source: Path, target: Path) -> str:
    """Copy a file, leaving holes for blocks of zeros; SHA-256 of what was copied. Raises OSError."""
    digest, zeros = hashlib.sha256(), bytes(_HOLE)
    with source.open("rb") as old, target.open("xb") as new:
        while chunk := old.read(_HOLE):
            digest.update(chunk)
            if chunk == zeros:
                new.seek(_HOLE, os.SEEK_CUR)
            else:
                new.write(chunk)
        new.truncate(new.tell())
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, lower-case hexadecimal. Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _qemu_img(*arguments: str) -> None:
    run_program("qemu-img", *arguments, timeout_s=_TIMEOUT_S, failed="qemu-img failed", package="qemu-utils")
