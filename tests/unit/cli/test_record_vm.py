"""`shamon reference record-vm`: what a VM measured, as a file with the digest that a policy names; and `shamon vms`."""

import json
from pathlib import Path
from typing import Any

import pytest

from shamon_host.attestation.guest_reference import read_guest_reference
from shamon_host.cli.api_client import ApiClient
from shamon_host.cli.main import main
from shamon_host.daemon.guest_references import GuestReferences
from shamon_host.domain.errors import NotTrusted
from shamon_host.domain.guest_demand import GuestDemand
from tests.unit.attestation.guest_world import recorded, without_selinux

MEASURED = recorded(without_selinux())
MORE = "5" * 64


def daemon(answers: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def request(_client: ApiClient, method: str, target: str, _body: str | None) -> Any:
        assert method == "GET"
        return answers[target]

    monkeypatch.setattr(ApiClient, "_request", request)


@pytest.fixture
def recording(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"digest": MEASURED.digest, "reference": MEASURED.to_document()}
    daemon({"/v1/vms/web/reference": told}, monkeypatch)


@pytest.mark.usefixtures("recording")
def test_what_the_vm_measured_and_what_its_image_has(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest, out = tmp_path / "manifest.json", tmp_path / "app.json"
    manifest.write_text(json.dumps({"files": {"/usr/bin/more": [MORE]}}))
    assert main(["reference", "record-vm", "web", "--out", str(out), "--manifest", str(manifest)]) == 0
    reference = read_guest_reference(out.read_bytes(), where="app.json")
    assert reference.values.files["/usr/bin/more"] == {MORE}
    assert set(MEASURED.values.files) < set(reference.values.files)
    assert f'sha256 = "{reference.digest}"' in capsys.readouterr().out
    demand = GuestDemand(name="app", sha256=reference.digest)
    references = GuestReferences(tmp_path)
    assert references.load(demand) == reference
    assert references.load(demand) is references.load(demand), "it is read once"
    with pytest.raises(NotTrusted, match="not those that the policy names"):
        references.load(GuestDemand(name="app", sha256=MEASURED.digest))
    with pytest.raises(NotTrusted, match="no Reference Values"):
        references.load(GuestDemand(name="other", sha256=MEASURED.digest))


@pytest.mark.usefixtures("recording")
def test_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "app.json"
    assert main(["reference", "record-vm", "web", "--out", str(out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["file"], told["digest"]) == (str(out), MEASURED.digest)
    assert told["boot_alone"] == sorted(MEASURED.values.files)
    assert main(["reference", "record-vm", "web", "--out", str(tmp_path / "none" / "app.json")]) == 2


@pytest.mark.parametrize(
    ("attestation", "words"),
    [
        (None, ""),
        ({"attested": True, "lease_s": 12.4, "failed": "", "last": None}, "for 12 s"),
        ({"attested": False, "lease_s": 0.0, "failed": "a strange program", "last": None}, "no: a strange program"),
        ({"attested": False, "lease_s": 0.0, "failed": "", "last": {"reason": "silent"}}, "no: silent"),
        ({"attested": False, "lease_s": 0.0, "failed": "", "last": None}, "no"),
    ],
)
def test_the_list_of_vms(
    attestation: Any, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {
        "name": "web", "label": "red", "types": ["acme/red"], "state": "running", "context": "x", "image": "app",
        "image_state": "current", "quarantine": None, "quarantined": "", "attestation": attestation,
    }  # fmt: skip
    daemon({"/v1/vms": [row], "/v1/vms/away": []}, monkeypatch)
    monkeypatch.setenv("COLUMNS", "300")
    assert main(["vms"]) == 0
    out = capsys.readouterr().out
    assert "ATTESTED" in out
    assert words in out
