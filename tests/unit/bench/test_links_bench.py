"""The bench of links measures what it says it does: its links, its own answers, its report."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from shamon_host.links.planner import plan
from tests.bench import links as links_bench
from tests.bench import links_kernel_side, links_memory
from tests.bench.answers import WrongAnswer
from tests.bench.links import FORMAT, main
from tests.bench.links_kernel import report as kernel_report
from tests.bench.links_memory import measure
from tests.bench.links_parts import PARTS, PartReport
from tests.bench.many_links import ManyLinks, empty_kernel

SMALL = ManyLinks(peers=4, types=3)


@pytest.fixture(scope="module")
def report() -> PartReport:
    return measure(1, SMALL)


def test_the_full_size_is_that_of_the_goals() -> None:
    assert ManyLinks().links == 10_000


def test_what_is_read_is_what_is_wanted_and_shares_nothing_with_it() -> None:
    book = SMALL.book()
    wanted = SMALL.wanted(book, empty_kernel())
    state = SMALL.kernel(wanted.links)
    assert plan(SMALL.wanted(book, state), state) == ()
    assert (len(state.sas), len(state.tunnels), len(state.spd)) == (24, 12, 24 + 8)
    contexts = {id(link.link_context) for link in wanted.links}
    assert contexts.isdisjoint(id(sa.context) for sa in state.sas)


def test_the_goals_are_those_of_a_host_with_many_peers(report: PartReport) -> None:
    goals = {found["name"]: found["goal"] for found in report.measurements if found["goal"] is not None}
    assert goals == {"plan and diff, 24 SAs, all there": 1.0, "plan and diff, 24 SAs, none there": 1.0}
    assert all(count > 0 for count in report.memory.values())
    assert report.notes == ("4 peers with 3 types each: 12 links, 24 SAs, 32 SPD entries",)


def test_a_wrong_plan_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links_memory, "plan", lambda wanted, state: plan(wanted, replace(state, guard=False)))
    with pytest.raises(WrongAnswer, match="a plan where nothing is to do"):
        measure(1, SMALL)


def test_the_command_line_runs_the_parts_that_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []

    def part(name: str) -> object:
        asked.append(name)
        return lambda rounds: replace(measure(rounds, SMALL), notes=(f"{name} was here",))

    monkeypatch.setattr(links_bench, "part", part)
    file = tmp_path / "report.json"
    assert main(["--rounds", "1", "kernel", "memory", "kernel", "--json", str(file)]) == 0
    assert asked == ["kernel", "memory"]
    assert main(["--rounds", "1"]) == 0
    assert asked == ["kernel", "memory", "memory"]
    printed = capsys.readouterr().out
    assert "kernel was here" in printed
    assert "plan and diff" in printed
    written = json.loads(file.read_text())
    assert written["format"] == FORMAT
    assert list(written["parts"]) == ["kernel", "memory"]
    with pytest.raises(SystemExit):
        main(["nothing"])


def test_every_part_is_told_about(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    printed = capsys.readouterr().out
    assert all(name in printed for name in PARTS)


def test_what_the_kernels_side_writes_becomes_a_report() -> None:
    costs = {
        "add: ip -batch": [0.002, 0.002],
        "add: ip -batch, ip xfrm state": [0.008, 0.008],
        "add: links": [0.001, 0.003],
        "add: pyxfrm": [0.001, 0.001],
        "remove: ip xfrm state flush": [0.5, 0.5],
        "remove: flush, the request alone": [0.2, 0.2],
        "remove: links": [0.9, 0.9],
    }
    found = {each["name"]: each for each in kernel_report(costs, "an emulator").measurements}
    added, listed, bare, removed, less = found.values()
    assert (added["unit"], added["baseline"]["ratio"], added["met"]) == ("1/s", 1.0, True)
    assert listed["baseline"] == {"name": "ip -batch, ip xfrm state", "ratio": 0.25, "goal": None}
    assert bare["baseline"] == {"name": "ip -batch", "ratio": 0.5, "goal": 1.0}
    assert removed["name"] == "1,000 SAs of one peer removed among 20,000"
    assert (removed["baseline"]["ratio"], removed["baseline"]["goal"], removed["met"]) == (1.8, 2.0, True)
    assert (less["met"], less["baseline"]["ratio"]) == (None, pytest.approx(4.5))


def test_iproute2_is_asked_for_the_same_sa() -> None:
    (sa,) = links_kernel_side._sas_of_peer(3, 1)
    assert sa.key is not None
    line = links_kernel_side._line(sa)
    assert line.startswith("xfrm state add src 10.2.0.4 dst 10.1.0.1 proto esp spi 0x40000 reqid 16384 mode transport ")
    assert f" replay-window 256 flag esn aead rfc4106(gcm(aes)) 0x{sa.key.hex()} 128 limit " in line
    assert " limit time-hard 86400 " in line
    assert line.endswith(" ctx system_u:object_r:shamon_link_t:s0:c1\n")
