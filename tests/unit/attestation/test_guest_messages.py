"""What host and guest say to each other: one form for each message, and bounds on everything."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shamon_host.attestation.guest_messages import (
    MAX_ANSWER_BYTES,
    MAX_REQUEST_BYTES,
    MAX_WORDS,
    EvidenceRequest,
    HostsRequest,
    encode_answer,
    encode_refusal,
    read_answer,
    read_request,
)
from shamon_host.domain.errors import BadInput, Refused, ShamonError
from shamon_host.domain.labels import VmName
from shamon_host.guest_agent.answering import Answering
from tests.unit.attestation.guest_world import GuestWorld

REQUEST = EvidenceRequest(vm=VmName("web"), nonce=bytes(range(32)), ima_offset=7, ima_reset_count=3)
HOSTS = HostsRequest(nonce=bytes(range(32)))


@pytest.mark.parametrize("request_", [REQUEST, HOSTS])
def test_requests_are_read_back(request_: EvidenceRequest | HostsRequest) -> None:
    assert read_request(request_.encode()) == request_
    assert len(request_.encode()) < MAX_REQUEST_BYTES


def test_answers_are_read_back() -> None:
    world = GuestWorld()
    answer = world.answer(world.request())
    assert read_answer(encode_answer(answer)) == answer


def test_what_is_quoted_over_is_of_this_question_and_this_vm_alone() -> None:
    quoted = {
        EvidenceRequest(vm=VmName(vm), nonce=nonce).qualifying_data
        for vm in ("web", "we", "b")
        for nonce in (bytes(32), b"b" + bytes(31), bytes(31) + b"b")
    }
    assert len(quoted) == 9
    assert {len(each) for each in quoted} == {32}


@pytest.mark.parametrize(
    "change",
    [
        {"ask": "secrets"}, {"ask": None}, {"vm": "No name"}, {"vm": 1}, {"nonce": "00"}, {"nonce": "AA" * 32},
        {"nonce": 5}, {"ima_offset": -1}, {"ima_offset": True}, {"ima_reset_count": 1 << 60}, {"more": 1},
    ],
)  # fmt: skip
def test_requests_with_mistakes(change: dict[str, object]) -> None:
    document = {**json.loads(REQUEST.encode()), **change}
    data = json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
    with pytest.raises(BadInput):
        read_request(data)


@pytest.mark.parametrize(
    "data", [b"", b"null", b"[" * 4000, b'{"ask": "hosts"}', b"x" * 5000, b'{"ask":1e999}', b"\xff"]
)
def test_what_is_no_request(data: bytes) -> None:
    with pytest.raises(BadInput):
        read_request(data)


@given(st.binary(max_size=300))
def test_no_bytes_do_more_than_be_refused(data: bytes) -> None:
    for read in (read_request, read_answer):
        try:
            read(data)
        except ShamonError:
            continue
        raise AssertionError(data)


def test_a_refusal_is_told_and_cut() -> None:
    with pytest.raises(Refused) as caught:
        read_answer(encode_refusal("\x1b[31mno " + "x" * 10_000))
    assert "\x1b" not in str(caught.value)
    assert len(caught.value.found) == MAX_WORDS


def test_an_answer_that_is_too_long() -> None:
    with pytest.raises(BadInput, match="too long"):
        read_answer(bytes(MAX_ANSWER_BYTES + 1))
    world = GuestWorld()
    for number in range(40_000):
        world.machine.logs.entries.append(world.machine.logs.entries[number % 3])
    told = Answering(tpm=world.machine.tpm, logs=world.machine.logs).answer(world.request().encode())
    with pytest.raises(Refused, match="logs are too long"):
        read_answer(told)


def test_reports_of_hosts_have_no_place_in_an_answer() -> None:
    world = GuestWorld()
    data = encode_answer(world.answer(world.request()))
    wrong = data.replace(b'"network_state":""', b'"network_state":"e30="')
    assert wrong != data
    with pytest.raises(BadInput, match="nothing of a host"):
        read_answer(wrong)


def test_an_agent_is_asked_for_evidence_alone() -> None:
    world = GuestWorld()
    answering = Answering(tpm=world.machine.tpm, logs=world.machine.logs)
    for data in (HOSTS.encode(), b"", b"{}"):
        with pytest.raises(Refused):
            read_answer(answering.answer(data))
    world.machine.tpm.out_of_reach = True
    with pytest.raises(Refused, match="TPM does not answer"):
        read_answer(answering.answer(REQUEST.encode()))
    assert world.machine.tpm.quotes == 0
