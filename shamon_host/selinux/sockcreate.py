"""Sockets under another SELinux context than that of who makes them.

The kernel takes the context from the creating thread (`/proc/thread-self/attr/sockcreate`, selinux_socket_create) and
keeps it with the socket for good.
"""

import contextlib
import os
from collections.abc import Iterator

from shamon_host.domain.labels import SelinuxContext

_SOCKCREATE = "/proc/thread-self/attr/sockcreate"


@contextlib.contextmanager
def creating_under(context: SelinuxContext) -> Iterator[None]:
    """Sockets that this thread makes meanwhile have this context. Raises OSError."""
    _set(str(context).encode())
    try:
        yield
    finally:
        _set(b"\n")  # resets it


def _set(value: bytes) -> None:
    # One write: the kernel takes each write for a whole context.
    descriptor = os.open(_SOCKCREATE, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, value)
    finally:
        os.close(descriptor)
