"""Values cross the control wire as they are; what is malformed is refused, and never shown."""

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shamon_host.domain.errors import BadInput
from shamon_host.domain.labels import SelinuxContext
from shamon_host.link_agent.frames import CALLS, MAX_FRAME_BYTES, document_in, failure_in, frame, frame_length
from shamon_host.link_agent.setup import CONTROL_MAC, MacVmSetup
from shamon_host.link_agent.values import from_json, to_json
from shamon_host.links.frame_facts import PortProtocol, PortRule
from shamon_host.links.model import (
    AddSa,
    AddSpdEntry,
    AttachPort,
    Bridge,
    CloseGate,
    CreateTunnel,
    DeleteSas,
    InstallGuard,
    KernelState,
    OpenGate,
    Operation,
    SaId,
    SecurityAssociation,
    SetTapFilter,
)
from shamon_host.links.ports import AcquireEvent, ChangedEvent, ExpireEvent, KernelEvent
from shamon_host.links.sa_limits import RARELY
from shamon_host.links.station import Station
from shamon_host.links.tap_filter import TapFilter
from shamon_host.testing.contracts.kernel import link
from tests.unit.link_agent.divided import SETUP
from tests.unit.links.test_memory_kernel import MemoryBench

LINK = link(MemoryBench())
CONTEXT = SelinuxContext(user="u", role="r", type="t", categories=frozenset({1, 7}))
SA = SecurityAssociation(
    source="192.0.2.1",
    destination="192.0.2.2",
    spi=0x1000,
    reqid=7,
    context=CONTEXT,
    hard_lifetime_s=60,
    limits=RARELY.limits(inbound=True),
    key=bytes(range(36)),
)
FILTER = TapFilter(
    device="shvm1-0",
    own=Station(mac="52:54:00:00:00:01", addresses=frozenset({"10.0.0.1"})),
    peers=frozenset({"52:54:00:00:00:02"}),
    ports=(PortRule(protocol=PortProtocol.TCP, port=443),),
    open_s=3.5,
)
OPERATIONS: tuple[Operation, ...] = (
    InstallGuard(),
    AddSa(sa=SA),
    DeleteSas(ids=(SaId(destination="192.0.2.2", spi=0x1000),)),
    AddSpdEntry(entry=LINK.spd_entries[0]),
    CreateTunnel(tunnel=LINK.tunnel),
    AttachPort(bridge="shbr1", interface="shl21", isolated=True),
    OpenGate(address="192.0.2.2", seconds=3.0),
    CloseGate(address="192.0.2.2"),
    SetTapFilter(filter=FILTER),
)
EVENTS: tuple[KernelEvent, ...] = (
    ChangedEvent(what="SPD"),
    ExpireEvent(destination="192.0.2.2", spi=5, hard=True),
    AcquireEvent(source="a", destination="b", source_port=1, destination_port=2, context=None),
    AcquireEvent(source="a", destination="b", source_port=1, destination_port=2, context=CONTEXT),
)


def crossed(kind: Any, value: object) -> Any:
    return from_json(kind, json.loads(json.dumps(to_json(value))))


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda each: type(each).__name__)
def test_operations_cross_whole(operation: Operation) -> None:
    back = crossed(tuple[Operation, ...], (operation,))
    assert back == (operation,)
    if isinstance(operation, AddSa):
        assert back[0].sa.key == SA.key  # no part of a comparison of SAs


@pytest.mark.parametrize("event", EVENTS)
def test_events_cross_whole(event: KernelEvent) -> None:
    assert crossed(KernelEvent, event) == event


def test_a_state_crosses_whole() -> None:
    state = KernelState(
        sas=frozenset({SA}),
        spd=frozenset(LINK.spd_entries),
        tunnels=frozenset({LINK.tunnel}),
        bridges={"shbr1": Bridge(name="shbr1", ports={"shvm1-0": False}, faulty={"shvm1-0": "hairpin"})},
        gate={"192.0.2.2": 4.5},
        guard=True,
        filters={"shvm1-0": FILTER},
        selinux_enforcing=True,
        selinux_missing=("a", "b"),
        sysctls={"x": "0"},
        foreign=("y",),
    )
    assert crossed(KernelState, state) == state


def test_a_setup_crosses_whole() -> None:
    assert crossed(MacVmSetup, SETUP) == SETUP


@pytest.mark.parametrize("name", sorted(name for name, call in CALLS.items() if call.takes is not None))
@given(data=st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner)
                         | st.dictionaries(st.text(), inner), max_leaves=10))  # fmt: skip
def test_whatever_is_asked_is_a_value_or_refused(name: str, data: object) -> None:
    with suppress(BadInput):
        from_json(CALLS[name].takes, data)


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (int, True),
        (bool, 1),
        (str, 1),
        (int, 1.0),
        (tuple[str, str], ["a"]),
        (frozenset[int], {"a": 1}),
        (Mapping[str, int], {"a": "1"}),
        (Operation, {"is": "KernelState"}),
        (Operation, {"is": "CloseGate", "address": "a", "more": 1}),
        (Operation, {"is": "CloseGate"}),
        (Operation, {"is": "SetTapFilter", "filter": {"is": "TapFilter"}}),
        (PortProtocol, "sctp"),
        (bytes, "!"),
    ],
)
def test_what_does_not_fit_is_refused(kind: object, data: object) -> None:
    with pytest.raises(BadInput):
        from_json(kind, data)


def test_a_key_is_not_in_an_error() -> None:
    document = to_json(AddSa(sa=SA))
    document["sa"]["spi"] = "secret"
    with pytest.raises(BadInput) as raised:
        from_json(Operation, document)
    assert "secret" not in str(raised.value)


def test_frames_have_an_end() -> None:
    assert frame_length(frame({"a": 1})[:4]) == len(frame({"a": 1})) - 4
    with pytest.raises(BadInput):
        frame_length((MAX_FRAME_BYTES + 1).to_bytes(4, "big"))
    for body in (b"[]", b"1", b"{", b"\xff", b"[" * 100_000):
        with pytest.raises(BadInput):
            document_in(body)


@pytest.mark.parametrize("words", [[], ["a"] * 4, ["a"] * 4 + [1], ["a"] * 4 + ["b" * 2000]])
def test_malformed_errors_are_refused(words: list[object]) -> None:
    with pytest.raises(BadInput):
        failure_in(words)


def test_an_error_of_the_mac_vm_has_no_control_characters() -> None:
    assert str(failure_in(["a\x1b[2J", "", "", "", ""])) == "a?[2J"


@pytest.mark.parametrize(
    "changes",
    [
        {"address": "192.0.2.1"[:5]},
        {"gateway": "2001:db8::1"},
        {"gateway": "192.0.2.1"},
        {"network_mac": CONTROL_MAC},
        {"network_mac": "52:54:00:00:00:0G"},
        {"uplinks": (("eth0", "52:54:00:00:00:09"),)},
        {"uplinks": (("shbr1", "52:54:00:00:00:09"), ("shbr1", "52:54:00:00:00:0a"))},
        {"port": 0},
        {"daemon_port": 65536},
    ],
)
def test_a_setup_that_cannot_be_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(BadInput):
        from_json(MacVmSetup, to_json(SETUP) | {key: to_json(value) for key, value in changes.items()})
