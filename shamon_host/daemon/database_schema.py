"""The tables of a host's database, as the steps from one version of the schema to the next.

Step N makes version N out of version N-1; a new file takes all of them. A step that was released never changes: what
is in a file is compared with what its version's steps make, and anything else is refused.
"""

import sqlite3

_STEPS = (
    """
CREATE TABLE document (
    kind TEXT NOT NULL,
    key TEXT NOT NULL,
    json TEXT NOT NULL,
    PRIMARY KEY (kind, key)
) STRICT, WITHOUT ROWID;
CREATE TABLE audit (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    wall_s REAL NOT NULL,
    boottime_s REAL NOT NULL,
    kind TEXT NOT NULL,
    subject TEXT NOT NULL,
    detail TEXT NOT NULL,
    previous BLOB NOT NULL CHECK (length(previous) = 32),
    digest BLOB NOT NULL CHECK (length(digest) = 32)
) STRICT;
CREATE TRIGGER audit_append_only_update BEFORE UPDATE ON audit
    BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
CREATE TRIGGER audit_append_only_delete BEFORE DELETE ON audit
    BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
CREATE TRIGGER audit_append_only_insert BEFORE INSERT ON audit
    WHEN NEW.sequence IS NOT (SELECT coalesce(max(sequence), 0) + 1 FROM audit)
    BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
""",
    """
CREATE TABLE result (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    peer TEXT NOT NULL,
    verdict TEXT NOT NULL,
    trusted INTEGER NOT NULL CHECK (trusted IN (0, 1)),
    first_s REAL NOT NULL,
    last_s REAL NOT NULL,
    count INTEGER NOT NULL CHECK (count > 0),
    first TEXT NOT NULL,
    last TEXT NOT NULL
) STRICT;
CREATE INDEX result_of_peer ON result (peer, number);
CREATE TABLE evidence (
    peer TEXT NOT NULL,
    trusted INTEGER NOT NULL CHECK (trusted IN (0, 1)),
    at_s REAL NOT NULL,
    boot TEXT NOT NULL,
    failing TEXT NOT NULL,
    size INTEGER NOT NULL,
    data BLOB,
    PRIMARY KEY (peer, trusted)
) STRICT, WITHOUT ROWID;
CREATE TABLE ima_piece (
    peer TEXT NOT NULL,
    start INTEGER NOT NULL,
    boot TEXT NOT NULL,
    data BLOB NOT NULL,
    PRIMARY KEY (peer, start)
) STRICT, WITHOUT ROWID;
""",
)
SCHEMA_VERSION = len(_STEPS)


def steps_after(version: int) -> list[str]:
    """The statements that bring a database of this version (0: a new file) to SCHEMA_VERSION."""
    return [statement for step in _STEPS[version:] for statement in _statements(step)]


def schema_of(version: int) -> list[str]:
    """The statements that made what is in a database of this version."""
    return [statement for step in _STEPS[:version] for statement in _statements(step)]


def _statements(script: str) -> list[str]:
    """The statements of a script; a trigger's body ends with END."""
    statements: list[str] = []
    pending = ""
    for line in script.strip().splitlines():
        pending += line + "\n"
        if sqlite3.complete_statement(pending):
            statements.append(pending.strip().rstrip(";"))
            pending = ""
    return statements
