"""The disks that VMs have beside their own: raw image files on this host, with SELinux labels of their own.

A label belongs to the file, not to its path: it stays where the file is moved to, and another file that is put in its
place does not have it.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from shamon_host.domain.errors import BackendFailed, BadInput, NotTrusted
from shamon_host.domain.labels import SelinuxContext
from shamon_host.hypervisor.overlay_images import file_sha256
from shamon_host.hypervisor.ports import DiskFile

_XATTR = "security.selinux"
_Stamp = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskFiles:
    """`hypervisor.ports.Disks`. `paths`: name of the resource → its file, where this host has it."""

    paths: Mapping[str, Path]
    _read: dict[str, tuple[_Stamp, str]] = field(default_factory=dict)
    """Disk → how its file was when it was read whole, and the digest. Whatever writes a file, or sets its times, moves
    the time of its last change (ctime)."""

    def path(self, disk: str) -> str:
        if disk not in self.paths:
            raise BadInput(
                f"no path for the disk {disk!r}",
                expected=f"[resources.{disk}] in the host's configuration",
                found=", ".join(sorted(self.paths)) or "no resources",
                remedy="Say there where its file lies, and restart the daemon.",
            )
        return str(self.paths[disk])

    def inspect(self, disk: str) -> DiskFile:
        with self._opened(disk) as file:
            return _inspected(file)

    def relabel(self, disk: str, seen: DiskFile, context: SelinuxContext) -> None:
        with self._opened(disk) as file:
            found = _inspected(file)
            if found != seen:
                raise NotTrusted(
                    "the file of a disk was exchanged, or relabelled, a moment ago",
                    where=self.path(disk),
                    expected=f"{seen.label}, {seen.identity}",
                    found=f"{found.label}, {found.identity}",
                    remedy="Find out who did; nothing was changed. Then try again.",
                )
            os.setxattr(file, _XATTR, f"{context}\0".encode())

    def verify(self, disk: str, sha256: str) -> None:
        with self._opened(disk) as file:
            stamp = _stamp(file)
            known, found = self._read.get(disk, ((), ""))
            if known != stamp:
                found = file_sha256(Path(file))
                if _stamp(file) == stamp:
                    self._read[disk] = stamp, found
        if found != sha256:
            raise NotTrusted(
                "the disk is not the pinned one",
                where=self.path(disk),
                expected=f"sha256 {sha256}",
                found=f"sha256 {found}",
                remedy="Put the pinned content back; nothing was started with this one.",
            )

    @contextlib.contextmanager
    def _opened(self, disk: str) -> Iterator[str]:
        """A path that means this one file for as long as it is open. Errors of the system become BackendFailed."""
        path = self.path(disk)
        try:
            descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                status = os.fstat(descriptor)
                if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
                    raise BackendFailed(
                        "not the file of a disk",
                        where=path,
                        expected="a regular file with one name, a raw image",
                        found="a symbolic link, a device, a directory or the like"
                        if not stat.S_ISREG(status.st_mode)
                        else f"{status.st_nlink} names for one file (hard links)",
                        remedy="Put a copy there that is a file of its own.",
                    )
                yield f"/proc/self/fd/{descriptor}"
            finally:
                os.close(descriptor)
        except OSError as error:
            raise BackendFailed(
                "cannot use the file of a disk",
                where=path,
                found=error.strerror or "",
                remedy="Put the file there with root as its owner, or correct resources in the host's configuration.",
            ) from error


def _inspected(file: str) -> DiskFile:
    """Raises OSError."""
    identity = f"inode {os.stat(file).st_ino} of file system {os.statvfs(file).f_fsid:x}"
    try:
        text = os.getxattr(file, _XATTR).decode().rstrip("\0")
        return DiskFile(identity=identity, label=SelinuxContext.parse(text))
    except OSError as error:
        if error.errno != errno.ENODATA:
            raise
    except (UnicodeDecodeError, BadInput):
        pass
    return DiskFile(identity=identity, label=None)


def _stamp(file: str) -> _Stamp:
    status = os.stat(file)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
