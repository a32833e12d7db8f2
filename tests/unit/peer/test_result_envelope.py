"""Signed Attestation Results: only the Verifier's own key makes one, and not a byte of it may change."""

import base64
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from shamon_host.attestation.result_document import FORMAT, result_document
from shamon_host.domain.canonical import canonical_json
from shamon_host.domain.errors import BadInput, NotTrusted, ShamonError
from shamon_host.domain.labels import HostName
from shamon_host.peer.coalition_ca import init_coalition, issue_host_certificate, parse_certificate
from shamon_host.peer.policy_envelope import POLICY_TYPE
from shamon_host.peer.result_envelope import (
    RESULT_TYPE,
    sign_result,
    verifier_of_certificate,
    verifiers_of_registry,
    verify_result,
)
from shamon_host.peer.signed_record import Envelope, public_text, sign_record
from shamon_host.testing.memory_ca import memory_expelled, memory_key
from shamon_host.testing.memory_world import MemoryWorld
from tests.unit.attestation.result_records import ALPHA, BETA, failing, record_of

GAMMA = HostName("gamma")
KEYS = {host: memory_key(host) for host in (ALPHA, BETA, GAMMA)}
VERIFIERS = {host: public_text(key) for host, key in KEYS.items()}
SIGNED = sign_result(record_of(failing()), KEYS[ALPHA])


def signed(document: object, key: Ed25519PrivateKey = KEYS[ALPHA]) -> bytes:
    return Envelope(payload=canonical_json(document), payload_type=RESULT_TYPE).signed_by(key).encode()


def test_what_the_verifier_signed_is_read() -> None:
    assert verify_result(SIGNED, VERIFIERS) == record_of(failing())
    assert verify_result(SIGNED, {ALPHA: VERIFIERS[ALPHA]}) == record_of(failing())


def test_a_key_on_p256_does_too() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    assert verify_result(sign_result(record_of(), key), {ALPHA: public_text(key)}).result.trusted


def test_another_hosts_signature_says_nothing() -> None:
    with pytest.raises(NotTrusted, match="alpha did not sign") as caught:
        verify_result(sign_result(record_of(), KEYS[GAMMA]), VERIFIERS)
    assert caught.value.found == "one by gamma"


def test_a_host_cannot_sign_what_it_says_of_itself_under_another_name() -> None:
    document = {**result_document(record_of()), "verifier": "beta"}
    with pytest.raises(NotTrusted, match="beta did not sign"):
        verify_result(signed(document), VERIFIERS)


def test_a_verifier_that_nobody_knows_is_none() -> None:
    with pytest.raises(NotTrusted, match="whose key is known") as caught:
        verify_result(SIGNED, {BETA: VERIFIERS[BETA]})
    assert "alpha" in caught.value.found
    assert caught.value.remedy
    with pytest.raises(NotTrusted):
        verify_result(SIGNED, {})


@given(st.integers(0, len(base64.b64decode(json.loads(SIGNED)["payload"])) - 1), st.integers(1, 255))
def test_no_byte_of_it_may_change(at: int, flip: int) -> None:
    fields = json.loads(SIGNED)
    payload = bytearray(base64.b64decode(fields["payload"]))
    payload[at] ^= flip
    fields["payload"] = base64.b64encode(payload).decode()
    with pytest.raises(ShamonError):
        verify_result(json.dumps(fields).encode(), VERIFIERS)


def test_a_signature_that_was_cut_or_left_out_is_none() -> None:
    fields = json.loads(SIGNED)
    for signatures in ([], [{"keyid": "", "sig": base64.b64encode(bytes(64)).decode()}]):
        with pytest.raises(NotTrusted):
            verify_result(json.dumps({**fields, "signatures": signatures}).encode(), VERIFIERS)


def test_an_unknown_format_is_refused_although_it_is_signed() -> None:
    document = {**result_document(record_of()), "format": FORMAT.replace("/1", "/2")}
    with pytest.raises(BadInput, match="unknown format"):
        verify_result(signed(document), VERIFIERS)


def test_a_verdict_that_its_claims_do_not_bear_is_refused_although_it_is_signed() -> None:
    document = {**result_document(record_of(failing())), "trusted": True}
    with pytest.raises(BadInput, match="trusted"):
        verify_result(signed(document), VERIFIERS)


def test_signed_text_that_is_not_canonical_is_refused() -> None:
    payload = json.dumps(result_document(record_of()), indent=1).encode()
    data = Envelope(payload=payload, payload_type=RESULT_TYPE).signed_by(KEYS[ALPHA]).encode()
    with pytest.raises(BadInput, match="canonical"):
        verify_result(data, VERIFIERS)


def test_what_the_key_signs_for_other_ends_is_no_result() -> None:
    for kind in (POLICY_TYPE, "application/vnd.shamon.policy-commit+json"):
        data = sign_record(result_document(record_of()), KEYS[ALPHA], payload_type=kind, most=1 << 20)
        with pytest.raises(BadInput, match="something else"):
            verify_result(data, VERIFIERS)


@pytest.mark.parametrize("payload", [b"", b"[]", b"7", b"{", b'{"verifier": 7}', b'{"verifier": "alpha"}', b"\xff"])
def test_other_payloads_are_refused(payload: bytes) -> None:
    data = Envelope(payload=payload, payload_type=RESULT_TYPE).signed_by(KEYS[ALPHA]).encode()
    with pytest.raises((BadInput, NotTrusted)):
        verify_result(data, VERIFIERS)


@given(st.binary(max_size=300))
def test_other_bytes_are_bad_input(data: bytes) -> None:
    with pytest.raises(BadInput):
        verify_result(data, VERIFIERS)


def test_of_a_registry_the_hosts_that_are_not_expelled_count() -> None:
    world = MemoryWorld()
    for host in world.hosts.values():
        world.enrolment.enrol(host)
    registry = world.enrolment.registry
    assert verifiers_of_registry(registry) == VERIFIERS
    registry.take(memory_expelled(registry.enrolled(ALPHA)))
    with pytest.raises(NotTrusted, match="whose key is known"):
        verify_result(SIGNED, verifiers_of_registry(registry))


def test_a_certificate_names_the_verifier_and_has_its_key(tmp_path: Path) -> None:
    init_coalition(tmp_path / "ca", "lab")
    issued = issue_host_certificate(tmp_path / "ca", ALPHA, tmp_path)
    certificate = parse_certificate(issued.certificate.read_bytes(), where="alpha.pem")
    verifiers = verifier_of_certificate(certificate, where="alpha.pem")
    assert verifiers == {ALPHA: public_text(certificate.public_key())}
    with pytest.raises(NotTrusted, match="alpha did not sign"):
        verify_result(SIGNED, verifiers)
    ca = parse_certificate((tmp_path / "ca/ca.pem").read_bytes(), where="ca.pem")
    with pytest.raises(BadInput, match="not the certificate of a host"):
        verifier_of_certificate(ca, where="ca.pem")
