"""TPM wire structures: round trips, real bytes, and bytes that are none."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from shamon_host.attestation.pcr import Bank, PcrSelection
from shamon_host.attestation.tpm_objects import AK_ATTRIBUTES, ObjectAttributes
from shamon_host.attestation.tpm_public import TpmPublic
from shamon_host.attestation.tpm_structures import (
    ClockInfo,
    QuoteAttest,
    SignatureAlgorithm,
    TpmFormatError,
    TpmSignature,
)
from tests.examples import examples

_ATTEST = QuoteAttest(
    qualified_signer=b"\x00\x0b" + bytes(32),
    extra_data=b"nonce",
    clock_info=ClockInfo(clock_ms=123456, reset_count=7, restart_count=1, safe=True),
    firmware_version=0x20191023_00163636,
    selection=PcrSelection.of({Bank.SHA256: range(15), Bank.SHA384: [23]}),
    pcr_digest=b"\x11" * 32,
)
_banks = st.sampled_from(list(Bank))
_attests = st.builds(
    QuoteAttest,
    qualified_signer=st.binary(max_size=66),
    extra_data=st.binary(max_size=66),
    clock_info=st.builds(
        ClockInfo,
        clock_ms=st.integers(0, 2**64 - 1),
        reset_count=st.integers(0, 2**32 - 1),
        restart_count=st.integers(0, 2**32 - 1),
        safe=st.booleans(),
    ),
    firmware_version=st.integers(0, 2**64 - 1),
    selection=st.builds(PcrSelection.of, st.dictionaries(_banks, st.sets(st.integers(0, 23)))),
    pcr_digest=st.binary(max_size=64),
)


@pytest.fixture(scope="module")
def ecc_key() -> ec.EllipticCurvePublicKey:
    return ec.generate_private_key(ec.SECP256R1()).public_key()


@pytest.fixture(scope="module")
def rsa_key() -> rsa.RSAPublicKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048).public_key()


@given(_attests)
def test_attest_round_trip(attest: QuoteAttest) -> None:
    assert QuoteAttest.parse(attest.encode()) == attest


def test_real_attests_round_trip_to_the_byte(vectors: Path) -> None:
    for name in ("debian12-selinux.attest", "keylime-quote.out"):
        data = (vectors / name).read_bytes()
        assert QuoteAttest.parse(data).encode() == data


def test_captured_attest_says_what_is_known_of_it(vectors: Path) -> None:
    attest = QuoteAttest.parse((vectors / "debian12-selinux.attest").read_bytes())
    assert attest.extra_data.hex() == "00112233445566778899aabbccddeeff"
    assert attest.selection == PcrSelection.of({Bank.SHA256: range(15)})
    assert attest.clock_info == ClockInfo(clock_ms=0x1B196, reset_count=3, restart_count=0, safe=True)


def test_real_signatures_round_trip_to_the_byte(vectors: Path) -> None:
    for name, algorithm in (
        ("debian12-selinux.sig", SignatureAlgorithm.ECDSA),
        ("keylime-quotesig.out", SignatureAlgorithm.RSASSA),
    ):
        data = (vectors / name).read_bytes()
        signature = TpmSignature.parse(data)
        assert signature.algorithm is algorithm
        assert signature.hash_bank is Bank.SHA256
        assert signature.encode() == data


def test_attest_of_another_kind_is_named() -> None:
    data = bytearray(_ATTEST.encode())
    with pytest.raises(TpmFormatError, match="bad magic"):
        QuoteAttest.parse(b"\xfe" + bytes(data[1:]))
    data[5] = 0x17  # TPM_ST_ATTEST_CERTIFY
    with pytest.raises(TpmFormatError, match="not a quote"):
        QuoteAttest.parse(bytes(data))


def test_every_truncation_and_extension_is_refused() -> None:
    data = _ATTEST.encode()
    for cut in range(len(data)):
        with pytest.raises(TpmFormatError):
            QuoteAttest.parse(data[:cut])
    with pytest.raises(TpmFormatError, match="bytes follow"):
        QuoteAttest.parse(data + b"\0")


def test_a_bank_selected_twice_is_refused() -> None:
    data = _ATTEST.encode()
    once = bytes.fromhex("000b03ff7f00")
    twice = data.replace(bytes.fromhex("00000002") + once, bytes.fromhex("00000003") + once + once)
    assert twice != data
    with pytest.raises(TpmFormatError, match="selected twice"):
        QuoteAttest.parse(twice)


@settings(max_examples=examples(300))
@given(st.binary(max_size=200))
def test_arbitrary_bytes_end_in_the_own_error(data: bytes) -> None:
    prefix = _ATTEST.encode()[:6]
    for parse in (QuoteAttest.parse, TpmSignature.parse, TpmPublic.parse, TpmPublic.parse_sized):
        for candidate in (data, prefix + data):
            try:
                parse(candidate)
            except TpmFormatError:
                continue


@given(st.integers(0, 120), st.integers(1, 255))
def test_changed_public_areas_end_in_the_own_error(position: int, change: int) -> None:
    key = ec.derive_private_key(7, ec.SECP256R1()).public_key()
    data = bytearray(TpmPublic.attestation_key(key).encode())
    data[position % len(data)] ^= change
    try:
        TpmPublic.parse(bytes(data))
    except TpmFormatError:
        return


def test_ecc_public_area_is_the_template_of_the_specification(ecc_key: ec.EllipticCurvePublicKey) -> None:
    area = TpmPublic.attestation_key(ecc_key)
    numbers = ecc_key.public_numbers()
    expected = (
        bytes.fromhex("0023 000b 00050472 0000 0010 0018 000b 0003 0010 0020")
        + numbers.x.to_bytes(32, "big")
        + bytes.fromhex("0020")
        + numbers.y.to_bytes(32, "big")
    )
    assert area.encode() == expected
    assert TpmPublic.parse(expected).encode() == expected
    assert area.name == b"\x00\x0b" + Bank.SHA256.digest(expected)
    assert area.qualified_name() == b"\x00\x0b" + Bank.SHA256.digest(b"\x40\0\0\x01" + area.name)
    assert TpmPublic.parse_sized(len(expected).to_bytes(2, "big") + expected).name == area.name
    area.require_attestation_key()


def test_rsa_public_area_round_trip(rsa_key: rsa.RSAPublicKey) -> None:
    area = TpmPublic.attestation_key(rsa_key)
    data = area.encode()
    assert data.startswith(bytes.fromhex("0001 000b 00050472 0000 0010 0014 000b 0800 00000000 0100"))
    parsed = TpmPublic.parse(data)
    assert parsed.encode() == data
    assert isinstance(parsed.key, rsa.RSAPublicKey)
    assert parsed.key.public_numbers() == rsa_key.public_numbers()


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        (AK_ATTRIBUTES & ~ObjectAttributes.RESTRICTED, "restricted"),
        (AK_ATTRIBUTES & ~ObjectAttributes.FIXED_TPM, "fixed_tpm"),
        (AK_ATTRIBUTES & ~ObjectAttributes.SENSITIVE_DATA_ORIGIN, "sensitive_data_origin"),
        (AK_ATTRIBUTES | ObjectAttributes.DECRYPT, "decrypt"),
    ],
)
def test_a_key_that_is_no_ak_is_refused(
    ecc_key: ec.EllipticCurvePublicKey, attributes: ObjectAttributes, reason: str
) -> None:
    area = TpmPublic(key=ecc_key, attributes=attributes, scheme=SignatureAlgorithm.ECDSA, scheme_hash=Bank.SHA256)
    with pytest.raises(TpmFormatError, match=reason):
        TpmPublic.parse(area.encode()).require_attestation_key()


def test_a_key_without_a_fixed_scheme_is_no_ak(ecc_key: ec.EllipticCurvePublicKey) -> None:
    area = TpmPublic(key=ecc_key, attributes=AK_ATTRIBUTES, scheme=None, scheme_hash=None)
    with pytest.raises(TpmFormatError, match="fix its signing scheme"):
        TpmPublic.parse(area.encode()).require_attestation_key()


def test_a_point_off_the_curve_is_refused(ecc_key: ec.EllipticCurvePublicKey) -> None:
    data = TpmPublic.attestation_key(ecc_key).encode()
    with pytest.raises(TpmFormatError, match="not on the curve"):
        TpmPublic.parse(data[:-1] + bytes([data[-1] ^ 1]))
