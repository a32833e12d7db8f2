"""SELinux denials in a MAC VM's kernel log: nobody logs in there to look (Documentation/ABI/testing/dev-kmsg)."""

import os
from pathlib import Path

from shamon_host.domain.errors import BackendFailed

KMSG = Path("/dev/kmsg")
MAX_DENIALS = 200
"""The newest, each of at most `_LINE` characters."""
_RECORD, _LINE = 8192, 500


def denials(kmsg: Path = KMSG) -> tuple[str, ...]:
    """The lines that tell of one, the oldest first. Raises BackendFailed."""
    found: list[str] = []
    try:
        log = os.open(kmsg, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            while record := _next(log):
                line = record.partition(b";")[2].partition(b"\n")[0].decode("ascii", "replace")
                if "avc:" in line and "denied" in line:
                    found.append(line[:_LINE])
        finally:
            os.close(log)
    except OSError as error:
        raise BackendFailed("the kernel's log cannot be read", where=str(kmsg), found=error.strerror or "") from error
    return tuple(found[-MAX_DENIALS:])


def _next(log: int) -> bytes:
    """The next record; empty at the end."""
    while True:
        try:
            return os.read(log, _RECORD)
        except BlockingIOError:
            return b""
        except BrokenPipeError:
            continue  # records were overwritten meanwhile: it goes on with the oldest that is there
