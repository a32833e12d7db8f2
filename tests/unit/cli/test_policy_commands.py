"""`shamon policy`: what it prints of files and of the daemon's answers, and the exit codes."""

import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from shamon_host.cli.main import main
from shamon_host.daemon.api import Answer, Api, error_body
from shamon_host.daemon.api_server import serve_api
from shamon_host.domain.errors import NotTrusted, Refused, ShamonError
from shamon_host.domain.policy_file import parse_policy
from tests.unit.daemon.daemon_world import daemon
from tests.unit.daemon.signed_world import SignedWorld, envelope, signed_policy
from tests.unit.daemon.test_api_server import Canned, served
from tests.unit.domain.policy_text import FINANCE_TEXT, TEXT, changed
from tests.unit.domain.test_adapted_policy import OWN, PEER

FIRST = signed_policy()
SECOND = signed_policy(after=FIRST)


class Result(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Result]
Asked = Callable[..., tuple[Result, Canned]]
Written = Callable[[str, str | bytes], Path]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: object) -> Result:
        code = main(["policy", *map(str, arguments)])
        return Result(code, *capsys.readouterr())

    return run


@pytest.fixture
def written(tmp_path: Path) -> Written:
    def written(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return written


# explain and dry-run, of files


def test_explain_shows_lines(run: Run, written: Written) -> None:
    path = written("policy.toml", TEXT)
    result = run("explain", "web", "spy", "--file", path)
    assert result.code == 1
    lines = TEXT.splitlines()
    assert "denied     exchange frames: web, spy\n           ste: web writes acme/red; spy reads" in result.out
    assert f"{path}:{lines.index('[conflicts.competitors]') + 1}: conflicts.competitors" in result.out
    assert run("explain", "web", "db", "--file", path).code == 0
    (use,) = run("explain", "web", "red-archive", "--file", path, "--json").json
    assert use["permitted"]
    assert use["lines"] == [
        lines.index("[vms.web]") + 2,
        lines.index("[labels.red]") + 1,
        lines.index("[resources.red-archive]") + 1,
    ]
    denied = run("explain", "web", "spy", "--file", path, "--json")
    assert (denied.code, [each["permitted"] for each in denied.json]) == (1, [False, False, False])


def test_explain_of_an_envelope_has_keys_without_lines(run: Run, written: Written) -> None:
    path = written("policy.json", envelope(FIRST))
    result = run("explain", "web", "db", "--file", path)
    assert result.code == 0
    assert "\n           vms.web.label\n" in result.out
    assert all(set(each["lines"]) == {0} for each in run("explain", "web", "db", "--file", path, "--json").json)


def test_explain_of_unknown_names_and_files(run: Run, written: Written, tmp_path: Path) -> None:
    path = written("policy.toml", TEXT)
    result = run("explain", "wbe", "db", "--file", path)
    assert (result.code, result.out) == (2, "")
    assert "Did you mean web?" in result.err
    assert run("explain", "wbe\x1b[2J", "db", "--file", path).err.count("\x1b") == 0
    assert run("explain", "web", "db", "--file", tmp_path / "none").code == 2
    assert run("explain", "web", "db", "--file", written("bad.toml", TEXT + "[")).code == 2
    assert run("explain", "web", "db", "--file", written("bad.json", "{}"), "--json").json["error"]["exit_code"] == 2


def test_a_file_whose_name_is_no_text(run: Run, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"polic\xff\x1b.toml")
    path.write_text(TEXT)
    assert "polic??.toml:" in run("explain", "web", "db", "--file", path).out
    assert run("check", path).code == 0
    own = run("adapt", path, "--to", path, "--type", "acme/red", "--out", tmp_path / "out.toml")
    assert own.code == 0
    assert "polic??.toml" in (tmp_path / "out.toml").read_text()


def test_a_check_says_what_a_policy_leaves_open(run: Run, written: Written) -> None:
    """Whose addresses nobody declared, and between which hosts there is no link: no mistakes, and told."""
    path = written("finance.toml", FINANCE_TEXT)
    result = run("check", path)
    assert result.code == 0
    assert (
        "note: no link leads from hosts with IPv4 addresses (alpha) to hosts with IPv6 addresses (beta)" in result.out
    )
    (note,) = [line for line in result.out.splitlines() if "no addresses are declared" in line]
    assert "desk in bank/ledger" in note
    assert "clerk" not in note
    told = run("check", path, "--json").json
    assert ["desk", "bank/mail"] in told["undeclared_addresses"]
    assert told["underlay"] == {"IPv4": ["alpha"], "IPv6": ["beta"]}
    one_family = run("check", written("policy.toml", changed('"2001:db8::3"', '"192.0.2.3"')))
    assert "no link leads" not in one_family.out


def test_a_dry_run_of_a_file(run: Run, written: Written) -> None:
    path = written("policy.toml", TEXT)
    result = run("dry-run", "web@alpha", "--file", path)
    assert result.code == 0
    assert "permitted  link.open: alpha, beta acme/red" in result.out
    result = run("dry-run", "spy@beta", "--running", "db", "--running", "broker", "--file", path, "--json")
    assert result.code == 1
    assert (result.json[0]["rule"], result.json[0]["keys"]) == ("chinese-wall", ["conflicts.competitors"])
    hardware = written("hardware.toml", changed('on_failure = "suspend"', 'tpm = "hardware"'))
    assert run("dry-run", "web@alpha", "--file", hardware).code == 0
    assert run("dry-run", "web@alpha", "--tpm", "software", "--file", hardware).code == 1


@pytest.mark.parametrize("what", ["web", "web@", "@alpha", "@", "nobody@alpha", "web@nowhere"])
def test_a_dry_run_of_nothing(what: str, run: Run, written: Written) -> None:
    assert run("dry-run", what, "--file", written("policy.toml", TEXT)).code == 2


def test_a_dry_run_beside_what_is_not_there(run: Run, written: Written) -> None:
    result = run("dry-run", "web@alpha", "--running", "nobody", "--file", written("policy.toml", TEXT))
    assert result.code == 2
    assert "nobody" in result.err


# compatible and adapt


def test_compatible(run: Run, written: Written) -> None:
    own, peer = written("own.toml", OWN), written("peer.toml", PEER)
    assert run("compatible", own, own).out == "shared      bank/ledger\n"
    result = run("compatible", own, peer)
    assert result.code == 1
    assert "not shared  bank/ledger means something else to each side: walls\n" in result.out
    assert "not shared  bank/mail is unknown to own\n" in result.out
    answer = run("compatible", own, peer, "--json").json["bank/mail"]
    assert (answer["shared"], answer["reason"], answer["denied_by"]) == (False, "unknown", "own")
    assert run("compatible", own, own, "--json").json["bank/ledger"] == {
        "shared": True,
        "reason": None,
        "denied_by": None,
        "fields": [],
        "witness": [],
        "words": "bank/ledger may be shared",
    }


def test_compatible_takes_envelopes_and_says_what_flows(run: Run, written: Written) -> None:
    both = '[types."rival/own"]\n[labels.both]\ntypes = ["rival/blue", "rival/own"]\n'
    own, peer = written("own.json", envelope(FIRST)), written("peer.json", envelope(signed_policy(also=both)))
    answers = run("compatible", own, peer, "--json")
    assert answers.code == 0
    assert answers.json["rival/blue"]["witness"] == [
        {"from": "rival/blue", "label": "both", "side": "peer", "to": "rival/own"}
    ]


def test_adapt_says_what_has_to_be_added_and_writes_it(run: Run, written: Written, tmp_path: Path) -> None:
    own, peer, out = written("own.toml", OWN), written("peer.toml", PEER), tmp_path / "next.toml"
    result = run("adapt", own, "--to", peer, "--type", "bank/mail", "--host", "alpha", "--out", out)
    assert result.code == 0
    assert "+ type bank/mail\n" in result.out
    assert "    permits bank/ledger -> bank/mail\n" in result.out
    assert "    to be signed by bank\n" in result.out
    assert "additions, smallest: no adaptation has fewer\n" in result.out
    assert f"written: {out}" in result.out
    policy = parse_policy(out.read_bytes(), source="next.toml")
    before = parse_policy(OWN.encode(), source="own.toml")
    assert (policy.version, policy.parent) == (before.version + 1, before.digest)
    assert policy.hosts[next(iter(policy.hosts))].types == {"bank/ledger", "bank/mail"}
    assert out.read_text().startswith("# Version 5 of lab: made so that it may share with peer.toml\n")
    assert run("compatible", out, peer, "--json").json["bank/mail"]["shared"]
    assert "nothing has to be added" in run("adapt", out, "--to", peer).out


def test_adapt_in_json(run: Run, written: Written) -> None:
    result = run("adapt", written("own.toml", OWN), "--to", written("peer.toml", PEER), "--json")
    assert result.code == 0
    assert (result.json["possible"], result.json["obstacle"], result.json["minimality"]) == (True, None, "smallest")
    first = result.json["additions"][0]
    assert first == {"add": "type bank/mail", "permits": [], "releases": [], "signers": ["bank/mail"]}


def test_adapt_never_writes_over_a_file(run: Run, written: Written) -> None:
    own, peer = written("own.toml", OWN), written("peer.toml", PEER)
    result = run("adapt", own, "--to", peer, "--out", own)
    assert result.code == 2
    assert "there already" in result.err
    assert own.read_text() == OWN


def test_where_no_adaptation_exists_nothing_is_written(run: Run, written: Written, tmp_path: Path) -> None:
    own = written("own.toml", OWN.replace('[types."bank/ledger"]', '[types."bank/ledger"]\nconfidentiality = 3'))
    peer, out = written("peer.toml", PEER), tmp_path / "next.toml"
    result = run("adapt", own, "--to", peer, "--out", out)
    assert result.code == 1
    assert f"no addition to {own} lets bank/ledger be shared\n" in result.out
    assert "confidentiality" in result.out
    assert not out.exists()
    answer = run("adapt", own, "--to", peer, "--json")
    assert answer.code == 1
    assert answer.json["obstacle"]["reason"] == "meaning"


@pytest.mark.parametrize(
    "more", [["--type", "no type"], ["--type", "acme/unknown"], ["--host", "nowhere", "--out", "never.toml"]]
)
def test_adapt_for_what_is_not_there(more: list[str], run: Run, written: Written, tmp_path: Path) -> None:
    more = [str(tmp_path / word) if word.endswith(".toml") else word for word in more]
    assert run("adapt", written("own.toml", OWN), "--to", written("peer.toml", PEER), *more).code == 2
    assert not (tmp_path / "never.toml").exists()


def test_adapt_of_policies_with_nothing_in_common(run: Run, written: Written) -> None:
    result = run("adapt", written("own.toml", OWN), "--to", written("peer.toml", TEXT))
    assert result.code == 2
    assert "no type in common" in result.err


# What the daemon answers


@pytest.fixture
def asked(run: Run, tmp_path: Path) -> Asked:
    """What the command prints when the daemon answers this, and what it was asked."""

    def asked(answer: Any, *arguments: object, status: int = 200) -> tuple[Result, Canned]:
        api, path = Canned(Answer(status=status, body=answer)), tmp_path / "shamon.sock"
        result: Result = served(api, path, lambda: run(*arguments, "--socket", path))
        return result, api

    return asked


def test_update(asked: Asked, written: Written) -> None:
    path = written("next.json", envelope(SECOND))
    answer = {"version": 2, "digest": SECOND.digest, "confirmed": ["beta"], "unconfirmed": {"gamma": "far\x1b[2J away"}}
    result, api = asked(answer, "update", path, "--without", "delta", "--without", "epsilon")
    assert api.asked == [
        ("POST", "/v1/policy/update", {"envelope": envelope(SECOND).decode(), "without": ["delta", "epsilon"]})
    ]
    assert result.code == 0
    assert result.out == (
        f"version 2 is in force here and on beta ({SECOND.digest[:16]})\n"
        "gamma agreed and has not confirmed; it catches up at the next handshake: far?[2J away\n"
    )
    result, _ = asked(answer, "update", path, "--json")
    assert (result.code, result.json) == (0, answer)
    result, _ = asked({**answer, "confirmed": [], "unconfirmed": {}}, "update", path)
    assert "on no other host" in result.out


@pytest.mark.parametrize(
    ("error", "status", "code"), [(Refused("not agreed to", found="beta: db runs"), 409, 1), (NotTrusted("x"), 403, 3)]
)
def test_update_that_came_to_nothing(
    error: ShamonError, status: int, code: int, asked: Asked, written: Written
) -> None:
    path = written("next.json", envelope(SECOND))
    result, _ = asked(error_body(error), "update", path, status=status)
    assert (result.code, result.out) == (code, "")
    assert error.found in result.err
    result, _ = asked(error_body(error), "update", path, "--json", status=status)
    assert (result.code, result.json["error"]["found"]) == (code, error.found)


def test_update_asks_nobody_for_what_is_no_envelope(run: Run, written: Written, tmp_path: Path) -> None:
    nobody = tmp_path / "nobody"
    assert run("update", written("x", b"\xff"), "--socket", nobody).code == 2
    assert run("update", tmp_path / "none", "--socket", nobody).code == 2
    assert run("update", written("y", envelope(SECOND)), "--socket", nobody).code == 4


def test_status(asked: Asked) -> None:
    answer = {"version": 3, "digest": "ab" * 32, "signed": True, "agreed_to": None}
    result, api = asked(answer, "status")
    assert api.asked == [("GET", "/v1/policy", {})]
    assert (result.code, result.out) == (0, f"version 3 ({'ab' * 32}), signed\n")
    result, _ = asked({**answer, "signed": False, "agreed_to": 4}, "status")
    assert "unsigned\nagreed to version 4, and waiting" in result.out
    assert asked(answer, "status", "--json")[0].json == answer


def test_explain_asks_the_daemon_where_no_file_is_given(asked: Asked) -> None:
    answer = [
        {
            "check": "use",
            "subject": "web",
            "object": "books",
            "permitted": False,
            "rule": "ste",
            "reason": "n\x1bo",
            "keys": ["vms.web"],
        }
    ]
    result, api = asked(answer, "explain", "web", "books")
    assert api.asked == [("GET", "/v1/policy/explain", {"one": "web", "other": "books"})]
    assert (result.code, result.out) == (
        1,
        "denied     use: web, books\n           ste: n?o\n           vms.web\n",
    )


def test_a_dry_run_of_another_host_is_not_for_this_daemon(asked: Asked) -> None:
    result, api = asked({"host": "alpha"}, "dry-run", "db@beta")
    assert result.code == 2
    assert "db@alpha" in result.err
    assert [path for _, path, _ in api.asked] == ["/v1/status"]


def test_against_a_whole_daemon(run: Run, written: Written, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """alpha of three hosts, the others of which are off."""
    path, update = tmp_path / "shamon.sock", written("next.json", envelope(SECOND))

    def ask() -> None:
        def daemon_says(*arguments: object) -> Result:
            return run(*arguments, "--socket", path)

        assert daemon_says("status").out == f"version 1 ({FIRST.digest}), signed\n"
        assert daemon_says("explain", "web", "db").code == 0
        assert daemon_says("explain", "web", "spy").code == 1
        assert daemon_says("explain", "web", "spy\x1b").code == 2
        result = daemon_says("dry-run", "web@alpha", "--json")
        assert [each["check"] for each in result.json] == ["vm.start", "vm.attach", "link.open"]
        assert daemon_says("dry-run", "db@beta").code == 2
        assert main(["vm", "start", "web", "--dry-run", "--json", "--socket", str(path)]) == result.code
        assert json.loads(capsys.readouterr().out) == result.json
        result = daemon_says("update", update)
        assert result.code == 1
        assert "beta: it did not answer" in result.err
        result = daemon_says("update", update, "--without", "beta", "--without", "gamma")
        assert result.code == 3
        assert "too few hosts" in result.err
        assert daemon_says("update", update, "--without", "delta").code == 2
        assert daemon_says("update", written("bad.json", b"{}")).code == 2
        assert daemon_says("status").out.startswith("version 1 ")

    async def test() -> None:
        async with SignedWorld(first=FIRST) as world:
            await world.prepare()
            await world.alpha.boot()
            runner = await serve_api(Api(daemon=daemon(world.alpha)), path)
            try:
                await asyncio.to_thread(ask)
            finally:
                await runner.cleanup()

    asyncio.run(test())
