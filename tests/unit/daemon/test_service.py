"""A daemon's life: the end may be asked for at any moment, stop comes last, and errors are one plain sentence."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest

from shamon_host.daemon.service import live, only_one, plain_error
from shamon_host.domain.errors import BackendFailed, NotTrusted, Refused
from shamon_host.testing.clock import run_virtual


@dataclass
class Daemon:
    """Writes down what it is asked."""

    start_s: float = 1.0
    start_error: Exception | None = None
    run_error: BaseException | None = None
    did: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.backends = SimpleNamespace(service_manager=SimpleNamespace(ready=lambda: self.did.append("ready")))

    async def start(self) -> None:
        self.did.append("start")
        await asyncio.sleep(self.start_s)
        if self.start_error:
            raise self.start_error
        self.did.append("started")

    async def run(self) -> None:
        self.did.append("run")
        await asyncio.sleep(10)
        if self.run_error:
            raise self.run_error
        await asyncio.Event().wait()

    async def stop(self) -> None:
        self.did.append("stop")

    @asynccontextmanager
    async def listeners(self) -> AsyncIterator[None]:
        self.did.append("listen")
        yield
        self.did.append("deaf")


def played(daemon: Daemon, *, asked_after_s: float = 1000.0) -> list[str]:
    async def main() -> None:
        asked = asyncio.Event()
        asyncio.get_running_loop().call_later(asked_after_s, asked.set)
        await live(daemon, daemon.listeners, asked)  # type: ignore[arg-type]

    run_virtual(main())
    return daemon.did


def test_a_whole_life() -> None:
    assert played(Daemon()) == ["start", "started", "listen", "ready", "run", "deaf", "stop"]


def test_the_end_may_come_while_it_starts() -> None:
    assert played(Daemon(start_s=100), asked_after_s=5) == ["start", "stop"]


def test_a_start_that_fails_is_stopped() -> None:
    daemon = Daemon(start_error=NotTrusted("another AK"))
    with pytest.raises(NotTrusted):
        played(daemon)
    assert daemon.did == ["start", "stop"]


def test_a_part_that_fails_is_one_plain_error() -> None:
    inner = BackendFailed("the database failed", where="/var/lib/shamon", found="SQLITE_FULL")
    daemon = Daemon(run_error=ExceptionGroup("daemon", [ExceptionGroup("schedule", [inner])]))
    with pytest.raises(BackendFailed) as caught:
        played(daemon)
    assert caught.value is inner
    assert daemon.did[-1] == "stop"


def test_mistakes_are_not_hidden() -> None:
    group = ExceptionGroup("daemon", [BackendFailed("x"), KeyError("a mistake")])
    assert plain_error(group) is group
    errors = [BackendFailed("first"), Refused("second")]
    assert plain_error(ExceptionGroup("daemon", errors)) is errors[0]


def test_there_is_only_one(tmp_path: Path) -> None:
    lock = tmp_path / "daemon.lock"
    with only_one(lock):
        with pytest.raises(Refused, match="another daemon") as caught, only_one(lock):
            pass
        assert "systemctl stop" in caught.value.remedy
    with only_one(lock):
        pass
    with pytest.raises(BackendFailed), only_one(tmp_path / "none" / "daemon.lock"):
        pass
