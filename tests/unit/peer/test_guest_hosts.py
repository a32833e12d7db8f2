"""What a host tells a VM of other hosts: a host of the coalition says it, now, and not a byte may change."""

import base64
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shamon_host.attestation.guest_messages import encode_refusal
from shamon_host.domain.admission import AdmissionState
from shamon_host.domain.canonical import canonical_json
from shamon_host.domain.errors import NotTrusted, Refused, ShamonError
from shamon_host.domain.labels import HostName, TypeName, VmName
from shamon_host.peer.guest_hosts import HOSTS_TYPE, ToldHost, VerifiedHosts, encode_hosts, verify_hosts
from shamon_host.peer.host_record import authorities_from_key
from shamon_host.peer.result_envelope import sign_result
from shamon_host.peer.signed_record import sign_record
from shamon_host.testing.memory_ca import (
    memory_authorities,
    memory_expelled,
    memory_key,
    memory_next_ca,
    memory_peer,
    memory_record,
)
from shamon_host.testing.tpm import MemoryTpm
from tests.unit.attestation.result_records import ALPHA, BETA, failing, record_of

GAMMA, WEB, RED = HostName("gamma"), VmName("web"), TypeName("acme/red")
NONCE = bytes(range(32))
PEER = memory_peer(ALPHA, MemoryTpm().ak_public())
RECORD = memory_record(PEER).envelope
RESULT = record_of(failing())
TOLD = (
    ToldHost(host=BETA, state=AdmissionState.SUSPENDED, types=(RED,), result=sign_result(RESULT, memory_key(ALPHA))),
    ToldHost(host=GAMMA, state=AdmissionState.ENROLLED, types=(RED,)),
)


def told(*, key: HostName = ALPHA, record: bytes = RECORD, verifier: HostName = ALPHA, nonce: bytes = NONCE) -> bytes:
    return encode_hosts(TOLD, verifier=verifier, vm=WEB, nonce=nonce, record=record, key=memory_key(key))


def verify(data: bytes) -> VerifiedHosts:
    return verify_hosts(data, memory_authorities(), NONCE)


def test_what_the_host_says_is_verified() -> None:
    verified = verify(told())
    assert (verified.verifier, verified.vm) == (ALPHA, WEB)
    assert [(each.host, each.state, each.types) for each in verified.hosts] == [
        (BETA, AdmissionState.SUSPENDED, (RED,)),
        (GAMMA, AdmissionState.ENROLLED, (RED,)),
    ]
    assert [each.result for each in verified.hosts] == [RESULT, None]


def test_an_old_answer() -> None:
    with pytest.raises(NotTrusted, match="an old answer"):
        verify(told(nonce=bytes(32)))


def test_a_host_that_another_ca_knows() -> None:
    with pytest.raises(NotTrusted, match="signature is missing"):
        verify_hosts(told(), authorities_from_key(memory_next_ca()[1]), NONCE)


def test_somebody_elses_key_or_name() -> None:
    with pytest.raises(NotTrusted, match="signature is missing"):
        verify(told(key=BETA))
    with pytest.raises(NotTrusted, match="another host than the record"):
        verify(told(verifier=BETA))


def test_a_host_that_is_out() -> None:
    out = memory_expelled(PEER)
    with pytest.raises(NotTrusted, match="none of the coalition"):
        verify(told(record=out.envelope))


def test_results_are_those_that_the_statement_names() -> None:
    document: dict[str, Any] = json.loads(told())
    other = sign_result(replace(RESULT, appraised_s=RESULT.appraised_s + 1), memory_key(ALPHA)).decode()
    with pytest.raises(NotTrusted, match="another result"):
        verify(canonical_json({**document, "results": {"beta": other}}))
    with pytest.raises(ShamonError):
        verify(canonical_json({**document, "results": {}}))
    wrong = (replace(TOLD[0], host=GAMMA),)
    data = encode_hosts(wrong, verifier=ALPHA, vm=WEB, nonce=NONCE, record=RECORD, key=memory_key(ALPHA))
    with pytest.raises(NotTrusted, match="of another host"):
        verify(data)


@pytest.mark.parametrize(
    "change",
    [
        {"hosts": {}}, {"hosts": [1]}, {"hosts": [{}]}, {"vm": "No name"}, {"vm": 1}, {"more": 1}, {"nonce": 5},
        {"hosts": [{"host": "gamma", "sha256": "", "state": "fine", "types": []}]},
        {"hosts": [{"host": "gamma", "sha256": "", "state": "enrolled", "types": "acme/red"}]},
        {"hosts": [{"host": "gamma", "sha256": "", "state": "enrolled", "types": [1]}]},
        {"hosts": [{"host": "gamma", "sha256": "", "state": "enrolled", "types": []}] * 300},
    ],
)  # fmt: skip
def test_statements_with_mistakes_are_refused_whoever_signed_them(change: dict[str, Any]) -> None:
    document: dict[str, Any] = json.loads(told())
    statement = json.loads(base64.b64decode(json.loads(document["statement"])["payload"]))
    signed = sign_record({**statement, **change}, memory_key(ALPHA), payload_type=HOSTS_TYPE, most=1 << 20)
    with pytest.raises(ShamonError):
        verify(canonical_json({**document, "statement": signed.decode()}))


def test_a_refusal_is_told() -> None:
    with pytest.raises(Refused, match="asked too often"):
        verify(encode_refusal("asked too often"))


_DATA = told()


@given(st.integers(0, len(_DATA) - 1), st.integers(0, 255), st.integers(0, 3))
def test_no_changed_byte_says_something_else(at: int, byte: int, cut: int) -> None:
    data = _DATA[:at] + bytes([byte]) + _DATA[at + cut :]
    try:
        verified = verify(data)
    except ShamonError:
        return
    assert verified == verify(_DATA), "only what nobody signed may differ: white space, hints at keys"
