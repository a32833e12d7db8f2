"""EK public areas and certificates: what is taken for an EK, and whose TPM is believed."""

from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ObjectIdentifier
from hypothesis import given
from hypothesis import strategies as st

from shamon_host.attestation.ek import EkKind, EkPublic
from shamon_host.attestation.ek_certificate import MAX_DEPTH, load_roots, verify_ek_certificate
from shamon_host.attestation.tpm_public import TpmPublic
from shamon_host.attestation.tpm_structures import TpmFormatError
from shamon_host.domain.errors import BadInput, NotTrusted
from tests.unit.attestation.ek_world import NOW, Authority, mutated

_ECC = EkPublic.of(ec.generate_private_key(ec.SECP256R1()).public_key())
_RSA = EkPublic.of(rsa.generate_private_key(public_exponent=65537, key_size=2048).public_key())
_MAKER = Authority(text="maker")
_BETWEEN = Authority(text="between", issuer=_MAKER, path_length=0)
_CERTIFIED = _BETWEEN.certify(_ECC)


@pytest.mark.parametrize(("ek", "kind"), [(_ECC, EkKind.ECC), (_RSA, EkKind.RSA)])
def test_an_ek_is_its_template_with_a_key(ek: EkPublic, kind: EkKind) -> None:
    public, template = ek.encode(), kind.template()
    assert ek.kind is kind
    assert EkPublic.parse(public) == ek
    assert len(public) == len(template)
    shared = len(public) - (256 if kind is EkKind.RSA else 2 * 32 + 2)
    assert public[:shared] == template[:shared]
    assert len(ek.sha256) == 32


def test_the_templates_are_the_tcgs() -> None:
    """Their first bytes as in the profile's tables (B.3.3, B.3.4), written down apart from the code."""
    policy = "0020837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa"
    assert (
        EkKind.RSA.template().hex()
        == "0001000b000300b2" + policy + "000600800043" + "0010" + "0800" + "00000000" + ("0100" + "00" * 256)
    )
    assert (
        EkKind.ECC.template().hex()
        == "0023000b000300b2" + policy + "000600800043" + "0010" + "0003" + "0010" + ("0020" + "00" * 32) * 2
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: data[:2] + b"\x00\x0c" + data[4:], "nameAlg"),
        (lambda data: data[:4] + b"\x00\x03\x00\xb0" + data[8:], "objectAttributes"),  # not fixedTPM
        (lambda data: data[:4] + b"\x00\x07\x00\xb2" + data[8:], "objectAttributes"),  # it also signs
        (lambda data: data[:10] + bytes(32) + data[42:], "authPolicy"),
        (lambda data: data[:8] + b"\x00\x00" + data[42:], "authPolicy"),
        (lambda data: data[:44] + b"\x01\x00" + data[46:], "symmetric"),
        (lambda data: data[:-1], "does not fit"),
        (lambda data: data + b"\0", "bytes follow"),
        (lambda data: data[:-1] + bytes([data[-1] ^ 1]), "on the curve"),
        (lambda _: TpmPublic.attestation_key(_ECC.key).encode(), "objectAttributes"),
    ],
)
def test_what_is_no_ek_is_refused(change: Callable[[bytes], bytes], words: str) -> None:
    with pytest.raises(TpmFormatError, match=words):
        EkPublic.parse(change(_ECC.encode()))


def test_keys_of_other_sizes_are_no_eks() -> None:
    for key in (
        ec.generate_private_key(ec.SECP384R1()).public_key(),
        rsa.generate_private_key(public_exponent=65537, key_size=3072).public_key(),
        "no key",
    ):
        with pytest.raises(TpmFormatError, match="not the key of an EK"):
            EkPublic.of(key)


@given(st.binary(max_size=400))
def test_any_bytes_are_an_ek_or_an_error(data: bytes) -> None:
    for start in (b"", _ECC.encode()[:48], _RSA.encode()[:48]):
        with suppress(TpmFormatError):
            assert EkPublic.parse(start + data).encode() == start + data


@pytest.mark.parametrize("ek", [_ECC, _RSA])
def test_a_chain_over_an_intermediate_is_proven(ek: EkPublic) -> None:
    certificate = _BETWEEN.certify(ek)
    chain = verify_ek_certificate(certificate, ek, [_BETWEEN.certificate, _MAKER.certificate], NOW)
    assert [each.subject for each in chain[1:]] == [_BETWEEN.certificate.subject, _MAKER.certificate.subject]
    filled = certificate + b"\xff" * 100  # as in an NV index that is larger
    assert verify_ek_certificate(filled, ek, [_MAKER.certificate, _BETWEEN.certificate], NOW) == chain


def test_a_certificate_without_usages_is_taken() -> None:
    verify_ek_certificate(_MAKER.certify(_ECC, extended=None), _ECC, [_MAKER.certificate], NOW)


def test_a_key_that_is_said_to_be_for_oaep_alone_is_read_too() -> None:
    certificate = _BETWEEN.certify_for_oaep(_RSA)
    trusted = [_BETWEEN.certificate, _MAKER.certificate]
    assert len(verify_ek_certificate(certificate, _RSA, trusted, NOW)) == 3
    other = EkPublic.of(rsa.generate_private_key(public_exponent=65537, key_size=2048).public_key())
    with pytest.raises(NotTrusted, match="another key than the TPM's EK"):
        verify_ek_certificate(certificate, other, trusted, NOW)


@given(mutated(_BETWEEN.certify_for_oaep(_RSA)))
def test_a_changed_certificate_for_oaep_is_refused_in_words(data: bytes) -> None:
    with suppress(NotTrusted):
        verify_ek_certificate(data, _RSA, [_BETWEEN.certificate, _MAKER.certificate], NOW)


@pytest.mark.parametrize(
    ("certificate", "trusted", "words"),
    [
        (_MAKER.certify(_RSA), [_MAKER], "another key than the TPM's EK"),
        (_MAKER.certify(_ECC), [Authority(text="another")], "no certificate of that name"),
        (_MAKER.certify(_ECC), [Authority(text="maker")], "did not sign"),  # another root of the same name
        (_BETWEEN.certify(_ECC), [_BETWEEN], "no chain to a root"),  # an intermediate alone proves nothing
        (_BETWEEN.certify(_ECC), [_MAKER], "no chain to a root"),
        (_MAKER.certify(_ECC, valid=(timedelta(days=-9), timedelta(days=-1))), [_MAKER], "it is valid from"),
        (_MAKER.certify(_ECC, valid=(timedelta(days=1), timedelta(days=9))), [_MAKER], "it is valid from"),
        (_MAKER.certify(_ECC, ca=True), [_MAKER], "certificate of a CA"),
        (_MAKER.certify(_ECC, encrypts=False), [_MAKER], "keyUsage"),
        (_MAKER.certify(_ECC, extended=ObjectIdentifier("2.23.133.8.3")), [_MAKER], "not for an EK"),
        (_MAKER.certify(_ECC, extra=[x509.TLSFeature([x509.TLSFeatureType.status_request])]), [_MAKER], "understood"),
        (b"", [_MAKER], "cannot be read"),
        (b"\x30\x82\xff\xff" + bytes(100), [_MAKER], "cannot be read"),
        (b"\x30\x82" + bytes(10_000), [_MAKER], "cannot be read"),
    ],
)
def test_what_is_not_proven_is_refused_with_the_reason(
    certificate: bytes, trusted: list[Authority], words: str
) -> None:
    with pytest.raises(NotTrusted, match=words):
        verify_ek_certificate(certificate, _ECC, [each.certificate for each in trusted], NOW)


@pytest.mark.parametrize(
    ("authority", "words"),
    [
        (Authority(text="no CA", issuer=_MAKER, ca=False), "basicConstraints"),
        (Authority(text="no signer", issuer=_MAKER, may_sign=False), "keyUsage"),
        (Authority(text="over", issuer=_MAKER, valid=(timedelta(days=-9), timedelta(days=-1))), "valid from"),
        (
            Authority(text="strange", issuer=_MAKER, extra=[x509.TLSFeature([x509.TLSFeatureType.status_request])]),
            "not understood",
        ),
        (Authority(text="too deep", issuer=_BETWEEN), "path length is 0"),
    ],
)
def test_a_ca_that_may_not_issue_breaks_the_chain(authority: Authority, words: str) -> None:
    trusted = [each.certificate for each in (authority, _BETWEEN, _MAKER)]
    with pytest.raises(NotTrusted, match=words):
        verify_ek_certificate(authority.certify(_ECC), _ECC, trusted, NOW)


def test_a_chain_has_a_longest_length_and_a_circle_ends() -> None:
    chain = [Authority(text="0")]
    for number in range(1, MAX_DEPTH + 1):
        chain.append(Authority(text=str(number), issuer=chain[-1]))
    trusted = [each.certificate for each in chain]
    verify_ek_certificate(chain[-2].certify(_ECC), _ECC, trusted, NOW)
    with pytest.raises(NotTrusted, match="longer than"):
        verify_ek_certificate(chain[-1].certify(_ECC), _ECC, trusted, NOW)
    one, other = Authority(text="one", issuer=_MAKER), Authority(text="other", issuer=_MAKER)
    circle = [
        Authority(text="one", issuer=other, key=one.key).certificate,
        Authority(text="other", issuer=one, key=other.key).certificate,
    ]
    with pytest.raises(NotTrusted, match="no chain"):
        verify_ek_certificate(one.certify(_ECC), _ECC, circle, NOW)


@given(mutated(_CERTIFIED))
def test_a_changed_certificate_is_refused_in_words(data: bytes) -> None:
    trusted = [_BETWEEN.certificate, _MAKER.certificate]
    try:
        chain = verify_ek_certificate(data, _ECC, trusted, NOW)
    except NotTrusted:
        return
    assert chain[0].public_bytes(Encoding.DER) == data[: len(chain[0].public_bytes(Encoding.DER))]  # filling, at most
    assert chain[0] == verify_ek_certificate(_CERTIFIED, _ECC, trusted, NOW)[0]


def test_a_folder_of_roots_has_pem_and_der_and_nothing_else(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="0 files"):
        load_roots(tmp_path)
    (tmp_path / "both.pem").write_bytes(
        _MAKER.certificate.public_bytes(Encoding.PEM) + _BETWEEN.certificate.public_bytes(Encoding.PEM)
    )
    (tmp_path / "maker.der").write_bytes(_MAKER.certificate.public_bytes(Encoding.DER))
    assert load_roots(tmp_path) == (_MAKER.certificate, _BETWEEN.certificate, _MAKER.certificate)
    (tmp_path / "note.txt").write_text("not one")
    with pytest.raises(BadInput, match=r"note\.txt: not a certificate"):
        load_roots(tmp_path)
    with pytest.raises(BadInput, match="cannot be read"):
        load_roots(tmp_path / "none")
