"""The host's database: private, durable, refused when it is not what this program wrote."""

import os
import sqlite3
from pathlib import Path

import pytest

from shamon_host.daemon.database import APPLICATION_ID, Database
from shamon_host.daemon.database_schema import SCHEMA_VERSION, schema_of
from shamon_host.daemon.store import Store
from shamon_host.domain.errors import BackendFailed


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "shamon.sqlite"


def make(path: Path) -> None:
    database = Database(path)
    Store(database).put("vm", "web", {"wanted": True})
    database.close()


def execute(path: Path, *statements: str) -> None:
    """What somebody with another program could do to the file."""
    connection = sqlite3.connect(path, isolation_level=None)
    for statement in statements:
        connection.execute(statement)
    connection.close()


def refused(path: Path) -> BackendFailed:
    with pytest.raises(BackendFailed) as caught:
        Database(path)
    assert str(path) in str(caught.value)
    return caught.value


def test_it_is_private_whatever_the_umask(path: Path) -> None:
    before = os.umask(0)
    try:
        database = Database(path)
        Store(database).put("vm", "web", {})
        for file in path.parent.iterdir():
            assert file.stat().st_mode & 0o777 == 0o600, file
    finally:
        os.umask(before)
    database.close()


def test_it_is_durable_before_it_is_closed(path: Path) -> None:
    database = Database(path)
    pragmas = database.read(
        lambda connection: [connection.execute(f"PRAGMA {name}").fetchone() for name in ("journal_mode", "synchronous")]
    )
    assert pragmas == [("wal",), (2,)]  # 2: FULL
    Store(database).put("vm", "web", {"wanted": True})
    after_a_kill = Database(path)
    assert Store(after_a_kill).get("vm", "web") == {"wanted": True}
    after_a_kill.close()
    database.close()


def test_a_transaction_is_whole_or_nothing(path: Path) -> None:
    database = Database(path)

    def half() -> None:
        with database.transaction() as connection:
            connection.execute("INSERT INTO document VALUES ('vm', 'web', '{}')")
            raise RuntimeError("killed here")

    with pytest.raises(RuntimeError):
        half()
    assert Store(database).items("vm") == ()
    Store(database).put("vm", "db", {})
    database.close()


def test_a_file_that_others_can_read_is_refused(path: Path) -> None:
    make(path)
    path.chmod(0o640)
    error = refused(path)
    assert "rw-r-----" in error.found
    assert error.remedy


def test_a_link_in_its_place_is_refused(path: Path, tmp_path: Path) -> None:
    make(tmp_path / "other.sqlite")
    path.symlink_to(tmp_path / "other.sqlite")
    assert "cannot open" in refused(path).what


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    error = refused(tmp_path / "none" / "shamon.sqlite")
    assert "No such file" in error.found
    assert "directory" in error.remedy


def test_what_is_not_a_database_is_refused(path: Path) -> None:
    path.write_bytes(b"not a database, but quite long enough to be one" * 50)
    path.chmod(0o600)
    error = refused(path)
    assert "corrupt" in error.what
    assert "move the file away" in error.remedy


def test_damage_inside_is_found(path: Path) -> None:
    database = Database(path)
    for number in range(500):
        Store(database).put("vm", f"vm{number}", {"text": "x" * 200})
    database.close()
    data = bytearray(path.read_bytes())
    for offset in range(4096 * 3, len(data), 4096):
        data[offset : offset + 64] = b"\xff" * 64
    path.write_bytes(data)
    assert "corrupt" in refused(path).what


def test_the_database_of_another_program_is_refused(path: Path) -> None:
    path.touch(0o600)
    execute(path, "CREATE TABLE theirs (x)", "PRAGMA user_version = 1")
    assert "another program" in refused(path).what


def test_another_schema_version_is_refused(path: Path) -> None:
    make(path)
    execute(path, "PRAGMA user_version = 3")
    error = refused(path)
    assert (error.expected, error.found) == ("version 2", "version 3")


def make_version_1(path: Path) -> None:
    """A file as the first release left it, with a document and a record."""
    path.touch(0o600)
    execute(
        path,
        *schema_of(1),
        f"PRAGMA application_id = {APPLICATION_ID}",
        "PRAGMA user_version = 1",
        "INSERT INTO document VALUES ('vm', 'web', '{\"wanted\":true}')",
        "INSERT INTO audit VALUES (1, 1.0, 2.0, 'vm.start', 'web', '{}', zeroblob(32), zeroblob(32))",
    )


def test_a_file_of_the_first_version_is_brought_forward_with_all_that_is_in_it(path: Path) -> None:
    make_version_1(path)
    database = Database(path)
    assert Store(database).get("vm", "web") == {"wanted": True}
    rows = database.read(
        lambda connection: [
            *connection.execute("PRAGMA user_version").fetchall(),
            *connection.execute("SELECT count(*) FROM audit").fetchall(),
            *connection.execute("SELECT count(*) FROM result").fetchall(),
        ]
    )
    assert rows == [(SCHEMA_VERSION,), (1,), (0,)]
    with pytest.raises(BackendFailed, match="append-only"):
        delete_records(database)
    database.close()
    again = Database(path)
    assert Store(again).get("vm", "web") == {"wanted": True}
    again.close()


def delete_records(database: Database) -> None:
    with database.transaction() as connection:
        connection.execute("DELETE FROM audit")


def test_a_changed_file_of_the_first_version_is_not_brought_forward(path: Path) -> None:
    make_version_1(path)
    execute(path, "DROP TRIGGER audit_append_only_delete")
    assert "were changed" in refused(path).what
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA user_version").fetchone() == (1,)
    connection.close()


@pytest.mark.parametrize("version", [0, -1])
def test_a_version_that_there_never_was_is_refused(version: int, path: Path) -> None:
    make(path)
    execute(path, f"PRAGMA user_version = {version}")
    assert refused(path).found == f"version {version}"


@pytest.mark.parametrize(
    "statement",
    [
        "DROP TABLE ima_piece",
        "DROP INDEX result_of_peer",
        "DROP TRIGGER audit_append_only_delete",
        "CREATE TRIGGER extra AFTER INSERT ON audit BEGIN DELETE FROM document; END",
        "ALTER TABLE document ADD COLUMN more TEXT",
        "DROP TABLE document",
    ],
)
def test_changed_tables_and_triggers_are_found(path: Path, statement: str) -> None:
    make(path)
    execute(path, statement)
    assert "were changed" in refused(path).what


def test_the_file_says_whose_it_is(path: Path) -> None:
    make(path)
    assert int.from_bytes(path.read_bytes()[68:72], "big") == APPLICATION_ID
