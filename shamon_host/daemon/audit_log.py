"""The append-only, hash-chained audit log in the host's database (invariant 6: before the effect, and durable).

The chain itself is `domain.audit`; triggers in the database forbid updates and deletions by anything that is not bent
on it, and the chain, whose head peers see in every quote, shows the rest.
"""

import json
import sqlite3
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from shamon_host.daemon.database import Database
from shamon_host.domain import audit
from shamon_host.domain.audit import ZERO_HEAD, AuditRecord
from shamon_host.domain.canonical import canonical_json

_COLUMNS = "sequence, wall_s, boottime_s, kind, subject, detail, previous, digest"
_BATCH = 1000
MAX_SEARCHED = 100_000
"""Records that a search looks at: the log has no end."""


class AuditLog:
    """Thread-safe. `wall_s` and `boottime_s` give the times of records, in seconds."""

    def __init__(self, database: Database, *, wall_s: Callable[[], float], boottime_s: Callable[[], float]) -> None:
        """Open the log and check its last record. Raises BackendFailed, NotTrusted when that record was changed."""
        self._database = database
        self._wall_s = wall_s
        self._boottime_s = boottime_s
        newest = self._rows(f"SELECT {_COLUMNS} FROM audit ORDER BY sequence DESC LIMIT 2")  # noqa: S608 - constants
        if newest:
            audit.verify_chain(newest[:1], after=newest[1] if len(newest) > 1 else None)

    def append(self, kind: str, subject: str, detail: Mapping[str, Any]) -> AuditRecord:
        """Append a record; it is on disk when this returns. Raises BadInput (not JSON, a secret), BackendFailed."""
        with self._database.transaction() as connection:
            rows = connection.execute(f"SELECT {_COLUMNS} FROM audit ORDER BY sequence DESC LIMIT 1").fetchall()  # noqa: S608
            record = audit.append(
                self._record(rows[0]) if rows else None,
                kind=kind,
                subject=subject,
                detail=detail,
                wall_s=self._wall_s(),
                boottime_s=self._boottime_s(),
            )
            connection.execute(
                f"INSERT INTO audit ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608
                (
                    record.sequence,
                    record.wall_s,
                    record.boottime_s,
                    record.kind,
                    record.subject,
                    canonical_json(record.detail).decode("ascii"),
                    record.previous,
                    record.digest,
                ),
            )
        return record

    def head(self) -> bytes:
        """The digest of the newest record, 32 bytes; all zero while there is none."""
        rows = self._database.read(
            lambda connection: connection.execute("SELECT digest FROM audit ORDER BY sequence DESC LIMIT 1").fetchall()
        )
        return _bytes(rows[0][0]) if rows else ZERO_HEAD

    def records(self, *, after: int = 0, limit: int = 100) -> tuple[AuditRecord, ...]:
        """At most `limit` records with a sequence above `after`, oldest first."""
        bounded = (min(max(after, 0), 2**62), min(max(limit, 0), 2**31))
        return self._rows(
            f"SELECT {_COLUMNS} FROM audit WHERE sequence > ? ORDER BY sequence LIMIT ?",  # noqa: S608
            bounded,
        )

    def about(self, subject: str, *, also: str, limit: int = 1000) -> tuple[AuditRecord, ...]:
        """The newest records about `subject`, and those whose kind begins with `also`, oldest first: at most `limit`
        out of the last MAX_SEARCHED."""
        found = self._rows(
            f"SELECT {_COLUMNS} FROM audit "  # noqa: S608
            "WHERE sequence > (SELECT coalesce(max(sequence), 0) FROM audit) - ? "
            "AND (subject = ? OR substr(kind, 1, ?) = ?) ORDER BY sequence DESC LIMIT ?",
            (MAX_SEARCHED, subject, len(also), also, limit),
        )
        return tuple(reversed(found))

    def newest(self, subject: str, kinds: Collection[str]) -> AuditRecord | None:
        """The newest record of one of these kinds about `subject`, out of the last MAX_SEARCHED."""
        marks = ", ".join("?" * len(kinds))
        found = self._rows(
            f"SELECT {_COLUMNS} FROM audit "  # noqa: S608
            "WHERE sequence > (SELECT coalesce(max(sequence), 0) FROM audit) - ? "
            f"AND subject = ? AND kind IN ({marks}) ORDER BY sequence DESC LIMIT 1",
            (MAX_SEARCHED, subject, *kinds),
        )
        return found[0] if found else None

    def verify(self) -> int:
        """Check the whole chain and return the number of records. Raises NotTrusted with the first broken one."""
        last = audit.verify_chain(self._all())
        return last.sequence if last else 0

    def _all(self) -> Iterator[AuditRecord]:
        after = 0
        while batch := self.records(after=after, limit=_BATCH):
            yield from batch
            after = batch[-1].sequence

    def _rows(self, query: str, parameters: tuple[int | str, ...] = ()) -> tuple[AuditRecord, ...]:
        def fetch(connection: sqlite3.Connection) -> list[tuple[object, ...]]:
            return connection.execute(query, parameters).fetchall()

        return tuple(self._record(row) for row in self._database.read(fetch))

    def _record(self, row: tuple[Any, ...]) -> AuditRecord:
        sequence, wall_s, boottime_s, kind, subject, text, previous, digest = row
        try:
            detail = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise self._database.corrupt(f"record {sequence} of the audit log is corrupt") from error
        if not isinstance(detail, dict):
            raise self._database.corrupt(f"record {sequence} of the audit log is corrupt")
        return AuditRecord(
            sequence=sequence,
            wall_s=wall_s,
            boottime_s=boottime_s,
            kind=kind,
            subject=subject,
            detail=detail,
            previous=_bytes(previous),
            digest=_bytes(digest),
        )


def _bytes(value: object) -> bytes:
    return value if isinstance(value, bytes) else b""
