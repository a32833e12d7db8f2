"""What a Verifier remembers, over its own restarts, and what it asks for when the Reference Values change."""

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shamon_host.attestation.ima_entry import ImaEntry
from shamon_host.attestation.ima_log import ima_sig_entry
from shamon_host.attestation.ledger import Ledger
from shamon_host.attestation.verifier_state import LogFacts, VerifierState
from shamon_host.daemon import verifier_memory
from shamon_host.daemon.database import Database
from shamon_host.daemon.store import Store
from shamon_host.daemon.verifier_memory import PIECES, STATES, VerifierMemory
from shamon_host.domain.labels import HostName
from shamon_host.domain.results import TpmKind
from shamon_host.peer.ports import EnrolledPeer
from tests.examples import examples

AK = b"\x00\x0b" + bytes(32)
PEER = EnrolledPeer(
    host=HostName("beta"), certificate_sha256=b"", ak_public=b"", ak_name=AK, tpm=TpmKind.SOFTWARE, serial=3
)


@pytest.fixture
def store() -> Iterator[Store]:
    database = Database(":memory:")
    yield Store(database)
    database.close()


@pytest.fixture
def memory(store: Store) -> VerifierMemory:
    return VerifierMemory(store)


def some(first: int, count: int) -> tuple[ImaEntry, ...]:
    return tuple(
        ima_sig_entry(f"/usr/bin/{number}", hashlib.sha256(b"%d" % number).digest())
        for number in range(first, first + count)
    )


def seen(entries: tuple[ImaEntry, ...], *, before: VerifierState | None = None, reference: str = "a") -> VerifierState:
    """The state after these entries, which follow those of `before`."""
    state = before or VerifierState(reset_count=7, restart_count=0, clock_ms=1, reference_digest=reference)
    ledger = state.ledger.followed_by(entries)
    facts = LogFacts(entries=ledger.count)
    return replace(state, facts=facts, ledger=ledger, ima_offset=100 * ledger.count)


def measured(state: VerifierState | None) -> list[bytes]:
    assert state is not None
    assert not state.ledger.elsewhere
    return [entry.measured for entry in state.ledger.entries]


def recalled(memory: VerifierMemory, reference: str = "a") -> VerifierState:
    state = memory.recall(PEER, reference)
    assert state is not None
    return state


def test_nothing_is_known_of_a_new_ak(memory: VerifierMemory) -> None:
    assert memory.recall(PEER, "a") is None
    assert memory.wanted_from(PEER, "a") == (0, 0)


@settings(max_examples=examples(30), deadline=None)
@given(st.lists(st.integers(0, 300), min_size=1, max_size=8))
def test_increments_are_put_together(counts: list[int]) -> None:
    database = Database(":memory:")
    memory, first = VerifierMemory(Store(database)), 0
    for count in counts:
        memory.keep(PEER, seen(some(first, count), before=memory.recall(PEER, "a")))
        first += count
    state = recalled(memory)
    assert state.ledger == Ledger(elsewhere=first)
    assert measured(recalled(memory, "b")) == [entry.measured for entry in some(0, first)]
    assert memory.wanted_from(PEER, "a") == memory.wanted_from(PEER, "b") == (100 * first, 7)
    assert memory.wanted_from(PEER, None) == (100 * first, 7)
    assert len(Store(database).items(PIECES)) <= 1 + sum(counts) // 200
    database.close()


def test_a_new_boot_takes_the_place_of_all(memory: VerifierMemory, store: Store) -> None:
    memory.keep(PEER, seen(some(0, 20_000)))
    assert len(store.items(PIECES)) == 3
    memory.keep(PEER, seen(some(5, 2)))
    assert measured(recalled(memory, "b")) == [entry.measured for entry in some(5, 2)]
    assert len(store.items(PIECES)) == 1
    memory.keep(PEER, VerifierState.unseen())
    assert store.items(PIECES) == ()
    assert recalled(memory) == VerifierState.unseen()


def test_what_was_judged_anew_is_kept_under_the_new_values(memory: VerifierMemory) -> None:
    memory.keep(PEER, seen(some(0, 10)))
    anew = replace(recalled(memory, "b"), reference_digest="b")
    memory.keep(PEER, seen(some(10, 5), before=anew))
    assert recalled(memory, "b").ledger == Ledger(elsewhere=15)
    assert len(measured(recalled(memory, "a"))) == 15


def test_what_does_not_follow_what_is_stored_is_not_put_behind_it(memory: VerifierMemory) -> None:
    """Two handshakes at once: the log is asked for from its beginning once the values change, and not before."""
    memory.keep(PEER, seen(some(0, 10)))
    both = recalled(memory)
    memory.keep(PEER, seen(some(10, 5), before=both))
    memory.keep(PEER, seen(some(10, 6), before=both))
    assert memory.wanted_from(PEER, "a") == (1600, 7)
    assert memory.wanted_from(PEER, "b") == (0, 7)
    assert recalled(memory, "b").ledger == Ledger(elsewhere=16)
    memory.keep(PEER, seen(some(0, 16)))
    assert memory.wanted_from(PEER, "b") == (1600, 7)


@pytest.mark.parametrize("spoil", ["gone", "malformed", "base64", "other count"])
def test_a_store_that_was_changed(memory: VerifierMemory, store: Store, spoil: str) -> None:
    memory.keep(PEER, seen(some(0, 10)))
    ((key, document),) = store.items(PIECES)
    if spoil == "gone":
        store.delete(PIECES, key)
    elif spoil == "other count":
        other = VerifierMemory(store)
        other.keep(replace(PEER, ak_name=b"other"), seen(some(0, 9)))
        store.put(PIECES, key, next(found for name, found in store.items(PIECES) if name != key))
    else:
        store.put(PIECES, key, {"entries": document["entries"][:-8] + ("AAAA" if spoil == "malformed" else "!")})
    assert recalled(memory, "b").ledger == Ledger(elsewhere=10)
    memory.keep(PEER, seen(some(10, 1), before=recalled(memory)))  # goes on all the same
    assert memory.recall(PEER, "a") is not None


def test_a_state_of_an_earlier_version_has_no_ledger(memory: VerifierMemory, store: Store) -> None:
    document = seen(some(0, 10)).to_document()
    store.put(STATES, AK.hex(), document)
    assert memory.wanted_from(PEER, "a") == (0, 0)  # nor does it say under which record it was learned
    document["record"] = {"host": PEER.host, "serial": PEER.serial}
    store.put(STATES, AK.hex(), document)
    assert memory.wanted_from(PEER, "a") == (1000, 7)
    assert memory.wanted_from(PEER, "b") == (0, 7)
    store.put(STATES, AK.hex(), document | {"ledger": {"entries": -1, "pieces": "x"}})
    assert memory.wanted_from(PEER, "b") == (0, 7)


@pytest.mark.parametrize("anew", [{"serial": 4}, {"host": HostName("gamma"), "serial": 1}])
def test_a_newer_record_starts_from_nothing(memory: VerifierMemory, store: Store, anew: dict[str, Any]) -> None:
    memory.keep(PEER, seen(some(0, 20_000)))
    enrolled = replace(PEER, **anew)
    assert memory.recall(enrolled, "a") is None
    assert memory.wanted_from(enrolled, "a") == memory.wanted_from(enrolled, "b") == (0, 0)
    memory.keep(enrolled, seen(some(0, 2)))
    assert len(store.items(PIECES)) == 1
    after = memory.recall(enrolled, "b")
    assert measured(after) == [entry.measured for entry in some(0, 2)]
    assert memory.recall(PEER, "a") is None


def test_what_was_learned_under_an_older_record_is_put_behind_nothing(memory: VerifierMemory) -> None:
    """An appraisal began before the host was enrolled anew, and is over after the first one that followed."""
    memory.keep(PEER, seen(some(0, 10)))
    before = recalled(memory)
    enrolled = replace(PEER, serial=4)
    memory.keep(enrolled, seen(some(50, 10)))
    memory.keep(PEER, seen(some(10, 5), before=before))
    assert memory.recall(enrolled, "a") is None
    assert recalled(memory, "b").ledger == Ledger(elsewhere=15)


def test_a_ledger_has_an_end(memory: VerifierMemory, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifier_memory, "MAX_ENTRIES", 15)
    memory.keep(PEER, seen(some(0, 10)))
    memory.keep(PEER, seen(some(10, 10), before=recalled(memory)))
    assert store.items(PIECES) == ()
    assert memory.wanted_from(PEER, "a") == (2000, 7)
    assert memory.wanted_from(PEER, "b") == (0, 7)
    memory.keep(PEER, seen(some(20, 1), before=recalled(memory)))
    assert store.items(PIECES) == ()


def test_large_entries_are_stored_in_pieces(memory: VerifierMemory, store: Store) -> None:
    large = tuple(ima_sig_entry("/x", bytes(32), signature=bytes([number]) * (3 << 20)) for number in range(3))
    memory.keep(PEER, seen(large))
    assert len(store.items(PIECES)) == 3
    assert measured(recalled(memory, "b")) == [entry.measured for entry in large]
