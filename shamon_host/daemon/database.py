"""The SQLite database of one host: one file, one connection, one lock. The store and the audit log live in it.

The daemon calls from its event loop and from worker threads; the lock makes each call one transaction. Commits are
durable (WAL with synchronous=FULL): a decision is on disk before its effect (invariant 6), and `kill -9` at any
moment leaves the last commit. Whatever is wrong with the file is BackendFailed, with what to do.
"""

import os
import sqlite3
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from shamon_host.daemon.database_schema import SCHEMA_VERSION, schema_of, steps_after
from shamon_host.domain.errors import BackendFailed

APPLICATION_ID = 0x53484D4E
"""'SHMN', in the header of the file: SQLite databases of other programs are refused."""
_REMEDY = (
    "Stop the daemon and move the file away, keeping it as evidence; the daemon then starts with an empty log and "
    "without state, and its VMs are replaced by clean ones."
)


class Database:
    """An open database. `path` is `:memory:` in tests and in the demo."""

    def __init__(self, path: Path | str) -> None:
        """Open the file, making it (mode 0600) where there is none. Raises BackendFailed."""
        self.path = str(path)
        self._lock = threading.RLock()
        if self.path != ":memory:":
            _make_private(Path(self.path))
        try:
            self._connection = sqlite3.connect(self.path, timeout=5.0, isolation_level=None, check_same_thread=False)
        except sqlite3.Error as error:
            raise self._failed(error) from error
        try:
            with self._translated():
                self._prepare()
        except BackendFailed:
            self._connection.close()
            raise

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """A write transaction, committed at the end of the body, undone if it raises. Raises BackendFailed."""
        with self._lock, self._translated():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    def read(self, query: Callable[[sqlite3.Connection], list[tuple[object, ...]]]) -> list[tuple[object, ...]]:
        """The rows that `query` fetches, all in one piece. Raises BackendFailed."""
        with self._lock, self._translated():
            return query(self._connection)

    def close(self) -> None:
        """Close the file; all of it is durable already."""
        with self._lock:
            self._connection.close()

    def corrupt(self, what: str, *, found: str = "") -> BackendFailed:
        """The error for content that this program cannot have written."""
        return BackendFailed(what, where=self.path, found=found, remedy=_REMEDY)

    def _prepare(self) -> None:
        connection = self._connection
        for pragma in (
            "journal_mode = WAL",
            "synchronous = FULL",
            "foreign_keys = ON",
            "trusted_schema = OFF",
            "temp_store = MEMORY",  # the daemon's domain has no place for files outside its directory
        ):
            connection.execute(f"PRAGMA {pragma}")
        found = [str(row[0]) for row in connection.execute("PRAGMA quick_check(3)")]
        if found != ["ok"]:
            raise self.corrupt("the database is corrupt", found="; ".join(found)[:300])
        with self.transaction():
            version, application = (
                int(connection.execute(f"PRAGMA {name}").fetchone()[0]) for name in ("user_version", "application_id")
            )
            empty = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] == 0
            if empty and version == 0:
                connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            elif application != APPLICATION_ID:
                raise self.corrupt("this is the database of another program")
            elif not 0 < version <= SCHEMA_VERSION:
                raise BackendFailed(
                    "the database has another schema",
                    where=self.path,
                    expected=f"version {SCHEMA_VERSION}",
                    found=f"version {version}",
                    remedy="Run the version of this program that wrote it, or move the file away.",
                )
            elif _schema(connection) != sorted(schema_of(version)):
                raise self.corrupt("tables or triggers of the database were changed")
            if version < SCHEMA_VERSION:
                # A new file is one of version 0. In the same transaction: a file has one version or the other.
                for statement in steps_after(version):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise self._failed(error) from error

    def _failed(self, error: sqlite3.Error) -> BackendFailed:
        name = getattr(error, "sqlite_errorname", type(error).__name__)
        if name in ("SQLITE_CORRUPT", "SQLITE_NOTADB"):
            return self.corrupt("the database is corrupt", found=str(error))
        remedy = {
            "SQLITE_FULL": "Free space on its file system.",
            "SQLITE_CANTOPEN": "Make its directory, and let the daemon write there.",
            "SQLITE_READONLY": "Let the daemon write to it and to its directory.",
            "SQLITE_BUSY": "Only one daemon may use it: stop the other one.",
        }.get(name, "")
        return BackendFailed("the database failed", where=self.path, found=f"{name}: {error}", remedy=remedy)


def _make_private(path: Path) -> None:
    """Make the file with mode 0600, or check the mode and owner of the one that is there. Raises BackendFailed."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            found = os.fstat(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise BackendFailed(
            "cannot open the database",
            where=str(path),
            found=error.strerror or type(error).__name__,
            remedy="Make its directory, and let the daemon write there.",
        ) from error
    if not stat.S_ISREG(found.st_mode) or found.st_mode & 0o077 or found.st_uid != os.geteuid():
        raise BackendFailed(
            "others may have written to the database",
            where=str(path),
            expected=f"a file of uid {os.geteuid()}, 0600",
            found=f"uid {found.st_uid}, {stat.filemode(found.st_mode)}",
            remedy="Find out who did, then give the file that owner and mode.",
        )


def _schema(connection: sqlite3.Connection) -> list[str]:
    """The statements that made what is in the database now."""
    rows = connection.execute("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%'")
    return sorted(str(row[0]) for row in rows)
