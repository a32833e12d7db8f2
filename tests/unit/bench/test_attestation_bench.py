"""The attestation bench measures what it says it does: its logs, its replay, its report."""

import json
import sys
from pathlib import Path

import pytest

from shamon_host.attestation.ima_log import encode_ima_log, parse_ima_log, replay_until
from tests.bench import attestation as attestation_bench
from tests.bench.answers import WrongAnswer
from tests.bench.attestation import FORMAT, Report, Size, bench, main, print_report
from tests.bench.attestation_logs import appraiser, keylime_of
from tests.bench.attestation_quotes import quotes_of_a_crowd
from tests.bench.big_logs import BigLog, bare_replay, write_for_keylime

SMALL = Size(entries=100, many_entries=150, added=5, hosts=2, handshakes=1)
GOALS = {
    "appraise a log of 100 entries": (None, 1.6),
    "appraise 5 entries more": (0.001, None),
    "verify a quote, P-256": (5000, 1.3),
    "appraise a log of 150 entries": (None, 1.6),
}


@pytest.fixture(scope="module")
def report() -> Report:
    return bench(SMALL, 1, Path("nowhere"), Path("nowhere"))


def test_a_log_has_as_many_entries_as_it_says_and_is_accepted() -> None:
    log = BigLog(entries=100)
    assert len(log.machine.logs.entries) == 100
    state = appraiser(log)()
    assert state.facts.entries == 100
    log.run_more(3)
    assert len(log.machine.logs.entries) == 103


def test_the_bare_replay_is_that_of_the_log() -> None:
    log = BigLog(entries=60)
    data = log.machine.logs.ima_log(0)
    assert bare_replay(data) == log.machine.tpm.pcrs[10]
    assert replay_until(parse_ima_log(data), {}, {10: bare_replay(data)}).verified == 60
    assert bare_replay(encode_ima_log(parse_ima_log(data)[:-1])) != log.machine.tpm.pcrs[10]


def test_a_log_that_is_not_accepted_is_a_wrong_answer() -> None:
    log = BigLog(entries=60)
    assert log.reference.files  # made before the stranger runs
    log.machine.run_program("/usr/bin/stranger", b"\x7fELF stranger")
    with pytest.raises(WrongAnswer, match="a good log fails"):
        appraiser(log)()


def test_keylime_gets_the_same_log_and_the_same_known_files(tmp_path: Path) -> None:
    log = BigLog(entries=60)
    write_for_keylime(log, tmp_path)
    lines = (tmp_path / "log.ascii").read_text().splitlines()
    assert len(lines) == 60
    policy = json.loads((tmp_path / "policy.json").read_text())
    assert policy["digests"].items() >= {path: sorted(known) for path, known in log.reference.files.items()}.items()
    assert (tmp_path / "pcr10").read_text() == log.machine.tpm.pcrs[10].hex()


@pytest.mark.parametrize(("failed", "reason"), [("true", "does not accept"), ("false", "does not accept")])
def test_a_keylime_that_says_something_else_is_a_wrong_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failed: str, reason: str
) -> None:
    log = BigLog(entries=60)
    side = tmp_path / "side.py"
    side.write_text(
        "import sys\nfor _ in sys.stdin:\n"
        f'    print(\'{{"cost_s": 1, "pcr": "00", "failed": {failed}}}\', flush=True)\n'
    )
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    monkeypatch.setattr("tests.bench.attestation_logs._SIDE", side)
    with keylime_of(log, tmp_path) as keylime:
        assert keylime is not None
        with pytest.raises(WrongAnswer, match=reason):
            keylime.cost_s()


def test_a_crowds_quotes_are_counted() -> None:
    found = quotes_of_a_crowd(3, periods=2)
    assert found["peers"] == 2
    assert 0 < found["quotes in a quiet period"] <= 2
    assert found["quotes for a change of its own"] == 1


def test_the_report_has_the_documented_shape(report: Report) -> None:
    document = json.loads(json.dumps(report.as_json()))
    assert document["format"] == FORMAT
    assert document["handshakes_ms"] == {}
    assert all(count > 0 for count in document["memory_bytes"].values())
    goals = {
        each["name"]: (each["goal"], each["baseline"]["goal"])
        for each in document["measurements"]
        if each["met"] is not None
    }
    assert goals == GOALS


def test_what_is_printed(report: Report, capsys: pytest.CaptureFixture[str]) -> None:
    shown = {**report.as_json(), "handshakes_ms": {"handshake": {"p50": 58.7, "p99": 89.4}}}
    print_report(shown)
    printed = capsys.readouterr().out
    assert all(each.name in printed for each in report.measurements)
    assert "with 1 peers: " in printed
    assert "p50 58.7 ms, p99 89.4 ms" in printed


def test_a_wrong_answer_ends_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def wrong(*_: object) -> Report:
        raise WrongAnswer("two and two are five")

    monkeypatch.setattr(attestation_bench, "bench", wrong)
    assert main([]) == 1
    assert "wrong answer: two and two are five" in capsys.readouterr().err
