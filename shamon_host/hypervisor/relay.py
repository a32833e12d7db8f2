"""Between a socket that QEMU has the other end of and a stream to another host: bytes, and nothing but them.

QEMU gets no socket that reaches the network. Each direction is a thread that waits in the kernel; closing both ends
ends it.
"""

import contextlib
import socket
import threading
from dataclasses import dataclass, field

from shamon_host.domain.streams import Stream

_PIECE = 1 << 18
_JOIN_S = 5.0


@dataclass(kw_only=True)
class Relay:
    """`near`: QEMU's; `far`: the other host's. Runs from `start` until both directions have ended, or `close`."""

    near: socket.socket
    far: Stream
    near_speaks: bool = True
    """False: nothing is taken from QEMU but its end."""
    far_speaks: bool = True
    """False: nothing is taken from the other host."""
    broken: str = field(init=False, default="")
    """Why it ended before its time, in words."""
    far_ended: threading.Event = field(init=False, default_factory=threading.Event)
    """The other host has sent all that it will, and QEMU has it."""
    near_ended: threading.Event = field(init=False, default_factory=threading.Event)
    """QEMU has sent all that it will, and the stream to the other host has it."""
    _threads: list[threading.Thread] = field(init=False, default_factory=list)
    _closed: bool = field(init=False, default=False)

    def start(self) -> None:
        for speaks, source, target, ended in (
            (self.near_speaks, self.near, self.far, self.near_ended),
            (self.far_speaks, self.far, self.near, self.far_ended),
        ):
            if speaks:
                arguments = (source, target, ended)
                self._threads.append(threading.Thread(target=self._pass_on, args=arguments, name="relay", daemon=True))
        self.near.settimeout(None)
        self.far.settimeout(None)
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Both ends, whatever is on its way. Again changes nothing."""
        if self._closed:
            return
        self._closed = True
        for end in (self.near, self.far):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(_JOIN_S)
        self.near.close()
        self.far.close()

    def _pass_on(self, source: Stream, target: Stream, ended: threading.Event) -> None:
        try:
            while data := source.recv(_PIECE):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
            ended.set()
        except OSError as error:
            if not self._closed and not self.broken:
                self.broken = str(error) or type(error).__name__
            for end in (self.near, self.far):  # what cannot go on is to be noticed at both ends
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
