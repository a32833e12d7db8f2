"""This program on this host: its unit, the daemon that runs, room on the disks."""

from collections.abc import Callable, Iterable
from importlib.resources import files as resources
from pathlib import Path

from shamon_host import __version__
from shamon_host.doctor.bounded import within
from shamon_host.doctor.facts import ProgramFacts
from shamon_host.doctor.host_files import HostFiles
from shamon_host.doctor.look import Look

UNIT = "/etc/systemd/system/shamon.service"
_DAEMON_LIMIT_S = 15.0

AskVersion = Callable[[Path], Look[str]]
"""The daemon's socket → its version. Absent where no daemon answers."""


def read_program(
    files: HostFiles, ask_version: AskVersion, *, socket: Path, directories: Iterable[Path]
) -> ProgramFacts:
    unit = files.text(UNIT)
    there = files.there(socket)
    running: Look[str] = Look(unread=there.unread)
    if there.value:
        running = within(_DAEMON_LIMIT_S, "the daemon", lambda: ask_version(socket))
    return ProgramFacts(
        disks={str(path): files.free_bytes(path) for path in directories},
        unit=files.text(f"/usr/lib/systemd/system/{UNIT.rpartition('/')[2]}") if unit.absent else unit,
        shipped=(resources("shamon_host.systemd") / "shamon.service").read_text(encoding="utf-8").strip(),
        version=__version__,
        running=running,
    )
