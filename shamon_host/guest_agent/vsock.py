"""Vsock from inside a VM (vsock(7)): to serve the host, and nobody else, and to ask it.

Blocking and bounded: a message has a limit, a connection a time in which all of it must be over.
"""

import contextlib
import socket
import time
from collections.abc import Callable

from shamon_host.attestation.guest_messages import LENGTH_BYTES
from shamon_host.domain.errors import BackendFailed, BadInput, Unreachable

HOST_CID = 2
"""VMADDR_CID_HOST."""
SERVE_S = 60.0
"""How long one question of the host may take."""


def serve(listening: socket.socket, answer: Callable[[bytes], bytes], *, most: int, peer: int = HOST_CID) -> None:
    """Answer one connection after the other, of `peer` alone, for ever. Raises BackendFailed when nobody can come any
    more."""
    while True:
        try:
            connection, address = listening.accept()
        except OSError as error:
            raise BackendFailed("nobody can reach this agent any more", found=error.strerror or "") from error
        with connection:
            if not isinstance(address, tuple) or address[0] != peer:
                continue
            with contextlib.suppress(OSError, BadInput, Unreachable):
                until = time.monotonic() + SERVE_S
                request = receive_message(connection, most=most, until=until)
                send_message(connection, answer(request), until=until)


def listen(port: int) -> socket.socket:
    """A socket on which the host reaches this VM. Raises BackendFailed."""
    listening = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    try:
        listening.bind((socket.VMADDR_CID_ANY, port))
        listening.listen(4)
    except OSError as error:
        listening.close()
        raise BackendFailed(
            "cannot listen on vsock",
            where=f"port {port}",
            found=error.strerror or "",
            remedy="This VM needs a vsock device: is it attested, by its policy?",
        ) from error
    return listening


def ask_host(port: int, request: bytes, *, most: int, timeout_s: float) -> bytes:
    """What the host answers. Raises Unreachable, BadInput for an answer that is too long."""
    until = time.monotonic() + timeout_s
    with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout_s)
        try:
            connection.connect((HOST_CID, port))
            send_message(connection, request, until=until)
        except OSError as error:
            raise Unreachable(
                "the host does not answer on vsock", where=f"port {port}", found=error.strerror or str(error)
            ) from error
        return receive_message(connection, most=most, until=until)


def send_message(connection: socket.socket, data: bytes, *, until: float) -> None:
    """Send a message by a time of the monotonic clock. Raises OSError."""
    connection.settimeout(max(until - time.monotonic(), 0.001))
    connection.sendall(len(data).to_bytes(LENGTH_BYTES, "big") + data)


def receive_message(connection: socket.socket, *, most: int, until: float) -> bytes:
    """A whole message by a time of the monotonic clock. Raises Unreachable, BadInput for a length beyond `most`."""
    length = int.from_bytes(_receive(connection, LENGTH_BYTES, until), "big")
    if length > most:
        raise BadInput("the message is too long", expected=f"at most {most} bytes", found=f"{length} bytes")
    return _receive(connection, length, until)


def _receive(connection: socket.socket, length: int, until: float) -> bytes:
    data = bytearray()
    while len(data) < length:
        left = until - time.monotonic()
        if left <= 0:
            raise Unreachable("the other side takes too long")
        connection.settimeout(left)
        try:
            part = connection.recv(min(length - len(data), 1 << 16))
        except OSError as error:
            raise Unreachable("the connection broke", found=error.strerror or str(error)) from error
        if not part:
            raise Unreachable("the other side hung up in the midst of a message")
        data += part
    return bytes(data)
