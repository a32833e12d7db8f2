"""Passages beside links, on kernels in memory: opened for one move, ended with the link, the lease, the daemon."""

import pytest

from shamon_host.domain.errors import BackendFailed, Refused
from shamon_host.links.model import Passage
from shamon_host.testing.passage_streams import MemoryPassageStreams, MemoryStream
from shamon_host.testing.wire import MemoryWire
from tests.unit.links.conftest import BLUE, LEASE_S, RED, Host, carries, join


@pytest.fixture
def joined(alpha: Host, beta: Host) -> tuple[Host, Host]:
    for host, tap in ((alpha, "shvm0-0"), (beta, "shvm1-0")):
        host.links.reconcile({})
        host.start_vm(tap, RED)
    join(alpha, beta)
    return alpha, beta


def opened(alpha: Host, beta: Host) -> tuple[Passage, Passage]:
    taking = beta.links.open_passage(alpha.name, RED, gives=False)
    return alpha.links.open_passage(beta.name, RED, gives=True), taking


def connected(alpha: Host, beta: Host) -> tuple[MemoryStream, MemoryStream]:
    giving, taking = opened(alpha, beta)
    listener = MemoryPassageStreams(kernel=beta.kernel).listen(taking)
    near = MemoryPassageStreams(kernel=alpha.kernel).connect(giving, 1.0)
    return near, listener.accept(1.0)


def test_what_crosses_it_is_esp_and_no_vm_sees_it(joined: tuple[Host, Host], wire: MemoryWire) -> None:
    alpha, beta = joined
    mark = wire.mark()
    near, far = connected(alpha, beta)
    near.sendall(b"memory" * 1000)
    assert sum(len(far.recv(700)) for _ in range(10)) == 6000
    far.sendall(b"said back")
    assert near.recv(64) == b"said back"
    packets = wire.since(mark)
    assert packets
    assert all(packet.is_esp for packet in packets)
    assert alpha.received["shvm0-0"] == beta.received["shvm1-0"] == []
    assert carries(alpha, "shvm0-0", beta, "shvm1-0")


def test_it_is_there_as_it_was_asked_for_and_goes(joined: tuple[Host, Host]) -> None:
    alpha, beta = joined
    giving, taking = opened(alpha, beta)
    assert (giving.address, giving.peer_address) == (taking.peer_address, taking.address)
    assert alpha.kernel.read().passages == {giving}
    assert alpha.links.reconcile(alpha.taps).passages == {giving}
    with pytest.raises(Refused, match="another VM"):
        alpha.links.open_passage(beta.name, RED, gives=False)
    for _ in range(2):
        alpha.links.close_passage(beta.name, RED)
        assert not alpha.kernel.read().passages
    assert carries(alpha, "shvm0-0", beta, "shvm1-0")


def test_it_needs_a_link_that_is_whole(joined: tuple[Host, Host], gamma: Host) -> None:
    alpha, _ = joined
    for peer, name in ((gamma.name, RED), (joined[1].name, BLUE)):
        with pytest.raises(Refused, match="no link"):
            alpha.links.open_passage(peer, name, gives=True)
    assert not alpha.kernel.read().passages


def test_what_cannot_be_opened_is_not_wanted_any_more(joined: tuple[Host, Host]) -> None:
    alpha, beta = joined
    alpha.kernel.fail_after = 0
    with pytest.raises(BackendFailed):
        alpha.links.open_passage(beta.name, RED, gives=True)
    assert not alpha.links.reconcile(alpha.taps).passages


def test_it_goes_with_its_link(joined: tuple[Host, Host]) -> None:
    alpha, beta = joined
    near, _ = connected(alpha, beta)
    alpha.links.close_peer(beta.name, beta.address)
    assert not alpha.kernel.read().passages
    with pytest.raises(TimeoutError):
        near.sendall(b"more")
    assert not alpha.links.reconcile(alpha.taps).passages


def test_it_carries_nothing_when_the_lease_is_over(joined: tuple[Host, Host], wire: MemoryWire) -> None:
    """The gate closes by itself, whoever is dead."""
    alpha, beta = joined
    near, _ = connected(alpha, beta)
    alpha.clock.advance(LEASE_S + 1)
    beta.clock.advance(LEASE_S + 1)
    mark = wire.mark()
    with pytest.raises(TimeoutError):
        near.sendall(b"more")
    assert wire.since(mark) == ()
    alpha.links.reconcile(alpha.taps)
    assert not alpha.kernel.read().passages


def test_the_next_daemon_wants_none(joined: tuple[Host, Host]) -> None:
    alpha, beta = joined
    opened(alpha, beta)
    alpha.restart()
    alpha.links.reconcile(alpha.taps)
    assert not alpha.kernel.read().passages
    assert carries(alpha, "shvm0-0", beta, "shvm1-0")


def test_one_that_somebody_made_goes(joined: tuple[Host, Host]) -> None:
    alpha, beta = joined
    opened(alpha, beta)
    alpha.links.passages.clear()
    alpha.links.reconcile(alpha.taps)
    assert not alpha.kernel.read().passages
