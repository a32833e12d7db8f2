"""Programs of this host that are run for one task. What they print may come from another host's files, or from guests:
it is bytes, and shown as words that no log or terminal takes for anything else."""

import os
import subprocess

from shamon_host.domain.errors import BackendFailed
from shamon_host.domain.text import printable

_MOST = 400


def run_program(
    *command: str, timeout_s: float, failed: str, where: str = "", package: str = "", lines: int = 1
) -> None:
    """Run it to its end. Raises BackendFailed, which says that it `failed` and the last `lines` of what it printed;
    `package`: Debian's, that it is in."""
    try:
        subprocess.run(
            command,
            check=True,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout_s,
            env={"PATH": f"{os.defpath}:/usr/sbin:/sbin", "LC_ALL": "C"},
        )
    except FileNotFoundError as error:
        raise BackendFailed(
            f"{command[0]} is not installed", where=where, remedy=f"Install Debian's {package}." if package else ""
        ) from error
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        raise BackendFailed(failed, where=where, found=_words(error.stderr or b"", lines) or str(error)) from error
    except OSError as error:
        raise BackendFailed(failed, where=where, found=error.strerror or "") from error


def _words(said: bytes, lines: int) -> str:
    """The last lines, fit for a log."""
    shown = [line for line in said.decode("utf-8", "backslashreplace").splitlines() if line.strip()]
    text = " / ".join(line.strip() for line in shown[-lines:])
    return printable(text)[:_MOST]
