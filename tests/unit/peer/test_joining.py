"""Joining: what is demanded of a host before the CA signs for it, and every way in which it is refused."""

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from shamon_host.attestation.ek import EkPublic
from shamon_host.attestation.ports import Quote
from shamon_host.attestation.tpm_objects import AK_ATTRIBUTES, TPM_RH_OWNER, ObjectAttributes
from shamon_host.attestation.tpm_public import TpmPublic
from shamon_host.domain.errors import BadInput, NotTrusted, Refused, ShamonError
from shamon_host.domain.labels import HostName, plain_name
from shamon_host.domain.results import TpmKind
from shamon_host.peer.join_messages import (
    JOIN_NAME,
    Challenge,
    Granted,
    Invitation,
    JoinRequest,
    Proof,
)
from shamon_host.peer.joining import Applicant, EkTrust, Joiner, Reception, Stage, invite
from shamon_host.testing.tpm import MemoryTpm
from tests.unit.attestation.ek_world import NOW, Authority, mutated
from tests.unit.peer.handshake_world import ALPHA, BETA


def csr(key: Any) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "alpha")])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, SHA256())
    return request.public_bytes(Encoding.DER)


MAKER = Authority(text="maker")
FIRST = EkTrust(tpm=TpmKind.SOFTWARE, first=True)
ROOTS = EkTrust(tpm=TpmKind.HARDWARE, roots=[MAKER.certificate])


_CSR = csr(ec.generate_private_key(ec.SECP256R1()))


def no_objection(_: HostName, **__: Any) -> None:
    """The monitor permits it."""


class Door:
    """An invitation, the operator's side of it, and the host that it is for."""

    def __init__(self, *, trust: EkTrust = FIRST, tpm: MemoryTpm | None = None, check: Any = no_objection) -> None:
        self.now = NOW
        self.tpm = tpm or MemoryTpm()
        self.key = ec.generate_private_key(ec.SECP256R1())
        expires = NOW + timedelta(minutes=15)
        self.invitation = invite(ALPHA, address="192.0.2.9", port=7444, ca_pem=b"PEM", expires=expires)
        self.reception = Reception(invitation=self.invitation, trust=trust, check=check)
        self.applicant = Applicant(invitation=self.invitation, tpm=self.tpm, key=self.key)

    def enter(self) -> Joiner:
        challenge = self.reception.request(self.applicant.request(), self.now)
        return self.reception.prove(self.applicant.proof(challenge), self.now)

    def refused(self, request: bytes, words: str) -> None:
        """The request is refused in these words, and so is the true one after it."""
        with pytest.raises(ShamonError, match=words):
            self.reception.request(request, self.now)
        assert self.reception.stage is Stage.USED_UP
        with pytest.raises(Refused, match="used already"):
            self.enter()

    def altered(self, **changes: Any) -> bytes:
        """The host's own request with parts of it replaced, in its canonical form."""
        fields = json.loads(self.applicant.request()) | changes
        return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()


def certified(tpm: MemoryTpm, authority: Authority = MAKER) -> MemoryTpm:
    tpm.certificate = authority.certify(EkPublic.of(tpm.ek.public_key()))
    return tpm


@pytest.mark.parametrize(
    "tpm",
    [MemoryTpm(), MemoryTpm(ek=rsa.generate_private_key(public_exponent=65537, key_size=2048))],
    ids=["ecc", "rsa"],
)
def test_a_host_with_its_tpm_comes_in(tpm: MemoryTpm) -> None:
    certified(tpm)
    ek = EkPublic.parse(tpm.ek_public())
    for trust, words in (
        (ROOTS, "a chain to CN=maker"),
        (EkTrust(tpm=TpmKind.HARDWARE, pinned_sha256=ek.sha256), "was pinned"),
        (FIRST, "first one"),
    ):
        door = Door(trust=trust, tpm=tpm)
        joiner = door.enter()
        assert joiner.host == ALPHA
        assert joiner.key == door.key.public_key()
        assert joiner.ak_public == tpm.ak_public()
        assert (joiner.ek, joiner.tpm) == (ek, trust.tpm)
        assert words in joiner.ek_words
        assert door.reception.stage is Stage.JOINED


def test_filling_behind_the_certificate_is_left_on_the_host() -> None:
    tpm = certified(MemoryTpm())
    tpm.certificate += b"\xff" * 4000
    Door(trust=ROOTS, tpm=tpm).enter()


def test_an_invitation_is_for_one_join() -> None:
    door = Door()
    door.enter()
    for step in (
        lambda: door.reception.request(door.applicant.request(), door.now),
        lambda: door.reception.prove(Proof(token=door.invitation.token, secret=bytes(32)).encode(), door.now),
    ):
        with pytest.raises(Refused, match="used already"):
            step()
    assert door.reception.stage is Stage.JOINED


def test_a_stolen_or_guessed_token_uses_nothing_up() -> None:
    door, other = Door(), Door()
    with pytest.raises(NotTrusted, match="no token"):
        door.reception.request(other.applicant.request(), door.now)
    challenge = door.reception.request(door.applicant.request(), door.now)
    with pytest.raises(NotTrusted, match="no token"):
        door.reception.prove(Proof(token=bytes(32), secret=bytes(32)).encode(), door.now)
    door.reception.prove(door.applicant.proof(challenge), door.now)


def test_who_stole_the_invitation_needs_the_tpm_too() -> None:
    """And the try shows."""
    rightful = certified(MemoryTpm())
    pinned = EkTrust(tpm=TpmKind.HARDWARE, pinned_sha256=EkPublic.parse(rightful.ek_public()).sha256)
    door = Door(trust=pinned, tpm=rightful)
    thief = Applicant(invitation=door.invitation, tpm=certified(MemoryTpm()), key=door.key)
    door.refused(thief.request(), "another TPM than the one that was pinned")


@pytest.mark.parametrize("late", ["request", "proof"])
def test_an_expired_invitation_is_none(late: str) -> None:
    door = Door()
    request = door.applicant.request()
    if late == "request":
        door.now = NOW + timedelta(minutes=15)
        door.refused(request, "has expired")
        return
    challenge = door.reception.request(request, door.now)
    with pytest.raises(Refused, match="has expired"):
        door.reception.prove(door.applicant.proof(challenge), NOW + timedelta(minutes=15))
    with pytest.raises(Refused, match="used already"):
        door.reception.prove(door.applicant.proof(challenge), NOW)


def test_a_wrong_secret_uses_the_invitation_up() -> None:
    """A forged credential's, or that of somebody without the TPM."""
    door = Door()
    challenge = door.reception.request(door.applicant.request(), door.now)
    with pytest.raises(NotTrusted, match="EK and AK are not in one TPM"):
        door.reception.prove(Proof(token=door.invitation.token, secret=bytes(32)).encode(), door.now)
    with pytest.raises(Refused, match="used already"):
        door.reception.prove(door.applicant.proof(challenge), door.now)


def test_an_ak_of_one_tpm_and_an_ek_of_another_prove_nothing() -> None:
    """The EK is a trusted one's, the AK a software key: its owner gets the credential, and cannot open it."""
    trusted, rogue = certified(MemoryTpm()), MemoryTpm()
    door = Door(trust=ROOTS, tpm=rogue)
    request = door.altered(ek=trusted.ek_public().hex(), ek_certificate=trusted.certificate.hex())
    challenge = door.reception.request(request, door.now)
    with pytest.raises(ShamonError, match="ActivateCredential failed"):
        door.applicant.proof(challenge)
    with pytest.raises(ShamonError, match="ActivateCredential failed"):
        trusted.activate_credential(Challenge.decode(challenge).credential)


def test_an_ek_without_a_chain_is_refused() -> None:
    other = Authority(text="another maker")
    for tpm, words in (
        (MemoryTpm(), "no EK certificate"),
        (certified(MemoryTpm(), other), "no chain to a root"),
    ):
        door = Door(trust=ROOTS, tpm=tpm)
        door.refused(door.applicant.request(), words)


def test_a_certificate_for_another_ek_is_refused() -> None:
    tpm = MemoryTpm()
    tpm.certificate = certified(MemoryTpm()).certificate
    door = Door(trust=ROOTS, tpm=tpm)
    door.refused(door.applicant.request(), "another key than the TPM's EK")


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        (AK_ATTRIBUTES & ~ObjectAttributes.RESTRICTED, "without restricted"),
        (AK_ATTRIBUTES & ~ObjectAttributes.FIXED_TPM, "without fixed_tpm"),
        (AK_ATTRIBUTES & ~ObjectAttributes.FIXED_PARENT, "without fixed_parent"),
        (AK_ATTRIBUTES & ~ObjectAttributes.SENSITIVE_DATA_ORIGIN, "without sensitive_data_origin"),
        (AK_ATTRIBUTES & ~ObjectAttributes.SIGN, "without sign"),
        (AK_ATTRIBUTES | ObjectAttributes.DECRYPT, "can also decrypt"),
    ],
)
def test_an_ak_with_other_attributes_is_refused(attributes: ObjectAttributes, words: str) -> None:
    door = Door()
    area = replace(TpmPublic.parse(door.tpm.ak_public()), attributes=attributes)
    door.refused(door.altered(ak=area.encode().hex()), words)


def test_an_ak_whose_attributes_are_told_wrong_gets_no_credential() -> None:
    """Its Name is another one, so a TPM that holds the unrestricted key does not open what was made for this Name."""
    door = Door()
    named = replace(TpmPublic.parse(door.tpm.ak_public()), attributes=AK_ATTRIBUTES & ~ObjectAttributes.NO_DA)
    with pytest.raises(NotTrusted, match="endorsement hierarchy"):
        door.reception.request(door.altered(ak=named.encode().hex()), door.now)


def test_an_ak_of_another_hierarchy_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shamon_host.testing.tpm.TPM_RH_ENDORSEMENT", TPM_RH_OWNER)
    door = Door()
    door.refused(door.applicant.request(), "not a primary key of the endorsement hierarchy")


def test_a_swapped_certificate_request_is_refused() -> None:
    door = Door()
    door.refused(door.altered(csr=csr(ec.generate_private_key(ec.SECP256R1())).hex()), "other qualifying data")


@pytest.mark.parametrize(
    ("request_of", "words"),
    [
        (lambda: b"no request", "not a certificate request"),
        (lambda: csr(ec.generate_private_key(ec.SECP384R1())), "not a certificate request"),
        (lambda: csr(rsa.generate_private_key(public_exponent=65537, key_size=2048)), "not a certificate request"),
        (lambda: unsigned(csr(ec.generate_private_key(ec.SECP256R1()))), "not a certificate request"),
    ],
)
def test_a_certificate_request_for_another_kind_of_key_is_refused(request_of: Callable[[], bytes], words: str) -> None:
    """Though the AK quotes over it."""
    door, data = Door(), request_of()
    quote = door.tpm.quote(hashlib.sha256(data).digest())
    door.refused(door.altered(csr=data.hex(), attest=quote.attest.hex(), signature=quote.signature.hex()), words)


def test_a_quote_by_another_ak_is_refused() -> None:
    door, other = Door(), MemoryTpm()
    sent = JoinRequest.decode(door.applicant.request())
    quote: Quote = other.quote(hashlib.sha256(sent.csr).digest())
    door.refused(door.altered(attest=quote.attest.hex(), signature=quote.signature.hex()), "not by the expected AK")


def test_another_host_than_the_invited_one_is_refused() -> None:
    door = Door()
    door.refused(door.altered(host=BETA), "for another host")


def test_what_the_monitor_denies_is_refused() -> None:
    """The same host from another TPM, one TPM as two hosts: see `test_enrolment`."""

    def check(host: HostName, *, ak_public: bytes, ek_sha256: bytes, tpm: TpmKind) -> None:
        assert TpmPublic.parse(ak_public).encode() == ak_public
        raise Refused(f"{host} {tpm} {len(ek_sha256)}")

    door = Door(check=check)
    door.refused(door.applicant.request(), "alpha software 32")


_STEPS = st.lists(
    st.sampled_from(
        ["request", "bad request", "proof", "bad proof", "foreign request", "foreign proof", "nonsense", "late"]
    ),
    max_size=8,
)


@given(_STEPS)
def test_whatever_comes_in_whatever_order_one_host_joins_at_most_and_none_after_a_mistake(steps: list[str]) -> None:
    door, other, now = Door(tpm=_TPM), Door(tpm=_TPM), NOW
    challenge, joined, spoilt = b"", 0, False
    bad = Proof(token=door.invitation.token, secret=bytes(32)).encode()
    for step in steps:
        try:
            match step:
                case "request":
                    challenge = door.reception.request(door.applicant.request(), now)
                case "bad request":
                    door.reception.request(door.altered(host=BETA), now)
                case "proof":
                    door.reception.prove(door.applicant.proof(challenge) if challenge else bad, now)
                    joined += 1
                    assert not spoilt
                    assert now < NOW + timedelta(minutes=15)
                case "bad proof":
                    door.reception.prove(bad, now)
                case "foreign request":
                    door.reception.request(other.applicant.request(), now)
                case "foreign proof":
                    door.reception.prove(Proof(token=bytes(32), secret=bytes(32)).encode(), now)
                case "nonsense":
                    door.reception.request(b"{}", now)
                case _:
                    now = NOW + timedelta(minutes=15)
        except ShamonError:
            spoilt = spoilt or step in {"request", "bad request", "proof", "bad proof"}
    assert joined <= 1
    assert (door.reception.stage is Stage.JOINED) is (joined == 1)


_TPM = MemoryTpm()


@pytest.mark.parametrize(
    "ways",
    [
        {"tpm": TpmKind.SOFTWARE},
        {"tpm": TpmKind.HARDWARE, "first": True},
        {"tpm": TpmKind.SOFTWARE, "first": True, "pinned_sha256": bytes(32)},
        {"tpm": TpmKind.SOFTWARE, "roots": [MAKER.certificate], "pinned_sha256": bytes(32)},
    ],
)
def test_there_is_one_way_to_know_a_tpm_and_for_hardware_never_the_first_one(ways: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        EkTrust(**ways)


def test_messages_survive_the_wire_and_say_no_secret() -> None:
    door = Door()
    assert Invitation.decode(door.invitation.encode()) == door.invitation
    request = JoinRequest.decode(door.applicant.request())
    assert request.encode() == JoinRequest.decode(request.encode()).encode()
    for value in (door.invitation, request, Proof(token=door.invitation.token, secret=b"s" * 32), door.reception):
        assert door.invitation.token.hex() not in repr(value)
        assert repr(door.invitation.token) not in repr(value)
    with pytest.raises(BadInput):
        plain_name(JOIN_NAME, "host name")  # no host answers in the operator's place


@pytest.mark.parametrize(
    "decode", [Invitation.decode, JoinRequest.decode, Challenge.decode, Proof.decode, Granted.decode]
)
@given(data=st.binary(max_size=200))
def test_any_bytes_are_refused_in_words(decode: Callable[[bytes], object], data: bytes) -> None:
    with pytest.raises(BadInput):
        decode(data)


@given(mutated(_CSR))
def test_a_changed_certificate_request_is_refused_in_words(data: bytes) -> None:
    door = Door(tpm=_TPM)
    quote = door.tpm.quote(hashlib.sha256(data).digest())
    body = door.altered(csr=data.hex(), attest=quote.attest.hex(), signature=quote.signature.hex())
    with suppress(ShamonError):
        door.reception.request(body, door.now)
        assert data == _CSR


@pytest.mark.parametrize(
    "changes",
    [
        {"pcrs": []},
        {"pcrs": [{"pcr": 0, "value": "00" * 32}] * 15},
        {"ek_certificate": "00" * 9000},
        {"token": "00"},
        {"host": "../alpha"},
        {"extra": 1},
    ],
)
def test_a_malformed_request_is_refused_before_anything_else(changes: dict[str, Any]) -> None:
    door = Door()
    with pytest.raises(BadInput):
        door.reception.request(door.altered(**changes), door.now)
    door.enter()


def unsigned(data: bytes) -> bytes:
    return data[:-4] + bytes(byte ^ 1 for byte in data[-4:])
