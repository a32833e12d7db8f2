"""Which ports of VMs are wanted is what is so when it is this one's turn, however long it waited for that."""

import threading
from collections.abc import Callable
from types import TracebackType

import pytest

from shamon_host.domain.quarantine import Grade
from tests.unit.daemon.attested_world import WEB, attested, play_attested, ports
from tests.unit.daemon.daemon_world import Change, DaemonWorld, daemon

RED_PORTS_DOWN: Change = (
    '[labels.red]\ntypes = ["acme/red"]',
    '[labels.red]\ntypes = ["acme/red"]\nquarantine = "ports-down"',
)


class _Turns:
    """The lock of links, which others have had meanwhile when the first comes to it."""

    def __init__(self, lock: threading.RLock, meanwhile: Callable[[], object]) -> None:
        self._lock, self._meanwhile = lock, [meanwhile]

    def __enter__(self) -> bool:
        if self._meanwhile:
            self._meanwhile.pop()()
        return self._lock.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._lock.__exit__(kind, error, traceback)


def reconciled_after(world: DaemonWorld, meanwhile: Callable[[], object]) -> None:
    """One thread is to reconcile; `meanwhile` happens before it gets its turn."""
    own = daemon(world.alpha).own
    own.links.lock, lock = _Turns(own.links.lock, meanwhile), own.links.lock  # type: ignore[assignment]
    own.reconciler.reconcile()
    own.links.lock = lock


@pytest.mark.parametrize("repaired", [False, True])
def test_a_quarantine_while_a_reconcile_waits_for_its_turn(*, repaired: bool) -> None:
    """`repaired`: the reconcile that follows the quarantine gets its turn before, too."""

    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha")
        await world.start("alpha", "web")
        await attested(world)
        own = daemon(world.alpha).own

        def quarantine() -> None:
            own.vms.quarantine(WEB, "seen", ports_down=own.links.detach_port, grade=Grade.PORTS_DOWN)
            if repaired:
                own.reconciler.reconcile()

        reconciled_after(world, quarantine)
        assert ports(world.alpha) == []
        await world.wait(60)
        assert ports(world.alpha) == []

    play_attested(test, RED_PORTS_DOWN, on_failure="keep")


@pytest.mark.parametrize("repaired", [False, True])
def test_a_lease_that_ends_while_a_reconcile_waits_for_its_turn(*, repaired: bool) -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha")
        await world.start("alpha", "web")
        await attested(world)
        own = daemon(world.alpha).own

        def end() -> None:
            own.vms.states.leases.end(WEB)
            if repaired:
                own.reconciler.reconcile()

        del world.enrolment.guests["app"]  # nobody can judge any more
        assert len(ports(world.alpha)) == 1
        reconciled_after(world, end)
        assert ports(world.alpha) == []
        await world.wait(60)
        assert ports(world.alpha) == []

    play_attested(test, on_failure="keep")
