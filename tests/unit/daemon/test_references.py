"""Reference Values from a directory: read once, again when replaced, refused when absent or malformed."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from shamon_host.attestation.reference_values import dump_reference_values
from shamon_host.daemon.references import References
from shamon_host.domain.errors import BadInput, NotTrusted
from shamon_host.domain.labels import HostName
from shamon_host.peer.reference_envelope import checked_signers, sign
from shamon_host.peer.signed_record import public_text
from tests.unit.daemon.daemon_world import ALPHA, BETA, DaemonWorld


def test_they_are_read_again_when_replaced(tmp_path: Path) -> None:
    references = References(tmp_path)
    path = tmp_path / "alpha.json"
    recorded = DaemonWorld().alpha.record_reference()
    dump_reference_values(recorded, path)
    first = references.load(ALPHA)
    assert first.digest == recorded.digest
    assert references.load(ALPHA) is first
    other = tmp_path / "other"
    dump_reference_values(replace(recorded, version=2), other)
    os.utime(other, (1, 1))
    other.rename(path)
    assert references.load(ALPHA) == replace(first, version=2)


def test_hosts_of_one_image_share_them(tmp_path: Path) -> None:
    references = References(tmp_path)
    recorded = DaemonWorld().alpha.record_reference()
    for host in (ALPHA, BETA):
        dump_reference_values(recorded, tmp_path / f"{host}.json")
    assert references.load(ALPHA) is references.load(BETA)
    dump_reference_values(replace(recorded, version=2), tmp_path / f"{BETA}.json")
    assert references.load(BETA).version == 2
    assert references.load(ALPHA).version == 1


def test_none_are_a_reason_not_to_trust(tmp_path: Path) -> None:
    with pytest.raises(NotTrusted, match="no Reference Values") as caught:
        References(tmp_path).load(ALPHA)
    assert caught.value.where == str(tmp_path / "alpha.json")
    assert "reference record" in caught.value.remedy


def test_those_that_are_gone_are_not_remembered(tmp_path: Path) -> None:
    references = References(tmp_path)
    dump_reference_values(DaemonWorld().alpha.record_reference(), tmp_path / "alpha.json")
    references.load(ALPHA)
    (tmp_path / "alpha.json").unlink()
    with pytest.raises(NotTrusted):
        references.load(ALPHA)


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff", b'{"pcrs": 1}', b"[" * 100_000])
def test_malformed_ones(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "alpha.json").write_bytes(content)
    with pytest.raises(BadInput) as caught:
        References(tmp_path).load(ALPHA)
    assert "alpha.json" in str(caught.value)


@pytest.mark.parametrize("name", ["../alpha", "", "alpha/..", "Alpha"])
def test_no_other_file_is_read(name: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput):
        References(tmp_path).load(HostName(name))


class TestSigned:
    key = Ed25519PrivateKey.generate()

    def written(self, path: Path, *, signed: bool) -> References:
        recorded = DaemonWorld().alpha.record_reference()
        if signed:
            path.write_bytes(sign(recorded, self.key).encode())
        else:
            dump_reference_values(recorded, path)
        return References(path.parent, checked_signers([public_text(self.key)], 1))

    def test_signed_ones_are_taken(self, tmp_path: Path) -> None:
        references = self.written(tmp_path / "alpha.json", signed=True)
        assert references.signed
        assert references.load(ALPHA).digest == References(tmp_path).load(ALPHA).digest
        assert not References(tmp_path).signed

    def test_others_are_not(self, tmp_path: Path) -> None:
        references = self.written(tmp_path / "alpha.json", signed=False)
        with pytest.raises(NotTrusted, match="not signed") as caught:
            references.load(ALPHA)
        assert caught.value.where == str(tmp_path / "alpha.json")

    def test_not_even_after_good_ones(self, tmp_path: Path) -> None:
        references = self.written(tmp_path / "alpha.json", signed=True)
        references.load(ALPHA)
        self.written(tmp_path / "alpha.json", signed=False)
        with pytest.raises(NotTrusted):
            references.load(ALPHA)
