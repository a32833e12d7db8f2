"""The exchange of records on the wire: one form, bounded, and nothing in it believed."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shamon_host.domain.errors import BadInput
from shamon_host.domain.labels import HostName, plain_name
from shamon_host.peer.host_record import MAX_RECORD_ENVELOPE_BYTES, HostRecord
from shamon_host.peer.ports import EnrolledPeer
from shamon_host.peer.registry_messages import MAX_CAS, MAX_HOSTS, OPERATOR_NAME, Exchange
from shamon_host.peer.wire import MAX_REGISTRY_MESSAGE
from tests.unit.peer.handshake_world import ALPHA, enrolled

_names = st.from_regex(r"[a-z0-9]{1,20}", fullmatch=True).map(HostName)


def record(size: int, peer: EnrolledPeer) -> HostRecord:
    return HostRecord(peer=peer, envelope=bytes(size))


@given(
    ranks=st.dictionaries(_names, st.integers(0, 1 << 40), max_size=5),
    records=st.lists(st.binary(min_size=1, max_size=50), max_size=5),
    cas=st.lists(st.binary(min_size=1, max_size=50), max_size=MAX_CAS),
)
def test_what_is_sent_arrives(ranks: dict[HostName, int], records: list[bytes], cas: list[bytes]) -> None:
    sent = Exchange(ranks=ranks, records=tuple(records), cas=tuple(cas))
    assert Exchange.decode(sent.encode()) == sent


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_in_words(data: bytes) -> None:
    for start in (b"", b'{"cas":[],"ranks":[],"sizes":[{"bytes":5}]}\n'):
        if start and len(data) == 5:
            continue
        with pytest.raises(BadInput):
            Exchange.decode(start + data)


@pytest.mark.parametrize(
    "change",
    [
        lambda header: header | {"extra": 1},
        lambda header: header | {"sizes": [{"bytes": 0}]},
        lambda header: header | {"sizes": [{"bytes": MAX_RECORD_ENVELOPE_BYTES + 1}]},
        lambda header: header | {"sizes": [{"bytes": 3}]},
        lambda header: header | {"sizes": [{"bytes": 1}] * (MAX_HOSTS + 1)},
        lambda header: header | {"ranks": [{"host": "../x", "rank": 1}]},
        lambda header: header | {"ranks": [{"host": "alpha", "rank": -1}]},
        lambda header: header | {"ranks": [{"host": "alpha", "rank": True}]},
        lambda header: header | {"cas": [{"certificate": "00"}] * (MAX_CAS + 1)},
        lambda header: header | {"cas": [{"certificate": "0"}]},
    ],
)
def test_a_malformed_message_is_refused(change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    header = change({"cas": [], "ranks": [], "sizes": [{"bytes": 2}]})
    with pytest.raises(BadInput):
        Exchange.decode(json.dumps(header, sort_keys=True, separators=(",", ":")).encode() + b"\nab")


def test_one_message_takes_what_fits() -> None:
    peer = enrolled(ALPHA)
    many = [record(40_000, peer) for _ in range(200)]
    message = Exchange.of({}, many).encode()
    assert len(message) <= MAX_REGISTRY_MESSAGE
    assert 0 < len(Exchange.decode(message).records) < 200
    assert len(Exchange.decode(Exchange.of({}, [record(10, peer)] * 2000).encode()).records) == MAX_HOSTS


def test_no_host_has_the_operators_name() -> None:
    with pytest.raises(BadInput):
        plain_name(OPERATOR_NAME, "host name")
