"""A host makes one quote a period, however many peers it has: handshakes fall together by themselves."""

import asyncio
from collections import Counter

import pytest

from shamon_host.testing.clock import run_virtual
from shamon_host.testing.crowd import Crowd


def _in_crowd(size: int, *, latency_s: float = 0.0, spread_s: float = 0.0) -> Counter[str]:
    """The quotes of each host in four periods, after it has had three to settle."""

    async def play() -> Counter[str]:
        async with Crowd(size, latency_s=latency_s) as crowd:
            for host in crowd.hosts.values():
                await host.boot()
                await asyncio.sleep(spread_s / size)
            await asyncio.sleep(3 * crowd.period_s)
            crowd.require_all_admitted()
            before = crowd.quotes()
            await asyncio.sleep(4 * crowd.period_s)
            crowd.require_all_admitted()
            return crowd.quotes() - before

    return run_virtual(play())


@pytest.mark.parametrize(("latency_s", "spread_s"), [(0.0, 0.0), (0.005, 25.0)])
def test_one_quote_a_period_for_all_peers(latency_s: float, spread_s: float) -> None:
    quotes = _in_crowd(6, latency_s=latency_s, spread_s=spread_s)
    assert len(quotes) == 6
    assert all(3 <= count <= 5 for count in quotes.values()), quotes


def test_an_event_costs_one_quote_more() -> None:
    async def play() -> None:
        async with Crowd(4) as crowd:
            for host in crowd.hosts.values():
                await host.boot()
            await asyncio.sleep(3 * crowd.period_s + 2)
            before = crowd.quotes()
            first = next(iter(crowd.hosts.values()))
            first.machine.run_program("/usr/sbin/libvirtd", b"\x7fELF libvirtd")  # known: a new entry, but no failure
            first.machine.read_by_daemon("/etc/shamon/host.toml", b"# the host's configuration")
            first.machine.setenforce(True)
            assert first.daemon is not None
            first.daemon.schedule.wake_all()
            await asyncio.sleep(2.5)
            crowd.require_all_admitted()
            assert (crowd.quotes() - before) == Counter(dict.fromkeys(crowd.hosts, 1))

    run_virtual(play())
