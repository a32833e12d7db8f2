"""What every `Clock` must do. Subclass `ClockContract` and give it the `clock` fixture."""

import asyncio

import pytest

from shamon_host.daemon.ports import Clock

SHORT_S = 0.02


class ClockContract:
    """The suite."""

    @pytest.fixture
    def clock(self) -> Clock:
        """A clock."""
        raise NotImplementedError

    def run(self, clock: Clock) -> list[float]:
        """Readings of CLOCK_BOOTTIME before and after a short sleep; the backend chooses the event loop."""
        return asyncio.run(self.readings(clock))

    async def readings(self, clock: Clock) -> list[float]:
        """Two readings with a sleep between them."""
        before = clock.boottime_s()
        await clock.sleep(SHORT_S)
        return [before, clock.boottime_s()]

    def test_boottime_passes_while_one_sleeps(self, clock: Clock) -> None:
        before, after = self.run(clock)
        assert after - before >= SHORT_S * 0.99

    def test_boottime_never_goes_back(self, clock: Clock) -> None:
        readings = [clock.boottime_s() for _ in range(100)]
        assert readings == sorted(readings)
        assert readings[0] >= 0

    def test_the_wall_clock_is_of_this_century(self, clock: Clock) -> None:
        assert 946_684_800 < clock.wall_s() < 4_102_444_800
