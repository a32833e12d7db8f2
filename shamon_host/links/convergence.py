"""Between planner and kernel: plan, audit, apply, read back, until there is nothing left to do; and fast removal."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Protocol

from shamon_host.domain.errors import BackendFailed
from shamon_host.links.desired import DesiredLink, DesiredState
from shamon_host.links.dismantling import dismantling
from shamon_host.links.filter_plan import narrow
from shamon_host.links.model import (
    AddSa,
    AddSpdEntry,
    AttachPort,
    CloseGate,
    CreateTunnel,
    DeleteSas,
    DetachPort,
    KernelState,
    OpenGate,
    Operation,
    SaId,
    SetTapFilter,
)
from shamon_host.links.network_state import changed_by_others
from shamon_host.links.planner import describe, plan, teardown
from shamon_host.links.ports import LinkKernel
from shamon_host.links.tap_filter import TapFilter
from shamon_host.links.tap_ports import TapPorts

_MAX_PASSES = 3


class Audit(Protocol):
    """Append to the audit log, durably, before the effect."""

    def __call__(self, kind: str, subject: str, detail: Mapping[str, Any]) -> object: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Convergence:
    """Carries out plans on one kernel. `host`: the subject of its audit records."""

    kernel: LinkKernel
    ports: TapPorts
    audit: Audit
    host: str

    def converge(
        self, first: DesiredState, state: KernelState, then: Callable[[KernelState], DesiredState]
    ) -> KernelState:
        """Make the kernel, read as `state`, hold `first`; return the last reading.

        `then` says what is wanted once that was applied: the same without keys and gates to set. Raises BackendFailed
        when an operation fails, or the kernel does not hold what it was given."""
        return self._until_nothing_is_left(plan(first, state), state, then)

    def add(self, first: DesiredState, state: KernelState, then: Callable[[KernelState], DesiredState]) -> None:
        """As `converge`, for who reads the kernel himself before anything may pass that could not pass before: a plan
        that only adds is carried out, each operation read back by the port, and the whole is not read again. Where
        something has to go or to be put right, it is. Raises BackendFailed."""
        operations = plan(first, state)
        if all(map(_only_adds, operations)):
            self._carry_out(operations, state)
        else:
            self._until_nothing_is_left(operations, state, then)

    def narrow_filters(self, filters: Mapping[str, TapFilter], state: KernelState) -> None:
        """Let no tap exchange more than this, where the kernel, read as `state`, does; nothing else changes. Raises
        BackendFailed when the rest is done."""
        self._carry_out(narrow(DesiredState(filters=filters), state), state)

    def _until_nothing_is_left(
        self, operations: Sequence[Operation], state: KernelState, then: Callable[[KernelState], DesiredState]
    ) -> KernelState:
        for _ in range(_MAX_PASSES):
            if not operations:
                return state
            self._carry_out(operations, state)
            state = self.kernel.read()
            operations = tuple(item for item in plan(then(state), state) if not _attaches_tap(item))
        if operations:
            left = "; ".join(describe(operation) for operation in operations)
            raise BackendFailed("the kernel does not hold what it was given", where=self.host, found=left[:1000])
        return state

    def _carry_out(self, operations: Sequence[Operation], state: KernelState) -> None:
        """Audit, then apply; `state`: what was read before."""
        if not operations:
            return
        detail: dict[str, Any] = {"operations": [describe(operation) for operation in operations]}
        if changed := changed_by_others(state):
            detail["changed"] = changed
        self.audit("link.apply", self.host, detail)
        self._apply(operations)

    def tear_down(
        self,
        subject: str,
        addresses: Collection[str],
        known: Iterable[DesiredLink] = (),
        *,
        further: Callable[[KernelState], Collection[str]] = lambda _: (),
    ) -> None:
        """Remove everything to these peers, each part whatever becomes of the others: gates first, then the links that
        are known, before anything is read; then what else a reading finds, also to the `further` addresses that it
        shows. Raises BackendFailed when something is left."""
        failures = [*self.kernel.attempt(dismantling(addresses, known))]
        state = self.kernel.read()
        addresses = {*addresses, *further(state)}
        if left := _left(addresses, state):
            failures += self.kernel.attempt(left)
            left = _left(addresses, self.kernel.read()) if failures else ()
        if left:
            reasons = [str(failure) for failure in failures]
            self.audit(
                "link.not-closed",
                subject,
                {"left": [describe(operation) for operation in left], "reasons": reasons},
            )
            raise BackendFailed("links could not be removed", where=subject, found="; ".join(reasons)[:1000])

    def delete_sas(self, ids: Iterable[SaId]) -> None:
        """Raises BackendFailed; an SA that is gone already is no failure."""
        ordered = tuple(ids)
        if ordered:
            self.kernel.apply([DeleteSas(ids=ordered)])

    def _apply(self, operations: Sequence[Operation]) -> None:
        """A tap that cannot be attached (its VM may just have gone) is told and does not hold up the rest. One whose
        filter cannot be set comes off its bridge, at once, and the failure is raised when the rest is done."""
        unfiltered: dict[str, BackendFailed] = {}
        others = [item for item in operations if not _attaches_tap(item)]
        for _, group in groupby(others, key=lambda item: isinstance(item, SetTapFilter)):
            run = list(group)
            if filters := [item for item in run if isinstance(item, SetTapFilter)]:
                unfiltered |= self._set_filters(filters)
            else:
                self.kernel.apply(run)
        for item in operations:
            if not isinstance(item, AttachPort) or item.isolated or item.interface in unfiltered:
                continue
            try:
                self.ports.attach(item)
            except BackendFailed as error:
                self.audit("link.port-not-attached", item.interface, {"bridge": item.bridge, "reason": str(error)})
        if unfiltered:
            raise next(iter(unfiltered.values()))

    def _set_filters(self, operations: Sequence[SetTapFilter]) -> dict[str, BackendFailed]:
        """All at once, or, should that fail, one by one. Tap → why it has none, and is off its bridge now."""
        if len(operations) > 1:
            with suppress(BackendFailed):
                self.kernel.apply(operations)
                return {}
        unfiltered: dict[str, BackendFailed] = {}
        for operation in operations:
            try:
                self.kernel.apply([operation])
            except BackendFailed as error:
                tap = operation.filter.device
                unfiltered[tap] = error
                self.audit("link.filter-not-set", tap, {"reason": str(error)})
                self.kernel.apply([DetachPort(interface=tap)])
        return unfiltered


def _left(addresses: Collection[str], state: KernelState) -> tuple[Operation, ...]:
    """What removes what the kernel still holds of these peers."""
    return tuple(
        operation
        for operation in teardown(addresses, state)
        if not (isinstance(operation, CloseGate) and operation.address not in state.gate)
    )


def _attaches_tap(operation: Operation) -> bool:
    return isinstance(operation, AttachPort) and not operation.isolated


def _only_adds(operation: Operation) -> bool:
    """It takes nothing away and changes nothing else on its way, and it is no part of the guard."""
    match operation:
        case AddSpdEntry(entry=entry):
            return not entry.block
        case AddSa() | CreateTunnel() | OpenGate():
            return True
        case _:
            return False
