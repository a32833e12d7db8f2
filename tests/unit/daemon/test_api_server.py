"""The API over a real Unix socket, and the command line as its client."""

import asyncio
import json
import socket
import stat
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from shamon_host.cli.api_client import ApiClient
from shamon_host.cli.main import main as shamon
from shamon_host.daemon.api import Answer, Api, error_body
from shamon_host.daemon.api_server import MAX_REQUEST_BYTES, serve_api
from shamon_host.domain.errors import BackendFailed, BadInput, NotTrusted, Refused, ShamonError, Unreachable
from tests.unit.daemon.daemon_world import DaemonWorld, daemon


class Canned:
    """An API that answers everything alike, and keeps what it was asked."""

    def __init__(self, answer: Answer | Exception) -> None:
        self.answer = answer
        self.asked: list[tuple[str, str, Mapping[str, Any]]] = []

    async def handle(self, method: str, path: str, fields: Mapping[str, Any]) -> Answer:
        self.asked.append((method, path, fields))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def served(api: object, path: Path, ask: Callable[[], Any]) -> Any:
    """What `ask`, run in a thread, returned while the API was served at `path`."""

    async def main() -> Any:
        runner = await serve_api(api, path)  # type: ignore[arg-type]
        try:
            return await asyncio.to_thread(ask)
        finally:
            await runner.cleanup()

    return asyncio.run(main())


def test_requests_and_answers(tmp_path: Path) -> None:
    path, api = tmp_path / "run" / "shamon.sock", Canned(Answer(status=200, body={"a": ["é", 1.5, None]}))
    client = ApiClient(path)
    assert served(api, path, lambda: client.get("/v1/audit", {"after": 3})) == {"a": ["é", 1.5, None]}
    assert served(api, path, lambda: client.post("/v1/vms/web/stop", {"reason": "x y"})) == api.answer.body  # type: ignore[union-attr]
    assert api.asked == [("GET", "/v1/audit", {"after": "3"}), ("POST", "/v1/vms/web/stop", {"reason": "x y"})]


def test_only_root_may_ask(tmp_path: Path) -> None:
    path = tmp_path / "run" / "shamon.sock"
    mode = served(Canned(Answer(status=200, body={})), path, lambda: path.stat().st_mode)
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_socket_that_a_dead_daemon_left_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "shamon.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    assert served(Canned(Answer(status=200, body=7)), path, lambda: ApiClient(path).get("/")) == 7


def test_a_place_where_it_cannot_listen(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BackendFailed, match="cannot listen"):
        served(Canned(Answer(status=200, body=7)), tmp_path / "file" / "shamon.sock", lambda: None)


@pytest.mark.parametrize(
    "error",
    [
        BadInput("bad", where="a", expected="b", found="c", remedy="d"),
        NotTrusted("untrusted"),
        Unreachable("far"),
        Refused("no"),
    ],
)
def test_errors_arrive_as_what_they_were(error: ShamonError, tmp_path: Path) -> None:
    path = tmp_path / "shamon.sock"
    with pytest.raises(ShamonError) as caught:
        served(Canned(Answer(status=400, body=error_body(error))), path, lambda: ApiClient(path).get("/v1/status"))
    assert caught.value.exit_code == error.exit_code
    assert str(caught.value) == str(error)


def test_a_mistake_in_the_daemon_is_told_as_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "shamon.sock"
    with pytest.raises(ShamonError, match="an error in the daemon") as caught:
        served(Canned(KeyError("a mistake")), path, lambda: ApiClient(path).get("/v1/status"))
    assert caught.value.exit_code == 1
    assert "a mistake" not in str(caught.value)
    assert "KeyError" in caplog.text


@pytest.mark.parametrize(
    "body", [{}, {"error": 1}, {"error": {"what": "x"}}, [], "words", {"error": {"exit_code": []}}]
)
def test_an_answer_that_makes_no_sense(body: Any, tmp_path: Path) -> None:
    path = tmp_path / "shamon.sock"
    with pytest.raises(ShamonError):
        served(Canned(Answer(status=409, body=body)), path, lambda: ApiClient(path).get("/v1/status"))


def _raw(path: Path, data: bytes) -> tuple[int, Any]:
    with socket.socket(socket.AF_UNIX) as channel:
        channel.settimeout(10)
        channel.connect(str(path))
        channel.sendall(data)
        received = b""
        while chunk := channel.recv(65536):
            received += chunk
    head, _, body = received.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


@pytest.mark.parametrize(
    "body", [b"not json", b"[]", b"7", b'"x"', b"\xff\xff", b"[" * 60_000, b"{" + b" " * (MAX_REQUEST_BYTES + 1) + b"}"]
)
def test_bodies_that_are_no_request(body: bytes, tmp_path: Path) -> None:
    path, api = tmp_path / "shamon.sock", Canned(Answer(status=200, body={}))
    request = b"POST /v1/attest HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
    status, answer = served(api, path, lambda: _raw(path, request + body))
    assert status == 400
    assert answer["error"]["exit_code"] == 2
    assert not api.asked


def test_what_is_still_to_do_of_links(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "shamon.sock"
    plan = {
        "operations": ["delete foreign SPD entry: allow \x1b[2J", "install the guard"],
        "handshakes": ["beta"],
        "out_of_reach": ["SA to 192.0.2.1 proto 51 spi 0x00000100"],
    }
    api = Canned(Answer(status=200, body=plan))
    assert served(api, path, lambda: shamon(["links", "--plan", "--socket", str(path)])) == 1
    assert capsys.readouterr().out == (
        "to do: delete foreign SPD entry: allow ?[2J\n"
        "to do: install the guard\n"
        "a handshake with beta: a link to it lacks an SA, or its gate is shut\n"
        "to be removed by hand: SA to 192.0.2.1 proto 51 spi 0x00000100\n"
    )
    assert served(api, path, lambda: shamon(["links", "--plan", "--json", "--socket", str(path)])) == 1
    assert json.loads(capsys.readouterr().out) == plan
    assert api.asked == [("GET", "/v1/links/plan", {})] * 2


# The command line against a whole daemon


def whole(tmp_path: Path, ask: Callable[[str], None]) -> None:
    """`ask` gets the path of the socket of alpha's daemon; beta and gamma are off."""

    async def with_daemon(test: Callable[[DaemonWorld], Awaitable[None]]) -> None:
        async with DaemonWorld() as world:
            await world.prepare()
            await world.alpha.boot()
            await test(world)

    async def test(world: DaemonWorld) -> None:
        runner = await serve_api(Api(daemon=daemon(world.alpha)), tmp_path / "shamon.sock")
        try:
            await asyncio.to_thread(ask, str(tmp_path / "shamon.sock"))
        finally:
            await runner.cleanup()

    asyncio.run(with_daemon(test))


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def ask(path: str) -> None:
        def run(*arguments: str) -> tuple[int, str, str]:
            code = shamon([*arguments, "--socket", path])
            return code, *capsys.readouterr()

        assert run("status")[1].startswith("alpha of lab, policy version 1")
        assert json.loads(run("status", "--json")[1])["host"] == "alpha"
        assert "HOST" in run("peers")[1]
        assert run("links")[1] == "no links\n"
        assert run("links", "--plan")[:2] == (0, "nothing to do\n")
        assert run("vm", "start", "web")[:2] == (0, "web: running as system_u:system_r:svirt_t:s0:c1,c516,c517\n")
        assert "running" in run("vms")[1]
        code, _, err = run("vm", "start", "probe")
        assert code == 1
        assert "conflict" in err
        code, out, _ = run("vm", "start", "none", "--json")
        assert code == 2
        assert json.loads(out)["error"]["expected"] == "one of: probe, shop, web"
        for name in ("no such/vm", "ü", "\x1b[2J", "..", ""):
            code, _, err = run("vm", "start", name)
            assert code == 2, name
            assert "\x1b" not in err
        assert run("vm", "quarantine", "web", "--reason", "looks odd")[1] == "web: paused, in quarantine: suspend\n"
        assert "suspend: looks odd" in run("vms")[1]
        assert run("vm", "quarantine", "web", "--reason", "odd\x1b[2J")[0] == 2
        assert "looks odd" in run("audit", "--limit", "1000")[1]
        assert run("audit", "--after", "-1")[0] == 2
        assert run("attest")[1] == "attesting with beta, gamma\n"
        assert run("disks")[:2] == (0, "no VM of this host has a disk beside its own\n")
        code, _, err = run("disk", "adopt", "cache")
        assert code == 2
        assert "no VM of this host has the disk 'cache'" in err

    whole(tmp_path, ask)
