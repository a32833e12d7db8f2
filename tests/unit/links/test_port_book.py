"""Ports are given once and for good, found again in the store, and run out last."""

from collections.abc import Collection

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shamon_host.domain.errors import BackendFailed
from shamon_host.domain.labels import HostName, TypeName
from shamon_host.links.model import PORT_BLOCK
from shamon_host.links.port_book import PortBook
from tests.unit.links.conftest import BLUE, RED, MemoryDocuments

PEER = HostName("beta")


def ports(
    documents: MemoryDocuments, names: Collection[TypeName], *, peer: HostName = PEER, in_use: Collection[int] = ()
) -> dict[TypeName, int]:
    """Asked of a book that was opened for this."""
    return PortBook(documents=documents).ports(peer, names, in_use=lambda: in_use)


def full(documents: MemoryDocuments) -> list[TypeName]:
    """Give every port to a type of the peer; the types in the order of their ports."""
    names = [TypeName(f"acme/t{number}") for number in range(len(PORT_BLOCK))]
    assert list(ports(documents, names).values()) == list(PORT_BLOCK)
    return names


def test_a_pair_keeps_its_port() -> None:
    documents = MemoryDocuments()
    first = ports(documents, [RED, BLUE])
    assert len(set(first.values())) == 2
    assert ports(documents, [BLUE, RED]) == first
    assert set(ports(documents, [RED], peer=HostName("gamma")).values()).isdisjoint(first.values())


def test_only_what_is_new_is_written() -> None:
    documents = MemoryDocuments()
    book = PortBook(documents=documents)
    book.ports(PEER, [RED], in_use=tuple)
    kept = dict(documents.kept)
    book.ports(PEER, [RED, BLUE], in_use=tuple)
    assert len(documents.kept) == 2
    assert all(documents.kept[place] is document for place, document in kept.items())


def test_ports_run_out_last() -> None:
    documents = MemoryDocuments()
    names = full(documents)
    idle = [PORT_BLOCK[7], PORT_BLOCK[9]]
    in_use = set(PORT_BLOCK) - set(idle)
    with pytest.raises(BackendFailed, match="no ports left"):
        ports(documents, [RED, BLUE, TypeName("acme/green")], peer=HostName("gamma"), in_use=in_use)
    assert ports(documents, [names[7], names[9]]) == dict(zip((names[7], names[9]), idle, strict=True))
    assert sorted(ports(documents, [RED, BLUE], peer=HostName("gamma"), in_use=in_use).values()) == idle
    with pytest.raises(BackendFailed, match="no ports left"):
        ports(documents, [names[7]], in_use=PORT_BLOCK)


def test_the_port_of_a_type_that_is_asked_for_goes_to_no_other() -> None:
    documents = MemoryDocuments()
    names = full(documents)
    found = ports(documents, [names[3], RED], in_use=set(PORT_BLOCK) - {PORT_BLOCK[3], PORT_BLOCK[4]})
    assert found == {names[3]: PORT_BLOCK[3], RED: PORT_BLOCK[4]}


def test_ports_that_were_in_one_document_are_taken_over() -> None:
    documents = MemoryDocuments()
    documents.change({("links", "ports"): {"ports": [["beta", RED, 24576], ["gamma", RED, 24577]]}})
    assert ports(documents, [RED, BLUE]) == {RED: 24576, BLUE: PORT_BLOCK.start}
    assert ("links", "ports") not in documents.kept
    assert ports(documents, [RED], peer=HostName("gamma")) == {RED: 24577}


@pytest.mark.parametrize(
    "document",
    [None, [[1]], [["beta", RED, "x"]], [["beta", 7, 24576]], [["a", "b", 1]], [["a", "b", 24576], ["c", "d", 24576]]],
)
def test_a_malformed_document_of_all_is_refused(document: object) -> None:
    documents = MemoryDocuments()
    documents.change({("links", "ports"): {"ports": document}})
    with pytest.raises(BackendFailed, match="malformed"):
        ports(documents, [RED])


@pytest.mark.parametrize(
    ("key", "document"),
    [
        ("24576", {}),
        ("24576", {"peer": "beta"}),
        ("24576", {"peer": "beta", "type": 7}),
        ("1", {"peer": "beta", "type": RED}),
        ("x", {"peer": "beta", "type": RED}),
    ],
)
def test_malformed_ports_are_refused(key: str, document: dict[str, object]) -> None:
    documents = MemoryDocuments()
    documents.change({("link-port", key): document})
    with pytest.raises(BackendFailed, match="malformed"):
        ports(documents, [RED])


def test_two_ports_of_one_pair_are_refused() -> None:
    documents = MemoryDocuments()
    pair = {"peer": "beta", "type": RED}
    documents.change({("link-port", "24576"): pair, ("link-port", "24577"): pair})
    with pytest.raises(BackendFailed, match="malformed"):
        ports(documents, [RED])


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sets(st.sampled_from("uvwxyz"), min_size=1))))
def test_no_two_pairs_have_one_port(questions: list[tuple[str, set[str]]]) -> None:
    documents = MemoryDocuments()
    book = PortBook(documents=documents)
    given_out: dict[tuple[str, str], int] = {}
    for peer, names in questions:
        for name, port in book.ports(HostName(peer), [TypeName(name) for name in names], in_use=tuple).items():
            assert given_out.setdefault((peer, name), port) == port
    assert len(set(given_out.values())) == len(given_out)
    for (peer, kept), port in given_out.items():
        assert ports(documents, [TypeName(kept)], peer=HostName(peer)) == {TypeName(kept): port}
