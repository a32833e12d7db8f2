"""Files that are kept of VMs for forensics: whole or not there, for root alone, under a label that no VM reaches."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from shamon_host.domain.errors import BackendFailed

DIRECTORY_MODE, _FILE_MODE = 0o700, 0o600
_XATTR = "security.selinux"
_NOBODYS = "system_u:object_r:virt_image_t:s0"
"""Of files in libvirt's directories that are nobody's disk: libvirt gave the file the label of the VM that wrote it."""
_PART = ".part"


def make_directory(directory: Path) -> None:
    """Make it, for root alone. Raises BackendFailed."""
    with _failures(directory):
        directory.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
        directory.chmod(DIRECTORY_MODE)


@contextlib.contextmanager
def keeping(path: Path, *, labels: bool) -> Iterator[Path]:
    """The path of a file to write, which is at `path` when the body is through. `labels`: whether it has SELinux labels
    to be rid of. Raises BackendFailed."""
    make_directory(path.parent)
    part = path.with_name(path.name + _PART)
    with _failures(part):
        part.unlink(missing_ok=True)
    try:
        yield part
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise
    with _failures(part):
        if labels:
            os.setxattr(part, _XATTR, f"{_NOBODYS}\0".encode())
        part.chmod(_FILE_MODE)
        with part.open("rb") as file:
            os.fsync(file.fileno())
    move(part, path)


def move(source: Path, target: Path) -> None:
    """Rename a file, for good, to where no file is yet. Raises BackendFailed."""
    with _failures(target):
        if target.exists():
            raise BackendFailed("what is kept is never overwritten", where=str(target))
        os.rename(source, target)
        descriptor = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def _failures(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BackendFailed(
            "cannot keep what was asked for",
            where=str(path),
            found=error.strerror or "",
            remedy="Make room there; `kept` in the host's configuration is on the file system of the overlays.",
        ) from error
