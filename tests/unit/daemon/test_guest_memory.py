"""What is remembered of a VM's TPM belongs to that TPM, and is forgotten where it cannot be read."""

from shamon_host.daemon.database import Database
from shamon_host.daemon.guest_memory import STATES, GuestMemory
from shamon_host.daemon.store import Store
from shamon_host.domain.labels import VmName
from tests.unit.attestation.guest_world import GuestWorld

WEB, DB = VmName("web"), VmName("db")


def test_it_is_of_one_tpm_and_survives() -> None:
    world = GuestWorld()
    assert world.attest().trusted
    assert world.state is not None
    database = Database(":memory:")
    memory = GuestMemory(store=Store(database))
    assert memory.recall(WEB, "one") is None
    memory.keep(WEB, "one", world.state)
    assert memory.recall(WEB, "one") == world.state
    assert memory.recall(WEB, "another") is None
    assert memory.recall(DB, "one") is None
    world.state = memory.recall(WEB, "one")
    world.machine.run_program("/tmp/strange", b"x")
    assert not world.attest().trusted
    database.close()


def test_what_is_not_to_be_read_is_forgotten() -> None:
    database = Database(":memory:")
    store = Store(database)
    memory = GuestMemory(store=store)
    for document in ({}, {"tpm": "one"}, {"tpm": "one", "state": {}}, {"tpm": "one", "state": {"facts": 1}}):
        store.put(STATES, WEB, document)
        assert memory.recall(WEB, "one") is None
    database.close()
