"""`shamon inspect quote` and `eventlog`: files of other machines and other tools, good and bad."""

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils

from shamon_host.attestation.event_log import Event, EventType, encode_event_log
from shamon_host.attestation.pcr import Bank, PcrSelection
from shamon_host.attestation.tpm_objects import AK_ATTRIBUTES, ObjectAttributes
from shamon_host.attestation.tpm_public import TpmPublic
from shamon_host.attestation.tpm_structures import (
    ClockInfo,
    QuoteAttest,
    SignatureAlgorithm,
    TpmSignature,
    sized_buffer,
)
from shamon_host.cli.main import main

_NONCE = bytes(range(20))
_ATTEST = QuoteAttest(
    qualified_signer=b"\0\x0b" + bytes(32),
    extra_data=_NONCE,
    clock_info=ClockInfo(clock_ms=5000, reset_count=3, restart_count=1, safe=True),
    firmware_version=0x20190001,
    selection=PcrSelection.of({Bank.SHA256: (0, 10), Bank.SHA384: (7,)}),
    pcr_digest=bytes(32),
)
_BANK_HASHES: dict[Bank, hashes.HashAlgorithm] = {
    Bank.SHA1: hashes.SHA1(),
    Bank.SHA256: hashes.SHA256(),
    Bank.SHA384: hashes.SHA384(),
    Bank.SHA512: hashes.SHA512(),
}
_EC_KEYS = {curve.name: ec.generate_private_key(curve) for curve in (ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1())}
_RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)

Inspect = Callable[..., tuple[int, Any]]


@pytest.fixture
def inspect(capsys: pytest.CaptureFixture[str]) -> Inspect:
    """Runs `shamon inspect ... --json`; the exit code and what was printed."""

    def run(*arguments: object) -> tuple[int, Any]:
        code = main(["inspect", *(str(argument) for argument in arguments), "--json"])
        return code, json.loads(capsys.readouterr().out)

    return run


@pytest.fixture
def files(tmp_path: Path) -> Callable[..., list[object]]:
    """Writes the three files of a quote and gives the arguments that name them."""

    def write(attest: bytes, signature: bytes, public: bytes) -> list[object]:
        arguments: list[object] = []
        for name, data in (("attest", attest), ("signature", signature), ("public", public)):
            path = tmp_path / name
            path.write_bytes(data)
            arguments += [f"--{name}", path]
        return arguments

    return write


def _pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def _ecdsa(key: ec.EllipticCurvePrivateKey, data: bytes, bank: Bank) -> tuple[bytes, TpmSignature]:
    der = key.sign(data, ec.ECDSA(_BANK_HASHES[bank]))
    r, s = utils.decode_dss_signature(der)
    return der, TpmSignature.ecdsa(bank, r, s, coordinate_size=(key.key_size + 7) // 8)


def _rsa(data: bytes, scheme: SignatureAlgorithm, bank: Bank) -> bytes:
    algorithm = _BANK_HASHES[bank]
    if scheme is SignatureAlgorithm.RSASSA:
        return _RSA_KEY.sign(data, padding.PKCS1v15(), algorithm)
    return _RSA_KEY.sign(data, padding.PSS(padding.MGF1(algorithm), padding.PSS.DIGEST_LENGTH), algorithm)


def test_a_quote_of_another_project(inspect: Inspect, vectors: Path) -> None:
    code, said = inspect(
        "quote",
        *("--attest", vectors / "keylime-quote.out"),
        *("--signature", vectors / "keylime-quotesig.out"),
        *("--public", vectors / "keylime-akpub.pem"),
        *("--nonce", "DB1DB298db6d60e6385b7231743e9c3056a18003"),
    )
    assert code == 0
    assert said["valid"] is True
    assert said["nonce"] == "db1db298db6d60e6385b7231743e9c3056a18003"
    assert said["pcr_selection"] == {"sha256": [15, 16, 22]}
    assert said["signature"] == {"algorithm": "rsassa", "hash": "sha256"}


def test_a_captured_quote(inspect: Inspect, vectors: Path) -> None:
    arguments = [
        "quote",
        *("--attest", vectors / "debian12-selinux.attest"),
        *("--signature", vectors / "debian12-selinux.sig"),
        *("--public", vectors / "debian12-selinux.ak.pem"),
    ]
    code, said = inspect(*arguments, "--nonce", "00112233445566778899aabbccddeeff")
    assert (code, said["valid"]) == (0, True)
    assert said["pcr_selection"] == {"sha256": list(range(15))}
    code, said = inspect(*arguments, "--nonce", "00")
    assert (code, said["valid"]) == (3, False)
    assert "other qualifying data" in said["reason"]


@pytest.mark.parametrize("curve", list(_EC_KEYS))
@pytest.mark.parametrize("bank", [Bank.SHA256, Bank.SHA384, Bank.SHA512])
def test_ecdsa_in_every_form(inspect: Inspect, files: Any, curve: str, bank: Bank) -> None:
    key = _EC_KEYS[curve]
    data = _ATTEST.encode()
    der, structure = _ecdsa(key, data, bank)
    area = replace(TpmPublic.attestation_key(key.public_key()), scheme_hash=bank).encode()
    for attest, signature, public in (
        (data, structure.encode(), _pem(key)),
        (sized_buffer(data), der, _pem(key)),
        (data, b"".join(structure.parts), area),
        (sized_buffer(data), structure.encode(), sized_buffer(area)),
        (data, der, sized_buffer(area)),
    ):
        code, said = inspect("quote", *files(attest, signature, public), "--nonce", _NONCE.hex())
        assert (code, said["valid"]) == (0, True)
        assert said["signature"] == {"algorithm": "ecdsa", "hash": bank.value}
        assert said["pcr_selection"] == {"sha256": [0, 10], "sha384": [7]}
        assert said["clock"] == {"clock": 5000, "reset_count": 3, "restart_count": 1, "safe": True}


@pytest.mark.parametrize("scheme", [SignatureAlgorithm.RSASSA, SignatureAlgorithm.RSAPSS])
@pytest.mark.parametrize("bank", [Bank.SHA256, Bank.SHA384, Bank.SHA512])
def test_rsa_in_every_form(inspect: Inspect, files: Any, scheme: SignatureAlgorithm, bank: Bank) -> None:
    data = _ATTEST.encode()
    raw = _rsa(data, scheme, bank)
    area = replace(TpmPublic.attestation_key(_RSA_KEY.public_key()), scheme=scheme, scheme_hash=bank).encode()
    for signature in (TpmSignature.rsa(scheme, bank, raw).encode(), raw):
        for public in (_pem(_RSA_KEY), sized_buffer(area)):
            code, said = inspect("quote", *files(data, signature, public))
            assert (code, said["valid"]) == (0, True)
            assert said["signature"] == {"algorithm": scheme.name.lower(), "hash": bank.value}


def test_a_public_area_fixes_scheme_and_hash(inspect: Inspect, files: Any) -> None:
    data = _ATTEST.encode()
    area = TpmPublic.attestation_key(_RSA_KEY.public_key()).encode()
    code, said = inspect("quote", *files(data, _rsa(data, SignatureAlgorithm.RSAPSS, Bank.SHA256), area))
    assert (code, said["valid"]) == (3, False)
    code, said = inspect("quote", *files(data, _rsa(data, SignatureAlgorithm.RSASSA, Bank.SHA384), area))
    assert (code, said["valid"]) == (3, False)


def test_sha1_only_if_asked_for(inspect: Inspect, files: Any) -> None:
    key = _EC_KEYS["secp256r1"]
    data = _ATTEST.encode()
    arguments = files(data, _ecdsa(key, data, Bank.SHA1)[1].encode(), _pem(key))
    code, said = inspect("quote", *arguments)
    assert (code, said["valid"]) == (3, False)
    assert "SHA-1" in said["reason"]
    code, said = inspect("quote", *arguments, "--allow-sha1")
    assert (code, said["valid"]) == (0, True)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        (replace(_ATTEST, magic=0xFF544348), "not made by a TPM"),
        (replace(_ATTEST, attest_type=0x8017), "not a quote"),
        (replace(_ATTEST, extra_data=b"old"), "other qualifying data"),
    ],
)
def test_what_no_tpm_quoted(inspect: Inspect, files: Any, changed: QuoteAttest, reason: str) -> None:
    key = _EC_KEYS["secp256r1"]
    data = changed.encode()
    code, said = inspect("quote", *files(data, _ecdsa(key, data, Bank.SHA256)[0], _pem(key)), "--nonce", _NONCE.hex())
    assert (code, said["valid"]) == (3, False)
    assert reason in said["reason"]


def test_a_changed_quote_and_another_key(inspect: Inspect, files: Any) -> None:
    key = _EC_KEYS["secp256r1"]
    data = _ATTEST.encode()
    der, structure = _ecdsa(key, data, Bank.SHA256)
    changed = replace(_ATTEST, pcr_digest=b"\1" + bytes(31)).encode()
    for signature in (der, structure.encode()):
        code, said = inspect("quote", *files(changed, signature, _pem(key)))
        assert (code, said["valid"], said["signature"]) == (3, False, None)
        code, said = inspect("quote", *files(data, signature, _pem(ec.generate_private_key(ec.SECP256R1()))))
        assert (code, said["valid"]) == (3, False)


def test_a_key_that_signs_anything(inspect: Inspect, files: Any) -> None:
    key = _EC_KEYS["secp256r1"]
    data = _ATTEST.encode()
    area = replace(TpmPublic.attestation_key(key.public_key()), attributes=AK_ATTRIBUTES & ~ObjectAttributes.RESTRICTED)
    code, said = inspect("quote", *files(data, _ecdsa(key, data, Bank.SHA256)[0], area.encode()))
    assert (code, said["valid"]) == (3, False)
    assert "restricted" in said["reason"]


@pytest.mark.parametrize("wrong", ["attest", "signature", "public"])
@pytest.mark.parametrize(
    "content", [b"", b"nonsense", bytes(300), b"-----BEGIN NONSENSE-----\n", b"\0\x18\0\x0b\xff\xff"]
)
def test_no_such_file(inspect: Inspect, files: Any, wrong: str, content: bytes, tmp_path: Path) -> None:
    key = _EC_KEYS["secp256r1"]
    data = _ATTEST.encode()
    arguments = files(data, _ecdsa(key, data, Bank.SHA256)[1].encode(), _pem(key))
    (tmp_path / wrong).write_bytes(content)
    code, said = inspect("quote", *arguments)
    assert code == 2
    assert str(tmp_path / wrong) in said["error"]["where"]
    (tmp_path / wrong).unlink()
    code, said = inspect("quote", *arguments)
    assert code == 2


def test_a_nonce_that_is_none(inspect: Inspect, files: Any) -> None:
    code, said = inspect("quote", *files(b"", b"", b""), "--nonce", "xyz")
    assert code == 2
    assert said["error"]["where"] == "--nonce"


def test_quotes_in_words(files: Any, capsys: pytest.CaptureFixture[str]) -> None:
    key = _EC_KEYS["secp256r1"]
    data = _ATTEST.encode()
    arguments = [str(item) for item in files(data, _ecdsa(key, data, Bank.SHA256)[0], _pem(key))]
    assert main(["inspect", "quote", *arguments]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("valid: a quote by this key (its nonce was not compared: give --nonce)\n")
    assert "PCRs: sha256:0,10+sha384:7\n" in shown
    assert main(["inspect", "quote", *arguments, "--nonce", "00"]) == 3
    assert capsys.readouterr().out.startswith("NOT valid: ")


# Event logs


def test_event_logs_of_other_machines(inspect: Inspect, vectors: Path, tmp_path: Path) -> None:
    code, said = inspect("eventlog", vectors / "keylime-secureboot.tcg")
    assert (code, said["format"], said["events"], said["algorithms"]) == (0, "crypto-agile", 99, ["sha256"])
    code, said = inspect("eventlog", vectors / "go-tpm-tools-rhel8.tcg")
    assert said["pcrs"]["sha256"]["4"] == "758a3d35f1b0ff5b135dacd07db0c8132c0ac665d944090d4bf96e66447a245c"
    hcrtm = tmp_path / "hcrtm.tcg"
    hcrtm.write_bytes(base64.b64decode((vectors / "tpm2-tss-hcrtm.tcg.b64").read_bytes()))
    code, said = inspect("eventlog", hcrtm)
    assert (code, said["startup_locality"]) == (0, 4)
    assert said["pcrs"]["sha1"]["0"] == "15f4e6ca457d1af6bc49511a93ba3500ad69acc5"
    code, said = inspect("eventlog", vectors / "keylime-bogus.tcg")
    assert code == 2
    assert "keylime-bogus.tcg" in said["error"]["where"]


@pytest.mark.parametrize("last", [7, 9])
def test_boot_aggregates_of_other_machines(inspect: Inspect, vectors: Path, last: int) -> None:
    _, said = inspect("eventlog", vectors / f"ima-evm-pcrs0-{last}.tcg")
    first = (vectors / f"ima-evm-pcrs0-{last}.ascii").read_text().split()
    assert first[4] == "boot_aggregate"
    algorithm, _, digest = first[3].partition(":")
    assert said["boot_aggregate"][f"0-{last}"][algorithm] == digest
    assert said["boot_aggregate"][f"0-{16 - last}"][algorithm] != digest


def test_secure_boot_variables_in_words(vectors: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "eventlog", str(vectors / "keylime-secureboot.tcg")]) == 0
    shown = capsys.readouterr().out
    assert "variable SecureBoot: on\n" in shown
    assert "variable dbx: 371 digests\n" in shown
    assert "variable db, certificate CN=Microsoft Corporation UEFI CA 2011" in shown
    assert "variable PK: 1 certificate (" in shown
    # GRUB measures a command without the word in front of it; the path of an image is only what the log says.
    assert "grub_cmd: insmod blscfg\n" in shown
    assert "shimx64.efi (959848 bytes) [text not measured]\n" in shown


def test_an_old_log_of_sha1_alone(inspect: Inspect, tmp_path: Path) -> None:
    digest = Bank.SHA1.digest(bytes(4))
    event = (7).to_bytes(4, "little") + EventType.EV_SEPARATOR.to_bytes(4, "little") + digest + b"\4\0\0\0" + bytes(4)
    path = tmp_path / "log"
    path.write_bytes(event)
    code, said = inspect("eventlog", path)
    assert (code, said["format"], said["events"], said["algorithms"]) == (0, "sha1", 1, ["sha1"])
    assert said["pcrs"]["sha1"]["7"] == Bank.SHA1.digest(bytes(20) + digest).hex()
    assert said["pcrs"]["sha1"]["17"] == "ff" * 20


def test_a_truncated_log_is_bad_input(inspect: Inspect, tmp_path: Path) -> None:
    whole = encode_event_log([Event.measuring(4, EventType.EV_EFI_ACTION, b"Calling", banks=(Bank.SHA1, Bank.SHA256))])
    path = tmp_path / "log"
    path.write_bytes(whole[:-3])
    code, said = inspect("eventlog", path)
    assert code == 2
    assert "does not fit" in said["error"]["what"]
    path.write_bytes(b"an IMA log, or anything else that is not one of the firmware's")
    code, said = inspect("eventlog", path)
    assert (code, said["error"]["what"]) == (2, "this is no event log")


def test_boot_aggregates_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "log"
    path.write_bytes(
        encode_event_log([Event.measuring(4, EventType.EV_EFI_ACTION, b"Calling", banks=(Bank.SHA1, Bank.SHA256))])
    )
    assert main(["inspect", "eventlog", str(path)]) == 0
    shown = capsys.readouterr().out
    extended = Bank.SHA256.digest(bytes(32) + Bank.SHA256.digest(b"Calling"))
    for last in (7, 9):
        aggregate = Bank.SHA256.digest(bytes(4 * 32) + extended + bytes((last - 4) * 32)).hex()
        assert f"boot_aggregate over PCR 0-{last}: sha256:{aggregate}\n" in shown
