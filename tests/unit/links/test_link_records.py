"""What is written down of links comes back the same; what is not ours to understand is refused in words."""

import pytest

from shamon_host.domain.errors import BackendFailed
from shamon_host.domain.labels import HostName, TypeName
from shamon_host.links.link_records import LinkRecord, PeerRecord, PortBook, SaRecord, load_peers, save_peers
from shamon_host.links.model import PORT_BLOCK
from tests.unit.links.conftest import RED, MemoryDocuments

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
    assert load_peers(documents, "another boot") == {}
    assert load_peers(MemoryDocuments(), "boot") == {}


@pytest.mark.parametrize(
    "peers",
    [
        None,
        [1],
        [{}],
        [{"peer": "beta", "address": "here", "gate_until_s": 1, "links": []}],
        [{"peer": "../beta", "address": "192.0.2.2", "gate_until_s": 1, "links": []}],
        [{"peer": "beta", "address": "192.0.2.2", "gate_until_s": True, "links": []}],
        [{"peer": "beta", "address": "192.0.2.2", "gate_until_s": float("inf"), "links": []}],
        [{"peer": "beta", "address": "192.0.2.2", "gate_until_s": 1, "links": [{"type": "red"}]}],
    ],
)
def test_malformed_records_are_refused(peers: object) -> None:
    documents = MemoryDocuments()
    documents.put("links", "peers", {"boot_id": "boot", "peers": peers})
    with pytest.raises(BackendFailed, match="malformed"):
        load_peers(documents, "boot")


@pytest.mark.parametrize("ports", [None, [[1]], [["beta", "acme/red", "x"]], [["a", "b", 1]], [["a", "b", 24576]] * 2])
def test_malformed_ports_are_refused(ports: object) -> None:
    documents = MemoryDocuments()
    documents.put("links", "ports", {"ports": ports})
    if ports == [["a", "b", 24576]] * 2:
        assert PortBook(documents=documents).port(HostName("a"), TypeName("b"), in_use=()) == 24576
        return
    with pytest.raises(BackendFailed, match="malformed"):
        PortBook(documents=documents).port(PEER, RED, in_use=())


def test_ports_are_unique_stable_and_run_out_last() -> None:
    book = PortBook(documents=MemoryDocuments())
    names = [TypeName(f"acme/t{number}") for number in range(len(PORT_BLOCK))]
    used = [[PEER, name, port] for name, port in zip(names[:-20], PORT_BLOCK, strict=False)]
    book.documents.put("links", "ports", {"ports": used})
    ports = {name: book.port(PEER, name, in_use=()) for name in (*names[:8], *names[-20:])}
    assert sorted(ports.values()) == [*PORT_BLOCK[:8], *PORT_BLOCK[-20:]]
    assert book.port(PEER, names[5], in_use=()) == ports[names[5]]
    idle = ports[names[7]]
    in_use = set(PORT_BLOCK) - {idle}
    assert book.port(HostName("gamma"), RED, in_use=in_use) == idle
    with pytest.raises(BackendFailed, match="no ports left"):
        book.port(HostName("delta"), RED, in_use=PORT_BLOCK)
