"""`LinuxLabelledHost`: labels of this host's processes and files, from /proc and extended attributes."""

import os
import subprocess
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from shamon_host.domain.errors import BackendFailed
from shamon_host.selinux.file_labels import ROOTS, expected_type

UNIT_PROCESSES = Path("/sys/fs/cgroup/system.slice/shamon.service/cgroup.procs")
_LABEL = "security.selinux"
_LIMIT_S = 900.0
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
_MAX_FILES = 100_000


class LinuxLabelledHost:
    """`selinux.ports.LabelledHost`. The paths are for tests."""

    def __init__(
        self, *, proc: Path = Path("/proc"), unit_processes: Path = UNIT_PROCESSES, roots: Collection[str] = ROOTS
    ) -> None:
        self._proc, self._unit_processes, self._roots = proc, unit_processes, tuple(roots)

    def processes(self) -> Mapping[int, str]:
        found = {}
        try:
            numbers = [int(entry.name) for entry in self._proc.iterdir() if entry.name.isdecimal()]
        except OSError as error:
            raise BackendFailed(
                "processes cannot be listed", where=str(self._proc), found=error.strerror or ""
            ) from None
        for number in sorted(numbers):
            try:
                text = (self._proc / str(number) / "attr" / "current").read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue  # it ended meanwhile
            except OSError as error:
                where = f"process {number}"
                raise BackendFailed("a label cannot be read", where=where, found=error.strerror or "") from None
            found[number] = text.rstrip(b"\0\n").decode("ascii", "replace")
        return found

    def daemon_processes(self) -> Collection[int]:
        try:
            words = self._unit_processes.read_text(encoding="ascii", errors="replace").split()
        except FileNotFoundError:
            return frozenset()  # the unit does not run
        except OSError as error:
            where = str(self._unit_processes)
            raise BackendFailed(
                "the unit's processes cannot be read", where=where, found=error.strerror or ""
            ) from None
        return frozenset(int(word) for word in words if word.isdecimal())

    def files(self) -> Mapping[str, str]:
        found = {}
        for path in self._paths():
            if expected_type(path) is not None:
                found[path] = _label(path)
                if len(found) > _MAX_FILES:
                    raise BackendFailed("too many files to look at", where=path, expected=f"at most {_MAX_FILES}")
        return found

    def restore_files(self) -> str:
        roots = [root for root in self._roots if os.path.lexists(root)]
        if not roots:
            return "none of the directories is there"
        try:
            done = subprocess.run(
                ["restorecon", "-R", "-F", "-v", *roots],
                check=False,
                capture_output=True,
                timeout=_LIMIT_S,
                env=_ENVIRONMENT,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise BackendFailed("restorecon cannot be run", found=str(error)[:300]) from None
        if done.returncode != 0:
            words = done.stderr.decode("utf-8", "replace")
            raise BackendFailed("restorecon failed", found=" ".join(words.split())[-500:])
        changed = len(done.stdout.splitlines())
        return f"{changed} changed below {', '.join(roots)}"

    def _paths(self) -> Iterator[str]:
        for root in self._roots:
            if not os.path.lexists(root):
                continue
            yield root
            for directory, names, files in os.walk(root):
                yield from (os.path.join(directory, name) for name in (*names, *files))


def _label(path: str) -> str:
    """ "" for a file without one, or that is gone again."""
    try:
        return os.getxattr(path, _LABEL, follow_symlinks=False).rstrip(b"\0").decode("ascii", "replace")
    except OSError:
        return ""
