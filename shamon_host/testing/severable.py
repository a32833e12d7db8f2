"""Backends as one daemon of a host in memory sees them, until it is killed: after that, nothing it does has an effect.

With `kill -9` nothing runs any more; in one process, what falls apart still runs its last lines.
"""

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from shamon_host.daemon.database import Database
from shamon_host.daemon.ports import StopReason
from shamon_host.domain.errors import BackendFailed
from shamon_host.links.model import KernelState, Operation
from shamon_host.links.ports import KernelEvent
from shamon_host.testing.kernel import MemoryKernel


class SeverableKernel:
    """The kernel as one daemon sees it, until that daemon is killed."""

    def __init__(self, kernel: MemoryKernel) -> None:
        self._kernel = kernel
        self.severed = False

    def _alive(self) -> MemoryKernel:
        if self.severed:
            raise BackendFailed("this daemon is dead")
        return self._kernel

    def read(self) -> KernelState:
        return self._alive().read()

    def apply(self, operations: Sequence[Operation]) -> None:
        self._alive().apply(operations)

    def allocate_spi(self, *, source: str, destination: str) -> int:
        return self._alive().allocate_spi(source=source, destination=destination)

    def counters(self) -> Mapping[str, int]:
        return self._alive().counters()

    def subscribe(self, event: Callable[[KernelEvent], None]) -> None:
        self._alive().subscribe(event)

    def close(self) -> None:
        self._kernel.close()


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
    """`daemon.ports.ServiceManager`."""

    reason: StopReason = StopReason.STOP

    def ready(self) -> None: ...

    def status(self, text: str) -> None: ...

    def stop_reason(self) -> StopReason:
        return self.reason
