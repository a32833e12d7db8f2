"""How often a handshake reads the whole kernel, which takes time in proportion to the links of all peers; and that it
reads often enough: whatever the kernel did not do shows before a gate is opened."""

from collections.abc import Callable, Sequence
from functools import partial
from unittest import mock

import pytest

from shamon_host.domain.errors import BackendFailed
from shamon_host.links.desired import BLOCK_ENTRIES
from shamon_host.links.model import AddSa, DeleteSas, DeleteSpdEntry, InstallGuard, OpenGate, Operation, SaId
from tests.unit.links.conftest import BLUE, LEASE_S, RED, Agreed, Host, agree, carries, join

TYPES = (RED, BLUE)


@pytest.fixture
def looked(alpha: Host, beta: Host) -> tuple[Host, Host]:
    """Two hosts with a VM of each type, before their first handshake."""
    for host in (alpha, beta):
        for tap, name in (("shvm0-0", RED), ("shvm1-0", BLUE)):
            host.start_vm(tap, name)
        host.look()
    return alpha, beta


def receive(host: Host, peer: Host, links: list[Agreed]) -> None:
    host.links.install_inbound(peer.name, peer.address, links, lifetime_s=LEASE_S)


def send(host: Host, peer: Host, links: list[Agreed]) -> None:
    host.links.install_outbound(peer.name, peer.address, links, gate_s=LEASE_S - 2, lifetime_s=LEASE_S)


def abandon(host: Host, peer: Host, links: list[Agreed]) -> None:
    host.links.abandon(peer.name, peer.address, [link.in_spi for link in links], links)


def readings(host: Host, call: Callable[[], object]) -> int:
    with mock.patch.object(host.kernel, "read", wraps=host.kernel.read) as read:
        call()
    return read.call_count


def lying(host: Host, kind: type[Operation], call: Callable[[], object]) -> None:
    """The call, of a kernel that says that it has carried out operations of this kind, and has not."""
    apply = host.kernel.apply

    def most(operations: Sequence[Operation]) -> None:
        apply([operation for operation in operations if not isinstance(operation, kind)])

    with mock.patch.object(host.kernel, "apply", most):
        call()


def test_a_phase_of_a_handshake_reads_the_kernel_so_often(looked: tuple[Host, Host]) -> None:
    alpha, beta = looked
    for what in ("first", "renewal"):
        of_a, _ = agree(alpha, beta, TYPES)
        receive(alpha, beta, of_a)
        abandoned = readings(alpha, partial(abandon, alpha, beta, of_a))
        of_a, of_b = agree(alpha, beta, TYPES)
        counts = {
            "offer": readings(alpha, lambda: alpha.links.offer(beta.name, beta.address, TYPES)),
            "Evidence": readings(alpha, alpha.links.network_state),
            "receiving side": readings(alpha, partial(receive, alpha, beta, of_a)),
            "receiving side of the peer": readings(beta, partial(receive, beta, alpha, of_b)),
            "sending side": readings(alpha, partial(send, alpha, beta, of_a)),
            "sending side of the peer": readings(beta, partial(send, beta, alpha, of_b)),
            "unused SPIs": readings(alpha, lambda: alpha.links.abandon(beta.name, beta.address, [0x1000])),
            "abandoned": abandoned,
        }
        assert counts == {
            "offer": 1,
            "Evidence": 1,
            "receiving side": 1,
            "receiving side of the peer": 1,
            "sending side": 2,
            "sending side of the peer": 2,
            "unused SPIs": 0,
            # Of the first there are tunnels and SPD entries to take away, and it is looked at whether they went.
            "abandoned": 2 if what == "first" else 1,
        }, what
        for host in looked:
            host.clock.advance(30)


def test_what_has_to_be_put_right_is_read_back_before_the_handshake_goes_on(looked: tuple[Host, Host]) -> None:
    alpha, beta = looked
    of_a, of_b = agree(alpha, beta, TYPES)
    alpha.kernel.damage_guard()
    assert readings(alpha, partial(receive, alpha, beta, of_a)) == 2
    (operations,) = [detail["operations"] for kind, _, detail in alpha.audited[-1:] if kind == "link.apply"]
    assert operations[0] == "install the guard"
    assert any(words.startswith("add SA") for words in operations)
    receive(beta, alpha, of_b)
    for entry in BLOCK_ENTRIES[:1]:
        alpha.kernel.apply([DeleteSpdEntry(entry=entry)])
    send(alpha, beta, of_a)
    state = alpha.kernel.read()
    assert state.guard
    assert state.spd >= set(BLOCK_ENTRIES)
    assert beta.address in state.gate


def test_no_gate_is_opened_if_a_guard_cannot_be_put_up(looked: tuple[Host, Host]) -> None:
    alpha, beta = looked
    of_a, _ = agree(alpha, beta, TYPES)
    receive(alpha, beta, of_a)
    alpha.kernel.damage_guard()
    with pytest.raises(BackendFailed, match="does not hold"):
        lying(alpha, InstallGuard, partial(send, alpha, beta, of_a))
    assert not alpha.kernel.read().gate


@pytest.mark.parametrize("renewal", [False, True])
@pytest.mark.parametrize("side", ["receiving", "sending"])
def test_an_sa_that_was_not_installed_keeps_the_gate_as_it_is(
    looked: tuple[Host, Host], side: str, renewal: bool
) -> None:
    """The receiving side is not read again by itself: the sending side shows what it lacks."""
    alpha, beta = looked
    if renewal:
        join(alpha, beta, TYPES)
        for host in looked:
            host.clock.advance(30)
    before = alpha.kernel.read()
    of_a, _ = agree(alpha, beta, TYPES)
    steps = {"receiving": partial(receive, alpha, beta, of_a), "sending": partial(send, alpha, beta, of_a)}
    steps[side] = partial(lying, alpha, AddSa, steps[side])
    steps["receiving"]()
    with pytest.raises(BackendFailed, match="is not there"):
        steps["sending"]()
    assert alpha.kernel.read().gate == before.gate
    abandon(alpha, beta, of_a)
    assert alpha.kernel.read() == before
    assert carries(alpha, "shvm0-0", beta, "shvm0-0") is renewal


def test_a_receiving_sa_that_is_gone_when_the_peer_receives_ends_the_handshake(looked: tuple[Host, Host]) -> None:
    alpha, beta = looked
    of_a, _ = agree(alpha, beta, TYPES)
    receive(alpha, beta, of_a)
    alpha.kernel.apply([DeleteSas(ids=(SaId(destination=alpha.address, spi=of_a[0].in_spi),))])
    with pytest.raises(BackendFailed, match="is not there"):
        send(alpha, beta, of_a)
    assert not alpha.kernel.read().gate


def test_a_gate_that_was_not_opened_is_missed(looked: tuple[Host, Host]) -> None:
    """Nothing is read after it was opened but by the port itself. Nothing passes, and a new handshake is wanted."""
    alpha, beta = looked
    of_a, of_b = agree(alpha, beta, TYPES)
    receive(alpha, beta, of_a)
    receive(beta, alpha, of_b)
    lying(alpha, OpenGate, partial(send, alpha, beta, of_a))
    assert not alpha.kernel.read().gate
    alpha.look()
    assert alpha.links.needs_rekey() == (beta.name,)
