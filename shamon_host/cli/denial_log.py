"""Lines about SELinux denials from this host's logs, for root: the kernel's ring buffer, and auditd's file.

Without auditd the kernel writes denials into its own log; with it they are in the file alone. The command reads them
itself, so the daemon's domain needs no right to either.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

KERNEL_LOG, AUDIT_LOG = Path("/dev/kmsg"), Path("/var/log/audit/audit.log")
MAX_AUDIT_BYTES = 4 << 20
"""Of the end of auditd's file."""
_MAX_RECORD, _MAX_RECORDS = 8192, 1 << 20
_FACILITIES = 8
"""Priorities of a facility; the kernel's own is number 0 (RFC 5424, section 6.2.1)."""


def denial_lines(kernel_log: Path = KERNEL_LOG, audit_log: Path = AUDIT_LOG) -> list[str]:
    """All lines that may be denials, of both. Raises OSError when neither can be read."""
    lines, failures = [], []
    for read, path in ((_kernel_lines, kernel_log), (_audit_lines, audit_log)):
        try:
            lines += [line for line in read(path) if "avc:" in line]
        except OSError as error:
            failures.append(error)
    if len(failures) == 2:
        raise failures[0]
    return lines


def _kernel_lines(path: Path) -> Iterator[str]:
    """Records of /dev/kmsg (Documentation/ABI/testing/dev-kmsg) that the kernel itself wrote: anybody who may write
    to it is told by another facility."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        for _ in range(_MAX_RECORDS):
            try:
                record = os.read(descriptor, _MAX_RECORD)
            except BrokenPipeError:  # overwritten while it was read
                continue
            except BlockingIOError:
                return
            if not record:
                return
            prefix, _, rest = record.decode("utf-8", "replace").partition(";")
            with suppress(ValueError):
                if int(prefix.split(",", 1)[0]) < _FACILITIES:
                    yield rest.split("\n", 1)[0]
    finally:
        os.close(descriptor)


def _audit_lines(path: Path) -> Iterator[str]:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - MAX_AUDIT_BYTES))
        for line in file.read(MAX_AUDIT_BYTES).decode("utf-8", "replace").splitlines():
            if line.startswith("type=AVC "):
                yield line
