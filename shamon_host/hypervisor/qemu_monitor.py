"""QEMU's monitor protocol as live migration speaks it: what it is asked, what it answers. Pure but for what it is given
to call.

Sources: QEMU 7.2, qapi/{block,block-core,block-export,job,migration,misc}.json.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from shamon_host.domain.errors import BackendFailed

_MAX_ANSWER = 1 << 20


class Command(Protocol):
    """Carry out one command in the text of JSON, with a file descriptor that goes along (-1: none); the text of the
    answer. Raises BackendFailed."""

    def __call__(self, command: str, descriptor: int = -1, /) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A block job. `status`: "running", "ready" (both ends are alike), "concluded", ..."""

    status: str
    done_bytes: int
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrationStatus:
    """Of the memory. `status`: "none", "active", "pre-switchover", "completed", "failed", ..."""

    status: str
    sent_bytes: int = 0
    error: str = ""


@dataclass(frozen=True, slots=True)
class QemuMonitor:
    """The monitor of one machine. All raise BackendFailed, also for an answer that cannot be understood: a machine that
    a guest took over may answer anything."""

    command: Command

    def ask(self, name: str, arguments: Mapping[str, object] | None = None, *, descriptor: int = -1) -> Any:
        """What a command returns. QEMU's refusals are BackendFailed."""
        text = json.dumps({"execute": name, **({"arguments": dict(arguments)} if arguments else {})})
        answer = self.command(text, descriptor)
        try:
            if len(answer) > _MAX_ANSWER:
                raise ValueError("too long")
            fields = json.loads(answer)
            if "error" in fields:
                raise BackendFailed("QEMU refuses", where=name, found=str(fields["error"]["desc"])[:300])
            return fields["return"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise _malformed(name, error) from None

    def give(self, descriptor: int, name: str) -> None:
        """A file descriptor, under a name for the command that follows."""
        self.ask("getfd", {"fdname": name}, descriptor=descriptor)

    def node_of(self, path: str) -> str:
        """The block node of the disk whose own file lies at this path."""
        for drive in self._list("query-block"):
            inserted = drive.get("inserted")
            if isinstance(inserted, dict) and inserted.get("file") == path:
                node = inserted.get("node-name")
                if not isinstance(node, str):
                    raise _malformed("query-block", TypeError())
                return node
        raise BackendFailed("QEMU has no such disk", where=path)

    def nodes(self) -> tuple[str, ...]:
        return tuple(str(node.get("node-name", "")) for node in self._list("query-named-block-nodes", {"flat": True}))

    def jobs(self) -> dict[str, Job]:
        """By their id."""
        return {
            str(job.get("id", "")): Job(
                status=str(job.get("status", "")),
                done_bytes=_count(job.get("current-progress")),
                error=str(job.get("error", ""))[:300],
            )
            for job in self._list("query-jobs")
        }

    def migration(self) -> MigrationStatus:
        fields = self.ask("query-migrate")
        if not isinstance(fields, dict):
            raise _malformed("query-migrate", TypeError())
        ram = fields.get("ram")
        return MigrationStatus(
            status=str(fields.get("status", "none")),
            sent_bytes=_count(ram.get("transferred")) if isinstance(ram, dict) else 0,
            error=str(fields.get("error-desc", ""))[:300],
        )

    def set_capabilities(self, capabilities: Mapping[str, bool]) -> None:
        listed = [{"capability": name, "state": state} for name, state in capabilities.items()]
        self.ask("migrate-set-capabilities", {"capabilities": listed})

    def _list(self, name: str, arguments: Mapping[str, object] | None = None) -> list[dict[str, Any]]:
        found = self.ask(name, arguments)
        if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
            raise _malformed(name, TypeError())
        return found


def _count(value: object) -> int:
    return value if type(value) is int and value >= 0 else 0


def _malformed(name: str, error: Exception) -> BackendFailed:
    return BackendFailed("QEMU's answer cannot be understood", where=name, found=type(error).__name__)
