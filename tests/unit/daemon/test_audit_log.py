"""The audit log in its database: append-only, chained, whole after a restart, and tampering shows."""

import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shamon_host.daemon.audit_log import AuditLog
from shamon_host.daemon.database import Database
from shamon_host.domain import audit
from shamon_host.domain.errors import BackendFailed, BadInput, NotTrusted

Opener = Callable[[], AuditLog]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "shamon.sqlite"


@pytest.fixture
def open_log(path: Path) -> Iterator[Opener]:
    """Open the log of `path`; what was opened is closed at the end."""
    opened = []

    def opener() -> AuditLog:
        opened.append(Database(path))
        return AuditLog(opened[-1], wall_s=lambda: 1.7e9, boottime_s=lambda: 12.5)

    yield opener
    for database in opened:
        database.close()


def fill(log: AuditLog, count: int) -> None:
    for number in range(count):
        log.append("vm.start", f"vm{number}", {"permitted": True, "number": number, "words": ["é", "\ud800"]})


def tamper(path: Path, statement: str) -> None:
    """Change the log as somebody bent on it would: the trigger off, the change, the trigger on again."""
    connection = sqlite3.connect(path, isolation_level=None)
    triggers = connection.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'").fetchall()
    for name, _ in triggers:
        connection.execute(f"DROP TRIGGER {name}")
    connection.execute(statement)
    for _, sql in triggers:
        connection.execute(sql)
    connection.close()


def test_an_empty_log(open_log: Opener) -> None:
    log = open_log()
    assert log.head() == bytes(32)
    assert log.records() == ()
    assert log.verify() == 0


def test_append_gives_the_record_as_it_is_kept(open_log: Opener) -> None:
    log = open_log()
    record = log.append("peer.suspend", "beta", {"reason": "Evidence failed", "exposure_s": 12.25})
    assert (record.sequence, record.wall_s, record.boottime_s) == (1, 1.7e9, 12.5)
    assert log.records() == (record,)
    assert log.head() == record.digest
    assert len(log.head()) == 32


def test_the_chain_goes_on_after_a_restart(open_log: Opener) -> None:
    fill(open_log(), 3)
    log = open_log()
    head = log.head()
    assert log.append("daemon.start", "alpha", {}).previous == head
    assert log.verify() == 4


def test_records_after_a_sequence(open_log: Opener) -> None:
    log = open_log()
    fill(log, 10)
    assert [record.sequence for record in log.records(after=3, limit=4)] == [4, 5, 6, 7]
    assert log.records(after=10) == ()
    assert log.records(after=-(10**30), limit=10**30) == log.records(limit=10)
    assert log.records(limit=0) == ()
    assert audit.verify_chain(log.records(after=5), after=log.records(after=4, limit=1)[0])


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit SET subject = 'other'",
        "DELETE FROM audit WHERE sequence = 5",
        "INSERT OR REPLACE INTO audit SELECT * FROM audit WHERE sequence = 3",
        "INSERT INTO audit SELECT 9, wall_s, boottime_s, kind, subject, detail, previous, digest FROM audit "
        "WHERE sequence = 5",
    ],
)
def test_the_database_itself_refuses_all_but_appending(open_log: Opener, path: Path, statement: str) -> None:
    fill(open_log(), 5)
    connection = sqlite3.connect(path)
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        connection.execute(statement)
    connection.close()
    assert open_log().verify() == 5


@pytest.mark.parametrize(
    ("statement", "sequence"),
    [
        ("UPDATE audit SET subject = 'other' WHERE sequence = 3", 3),
        ("UPDATE audit SET detail = '{}' WHERE sequence = 2", 2),
        ("UPDATE audit SET wall_s = 1.0 WHERE sequence = 1", 1),
        ("DELETE FROM audit WHERE sequence = 2", 2),
        ("DELETE FROM audit WHERE sequence < 3", 1),
    ],
)
def test_tampering_shows_at_its_first_record(open_log: Opener, path: Path, statement: str, sequence: int) -> None:
    fill(open_log(), 6)
    tamper(path, statement)
    with pytest.raises(NotTrusted, match=f"broken at record {sequence}:"):
        open_log().verify()


@pytest.mark.parametrize(
    "statement",
    ["UPDATE audit SET subject = 'other' WHERE sequence = 6", "DELETE FROM audit WHERE sequence = 5"],
)
def test_nothing_is_appended_to_a_broken_end(open_log: Opener, path: Path, statement: str) -> None:
    fill(open_log(), 6)
    tamper(path, statement)
    with pytest.raises(NotTrusted, match="broken at record"):
        open_log()


def test_a_record_that_is_not_json_is_named(open_log: Opener, path: Path) -> None:
    fill(open_log(), 3)
    tamper(path, "UPDATE audit SET detail = '{' WHERE sequence = 2")
    with pytest.raises(BackendFailed, match="record 2 of the audit log is corrupt"):
        open_log().verify()


def test_a_refused_record_leaves_no_gap(open_log: Opener) -> None:
    log = open_log()
    fill(log, 2)
    with pytest.raises(BadInput):
        log.append("vm.start", "web", {"secret": "x"})
    fill(log, 1)
    assert log.verify() == 3


def test_threads_append_to_one_chain(open_log: Opener) -> None:
    log = open_log()
    threads = [threading.Thread(target=fill, args=(log, 25)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert log.verify() == 100


def test_a_long_log_is_verified_in_batches() -> None:
    database = Database(":memory:")
    log = AuditLog(database, wall_s=lambda: 0.0, boottime_s=lambda: 0.0)
    fill(log, 1100)
    assert log.verify() == 1100
    database.close()


def test_what_is_about_a_subject_is_found_newest_first_and_told_oldest_first(open_log: Opener) -> None:
    log = open_log()
    for number in range(30):
        log.append("peer.suspend", f"host{number % 3}", {"number": number})
        log.append("vm.stop", f"vm{number}", {"number": number})
    found = log.about("host1", also="vm.", limit=8)
    assert [record.detail["number"] for record in found if record.kind == "peer.suspend"] == [25, 28]
    assert [record.sequence for record in found] == sorted(record.sequence for record in found)
    assert len(found) == 8
    assert {record.subject for record in log.about("host2", also="none.")} == {"host2"}
    assert log.about("host9", also="none.") == ()


def test_a_search_looks_at_the_newest_records_alone(open_log: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shamon_host.daemon.audit_log.MAX_SEARCHED", 5)
    log = open_log()
    fill(log, 20)
    assert [record.subject for record in log.about("vm3", also="vm.")] == [f"vm{number}" for number in range(15, 20)]
