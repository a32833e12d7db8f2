"""A connected stream of bytes, as the memory and the disk of a VM cross from one host to another: what a socket is."""

from collections.abc import Callable
from typing import Protocol


class Stream(Protocol):
    """`socket.socket` is one. All but `close` raise OSError: TimeoutError where nothing came, or could be sent, in
    time."""

    def recv(self, most: int, /) -> bytes:
        """At least one byte; b"" at the end."""
        ...

    def sendall(self, data: bytes, /) -> None: ...

    def settimeout(self, seconds: float | None, /) -> None:
        """For each call from now on."""
        ...

    def shutdown(self, how: int, /) -> None:
        """`socket.SHUT_WR`: nothing more is sent. `socket.SHUT_RDWR`: nothing more at all."""
        ...

    def close(self) -> None: ...


def read_exactly(stream: Stream, count: int, left_s: Callable[[], float]) -> bytes:
    """So many bytes. `left_s`: seconds that are left for all of them together; asked before each part, and raises
    when none are. Raises OSError, also where the stream ends before, and what `left_s` does."""
    data = b""
    while len(data) < count:
        stream.settimeout(left_s())
        more = stream.recv(count - len(data))
        if not more:
            raise ConnectionResetError("the stream ended too early")
        data += more
    return data
