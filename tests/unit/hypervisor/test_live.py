"""The contract of live migration, in memory; what QEMU's monitor may answer; bytes between QEMU and another host."""

import json
import socket
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shamon_host.domain.errors import BackendFailed
from shamon_host.hypervisor.qemu_monitor import Job, MigrationStatus, QemuMonitor
from shamon_host.hypervisor.relay import Relay
from shamon_host.testing.contracts.live import LiveBench, LiveMigrationContract
from shamon_host.testing.hypervisor import MemoryHypervisor
from shamon_host.testing.images import MemoryImages, MemoryOverlay
from shamon_host.testing.live import MemoryLive
from tests.unit.hypervisor.test_memory_hypervisor import MemoryBench
from tests.unit.hypervisor.vm_world import Hub

_WITHIN_S = 10.0


@dataclass(kw_only=True)
class MemoryLiveBench(MemoryBench):
    live: MemoryLive


class TestMemoryLive(LiveMigrationContract):
    @pytest.fixture
    def bench(self) -> LiveBench:
        overlays = {f"/overlays/{number}.qcow2": MemoryOverlay(base_sha256="") for number in (1, 2)}
        hypervisor = MemoryHypervisor(
            switch=Hub(bridges={"bridge0": [], "bridge1": []}), addresses={}, enforcing=lambda: True
        )
        live = MemoryLive(hypervisor=hypervisor, images=MemoryImages(clean={}, overlays=overlays))
        return MemoryLiveBench(hypervisor=hypervisor, live=live)


# QEMU's monitor


def monitor(answer: object) -> QemuMonitor:
    text = answer if isinstance(answer, str) else json.dumps(answer)

    def command(_command: str, _descriptor: int = -1, /) -> str:
        return text

    return QemuMonitor(command)


def test_what_qemu_answers() -> None:
    job = {"id": "shamon-1", "type": "mirror", "status": "ready", "current-progress": 65536, "total-progress": 65536}
    assert monitor({"return": [job]}).jobs() == {"shamon-1": Job(status="ready", done_bytes=65536)}
    status = {"status": "failed", "error-desc": "no room", "ram": {"transferred": 7}}
    assert monitor({"return": status}).migration() == MigrationStatus(status="failed", sent_bytes=7, error="no room")
    assert monitor({"return": {}}).migration().status == "none"
    drive = {"inserted": {"file": "/overlays/web.qcow2", "node-name": "libvirt-1-format"}}
    assert monitor({"return": [{}, drive]}).node_of("/overlays/web.qcow2") == "libvirt-1-format"
    with pytest.raises(BackendFailed, match="no such disk"):
        monitor({"return": [drive]}).node_of("/overlays/db.qcow2")
    with pytest.raises(BackendFailed, match="no such command"):
        monitor({"error": {"class": "CommandNotFound", "desc": "no such command"}}).ask("nonsense")


_NAMES = ["return", "error", "desc", "id", "status", "inserted", "file", "node-name", "ram", "transferred"]
_PATH = "/overlays/web.qcow2"
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.just(_PATH),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_NAMES) | st.text(max_size=4), inner),
    max_leaves=12,
)


_DRIVES = st.builds(
    lambda inserted: {"return": [{"inserted": inserted}]},
    st.fixed_dictionaries({"file": st.just(_PATH)}, optional={"node-name": _JSON}),
)


@given(_JSON | st.builds(lambda inner: {"return": inner}, _JSON) | _DRIVES | st.text())
def test_whatever_a_machine_answers_is_an_error_of_ours_at_worst(answer: object) -> None:
    asked = monitor(answer)
    for question in (asked.jobs, asked.migration, asked.nodes, lambda: asked.node_of(_PATH)):
        try:
            question()
        except BackendFailed:
            continue


def test_a_drive_without_a_node_is_none() -> None:
    with pytest.raises(BackendFailed, match="cannot be understood"):
        monitor({"return": [{"inserted": {"file": _PATH}}]}).node_of(_PATH)


def test_an_answer_without_end_is_not_read() -> None:
    with pytest.raises(BackendFailed, match="cannot be understood"):
        monitor({"return": "x" * (2 << 20)}).ask("query-jobs")


# Relays


def relayed() -> tuple[socket.socket, Relay, socket.socket]:
    """QEMU's end, and the other host's."""
    qemu, near = socket.socketpair()
    far, other = socket.socketpair()
    relay = Relay(near=near, far=far)
    for end in (qemu, other):
        end.settimeout(_WITHIN_S)
    relay.start()
    return qemu, relay, other


def test_both_ways_until_both_have_ended() -> None:
    qemu, relay, other = relayed()
    with qemu, other:
        qemu.sendall(b"from QEMU")
        assert other.recv(64) == b"from QEMU"
        qemu.shutdown(socket.SHUT_WR)
        assert other.recv(64) == b""
        assert relay.near_ended.wait(_WITHIN_S)
        other.sendall(b"to QEMU")
        assert qemu.recv(64) == b"to QEMU"
        assert not relay.far_ended.is_set()
        other.shutdown(socket.SHUT_WR)
        assert relay.far_ended.wait(_WITHIN_S)
        assert not relay.broken
        relay.close()


def test_an_end_that_breaks_is_seen_at_the_other_one() -> None:
    qemu, relay, other = relayed()
    with qemu:
        other.close()
        with pytest.raises(OSError, match=r"Broken pipe|reset"):
            qemu.sendall(bytes(1 << 24))
        relay.close()
        assert relay.broken
        assert not relay.near_ended.is_set()


def test_what_qemu_says_is_not_passed_on_where_it_is_not_to_speak() -> None:
    qemu, near = socket.socketpair()
    far, other = socket.socketpair()
    relay = Relay(near=near, far=far, near_speaks=False)
    relay.start()
    with qemu, other:
        qemu.sendall(b"unasked")
        other.setblocking(False)
        with pytest.raises(BlockingIOError):
            other.recv(64)
        relay.close()
