"""The registry of hosts and the coalition's CA: what is accepted, what is refused and how it says so."""

import base64
import json
import stat
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from shamon_host.attestation.tpm_objects import AK_ATTRIBUTES, ObjectAttributes
from shamon_host.attestation.tpm_public import TpmPublic
from shamon_host.domain.errors import BackendFailed, BadInput, NotTrusted, Refused
from shamon_host.domain.labels import HostName
from shamon_host.domain.policy import Policy
from shamon_host.domain.policy_file import parse_policy
from shamon_host.domain.results import TpmKind
from shamon_host.peer.coalition_ca import (
    CoalitionCa,
    init_coalition,
    issue_host_certificate,
    parse_certificate,
    read_ca_certificates,
    write_atomically,
)
from shamon_host.peer.enroller import Enroller
from shamon_host.peer.enrolment import PeerRegistry, read_ak_file
from shamon_host.peer.host_record import (
    LEAVE_TYPE,
    RECORD_TYPE,
    Authorities,
    HostRecord,
    authorities_from_key,
    authorities_of,
    read_host_record,
    sign_host_record,
    sign_leave,
    successor,
)
from shamon_host.peer.ports import Membership
from shamon_host.peer.signed_record import public_text, sign_record
from shamon_host.testing.memory_ca import memory_authorities, memory_key, memory_next_ca, memory_peer, memory_record
from shamon_host.testing.memory_world import MEMORY_TIMING
from shamon_host.testing.story_policy import story_policy
from tests.unit.attestation.ek_world import mutated
from tests.unit.peer.handshake_world import ALPHA, BETA, GAMMA


def new_ak() -> bytes:
    return TpmPublic.attestation_key(ec.generate_private_key(ec.SECP256R1()).public_key()).encode()


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("coalition") / "ca"
    init_coalition(directory, "example")
    return directory


def world_policy(*, software: bool = True) -> Policy:
    text = story_policy(image_sha256="0" * 64, timing=MEMORY_TIMING)
    assert "allow_software_tpm = true" in text
    text = text.replace("allow_software_tpm = true", f"allow_software_tpm = {str(software).lower()}")
    return parse_policy(text.encode(), source="policy")


POLICY = world_policy()
EK_OF = {host: bytes([number]) * 32 for number, host in enumerate((ALPHA, BETA, GAMMA))}


@pytest.fixture
def enroller(ca: Path, tmp_path: Path) -> Enroller:
    enroller = Enroller.load(ca, tmp_path / "peers")
    for host in (ALPHA, BETA):
        enrol(enroller, host)
    return enroller


def enrol(
    enroller: Enroller, host: HostName, *, ak: bytes | None = None, ek: bytes | None = None, policy: Policy = POLICY
) -> HostRecord:
    return enroller.enrol(
        policy,
        host,
        key=ec.generate_private_key(ec.SECP256R1()).public_key(),
        ak_public=ak or new_ak(),
        ek_sha256=EK_OF[host] if ek is None else ek,
        tpm=TpmKind.SOFTWARE,
    )


def authorities(ca: Path) -> Authorities:
    return authorities_of(read_ca_certificates(ca / "ca.pem"))


def reloaded(enroller: Enroller, ca: Path) -> PeerRegistry:
    return PeerRegistry.load(enroller.directory, authorities(ca))


def test_ca_and_host_certificate_are_what_tls_needs(ca: Path, tmp_path: Path) -> None:
    issued = issue_host_certificate(ca, ALPHA, tmp_path)
    for path in (ca / "ca.key", issued.key):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    authority = parse_certificate((ca / "ca.pem").read_bytes(), where="ca")
    certificate = parse_certificate(issued.certificate.read_bytes(), where="alpha")
    certificate.verify_directly_issued_by(authority)
    constraints = authority.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert constraints.ca
    assert constraints.path_length == 1  # the CA that comes after it
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [ALPHA]
    assert certificate.not_valid_before_utc < datetime.now(UTC) < certificate.not_valid_after_utc


def test_second_ca_in_the_same_place_is_refused(ca: Path) -> None:
    before = (ca / "ca.key").read_bytes()
    with pytest.raises(BadInput, match="has a CA already"):
        init_coalition(ca, "example")
    assert (ca / "ca.key").read_bytes() == before


def test_missing_or_broken_ca_is_named(tmp_path: Path, ca: Path) -> None:
    with pytest.raises(BadInput, match=r"ca\.pem: cannot be read.*coalition init"):
        issue_host_certificate(tmp_path, ALPHA, tmp_path)
    (tmp_path / "ca.pem").write_bytes((ca / "ca.pem").read_bytes())
    (tmp_path / "ca.key").write_text("not a key")
    with pytest.raises(BadInput, match=r"ca\.key: not a private key") as caught:
        issue_host_certificate(tmp_path, ALPHA, tmp_path)
    assert "not a key" not in str(caught.value)


def test_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "inside").touch()
    with pytest.raises(BackendFailed) as caught:
        write_atomically(tmp_path / "taken", b"private", mode=0o600)
    assert "private" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["taken"]


def test_registry_comes_back_from_its_files(enroller: Enroller, ca: Path) -> None:
    again = reloaded(enroller, ca)
    assert again.records() == enroller.registry.records()
    alpha = again.enrolled(ALPHA)
    assert again.by_certificate(alpha.certificate_sha256) == alpha
    assert alpha.ak_name == TpmPublic.parse(alpha.ak_public).name
    assert (alpha.serial, alpha.ek_sha256, alpha.membership) == (1, EK_OF[ALPHA], Membership.ENROLLED)
    assert again.get(GAMMA) is None
    with pytest.raises(NotTrusted, match="not enrolled"):
        again.enrolled(GAMMA)
    with pytest.raises(NotTrusted, match="not enrolled"):
        again.by_certificate(bytes(32))


def test_expelled_host_stays_out_over_a_restart(enroller: Enroller, ca: Path) -> None:
    certificate = enroller.registry.enrolled(BETA).certificate_sha256
    enroller.expel(BETA, "it was\nstolen")
    for known in (enroller.registry, reloaded(enroller, ca)):
        with pytest.raises(NotTrusted, match="expelled"):
            known.enrolled(BETA)
        with pytest.raises(NotTrusted, match="expelled"):
            known.by_certificate(certificate)
        entry = known.get(BETA)
        assert entry is not None
        assert (entry.expelled, entry.serial, entry.reason) == (True, 2, "it was?stolen")
    with pytest.raises(BadInput, match="not enrolled"):
        enroller.expel(GAMMA, "")
    with pytest.raises(Refused, match="already"):
        enroller.expel(BETA, "")


def test_a_host_that_is_released_is_out_and_its_name_takes_another_tpm(enroller: Enroller, ca: Path) -> None:
    before = enroller.registry.enrolled(BETA)
    enroller.release(BETA, "its board was exchanged")
    for known in (enroller.registry, reloaded(enroller, ca)):
        with pytest.raises(NotTrusted):
            known.enrolled(BETA)
        with pytest.raises(NotTrusted):
            known.by_certificate(before.certificate_sha256)
        entry = known.get(BETA)
        assert entry is not None
        assert (entry.membership, entry.serial, entry.expelled) == (Membership.LEFT, 2, False)
        assert entry.reason == "its board was exchanged"
    with pytest.raises(BadInput, match="not enrolled"):
        enroller.release(GAMMA, "")
    with pytest.raises(Refused, match="out already"):
        enroller.release(BETA, "")
    anew = enroller.enrol(
        POLICY,
        BETA,
        key=ec.generate_private_key(ec.SECP256R1()).public_key(),
        ak_public=new_ak(),
        ek_sha256=EK_OF[GAMMA],
        tpm=TpmKind.SOFTWARE,
    )
    assert (anew.peer.serial, anew.peer.membership) == (3, Membership.ENROLLED)
    assert reloaded(enroller, ca).enrolled(BETA).ak_name != before.ak_name
    enroller.expel(BETA, "")
    with pytest.raises(Refused, match="out already"):
        enroller.release(BETA, "")


def test_what_an_expelled_host_had_is_revoked(enroller: Enroller) -> None:
    """Under no name."""
    beta = enroller.registry.enrolled(BETA)
    enroller.expel(BETA, "")
    before = enroller.registry.records()
    for host, ak, ek, words in (
        (BETA, new_ak(), EK_OF[GAMMA], "was expelled"),
        (GAMMA, beta.ak_public, EK_OF[GAMMA], "same AK"),
        (GAMMA, new_ak(), EK_OF[BETA], "same TPM"),
    ):
        with pytest.raises(Refused, match=words):
            enrol(enroller, host, ak=ak, ek=ek)
    assert enroller.registry.records() == before


def test_one_tpm_as_two_hosts_and_one_host_with_two_tpms_are_refused(enroller: Enroller, ca: Path) -> None:
    alpha = enroller.registry.enrolled(ALPHA)
    for host, ak, ek, words in (
        (GAMMA, alpha.ak_public, EK_OF[GAMMA], "alpha is enrolled with the same AK"),
        (GAMMA, new_ak(), EK_OF[ALPHA], "alpha is enrolled with the same TPM"),
        (ALPHA, new_ak(), EK_OF[ALPHA], "alpha is enrolled with another AK"),
        (ALPHA, alpha.ak_public, EK_OF[GAMMA], "alpha is enrolled with another TPM"),
    ):
        with pytest.raises(Refused, match=words):
            enrol(enroller, host, ak=ak, ek=ek)
    assert [record.peer.host for record in reloaded(enroller, ca).records()] == [ALPHA, BETA]


def test_a_software_tpm_is_enrolled_only_where_the_policy_says_so(enroller: Enroller) -> None:
    with pytest.raises(Refused, match="software"):
        enrol(enroller, GAMMA, policy=world_policy(software=False))


def test_the_same_host_with_its_tpm_is_enrolled_again(enroller: Enroller) -> None:
    before = enroller.registry.enrolled(ALPHA)
    again = enrol(enroller, ALPHA, ak=before.ak_public).peer
    assert (again.serial, again.ak_name) == (2, before.ak_name)
    assert again.certificate_sha256 != before.certificate_sha256


def test_an_older_record_and_another_one_of_the_same_number_are_refused(enroller: Enroller, ca: Path) -> None:
    old = enroller.registry.record(BETA)
    assert old is not None
    other = enroller.registry.record(ALPHA)
    assert other is not None
    enroller.expel(BETA, "")
    with pytest.raises(NotTrusted, match="a newer record"):
        enroller.registry.take(old)
    same_number = sign_host_record(
        replace(other.peer, reason="another"), x509.load_der_x509_certificate(other.certificate), ca_key(ca)
    )
    with pytest.raises(NotTrusted, match="with this number"):
        enroller.registry.take(same_number)
    assert not enroller.registry.take(other)  # known already


def test_a_record_counts_only_with_the_signature_of_the_ca(enroller: Enroller, ca: Path, tmp_path: Path) -> None:
    known = authorities(ca)
    record = enroller.registry.record(ALPHA)
    assert record is not None
    assert read_host_record(record.envelope, known, source="it") == record
    init_coalition(tmp_path / "other", "another")
    with pytest.raises(NotTrusted, match="signature is missing or wrong"):
        read_host_record(record.envelope, authorities(tmp_path / "other"), source="it")
    envelope = json.loads(record.envelope)
    payload = base64.b64decode(envelope["payload"])
    raised = payload.replace(b'"serial":1', b'"serial":9')
    assert raised != payload
    for changed, words in (
        ({**envelope, "payload": base64.b64encode(raised).decode()}, "signature is missing or wrong"),
        ({**envelope, "signatures": []}, "signature is missing or wrong"),
        ({**envelope, "payloadType": LEAVE_TYPE}, "malformed|wrong keys|unknown|missing"),
    ):
        with pytest.raises((NotTrusted, BadInput), match=words):
            read_host_record(json.dumps(changed, indent=2).encode() + b"\n", known, source="it")


@pytest.mark.parametrize("added", ["signatures", "field", "space", "hint", "other hint"])
def test_nobody_who_passes_a_record_on_can_put_something_around_it(enroller: Enroller, ca: Path, added: str) -> None:
    """All others would store it, check it and pass it on; and a host whose own record was too large could not leave."""
    known = authorities(ca)
    key = ec.generate_private_key(ec.SECP256R1())
    joined = enroller.enrol(
        POLICY, GAMMA, key=key.public_key(), ak_public=new_ak(), ek_sha256=EK_OF[GAMMA], tpm=TpmKind.SOFTWARE
    )
    for record in (joined, sign_leave(joined, key, known)):
        envelope = json.loads(record.envelope)
        (own,) = envelope["signatures"]
        other = {"keyid": "", "sig": base64.b64encode(bytes(71)).decode()}
        if added == "signatures":
            envelope["signatures"] = [other] * 40 + [own]
        elif added == "field":
            envelope["x"] = "y" * 20_000
        elif added == "hint":
            envelope["signatures"] = [{**own, "keyid": ""}]
        elif added == "other hint":
            envelope["signatures"] = [{**own, "keyid": "x" * 200}]
        changed = json.dumps(envelope, indent=2).encode() + b"\n" * (9 if added == "space" else 1)
        with pytest.raises((NotTrusted, BadInput)):
            read_host_record(changed, known, source="it")


def test_a_host_leaves_by_its_own_signature_and_comes_back_by_the_cas(enroller: Enroller, ca: Path) -> None:
    known, registry = authorities(ca), enroller.registry
    key = ec.generate_private_key(ec.SECP256R1())
    joined = enroller.enrol(
        POLICY, GAMMA, key=key.public_key(), ak_public=new_ak(), ek_sha256=EK_OF[GAMMA], tpm=TpmKind.SOFTWARE
    )
    with pytest.raises(NotTrusted, match="signature"):
        sign_leave(joined, ec.generate_private_key(ec.SECP256R1()), known)  # somebody else's
    leave = sign_leave(joined, key, known)
    assert registry.take(leave)
    with pytest.raises(NotTrusted, match="has left"):
        registry.enrolled(GAMMA)
    with pytest.raises(NotTrusted, match="a newer record"):
        registry.take(joined)
    with pytest.raises(BadInput):
        sign_leave(leave, key, known)
    # Its TPM is free now, also for another name.
    again = enrol(enroller, GAMMA, ak=new_ak(), ek=EK_OF[GAMMA])
    assert registry.enrolled(GAMMA) == again.peer
    with pytest.raises(NotTrusted, match="a newer record"):
        registry.take(leave)


def test_a_host_that_left_is_not_expelled_once_its_tpm_is_another_hosts(ca: Path, tmp_path: Path) -> None:
    """The registry would have one TPM as revoked and as enrolled, and nobody could load it any more."""
    enroller = Enroller.load(ca, tmp_path / "peers")
    key, ak = ec.generate_private_key(ec.SECP256R1()), new_ak()
    joined = enroller.enrol(
        POLICY, ALPHA, key=key.public_key(), ak_public=ak, ek_sha256=EK_OF[ALPHA], tpm=TpmKind.SOFTWARE
    )
    enroller.take([sign_leave(joined, key, authorities(ca)).envelope], "alpha")
    enrol(enroller, GAMMA, ak=ak, ek=EK_OF[ALPHA])
    with pytest.raises(Refused, match="its TPM is another host's") as caught:
        enroller.expel(ALPHA, "")
    assert caught.value.found == GAMMA
    assert reloaded(enroller, ca).enrolled(GAMMA).ak_public == ak
    enroller.expel(GAMMA, "")
    enroller.expel(ALPHA, "")
    assert all(peer.expelled for peer in reloaded(enroller, ca).hosts())


def test_a_new_ca_signs_everything_anew_and_is_known_by_the_old_ones_word(tmp_path: Path) -> None:
    init_coalition(tmp_path / "ca", "example")
    enroller = Enroller.load(tmp_path / "ca", tmp_path / "peers")
    enrol(enroller, ALPHA)
    before = authorities(tmp_path / "ca")
    old_record = enroller.registry.record(ALPHA)
    assert old_record is not None
    for number in (2, 3):
        old = CoalitionCa.load(tmp_path / "ca")
        (record,) = enroller.rotate(tmp_path / "ca")
        new = CoalitionCa.load(tmp_path / "ca")
        assert new.certificates == (enroller.ca.certificates[0], old.certificates[0])
        assert new.certificates[0].subject.rfc4514_string() == f"CN=Shamon coalition example #{number}"
        assert record.peer == replace(old_record.peer, serial=number)
        assert new.cross is not None
        new.cross.verify_directly_issued_by(old.certificates[0])
    known = dict(before)
    (record,) = enroller.registry.records()
    with pytest.raises(NotTrusted, match="signature"):
        read_host_record(record.envelope, known, source="it")
    (last,) = enroller.cas
    with pytest.raises(NotTrusted, match="no CA that this host knows"):
        successor(last, known, datetime.now(UTC))  # the step between is missing


def test_only_a_ca_in_time_that_an_older_one_has_certified_comes_next(tmp_path: Path) -> None:
    init_coalition(tmp_path / "ca", "example")
    enroller = Enroller.load(tmp_path / "ca", tmp_path / "peers")
    host = enrol(enroller, ALPHA)
    known, now = authorities(tmp_path / "ca"), datetime.now(UTC)
    enroller.rotate(tmp_path / "ca")
    (cross,) = enroller.cas
    name, key = successor(cross, known, now)
    (record,) = enroller.registry.records()
    assert read_host_record(record.envelope, {name: key}, source="it") == record
    for data, when, words in (
        (cross, now + timedelta(days=10_000), "out of date"),
        (host.certificate, now, "no certificate of a CA"),
        (cross[:-1] + bytes([cross[-1] ^ 1]), now, "no CA that this host knows|not the certificate"),
    ):
        with pytest.raises((NotTrusted, BadInput), match=words):
            successor(data, known, when)
    with pytest.raises(BadInput, match="next CA: not a certificate"):
        successor(b"nothing", known, now)


@pytest.mark.parametrize("written", [1, 2, 3])
def test_a_rotation_that_is_cut_short_leaves_one_whole_ca(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    init_coalition(tmp_path / "ca", "example")
    ca, left = CoalitionCa.load(tmp_path / "ca"), [written]

    def write(path: Path, data: bytes, *, mode: int) -> None:
        if not left[0]:
            raise BackendFailed("the power is gone")
        left[0] -= 1
        write_atomically(path, data, mode=mode)

    def never(*_: object) -> None:
        raise BackendFailed("the power is gone")

    with monkeypatch.context() as patch:
        patch.setattr("shamon_host.peer.coalition_ca.write_atomically", write)
        patch.setattr(Path, "replace", never)
        with pytest.raises(BackendFailed, match="power"):
            ca.rotate(tmp_path / "ca")
    found = CoalitionCa.load(tmp_path / "ca")
    assert (found.certificates == ca.certificates) is (written < 3)
    assert (found.cross is None) is (written < 3)
    again = CoalitionCa.load(tmp_path / "ca")
    assert again.key.public_key() == found.key.public_key() == found.certificates[0].public_key()


def test_one_certificate_or_tpm_for_two_hosts_is_refused(enroller: Enroller) -> None:
    alpha, beta = (enroller.registry.enrolled(host) for host in (ALPHA, BETA))
    for change in ("ak_name", "certificate_sha256", "ek_sha256"):
        with pytest.raises(BadInput, match=r"two hosts have the same .*that of alpha"):
            PeerRegistry([alpha, replace(beta, **{change: getattr(alpha, change)})])
    with pytest.raises(BadInput, match="twice"):
        PeerRegistry([alpha, alpha])
    PeerRegistry([replace(alpha, membership=Membership.LEFT), replace(beta, ak_name=alpha.ak_name)])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tpm": "none"}, "not a valid TpmKind"),
        ({"state": "friend"}, "not a valid Membership"),
        ({"tpm": None}, "tpm"),
        ({"extra": 1}, "expected the fields"),
        ({"host": "beta"}, "for another host"),
        ({"host": "../alpha"}, "bad host name"),
        ({"ak": "!"}, "record of alpha.ak"),
        ({"ak": "00" * 90}, "AK of alpha"),
        ({"ek": "00"}, "record of alpha.ek"),
        ({"serial": 0}, "serial"),
        ({"serial": 1 << 60}, "serial"),
        ({"certificate": "00"}, "not a certificate"),
    ],
)
def test_bad_record_says_what_is_wrong(enroller: Enroller, ca: Path, change: dict[str, object], words: str) -> None:
    """Even with the right signature."""
    record = enroller.registry.record(ALPHA)
    assert record is not None
    values = json.loads(base64.b64decode(json.loads(record.envelope)["payload"]))
    signed = sign_record({**values, **change}, ca_key(ca), payload_type=RECORD_TYPE)
    with pytest.raises(BadInput, match=words):
        read_host_record(signed, authorities(ca), source="record of alpha")


@given(st.binary(max_size=300))
def test_any_bytes_are_no_record(data: bytes) -> None:
    for start in (b"", LEAVE_TYPE.encode(), b'{"payloadType": "' + RECORD_TYPE.encode() + b'"'):
        with pytest.raises((BadInput, NotTrusted)):
            read_host_record(start + data, memory_authorities(), source="it")


_AK = new_ak()
_RECORD = memory_record(memory_peer(ALPHA, _AK))


@given(mutated(_RECORD.certificate))
def test_a_record_with_a_changed_certificate_is_read_or_refused_in_words(data: bytes) -> None:
    """Even with the right signature."""
    values = json.loads(base64.b64decode(json.loads(_RECORD.envelope)["payload"]))
    signed = sign_record({**values, "certificate": data.hex()}, memory_key(ALPHA), payload_type=RECORD_TYPE)
    with suppress(BadInput):
        read_host_record(signed, authorities_from_key(memory_key(ALPHA)), source="it")


@given(mutated(memory_next_ca()[0]))
def test_a_changed_certificate_of_the_next_ca_is_refused_in_words(data: bytes) -> None:
    try:
        name, _ = successor(data, memory_authorities(), datetime.now(UTC))
    except (BadInput, NotTrusted):
        return
    assert name == public_text(memory_next_ca()[1])


def test_unreadable_or_huge_files_are_refused(enroller: Enroller, ca: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="registry of hosts cannot be read"):
        PeerRegistry.load(tmp_path / "nowhere", authorities(ca))
    (enroller.directory / "alpha.record").rename(enroller.directory / "gamma.record")
    with pytest.raises(BadInput, match="another name than its host"):
        reloaded(enroller, ca)
    (enroller.directory / "gamma.record").write_bytes(b"#" * 100_000)
    with pytest.raises(BadInput, match=r"gamma\.record: the file is too large"):
        reloaded(enroller, ca)


def test_key_that_is_no_attestation_key_is_refused(enroller: Enroller) -> None:
    public = TpmPublic.parse(new_ak())
    signing = replace(public, attributes=AK_ATTRIBUTES & ~ObjectAttributes.RESTRICTED)
    with pytest.raises(BadInput, match="restricted"):
        enrol(enroller, GAMMA, ak=signing.encode())


def ca_key(ca: Path) -> ec.EllipticCurvePrivateKey:
    return CoalitionCa.load(ca).key


def test_ak_files_of_every_form_give_the_same_public_area(tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    public = TpmPublic.attestation_key(key).encode()
    sized = len(public).to_bytes(2, "big") + public
    pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    path = tmp_path / "ak"
    for content in (public, sized, base64.b64encode(public) + b"\n", base64.b64encode(sized), pem):
        path.write_bytes(content)
        assert read_ak_file(path) == public
    for content in (b"", b"junk", b"-----BEGIN PUBLIC KEY-----\n", public[:-1]):
        path.write_bytes(content)
        with pytest.raises(BadInput, match=str(path)):
            read_ak_file(path)
    with pytest.raises(BadInput, match="cannot be read"):
        read_ak_file(tmp_path / "none")
