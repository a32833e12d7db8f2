"""Virtual time jumps, keeps order, and says when nothing can happen any more."""

import asyncio
import time

import pytest

from shamon_host.testing.clock import DeadlockError, VirtualClock, run_virtual


def test_an_hour_takes_no_time() -> None:
    async def main() -> float:
        clock = VirtualClock()
        before = clock.boottime_s()
        await clock.sleep(3600.0)
        return clock.boottime_s() - before

    started = time.monotonic()
    assert run_virtual(main()) == pytest.approx(3600.0)
    assert time.monotonic() - started < 5


def test_timers_fire_in_their_order() -> None:
    async def main() -> list[float]:
        seen = []

        async def note(after_s: float) -> None:
            await asyncio.sleep(after_s)
            seen.append(after_s)

        await asyncio.gather(*(note(after_s) for after_s in (3.0, 0.0, 2.5, 100_000.0, 1e-6)))
        return seen

    assert run_virtual(main()) == [0.0, 1e-6, 2.5, 3.0, 100_000.0]


def test_timeouts_run_on_virtual_time() -> None:
    async def main() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(20):
                await asyncio.Event().wait()
        return asyncio.get_running_loop().time()

    assert run_virtual(main()) == pytest.approx(20)


def test_threads_take_no_time_and_keep_their_errors() -> None:
    def fail() -> None:
        raise KeyError("there")

    async def main() -> int:
        with pytest.raises(KeyError):
            await asyncio.to_thread(fail)
        return await asyncio.to_thread(lambda: 7)

    assert run_virtual(main()) == 7


def test_wall_clock_can_be_stepped_and_boottime_cannot() -> None:
    async def main() -> None:
        clock, other = VirtualClock(), VirtualClock(boottime_s=5.0)
        wall, boot = clock.wall_s(), clock.boottime_s()
        clock.step(-3600)
        assert clock.wall_s() == wall - 3600
        assert clock.boottime_s() == boot
        await clock.sleep(10)
        assert other.boottime_s() == pytest.approx(15)
        other.reboot()
        assert other.boottime_s() == 0
        await clock.sleep(1)
        assert other.boottime_s() == pytest.approx(1)
        assert clock.boottime_s() == pytest.approx(boot + 11)

    run_virtual(main())


def test_clock_outside_a_loop_shows_the_last_time() -> None:
    clock = VirtualClock()
    before = clock.boottime_s()

    async def main() -> None:
        await clock.sleep(9)
        clock.boottime_s()

    run_virtual(main())
    assert clock.boottime_s() == pytest.approx(before + 9)


def test_deadlock_is_an_error() -> None:
    async def main() -> None:
        await asyncio.Event().wait()

    with pytest.raises(DeadlockError, match="waits for ever"):
        run_virtual(main())
