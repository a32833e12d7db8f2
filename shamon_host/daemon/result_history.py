"""What this host has said of its peers: the history of Attestation Results, and the Evidence behind the last ones.

Most results repeat the one before. So the history keeps runs: the first and the last of a row of results that say the
same (`verdict_key`), when they were, and how many. It is bounded whatever a peer does: for each host by a number of
runs and of bytes, for all by days; a host that says something new each time only pushes out what was said of itself.
"""

import json
import sqlite3
import threading
from dataclasses import dataclass
from typing import Any

from shamon_host.attestation.evidence_file import EvidenceFile
from shamon_host.attestation.result_document import (
    ResultRecord,
    read_result_document,
    result_document,
    verdict_key,
)
from shamon_host.attestation.verifier_state import VerifierState
from shamon_host.daemon.database import Database
from shamon_host.daemon.kept_evidence import KeptEvidence
from shamon_host.domain.canonical import canonical_json
from shamon_host.domain.errors import BadInput
from shamon_host.domain.labels import HostName

MAX_RUNS_ASKED = 1000
MAX_HOST_BYTES = 4 * 1024 * 1024
"""Of all documents about one host."""
_DAY_S = 86_400.0
_COLUMNS = "number, peer, trusted, first_s, last_s, count, first, last"


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """How much is kept."""

    days: int = 90
    """A run is forgotten that many days after its last result."""
    runs: int = 200
    """Of each host."""
    evidence_bytes: int = 8 * 1024 * 1024
    """The largest Evidence that is kept, its IMA log whole; 0: none is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Results that say the same of a host, one after the other. Times are the wall clock's, in seconds."""

    number: int
    """Counts up over all hosts."""
    peer: HostName
    trusted: bool
    first_s: float
    last_s: float
    count: int
    first: ResultRecord
    last: ResultRecord

    def to_document(self) -> dict[str, Any]:
        """As a JSON object, for the API."""
        return {
            "number": self.number,
            "host": self.peer,
            "trusted": self.trusted,
            "count": self.count,
            "first": result_document(self.first),
            "last": result_document(self.last),
        }


class ResultHistory:
    """Thread-safe. Every call raises BackendFailed when the database does."""

    def __init__(self, database: Database, retention: Retention | None = None) -> None:
        self._database = database
        self._retention = retention or Retention()
        self._evidence = KeptEvidence(database, self._retention.evidence_bytes)
        self._lock = threading.Lock()
        self._swept_s = float("-inf")

    def note(self, file: EvidenceFile, following: VerifierState) -> None:
        """A peer was appraised: `file.record` is the result, `following` what the Verifier remembers now."""
        record = file.record
        key, peer = verdict_key(record), record.result.host
        document = canonical_json(result_document(record)).decode("ascii")
        with self._lock, self._database.transaction() as connection:
            row = connection.execute(
                "SELECT number, verdict, trusted FROM result WHERE peer = ? ORDER BY number DESC LIMIT 1", (peer,)
            ).fetchone()
            begins = row is None or row[1] != key
            if begins:
                connection.execute(
                    "INSERT INTO result (peer, verdict, trusted, first_s, last_s, count, first, last) "
                    "VALUES (?, ?, ?, ?, ?, 1, ?, ?)",
                    (peer, key, int(record.result.trusted), record.appraised_s, record.appraised_s, document, document),
                )
                self._forget_most(connection, peer)
            else:
                connection.execute(
                    "UPDATE result SET last_s = ?, count = count + 1, last = ? WHERE number = ?",
                    (record.appraised_s, document, row[0]),
                )
            self._forget_old(connection, record.appraised_s)
            self._evidence.note(
                connection, file, following, begins=begins, after_trust=row is not None and bool(row[2])
            )

    def runs(self, peer: HostName, *, limit: int = 20) -> tuple[Run, ...]:
        """The newest runs of a host, newest first, at most MAX_RUNS_ASKED."""
        most = min(max(limit, 0), MAX_RUNS_ASKED)
        rows = self._database.read(
            lambda connection: connection.execute(
                f"SELECT {_COLUMNS} FROM result WHERE peer = ? ORDER BY number DESC LIMIT ?",  # noqa: S608 - constants
                (peer, most),
            ).fetchall()
        )
        return tuple(self._run(row) for row in rows)

    def hosts(self) -> tuple[HostName, ...]:
        """Of which there are results."""
        rows = self._database.read(
            lambda connection: connection.execute("SELECT DISTINCT peer FROM result ORDER BY peer").fetchall()
        )
        return tuple(HostName(str(row[0])) for row in rows)

    def newest(self, peer: HostName) -> ResultRecord:
        """The last result of a host. Raises BadInput when there is none."""
        runs = self.runs(peer, limit=1)
        if not runs:
            known = ", ".join(self.hosts())
            raise BadInput("there is no result of this host", where=peer, expected=known or "a host that was appraised")
        return runs[0].last

    def evidence(self, peer: HostName, *, trusted: bool) -> bytes:
        """The evidence file of the last Evidence that passed, or of that which began the last failure, with an IMA log
        that is whole where all of it came. Raises BadInput when none is kept."""
        with self._lock:
            return self._evidence.load(peer, trusted=trusted)

    def _forget_old(self, connection: sqlite3.Connection, now_s: float) -> None:
        """What is too old, once a day and at every start; with the Evidence of hosts of which nothing is left."""
        if abs(now_s - self._swept_s) < _DAY_S:
            return
        self._swept_s = now_s
        connection.execute("DELETE FROM result WHERE last_s < ?", (now_s - self._retention.days * _DAY_S,))
        for table in ("evidence", "ima_piece"):
            connection.execute(f"DELETE FROM {table} WHERE peer NOT IN (SELECT peer FROM result)")  # noqa: S608 - constants

    def _forget_most(self, connection: sqlite3.Connection, peer: HostName) -> None:
        """What is beyond the bounds of one host."""
        rows = connection.execute(
            "SELECT number, length(first) + length(last) FROM result WHERE peer = ? ORDER BY number DESC", (peer,)
        ).fetchall()
        total = 0
        for position, (number, size) in enumerate(rows):
            total += size
            if position and (position >= self._retention.runs or total > MAX_HOST_BYTES):
                connection.execute("DELETE FROM result WHERE peer = ? AND number <= ?", (peer, number))
                break

    def _run(self, row: tuple[Any, ...]) -> Run:
        number, peer, trusted, first_s, last_s, count, first, last = row
        try:
            documents = [read_result_document(json.loads(text)) for text in (first, last)]
        except (BadInput, ValueError, RecursionError) as error:
            raise self._database.corrupt(f"the stored result {number} is corrupt", found=str(error)[:200]) from error
        return Run(
            number=number,
            peer=HostName(peer),
            trusted=bool(trusted),
            first_s=first_s,
            last_s=last_s,
            count=count,
            first=documents[0],
            last=documents[1],
        )
