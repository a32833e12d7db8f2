"""What every `links.ports.LinkKernel` must do with many operations at once, and on the way down.

Beside `contracts.kernel`: subclass `KernelBatchContract`, give it the same `bench`.
"""

import secrets
from collections.abc import Iterator
from dataclasses import replace

import pytest

from shamon_host.domain.errors import BackendFailed
from shamon_host.links.desired import BLOCK_ENTRIES, DesiredState
from shamon_host.links.dismantling import dismantling
from shamon_host.links.model import (
    AddSa,
    AddSpdEntry,
    CloseGate,
    CreateTunnel,
    DeleteSas,
    DeleteSpdEntry,
    DeleteTunnel,
    DetachPort,
    InstallGuard,
    OpenGate,
    Operation,
    SaId,
)
from shamon_host.links.planner import plan
from shamon_host.testing.contracts.kernel import LIFETIME_S, Bench, context, link, whole

MANY = 12
"""More than are asked for one by one."""


class KernelBatchContract:
    """The suite. Nothing of ours but the guard is in the kernel before a test or after it."""

    @pytest.fixture
    def bench(self) -> Bench | Iterator[Bench]:
        """As of `LinkKernelContract`."""
        raise NotImplementedError

    def test_many_sas_go_in_and_out_together(self, bench: Bench) -> None:
        ours = link(bench)
        spis = [bench.kernel.allocate_spi(source=bench.peer, destination=bench.own) for _ in range(MANY)]
        reserved = [ours.sa(inbound=True, spi=spi, key=_key(), lifetime_s=LIFETIME_S) for spi in spis]
        sending = [ours.sa(inbound=False, spi=0x4711 + n, key=_key(), lifetime_s=LIFETIME_S) for n in range(MANY)]
        mixed = [sa for pair in zip(reserved, sending, strict=True) for sa in pair]
        bench.kernel.apply([AddSa(sa=sa) for sa in mixed])
        assert bench.kernel.read().sas == set(mixed)
        bench.kernel.apply([DeleteSas(ids=tuple(sa.id for sa in mixed[: MANY + 1]))])
        assert bench.kernel.read().sas == set(mixed[MANY + 1 :])

    def test_of_many_sas_the_one_that_is_there_fails_alone_and_keeps_its_limits(self, bench: Bench) -> None:
        ours = link(bench)
        old = ours.sa(inbound=False, spi=0x4711, key=_key(), lifetime_s=2 * LIFETIME_S)
        bench.kernel.apply([AddSa(sa=old)])
        new = [ours.sa(inbound=False, spi=0x4711 + n, key=_key(), lifetime_s=LIFETIME_S) for n in range(MANY)]
        with pytest.raises(BackendFailed, match="0x00004711"):
            bench.kernel.apply([*(AddSa(sa=sa) for sa in new), CreateTunnel(tunnel=ours.tunnel)])
        state = bench.kernel.read()
        assert old in state.sas
        assert state.sas <= {old, *new[1:]}
        assert state.tunnels == frozenset()

    def test_of_many_sas_a_bad_label_is_named_and_not_kept(self, bench: Bench) -> None:
        ours = link(bench)
        sas = [ours.sa(inbound=False, spi=0x4711 + n, key=_key(), lifetime_s=LIFETIME_S) for n in range(MANY)]
        sas[3] = replace(sas[3], context=context("no_such_type_t", 7))
        failures = bench.kernel.attempt([AddSa(sa=sa) for sa in sas])
        assert len(failures) == 1
        assert "0x00004714" in str(failures[0])
        assert bench.kernel.read().sas == {sa for sa in sas if sa is not sas[3]}

    def test_many_entries_go_in_and_out_together(self, bench: Bench) -> None:
        entries = [entry for number in range(MANY) for entry in link(bench, number=number).spd_entries]
        bench.kernel.apply([AddSpdEntry(entry=entry) for entry in (*BLOCK_ENTRIES, *entries)])
        assert bench.kernel.read().spd == {*BLOCK_ENTRIES, *entries}
        bench.kernel.apply([DeleteSpdEntry(entry=entry) for entry in entries[1:]])
        assert bench.kernel.read().spd == {*BLOCK_ENTRIES, entries[0]}

    def test_deleting_what_stood_in_a_block_entrys_place_leaves_that_one(self, bench: Bench) -> None:
        stranger = replace(BLOCK_ENTRIES[0], priority=17)
        bench.kernel.apply([AddSpdEntry(entry=stranger), AddSpdEntry(entry=BLOCK_ENTRIES[0])])
        bench.kernel.apply([DeleteSpdEntry(entry=stranger)])
        assert bench.kernel.read().spd == {BLOCK_ENTRIES[0]}

    def test_many_tunnels_go_together(self, bench: Bench) -> None:
        tunnels = [link(bench, number=number).tunnel for number in range(4)]
        bench.kernel.apply([CreateTunnel(tunnel=tunnel) for tunnel in tunnels])
        bench.kernel.apply([DeleteTunnel(local_port=tunnel.local_port) for tunnel in tunnels[1:]])
        assert bench.kernel.read().tunnels == {tunnels[0]}

    def test_many_gates_open_and_close_together(self, bench: Bench) -> None:
        addresses = ["192.0.2.91", "192.0.2.92", "2001:db8::91"]
        bench.kernel.apply([InstallGuard(), *(OpenGate(address=one, seconds=60.0) for one in addresses)])
        assert set(bench.kernel.read().gate) == set(addresses)
        bench.kernel.apply([CloseGate(address=one) for one in (*addresses[1:], "192.0.2.93")])
        assert set(bench.kernel.read().gate) == {addresses[0]}

    def test_an_attempt_goes_on_after_what_fails(self, bench: Bench) -> None:
        desired, _ = whole(bench)
        bench.kernel.apply(plan(desired, bench.kernel.read()))
        again = [AddSa(sa=sa) for ours in desired.links for sa in ours.new_sas]
        down = dismantling([bench.peer], desired.links)
        failures = bench.kernel.attempt([*again, *down])
        assert len(failures) == len(again)
        assert all(f"{add.sa.spi:#010x}" in str(failure) for add, failure in zip(again, failures, strict=True))
        state = bench.kernel.read()
        assert (state.sas, state.tunnels, state.gate) == (frozenset(), frozenset(), {})
        assert state.spd == set(BLOCK_ENTRIES)
        assert all(not bridge.ports for bridge in state.bridges.values())
        bench.kernel.apply(plan(DesiredState(filters={}), state))

    def test_to_take_down_what_is_not_there_is_no_failure(self, bench: Bench) -> None:
        ours = replace(link(bench), in_spis=frozenset({0x9998}), out_spis=frozenset({0x9999}))
        gone: list[Operation] = [*dismantling([bench.peer, "192.0.2.93"], [ours])]
        for kind in (CloseGate, DetachPort, DeleteSas, DeleteTunnel, DeleteSpdEntry):
            assert any(isinstance(operation, kind) for operation in gone)
        assert bench.kernel.attempt(gone) == ()
        assert bench.kernel.attempt([DeleteSas(ids=(SaId(destination=bench.peer, spi=0x9999),))]) == ()


def _key() -> bytes:
    return secrets.token_bytes(36)
