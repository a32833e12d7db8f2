"""What the daemon needs beside the ports of the layers below it: time."""

from typing import Protocol


class Clock(Protocol):
    """Real: `system_clock`. In memory: `shamon_host.testing.clock`, where nobody waits."""

    def boottime_s(self) -> float:
        """CLOCK_BOOTTIME: leases run on it. Never stepped."""
        ...

    def wall_s(self) -> float:
        """Seconds since the epoch, for people and certificates only; may be stepped."""
        ...

    async def sleep(self, seconds: float) -> None: ...
