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
from shamon_host.links.filter_plan import WINDOW_TOLERANCE_S
from shamon_host.links.frame_facts import FrameFacts, FrameKind, PortProtocol, PortRule
from shamon_host.links.model import (
    PORT_BLOCK_FIRST,
    AddSa,
    AddSpdEntry,
    AttachPort,
    ClearTapFilter,
    CloseGate,
    ClosePassage,
    CreateBridge,
    CreateTunnel,
    DeleteBridge,
    DeleteSas,
    DeleteSpdEntry,
    DeleteTunnel,
    DetachPort,
    InstallGuard,
    KernelState,
    OpenGate,
    OpenPassage,
    Operation,
    SaId,
    SetTapFilter,
)
from shamon_host.links.planner import describe, plan, teardown
from shamon_host.links.tap_filter import TapFilter, shut
from shamon_host.testing.kernel import MemoryKernel
from shamon_host.testing.wire import MemoryWire
from tests.examples import examples
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


TAPS = ("shvm0-0", "shvm0-1")
PEER_MAC = "02:00:00:00:00:02"
HTTPS = PortRule(protocol=PortProtocol.TCP, port=443)


@st.composite
def tap_filters(draw: st.DrawFn, tap: str) -> TapFilter:
    return TapFilter(
        device=tap,
        sends=draw(st.booleans()),
        receives=draw(st.booleans()),
        peers=draw(st.sampled_from([None, frozenset({PEER_MAC}), frozenset()])),
        ports=draw(st.sampled_from([None, (HTTPS,)])),
        open_s=draw(st.sampled_from([None, 0.0, 1.5, 30.0, 31.0, 300.0])),
    )


@st.composite
def desired_states(draw: st.DrawFn) -> DesiredState:
    links = {link.local_port: link for link in draw(st.lists(LINKS, max_size=4))}
    bridges = {link.bridge for link in links.values()} | {bridge_name(n) for n in draw(st.sets(st.integers(1, 4)))}
    gate = {link.remote: draw(st.floats(5, 80)) for link in links.values() if draw(st.booleans())}
    opening = {address: seconds for address, seconds in gate.items() if draw(st.booleans())}
    return DesiredState(
        links=tuple(links.values()),
        passages=frozenset(
            link.passage(gives=draw(st.booleans())) for link in links.values() if link.attached and draw(st.booleans())
        ),
        bridges=frozenset(bridges),
        gate=gate,
        opening=opening,
        taps=draw(
            st.none() | st.dictionaries(st.sampled_from(TAPS), st.sampled_from(sorted(bridges)))
            if bridges
            else st.sampled_from([None, {}])
        ),
        filters=draw(st.none() | st.sets(st.sampled_from(TAPS)).flatmap(_filters)),
    )


def _is_about(found: TapFilter | None, wanted: TapFilter | None) -> bool:
    """The same but for the seconds that nft's readings lose."""
    if found is None or wanted is None or found.open_s is None or wanted.open_s is None:
        return found == wanted
    near = found.open_s == 0 if wanted.open_s == 0 else abs(found.open_s - wanted.open_s) <= WINDOW_TOLERANCE_S
    return near and found.without_window() == wanted.without_window()


def _filters(taps: set[str]) -> st.SearchStrategy[dict[str, TapFilter]]:
    return st.fixed_dictionaries({tap: tap_filters(tap) for tap in sorted(taps)})


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
        OpenPassage(passage=link.passage(gives=draw(st.booleans()))),
        CreateBridge(name=link.bridge),
        AttachPort(
            bridge=draw(st.sampled_from(["shbr1", "shbr2"])), interface=link.device, isolated=draw(st.booleans())
        ),
        OpenGate(address=link.remote, seconds=draw(st.floats(1, 1000))),
        AttachPort(
            bridge=draw(st.sampled_from(["shbr1", "shbr2"])), interface=draw(st.sampled_from(TAPS)), isolated=False
        ),
        SetTapFilter(filter=draw(st.sampled_from(TAPS).flatmap(tap_filters))),
    ]
    return (draw(st.sampled_from(choices)),)


def a_kernel(operations: list[tuple[Operation, ...]]) -> MemoryKernel:
    kernel = MemoryKernel([OWN, OWN6], MemoryWire(), ManualClock())
    for tap in TAPS:
        kernel.add_tap(tap, lambda _: None)
    for some in operations:
        with contextlib.suppress(BackendFailed):
            kernel.apply(some)
    return kernel


@settings(max_examples=examples(80), deadline=None)
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
    assert state.passages == desired.passages
    assert set(state.bridges) == desired.bridges
    for bridge in state.bridges.values():
        taps = {tap for tap in bridge.ports if tap in TAPS}
        if desired.taps is not None:
            assert taps == {tap for tap, name in desired.taps.items() if name == bridge.name}
        assert set(bridge.ports) - taps == {
            link.device for link in desired.links if link.attached and link.bridge == bridge.name
        }
        assert all(isolated is (port not in taps) for port, isolated in bridge.ports.items())
    for tap in TAPS:
        if desired.filters is not None and (tap in desired.filters or desired.taps is not None):
            assert _is_about(state.filters.get(tap), desired.filters.get(tap))
    for address, left in state.gate.items():
        assert left <= desired.gate[address] + 2


@settings(max_examples=examples(80), deadline=None)
@given(desired_states(), st.lists(leftovers(), max_size=10), st.data())
def test_a_plan_that_breaks_off_is_finished_by_the_next(
    desired: DesiredState, operations: list[tuple[Operation, ...]], data: st.DataObject
) -> None:
    kernel = a_kernel(operations)
    wanted = plan(desired, kernel.read())
    kernel.apply(wanted[: data.draw(st.integers(0, len(wanted)))])
    kernel.apply(plan(desired, kernel.read()))
    assert plan(replace(desired, opening={}), kernel.read()) == ()


@settings(max_examples=examples(80), deadline=None)
@given(desired_states(), st.lists(leftovers(), max_size=10))
def test_the_order_is_safe(desired: DesiredState, operations: list[tuple[Operation, ...]]) -> None:
    kernel = a_kernel(operations)
    wanted = plan(desired, kernel.read())
    others = [operation for operation in wanted if not isinstance(operation, SetTapFilter)]
    ranks = [_rank(operation) for operation in others]
    guarding = [rank for rank in ranks if rank <= 1]
    assert ranks[: len(guarding)] == sorted(guarding)
    rest = [
        rank for operation, rank in zip(others, ranks, strict=True) if rank > 1 and not _reopens(operation, desired)
    ]
    assert rest == sorted(rest)
    for operation in wanted:
        assert not (isinstance(operation, DeleteSpdEntry) and operation.entry in BLOCK_ENTRIES)


FRAMES = [
    FrameFacts(
        from_tap=from_tap,
        source="02:00:00:00:00:01" if from_tap else mac,
        destination=mac if from_tap else "02:00:00:00:00:01",
        kind=FrameKind.PORTS,
        protocol=PortProtocol.TCP,
        destination_port=port,
    )
    for from_tap in (True, False)
    for mac in (PEER_MAC, "02:00:00:00:00:03")
    for port in (443, 80)
]


def _permits(limits: TapFilter | None, frame: FrameFacts, after_s: float) -> bool:
    """Whether the frame passes in so many seconds, if nothing else happens."""
    return limits is None or (limits.permits(frame) and (limits.open_s is None or limits.open_s > after_s))


def _open(state: KernelState) -> set[tuple[str, str, int, float]]:
    """Tap, bridge, number of a frame, in how many seconds: what passes for certain; a changed filter lets nothing."""
    return {
        (tap, bridge.name, number, after_s)
        for bridge in state.bridges.values()
        for tap in TAPS
        if tap in bridge.ports and tap not in state.changed_filters
        for number, frame in enumerate(FRAMES)
        for after_s in (0.0, 20.0, 100.0)
        if _permits(state.filters.get(tap), frame, after_s)
    }


@settings(max_examples=examples(150), deadline=None)
@given(desired_states(), st.lists(leftovers(), max_size=10), st.data())
def test_a_tap_is_never_more_open_than_before_or_after(
    desired: DesiredState, operations: list[tuple[Operation, ...]], data: st.DataObject
) -> None:
    """After each operation, in whichever bridge it is: also one that moves, and one whose filter was changed."""
    kernel = a_kernel(operations)
    for tap in data.draw(st.sets(st.sampled_from(sorted(kernel.read().filters)))) if kernel.read().filters else ():
        kernel.damage_filter(tap)
    before = kernel.read()
    filters = before.filters if desired.filters is None else desired.filters
    taps = desired.taps
    if taps is None:
        taps = {tap: bridge.name for bridge in before.bridges.values() for tap in bridge.ports if tap in TAPS}
    permitted = _open(before) | {
        (tap, bridge, number, after_s)
        for tap, bridge in taps.items()
        for number, frame in enumerate(FRAMES)
        for after_s in (0.0, 20.0, 100.0)
        if _permits(filters.get(tap), frame, after_s)
    }
    for operation in plan(desired, before):
        kernel.apply([operation])
        assert _open(kernel.read()) <= permitted, operation
    assert not desired.filters or not set(desired.filters) & set(kernel.read().changed_filters)


def test_a_filter_is_set_before_its_tap_comes_and_goes_after_it() -> None:
    kernel, bridge = a_kernel([]), "shbr1"
    limits = TapFilter(device=TAPS[0], sends=False)
    wanted = DesiredState(bridges=frozenset({bridge}), taps={TAPS[0]: bridge}, filters={TAPS[0]: limits})
    coming = [item for item in plan(wanted, kernel.read()) if isinstance(item, (SetTapFilter, AttachPort))]
    assert coming == [
        SetTapFilter(filter=limits), AttachPort(bridge=bridge, interface=TAPS[0], isolated=False),
    ]  # fmt: skip
    kernel.apply(plan(wanted, kernel.read()))
    going = plan(replace(wanted, taps={}, filters={}), kernel.read())
    assert going == (DetachPort(interface=TAPS[0]), ClearTapFilter(device=TAPS[0]))
    # Nothing is known of taps: one that is in its bridge keeps its filter.
    assert plan(replace(wanted, taps=None, filters={}), kernel.read()) == ()
    assert plan(replace(wanted, taps=None, filters=None), kernel.read()) == ()


def test_a_filter_is_narrowed_before_a_tap_moves_and_widened_after() -> None:
    kernel = a_kernel([])
    bridges = frozenset({"shbr1", "shbr2"})
    first = TapFilter(device=TAPS[0], sends=False)
    second = TapFilter(device=TAPS[0], receives=False)
    kernel.apply(plan(DesiredState(bridges=bridges, taps={TAPS[0]: "shbr1"}, filters={TAPS[0]: first}), kernel.read()))
    moved = DesiredState(bridges=bridges, taps={TAPS[0]: "shbr2"}, filters={TAPS[0]: second})
    assert plan(moved, kernel.read()) == (
        SetTapFilter(filter=shut(TAPS[0])),
        DetachPort(interface=TAPS[0]),
        SetTapFilter(filter=second),
        AttachPort(bridge="shbr2", interface=TAPS[0], isolated=False),
    )


def test_a_changed_filter_lets_nothing_through_until_it_is_right() -> None:
    kernel = a_kernel([])
    bridges, limits = frozenset({"shbr1", "shbr2"}), TapFilter(device=TAPS[0], sends=False)
    here = DesiredState(bridges=bridges, taps={TAPS[0]: "shbr1"}, filters={TAPS[0]: limits})
    kernel.apply(plan(here, kernel.read()))
    kernel.damage_filter(TAPS[0])
    state = kernel.read()
    assert plan(here, state) == (SetTapFilter(filter=shut(TAPS[0])), SetTapFilter(filter=limits))
    assert plan(replace(here, taps={TAPS[0]: "shbr2"}), state) == (
        SetTapFilter(filter=shut(TAPS[0])),
        DetachPort(interface=TAPS[0]),
        SetTapFilter(filter=limits),
        AttachPort(bridge="shbr2", interface=TAPS[0], isolated=False),
    )
    assert plan(replace(here, filters={}), state) == (ClearTapFilter(device=TAPS[0]),)


@pytest.mark.parametrize(
    ("found_s", "wanted_s", "left_s"),
    [
        (30.0, 31.9, None), (30.0, 28.5, None), (30.0, 33.0, 33.0), (30.0, 20.0, 20.0), (30.0, 0.0, 0.0),
        (1.0, 0.0, 0.0), (0.0, 0.0, None), (0.0, 1.9, None), (0.0, 30.0, 30.0),
    ],
)  # fmt: skip
def test_windows_are_set_anew_when_they_differ_by_more_than_readings_do(
    found_s: float, wanted_s: float, left_s: float | None
) -> None:
    kernel = a_kernel([(SetTapFilter(filter=TapFilter(device=TAPS[0], open_s=found_s)),)])
    kernel.apply([InstallGuard(), *(AddSpdEntry(entry=entry) for entry in BLOCK_ENTRIES)])
    wanted = TapFilter(device=TAPS[0], open_s=wanted_s)
    operations = plan(DesiredState(filters={TAPS[0]: wanted}), kernel.read())
    assert operations == (() if left_s is None else (SetTapFilter(filter=replace(wanted, open_s=left_s)),))


@settings(max_examples=examples(80), deadline=None)
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
    links = tuple(link for link in desired.links if link.remote != peer)
    ports = {link.local_port for link in links}
    passages = frozenset(passage for passage in desired.passages if passage.local_port in ports)
    others = replace(desired, links=links, passages=passages, opening={})
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
        {"filters": {"shvm0-0": shut("shvm0-1")}},
        {"passages": frozenset({link.passage(gives=True)})},
        {"links": (replace(link, attached=False),), "passages": frozenset({link.passage(gives=True)})},
    ):
        with pytest.raises(BadInput):
            DesiredState(**{"bridges": bridges, **wrong})  # type: ignore[arg-type]


def _rank(operation: Operation) -> int:  # noqa: PLR0912 one case for each operation
    """The place of an operation in a safe plan."""
    match operation:
        case InstallGuard():
            return 0
        case AddSpdEntry(entry=entry) if entry in BLOCK_ENTRIES:
            return 1
        case CloseGate():
            return 2
        case DetachPort() | ClosePassage():
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
        case AddSa() | OpenPassage():
            return 12
        case AttachPort():
            return 14
        case OpenGate():
            return 15
        case ClearTapFilter():
            return 13
        case SetTapFilter():
            raise AssertionError("in two places: see test_a_tap_is_never_more_open_than_before_or_after")


def _reopens(operation: Operation, desired: DesiredState) -> bool:
    """A gate that was open is set again, for no longer than it was or may be."""
    return isinstance(operation, OpenGate) and operation.address not in desired.opening


def test_ids_are_found_by_destination_and_spi() -> None:
    link = a_link(1, 2)
    assert link.sa_ids == {sa.id for sa in link.new_sas}
    assert SaId(destination=OWN, spi=min(link.in_spis)) in link.sa_ids
