"""Backends as one daemon of a host in memory sees them, until it is killed: after that, nothing it does has an effect.

With `kill -9` nothing runs any more; in one process, what falls apart still runs its last lines.
"""

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from shamon_host.attestation.credential import Credential
from shamon_host.attestation.ports import Quote, Tpm
from shamon_host.daemon.database import Database
from shamon_host.daemon.ports import StopReason
from shamon_host.daemon.systemd import STATUS_LIMIT
from shamon_host.domain.errors import BackendFailed
from shamon_host.links.model import KernelState, Operation
from shamon_host.links.ports import KernelEvent, LinkKernel, Traffic


class SeverableKernel:
    """The kernel as one daemon sees it, until that daemon is killed."""

    def __init__(self, kernel: LinkKernel) -> None:
        self._kernel = kernel
        self.severed = False
        self._left: int | None = None
        self._sever: Callable[[], None] = lambda: None

    def sever_after(self, operations: int, sever: Callable[[], None]) -> None:
        """Of the operations to come so many are carried out; at the next one `sever` is called, and it is not."""
        self._left, self._sever = operations, sever

    def _alive(self) -> LinkKernel:
        if self.severed:
            raise BackendFailed("this daemon is dead")
        return self._kernel

    def read(self) -> KernelState:
        return self._alive().read()

    def apply(self, operations: Sequence[Operation]) -> None:
        first = self._before_the_end(operations)
        self._alive().apply(first)
        self._end_after(first, operations)

    def attempt(self, operations: Sequence[Operation]) -> tuple[BackendFailed, ...]:
        first = self._before_the_end(operations)
        failures = self._alive().attempt(first)
        self._end_after(first, operations)
        return failures

    def _before_the_end(self, operations: Sequence[Operation]) -> Sequence[Operation]:
        return operations if self._left is None else operations[: self._left]

    def _end_after(self, carried_out: Sequence[Operation], operations: Sequence[Operation]) -> None:
        if len(carried_out) < len(operations):
            self._sever()
            self._alive()
        if self._left is not None:
            self._left -= len(carried_out)

    def allocate_spi(self, *, source: str, destination: str) -> int:
        return self._alive().allocate_spi(source=source, destination=destination)

    def counters(self) -> Mapping[str, int]:
        return self._alive().counters()

    def traffic(self) -> Mapping[str, Traffic]:
        return self._alive().traffic()

    def subscribe(self, event: Callable[[KernelEvent], None]) -> None:
        self._alive().subscribe(event)

    def close(self) -> None:
        self._kernel.close()


class SeverableTpm:
    """The TPM as one daemon sees it, until that daemon is killed: of all it asks for, only counting lasts."""

    def __init__(self, tpm: Tpm) -> None:
        self._tpm = tpm
        self.severed = False

    def ak_public(self) -> bytes:
        return self._tpm.ak_public()

    def ek_public(self) -> bytes:
        return self._tpm.ek_public()

    def ek_certificate(self) -> bytes:
        return self._tpm.ek_certificate()

    def activate_credential(self, credential: Credential) -> bytes:
        return self._tpm.activate_credential(credential)

    def seal(self, secret: bytes) -> bytes:
        return self._tpm.seal(secret)

    def unseal(self, blob: bytes) -> bytes:
        return self._tpm.unseal(blob)

    def manufacturer(self) -> str:
        return self._tpm.manufacturer()

    def quote(self, qualifying_data: bytes) -> Quote:
        return self._tpm.quote(qualifying_data)

    def counter(self) -> int | None:
        return self._tpm.counter()

    def increment_counter(self) -> int:
        if self.severed:
            raise BackendFailed("this daemon is dead")
        return self._tpm.increment_counter()


class SeverableDatabase(Database):
    """The host's database as one daemon sees it, until that daemon is killed: no transaction begins after that."""

    def __init__(self, database: Database) -> None:
        self.__dict__.update(vars(database))
        self.severed = False
        self.full = False
        """True: the disk is full, and nothing can be written."""

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        if self.severed or self.full:
            raise BackendFailed("this daemon is dead" if self.severed else "the database failed", where=self.path)
        with super().transaction() as connection:
            yield connection


@dataclass(kw_only=True)
class MemoryServiceManager:
    """`daemon.ports.ServiceManager`, and what it shows to people."""

    reason: StopReason = StopReason.STOP
    """What was asked of it, so far."""
    is_up: bool = False
    shown: str = ""

    def ready(self) -> None:
        self.is_up = True

    def status(self, text: str) -> None:
        self.shown = "".join(character for character in text if character.isprintable())[:STATUS_LIMIT]

    def stop_reason(self) -> StopReason:
        return self.reason
