"""What every `hypervisor.ports.LiveMigration` must do: subclass `LiveMigrationContract`, give it a `bench`.

Both domains are on one hypervisor, under two names: QEMU does not know what they are called. Runs in memory in the unit
tests, and on libvirt with QEMU in a lab host that enforces SELinux.
"""

import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

import pytest

from shamon_host.domain.errors import BackendFailed
from shamon_host.domain.labels import VmName
from shamon_host.hypervisor.ports import DomainReport, DomainState, LiveMigration, Receiving, Sending, SendingState
from shamon_host.testing.contracts.hypervisor import FIRST, SECOND, Bench

_STREAM_S = 0.5
_PATIENCE_S = 60.0
_LOOK_S = 0.02


class LiveBench(Bench, Protocol):
    """A bench whose guests are sent."""

    @property
    def live(self) -> LiveMigration: ...


@dataclass(kw_only=True)
class _Move:
    """FIRST, which runs, is sent to SECOND."""

    bench: LiveBench
    sending: Sending = field(init=False)
    receiving: Receiving = field(init=False)
    ends: list[socket.socket] = field(default_factory=list)

    def __post_init__(self) -> None:
        bench = self.bench
        bench.hypervisor.start_paused(bench.spec(FIRST, number=1))
        bench.hypervisor.resume(FIRST)
        target = bench.spec(SECOND, number=2)
        report = bench.live.start_incoming(target)
        assert (report.state, report.context, report.disk) == (DomainState.PAUSED, target.context, target.disk)
        disk, memory = self._pair(), self._pair()
        self.receiving = bench.live.receive(target, disk=disk[1], memory=memory[1])
        self.sending = bench.live.send(self.domain(FIRST), disk=disk[0], memory=memory[0])

    def domain(self, name: VmName) -> DomainReport:
        (report,) = (report for report in self.bench.hypervisor.domains() if report.name == name)
        return report

    def until(self, state: SendingState) -> None:
        deadline = time.monotonic() + _PATIENCE_S
        while (progress := self.sending.progress()).state is not state:
            assert progress.state is SendingState.COPYING, progress
            assert time.monotonic() < deadline, progress
            time.sleep(_LOOK_S)

    def runs_again(self) -> bool:
        """Whoever gave it up resumes it; it may run by itself."""
        self.bench.hypervisor.resume(FIRST)
        return self.bench.until(lambda: self.domain(FIRST).state is DomainState.RUNNING)

    def break_streams(self) -> None:
        for end in self.ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with suppress(BackendFailed):
            self.sending.cancel()
        self.receiving.close()
        for end in self.ends:
            end.close()

    def _pair(self) -> tuple[socket.socket, socket.socket]:
        pair = socket.socketpair()
        for end in pair:
            end.settimeout(_STREAM_S)
        self.ends += pair
        return pair


class LiveMigrationContract:
    """The suite. No domain is there before a test or after it."""

    @pytest.fixture
    def bench(self) -> Iterator[LiveBench]:
        """A bench without domains."""
        raise NotImplementedError

    @pytest.fixture
    def move(self, bench: LiveBench) -> Iterator[_Move]:
        move = _Move(bench=bench)
        yield move
        move.close()

    def test_it_runs_on_where_it_was_sent(self, move: _Move) -> None:
        """In the end both stand still, and the first is destroyed."""
        assert move.domain(FIRST).state is DomainState.RUNNING
        move.until(SendingState.STOPPED)
        assert [move.domain(name).state for name in (FIRST, SECOND)] == [DomainState.PAUSED] * 2
        _end(move.sending)
        move.receiving.finish(_PATIENCE_S)
        assert [move.domain(name).state for name in (FIRST, SECOND)] == [DomainState.PAUSED] * 2
        move.bench.hypervisor.destroy(FIRST)
        for _ in range(2):
            move.sending.close()
        move.bench.hypervisor.resume(SECOND)
        assert move.domain(SECOND).state is DomainState.RUNNING

    def test_given_up_while_it_is_copied_it_runs_on(self, move: _Move) -> None:
        for _ in range(2):
            move.sending.cancel()
            assert move.domain(FIRST).state is DomainState.RUNNING

    def test_given_up_when_it_was_stopped_it_runs_again(self, move: _Move) -> None:
        move.until(SendingState.STOPPED)
        move.sending.cancel()
        assert move.runs_again()

    def test_given_up_when_all_was_sent_it_runs_again(self, move: _Move) -> None:
        move.until(SendingState.STOPPED)
        _end(move.sending)
        move.sending.cancel()
        assert move.domain(FIRST).state is DomainState.PAUSED
        assert move.runs_again()

    def test_given_up_one_that_was_suspended_meanwhile_stands_still(self, move: _Move) -> None:
        move.bench.hypervisor.suspend(FIRST)
        move.until(SendingState.STOPPED)
        move.sending.cancel()
        assert move.domain(FIRST).state is DomainState.PAUSED
        assert move.runs_again()

    @pytest.mark.parametrize("far", ["copied", "stopped", "sent"])
    def test_one_that_whoever_sent_it_has_left_runs_again(self, move: _Move, far: str) -> None:
        """However far it came, and whether its streams are there: nobody has the `Sending` any more."""
        if far != "copied":
            move.until(SendingState.STOPPED)
        if far == "sent":
            _end(move.sending)
        move.sending.close()
        for _ in range(2):
            move.bench.live.abandon(FIRST)
        assert move.runs_again()

    def test_nothing_is_left_of_what_was_never_sent(self, bench: LiveBench) -> None:
        bench.live.abandon(FIRST)
        bench.hypervisor.start_paused(bench.spec(FIRST, number=1))
        for call, state in (
            (bench.hypervisor.resume, DomainState.RUNNING),
            (bench.hypervisor.suspend, DomainState.PAUSED),
        ):
            call(FIRST)
            bench.live.abandon(FIRST)
            assert [report.state for report in bench.hypervisor.domains()] == [state]

    def test_what_did_not_come_whole_is_not_taken(self, move: _Move) -> None:
        move.until(SendingState.STOPPED)
        move.break_streams()
        with pytest.raises(BackendFailed):
            move.receiving.finish(_STREAM_S)
        with pytest.raises(BackendFailed):
            _end(move.sending)
        move.sending.cancel()
        assert move.runs_again()

    def test_what_an_attempt_left_is_no_hindrance(self, move: _Move) -> None:
        """Once given up, it can be sent anew."""
        move.sending.cancel()
        move.receiving.close()
        move.bench.hypervisor.destroy(FIRST)
        move.bench.hypervisor.destroy(SECOND)
        again = _Move(bench=move.bench)
        try:
            again.until(SendingState.STOPPED)
        finally:
            again.close()


def _end(sending: Sending) -> None:
    """What is left, in its order."""
    sending.end_disk()
    sending.end_memory()
