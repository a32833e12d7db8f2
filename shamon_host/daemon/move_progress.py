"""How far a VM is that moves away, for people, and how long it took."""

from dataclasses import dataclass, field
from typing import Any

from shamon_host.domain.errors import ShamonError
from shamon_host.domain.labels import HostName, VmName
from shamon_host.peer.move_messages import Arrived


@dataclass(kw_only=True)
class Progress:
    """The last move of a VM that this run of the daemon began, for people."""

    vm: VmName
    to: HostName
    live: bool = False
    step: str = "the two hosts attest each other"
    sent_bytes: int = 0
    disk_bytes: int = 0
    done: bool = False
    error: ShamonError | None = None
    parts_ms: dict[str, float] = field(default_factory=dict)
    downtime_ms: float = 0.0
    """From before it was stopped until the other host said that it runs."""
    first_frame_ms: float = 0.0
    """From then until it sent a frame there; 0 where nobody knows."""

    def to_document(self) -> dict[str, Any]:
        """In JSON's types, without the error."""
        return {
            "vm": self.vm,
            "to": self.to,
            "live": self.live,
            "step": self.step,
            "sent_bytes": self.sent_bytes,
            "disk_bytes": self.disk_bytes,
            "done": self.done,
            "parts_ms": dict(self.parts_ms),
            "downtime_ms": self.downtime_ms,
            "first_frame_ms": self.first_frame_ms,
        }

    def arrived(self, arrived: Arrived, parts_ms: dict[str, float]) -> dict[str, float]:
        """The other host said what became of the VM: how long it was away, which is returned by its parts, for figures.
        `parts_ms`: until that was said, which is corrected by what the other host waited on purpose."""
        self.step = arrived.state
        if not arrived.resumed:
            return {}
        self.first_frame_ms = float(arrived.first_frame_ms)
        parts_ms["taken"] = round(max(0.0, parts_ms["taken"] - arrived.waited_ms), 3)
        before = ("attested", "prepared", "copied") if self.live else ("attested", "prepared")
        self.downtime_ms = round(sum(parts_ms.values()) - sum(parts_ms.get(name, 0.0) for name in before), 3)
        figures = {**parts_ms, "downtime": self.downtime_ms}
        if arrived.first_frame_ms:
            figures["first frame"] = self.first_frame_ms
        kind = "live migration" if self.live else "migration"
        return {f"{kind}: {part}": took_ms for part, took_ms in figures.items()}
