"""Runs inside a lab host, as a service in the daemon's SELinux domain: does with `Systemd` what a test asks of it.

Listens on a socket of its own for one test. Requests and answers are lines of JSON: a method of `Served` with its
arguments. Whether systemd told it to end (SIGTERM) or not, it runs on until the test hangs up, so that the test can ask
why. Usage: notifying_service.py SOCKET UNIT
"""

import json
import signal
import socket
import sys
from pathlib import Path
from types import FrameType

from shamon_host.daemon.systemd import Systemd
from shamon_host.domain.errors import ShamonError


class Served(Systemd):
    """The adapter, and what only the process that has it can know."""

    def __init__(self, unit: str) -> None:
        super().__init__(unit)
        self._told = False
        signal.signal(signal.SIGTERM, self._note)

    def told(self) -> bool:
        return self._told

    def domain(self) -> str:
        """The SELinux context of this process."""
        return Path("/proc/self/attr/current").read_text(encoding="ascii").rstrip("\0\n")

    def _note(self, _signal: int, _frame: FrameType | None) -> None:
        self._told = True


def serve(path: Path, manager: Served) -> None:
    """Until the test hangs up."""
    with socket.socket(socket.AF_UNIX) as listener:
        path.unlink(missing_ok=True)
        listener.bind(str(path))
        listener.listen(1)
        channel, _ = listener.accept()
    with channel, channel.makefile("rw") as lines:
        for line in lines:
            method, *arguments = json.loads(line)
            try:
                answer = {"answer": getattr(manager, method)(*arguments)}
            except ShamonError as error:
                answer = {"error": str(error)}
            lines.write(json.dumps(answer) + "\n")
            lines.flush()


if __name__ == "__main__":
    serve(Path(sys.argv[1]), Served(sys.argv[2]))
