"""Run on a lab host in the daemon's domain: the product's daemon, which dies by SIGKILL after one of its operations on
the kernel's link objects.

Which one stands in the file ARMED, "NUMBER NAME BEGIN": after the operation of that number among those of this name (a
class of `links.model`, or AllocateSpi), counted from the first of the name BEGIN on that is done after the file came to
be. The file goes before the daemon does, so the next run lives; of what it died is then in DIED.
"""

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shamon_host.cli.main import main
from shamon_host.domain.errors import BackendFailed
from shamon_host.links.linux_kernel import LinuxLinkKernel
from shamon_host.links.model import Operation
from shamon_host.links.planner import describe

ARMED, DIED = Path("/var/lib/shamon/dies-after"), Path("/var/lib/shamon/died-after")
_apply, _allocate_spi = LinuxLinkKernel.apply, LinuxLinkKernel.allocate_spi
_attempt: Any = getattr(LinuxLinkKernel, "attempt", None)
_counted: dict[tuple[int, int], list[str]] = {}
"""The armed file's inode and time → names of operations since: a file that is put anew counts anew."""


def _done(name: str, words: str) -> None:
    try:
        number, wanted, begin = ARMED.read_text().split()
        status = ARMED.stat()
    except (FileNotFoundError, ValueError):
        return
    names = _counted.setdefault((status.st_ino, status.st_mtime_ns), [])
    if name == begin or names:
        names.append(name)
    if name != wanted or names.count(name) < int(number):
        return
    ARMED.unlink()
    DIED.write_text(f"{name} {words}")
    os.kill(os.getpid(), signal.SIGKILL)


def _applied(self: LinuxLinkKernel, operations: Sequence[Operation]) -> None:
    """One at a time."""
    for operation in operations:
        _apply(self, [operation])
        _done(type(operation).__name__, describe(operation))


def _attempted(self: Any, operations: Sequence[Operation]) -> tuple[BackendFailed, ...]:
    failures: list[BackendFailed] = []
    for operation in operations:
        failures += _attempt(self, [operation])
        _done(type(operation).__name__, describe(operation))
    return tuple(failures)


def _allocated(self: LinuxLinkKernel, *, source: str, destination: str) -> int:
    spi = _allocate_spi(self, source=source, destination=destination)
    _done("AllocateSpi", f"reserve SPI {spi:#010x} from {source}")
    return spi


LinuxLinkKernel.apply = _applied  # type: ignore[method-assign]
LinuxLinkKernel.allocate_spi = _allocated  # type: ignore[method-assign]
if _attempt is not None:
    setattr(LinuxLinkKernel, "attempt", _attempted)  # noqa: B010 kernels that carry links out in order have none
sys.exit(main(["daemon", "--config", "/etc/shamon/host.toml"]))
