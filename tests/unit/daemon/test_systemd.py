"""The notification protocol against a socket of our own, and what a stop means when systemd cannot be asked.

The service manager in memory passes the contract that systemd passes in a lab host.
"""

import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from shamon_host.daemon import systemd
from shamon_host.daemon.ports import StopReason
from shamon_host.daemon.systemd import STATUS_LIMIT, Systemd
from shamon_host.domain.errors import BackendFailed
from shamon_host.testing.contracts.service_manager import Service, ServiceManagerContract
from shamon_host.testing.severable import MemoryServiceManager


class MemoryService:
    """`contracts.service_manager.Service`: nothing in memory takes time."""

    def __init__(self) -> None:
        self.manager = MemoryServiceManager()

    def is_up(self) -> bool:
        return self.manager.is_up

    def shown(self) -> str:
        return self.manager.shown

    def ask(self, what: StopReason) -> None:
        self.manager.reason = what

    def until(self, condition: Callable[[], bool]) -> bool:
        return condition()


class TestMemoryServiceManager(ServiceManagerContract):
    @pytest.fixture
    def service(self) -> Service:
        return MemoryService()


def test_it_tells_the_service_manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        monkeypatch.setenv("NOTIFY_SOCKET", str(path))
        Systemd().ready()
        Systemd().status("two\nlines")
        assert [manager.recv(100), manager.recv(100)] == [b"READY=1", b"STATUS=twolines"]


def test_a_status_fits_into_one_notification(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        monkeypatch.setenv("NOTIFY_SOCKET", str(path))
        Systemd().status("\U00020000" * 2 * STATUS_LIMIT)
        received = manager.recv(1 << 20)
        assert received.decode() == "STATUS=" + "\U00020000" * STATUS_LIMIT
        assert len(received) <= 4096


def test_started_by_hand_it_tells_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    Systemd().ready()


def test_a_service_manager_that_is_gone_is_a_failed_backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    with pytest.raises(BackendFailed):
        Systemd().ready()


@pytest.mark.parametrize(
    ("state", "jobs", "expected"),
    [
        ("running", "", StopReason.STOP),
        ("running", "12 shamon.service stop running\n", StopReason.STOP),
        ("running", "12 shamon.service restart running\n", StopReason.RESTART),
        ("running", "12 other.service restart waiting\n", StopReason.STOP),
        ("stopping", "12 shamon.service stop running\n", StopReason.SHUTDOWN),
        ("", "", StopReason.STOP),
    ],
)
def test_why_it_stops(monkeypatch: pytest.MonkeyPatch, state: str, jobs: str, expected: StopReason) -> None:
    answers = {"is-system-running": state, "list-jobs": jobs}
    monkeypatch.setattr(systemd, "_systemctl", lambda *arguments: answers[arguments[0]])
    assert Systemd().stop_reason() is expected
