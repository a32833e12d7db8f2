"""What every `links.ports.LinkKernel` must do at an SA's limits in bytes and packets: for a class that is a
`LinkKernelContract` too and has its `bench`.
"""

import secrets
from dataclasses import replace

import pytest

from shamon_host.links.desired import BLOCK_ENTRIES
from shamon_host.links.model import AddSa, AddSpdEntry, InstallGuard, OpenGate, SecurityAssociation
from shamon_host.links.ports import ExpireEvent
from shamon_host.links.sa_limits import RekeyAfter, SaLimits
from shamon_host.testing.contracts.kernel import LIFETIME_S, Bench, link


class SaLimitsContract:
    """The suite."""

    def test_limits_are_kept_whole(self, bench: Bench) -> None:
        ours, wanted = link(bench), set()
        for number, limits in enumerate(
            (
                SaLimits(soft_bytes=1 << 20),
                SaLimits(hard_bytes=1 << 63),
                SaLimits(soft_packets=1),
                SaLimits(hard_packets=(1 << 32) + 1),
                RekeyAfter().limits(inbound=False),
            )
        ):
            sa = ours.sa(inbound=False, spi=0x4711 + number, key=secrets.token_bytes(36), lifetime_s=LIFETIME_S)
            wanted.add(replace(sa, limits=limits))
        bench.kernel.apply([AddSa(sa=sa) for sa in wanted])
        assert bench.kernel.read().sas == wanted

    @pytest.mark.parametrize(
        "limits", [SaLimits(soft_packets=2), SaLimits(soft_bytes=2 * 108)], ids=["packets", "bytes"]
    )
    def test_a_soft_limit_is_told_once_and_the_sa_goes_on(self, bench: Bench, limits: SaLimits) -> None:
        sa = sending(bench, limits)
        events = bench.events_of(lambda: bench.send(link(bench).tunnel, [bytes(100)] * 2))
        assert not [event for event in events if isinstance(event, ExpireEvent)]
        events = bench.events_of(lambda: bench.send(link(bench).tunnel, [bytes(100)] * 3))
        told = [event for event in events if isinstance(event, ExpireEvent)]
        assert told == [ExpireEvent(destination=sa.destination, spi=sa.spi, hard=False)]
        (found,) = bench.kernel.read().sas
        assert (found, found.packets, found.bytes) == (sa, 5, 5 * 108)

    @pytest.mark.parametrize(
        "limits", [SaLimits(hard_packets=2), SaLimits(hard_bytes=2 * 108)], ids=["packets", "bytes"]
    )
    def test_at_a_hard_limit_the_sa_is_gone(self, bench: Bench, limits: SaLimits) -> None:
        sa = sending(bench, limits)
        before = bench.kernel.counters()["XfrmOutStateExpired"]
        events = bench.events_of(lambda: bench.send(link(bench).tunnel, [bytes(100)] * 3))
        told = [event for event in events if isinstance(event, ExpireEvent)]
        assert told == [ExpireEvent(destination=sa.destination, spi=sa.spi, hard=True)]
        assert bench.kernel.counters()["XfrmOutStateExpired"] == before + 1
        assert bench.kernel.read().sas == frozenset()


def sending(bench: Bench, limits: SaLimits) -> SecurityAssociation:
    """A sending SA with these limits, and whatever a packet of its link needs beside it."""
    ours = link(bench)
    sa = replace(ours.sa(inbound=False, spi=0x4711, key=secrets.token_bytes(36), lifetime_s=LIFETIME_S), limits=limits)
    entries = [AddSpdEntry(entry=entry) for entry in (*BLOCK_ENTRIES, *ours.spd_entries)]
    bench.kernel.apply([InstallGuard(), *entries, AddSa(sa=sa), OpenGate(address=bench.peer, seconds=LIFETIME_S)])
    return sa
