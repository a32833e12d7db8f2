"""What is written down of links comes back the same; what is not ours to understand is refused in words."""

from dataclasses import replace

import pytest

from shamon_host.domain.errors import BackendFailed
from shamon_host.domain.label_map import EMPTY, allocate
from shamon_host.domain.labels import HostName
from shamon_host.links.link_book import LinkBook
from shamon_host.links.link_records import LinkRecord, PeerRecord, SaRecord, load_peers, save_peers
from tests.unit.links.conftest import BLUE, RED, MemoryDocuments

PEER = HostName("beta")
RECORD = PeerRecord(
    peer=PEER,
    address="192.0.2.2",
    gate_until_s=1088.5,
    links={
        RED: LinkRecord(
            type=RED,
            local_port=24576,
            peer_port=24577,
            in_sas=(SaRecord(spi=256, expires_s=1090.0, retire_s=1010.0), SaRecord(spi=257, expires_s=1090.0)),
            out_sas=(SaRecord(spi=300, expires_s=1090.0),),
            attached=True,
        )
    },
)


def test_records_come_back_the_same_within_a_boot() -> None:
    documents = MemoryDocuments()
    save_peers(documents, "boot", {PEER: RECORD})
    assert load_peers(documents, "boot") == {PEER: RECORD}
    assert load_peers(MemoryDocuments(), "boot") == {}


def test_records_of_an_earlier_boot_are_removed() -> None:
    documents = MemoryDocuments()
    save_peers(documents, "boot", {PEER: RECORD})
    documents.change({("links", "peers"): {"boot_id": "another boot", "peers": [1]}})
    assert load_peers(documents, "another boot") == {}
    assert documents.kept == {}


def test_a_change_writes_the_peers_that_changed_and_no_others() -> None:
    documents = MemoryDocuments()
    delta = replace(RECORD, peer=HostName("delta"), address="192.0.2.4")
    save_peers(documents, "boot", {PEER: RECORD, delta.peer: delta})
    kept = dict(documents.kept)
    shorter = replace(RECORD, gate_until_s=1001.0)
    save_peers(documents, "boot", {PEER: shorter})
    assert load_peers(documents, "boot") == {PEER: shorter, delta.peer: delta}
    assert [place for place in kept if documents.kept[place] is not kept[place]] == [("link-peer", PEER)]
    save_peers(documents, "boot", {PEER: None})
    assert load_peers(documents, "boot") == {delta.peer: delta}


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"peer": "beta", "address": "here", "gate_until_s": 1, "links": []},
        {"peer": "../beta", "address": "192.0.2.2", "gate_until_s": 1, "links": []},
        {"peer": "gamma", "address": "192.0.2.2", "gate_until_s": 1, "links": []},
        {"peer": "beta", "address": "192.0.2.2", "gate_until_s": True, "links": []},
        {"peer": "beta", "address": "192.0.2.2", "gate_until_s": float("inf"), "links": []},
        {"peer": "beta", "address": "192.0.2.2", "gate_until_s": 1, "links": 1},
        {"peer": "beta", "address": "192.0.2.2", "gate_until_s": 1, "links": [{"type": "red"}]},
    ],
)
def test_malformed_records_are_refused(document: dict[str, object]) -> None:
    documents = MemoryDocuments()
    documents.change({("link-peer", "beta"): {"boot_id": "boot", **document}})
    with pytest.raises(BackendFailed, match="malformed"):
        load_peers(documents, "boot")


def test_a_book_remembers_several_and_forgets() -> None:
    documents = MemoryDocuments()

    def book() -> LinkBook:
        return LinkBook(
            address="192.0.2.1", documents=documents, label_map=lambda: allocate(EMPTY, [RED], []), boot_id="boot"
        )

    delta = replace(RECORD, peer=HostName("delta"), address="192.0.2.4")
    first = book()
    first.remember(RECORD, delta)
    assert book().records == (RECORD, delta)
    first.remember(replace(RECORD, links={}))
    assert book().records == (delta,)
    first.forget(PEER, delta.peer)
    assert (first.records, book().records, documents.kept) == ((), (), {})
    assert first.ports(PEER, [RED, BLUE]) == book().ports(PEER, [RED, BLUE])
