"""Signing on the command line: keys are never shown or replaced, envelopes travel, and 3 says who did not sign."""

import argparse
import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from shamon_host.cli.output import print_error
from shamon_host.cli.policy_signing import add_parsers
from shamon_host.domain.errors import ShamonError
from shamon_host.domain.policy_file import parse_canonical, parse_policy
from shamon_host.domain.policy_form import policy_bytes
from shamon_host.peer.policy_envelope import POLICY_TYPE, key_id, payload_of, public_text, read_envelope
from shamon_host.peer.signed_record import Envelope

SIGNING = '[signing]\nthreshold = 2\nkeys = ["one", "two"]\n'
BODY = f"""
[coalition]
name = "finance"
version = {{version}}
{{parent}}
{SIGNING}{{keys}}
[organisations.bank]
key = "bank"
[types."bank/a"]
{{more}}
[labels.a]
types = ["bank/a"]
[hosts.alpha]
address = "192.0.2.1"
types = ["bank/a"]
"""
Run = Callable[..., int]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run a command of the group; file names are in a directory of the test's own."""

    def command(*words: str) -> int:
        parser = argparse.ArgumentParser()
        add_parsers(parser.add_subparsers(required=True))
        arguments = parser.parse_args([word.replace("@", f"{tmp_path}/") for word in words])
        try:
            return int(arguments.run(arguments))
        except ShamonError as error:
            print_error(error, as_json=arguments.json)
            return error.exit_code

    return command


@pytest.fixture
def keys(run: Run, capsys: pytest.CaptureFixture[str]) -> str:
    """Three keys, and what `keygen` says of them."""
    for name, algorithm in (("one", "ed25519"), ("two", "p256"), ("bank", "ed25519")):
        assert run("keygen", name, "--algorithm", algorithm, "--out", f"@{name}.key") == 0
    return capsys.readouterr().out


def write(path: Path, keys: str, *, version: int = 1, parent: str = "", more: str = "") -> None:
    path.write_text(BODY.format(keys=keys, version=version, parent=f'parent = "{parent}"' if parent else "", more=more))


@contextmanager
def descriptor(content: bytes) -> Iterator[str]:
    """The number of a descriptor that `content` can be read from."""
    reading, writing = os.pipe()
    os.write(writing, content)
    os.close(writing)
    try:
        yield str(reading)
    finally:
        os.close(reading)


# Keys


def test_a_key_is_private_and_what_is_printed_is_its_public_part(tmp_path: Path, keys: str) -> None:
    for name in ("one", "two", "bank"):
        path = tmp_path / f"{name}.key"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        public = public_text(load_pem_private_key(path.read_bytes(), password=None))
        assert f'[keys.{name}]\npublic = "{public}"\n' in keys


@pytest.mark.parametrize("umask", [0, 0o777])
def test_the_mode_does_not_depend_on_the_umask(umask: int, run: Run, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        assert run("keygen", "one", "--out", "@one.key") == 0
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "one.key").stat().st_mode) == 0o600


def test_a_key_is_never_written_over_anything(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "one.key").write_text("what was there")
    (tmp_path / "link.key").symlink_to(tmp_path / "elsewhere")
    for name in ("one", "link"):
        assert run("keygen", "one", "--out", f"@{name}.key") == 2
        assert "no key is replaced" in capsys.readouterr().err
    assert (tmp_path / "one.key").read_text() == "what was there"
    assert not (tmp_path / "elsewhere").exists()


def test_a_key_that_cannot_be_written_whole_is_not_there(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    assert run("keygen", "one", "--out", "@one.key") == 1
    assert not list(tmp_path.iterdir())
    assert run("keygen", "one", "--out", "@nowhere/one.key") == 1


def test_keygen_as_json(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("keygen", "ops.1", "--out", "@one.key", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    public = public_text(load_pem_private_key((tmp_path / "one.key").read_bytes(), password=None))
    assert told == {"name": "ops.1", "public": public, "id": key_id(public), "key": str(tmp_path / "one.key")}


def test_a_name_with_a_dot_is_quoted_for_toml(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("keygen", "ops.1", "--out", "@one.key") == 0
    assert '[keys."ops.1"]' in capsys.readouterr().out


def test_a_bad_name_makes_no_key(run: Run, tmp_path: Path) -> None:
    assert run("keygen", "Ops 1", "--out", "@one.key") == 2
    assert not list(tmp_path.iterdir())


# Passphrases


def test_a_passphrase_from_a_descriptor(run: Run, tmp_path: Path) -> None:
    with descriptor(b"correct horse\nand more") as number:
        assert run("keygen", "one", "--out", "@one.key", "--passphrase-fd", number) == 0
    pem = (tmp_path / "one.key").read_bytes()
    assert b"ENCRYPTED" in pem
    load_pem_private_key(pem, password=b"correct horse")


@pytest.mark.parametrize("content", [b"", b"\nx", b"x" * 1024 + b"\n"])
def test_a_passphrase_that_is_none_is_refused(content: bytes, run: Run, tmp_path: Path) -> None:
    with descriptor(content) as number:
        assert run("keygen", "one", "--out", "@one.key", "--passphrase-fd", number) == 2
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", ["-1", "987654", "99999999999999999999"])
def test_a_descriptor_that_is_not_there_is_bad_input(number: str, run: Run) -> None:
    assert run("keygen", "one", "--out", "@one.key", f"--passphrase-fd={number}") == 2


def test_a_passphrase_from_the_terminal_is_asked_for_twice(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = ["correct horse", "correct house", "correct horse", "correct horse"]
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("getpass.getpass", lambda _: answers.pop(0))
    assert run("keygen", "one", "--out", "@one.key", "--passphrase") == 2
    assert not list(tmp_path.iterdir())
    assert run("keygen", "one", "--out", "@one.key", "--passphrase") == 0
    load_pem_private_key((tmp_path / "one.key").read_bytes(), password=b"correct horse")


def test_without_a_terminal_nothing_is_asked(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("keygen", "one", "--out", "@one.key", "--passphrase") == 2
    assert "--passphrase-fd" in capsys.readouterr().err


def test_signing_with_a_protected_key(
    run: Run, keys: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "policy.toml", keys)
    with descriptor(b"correct horse") as number:
        assert run("keygen", "guarded", "--out", "@guarded.key", "--passphrase-fd", number) == 0
    sign = ("sign", "@policy.toml", "--key", "@guarded.key", "--out", "@policy.dsse")
    with descriptor(b"wrong horse") as number:
        assert run(*sign, "--passphrase-fd", number) == 2
    assert run(*sign) == 2
    told = capsys.readouterr()
    assert "horse" not in told.err + told.out
    assert not (tmp_path / "policy.dsse").exists()
    with descriptor(b"correct horse") as number:
        assert run(*sign, "--passphrase-fd", number) == 0
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("getpass.getpass", lambda _: "correct horse")
    assert run(*sign) == 0


# Signing and verifying


def test_an_envelope_travels_from_one_signer_to_the_next(
    run: Run, keys: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "policy.toml", keys)
    assert run("sign", "@policy.toml", "--key", "@one.key", "--out", "@v1.dsse") == 0
    told = capsys.readouterr().out
    policy = parse_canonical(payload_of((tmp_path / "v1.dsse").read_bytes()), source="v1")
    assert f"version 1, digest {policy.digest}, signed by one" in told
    assert run("verify", "@v1.dsse") == 3
    told = capsys.readouterr().out
    assert "NO" in told
    assert "two" in told
    assert run("sign", "@v1.dsse", "--key", "@two.key", "--out", "@v1.dsse") == 0
    assert run("verify", "@v1.dsse") == 3
    assert "organisation bank" in capsys.readouterr().out
    assert run("sign", "@policy.toml", "--key", "@bank.key", "--envelope", "@v1.dsse", "--out", "@v1.dsse") == 0
    assert run("verify", "@v1.dsse") == 0
    assert "NO" not in capsys.readouterr().out
    assert len(read_envelope((tmp_path / "v1.dsse").read_bytes()).signatures) == 3


def sign_by(run: Run, file: str, *names: str) -> None:
    """Sign the policy `@FILE.toml` by these keys, into `@FILE.dsse`."""
    for index, name in enumerate(names):
        source = f"@{file}.dsse" if index else f"@{file}.toml"
        assert run("sign", source, "--key", f"@{name}.key", "--out", f"@{file}.dsse") == 0


def test_a_later_version_is_verified_against_the_one_in_force(
    run: Run, keys: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "v1.toml", keys)
    sign_by(run, "v1", "one")
    digest = parse_canonical(payload_of((tmp_path / "v1.dsse").read_bytes()), source="v1").digest
    write(tmp_path / "v2.toml", keys, version=2, parent=digest)
    sign_by(run, "v2", "one", "two")
    assert run("verify", "@v2.dsse") == 2
    assert "--current" in capsys.readouterr().err
    assert run("verify", "@v2.dsse", "--current", "@v1.toml") == 0
    assert run("verify", "@v2.dsse", "--current", "@v1.dsse") == 0
    assert run("verify", "@v2.dsse", "--current", "@v2.dsse") == 2
    assert "does not follow" in capsys.readouterr().err
    write(tmp_path / "v2.toml", keys, version=2, parent=digest, more='tpm = "hardware"')
    sign_by(run, "v2", "one", "two")
    capsys.readouterr()
    assert run("verify", "@v2.dsse", "--current", "@v1.toml", "--json") == 3
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert (told["version"], told["met"]) == (2, False)
    assert [(each["met"], each["signed_by"], each["missing"]) for each in told["requirements"]] == [
        (True, "one, two", ""),
        (False, "", "bank"),
    ]
    assert "type bank/a changes" in told["requirements"][1]["requirement"]


def test_a_policy_of_another_coalition_follows_nothing(run: Run, keys: str, tmp_path: Path) -> None:
    write(tmp_path / "v1.toml", keys)
    digest = parse_policy((tmp_path / "v1.toml").read_bytes(), source="v1").digest
    write(tmp_path / "v2.toml", keys, version=2, parent=digest)
    (tmp_path / "v2.toml").write_text((tmp_path / "v2.toml").read_text().replace('"finance"', '"another"'))
    sign_by(run, "v2", "one", "two")
    assert run("verify", "@v2.dsse", "--current", "@v1.toml") == 2


def test_an_unsigned_policy_is_neither_signed_nor_trusted_nor_a_successor(
    run: Run, keys: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "signed.toml", keys)
    signed = parse_policy((tmp_path / "signed.toml").read_bytes(), source="signed")
    write(tmp_path / "v2.toml", keys, version=2, parent=signed.digest)
    for name, source in (("v1", "signed"), ("v2", "v2")):
        text = (tmp_path / f"{source}.toml").read_text()
        assert SIGNING in text
        (tmp_path / f"{name}.toml").write_text(text.replace(SIGNING, ""))
        assert run("sign", f"@{name}.toml", "--key", "@one.key", "--out", f"@{name}.dsse") == 2
        assert "does not say who signs it" in capsys.readouterr().err
        assert not (tmp_path / f"{name}.dsse").exists()
        policy = parse_policy((tmp_path / f"{name}.toml").read_bytes(), source=name)
        envelope = Envelope(payload=policy_bytes(policy), payload_type=POLICY_TYPE)
        (tmp_path / f"{name}.dsse").write_bytes(envelope.encode())
    assert run("verify", "@v1.dsse") == 3
    assert "nobody has to sign" in capsys.readouterr().err
    assert run("verify", "@v2.dsse", "--current", "@signed.toml") == 1
    assert "an unsigned policy cannot replace a signed one" in capsys.readouterr().err


def test_signatures_on_another_policy_are_not_taken_over(
    run: Run, keys: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "one.toml", keys)
    write(tmp_path / "other.toml", keys, more='tpm = "hardware"')
    assert run("sign", "@one.toml", "--key", "@one.key", "--out", "@one.dsse") == 0
    assert run("sign", "@other.toml", "--key", "@two.key", "--envelope", "@one.dsse", "--out", "@both.dsse") == 2
    assert "another policy" in capsys.readouterr().err
    assert not (tmp_path / "both.dsse").exists()


def test_signatures_of_two_envelopes_are_brought_together(run: Run, keys: str, tmp_path: Path) -> None:
    write(tmp_path / "policy.toml", keys)
    for name in ("one", "two"):
        assert run("sign", "@policy.toml", "--key", f"@{name}.key", "--out", f"@{name}.dsse") == 0
    assert run("sign", "@one.dsse", "--key", "@bank.key", "--envelope", "@two.dsse", "--out", "@all.dsse") == 0
    assert run("verify", "@all.dsse") == 0


def test_a_key_that_the_policy_does_not_name_is_told(
    run: Run, keys: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "policy.toml", keys)
    assert run("keygen", "old", "--out", "@old.key") == 0
    assert run("sign", "@policy.toml", "--key", "@old.key", "--out", "@v1.dsse") == 0
    assert "does not name" in capsys.readouterr().out


def test_signing_replaces_nothing_but_envelopes(run: Run, keys: str, tmp_path: Path) -> None:
    write(tmp_path / "policy.toml", keys)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for target in ("policy.toml", "one.key"):
        assert run("sign", "@policy.toml", "--key", "@one.key", "--out", f"@{target}") == 2
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_no_private_key_is_ever_printed(
    run: Run, keys: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "policy.toml", keys)
    assert run("sign", "@policy.toml", "--key", "@one.key", "--out", "@v1.dsse") == 0
    assert run("sign", "@one.key", "--key", "@one.key", "--out", "@v2.dsse") == 2
    assert run("sign", "@v1.dsse", "--key", "@v1.dsse", "--out", "@v2.dsse") == 2
    assert run("sign", "@v1.dsse", "--key", "@two.key", "--envelope", "@one.key", "--out", "@v2.dsse") == 2
    assert run("verify", "@one.key") == 2
    told = capsys.readouterr()
    secret = "".join((tmp_path / "one.key").read_text().splitlines()[1:-1])
    for text in (keys, told.out, told.err, (tmp_path / "v1.dsse").read_text()):
        assert secret[20:40] not in text


@pytest.mark.parametrize(
    "pem", [b"", b"x", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", b"\xff" * 99]
)
def test_what_is_no_key_does_not_sign(pem: bytes, run: Run, keys: str, tmp_path: Path) -> None:
    write(tmp_path / "policy.toml", keys)
    (tmp_path / "bad.key").write_bytes(pem)
    assert run("sign", "@policy.toml", "--key", "@bad.key", "--out", "@v1.dsse") == 2
    assert run("sign", "@policy.toml", "--key", "@none.key", "--out", "@v1.dsse") == 2


@pytest.mark.parametrize("key", [generate_private_key(SECP384R1()), rsa.generate_private_key(65537, 2048)])
def test_a_key_of_another_kind_does_not_sign(key: Any, run: Run, keys: str, tmp_path: Path) -> None:
    write(tmp_path / "policy.toml", keys)
    (tmp_path / "other.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    assert run("sign", "@policy.toml", "--key", "@other.key", "--out", "@v1.dsse") == 2
    assert not (tmp_path / "v1.dsse").exists()


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b"[]", b'{"payload":"e30=","payloadType":"x","signatures":[]}'])
def test_what_is_no_envelope_is_bad_input(content: bytes, run: Run, tmp_path: Path) -> None:
    (tmp_path / "bad.dsse").write_bytes(content)
    assert run("verify", "@bad.dsse") == 2
    assert run("verify", "@none.dsse") == 2
