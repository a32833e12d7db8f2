"""What devices in memory count, by name. Counts go with their device."""

from collections import Counter
from dataclasses import dataclass, field

from shamon_host.links.ports import Traffic


@dataclass(kw_only=True)
class MemoryTraffic:
    """Frames of each device."""

    received: Counter[str] = field(default_factory=Counter)
    sent: Counter[str] = field(default_factory=Counter)
    not_sent: Counter[str] = field(default_factory=Counter)

    def of(self, device: str, *, up: bool) -> Traffic:
        return Traffic(
            up=up,
            rx_packets=self.received[device],
            tx_packets=self.sent[device],
            tx_dropped=self.not_sent[device],
        )

    def forget(self, device: str) -> None:
        """The device is gone; one of its name begins at 0."""
        for counts in (self.received, self.sent, self.not_sent):
            counts.pop(device, None)
