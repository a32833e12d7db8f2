"""Documents by kind and key."""

import math
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shamon_host.daemon.database import Database
from shamon_host.daemon.store import Store
from shamon_host.domain.errors import BackendFailed, BadInput
from tests.examples import examples


@pytest.fixture
def database() -> Iterator[Database]:
    database = Database(":memory:")
    yield database
    database.close()


@pytest.fixture
def store(database: Database) -> Store:
    return Store(database)


def test_put_get_delete(store: Store) -> None:
    assert store.get("vm", "web") is None
    store.put("vm", "web", {"wanted": True, "list": [1, 2.5, None]})
    assert store.get("vm", "web") == {"wanted": True, "list": [1, 2.5, None]}
    store.put("vm", "web", {"wanted": False})
    assert store.get("vm", "web") == {"wanted": False}
    assert store.get("host", "web") is None
    store.delete("vm", "web")
    store.delete("vm", "web")
    assert store.get("vm", "web") is None


def test_items_are_of_one_kind_by_key(store: Store) -> None:
    for kind, key in (("vm", "b"), ("vm", "a"), ("link", "c")):
        store.put(kind, key, {"key": key})
    assert store.items("vm") == (("a", {"key": "a"}), ("b", {"key": "b"}))
    assert store.items("none") == ()


def test_it_is_there_after_a_restart(tmp_path: Path) -> None:
    for turn in range(3):
        database = Database(tmp_path / "shamon.sqlite")
        assert (Store(database).get("host", "turn") or {"turn": -1}) == {"turn": turn - 1}
        Store(database).put("host", "turn", {"turn": turn})
        database.close()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@settings(deadline=None, max_examples=examples(50))
@given(document=st.dictionaries(st.text(max_size=5), JSON, max_size=5))
def test_what_was_put_is_what_is_got(document: dict[str, Any]) -> None:
    database = Database(":memory:")
    Store(database).put("kind", "key", document)
    assert Store(database).get("kind", "key") == document
    database.close()


@pytest.mark.parametrize("document", [{"x": b"bytes"}, {"x": math.nan}, {"x": {1}}, {"x": object()}])
def test_what_is_not_json_is_refused_and_changes_nothing(store: Store, document: dict[str, Any]) -> None:
    store.put("vm", "web", {"wanted": True})
    with pytest.raises(BadInput, match="canonical JSON"):
        store.put("vm", "web", document)
    assert store.get("vm", "web") == {"wanted": True}


@pytest.mark.parametrize("name", ["", "x" * 600, "a\0b", "a\nb"])
def test_odd_names_are_refused(store: Store, name: str) -> None:
    with pytest.raises(BadInput, match="name"):
        store.put("vm", name, {})
    with pytest.raises(BadInput, match="name"):
        store.get(name, "web")


@pytest.mark.parametrize("text", ["{", "[1]", "3", "", "[" * 100_000])
def test_a_corrupt_document_is_named(database: Database, store: Store, text: str) -> None:
    with database.transaction() as connection:
        connection.execute("INSERT INTO document VALUES ('vm', 'web', ?)", (text,))
    with pytest.raises(BackendFailed, match="vm web is corrupt") as caught:
        store.get("vm", "web")
    assert "move the file away" in caught.value.remedy
    with pytest.raises(BackendFailed):
        store.items("vm")


def test_a_closed_database_is_our_own_error(database: Database, store: Store) -> None:
    database.close()
    with pytest.raises(BackendFailed):
        store.get("vm", "web")
    with pytest.raises(BackendFailed):
        store.put("vm", "web", {})


def test_threads_may_write_at_once(store: Store) -> None:
    def write(thread: int) -> None:
        for number in range(20):
            store.put("vm", f"{thread}-{number}", {"n": number})

    threads = [threading.Thread(target=write, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store.items("vm")) == 80
