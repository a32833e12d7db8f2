"""`shamon vm migrate`: how it goes, how long its parts took, and the reason where it does not; where VMs are."""

import json
from typing import Any

import pytest

from shamon_host.cli import operate
from shamon_host.cli.api_client import ApiClient
from shamon_host.cli.main import main
from shamon_host.domain.errors import Refused

MIB = 1 << 20
BEGUN = {
    "vm": "web",
    "to": "beta",
    "step": "asks whether it may come",
    "sent_bytes": 0,
    "disk_bytes": 0,
    "done": False,
    "parts_ms": {},
    "downtime_ms": 0.0,
    "first_frame_ms": 0.0,
    "live": False,
}
SENDING = {**BEGUN, "step": "its disk is sent", "sent_bytes": 3 * MIB, "disk_bytes": 9 * MIB}
PARTS = {"prepared": 20.0, "stopped": 100.4, "copied": 2000.0, "accepted": 30.0, "given": 2.0, "taken": 400.0}
DONE = {**SENDING, "step": "it is running", "done": True, "parts_ms": PARTS, "downtime_ms": 2532.4}


class Daemon:
    """Answers in turn how the move goes; an error where it fails."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked: list[Any] = []

    def request(self, _client: ApiClient, method: str, target: str, body: str | None) -> Any:
        match method, target:
            case "POST", "/v1/vms/web/migrate":
                self.asked.append(json.loads(body or ""))
            case "GET", "/v1/vms":
                return []
            case "GET", "/v1/vms/away":
                return [{"name": "web", "label": "red", "host": "beta", "generation": 3}]
            case _:
                assert (method, target) == ("GET", "/v1/vms/web/move")
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(operate, "_LOOK_S", 0.0)

    def begin(*answers: Any) -> Daemon:
        daemon = Daemon(*answers)

        def request(client: ApiClient, method: str, target: str, body: str | None) -> Any:
            return daemon.request(client, method, target, body)

        monkeypatch.setattr(ApiClient, "_request", request)
        return daemon

    return begin


def test_how_it_goes_and_how_long_it_took(play: Any, capsys: pytest.CaptureFixture[str]) -> None:
    daemon = play(BEGUN, BEGUN, SENDING, DONE)
    assert main(["vm", "migrate", "web", "beta", "--reason", "alpha needs a new disk"]) == 0
    printed = capsys.readouterr()
    assert daemon.asked == [{"to": "beta", "reason": "alpha needs a new disk", "live": False}]
    assert printed.err.splitlines() == ["web asks whether it may come", "web its disk is sent: 3 of 9 MiB"]
    assert printed.out.splitlines() == [
        "web: on beta, it is running",
        "prepared 20 ms  stopped 100 ms  copied 2000 ms  accepted 30 ms  given 2 ms  taken 400 ms",
        "3.0 MiB in 2.6 s",
        "downtime 2.5 s",
    ]


def test_as_json(play: Any, capsys: pytest.CaptureFixture[str]) -> None:
    play(BEGUN, DONE)
    assert main(["vm", "migrate", "web", "beta", "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out) == DONE
    assert printed.err == ""


@pytest.mark.parametrize("at", [0, 2])
def test_a_move_that_is_refused(play: Any, capsys: pytest.CaptureFixture[str], at: int) -> None:
    play(*[BEGUN] * at, Refused("vm.migrate denied", where="web", found="spy runs there"))
    assert main(["vm", "migrate", "web", "beta"]) == 1
    assert "spy runs there" in capsys.readouterr().err


def test_where_a_vm_is_that_was_moved_away(play: Any, capsys: pytest.CaptureFixture[str]) -> None:
    play()
    assert main(["vms"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:5] == ["web", "red", "-", "on", "beta"]


def test_how_a_live_move_goes(play: Any, capsys: pytest.CaptureFixture[str]) -> None:
    copying = {**BEGUN, "live": True, "step": "is copied while it runs", "sent_bytes": 70 * MIB}
    parts = {
        "copied": 9000.0,
        "disk ended": 10.0,
        "memory ended": 40.0,
        "accepted": 30.0,
        "given": 20.0,
        "taken": 200.0,
    }
    done = {**copying, "step": "it is running", "done": True, "parts_ms": parts, "downtime_ms": 300.0}
    daemon = play(copying, {**done, "first_frame_ms": 80.0})
    assert main(["vm", "migrate", "web", "beta", "--live"]) == 0
    printed = capsys.readouterr()
    assert daemon.asked[0]["live"] is True
    assert printed.err.splitlines() == ["web is copied while it runs: 70 MiB"]
    assert printed.out.splitlines()[-1] == "downtime 0.3 s, its first frame 80 ms later"
