"""The service manager's side of the daemon: systemd's notification protocol (sd_notify(3)) and its job queue."""

import os
import socket
import subprocess

from shamon_host.daemon.ports import StopReason
from shamon_host.domain.errors import BackendFailed

STATUS_LIMIT = 1000
"""Characters. systemd drops a notification of more than PIPE_BUF (4096) bytes, of which a character may take four."""
_TIMEOUT_S = 10


class Systemd:
    """`daemon.ports.ServiceManager`. Without `$NOTIFY_SOCKET` (started by hand) it notifies nobody."""

    def __init__(self, unit: str = "shamon.service") -> None:
        self._unit = unit

    def ready(self) -> None:
        notify("READY=1")

    def status(self, text: str) -> None:
        notify("STATUS=" + "".join(character for character in text if character.isprintable())[:STATUS_LIMIT])

    def stop_reason(self) -> StopReason:
        """A queued restart job of this unit, or the whole system stopping; all else means STOP."""
        if _systemctl("is-system-running").strip() == "stopping":
            return StopReason.SHUTDOWN
        jobs = _systemctl("list-jobs", "--no-legend", "--plain", self._unit)
        if any(line.split()[1:3] == [self._unit, "restart"] for line in jobs.splitlines()):
            return StopReason.RESTART
        return StopReason.STOP


def _systemctl(*arguments: str) -> str:
    """What systemctl says; nothing when it cannot be asked."""
    try:
        return subprocess.run(
            ["systemctl", *arguments],
            check=False,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            env={"PATH": os.defpath},
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def notify(state: str) -> None:
    """Send one state to the service manager. Raises BackendFailed when it cannot be reached."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            channel.connect(address)
            channel.sendall(state.encode())
    except OSError as error:
        raise BackendFailed("the service manager cannot be notified", found=error.strerror or "") from error
