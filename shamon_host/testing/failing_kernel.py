"""Faults at any step of a daemon: a call to the kernel, the store or the audit log fails, or the daemon is killed.

All that one run of a daemon touches goes through one `Lifeline`, which counts the steps. At the chosen one it refuses
before the effect, loses the answer after it, or raises `DaemonKilled`, and from then on nothing that the daemon does
while it falls apart has an effect. A test throws its objects away and starts new ones over the same kernel and store.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

from shamon_host.domain.errors import BackendFailed
from shamon_host.links.batches import attempt_each
from shamon_host.links.model import DeleteSas, KernelState, Operation
from shamon_host.links.ports import KernelEvent, LinkKernel, Traffic

_T = TypeVar("_T")


class Fault(StrEnum):
    REFUSED = "refused"
    """BackendFailed, and nothing happened."""
    ANSWER_LOST = "answer-lost"
    """BackendFailed, and it happened all the same."""
    IGNORED = "ignored"
    """No error, and no operation: what reading back is for. Of a step that answers something, as REFUSED."""
    KILLED_BEFORE = "killed-before"
    KILLED_AFTER = "killed-after"


class DaemonKilled(BaseException):
    """`kill -9`: no handler of the product's may catch it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One thing that the daemon does to the world: `kind` is apply, read, spi, counters, traffic, put or audit."""

    kind: str
    operation: Operation | None = None
    """Of apply: one operation, of `DeleteSas` one SA."""


class Lifeline:
    """Of one run of a daemon. `before` and `after` are called around the effect of each step."""

    def __init__(
        self, *, before: Callable[[Step], None] = lambda _: None, after: Callable[[Step], None] = lambda _: None
    ) -> None:
        self._before, self._after = before, after
        self._left: int | None = None
        self._fault = Fault.REFUSED
        self.dead = False
        self.met = False
        """The fault that was armed last has come."""
        self.steps = 0
        """Taken so far."""

    @property
    def armed(self) -> bool:
        """A fault is still to come."""
        return self._left is not None

    @property
    def due(self) -> Fault | None:
        """What the next step meets."""
        return self._fault if self._left == 0 else None

    def arm(self, fault: Fault, after_steps: int) -> None:
        """After so many more steps, the next one meets the fault."""
        self._fault, self._left, self.met = fault, after_steps, False

    def disarm(self) -> None:
        self._left, self.met = None, False

    def kill(self) -> None:
        """At once. Raises nothing: that is for whoever is in the daemon to feel."""
        self.dead = True

    def take(self, step: Step, act: Callable[[], _T]) -> _T:
        """Do it, unless the fault is due. Raises BackendFailed, DaemonKilled."""
        if self.dead:
            raise DaemonKilled
        fault = self._next()
        if fault is Fault.KILLED_BEFORE:
            self._die()
        if fault is Fault.REFUSED or (fault is Fault.IGNORED and step.operation is None):
            raise BackendFailed("refused, as the test asked", where=step.kind)
        self.steps += 1
        self._before(step)
        result = act()
        self._after(step)
        if fault is Fault.KILLED_AFTER:
            self._die()
        if fault is Fault.ANSWER_LOST:
            raise BackendFailed("done, but the answer was lost, as the test asked", where=step.kind)
        return result

    def _next(self) -> Fault | None:
        fault = self.due
        if self._left is not None:
            self._left = None if fault else self._left - 1
            self.met = fault is not None
        return fault

    def _die(self) -> None:
        self.dead = True
        raise DaemonKilled


class FailingKernel:
    """`LinkKernel` of one run of a daemon."""

    def __init__(self, kernel: LinkKernel, life: Lifeline) -> None:
        self._kernel, self._life = kernel, life

    def read(self) -> KernelState:
        return self._life.take(Step(kind="read"), self._kernel.read)

    def apply(self, operations: Sequence[Operation]) -> None:
        """One step for each operation, and for each SA of a batch: a batch may be cut short."""
        for operation in operations:
            if isinstance(operation, DeleteSas):
                for sa_id in operation.ids:
                    self._apply(DeleteSas(ids=(sa_id,)))
            else:
                self._apply(operation)

    def attempt(self, operations: Sequence[Operation]) -> tuple[BackendFailed, ...]:
        """Each whatever becomes of the others, unless the daemon is killed. Returns what failed."""
        return attempt_each(operations, self.apply)

    def allocate_spi(self, *, source: str, destination: str) -> int:
        return self._life.take(
            Step(kind="spi"), lambda: self._kernel.allocate_spi(source=source, destination=destination)
        )

    def counters(self) -> Mapping[str, int]:
        return self._life.take(Step(kind="counters"), self._kernel.counters)

    def traffic(self) -> Mapping[str, Traffic]:
        return self._life.take(Step(kind="traffic"), self._kernel.traffic)

    def subscribe(self, event: Callable[[KernelEvent], None]) -> None:
        """Tells nothing to a daemon that is dead."""
        self._kernel.subscribe(lambda what: None if self._life.dead else event(what))

    def close(self) -> None:
        self._kernel.close()

    def _apply(self, operation: Operation) -> None:
        ignored = self._life.due is Fault.IGNORED

        def apply() -> None:
            if not ignored:
                self._kernel.apply([operation])

        self._life.take(Step(kind="apply", operation=operation), apply)


class FailingDocuments:
    """`daemon.store.Store`, or the part of it that links need, of one run of a daemon: what is not written when it dies
    never is."""

    def __init__(self, documents: Any, life: Lifeline) -> None:
        self._documents, self._life = documents, life

    def get(self, kind: str, key: str) -> dict[str, Any] | None:
        found: dict[str, Any] | None = self._documents.get(kind, key)
        return found

    def items(self, kind: str) -> tuple[tuple[str, dict[str, Any]], ...]:
        return tuple(self._documents.items(kind))

    def put(self, kind: str, key: str, document: Mapping[str, Any]) -> None:
        self._life.take(Step(kind="put"), lambda: self._documents.put(kind, key, document))

    def change(self, documents: Mapping[tuple[str, str], Mapping[str, Any] | None]) -> None:
        self._life.take(Step(kind="put"), lambda: self._documents.change(documents))
