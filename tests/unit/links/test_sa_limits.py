"""Limits of SAs in bytes and packets: where the numbers come from, and what the kernel in memory does at them."""

from dataclasses import replace
from math import sqrt

import pytest

from shamon_host.domain.key_usage import HARD_BYTES, HARD_PACKETS, MARGIN, REKEY_BYTES, REKEY_PACKETS
from shamon_host.links.model import AddSa
from shamon_host.links.ports import AcquireEvent, ExpireEvent, KernelEvent
from shamon_host.links.sa_limits import RekeyAfter
from tests.unit.links.conftest import RED, Host, carries, join


def test_what_one_key_protects_keeps_the_advantage_below_the_bound() -> None:
    """draft-irtf-cfrg-aead-limits, 5.1.1: q + s <= sqrt(p) * 2^(129/2) - 1, here with p = 2^-57 (RFC 9001, 6.6).

    The same formula gives RFC 8446's 2^24.5 records of 2^14 bytes for its p = 2^-60."""
    assert (sqrt(2**-60) * 2**64.5) / 2**10 == pytest.approx(2**24.5)
    blocks = HARD_BYTES // 16 + HARD_PACKETS  # each packet fills its last block only in part
    assert blocks + HARD_PACKETS <= sqrt(2**-57) * 2**64.5


def test_nothing_that_a_policy_may_ask_for_comes_near_a_hard_limit() -> None:
    for rekey in (RekeyAfter(), RekeyAfter(bytes=REKEY_BYTES[0], packets=REKEY_PACKETS[0])):
        for inbound in (False, True):
            limits = rekey.limits(inbound=inbound)
            assert limits.soft_bytes is not None
            assert limits.soft_packets is not None
            assert limits.soft_bytes * MARGIN <= HARD_BYTES * (2 if inbound else 1)
            assert limits.soft_packets * 2 <= HARD_PACKETS
            assert (limits.hard_bytes, limits.hard_packets) == (HARD_BYTES, HARD_PACKETS)
    assert RekeyAfter() == RekeyAfter(bytes=HARD_BYTES // MARGIN, packets=HARD_PACKETS // MARGIN)


def test_the_kernel_tells_of_a_soft_limit_on_either_side_and_carries_on(alpha: Host, beta: Host) -> None:
    events: dict[str, list[KernelEvent]] = {}
    for host in (alpha, beta):
        host.links.rekey_after = lambda: RekeyAfter(packets=100)
        host.links.reconcile({})
        host.start_vm("shvm0-0", RED)
        events[host.name] = []
        host.kernel.subscribe(events[host.name].append)
    join(alpha, beta)
    for _ in range(220):
        assert carries(alpha, "shvm0-0", beta, "shvm0-0")
    for host in (alpha, beta):  # alpha sends: it is told at 100 packets, beta at 200
        (event,) = events[host.name]
        assert isinstance(event, ExpireEvent)
        assert (event.destination, event.hard) == (beta.address, False)
    assert all(sa.limits.hard_packets == HARD_PACKETS for sa in alpha.kernel.read().sas)


def test_at_a_hard_limit_the_kernel_asks_for_an_sa(alpha: Host, beta: Host) -> None:
    for host in (alpha, beta):
        host.links.reconcile({})
        host.start_vm("shvm0-0", RED)
    join(alpha, beta)
    (sa,) = [sa for sa in alpha.kernel.read().sas if sa.destination == beta.address]
    alpha.kernel.flush_sas()
    limits = replace(sa.limits, soft_packets=None, hard_packets=2)
    alpha.kernel.apply([AddSa(sa=replace(sa, spi=sa.spi + 100, key=bytes(36), limits=limits))])
    events: list[KernelEvent] = []
    alpha.kernel.subscribe(events.append)
    for _ in range(4):
        carries(alpha, "shvm0-0", beta, "shvm0-0")
    assert [type(event) for event in events] == [ExpireEvent, AcquireEvent]
    counters = alpha.kernel.counters()
    assert (counters["XfrmOutStateExpired"], counters["XfrmOutNoStates"]) == (1, 1)
    assert [sa.destination for sa in alpha.kernel.read().sas] == []


def test_a_receiving_sa_ends_at_its_hard_limit_too(alpha: Host, beta: Host) -> None:
    for host in (alpha, beta):
        host.links.reconcile({})
        host.start_vm("shvm0-0", RED)
    join(alpha, beta)
    (sa,) = [sa for sa in beta.kernel.read().sas if sa.destination == beta.address]
    item = beta.kernel._path.sad.incoming(sa.id)
    assert item is not None
    item.sa = replace(item.sa, limits=replace(sa.limits, soft_packets=1, hard_packets=2))
    events: list[KernelEvent] = []
    beta.kernel.subscribe(events.append)
    assert [carries(alpha, "shvm0-0", beta, "shvm0-0") for _ in range(4)] == [True, True, False, False]
    assert [(type(event), event.hard) for event in events if isinstance(event, ExpireEvent)] == [
        (ExpireEvent, False),
        (ExpireEvent, True),
    ]
    counters = beta.kernel.counters()
    assert (counters["XfrmInStateExpired"], counters["XfrmInNoStates"]) == (1, 1)
