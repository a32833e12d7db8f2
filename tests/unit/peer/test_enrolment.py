"""The registry of hosts and the coalition's CA: what is accepted, what is refused and how it says so."""

import base64
import stat
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from shamon_host.attestation.tpm_public import AK_ATTRIBUTES, ObjectAttributes, TpmPublic
from shamon_host.domain.errors import BackendFailed, BadInput, NotTrusted
from shamon_host.domain.results import TpmKind
from shamon_host.peer.coalition_ca import init_coalition, issue_host_certificate, parse_certificate, write_atomically
from shamon_host.peer.enrolment import PeerRegistry, enrolled_peer, read_ak_file
from shamon_host.peer.ports import EnrolledPeer
from tests.unit.peer.handshake_world import ALPHA, BETA, GAMMA


def new_ak() -> bytes:
    return TpmPublic.attestation_key(ec.generate_private_key(ec.SECP256R1()).public_key()).encode()


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("coalition") / "ca"
    init_coalition(directory, "example")
    return directory


@pytest.fixture(scope="module")
def pems(ca: Path) -> dict[str, bytes]:
    return {
        host: issue_host_certificate(ca, host, ca.parent / "hosts").certificate.read_bytes() for host in (ALPHA, BETA)
    }


@pytest.fixture
def registry(tmp_path: Path, pems: dict[str, bytes]) -> PeerRegistry:
    registry = PeerRegistry(directory=tmp_path)
    for host in (ALPHA, BETA):
        registry.enrol(entry_of(pems, host), pems[host])
    return registry


def entry_of(pems: dict[str, bytes], host: str) -> EnrolledPeer:
    certificate = parse_certificate(pems[host], where=host)
    return enrolled_peer(ALPHA if host == ALPHA else BETA, certificate, new_ak(), TpmKind.SOFTWARE)


def test_ca_and_host_certificate_are_what_tls_needs(ca: Path, tmp_path: Path) -> None:
    issued = issue_host_certificate(ca, ALPHA, tmp_path)
    for path in (ca / "ca.key", issued.key):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    authority = parse_certificate((ca / "ca.pem").read_bytes(), where="ca")
    certificate = parse_certificate(issued.certificate.read_bytes(), where="alpha")
    certificate.verify_directly_issued_by(authority)
    constraints = authority.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert constraints.ca
    assert constraints.path_length == 0
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


def test_registry_comes_back_from_its_files(registry: PeerRegistry, tmp_path: Path) -> None:
    again = PeerRegistry.load(tmp_path)
    assert again.hosts() == registry.hosts()
    alpha = again.enrolled(ALPHA)
    assert again.by_certificate(alpha.certificate_sha256) == alpha
    assert alpha.ak_name == TpmPublic.parse(alpha.ak_public).name
    assert again.get(GAMMA) is None
    with pytest.raises(NotTrusted, match="not enrolled"):
        again.enrolled(GAMMA)
    with pytest.raises(NotTrusted, match="not enrolled"):
        again.by_certificate(bytes(32))


def test_expelled_host_stays_out_over_a_restart(registry: PeerRegistry, tmp_path: Path) -> None:
    certificate = registry.enrolled(BETA).certificate_sha256
    registry.expel(BETA)
    for known in (registry, PeerRegistry.load(tmp_path)):
        with pytest.raises(NotTrusted, match="expelled"):
            known.enrolled(BETA)
        with pytest.raises(NotTrusted, match="expelled"):
            known.by_certificate(certificate)
        entry = known.get(BETA)
        assert entry is not None
        assert entry.expelled
    with pytest.raises(BadInput, match="not enrolled"):
        registry.expel(GAMMA)


def test_reload_sees_new_files_or_changes_nothing(registry: PeerRegistry, tmp_path: Path) -> None:
    other = PeerRegistry.load(tmp_path)
    other.expel(BETA)
    registry.reload()
    with pytest.raises(NotTrusted):
        registry.enrolled(BETA)
    (tmp_path / "gamma.toml").write_text("nonsense")
    with pytest.raises(BadInput, match=r"gamma\.toml"):
        registry.reload()
    assert registry.enrolled(ALPHA) == other.enrolled(ALPHA)


def test_one_certificate_or_ak_for_two_hosts_is_refused(registry: PeerRegistry, pems: dict[str, bytes]) -> None:
    alpha, beta = registry.enrolled(ALPHA), registry.enrolled(BETA)
    with pytest.raises(BadInput, match="same AK"):
        PeerRegistry([alpha, replace(beta, ak_name=alpha.ak_name)])
    with pytest.raises(BadInput, match="same certificate"):
        PeerRegistry([alpha, replace(beta, certificate_sha256=alpha.certificate_sha256)])
    with pytest.raises(BadInput, match="twice"):
        PeerRegistry([alpha, alpha])
    with pytest.raises(BadInput, match="same AK"):
        registry.enrol(replace(beta, ak_name=alpha.ak_name), pems[BETA])
    assert registry.enrolled(BETA) == beta


def test_files_of_two_hosts_with_one_ak_are_refused(registry: PeerRegistry, tmp_path: Path) -> None:
    alpha = registry.enrolled(ALPHA)
    text = (tmp_path / "beta.toml").read_text()
    start = text.index("ak_public")
    end = text.index("\n", start)
    shared = base64.b64encode(alpha.ak_public).decode()
    (tmp_path / "beta.toml").write_text(text[:start] + f'ak_public = "{shared}"' + text[end:])
    with pytest.raises(BadInput, match=r"beta\.toml: two hosts have the same AK; .* found that of alpha"):
        PeerRegistry.load(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('tpm = "software"', 'tpm = "none"', "tpm: unknown kind of TPM"),
        ('tpm = "software"', "", "no tpm"),
        ("expelled = false", 'expelled = "no"', "expelled: wrong type"),
        ("expelled = false", "expelled = 0", "expelled: wrong type"),
        ("expelled = false", "expelled = false\nextra = 1", "unknown extra"),
        ('host = "alpha"', 'host = "beta"', "another name than its host"),
        ('host = "alpha"', 'host = "../alpha"', "bad host name"),
        ('ak_public = "', 'ak_public = "!', "ak_public: not base64"),
        ('ak_public = "', 'ak_public = "AAAA', "AK of alpha"),
        ("-----BEGIN CERTIFICATE-----", "", "certificate: not a certificate"),
        ('host = "alpha"', "host = ", "not a TOML file"),
    ],
)
def test_bad_entry_says_file_and_key(registry: PeerRegistry, tmp_path: Path, old: str, new: str, words: str) -> None:
    path = tmp_path / "alpha.toml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(BadInput, match=words) as caught:
        PeerRegistry.load(tmp_path)
    assert "alpha.toml" in str(caught.value) or "host name" in words


def test_unreadable_or_huge_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="registry of hosts cannot be read"):
        PeerRegistry.load(tmp_path / "nowhere")
    (tmp_path / "alpha.toml").write_bytes(b"#" * 100_000)
    with pytest.raises(BadInput, match=r"alpha\.toml: the file is too large"):
        PeerRegistry.load(tmp_path)


def test_certificate_of_another_host_is_refused(pems: dict[str, bytes]) -> None:
    certificate = parse_certificate(pems[ALPHA], where="alpha")
    with pytest.raises(BadInput, match="for another host"):
        enrolled_peer(BETA, certificate, new_ak(), TpmKind.HARDWARE)


def test_key_that_is_no_attestation_key_is_refused(pems: dict[str, bytes]) -> None:
    public = TpmPublic.parse(new_ak())
    signing = replace(public, attributes=AK_ATTRIBUTES & ~ObjectAttributes.RESTRICTED)
    with pytest.raises(BadInput, match="restricted"):
        enrolled_peer(ALPHA, parse_certificate(pems[ALPHA], where="alpha"), signing.encode(), TpmKind.HARDWARE)


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
