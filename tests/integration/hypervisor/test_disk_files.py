"""Files of disks on this machine pass the contract. Their label is an extended attribute that root may set, also where
no SELinux reads it; a lab host, where SELinux enforces it, runs the contract of hypervisors with such files."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from shamon_host.domain.errors import BackendFailed, NotTrusted
from shamon_host.hypervisor.disk_files import DiskFiles
from shamon_host.testing.contracts.disks import CONTENT, DATA, OTHER, DisksContract, calls
from shamon_host.testing.disks import FRESH

_XATTR = "security.selinux"


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRack:
    disks: DiskFiles

    def move(self, disk: str, onto: str) -> None:
        os.replace(self.disks.path(disk), self.disks.path(onto))

    def change(self, disk: str) -> None:
        with Path(self.disks.path(disk)).open("r+b") as file:
            file.seek(len(CONTENT) // 2)
            file.write(b"!")

    def remove(self, disk: str) -> None:
        Path(self.disks.path(disk)).unlink()


@pytest.fixture
def files(tmp_path: Path) -> FileRack:
    """Two fresh files."""
    paths = {disk: tmp_path / f"{disk}.raw" for disk in (DATA, OTHER)}
    for path in paths.values():
        path.write_bytes(CONTENT)
        try:
            os.setxattr(path, _XATTR, f"{FRESH}\0".encode())
        except OSError as error:
            pytest.skip(f"needs root, and a file system with security labels: {error.strerror}")
    return FileRack(disks=DiskFiles(paths=paths))


class TestDiskFiles(DisksContract):
    @pytest.fixture
    def rack(self, files: FileRack) -> FileRack:
        return files

    def test_a_label_that_is_none(self, rack: FileRack) -> None:
        path = rack.disks.path(DATA)
        os.setxattr(path, _XATTR, b"\xff nonsense")
        assert rack.disks.inspect(DATA).label is None
        os.removexattr(path, _XATTR)
        assert rack.disks.inspect(DATA).label is None

    @pytest.mark.parametrize("instead", ["link", "hard link", "directory", "pipe"])
    def test_only_a_regular_file_is_a_disk(self, rack: FileRack, instead: str) -> None:
        """A link would let whoever may write its directory choose the file that is labelled."""
        path = Path(rack.disks.path(DATA))
        path.unlink()
        if instead == "link":
            path.symlink_to(rack.disks.path(OTHER))
        elif instead == "hard link":
            path.hardlink_to(rack.disks.path(OTHER))
        elif instead == "directory":
            path.mkdir()
        else:
            os.mkfifo(path)
        for call in calls(rack, DATA):
            with pytest.raises(BackendFailed, match="not the file of a disk"):
                call()
        if instead == "hard link":
            path.unlink()
        assert rack.disks.inspect(OTHER).label == FRESH

    def test_content_that_was_read_is_read_again_when_anything_touched_the_file(self, rack: FileRack) -> None:
        """Also when size and times of the content are as they were."""
        path, pin = Path(rack.disks.path(DATA)), hashlib.sha256(CONTENT).hexdigest()
        rack.disks.verify(DATA, pin)
        before = path.stat()
        rack.change(DATA)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert path.stat().st_size == before.st_size
        with pytest.raises(NotTrusted):
            rack.disks.verify(DATA, pin)
