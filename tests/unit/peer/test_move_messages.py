"""Moves of VMs on the wire: one form for each message, bounded; tokens count only with both signatures."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shamon_host.domain.errors import BadInput, NotTrusted
from shamon_host.domain.labels import HostName, TypeName, VmName
from shamon_host.domain.vm_tokens import VmToken
from shamon_host.hypervisor.report import MAX_REPORTED_TOKEN_BYTES
from shamon_host.peer.move_messages import (
    MOVE_BYTES,
    SECRET_BYTES,
    Abort,
    Arrived,
    DiskPart,
    Handover,
    Join,
    Prepare,
    Receive,
)
from shamon_host.peer.signed_record import public_text, read_envelope
from shamon_host.peer.vm_token import (
    MAX_TOKEN_ENVELOPE_BYTES,
    MOVE_TYPE,
    countersigned,
    proposed,
    read_acceptance,
    read_token,
    token_in,
)
from shamon_host.peer.wire import MAX_DISK_PART, VM_DISK, VM_RECEIVE, body_limit
from shamon_host.testing.memory_ca import memory_key

ALPHA, BETA, GAMMA = HostName("alpha"), HostName("beta"), HostName("gamma")
WEB, MOVE = VmName("web"), bytes(range(MOVE_BYTES))
TOKEN = VmToken(
    coalition="c" * 63,
    vm=VmName("v" * 63),
    generation=1 << 53,
    owner=BETA,
    previous=ALPHA,
    policy="0" * 64,
    disk="1" * 64,
    size=1 << 44,
    base="2" * 64,
    runs=True,
    time=1 << 53,
)


def key_of(host: HostName) -> str:
    if host == GAMMA:
        raise NotTrusted("no key of this host is known", where=host)
    return public_text(memory_key(host))


def signed(token: VmToken, *hosts: HostName) -> bytes:
    envelope = proposed(token)
    for host in hosts:
        envelope = countersigned(envelope, memory_key(host))
    return envelope


@given(offset=st.integers(0, 1 << 44), data=st.binary(min_size=1, max_size=200))
def test_what_is_sent_arrives(offset: int, data: bytes) -> None:
    part = DiskPart(move=MOVE, vm=WEB, offset=offset, data=data)
    assert DiskPart.decode(part.encode()) == part
    prepare = Prepare(move=MOVE, vm=WEB, policy="ab" * 32, size=offset)
    assert Prepare.decode(prepare.encode()) == prepare
    abort, handover = Abort(move=MOVE, vm=WEB), Handover(move=MOVE, token=data)
    assert (Abort.decode(abort.encode()), Handover.decode(handover.encode())) == (abort, handover)
    arrived = Arrived(resumed=bool(offset % 2), state="it is running", waited_ms=offset % 99, first_frame_ms=offset % 7)
    assert Arrived.decode(arrived.encode()) == arrived

    join = Join(move=MOVE, vm=WEB)
    assert Join.decode(join.encode()) == join
    receive = Receive(move=MOVE, vm=WEB, policy="ab" * 32, type=TypeName("acme/red"), secret=bytes(SECRET_BYTES))
    assert Receive.decode(receive.encode()) == receive
    assert len(receive.encode()) < body_limit(VM_RECEIVE)


def test_the_secret_of_a_move_is_not_told() -> None:
    receive = Receive(move=MOVE, vm=WEB, policy="ab" * 32, type=TypeName("acme/red"), secret=b"\x5a" * SECRET_BYTES)
    assert "Z" not in repr(receive)
    assert "5a" not in repr(receive)
    for secret in (b"", bytes(SECRET_BYTES - 1), bytes(SECRET_BYTES + 1)):
        with pytest.raises(BadInput):
            Receive.decode(replace(receive, secret=secret).encode())
    with pytest.raises(BadInput):
        Receive.decode(replace(receive, type=TypeName("red")).encode())


def test_the_longest_part_of_a_disk_fits() -> None:
    part = DiskPart(move=MOVE, vm=VmName("v" * 63), offset=1 << 44, data=bytes(MAX_DISK_PART))
    assert len(part.encode()) <= body_limit(VM_DISK)
    with pytest.raises(BadInput):
        DiskPart.decode(replace(part, data=bytes(MAX_DISK_PART + 1)).encode())
    with pytest.raises(BadInput):
        DiskPart.decode(replace(part, data=b"").encode())


def test_a_token_of_both_hosts() -> None:
    envelope = signed(TOKEN, BETA, ALPHA)
    assert read_token(envelope, key_of) == TOKEN
    assert token_in(envelope) == TOKEN
    assert read_acceptance(signed(TOKEN, BETA), key_of) == TOKEN
    assert len(envelope) <= MAX_REPORTED_TOKEN_BYTES <= MAX_TOKEN_ENVELOPE_BYTES, "the longest one fits into a report"


@pytest.mark.parametrize("hosts", [(), (ALPHA,), (BETA,), (GAMMA,), (GAMMA, BETA), (ALPHA, GAMMA)])
def test_a_token_that_lacks_a_signature(hosts: tuple[HostName, ...]) -> None:
    with pytest.raises(NotTrusted, match="lacks a signature"):
        read_token(signed(TOKEN, *hosts), key_of)


def test_signatures_are_for_one_token_and_its_own_hosts() -> None:
    with pytest.raises(NotTrusted, match="no key"):
        read_token(signed(replace(TOKEN, owner=GAMMA), ALPHA, BETA), key_of)
    other = read_envelope(signed(TOKEN, BETA, ALPHA), payload_type=MOVE_TYPE, most=4096, source="a test")
    changed = replace(other, payload=other.payload.replace(b'"runs":true', b'"runs":false'))
    with pytest.raises(NotTrusted, match="lacks a signature"):
        read_token(changed.encode(), key_of)
    with pytest.raises(NotTrusted):
        read_acceptance(signed(TOKEN, ALPHA), key_of)


@pytest.mark.parametrize(
    "change",
    [
        {"generation": 0},
        {"generation": (1 << 53) + 1},
        {"vm": VmName("../web")},
        {"owner": HostName("")},
        {"disk": "1" * 66},
        {"disk": "XY"},
        {"policy": ""},
        {"size": -1},
        {"runs": 1},
        {"coalition": "c" * 64},
    ],
)
def test_tokens_that_are_none(change: dict[str, object]) -> None:
    with pytest.raises(BadInput):
        token_in(proposed(replace(TOKEN, **change)))  # type: ignore[arg-type]


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_in_words(data: bytes) -> None:
    decoders = (Prepare.decode, DiskPart.decode, Abort.decode, Arrived.decode, Handover.decode, Receive.decode)
    for decode in (*decoders, Join.decode, token_in):
        with pytest.raises(BadInput):
            decode(data)
