"""Commands and files over ssh, with paramiko."""

import logging
import socket
import time
from dataclasses import dataclass
from pathlib import Path

import paramiko

from tests.integration.lab.errors import LabError

# While a host boots, logins fail; `Shell` says so itself when it matters.
logging.getLogger("paramiko").setLevel(logging.CRITICAL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a command said and how it ended."""

    command: str
    stdout: str
    stderr: str
    status: int
    elapsed_ms: float


class Shell:
    """A root login on one host, opened when needed and again when it was lost."""

    def __init__(self, name: str, port: int, key: Path) -> None:
        self._name = name
        self._port = port
        self._key = paramiko.Ed25519Key.from_private_key_file(str(key))
        self._transport: paramiko.Transport | None = None

    def reachable(self) -> bool:
        """Whether a login works now."""
        try:
            self._connect()
        except (OSError, EOFError, paramiko.SSHException):
            self.close()
            return False
        return True

    def run(self, command: str, *, check: bool, timeout_s: float, stdin: bytes) -> Result:
        """Run `command` in a shell on the host.

        Raises:
            LabError: it could not be run or did not end in time; with `check`, also if its status is not 0.
        """
        started = time.monotonic()
        try:
            stdout, stderr, status = self._execute(command, stdin, started + timeout_s)
        except (OSError, EOFError, paramiko.SSHException) as error:
            self.close()
            raise LabError(f"{self._name}: {command[:200]!r}: {type(error).__name__} {error}") from error
        result = Result(
            command=command,
            stdout=stdout.decode(errors="replace"),
            stderr=stderr.decode(errors="replace"),
            status=status,
            elapsed_ms=(time.monotonic() - started) * 1000,
        )
        if check and status != 0:
            said = f"{result.stdout[-4000:]}{result.stderr[-4000:]}".rstrip()
            raise LabError(f"{self._name}: {command[:200]!r} exited with {status}\n{said}")
        return result

    def read(self, path: str) -> bytes:
        """The contents of a file on the host."""
        stdout, stderr, status = self._execute(f"cat -- '{path}'", b"", time.monotonic() + 120)
        if status != 0:
            raise LabError(f"{self._name}: {path}: {stderr.decode(errors='replace').strip()}")
        return stdout

    def close(self) -> None:
        """Drop the connection."""
        if self._transport is not None:
            self._transport.close()
            self._transport = None

    def _connect(self) -> paramiko.Transport:
        if self._transport is not None and self._transport.is_active():
            return self._transport
        self.close()
        connection = socket.create_connection(("127.0.0.1", self._port), timeout=10)
        transport = paramiko.Transport(connection)
        transport.banner_timeout = 60
        transport.auth_timeout = 60
        try:
            transport.start_client(timeout=60)
            transport.auth_publickey("root", self._key)
        except BaseException:
            transport.close()
            raise
        self._transport = transport
        return transport

    def _execute(self, command: str, stdin: bytes, deadline: float) -> tuple[bytes, bytes, int]:
        channel = self._connect().open_session(timeout=60)
        with channel:
            channel.exec_command(command)
            if stdin:
                channel.settimeout(max(1.0, deadline - time.monotonic()))
                channel.sendall(stdin)
            channel.shutdown_write()
            stdout, stderr = bytearray(), bytearray()
            while True:
                progress = False
                while channel.recv_ready():
                    stdout += channel.recv(1 << 16)
                    progress = True
                while channel.recv_stderr_ready():
                    stderr += channel.recv_stderr(1 << 16)
                    progress = True
                if channel.exit_status_ready() and channel.eof_received and not progress:
                    return bytes(stdout), bytes(stderr), channel.recv_exit_status()
                if not progress:
                    if channel.closed and not channel.exit_status_ready():
                        raise EOFError("the connection ended before the command did")
                    if time.monotonic() > deadline:
                        said = bytes(stdout[-500:])
                        raise LabError(
                            f"{self._name}: {command[:200]!r}: no end within its time limit; so far {said!r}"
                        )
                    time.sleep(0.02)
