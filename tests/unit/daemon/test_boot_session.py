"""What a host remembers of its boot when its daemon starts again, in the same boot or in the next one."""

from collections.abc import Iterator

import pytest

from shamon_host.daemon.boot_session import BootSession
from shamon_host.daemon.database import Database
from shamon_host.daemon.store import Store
from shamon_host.domain.labels import HostName


@pytest.fixture
def database() -> Iterator[Database]:
    database = Database(":memory:")
    yield database
    database.close()


def started(database: Database, boot_id: str) -> BootSession:
    """As a daemon has it once its VMs run."""
    session = BootSession(store=Store(database), boot_id=boot_id)
    session.take_up()
    if session.is_new:
        session.begin()
        session.forget_refusal()
    session.keep()
    return session


def test_a_first_boot_replaces_vms_and_so_does_one_after_a_boot_that_nobody_watched_to_its_end(
    database: Database,
) -> None:
    for boot_id in ("one", "two"):
        session = started(database, boot_id)
        assert session.replaces_vms
        assert "did not watch" in session.reason


@pytest.mark.parametrize("watched", [True, False])
def test_vms_keep_their_disks_only_after_a_boot_that_was_watched_to_its_end(database: Database, watched: bool) -> None:
    started(database, "one").end(watched=watched)
    assert started(database, "two").replaces_vms is not watched


def test_a_refusal_counts_in_the_next_boot_and_not_in_the_one_after(database: Database) -> None:
    session = started(database, "one")
    session.note_refused(HostName("beta"), ["software fail"])
    session.end(watched=True)
    session = started(database, "two")
    assert (session.replaces_vms, session.reason) == (True, "refused by beta")
    session.end(watched=True)
    assert not started(database, "three").replaces_vms


def test_a_refusal_is_not_forgotten_by_a_restart_of_the_daemon(database: Database) -> None:
    session = started(database, "one")
    session.note_refused(HostName("beta"), ["software fail"])
    session.end(watched=False)
    started(database, "one").end(watched=True)
    assert started(database, "two").reason == "refused by beta"


def test_the_first_admission_of_a_boot_is_told_once_and_outlives_the_daemon(database: Database) -> None:
    session = started(database, "one")
    assert not session.admitted
    assert [session.note_admitted(), session.note_admitted()] == [True, False]
    again = started(database, "one")
    assert again.admitted
    assert not again.note_admitted()
    again.end(watched=True)
    assert started(database, "two").note_admitted()


def test_a_daemon_that_ends_before_its_vms_run_begins_the_boot_again(database: Database) -> None:
    started(database, "one").end(watched=True)
    session = BootSession(store=Store(database), boot_id="two")
    session.take_up()
    session.begin()
    assert not session.replaces_vms
    session = BootSession(store=Store(database), boot_id="two")
    session.take_up()
    assert session.is_new
