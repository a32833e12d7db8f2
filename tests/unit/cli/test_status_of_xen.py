"""`shamon status` says whether Xen enforces the policy, what else it found there, and what does not let itself be
stopped."""

from types import SimpleNamespace
from typing import Any

import pytest

from shamon_host.cli import operate
from shamon_host.cli.main import main

STATUS: dict[str, Any] = {
    "host": "alpha",
    "coalition": "lab",
    "policy": {"version": 1, "digest": "ab" * 32},
    "enrolment": None,
    "peers": {},
    "refused_by": {},
    "no_links_because": "",
    "resisting": [],
    "figures": {},
}


def test_what_should_be_gone_and_is_not(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    answers = SimpleNamespace(get=lambda _: STATUS | {"flask": None, "resisting": ["web", "xen domain 7"]})
    monkeypatch.setattr(operate, "daemon_client", lambda _: answers)
    assert main(["status"]) == 0
    assert "cannot be stopped: web, xen domain 7; see the audit log\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flask", "lines"),
    [
        (None, []),
        ({"wrong": "", "changed_by_others": ""}, ["Xen: it enforces the policy in force"]),
        (
            {"wrong": "FLASK is permissive", "changed_by_others": "one may copy other (grant)\x1b[2J"},
            [
                "Xen: FLASK is permissive",
                "Xen had another policy, which this host replaced: one may copy other (grant)",
            ],
        ),
    ],
    ids=["qemu", "right", "wrong"],
)
def test_what_it_says_of_xen(
    flask: object, lines: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = SimpleNamespace(get=lambda _: STATUS | {"flask": flask})
    monkeypatch.setattr(operate, "daemon_client", lambda _: answers)
    assert main(["status"]) == 0
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Xen")]
    assert len(printed) == len(lines)
    assert all(shown.startswith(line) for shown, line in zip(printed, lines, strict=True))
    assert "\x1b" not in "".join(printed)
