"""The programs of a guest where something is missing: they say so, and end with the exit code of the error."""

import sys
from pathlib import Path

import pytest

from shamon_host.domain.errors import BackendFailed, Unreachable
from shamon_host.guest_agent import main
from shamon_host.hypervisor.attested_starts import file_digest
from shamon_host.testing.images import sha256_of


def test_an_agent_without_vsock(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def listen(_port: int) -> object:
        raise BackendFailed("cannot listen on vsock", where="port 7443")

    monkeypatch.setattr(main, "listen", listen)
    monkeypatch.setitem(sys.modules, "shamon_host.attestation.tpm_device", type("m", (), {"DeviceTpm": 0}))
    assert main.agent([]) == 1
    assert "cannot listen on vsock" in capsys.readouterr().err


def test_a_host_that_does_not_answer(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def ask(_request: bytes) -> bytes:
        raise Unreachable("the host does not answer on vsock")

    monkeypatch.setattr(main, "read_ca_certificates", lambda _path: ())
    assert main.guest(["hosts"], ask=ask) == 4
    assert "does not answer" in capsys.readouterr().err


def test_what_a_vm_boots_from_is_digested_whole(tmp_path: Path) -> None:
    file = tmp_path / "vmlinux"
    file.write_bytes(b"kernel" * 1_000_000)
    assert file_digest(str(file)) == sha256_of(file.read_bytes())
    with pytest.raises(BackendFailed, match="cannot be read"):
        file_digest(str(tmp_path / "none"))
