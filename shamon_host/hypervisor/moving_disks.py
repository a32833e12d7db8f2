"""The files behind `ports.MovingDisks`: a VM's own disk read to be sent, and written as it comes in from another host.

What comes in lies under a name of its own until all of it is there and its digest was compared; then one rename makes
it the VM's disk. A qcow2 file is more than content: its header names other files. So whatever came is looked at before
QEMU is, and the clean image below it is this host's own.
"""

import contextlib
import os
import struct
from collections.abc import Iterator
from pathlib import Path

from shamon_host.domain.errors import BackendFailed, NotTrusted

INCOMING = ".incoming"
_XATTR = "security.selinux"
_NOBODYS = "system_u:object_r:virt_image_t:s0"
"""Of files in libvirt's directories that are nobody's disk: the daemon may read these, and libvirt gives them the label
of their VM when it starts."""
_MODE = 0o600
_MAGIC = b"QFI\xfb"
_HEADER = struct.Struct(">4sIQIIQIIQQIIQQQQ")
"""Of qcow2, version 3, up to and with the autoclear features (QEMU, docs/interop/qcow2.rst)."""


def release(path: Path) -> int:
    """Take from a disk the label of the VM whose domain is gone; its size in bytes. Raises BackendFailed."""
    with _failures(path):
        if _XATTR in os.listxattr(path):
            label = os.getxattr(path, _XATTR).decode("ascii", "replace").rstrip("\0")
            if label.split(":")[2:] != _NOBODYS.split(":")[2:]:
                os.setxattr(path, _XATTR, f"{_NOBODYS}\0".encode())
        return path.stat().st_size


def read(path: Path, offset: int, length: int) -> bytes:
    """That many bytes, or fewer where the file ends. Raises BackendFailed."""
    with _failures(path), path.open("rb") as file:
        file.seek(offset)
        return file.read(length)


def begin(path: Path, size: int) -> None:
    """An empty file of this size, in place of one that came before. Raises BackendFailed, also without room for it."""
    with _failures(path):
        path.unlink(missing_ok=True)
        room = os.statvfs(path.parent)
        free = room.f_bavail * room.f_frsize
        if free < size:
            raise BackendFailed(
                "no room for the disk", where=str(path.parent), expected=f"{size} bytes", found=f"{free} bytes free"
            )
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE), "wb") as file:
            file.truncate(size)


def write(path: Path, offset: int, data: bytes) -> None:
    """Within the size that it began with. Raises BackendFailed."""
    with _failures(path), path.open("r+b") as file:
        if offset + len(data) > os.fstat(file.fileno()).st_size:
            raise BackendFailed("more than was announced of a disk", where=str(path))
        file.seek(offset)
        file.write(data)


def settle(path: Path) -> None:
    """It is on the disk, whatever happens. Raises BackendFailed."""
    with _failures(path), path.open("rb") as file:
        os.fsync(file.fileno())


def place(incoming: Path, target: Path) -> None:
    """What came in is the disk from now on. Raises BackendFailed."""
    with _failures(target):
        os.replace(incoming, target)
        descriptor = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def require_plain_qcow2(path: Path) -> None:
    """Raises NotTrusted for a file that QEMU would read more from than itself and the clean image below it: no
    external data file, no encryption, no snapshots, no bitmaps, no feature that is not known here."""
    data = read(path, 0, _HEADER.size)
    problem = "it is shorter than a header"
    if len(data) == _HEADER.size:
        fields = _HEADER.unpack(data)
        magic, version, encryption, snapshots = fields[0], fields[1], fields[6], fields[11]
        incompatible, _, autoclear = fields[13:]
        problem = next(
            (
                words
                for words, holds in (
                    ("it has another format", magic != _MAGIC or version != 3),
                    ("it is encrypted", encryption),
                    ("it has snapshots", snapshots),
                    (f"features {incompatible:#x}", incompatible),
                    (f"autoclear features {autoclear:#x}", autoclear),
                )
                if holds
            ),
            "",
        )
    if problem:
        raise NotTrusted(
            "the disk that came in is no plain overlay", where=str(path), expected="qcow2, version 3", found=problem
        )


@contextlib.contextmanager
def _failures(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BackendFailed("cannot move a disk", where=str(path), found=error.strerror or "") from error
