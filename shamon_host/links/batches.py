"""How a kernel carries out many operations: those of one kind that stand next to each other go together.

A batch of a peer's SAs or SPD entries is one exchange with the kernel and one reading back, where each by itself would
be two. What a batch leaves when a part of it fails: the parts that did not fail. Pure but for what it is given to call.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby

from shamon_host.domain.errors import BackendFailed
from shamon_host.links.model import (
    AddSa,
    AddSpdEntry,
    CloseGate,
    DeleteSas,
    DeleteSpdEntry,
    DeleteTunnel,
    OpenGate,
    Operation,
    SetTapFilter,
)

_TOGETHER = (AddSa, DeleteSas, AddSpdEntry, DeleteSpdEntry, DeleteTunnel, OpenGate, CloseGate, SetTapFilter)
_WORDS = 1000

CarryOut = Callable[[Sequence[Operation]], Sequence[BackendFailed | None]]
"""Carries out a batch, each whatever becomes of the others: for each None, or why it failed, naming it."""


def batches(operations: Iterable[Operation]) -> Iterator[tuple[Operation, ...]]:
    """In order: runs of one kind that may go together, and every other operation by itself."""
    for kind, run in groupby(operations, key=type):
        if kind in _TOGETHER:
            yield tuple(run)
        else:
            yield from ((operation,) for operation in run)


def apply_in_batches(operations: Iterable[Operation], carry_out: CarryOut) -> None:
    """Stop after the first batch of which something failed. Raises BackendFailed naming it."""
    for batch in batches(operations):
        failures = [failure for failure in carry_out(batch) if failure is not None]
        if failures:
            raise together(failures)


def attempt_in_batches(operations: Iterable[Operation], carry_out: CarryOut) -> tuple[BackendFailed, ...]:
    """Carry out all of them, and return what failed."""
    return tuple(failure for batch in batches(operations) for failure in carry_out(batch) if failure is not None)


def attempt_each(
    operations: Iterable[Operation], apply: Callable[[Sequence[Operation]], None]
) -> tuple[BackendFailed, ...]:
    """Apply them one by one, each whatever becomes of the others, and return what failed."""
    failures: list[BackendFailed] = []
    for operation in operations:
        try:
            apply([operation])
        except BackendFailed as error:
            failures.append(error)
    return tuple(failures)


def together(failures: Sequence[BackendFailed]) -> BackendFailed:
    """One error for several, or the only one itself."""
    if len(failures) == 1:
        return failures[0]
    return BackendFailed(
        f"{len(failures)} kernel operations failed", found="; ".join(str(failure) for failure in failures)[:_WORDS]
    )
