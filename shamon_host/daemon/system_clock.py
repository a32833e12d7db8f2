"""The clocks of this machine."""

import asyncio
import time


class SystemClock:
    """`daemon.ports.Clock` on CLOCK_BOOTTIME and CLOCK_REALTIME."""

    def boottime_s(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def wall_s(self) -> float:
        return time.time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
