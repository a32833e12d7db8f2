"""The clock's contract, on virtual time and on this machine's clocks; what only virtual time can do."""

import pytest

from shamon_host.daemon.ports import Clock
from shamon_host.daemon.system_clock import SystemClock
from shamon_host.testing.clock import VirtualClock, run_virtual
from shamon_host.testing.contracts.clock import ClockContract


class TestVirtualClock(ClockContract):
    @pytest.fixture
    def clock(self) -> Clock:
        return VirtualClock()

    def run(self, clock: Clock) -> list[float]:
        return run_virtual(self.readings(clock))

    def test_stepping_the_wall_leaves_boottime(self) -> None:
        clock = VirtualClock()
        boottime, wall = clock.boottime_s(), clock.wall_s()
        clock.step(-3600)
        assert clock.boottime_s() == boottime
        assert clock.wall_s() == wall - 3600


class TestSystemClock(ClockContract):
    @pytest.fixture
    def clock(self) -> Clock:
        return SystemClock()
