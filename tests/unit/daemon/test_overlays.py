"""Overlays and one-way labels reach the taps of whole hosts, and peers see in the Evidence that they do."""

from datetime import UTC, datetime, timedelta

import pytest

from shamon_host.daemon.link_reconciler import LinkReconciler
from shamon_host.daemon.tap_filters import tap_filters
from shamon_host.domain.results import ClaimName
from shamon_host.links.model import KernelState
from shamon_host.links.tap_filter import TapFilter
from shamon_host.testing.kernel import MemoryKernel
from tests.unit.daemon.daemon_world import Change, DaemonWorld, daemon, play, state

INTERVALS = "[intervals]"


def overlay(text: str) -> Change:
    return (INTERVALS, f'[overlays.limit]\nlabel = "red"\n{text}\n\n{INTERVALS}')


async def started(world: DaemonWorld) -> None:
    await world.boot("alpha", "beta")
    await world.start("alpha", "web")
    await world.start("beta", "db")
    await world.wait(10)


@pytest.mark.parametrize(
    ("limit", "reaches"),
    [
        ('peers = ["db", "web"]', True),
        ('peers = ["shop"]', False),
        ("peers = []", False),
        ('ports = ["tcp/443"]', False),  # a ping has no port
        ('times = ["daily 00:00-24:00"]', True),
        ("rate_bytes_s = 1000000", True),
    ],
)
def test_an_overlay_takes_away(limit: str, reaches: bool) -> None:
    async def test(world: DaemonWorld) -> None:
        await started(world)
        assert await world.web_reaches_db() is reaches
        await world.wait(2 * world.timing.lease_s)
        assert state(world.alpha, "beta") == "admitted"
        assert await world.web_reaches_db() is reaches

    play(test, overlay(limit))


def test_a_window_opens_and_closes_and_closes_without_a_daemon() -> None:
    def at(minutes: int) -> str:
        now = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=DaemonWorld().alpha.clock.wall_s())
        return f"{now + timedelta(minutes=minutes):%H:%M}"

    async def test(world: DaemonWorld) -> None:
        await started(world)
        assert not await world.web_reaches_db()
        await world.until(world.web_reaches_db, within_s=150, what="the window opens")
        await world.alpha.kill_daemon()
        await world.beta.kill_daemon()
        await world.wait(1)
        assert world.alpha.kernel.read().filters["shvm2-0"].open_s
        await world.wait(130)
        assert world.alpha.kernel.read().filters["shvm2-0"].open_s == 0

    play(test, overlay(f'times = ["daily {at(2)}-{at(4)}"]'))


def test_what_only_reads_never_sends() -> None:
    """db only reads red: nobody gets an answer of it."""
    label = '[labels.red]\ntypes = ["acme/red"]'
    one_way = f'{label}\n\n[labels.red-sink]\nreads = ["acme/red"]'
    vm = '[vms.db]\nlabel = "red"'

    async def test(world: DaemonWorld) -> None:
        await started(world)
        assert not await world.web_reaches_db()
        assert (await world.alpha.ask("links")).value[0]["type"] == "acme/red"

    play(test, (label, one_way), (vm, '[vms.db]\nlabel = "red-sink"'))


def test_a_peer_whose_taps_have_no_limits_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(world: DaemonWorld) -> None:
        await started(world)
        reconciler = daemon(world.beta).own.reconciler

        def without_limits(own: LinkReconciler) -> KernelState:
            filters = tap_filters(own.enforced.policy, own.vms.devices(), 0.0)
            return own.links.reconcile(
                own.vms.taps(), {tap: TapFilter(device=tap, own=limits.own) for tap, limits in filters.items()}
            )

        monkeypatch.setattr(LinkReconciler, "reconcile", without_limits)
        world.beta.kernel.flush_sas()
        reconciler.reconcile()
        reason = await world.suspended("alpha", "beta")
        assert ClaimName.NETWORK_STATE in reason
        assert "other limits than the policy says" in reason

    play(test, overlay('peers = ["db"]'))


def test_a_peer_whose_tap_is_in_another_type_s_bridge_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own links look right one by one: who belongs where, the policy says."""

    async def test(world: DaemonWorld) -> None:
        await started(world)
        reconciler = daemon(world.beta).own.reconciler

        def misplaced(own: LinkReconciler) -> KernelState:
            taps = own.vms.taps()
            (other,) = own.enforced.policy.hosts[own.enforced.host].types - set(taps.values())
            filters = tap_filters(own.enforced.policy, own.vms.devices(), 0.0)
            return own.links.reconcile(dict.fromkeys(taps, other), filters)

        monkeypatch.setattr(LinkReconciler, "reconcile", misplaced)
        world.beta.kernel.flush_sas()
        reconciler.reconcile()
        reason = await world.suspended("alpha", "beta")
        assert ClaimName.NETWORK_STATE in reason
        assert "no interface for" in reason

    play(test)


def test_filters_are_there_before_a_vm_is() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("beta")
        kernel: MemoryKernel = world.beta.kernel
        assert "db" not in {report.name for report in world.beta.hypervisor.domains()}
        filters = kernel.read().filters
        assert set(filters) == {tap for taps in daemon(world.beta).own.vms.states.devices().values() for tap in taps}
        assert all(limits.own is not None for limits in filters.values())
        assert any(limits.peers is not None for limits in filters.values())

    play(test, overlay('peers = ["web"]'))
