"""Quotes: real ones verify, and every change to one is refused for its own reason."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils
from hypothesis import given
from hypothesis import strategies as st

from shamon_host.attestation.ima_log import parse_ima_log
from shamon_host.attestation.pcr import Bank, PcrSelection, composite_digest, replay
from shamon_host.attestation.quote import QuoteError, QuoteFault, VerifiedQuote, load_ak, verify_quote
from shamon_host.attestation.tpm_objects import AK_ATTRIBUTES, ObjectAttributes
from shamon_host.attestation.tpm_public import TpmPublic
from shamon_host.attestation.tpm_structures import ClockInfo, QuoteAttest, SignatureAlgorithm, TpmSignature

_NONCE = bytes(range(32))
_SELECTION = PcrSelection.of({Bank.SHA256: range(15)})
_VALUES = {Bank.SHA256: {pcr: bytes([pcr]) * 32 for pcr in range(24)}}
_KEY = ec.derive_private_key(0x5EED, ec.SECP256R1())
_AK = TpmPublic.attestation_key(_KEY.public_key())
_ATTEST = QuoteAttest(
    qualified_signer=_AK.qualified_name(),
    extra_data=_NONCE,
    clock_info=ClockInfo(clock_ms=5000, reset_count=3, restart_count=0, safe=True),
    firmware_version=1,
    selection=_SELECTION,
    pcr_digest=composite_digest(Bank.SHA256, _SELECTION, _VALUES),
)


def _sign(attest: QuoteAttest, key: ec.EllipticCurvePrivateKey = _KEY) -> tuple[bytes, bytes]:
    data = attest.encode()
    r, s = utils.decode_dss_signature(key.sign(data, ec.ECDSA(hashes.SHA256())))
    return data, TpmSignature.ecdsa(Bank.SHA256, r, s).encode()


_DATA, _SIGNATURE = _sign(_ATTEST)


def _verify(
    data: bytes = _DATA,
    signature: bytes = _SIGNATURE,
    ak: bytes | TpmPublic = _AK,
    *,
    nonce: bytes = _NONCE,
    selection: PcrSelection = _SELECTION,
    values: Mapping[Bank, Mapping[int, bytes]] = _VALUES,
) -> VerifiedQuote:
    return verify_quote(data, signature, ak, nonce, selection, values)


def _pem(key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def test_a_good_quote_gives_what_was_signed_and_no_more() -> None:
    for ak in (_AK, _AK.encode(), _pem(_KEY.public_key())):
        quote = _verify(ak=ak)
        assert quote.clock.reset_count == 3
        assert quote.firmware_version == 1
        assert quote.qualified_signer == _AK.qualified_name()
        assert quote.pcrs == {Bank.SHA256: {pcr: bytes([pcr]) * 32 for pcr in range(15)}}


def test_captured_quote_verifies_at_the_log_position_it_was_taken(vectors: Path) -> None:
    # The log was read after the quote and has two entries more; PCR 10 is the value after 725.
    lines = (vectors / "debian12-selinux.pcrs.txt").read_text().splitlines()[1:]
    values = {int(pcr): bytes.fromhex(value.strip()[2:]) for pcr, value in (line.split(":") for line in lines)}
    entries = parse_ima_log((vectors / "debian12-selinux.ima").read_bytes())[:725]
    values[10] = replay(Bank.SHA256, (entry.pcr_digest(Bank.SHA256) for entry in entries), bytes(32))
    quote = verify_quote(
        (vectors / "debian12-selinux.attest").read_bytes(),
        (vectors / "debian12-selinux.sig").read_bytes(),
        (vectors / "debian12-selinux.ak.pem").read_bytes(),
        bytes.fromhex("00112233445566778899aabbccddeeff"),
        _SELECTION,
        {Bank.SHA256: values},
    )
    assert quote.clock.reset_count == 3


def test_keylime_signature_verifies_and_its_pcrs_are_not_guessed(vectors: Path) -> None:
    # PCR values did not come with it: everything up to the digest is right, and the digest is then refused.
    selection = PcrSelection.of({Bank.SHA256: [15, 16, 22]})
    with pytest.raises(QuoteError) as refused:
        verify_quote(
            (vectors / "keylime-quote.out").read_bytes(),
            (vectors / "keylime-quotesig.out").read_bytes(),
            (vectors / "keylime-akpub.pem").read_bytes(),
            bytes.fromhex("db1db298db6d60e6385b7231743e9c3056a18003"),
            selection,
            {Bank.SHA256: {15: bytes(32), 16: bytes(32), 22: bytes(32)}},
        )
    assert refused.value.fault is QuoteFault.PCR_DIGEST


def test_every_flipped_bit_of_the_signed_structure_is_refused() -> None:
    for position in range(8 * len(_DATA)):
        changed = bytearray(_DATA)
        changed[position // 8] ^= 1 << position % 8
        with pytest.raises(QuoteError):
            _verify(data=bytes(changed))


def test_every_flipped_bit_of_the_signature_is_refused() -> None:
    for position in range(8 * len(_SIGNATURE)):
        changed = bytearray(_SIGNATURE)
        changed[position // 8] ^= 1 << position % 8
        with pytest.raises(QuoteError):
            _verify(signature=bytes(changed))


def test_every_truncation_is_refused() -> None:
    for cut in range(len(_DATA)):
        with pytest.raises(QuoteError):
            _verify(data=_DATA[:cut])
    for cut in range(len(_SIGNATURE)):
        with pytest.raises(QuoteError):
            _verify(signature=_SIGNATURE[:cut])


@given(st.binary(max_size=300), st.binary(max_size=300), st.binary(max_size=300))
def test_arbitrary_bytes_are_refused_in_the_own_error(data: bytes, signature: bytes, ak: bytes) -> None:
    for arguments in ((data, _SIGNATURE, _AK), (_DATA, signature, _AK), (_DATA, _SIGNATURE, ak)):
        if arguments == (_DATA, _SIGNATURE, _AK):
            continue
        with pytest.raises(QuoteError):
            _verify(*arguments)


@pytest.mark.parametrize(
    ("attest", "fault", "reason"),
    [
        (replace(_ATTEST, magic=0x00544347), QuoteFault.MALFORMED, "magic"),
        (replace(_ATTEST, attest_type=0x8017), QuoteFault.MALFORMED, "not a quote"),
        (replace(_ATTEST, extra_data=b"old nonce"), QuoteFault.NONCE, "other qualifying data"),
        (replace(_ATTEST, extra_data=b""), QuoteFault.NONCE, "other qualifying data"),
        (
            replace(_ATTEST, selection=PcrSelection.of({Bank.SHA256: range(10)})),
            QuoteFault.SELECTION,
            "selects other PCRs",
        ),
        (
            replace(_ATTEST, selection=PcrSelection.of({Bank.SHA384: range(15)})),
            QuoteFault.SELECTION,
            "selects other PCRs",
        ),
        (replace(_ATTEST, pcr_digest=bytes(32)), QuoteFault.PCR_DIGEST, "not the quoted ones"),
        (replace(_ATTEST, pcr_digest=b""), QuoteFault.PCR_DIGEST, "not the quoted ones"),
    ],
)
def test_a_validly_signed_structure_is_refused_for_its_own_reason(
    attest: QuoteAttest, fault: QuoteFault, reason: str
) -> None:
    data, signature = _sign(attest)
    with pytest.raises(QuoteError, match=reason) as refused:
        _verify(data=data, signature=signature)
    assert refused.value.fault is fault


def test_changed_or_missing_pcr_values_are_refused() -> None:
    for values in ({**_VALUES[Bank.SHA256], 4: bytes(32)}, {0: bytes(32)}, {**_VALUES[Bank.SHA256], 4: b""}):
        with pytest.raises(QuoteError) as refused:
            _verify(values={Bank.SHA256: values})
        assert refused.value.fault is QuoteFault.PCR_DIGEST
    with pytest.raises(QuoteError, match="PCR 0, bank sha256"):
        _verify(values={})


def test_another_key_is_refused() -> None:
    other = ec.derive_private_key(0xBAD, ec.SECP256R1()).public_key()
    for ak in (TpmPublic.attestation_key(other), _pem(other)):
        with pytest.raises(QuoteError) as refused:
            _verify(ak=ak)
        assert refused.value.fault is QuoteFault.SIGNATURE


def test_sha1_is_refused_in_the_signature_and_in_the_bank() -> None:
    r, s = utils.decode_dss_signature(_KEY.sign(_DATA, ec.ECDSA(hashes.SHA1())))
    with pytest.raises(QuoteError) as refused:
        _verify(signature=TpmSignature.ecdsa(Bank.SHA1, r, s).encode(), ak=_pem(_KEY.public_key()))
    assert refused.value.fault is QuoteFault.SHA1
    selection = PcrSelection.of({Bank.SHA1: range(15)})
    data, signature = _sign(replace(_ATTEST, selection=selection))
    with pytest.raises(QuoteError) as refused:
        _verify(data=data, signature=signature, selection=selection)
    assert refused.value.fault is QuoteFault.SHA1


def test_sha1_and_several_banks_where_the_caller_allows_them() -> None:
    selection = PcrSelection.of({Bank.SHA1: range(3), Bank.SHA384: (0, 10), Bank.SHA256: range(15)})
    values = {bank: {pcr: bytes([pcr]) * bank.digest_size for pcr in range(24)} for bank in Bank}
    attest = replace(_ATTEST, selection=selection, pcr_digest=composite_digest(Bank.SHA1, selection, values))
    data = attest.encode()
    r, s = utils.decode_dss_signature(_KEY.sign(data, ec.ECDSA(hashes.SHA1())))
    arguments = (
        data,
        TpmSignature.ecdsa(Bank.SHA1, r, s).encode(),
        _pem(_KEY.public_key()),
        _NONCE,
        selection,
        values,
    )
    with pytest.raises(QuoteError) as refused:
        verify_quote(*arguments)
    assert refused.value.fault is QuoteFault.SHA1
    quote = verify_quote(*arguments, allow_sha1=True)
    assert {bank: tuple(pcrs) for bank, pcrs in quote.pcrs.items()} == selection.as_mapping()
    assert quote.pcrs[Bank.SHA384][10] == bytes([10]) * 48


def test_a_scheme_other_than_the_keys_is_refused() -> None:
    r, s = utils.decode_dss_signature(_KEY.sign(_DATA, ec.ECDSA(hashes.SHA384())))
    with pytest.raises(QuoteError, match="scheme is not the key's"):
        _verify(signature=TpmSignature.ecdsa(Bank.SHA384, r, s).encode())


def test_an_unrestricted_key_is_no_ak() -> None:
    area = TpmPublic(
        key=_KEY.public_key(),
        attributes=AK_ATTRIBUTES & ~ObjectAttributes.RESTRICTED,
        scheme=SignatureAlgorithm.ECDSA,
        scheme_hash=Bank.SHA256,
    )
    for ak in (area, area.encode()):
        with pytest.raises(QuoteError, match="restricted") as refused:
            _verify(ak=ak)
        assert refused.value.fault is QuoteFault.KEY


@pytest.mark.parametrize("curve", [ec.SECP224R1(), ec.SECP256K1()])
def test_other_curves_are_refused(curve: ec.EllipticCurve) -> None:
    with pytest.raises(QuoteError) as refused:
        load_ak(_pem(ec.generate_private_key(curve).public_key()))
    assert refused.value.fault is QuoteFault.KEY


@pytest.mark.parametrize("algorithm", [SignatureAlgorithm.RSASSA, SignatureAlgorithm.RSAPSS])
def test_rsa_quotes_verify_and_break(algorithm: SignatureAlgorithm) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    digest = hashes.SHA256()
    scheme = (
        padding.PKCS1v15()
        if algorithm is SignatureAlgorithm.RSASSA
        else padding.PSS(mgf=padding.MGF1(digest), salt_length=padding.PSS.DIGEST_LENGTH)
    )
    area = replace(TpmPublic.attestation_key(key.public_key()), scheme=algorithm)
    signature = TpmSignature.rsa(algorithm, Bank.SHA256, key.sign(_DATA, scheme, digest)).encode()
    assert _verify(signature=signature, ak=area.encode()).selection == _SELECTION
    with pytest.raises(QuoteError) as refused:
        _verify(signature=signature[:-1] + bytes([signature[-1] ^ 1]), ak=area)
    assert refused.value.fault is QuoteFault.SIGNATURE
    with pytest.raises(QuoteError) as refused:
        _verify(ak=_pem(key.public_key()))  # an ECDSA signature under an RSA key
    assert refused.value.fault is QuoteFault.SIGNATURE
