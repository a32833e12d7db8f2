"""A MAC VM that is somebody else's: it takes what it is told, and answers with the bytes that it was given."""

import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

from shamon_host.link_agent.frames import HEADER, document_in
from shamon_host.link_agent.remote_kernel import RemoteLinkKernel
from tests.unit.link_agent.divided import SETUP


class HostileMacVm:
    """`answer`: to each call but `set up`, which gets `to_set_up`; a byte each `slow_s` where that is not 0. It ends
    with `kernel`."""

    def __init__(self, answer: bytes, *, slow_s: float = 0.0, to_set_up: bytes = b'{"answer":"boot"}') -> None:
        self.answer, self.slow_s, self.to_set_up = answer, slow_s, to_set_up
        self.asked = threading.Event()
        """For more than the set-up."""
        self._ended = threading.Event()

    @contextmanager
    def kernel(self) -> Iterator[RemoteLinkKernel]:
        """What its host has of it."""
        with closing(RemoteLinkKernel(self.connect)) as made:
            made.setup = lambda: SETUP
            try:
                yield made
            finally:
                self._ended.set()

    def connect(self) -> socket.socket:
        near, far = socket.socketpair()
        threading.Thread(target=self._serve, args=(far,), daemon=True).start()
        return near

    def _serve(self, far: socket.socket) -> None:
        with far, suppress(OSError, EOFError):
            while True:
                (length,) = HEADER.unpack(_exactly(far, HEADER.size))
                asked = document_in(_exactly(far, length))["ask"]
                body = self.to_set_up if asked == "set up" else self.answer
                data = HEADER.pack(len(body)) + body
                if asked == "set up" or not self.slow_s:
                    far.sendall(data)
                    continue
                self.asked.set()
                for byte in data:
                    far.sendall(bytes([byte]))
                    if self._ended.wait(self.slow_s):
                        return


def _exactly(far: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        part = far.recv(length - len(data))
        if not part:
            raise EOFError
        data += part
    return data
