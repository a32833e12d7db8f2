"""`shamon mac-vm`: whether it answers, and whether it is attested."""

from types import SimpleNamespace
from typing import Any

import pytest

from shamon_host.cli import operate
from shamon_host.cli.main import main

STATUS: dict[str, Any] = {"name": "alpha-mac", "state": "running", "boot_id": "a1", "wrong": "", "denials": []}


@pytest.mark.parametrize(
    ("attestation", "lines"),
    [
        (None, []),
        ({"attested": True, "lease_s": 71.6, "failed": "", "last": None}, ["  attested: for 72 s"]),
        ({"attested": False, "lease_s": 0.0, "failed": "", "last": None}, ["  attested: no"]),
        (
            {"attested": False, "lease_s": 0.0, "failed": "a strange program\x1b[2J", "last": None},
            ["  attested: no: a strange program?[2J"],
        ),
    ],
    ids=["not demanded", "attested", "not yet", "failed"],
)
def test_what_it_says(
    attestation: object, lines: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = SimpleNamespace(get=lambda _: STATUS | {"attestation": attestation})
    monkeypatch.setattr(operate, "daemon_client", lambda _: answers)
    assert main(["mac-vm"]) == 0
    assert capsys.readouterr().out.splitlines() == ["alpha-mac: running; answers, boot a1", *lines]
