"""How often something may be done for each of those who ask: a few times at once, and then at a rate."""

from dataclasses import dataclass, field


@dataclass(kw_only=True)
class Budget:
    """`burst` at once for each key, and then one every `every_s` seconds. Times are of one clock that no one sets."""

    burst: int
    every_s: float
    _left: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Key → how many are left, and when that was so."""

    def take(self, key: str, now_s: float) -> bool:
        """Whether it may be done now; then it counts."""
        left, since_s = self._left.get(key, (float(self.burst), now_s))
        left = min(float(self.burst), left + (now_s - since_s) / self.every_s)
        taken = left >= 1
        self._left[key] = (left - 1 if taken else left, now_s)
        return taken
