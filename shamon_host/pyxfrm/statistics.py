"""The kernel's account of packets it refused (Documentation/networking/xfrm_proc.rst)."""

import errno
from pathlib import Path

from .errors import XfrmError, malformed

XFRM_STAT = Path("/proc/net/xfrm_stat")


def xfrm_stat(path: Path = XFRM_STAT) -> dict[str, int]:
    """Counters by name, such as XfrmInPolBlock or XfrmOutNoStates: packets since the namespace was made.

    For another namespace give /proc/PID/net/xfrm_stat of a process in it. Raises XfrmError: ENOENT if the kernel has no
    XFRM_STATISTICS.
    """
    operation = f"read {path}"
    try:
        text = path.read_text(encoding="ascii")
    except OSError as error:
        raise XfrmError(operation=operation, errno=error.errno or errno.EIO) from None
    except UnicodeDecodeError as error:
        raise malformed(operation, str(error)) from None
    counters = {}
    for line in text.splitlines():
        match line.split():
            case [name, value] if value.isdecimal():
                counters[name] = int(value)
            case _:
                raise malformed(operation, f"line {line!r}")
    return counters
