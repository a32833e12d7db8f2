"""What systemd passes at start, and what it is told: over a socket of the test's own."""

import array
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from shamon_host.links.linux_fd_store import FdStore


class _Manager:
    """Answers as systemd does: closes what it does not keep."""

    def __init__(self, path: Path) -> None:
        self.told: list[tuple[str, int]] = []
        self._channel = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._channel.bind(str(path))
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while True:
            data, ancillary, _, _ = self._channel.recvmsg(4096, socket.CMSG_SPACE(4))
            descriptors = array.array("i")
            for _, _, payload in ancillary:
                descriptors.frombytes(payload)
            if data == b"stop":
                return
            # Told before it is closed: a barrier that closes lets whoever waits for it look at once.
            self.told.append((data.decode(), len(descriptors)))
            for descriptor in descriptors:
                os.close(descriptor)

    def stop(self, path: Path) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.sendto(b"stop", str(path))
        self._thread.join(timeout=10)
        self._channel.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "notify"


@pytest.fixture
def manager(path: Path) -> Iterator[_Manager]:
    manager = _Manager(path)
    yield manager
    manager.stop(path)


def test_put_and_remove(manager: _Manager, path: Path) -> None:
    """Each returns when the service manager has taken it, which the barrier after it tells."""
    store = FdStore({"NOTIFY_SOCKET": str(path)})
    store.put("shl20", 0)
    store.remove("shl20")
    assert manager.told == [
        ("FDSTORE=1\nFDNAME=shl20\nFDPOLL=0", 1),
        ("BARRIER=1", 1),
        ("FDSTOREREMOVE=1\nFDNAME=shl20", 0),
        ("BARRIER=1", 1),
    ]


def test_many_are_removed_behind_one_barrier(manager: _Manager, path: Path) -> None:
    store = FdStore({"NOTIFY_SOCKET": str(path)})
    store.remove("shl20", "shl21")
    store.remove()
    assert manager.told == [
        ("FDSTOREREMOVE=1\nFDNAME=shl20", 0),
        ("FDSTOREREMOVE=1\nFDNAME=shl21", 0),
        ("BARRIER=1", 1),
    ]


def test_without_a_service_manager_nothing_is_told() -> None:
    store = FdStore({})
    store.put("shl20", 0)
    assert store.recovered() == ()


def test_descriptors_of_another_process_are_not_ours() -> None:
    environment = {"LISTEN_PID": "1", "LISTEN_FDS": "2", "LISTEN_FDNAMES": "shl20:shl21", "HOME": "/root"}
    assert FdStore(environment).recovered() == ()
    assert environment == {"HOME": "/root"}


@pytest.mark.parametrize("count", ["", "-1", "many", "99999"])
def test_a_count_that_cannot_be(count: str) -> None:
    assert FdStore({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": count}).recovered() == ()
