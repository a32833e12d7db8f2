"""Plans end where they should from wherever the kernel is, in an order that is safe to stop at any point."""

import contextlib
import secrets
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shamon_host.domain.errors import BackendFailed, BadInput
from shamon_host.domain.labels import HostName, SelinuxContext, TypeName
from shamon_host.links.desired import BLOCK_ENTRIES, DesiredLink, DesiredState, bridge_name
from shamon_host.links.model import (
    PORT_BLOCK_FIRST,
    AddSa,
    AddSpdEntry,
    AttachPort,
    CloseGate,
    CreateBridge,
    CreateTunnel,
    DeleteBridge,
    DeleteSas,
    DeleteSpdEntry,
    DeleteTunnel,
    DetachPort,
    InstallGuard,
    OpenGate,
    Operation,
    SaId,
)
from shamon_host.links.planner import describe, plan, teardown
from shamon_host.testing.kernel import MemoryKernel
from shamon_host.testing.wire import MemoryWire
from tests.unit.links.conftest import ManualClock

OWN = "192.0.2.1"
PEERS = ("192.0.2.2", "192.0.2.3", "2001:db8::2")
OWN6 = "2001:db8::1"


def a_link(peer: int, category: int, *, peer_port: int = 5, attached: bool = True, spi: int = 0x1000) -> DesiredLink:
    remote = PEERS[peer]
    local_port = PORT_BLOCK_FIRST + 10 * peer + category
    labels = [
        SelinuxContext(user="system_u", role="object_r", type=name, categories=frozenset({category}))
        for name in ("shamon_link_t", "shamon_spd_t")
    ]
    link = DesiredLink(
        peer=HostName(f"host{peer}"),
        type=TypeName(f"acme/t{category}"),
        local=OWN6 if ":" in remote else OWN,
        remote=remote,
        local_port=local_port,
        peer_port=PORT_BLOCK_FIRST + peer_port,
        bridge=bridge_name(category),
        link_context=labels[0],
        spd_context=labels[1],
        in_spis=frozenset({spi + local_port}),
        out_spis=frozenset({spi + 0x10000 + local_port}),
        attached=attached,
    )
    sas = (
        link.sa(inbound=True, spi=spi + local_port, key=secrets.token_bytes(36), lifetime_s=60),
        link.sa(inbound=False, spi=spi + 0x10000 + local_port, key=secrets.token_bytes(36), lifetime_s=60),
    )
    return replace(link, new_sas=sas)


LINKS = st.builds(
    a_link,
    st.integers(0, 2),
    st.integers(1, 3),
    peer_port=st.integers(5, 6),
    attached=st.booleans(),
    spi=st.sampled_from([0x1000, 0x2000]),
)


@st.composite
def desired_states(draw: st.DrawFn) -> DesiredState:
    links = {link.local_port: link for link in draw(st.lists(LINKS, max_size=4))}
    bridges = {link.bridge for link in links.values()} | {bridge_name(n) for n in draw(st.sets(st.integers(1, 4)))}
    gate = {link.remote: draw(st.floats(5, 80)) for link in links.values() if draw(st.booleans())}
    opening = {address: seconds for address, seconds in gate.items() if draw(st.booleans())}
    return DesiredState(
        links=tuple(links.values()),
        bridges=frozenset(bridges),
        gate=gate,
        opening=opening,
        taps=draw(st.sampled_from([None, {}])),
    )


@st.composite
def leftovers(draw: st.DrawFn) -> tuple[Operation, ...]:
    """What somebody, perhaps an earlier run, left in the kernel."""
    link = draw(LINKS)
    entry = draw(st.sampled_from([*link.spd_entries, *BLOCK_ENTRIES]))
    choices: list[Operation] = [
        InstallGuard(),
        AddSa(sa=replace(draw(st.sampled_from(link.new_sas)), reqid=draw(st.sampled_from([link.reqid, 1])))),
        AddSpdEntry(entry=replace(entry, priority=draw(st.sampled_from([entry.priority, 7])))),
        CreateTunnel(tunnel=link.tunnel),
        CreateBridge(name=link.bridge),
        AttachPort(
            bridge=draw(st.sampled_from(["shbr1", "shbr2"])), interface=link.device, isolated=draw(st.booleans())
        ),
        OpenGate(address=link.remote, seconds=draw(st.floats(1, 1000))),
    ]
    return (draw(st.sampled_from(choices)),)


def a_kernel(operations: list[tuple[Operation, ...]]) -> MemoryKernel:
    kernel = MemoryKernel([OWN, OWN6], MemoryWire(), ManualClock())
    for some in operations:
        with contextlib.suppress(BackendFailed):
            kernel.apply(some)
    return kernel


@settings(max_examples=80, deadline=None)
@given(desired_states(), st.lists(leftovers(), max_size=10))
def test_a_plan_is_carried_out_and_then_there_is_nothing_to_do(
    desired: DesiredState, operations: list[tuple[Operation, ...]]
) -> None:
    kernel = a_kernel(operations)
    kernel.apply(plan(desired, kernel.read()))
    state = kernel.read()
    assert plan(replace(desired, opening={}), state) == ()
    assert {sa.id for sa in state.sas} == {sa for link in desired.links for sa in link.sa_ids}
    assert state.tunnels == {link.tunnel for link in desired.links}
    assert set(state.bridges) == desired.bridges
    for bridge in state.bridges.values():
        assert set(bridge.ports) == {
            link.device for link in desired.links if link.attached and link.bridge == bridge.name
        }
        assert all(bridge.ports.values())
    for address, left in state.gate.items():
        assert left <= desired.gate[address] + 2


@settings(max_examples=80, deadline=None)
@given(desired_states(), st.lists(leftovers(), max_size=10), st.data())
def test_a_plan_that_breaks_off_is_finished_by_the_next(
    desired: DesiredState, operations: list[tuple[Operation, ...]], data: st.DataObject
) -> None:
    kernel = a_kernel(operations)
    wanted = plan(desired, kernel.read())
    kernel.apply(wanted[: data.draw(st.integers(0, len(wanted)))])
    kernel.apply(plan(desired, kernel.read()))
    assert plan(replace(desired, opening={}), kernel.read()) == ()


@settings(max_examples=80, deadline=None)
@given(desired_states(), st.lists(leftovers(), max_size=10))
def test_the_order_is_safe(desired: DesiredState, operations: list[tuple[Operation, ...]]) -> None:
    kernel = a_kernel(operations)
    wanted = plan(desired, kernel.read())
    ranks = [_rank(operation) for operation in wanted]
    guarding = [rank for rank in ranks if rank <= 1]
    assert ranks[: len(guarding)] == sorted(guarding)
    rest = [
        rank for operation, rank in zip(wanted, ranks, strict=True) if rank > 1 and not _reopens(operation, desired)
    ]
    assert rest == sorted(rest)
    for operation in wanted:
        assert not (isinstance(operation, DeleteSpdEntry) and operation.entry in BLOCK_ENTRIES)


@settings(max_examples=80, deadline=None)
@given(desired_states(), st.sampled_from(PEERS))
def test_a_teardown_leaves_nothing_of_one_peer_and_everything_of_the_others(desired: DesiredState, peer: str) -> None:
    kernel = a_kernel([plan(desired, a_kernel([]).read())])
    before = kernel.read()
    kernel.apply(teardown([peer], before))
    after = kernel.read()
    assert not [sa for sa in after.sas if peer in (sa.source, sa.destination)]
    assert not [entry for entry in after.spd if peer in (entry.source, entry.destination)]
    assert not [tunnel for tunnel in after.tunnels if tunnel.remote == peer]
    assert peer not in after.gate
    others = replace(desired, links=tuple(link for link in desired.links if link.remote != peer), opening={})
    assert plan(replace(others, gate={a: s for a, s in others.gate.items() if a != peer}), after) == ()
    assert after.guard
    assert set(BLOCK_ENTRIES) <= after.spd


@given(LINKS)
def test_a_description_never_has_a_key(link: DesiredLink) -> None:
    for sa in link.new_sas:
        assert sa.key is not None
        words = (
            describe(AddSa(sa=sa))
            + repr(link)
            + repr(sa)
            + repr(DesiredState(links=(link,), bridges=frozenset({link.bridge})))
        )
        assert sa.key.hex() not in words
        assert repr(sa.key)[2:-1] not in words


def test_impossible_wishes_are_refused() -> None:
    link = a_link(0, 1)
    bridges = frozenset({link.bridge})
    for wrong in (
        {"links": (link, replace(link, type=TypeName("acme/other")))},
        {"links": (replace(link, peer_port=22),)},
        {"links": (replace(link, bridge="shbr2"),), "bridges": frozenset({"shbr2"})},
        {"links": (replace(link, spd_context=link.link_context),), "bridges": frozenset()},
        {"links": (replace(link, in_spis=frozenset()),)},
        {"taps": {"shvm0-0": "shbr9"}},
        {"gate": {OWN: float("inf")}},
        {"gate": {OWN: 5.0}, "opening": {OWN: 6.0}},
    ):
        with pytest.raises(BadInput):
            DesiredState(**{"bridges": bridges, **wrong})  # type: ignore[arg-type]


def _rank(operation: Operation) -> int:
    """The place of an operation in a safe plan."""
    match operation:
        case InstallGuard():
            return 0
        case AddSpdEntry(entry=entry) if entry in BLOCK_ENTRIES:
            return 1
        case CloseGate():
            return 2
        case DetachPort():
            return 3
        case DeleteSas():
            return 4
        case DeleteTunnel():
            return 5
        case DeleteSpdEntry():
            return 6
        case DeleteBridge():
            return 7
        case CreateBridge():
            return 8
        case AddSpdEntry():
            return 9
        case AddSa(sa=sa) if sa.destination in (OWN, OWN6):
            return 10
        case CreateTunnel():
            return 11
        case AddSa():
            return 12
        case AttachPort():
            return 13
        case OpenGate():
            return 14


def _reopens(operation: Operation, desired: DesiredState) -> bool:
    """A gate that was open is set again, for no longer than it was or may be."""
    return isinstance(operation, OpenGate) and operation.address not in desired.opening


def test_ids_are_found_by_destination_and_spi() -> None:
    link = a_link(1, 2)
    assert link.sa_ids == {sa.id for sa in link.new_sas}
    assert SaId(destination=OWN, spi=min(link.in_spis)) in link.sa_ids
