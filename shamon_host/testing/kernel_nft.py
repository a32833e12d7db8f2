"""The nft guard and the lease gate in memory. The gate's timeouts run on CLOCK_BOOTTIME, as nft's do on jiffies."""

from collections import Counter
from collections.abc import Callable

from shamon_host.domain.errors import BackendFailed
from shamon_host.links.model import PORT_BLOCK

GUARD_COUNTERS = ("guard_out", "guard_in", "gate_out", "gate_in", "host_in", "host_out", "host_forward")


class MemoryGuard:
    """The table with its set. Absent until it is installed; `damaged` when somebody took a rule out by hand."""

    def __init__(self, boottime_s: Callable[[], float]) -> None:
        self._boottime_s = boottime_s
        self._gate: dict[str, float] = {}
        self.present = False
        self.damaged = False
        self.dropped: Counter[str] = Counter()

    @property
    def whole(self) -> bool:
        return self.present and not self.damaged

    def install(self) -> None:
        """One transaction: the old table goes with its gate set and counters, a new one comes."""
        self.flush()
        self.present = True

    def flush(self) -> None:
        """`nft flush ruleset`."""
        self.present = self.damaged = False
        self._gate.clear()
        self.dropped.clear()

    def open_gate(self, address: str, seconds: float) -> None:
        """Raises BackendFailed when there is no table, ValueError for a timeout that nft does not take."""
        if not 0 < seconds < 2**31:
            raise ValueError("a timeout is more than 0 and has an end")
        if not self.present:
            raise BackendFailed("no such table", where="inet shamon")
        self._gate[address] = self._boottime_s() + seconds

    def close_gate(self, address: str) -> None:
        self._gate.pop(address, None)

    def gate(self) -> dict[str, float]:
        """Address → seconds left."""
        now = self._boottime_s()
        self._gate = {address: until for address, until in self._gate.items() if until > now}
        return {address: until - now for address, until in self._gate.items()}

    def passes_host(self, counter: str) -> bool:
        """Whether a frame passes between a type's bridge and the host; what is dropped is counted."""
        self.dropped[counter] += self.whole
        return not self.whole

    def passes(self, hook: str, ports: tuple[int, int], peer: str, *, ipsec: bool) -> bool:
        """`hook` is "out" or "in". What is dropped is counted as `guard_HOOK` or `gate_HOOK`."""
        if not self.whole or not any(port in PORT_BLOCK for port in ports):
            return True
        if not ipsec:
            self.dropped[f"guard_{hook}"] += 1
            return False
        if peer not in self.gate():
            self.dropped[f"gate_{hook}"] += 1
            return False
        return True
