"""`shamon link doctor`: what it prints, its exit codes, the other side's report, the logs that it reads itself."""

import json
import os
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from shamon_host.cli import denial_log, link_doctor
from shamon_host.cli.api_client import ApiClient, _error
from shamon_host.cli.denial_log import denial_lines
from shamon_host.cli.main import main
from shamon_host.daemon.api import Answer, Api
from tests.unit.daemon.daemon_world import DaemonWorld, daemon, play
from tests.unit.links.test_denials import AUDITD, FILE, POLMATCH

DOCUMENT = Path(__file__).resolve().parents[3] / "docs/link-doctor.md"
RED = "acme/red"


@dataclass
class Shamon:
    """Runs the command on a host, in one situation after the other. `denials`: None where no log can be read."""

    answers: dict[tuple[str, str], Answer]
    capsys: pytest.CaptureFixture[str]
    situation: str = "well"
    host: str = "alpha"
    denials: list[str] | None = field(default_factory=list)

    def __call__(self, line: str) -> tuple[int, str, str]:
        code = main(shlex.split(line))
        printed = self.capsys.readouterr()
        return code, printed.out, printed.err

    def answer(self, target: str) -> Any:
        parts = urlsplit(target)
        query = dict(parse_qsl(parts.query))
        assert parts.path == "/v1/link/doctor"
        assert query["peer"] == ("beta" if self.host == "alpha" else "alpha")
        answer = self.answers[self.situation, self.host]
        if answer.status != 200:
            raise _error(answer.body)
        return answer.body

    def lines(self) -> list[str]:
        if self.denials is None:
            raise PermissionError(13, "Permission denied")
        return self.denials


@pytest.fixture(scope="module")
def answers() -> dict[tuple[str, str], Answer]:
    """Situation and host → what the daemon answers."""
    found: dict[tuple[str, str], Answer] = {}

    async def ask(world: DaemonWorld, situation: str, **fields: Any) -> None:
        for host, peer in (("alpha", "beta"), ("beta", "alpha")):
            if world.hosts[host].daemon is None:
                continue
            query = {"peer": peer, "type": RED, **fields}
            found[situation, host] = await Api(daemon=daemon(world.hosts[host])).handle("GET", "/v1/link/doctor", query)

    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        await ask(world, "well")
        await ask(world, "hostile", vm="We b")
        await world.beta.ask("vm", "stop", "db")
        await world.wait(5)
        await ask(world, "stopped")
        await world.start("beta", "db")
        await world.until(world.web_reaches_db, within_s=30, what="web reaches db")
        await world.beta.kill_daemon()
        await world.wait(15)
        await ask(world, "silent")

    play(test)
    return found


@pytest.fixture
def shamon(
    answers: dict[tuple[str, str], Answer],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Shamon:
    shamon = Shamon(answers, capsys)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ApiClient, "_request", lambda client, method, target, body: shamon.answer(target))
    monkeypatch.setattr(link_doctor, "denial_lines", shamon.lines)
    return shamon


DOCTOR = f"link doctor beta {RED}"


def theirs(shamon: Shamon) -> Path:
    """beta's own report, in a file."""
    own, shamon.host = shamon.host, "beta"
    _, out, _ = shamon(f"link doctor alpha {RED} --json")
    shamon.host = own
    path = Path("beta.json")
    path.write_text(out)
    return path


def test_a_link_that_is_well(shamon: Shamon) -> None:
    code, out, err = shamon(DOCTOR)
    assert (code, err) == (0, "")
    assert "Nothing is wrong that alpha can see." in out
    assert "--peer-report" in out
    assert "WRONG" not in out
    code, out, _ = shamon(f"{DOCTOR} --json")
    value = json.loads(out)
    assert (code, value["verdict"], value["first_wrong"]) == (0, "ok", None)
    assert value["stages"][-1]["name"] == "denials"


def test_what_is_wrong_first_is_said_last(shamon: Shamon) -> None:
    shamon.situation = "stopped"
    code, out, _ = shamon(DOCTOR)
    assert code == 1
    assert "First wrong: offer (terms) on alpha: beta did not offer acme/red: no VM there uses it" in out
    assert "to do: On beta, `shamon vms`" in out
    assert json.loads(shamon(f"{DOCTOR} --json")[1])["verdict"] == "wrong"


def test_both_sides_together(shamon: Shamon) -> None:
    path = theirs(shamon)
    code, out, _ = shamon(f"{DOCTOR} --peer-report {path}")
    assert code == 0
    assert "Nothing is wrong that alpha and beta can see." in out
    assert "ports 16385 and 16385, and every SPI" in out
    assert "--peer-report" not in out
    shamon.situation = "stopped"
    path = theirs(shamon)
    code, out, _ = shamon(f"{DOCTOR} --peer-report {path}")
    assert code == 1
    assert "First wrong: VM (ready) on beta: db is absent" in out


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000, '{"version": 1}', "x" * (2 << 20)])
def test_a_file_that_is_no_report(shamon: Shamon, text: str) -> None:
    Path("beta.json").write_text(text)
    code, out, err = shamon(f"{DOCTOR} --peer-report beta.json")
    assert (code, out) == (2, "")
    assert "beta.json" in err


def test_a_report_that_would_write_on_the_terminal(shamon: Shamon) -> None:
    document = json.loads(theirs(shamon).read_text())
    document["stages"][0] |= {"found": "\x1b[2J gone", "verdict": "wrong", "remedy": "\x1b]0;x\x07"}
    Path("beta.json").write_text(json.dumps(document))
    code, out, _ = shamon(f"{DOCTOR} --peer-report beta.json")
    assert code == 1
    assert "\x1b" not in out
    assert "?[2J gone" in out


def test_errors_of_the_daemon(shamon: Shamon) -> None:
    shamon.situation = "hostile"
    code, _, err = shamon(f"{DOCTOR} --vm 'We b'")
    assert (code, "bad VM name" in err) == (2, True)


def test_denials_of_this_host_count(shamon: Shamon) -> None:
    value = json.loads(shamon(f"{DOCTOR} --json")[1])
    category = value["context"].rsplit(":", 1)[1]
    when = f"audit({value['wall_s']:.3f}:"
    shamon.denials = [POLMATCH.replace("audit(1700000099.123:", when).replace("s0:c10 ", f"s0:{category} ")]
    code, out, _ = shamon(DOCTOR)
    assert code == 1
    assert "First wrong: denials (refused) on alpha: 1 about this type: polmatch of association denied" in out
    shamon.denials = None
    code, out, _ = shamon(DOCTOR)
    assert code == 0
    assert "not known: denials (refused) on alpha" in out
    assert "Permission denied" in out


def test_the_page_shows_what_the_command_prints(shamon: Shamon) -> None:
    """Each block is one situation, named in its first line's comment."""
    blocks = re.findall(r"<!-- (\w+) -->\n```text\n(.*?)^```", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    assert {situation for situation, _ in blocks} >= {"well", "stopped", "silent"}
    for situation, block in blocks:
        shamon.situation = situation
        command, *lines = block.splitlines()
        shown = " ".join(takewhile(lambda line: not line.startswith("# "), lines))
        _, out, err = shamon(command.removeprefix("# shamon "))
        assert re.fullmatch(_pattern(shown), " ".join((out + err).split())), out + err


def _pattern(shown: str) -> str:
    """`...` stands for anything."""
    return ".*".join(re.escape(" ".join(part.split())) for part in shown.split("...")).replace(r".*\ ", ".*")


# The logs


@pytest.fixture
def kernel_log(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[bytes | OSError]], None]:
    """What reading /dev/kmsg gives, record by record."""

    def gives(records: list[bytes | OSError]) -> None:
        rest = [*records, BlockingIOError()]

        def read(descriptor: int, size: int) -> bytes:
            record = rest.pop(0)
            if isinstance(record, OSError):
                raise record
            return record

        monkeypatch.setattr(os, "read", read)

    return gives


def test_the_kernels_own_records_and_auditds_file(
    tmp_path: Path, kernel_log: Callable[[list[bytes | OSError]], None]
) -> None:
    kmsg, audit = tmp_path / "kmsg", tmp_path / "audit.log"
    kmsg.touch()
    audit.write_text(f"{AUDITD}\ntype=USER_AVC {FILE}\ntype=SYSCALL x\n")
    forged = f"13,7,1,-;{POLMATCH.replace('c10', 'c66')}\n".encode()
    kernel_log(
        [
            f"5,1,1,-;{POLMATCH}\n SUBSYSTEM=x\n".encode(),
            b"6,2,2,-;something else\n",
            BrokenPipeError(),
            forged,  # somebody wrote it to /dev/kmsg
            b"x,3,3,-;avc:\n",
            b"\xff\xfe",
            f"5,4,4,c;{POLMATCH}".encode(),
        ]
    )
    assert denial_lines(kmsg, audit) == [POLMATCH, POLMATCH, AUDITD]


def test_one_log_is_enough_and_none_is_an_error(tmp_path: Path) -> None:
    audit = tmp_path / "audit.log"
    with pytest.raises(FileNotFoundError):
        denial_lines(tmp_path / "none", audit)
    audit.write_text(f"{AUDITD}\n")
    assert denial_lines(tmp_path / "none", audit) == [AUDITD]


def test_of_a_large_file_the_end_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    audit = tmp_path / "audit.log"
    audit.write_text(f"{FILE}\n" * 50 + f"{AUDITD}\n")
    monkeypatch.setattr(denial_log, "MAX_AUDIT_BYTES", len(AUDITD) + 100)
    assert denial_lines(tmp_path / "none", audit) == [AUDITD]
    assert os.path.getsize(audit) > 10_000
