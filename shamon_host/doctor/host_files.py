"""`HostFiles`: files of a host below a root directory, read with a limit and without ever waiting for a writer."""

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from shamon_host.doctor.look import Look

TEXT_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class HostFiles:
    """`root`: `/`, or the tree of a test. Paths are absolute, as on the host."""

    root: Path = Path("/")

    def path(self, path: str | Path) -> Path:
        return self.root / str(path).lstrip("/")

    def data(self, path: str | Path, limit: int = TEXT_BYTES) -> Look[bytes]:
        """The bytes of a regular file. A pipe or a device is malformed: to open one may have effects, or never end."""
        here = self.path(path)
        try:
            descriptor = os.open(here, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        except OSError as error:
            return Look.failed(error)
        except ValueError:
            return Look(bad="its name cannot be a file's")
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return Look(bad=f"{path} is no regular file")
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                found = file.read(limit + 1)
        except OSError as error:
            return Look.failed(error)
        finally:
            os.close(descriptor)
        if len(found) > limit:
            return Look(bad=f"{path} has more than {limit} bytes")
        return Look(found)

    def text(self, path: str | Path, limit: int = TEXT_BYTES) -> Look[str]:
        """The same as text; bytes that are no UTF-8 are replaced."""
        return self.data(path, limit).then(lambda found: Look(found.decode("utf-8", "replace").strip("\0\n ")))

    def names(self, path: str | Path) -> Look[frozenset[str]]:
        """What a directory holds."""
        try:
            return Look(frozenset(os.listdir(self.path(path))))
        except OSError as error:
            return Look.failed(error)

    def there(self, path: str | Path) -> Look[bool]:
        """Whether there is anything of this name; never absent."""
        try:
            os.lstat(self.path(path))
        except OSError as error:
            failed: Look[bool] = Look.failed(error)
            return Look(False) if failed.absent else failed
        return Look(True)

    def link(self, path: str | Path) -> str:
        """Where a symbolic link leads; "" for anything else."""
        try:
            return os.readlink(self.path(path))
        except OSError:
            return ""

    def status(self, path: str | Path) -> Look[os.stat_result]:
        """Of the file that a link leads to."""
        try:
            return Look(os.stat(self.path(path)))
        except OSError as error:
            return Look.failed(error)

    def free_bytes(self, path: str | Path) -> Look[int]:
        """What root may still write below `path`, or below the nearest directory over it that is there."""
        here = self.path(path)
        while not here.exists() and here not in (self.root, here.parent):
            here = here.parent
        try:
            found = os.statvfs(here)
        except OSError as error:
            return Look.failed(error)
        return Look(found.f_bfree * found.f_frsize)
