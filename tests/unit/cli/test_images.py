"""`shamon images`, `image check` and `image roll`: progress, the stop at the first that fails, and going on."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from shamon_host.cli.api_client import ApiClient
from shamon_host.cli.main import main
from shamon_host.domain.errors import BackendFailed, NotTrusted, Refused, ShamonError

OLD, NEW = "0" * 64, "f" * 64


class Daemon:
    """Answers as the API does, of VMs of two images."""

    def __init__(self) -> None:
        self.image_is_there = True
        self.fails: dict[str, ShamonError] = {}
        self.asked: list[tuple[str, Any]] = []
        self.meanwhile: Callable[[], object] = lambda: None
        """What somebody else does before a VM is replaced."""
        self.vms: dict[str, dict[str, Any]] = {
            name: {
                "name": name,
                "image": image,
                "image_sha256": sha256,
                "image_state": "current" if sha256 == NEW else "outdated" if sha256 else "unknown",
                "state": state,
                "wanted": wanted,
                "quarantine": quarantine,
                "suspended_for": [],
                "replacing": "",
            }
            for name, image, sha256, state, wanted, quarantine in (
                ("a", "app", OLD, "running", True, None),
                ("b", "app", NEW, "running", True, None),
                ("c", "app", "", "running", True, None),
                ("d", "app", OLD, "absent", True, None),
                ("e", "app", OLD, "absent", False, None),
                ("f", "app", OLD, "paused", True, None),
                ("g", "app", OLD, "running", True, {"grade": "note"}),
                ("h", "db", OLD, "running", True, None),
            )
        }

    def request(self, _client: ApiClient, method: str, target: str, body: str | None) -> Any:
        match method, target.strip("/").split("/"):
            case "GET", ["v1", "vms"]:
                return list(self.vms.values())
            case "GET", ["v1", "images"]:
                states = {"current": ["b"], "outdated": ["a"], "unknown": ["c"], "none": []}
                return [{"name": "app", "sha256": NEW, **states}]
            case "POST", ["v1", "images", name, "check"]:
                if not self.image_is_there:
                    raise NotTrusted("the clean image is not the pinned one", where=name)
                return {"name": name, "sha256": NEW}
            case "POST", ["v1", "vms", name, "replace"]:
                fields = json.loads(body or "")
                self.asked.append((name, fields["reason"]))
                self.meanwhile()
                vm = self.vms[name]
                if fields["in_service"] and (vm["quarantine"] or vm["state"] == "paused" or vm["suspended_for"]):
                    raise Refused("the VM is not in service", where=name)
                if name in self.fails:
                    self.vms[name] |= {"state": "absent"}
                    raise self.fails[name]
                self.vms[name] |= {"state": "running", "image_sha256": NEW, "image_state": "current"}
                return self.vms[name]
            case _:
                raise AssertionError(target)

    @property
    def replaced(self) -> list[str]:
        return [name for name, _ in self.asked]


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch) -> Daemon:
    fake = Daemon()

    def request(client: ApiClient, method: str, target: str, body: str | None) -> Any:
        return fake.request(client, method, target, body)

    monkeypatch.setattr(ApiClient, "_request", request)
    return fake


@pytest.fixture
def shamon(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def run(*arguments: str) -> tuple[int, str, str]:
        return main(arguments), *capsys.readouterr()

    return run


def test_those_that_run_on_another_image_one_after_the_other(
    daemon: Daemon, shamon: Callable[..., tuple[int, str, str]]
) -> None:
    code, out, _ = shamon("image", "roll", "app")
    assert code == 0
    assert daemon.asked == [(name, "the image app is rolled") for name in ("a", "c", "d")]
    lines = out.splitlines()
    assert lines[0] == "a: replacing, 1 of 3"
    assert lines[1].startswith("a: runs again after ")
    assert lines[4] == "d: replacing, 3 of 3"
    assert [line.partition(";")[0] for line in lines[6:9]] == [
        "e: left as it is, does not run",
        "f: left as it is, suspended",
        "g: left as it is, in quarantine",
    ]
    assert lines[-1] == "app: 3 replaced"
    assert shamon("image", "roll", "app")[1].splitlines()[-1] == "app: nothing to replace"


def test_all_of_them_and_a_reason(daemon: Daemon, shamon: Callable[..., tuple[int, str, str]]) -> None:
    assert shamon("image", "roll", "app", "--all", "--reason", "just so")[0] == 0
    assert daemon.asked == [(name, "just so") for name in ("a", "b", "c", "d")]


def test_it_stops_at_the_first_that_fails_and_goes_on_when_it_is_run_again(
    daemon: Daemon, shamon: Callable[..., tuple[int, str, str]]
) -> None:
    daemon.fails["c"] = BackendFailed("libvirt failed", where="c")
    code, _, err = shamon("image", "roll", "app")
    assert (code, daemon.replaced) == (BackendFailed.exit_code, ["a", "c"])
    assert "libvirt failed" in err
    assert "stopped at c: 1 of 3 replaced, left as they are: d; run it again to go on" in err
    del daemon.fails["c"]
    assert shamon("image", "roll", "app")[0] == 0
    assert daemon.replaced == ["a", "c", "c", "d"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"quarantine": {"grade": "suspend"}, "state": "paused", "wanted": False}, "in quarantine"),
        ({"state": "paused"}, "suspended"),
        ({"state": "absent", "suspended_for": ["beta"]}, "suspended"),
    ],
    ids=["quarantine", "suspended", "ended while it was suspended"],
)
def test_what_changed_while_others_were_replaced_is_left_too(
    daemon: Daemon, shamon: Callable[..., tuple[int, str, str]], change: dict[str, Any], words: str
) -> None:
    daemon.meanwhile = lambda: daemon.vms["c"].update(change)
    code, out, _ = shamon("image", "roll", "app")
    assert (code, daemon.replaced) == (0, ["a", "c", "d"])
    assert {name: vm["image_sha256"] for name, vm in daemon.vms.items() if name in ("a", "c", "d")} == {
        "a": NEW,
        "c": "",
        "d": NEW,
    }
    assert f"c: left as it is, {words}" in out
    assert out.splitlines()[-1] == "app: 2 replaced"


def test_as_one_value(daemon: Daemon, shamon: Callable[..., tuple[int, str, str]]) -> None:
    daemon.fails["d"] = NotTrusted("it is not trusted")
    code, out, err = shamon("image", "roll", "app", "--json")
    told = json.loads(out)
    assert (code, told["image"], told["sha256"], told["failed"]) == (3, "app", NEW, "d")
    assert [row["name"] for row in told["replaced"]] == ["a", "c"]
    assert told["not_replaced"] == ["d"]
    assert "it is not trusted" in told["reason"]
    assert [row["name"] for row in told["left"]] == ["e", "f", "g"]
    assert err.splitlines()[0] == "a: replacing, 1 of 3"


def test_nothing_is_touched_when_the_image_is_not_there(
    daemon: Daemon, shamon: Callable[..., tuple[int, str, str]]
) -> None:
    daemon.image_is_there = False
    code, _, err = shamon("image", "roll", "app")
    assert (code, daemon.asked) == (3, [])
    assert "not the pinned one" in err
    assert shamon("image", "check", "app")[0] == 3


def test_a_vm_that_runs_on_something_else_afterwards_is_a_failure(
    daemon: Daemon, shamon: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The policy pins another image since the roll began."""
    request = daemon.request

    def other(client: ApiClient, method: str, target: str, body: str | None) -> Any:
        answer = request(client, method, target, body)
        return {**answer, "image_sha256": OLD} if target.endswith("/replace") else answer

    monkeypatch.setattr(daemon, "request", other)
    code, _, err = shamon("image", "roll", "app")
    assert (code, daemon.replaced) == (3, ["a"])
    assert "does not run on the image that is rolled" in err


def test_an_image_of_nobody(shamon: Callable[..., tuple[int, str, str]]) -> None:
    code, _, err = shamon("image", "roll", "none")
    assert code == 2
    assert "no VM of this host" in err


def test_listing_and_check(shamon: Callable[..., tuple[int, str, str]]) -> None:
    assert shamon("image", "check", "app")[:2] == (0, f"app: it is the pinned one, sha256 {NEW}\n")
    out = shamon("images")[1].splitlines()
    assert out[0].split() == ["NAME", "SHA256", "CURRENT", "OUTDATED", "UNKNOWN", "NONE"]
    assert out[1].split() == ["app", NEW[:16], "b", "a", "c", "-"]
    assert json.loads(shamon("images", "--json")[1])[0]["sha256"] == NEW
