"""A VM's quarantine as it is written down: how far it goes, why, and what is kept of the VM. A value, nothing is done
here; `quarantines` brings it about."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Self

from shamon_host.domain.labels import VmName
from shamon_host.domain.quarantine import Grade


class Memory(StrEnum):
    """What becomes of the VM's memory."""

    NOT_ASKED = ""
    """Nobody asked for it."""
    ASKED = "asked"
    """It is to be written to a file, and the VM stands still until it is."""
    KEPT = "kept"
    FAILED = "failed"
    """It could not be written; the VM stands still until somebody asks for a quarantine again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quarantine:
    """One VM's."""

    grade: Grade
    reason: str
    since: str
    """When it was asked for, in UTC: `20261130T114730Z`. In the names of what is kept, too."""
    mark: str = ""
    """Tells it from every other one, whatever the clock said; in the names of what is kept, too. Empty in records from
    before there were marks."""
    memory: Memory = Memory.NOT_ASKED
    not_kept: str = ""
    """Why the memory could not be kept."""
    disk: bool = False
    """The overlay is to be moved aside, not deleted, when it would go."""
    resumes: bool = False
    """It was suspended only for its memory to be written, and is to go on then."""
    kept: tuple[str, ...] = ()
    """Paths of what was kept so far."""

    @property
    def cuts_off(self) -> bool:
        """Whether the VM exchanges nothing with anybody."""
        return self.grade.cuts_off

    @property
    def waits(self) -> bool:
        """The memory was asked for and is not kept."""
        return self.memory in (Memory.ASKED, Memory.FAILED)

    @property
    def suspends(self) -> bool:
        """Whether the VM stands still, where it is not destroyed."""
        return self.cuts_off and (self.grade is not Grade.PORTS_DOWN or self.waits)

    @property
    def destroys(self) -> bool:
        """Whether the domain of a VM goes now."""
        return self.grade is Grade.DESTROY and not self.waits

    def file(self, vm: VmName, what: str) -> str:
        """The name of the file for what is kept, `memory` or `disk`."""
        return "-".join([vm, *filter(None, (self.since, self.mark))]) + f".{what}"

    def is_same_as(self, other: Self | None) -> bool:
        """Whether it is the other one, however far that has come."""
        return other is not None and (self.since, self.mark, self.grade) == (other.since, other.mark, other.grade)

    def to_document(self) -> dict[str, Any]:
        return asdict(self) | {"kept": list(self.kept)}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """What `to_document` made, out of this host's own store."""
        grade, memory = Grade(document["grade"]), Memory(document["memory"])
        return cls(**{**document, "grade": grade, "memory": memory, "kept": tuple(document["kept"])})


def moment(wall_s: float) -> str:
    """Seconds since the epoch as `Quarantine.since` has them."""
    return datetime.fromtimestamp(wall_s, UTC).strftime("%Y%m%dT%H%M%SZ")


def quarantine_in(document: Mapping[str, Any]) -> Quarantine | None:
    """Of what was noted of a VM. Before there were grades, the reason was noted alone."""
    if "quarantine" in document:
        return Quarantine.from_document(document["quarantine"])
    reason = document.get("quarantined")
    return Quarantine(grade=Grade.SUSPEND, reason=str(reason), since="") if reason else None
