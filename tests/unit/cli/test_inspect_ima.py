"""`shamon inspect ima`: logs of every kind, good ones, wrong ones and what is none."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from shamon_host.attestation.ima_entry import TEMPLATES, ImaEntry
from shamon_host.attestation.ima_log import (
    encode_ima_log,
    ima_buf_entry,
    ima_sig_entry,
    parse_ima_log,
    violation_entry,
)
from shamon_host.attestation.pcr import Bank, replay
from shamon_host.cli.main import main
from tests.unit.attestation.file_signing import certificate, sign
from tests.unit.attestation.test_ima_ascii import as_ascii

_VECTORS = Path(__file__).resolve().parents[4] / "shared" / "vectors"
_RSA = rsa.generate_private_key(65537, 2048)
_EC = ec.derive_private_key(0x5EED, ec.SECP384R1())
_OTHER = ec.derive_private_key(0xBAD, ec.SECP256R1())
_DIGEST = hashlib.sha256(b"content").digest()
_BOOT = hashlib.sha256(b"boot").digest()
_KEYS = (
    "evm_signatures",
    "appended_signatures",
    "signatures_by_measured_keys",
    "keyrings",
    "bad_entries",
    "format",
    "log_hash",
    "malformed_entries",
)

Inspect = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture(scope="module")
def vectors() -> Path:
    if not (_VECTORS / "README.md").is_file():
        pytest.skip("the shared test vectors are not on this machine")
    return _VECTORS


@pytest.fixture
def inspect(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Inspect:
    """Runs `shamon inspect ima --json` on bytes or a file."""

    def run(log: bytes | Path, *arguments: object) -> tuple[int, dict[str, Any]]:
        if isinstance(log, bytes):
            (tmp_path / "log").write_bytes(log)
            log = tmp_path / "log"
        code = main(["inspect", "ima", str(log), *(str(argument) for argument in arguments), "--json"])
        shown: dict[str, Any] = json.loads(capsys.readouterr().out)
        return code, shown

    return run


def _pcr(entries: list[ImaEntry], bank: Bank, pcr: int = 10) -> str:
    digests = [entry.pcr_digest(bank) for entry in entries if entry.pcr == pcr]
    return replay(bank, digests, bytes(bank.digest_size)).hex()


def _entries() -> list[ImaEntry]:
    return [
        ima_sig_entry("boot_aggregate", _BOOT),
        ima_sig_entry("/bin/by-rsa", _DIGEST, signature=sign(_RSA, _DIGEST)),
        ima_sig_entry("/bin/by-ec", _DIGEST, signature=sign(_EC, _DIGEST)),
        ima_sig_entry("/bin/by-other", _DIGEST, signature=sign(_OTHER, _DIGEST)),
        ima_buf_entry("selinux-state", b"enforcing=1;"),
        violation_entry("/var/log/x"),
        ima_sig_entry("/bin/elsewhere", _DIGEST, pcr=11),
    ]


@pytest.fixture
def keys(tmp_path: Path) -> list[Path]:
    """An RSA certificate in DER and an ECDSA public key in PEM."""
    (tmp_path / "rsa.der").write_bytes(certificate(_RSA).public_bytes(serialization.Encoding.DER))
    pem = _EC.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "ec.pem").write_bytes(pem)
    return [tmp_path / "rsa.der", tmp_path / "ec.pem"]


@pytest.mark.parametrize("write", [encode_ima_log, as_ascii])
def test_all_that_a_log_says(inspect: Inspect, keys: list[Path], write: Callable[[list[ImaEntry]], bytes]) -> None:
    entries = _entries()
    code, shown = inspect(write(entries), "--signing-key", keys[0], "--signing-key", keys[1])
    assert code == 0
    assert shown.pop("format") == ("ascii" if write is as_ascii else "binary")
    assert shown.pop("log_hash") == "sha1"
    for key in _KEYS:
        shown.pop(key, None)
    assert shown == {
        "entries": 7,
        "templates": {"ima-sig": 6, "ima-buf": 1},
        "violations": 1,
        "bad_template_hashes": 0,
        "signatures": {"good": 2, "bad": 0, "unknown_key": 1, "none": 4},
        "pcrs": {bank.value: {"10": _pcr(entries, bank), "11": _pcr(entries, bank, 11)} for bank in Bank},
        "boot_aggregate": f"sha256:{_BOOT.hex()}",
    }


def test_keys_may_be_named_in_one_option_and_before_the_log(
    inspect: Inspect, keys: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "ima"
    log.write_bytes(encode_ima_log(_entries()))
    for arguments in (
        [log, "--signing-key", *keys],
        ["--signing-key", *keys, log],
        ["--json", log, "--signing-key", *keys],
        ["--signing-key", keys[0], "--signing-key", keys[1], "--json", log],
    ):
        assert main(["inspect", "ima", *map(str, arguments), *(["--json"] if "--json" not in arguments else [])]) == 0
        assert json.loads(capsys.readouterr().out)["signatures"]["good"] == 2
    assert main(["inspect", "ima"]) == 2


def test_a_wrong_template_hash_and_a_bad_signature_are_not_trusted(inspect: Inspect, keys: list[Path]) -> None:
    entries = _entries()
    entries[0] = entries[0]._replace(template_hash=b"\1" * 20)
    code, shown = inspect(encode_ima_log(entries))
    assert (code, shown["bad_template_hashes"]) == (3, 1)
    assert shown["bad_entries"] == [
        {"entry": 1, "path": "boot_aggregate", "reason": "the template hash is not that of the entry"}
    ]
    entries = _entries()
    entries[2] = ima_sig_entry("/bin/by-ec", _BOOT, signature=sign(_EC, _DIGEST))
    code, shown = inspect(encode_ima_log(entries), "--signing-key", keys[1])
    assert (code, shown["signatures"]) == (3, {"good": 0, "bad": 1, "unknown_key": 2, "none": 4})
    assert [(bad["entry"], bad["path"]) for bad in shown["bad_entries"]] == [(3, "/bin/by-ec")]
    assert inspect(encode_ima_log(entries))[0] == 0  # without its key nothing is known of it


def test_a_bad_evm_signature_is_not_trusted_either(inspect: Inspect, keys: list[Path], vectors: Path) -> None:
    entries = list(parse_ima_log((vectors / "ibmtss-templates.ima").read_bytes()))
    (evm,) = (entry for entry in entries if entry.template == "evm-sig")
    # The key id of that entry, claimed by a key that did not make it.
    claimed = certificate(_EC, bytes.fromhex("78511c2a")).public_bytes(serialization.Encoding.DER)
    keys[0].write_bytes(claimed)
    code, shown = inspect(encode_ima_log([evm]), "--signing-key", keys[0])
    assert (code, shown["evm_signatures"]["bad"], shown["signatures"]["none"]) == (3, 1, 1)
    assert "EVM" in shown["bad_entries"][0]["reason"]


def test_a_malformed_entry_is_not_trusted(inspect: Inspect) -> None:
    measured = b"\x05\0\0\0hello"
    entry = ImaEntry(10, "ima-ng", hashlib.sha1(measured).digest(), measured)
    code, shown = inspect(encode_ima_log([ima_sig_entry("/a", _DIGEST), entry]))
    assert (code, shown["malformed_entries"], shown["bad_entries"][0]["entry"]) == (3, 1, 2)
    assert shown["boot_aggregate"] is None


def test_only_the_first_bad_entries_are_kept(inspect: Inspect) -> None:
    wrong = ima_sig_entry("/x", _DIGEST)._replace(template_hash=b"\1" * 20)
    code, shown = inspect(encode_ima_log([wrong] * 100))
    assert (code, shown["bad_template_hashes"], len(shown["bad_entries"])) == (3, 100, 20)


def test_the_logs_own_keys_are_named_and_never_count_as_given(inspect: Inspect) -> None:
    der = certificate(_OTHER).public_bytes(serialization.Encoding.DER)
    before = ima_sig_entry("/bin/before", _DIGEST, signature=sign(_OTHER, _DIGEST))
    false = ima_sig_entry("/bin/false", _BOOT, signature=sign(_OTHER, _DIGEST))
    code, shown = inspect(encode_ima_log([before, ima_buf_entry(".ima", der), before, false]))
    assert code == 0
    assert shown["signatures"] == {"good": 0, "bad": 0, "unknown_key": 3, "none": 1}
    assert shown["signatures_by_measured_keys"] == {"good": 1, "bad": 1}
    (key,) = shown["keyrings"]
    assert (key["entry"], key["keyring"], key["subject"], key["problem"]) == (2, ".ima", "CN=file signing", "")


@pytest.mark.parametrize("write", [encode_ima_log, as_ascii])
def test_a_log_cut_in_its_last_entry_says_where(
    write: Callable[[list[ImaEntry]], bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entries = _entries()
    log = write(entries)
    start = len(write(entries[:-1]))
    for cut in (start + 1, len(log) - 10):
        (tmp_path / "log").write_bytes(log[:cut])
        assert main(["inspect", "ima", str(tmp_path / "log")]) == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert f"byte {start}: the last entry is truncated" in said.err
        assert str(tmp_path / "log") in said.err


def test_other_files_are_bad_input(tmp_path: Path, keys: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    for data in (b"", b"text\n", bytes(1000), b"\x7fELF" + bytes(100), encode_ima_log(_entries())[4:]):
        (tmp_path / "log").write_bytes(data)
        assert main(["inspect", "ima", str(tmp_path / "log"), "--json"]) == 2
        error = json.loads(capsys.readouterr().out)["error"]
        assert str(tmp_path / "log") in error["where"]
    assert main(["inspect", "ima", str(tmp_path / "absent")]) == 2
    (tmp_path / "log").write_bytes(encode_ima_log(_entries()))
    assert main(["inspect", "ima", str(tmp_path / "log"), "--signing-key", str(tmp_path / "log")]) == 2
    assert "no key that files are signed with" in capsys.readouterr().err


def test_the_summary_for_people(tmp_path: Path, keys: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    entries = _entries()
    entries.append(ima_buf_entry(".ima", certificate(_OTHER).public_bytes(serialization.Encoding.DER)))
    entries.append(ima_sig_entry("/tmp/a\x1b[2J\nb", _BOOT, signature=sign(_EC, _DIGEST)))
    (tmp_path / "log").write_bytes(encode_ima_log(entries))
    assert main(["inspect", "ima", str(tmp_path / "log"), "--signing-key", str(keys[1])]) == 3
    said = capsys.readouterr().out
    assert "a binary IMA log, 9 entries, template hashes in sha1." in said
    assert "templates: ima-buf 2, ima-sig 7" in said
    assert "violations: 1" in said
    assert "signatures: 1 good, 1 bad, 2 by unknown keys; 5 entries without" in said
    assert "key added to .ima by entry 8: CN=file signing" in said
    assert _pcr(entries, Bank.SHA256) in said
    assert "Not to be trusted: 0 wrong template hashes, 1 bad signatures" in said
    assert "  entry 9, /tmp/a" in said
    assert "\x1b" not in said


@pytest.mark.parametrize("log_bank", list(Bank))
def test_logs_of_a_real_boot_lead_to_the_kernels_pcrs(inspect: Inspect, vectors: Path, log_bank: Bank) -> None:
    lines = (vectors / "ibmtss-pcr10.txt").read_text().splitlines()
    code, shown = inspect(vectors / f"ibmtss-{log_bank}.ima")
    assert (code, shown["entries"], shown["templates"], shown["violations"]) == (0, 362, {"ima-sig": 362}, 0)
    assert shown["log_hash"] == log_bank.value
    assert shown["bad_template_hashes"] == 0
    assert shown["signatures"] == {"good": 0, "bad": 0, "unknown_key": 21, "none": 341}
    assert shown["pcrs"] == {
        bank.value: {"10": line.split(":")[1].replace(" ", "")} for bank, line in zip(Bank, lines, strict=True)
    }
    assert shown["boot_aggregate"].startswith("sha256:")


def test_the_log_of_all_templates(inspect: Inspect, vectors: Path) -> None:
    code, shown = inspect(vectors / "ibmtss-templates.ima")
    assert (code, shown["entries"], len(shown["templates"]), shown["violations"]) == (0, 17, 14, 1)
    assert set(TEMPLATES) <= set(shown["templates"])
    assert shown["bad_template_hashes"] == 0
    assert shown["signatures"] == {"good": 0, "bad": 0, "unknown_key": 2, "none": 15}
    assert shown["evm_signatures"] == {"good": 0, "bad": 0, "unknown_key": 1, "none": 0}
    assert shown["appended_signatures"] == {"good": 0, "bad": 0, "unknown_key": 1, "none": 1}
    assert [key["keyring"] for key in shown["keyrings"]] == [".builtin_trusted_keys"]


def test_the_log_of_an_enforcing_debian(inspect: Inspect, vectors: Path) -> None:
    code, shown = inspect(vectors / "debian12-selinux.ima")
    lines = (vectors / "debian12-selinux.pcrs.txt").read_text().splitlines()
    pcr10 = next(line.split(":")[1].strip() for line in lines if line.strip().startswith("10"))
    assert (code, shown["entries"], shown["templates"]) == (0, 727, {"ima-buf": 3, "ima-sig": 724})
    assert shown["pcrs"]["sha256"] == {"10": pcr10.removeprefix("0x").lower()}
    assert shown["keyrings"] == []
    text = as_ascii(parse_ima_log((vectors / "debian12-selinux.ima").read_bytes()))
    again_code, again = inspect(text)
    assert (again_code, again | {"format": "binary"}) == (0, shown)


@pytest.mark.parametrize(("name", "count"), [("ima-evm-pcrs0-9", 1), ("ima-evm-pcrs0-7", 3)])
def test_ascii_logs_of_two_kernels(inspect: Inspect, vectors: Path, name: str, count: int) -> None:
    code, shown = inspect(vectors / f"{name}.ascii")
    assert (code, shown["format"], shown["entries"]) == (0, "ascii", count)
    assert shown["boot_aggregate"] == (vectors / f"{name}.ascii").read_text().split()[3]


@pytest.mark.parametrize(
    "name", ["keylime-bogus.tcg", "keylime-secureboot.tcg", "debian12-selinux.attest", "ibmtss-pcr10.txt", "README.md"]
)
def test_evidence_of_another_kind_is_bad_input(vectors: Path, name: str) -> None:
    assert main(["inspect", "ima", str(vectors / name)]) == 2
