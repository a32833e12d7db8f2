"""Whatever a MAC VM answers, and however slowly, its host gets a value or a failure of its own."""

import asyncio
import json
import socket
import time
from typing import Any

import pytest

from shamon_host.domain.errors import BackendFailed
from shamon_host.link_agent import remote_kernel
from shamon_host.link_agent.frames import CALLS, HEADER, MAX_EVENT_BYTES, frame
from shamon_host.link_agent.remote_kernel import RemoteLinkKernel
from shamon_host.link_agent.values import to_json
from shamon_host.links.model import KernelState, OpenGate
from shamon_host.links.ports import ChangedEvent, KernelEvent
from tests.unit.link_agent.hostile import HostileMacVm

STATE: dict[str, Any] = to_json(KernelState())


def state_with(**changes: object) -> bytes:
    return json.dumps({"answer": {**STATE, **changes}}).encode()


@pytest.mark.parametrize(
    "answer",
    [
        b'{"failed":5}',
        b'{"failed":null}',
        b'{"failed":true}',
        b'{"failed":{"a":1,"b":2,"c":3,"d":4,"e":5}}',
        state_with(gate={"192.0.2.2": 10**400}),
        state_with(gate={"192.0.2.2": float("nan")}),
        state_with(gate={"192.0.2.2": float("inf")}),
        state_with(gate={"\ud800": 1.0}),
        state_with(foreign=["\udfff"]),
    ],
)
def test_what_cannot_be_read_is_a_failure_of_the_mac_vm(answer: bytes) -> None:
    with HostileMacVm(answer).kernel() as kernel, pytest.raises(BackendFailed, match="the MAC VM does not answer"):
        kernel.read()


def test_a_number_that_no_kernel_counts_to_is_refused() -> None:
    mac_vm = HostileMacVm(json.dumps({"answer": {"guard_out": 1 << 64}}).encode())
    with mac_vm.kernel() as kernel, pytest.raises(BackendFailed, match="the MAC VM does not answer"):
        kernel.counters()


@pytest.mark.parametrize("answer", [b'{"failed":5}', b'{"answer":5}', b'{"answer":"\\ud800"}'])
def test_a_malformed_answer_to_the_set_up_is_a_failure_of_the_mac_vm(answer: bytes) -> None:
    mac_vm = HostileMacVm(b"{}", to_set_up=answer)
    with mac_vm.kernel() as kernel, pytest.raises(BackendFailed, match="the MAC VM does not answer"):
        kernel.boot_id()


def test_its_boot_id_has_no_control_characters() -> None:
    with HostileMacVm(b"{}", to_set_up=b'{"answer":"a\\u001b[2J"}').kernel() as kernel:
        assert kernel.boot_id() == "a?[2J"


def test_what_cannot_be_asked_is_a_failure_too() -> None:
    with HostileMacVm(b'{"answer":null}').kernel() as kernel, pytest.raises(BackendFailed):
        kernel.apply([OpenGate(address="192.0.2.2", seconds=float("nan"))])


@pytest.mark.parametrize("name", ["set up", "apply", "allocate SPI", "counters", "traffic", "denials"])
def test_each_answer_has_a_length_of_its_own(name: str) -> None:
    assert CALLS[name].most < CALLS["read"].most


def test_one_call_has_an_end_whatever_trickles_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_kernel, "ANSWER_S", 0.2)
    mac_vm, began_s = HostileMacVm(b" " * 1000, slow_s=0.05), time.monotonic()
    with mac_vm.kernel() as kernel, pytest.raises(BackendFailed, match="does not answer"):
        kernel.read()
    assert time.monotonic() - began_s < 20


def test_a_short_answer_is_not_taken_in_long() -> None:
    with HostileMacVm(b" " * (CALLS["apply"].most + 1)).kernel() as kernel, pytest.raises(BackendFailed) as raised:
        kernel.apply([])
    assert "too long" in str(raised.value)


async def test_an_event_that_is_too_long_is_not_read() -> None:
    near, far = socket.socketpair()
    once, told, over = iter([near]), list[KernelEvent](), asyncio.Event()

    def connect() -> socket.socket:
        for connection in once:
            return connection
        raise ConnectionRefusedError

    def hear(event: KernelEvent) -> None:
        told.append(event)
        if event == ChangedEvent(what="the MAC VM is not listened to"):
            over.set()

    kernel = RemoteLinkKernel(connect)
    kernel.subscribe(hear)
    with far:
        far.sendall(frame({"answer": to_json(ChangedEvent(what="SPD"))}) + HEADER.pack(MAX_EVENT_BYTES + 1))
        await asyncio.wait_for(over.wait(), 10)
    assert ChangedEvent(what="SPD") in told
    kernel.close()
