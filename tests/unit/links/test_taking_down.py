"""The way down: what is known goes before anything is read, each part whatever becomes of the others."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shamon_host.domain.errors import BackendFailed
from shamon_host.links.batches import apply_in_batches, attempt_in_batches, batches, together
from shamon_host.links.desired import BLOCK_ENTRIES, DesiredState
from shamon_host.links.dismantling import dismantling
from shamon_host.links.model import (
    AddSa,
    AttachPort,
    CloseGate,
    CreateBridge,
    CreateTunnel,
    DeleteSas,
    DeleteSpdEntry,
    DeleteTunnel,
    DetachPort,
    KernelState,
    Operation,
    SaId,
)
from shamon_host.links.planner import plan
from shamon_host.testing.kernel import MemoryKernel
from tests.examples import examples
from tests.unit.links.conftest import BLUE, LEASE_S, RED, Host, join
from tests.unit.links.test_planner import PEERS, a_kernel, a_link, desired_states

ANY = CreateBridge(name="shbr1")


# Batches


def _tunnels(*ports: int) -> list[Operation]:
    return [DeleteTunnel(local_port=port) for port in ports]


def test_runs_of_one_kind_go_together_and_the_order_stays() -> None:
    attach = [AttachPort(bridge="shbr1", interface=f"shl2{n}", isolated=True) for n in range(2)]
    operations = [*_tunnels(1, 2), CloseGate(address="192.0.2.2"), *attach, *_tunnels(3)]
    found = list(batches(operations))
    assert [len(batch) for batch in found] == [2, 1, 1, 1, 1]
    assert list(itertools.chain(*found)) == operations


def _refusing(refused: Sequence[Operation], seen: list[Operation]) -> Callable[..., list[BackendFailed | None]]:
    def carry_out(batch: Sequence[Operation]) -> list[BackendFailed | None]:
        seen.extend(batch)
        return [BackendFailed(f"no: {each}") if each in refused else None for each in batch]

    return carry_out


def test_applying_ends_with_the_batch_that_failed_and_an_attempt_goes_on() -> None:
    operations = [*_tunnels(1, 2, 3), ANY, *_tunnels(4)]
    seen: list[Operation] = []
    with pytest.raises(BackendFailed, match=r"2 kernel operations failed.*local_port=1.*local_port=3"):
        apply_in_batches(operations, _refusing(_tunnels(1, 3), seen))
    assert seen == operations[:3]
    seen.clear()
    failures = attempt_in_batches(operations, _refusing(_tunnels(1, 3), seen))
    assert seen == operations
    assert [str(failure) for failure in failures] == [f"no: {each}" for each in _tunnels(1, 3)]


def test_one_failure_is_told_as_it_is() -> None:
    only = BackendFailed("so")
    assert together([only]) is only
    assert len(str(together([BackendFailed("x" * 800)] * 400))) < 1200


# What is known


def test_the_order_is_that_of_every_way_down() -> None:
    links = [a_link(0, category, spi=0x1000 * category) for category in (3, 1, 2)]
    operations = dismantling(["192.0.2.9", links[0].remote], links)
    kinds = [kind for kind, _ in itertools.groupby(operations, key=type)]
    assert kinds == [CloseGate, DetachPort, DeleteSas, DeleteTunnel, DeleteSpdEntry]
    (sas,) = (operation for operation in operations if isinstance(operation, DeleteSas))
    assert set(sas.ids) == {sa_id for link in links for sa_id in link.sa_ids}
    assert len(list(batches(operations))) == 1 + 3 + 3
    assert dismantling([], []) == ()


@settings(max_examples=examples(60), deadline=None)
@given(desired_states(), st.sampled_from(PEERS))
def test_what_is_known_leaves_nothing_to_do(desired: DesiredState, peer: str) -> None:
    kernel = a_kernel([plan(desired, a_kernel([]).read())])
    known = [link for link in desired.links if link.remote == peer]
    assert kernel.attempt(dismantling([peer], known)) == ()
    others = [link for link in desired.links if link.remote != peer]
    opening = {address: seconds for address, seconds in desired.opening.items() if address != peer}
    gate = {address: seconds for address, seconds in desired.gate.items() if address != peer}
    ports = {link.local_port for link in others}
    passages = frozenset(passage for passage in desired.passages if passage.local_port in ports)
    left = replace(desired, links=tuple(others), passages=passages, gate=gate, opening=opening)
    assert plan(left, kernel.read()) == ()


# A host with links


@pytest.fixture
def joined(alpha: Host, beta: Host, gamma: Host) -> tuple[Host, Host, Host]:
    for host in (alpha, beta, gamma):
        host.links.reconcile({})
    join(alpha, beta, (RED, BLUE))
    join(alpha, gamma, (RED, BLUE))
    return alpha, beta, gamma


def _of(state: KernelState, address: str) -> list[object]:
    return [
        *(sa for sa in state.sas if address in (sa.source, sa.destination)),
        *(entry for entry in state.spd if address in (entry.source, entry.destination)),
        *(tunnel for tunnel in state.tunnels if tunnel.remote == address),
        *(one for one in state.gate if one == address),
    ]


def _recorded(kernel: MemoryKernel, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The operations that are carried out from now on, and "read" for each reading."""
    carry_out, read = kernel.carry_out, kernel.read
    seen: list[object] = []

    def recorded_carry_out(batch: Sequence[Operation]) -> Sequence[BackendFailed | None]:
        seen.extend(batch)
        return carry_out(batch)

    def recorded_read() -> KernelState:
        seen.append("read")
        return read()

    monkeypatch.setattr(kernel, "carry_out", recorded_carry_out)
    monkeypatch.setattr(kernel, "read", recorded_read)
    return seen


def test_a_peer_goes_before_anything_is_read(joined: tuple[Host, Host, Host], monkeypatch: pytest.MonkeyPatch) -> None:
    alpha, beta, gamma = joined
    read = alpha.kernel.read

    def fail() -> KernelState:
        raise BackendFailed("the kernel cannot be read")

    monkeypatch.setattr(alpha.kernel, "read", fail)
    with pytest.raises(BackendFailed, match="cannot be read"):
        alpha.links.close_peer(beta.name, beta.address)
    state = read()
    assert not _of(state, beta.address)
    assert len(_of(state, gamma.address)) == 4 + 4 + 2 + 1
    assert not any(name for bridge in state.bridges.values() for name in bridge.ports if len(bridge.ports) > 1)


def test_the_gate_is_first_and_one_reading_is_enough(
    joined: tuple[Host, Host, Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    alpha, beta, _ = joined
    seen = _recorded(alpha.kernel, monkeypatch)
    alpha.links.close_peer(beta.name, beta.address)
    assert seen[0] == CloseGate(address=beta.address)
    assert [each for each in seen if each == "read"] == ["read"]
    assert seen[-1] == "read"


def test_strays_of_a_peer_are_found_by_the_reading(joined: tuple[Host, Host, Host]) -> None:
    alpha, beta, _ = joined
    stray = a_link(0, 9)
    stray = replace(stray, remote=beta.address)
    alpha.kernel.put_sa(stray.sa(inbound=False, spi=0x7777, key=bytes(36), lifetime_s=60))
    alpha.kernel.apply([CreateTunnel(tunnel=stray.tunnel)])
    alpha.links.close_peer(beta.name, beta.address)
    assert not _of(alpha.kernel.read(), beta.address)


def test_a_part_that_fails_is_tried_again_and_told_if_it_stays(
    joined: tuple[Host, Host, Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    alpha, beta, gamma = joined
    alpha.kernel.fail_after = 0
    alpha.links.close_peer(beta.name, beta.address)  # the gate, which the reading showed to be open
    assert not _of(alpha.kernel.read(), beta.address)
    carry_out = alpha.kernel.carry_out

    def stubborn(batch: Sequence[Operation]) -> Sequence[BackendFailed | None]:
        if isinstance(batch[0], DeleteTunnel):
            return [BackendFailed("the tunnel does not go away", where=str(each)) for each in batch]
        return carry_out(batch)

    monkeypatch.setattr(alpha.kernel, "carry_out", stubborn)
    with pytest.raises(BackendFailed, match="tunnel does not go away"):
        alpha.links.close_peer(gamma.name, gamma.address)
    left = _of(alpha.kernel.read(), gamma.address)
    assert len(left) == 2  # tunnels
    (told,) = (detail for kind, _, detail in alpha.audited if kind == "link.not-closed")
    assert len(told["left"]) == 2


def test_leases_that_end_together_end_with_one_reading(
    joined: tuple[Host, Host, Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    alpha, beta, gamma = joined
    seen = _recorded(alpha.kernel, monkeypatch)
    alpha.clock.advance(LEASE_S - 1)
    alpha.links.tidy()
    assert [each for each in seen if each == "read"] == ["read"]
    monkeypatch.undo()
    assert not _of(alpha.kernel.read(), beta.address)
    assert not _of(alpha.kernel.read(), gamma.address)
    closed = [subject for kind, subject, _ in alpha.audited if kind == "link.close"]
    assert closed == [beta.name, gamma.name]


def test_closing_all_takes_strays_of_strangers_too(joined: tuple[Host, Host, Host]) -> None:
    alpha, *_ = joined
    stranger = a_link(0, 9)
    stranger = replace(stranger, remote="192.0.2.200")
    alpha.kernel.apply([AddSa(sa=stranger.sa(inbound=False, spi=0x7777, key=bytes(36), lifetime_s=60))])
    assert SaId(destination="192.0.2.200", spi=0x7777) in {sa.id for sa in alpha.kernel.read().sas}
    alpha.links.close_all()
    state = alpha.kernel.read()
    assert (state.sas, state.tunnels, state.gate) == (frozenset(), frozenset(), {})
    assert state.spd == set(BLOCK_ENTRIES)
