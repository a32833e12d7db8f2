"""How often a handshake reads the whole kernel: a reading takes time in proportion to the links of all peers."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from unittest import mock

import pytest

from tests.unit.links.conftest import BLUE, LEASE_S, RED, Agreed, Host, agree, join


@dataclass
class Readings:
    """Of one host's kernel, by phase."""

    host: Host
    counts: dict[str, int] = field(default_factory=dict)

    @contextmanager
    def of(self, phase: str) -> Iterator[None]:
        with mock.patch.object(self.host.kernel, "read", wraps=self.host.kernel.read) as read:
            yield
        self.counts[phase] = read.call_count


@pytest.fixture
def looked(alpha: Host, beta: Host) -> tuple[Host, Host]:
    """Two hosts with a red and a blue VM each, before their first handshake."""
    for host in (alpha, beta):
        host.look()
        for tap, name in (("shvm0-0", RED), ("shvm1-0", BLUE)):
            host.start_vm(tap, name)
    return alpha, beta


def receive(host: Host, peer: Host, links: list[Agreed]) -> None:
    host.links.install_inbound(peer.name, peer.address, links, lifetime_s=LEASE_S)


def send(host: Host, peer: Host, links: list[Agreed]) -> None:
    host.links.install_outbound(peer.name, peer.address, links, gate_s=LEASE_S - 2, lifetime_s=LEASE_S)


def give_back(host: Host, peer: Host, links: list[Agreed]) -> None:
    host.links.abandon(peer.name, peer.address, [link.in_spi for link in links], links, gate_s=LEASE_S - 30)


def shake_hands(alpha: Host, beta: Host) -> dict[str, int]:
    """A handshake to its end, and one more that ends before its sending side; alpha's readings by phase."""
    readings = Readings(alpha)
    with readings.of("offer"):
        alpha.links.offer(beta.name, beta.address, (RED, BLUE))
    of_a, of_b = agree(alpha, beta, (RED, BLUE))
    with readings.of("Evidence"):
        alpha.links.network_state()
    with readings.of("receiving side"):
        receive(alpha, beta, of_a)
    receive(beta, alpha, of_b)
    with readings.of("sending side"):
        send(alpha, beta, of_a)
    send(beta, alpha, of_b)
    (unused,) = alpha.links.offer(beta.name, beta.address, (RED,))
    with readings.of("SPIs given back"):
        alpha.links.abandon(beta.name, beta.address, [unused.spi])
    return readings.counts


def readings_of_abandoning(alpha: Host, beta: Host, installed: Callable[[list[Agreed]], None]) -> int:
    readings = Readings(alpha)
    of_a, _ = agree(alpha, beta, (RED, BLUE))
    installed(of_a)
    with readings.of("abandoned"):
        give_back(alpha, beta, of_a)
    return readings.counts["abandoned"]


def test_a_handshake_reads_the_kernel_so_often(looked: tuple[Host, Host]) -> None:
    wanted = {"offer": 1, "Evidence": 1, "receiving side": 2, "sending side": 3, "SPIs given back": 0}
    assert shake_hands(*looked) == wanted
    for host in looked:
        host.clock.advance(30)
    assert shake_hands(*looked) == wanted  # what renews links is no more than what makes them


def test_a_handshake_that_comes_to_nothing_reads_the_kernel_so_often(looked: tuple[Host, Host]) -> None:
    alpha, beta = looked

    def receiving(links: list[Agreed]) -> None:
        receive(alpha, beta, links)

    first = readings_of_abandoning(alpha, beta, receiving)
    join(alpha, beta, (RED, BLUE))
    for host in looked:
        host.clock.advance(30)
    renewal = readings_of_abandoning(alpha, beta, receiving)
    # The first has tunnels and SPD entries to take away, which is looked at afterwards.
    assert (first, renewal) == (2, 1)
