"""The policy bench measures what it says it does: its policies, its own answers, its report."""

import json
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from shamon_host.domain.compatibility import compatibility
from shamon_host.domain.flows import FlowLabel, flow_system
from shamon_host.domain.policy_file import PolicyErrors, parse_policy
from tests.bench import policy as policy_bench
from tests.bench.answers import WrongAnswer
from tests.bench.big_policies import VMS_OF_A_HOST, BigPolicy, Size, big_policy, peer_of, walls_of, with_mistakes
from tests.bench.measuring import Measurement, Unit, Work, measured
from tests.bench.memory import taken
from tests.bench.plain_answers import in_conflict, reachable, shared_types
from tests.bench.policy import FORMAT, Report, bench, main
from tests.bench.policy_decisions import Questions, check_decisions
from tests.bench.policy_loading import loaded
from tests.bench.policy_sharing import check_sharing
from tests.bench.table import print_report

SMALL = Size(types=60, labels=400, conflict_sets=6, asked=12)
GOALS = {
    "load and check a file": 1.0,
    "may_send, cached": 500_000,
    "conflict_with, 1 running, cached": 500_000,
    "may_send, new": 100_000,
    "conflict_with, 1 running, new": 100_000,
    "ste.may_send": 100_000,
    "chinese_wall.conflicts, 1 running": 100_000,
    "compatibility of two policies": 2.0,
    "adaptation that shares everything": 10.0,
}


@pytest.fixture(scope="module")
def written() -> BigPolicy:
    return big_policy(SMALL)


@pytest.fixture(scope="module")
def report() -> Report:
    return bench(SMALL, rounds=1)


# The policies


def test_a_policy_has_the_size_that_is_asked_for(written: BigPolicy) -> None:
    root = tomllib.loads(written.toml.decode())
    assert (len(root["types"]), len(root["labels"]), len(root["conflicts"])) == (60, 400, 6)
    assert {len(table["types"]) for table in root["conflicts"].values()} == {2}
    several = [name for name, label in written.system.labels.items() if len(label.reads | label.writes) > 1]
    assert 0.02 < len(several) / 400 < 0.08
    assert 0 < len(root["vms"]) <= VMS_OF_A_HOST * len(root["hosts"])


def test_the_full_size_is_that_of_the_goals() -> None:
    size = Size()
    assert (size.types, size.labels, size.conflict_sets) == (1_000, 10_000, 200)


def test_a_policy_is_the_same_for_the_same_seed(written: BigPolicy) -> None:
    assert big_policy(SMALL).toml == written.toml
    assert big_policy(SMALL, seed=2).toml != written.toml


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_policy_and_its_peer_are_read_as_they_were_written(seed: int) -> None:
    written = big_policy(SMALL, seed)
    own, peer = loaded(written), loaded(peer_of(written))
    assert peer.types < own.types
    assert len(peer.vm_labels) < len(own.vm_labels)
    assert len(peer.conflict_sets) < len(own.conflict_sets)


def test_a_policy_that_is_read_as_another_one_is_noticed(written: BigPolicy) -> None:
    fewer = frozenset(sorted(written.system.conflict_sets, key=sorted)[1:])
    with pytest.raises(WrongAnswer, match="conflict sets"):
        loaded(replace(written, system=replace(written.system, conflict_sets=fewer)))
    name, label = next((name, label) for name, label in written.system.labels.items() if label.writes)
    changed = {**written.system.labels, name: replace(label, writes=frozenset())}
    with pytest.raises(WrongAnswer, match=f"label {name}"):
        loaded(replace(written, system=replace(written.system, labels=changed)))


def test_mistakes_are_unknown_types_and_nothing_else(written: BigPolicy) -> None:
    with pytest.raises(PolicyErrors) as caught:
        parse_policy(with_mistakes(written.toml), source="bench")
    assert len(caught.value.findings) == 100
    assert {finding.what for finding in caught.value.findings} == {"unknown type"}


# Its own answers


@pytest.mark.parametrize("seed", range(1, 7))
def test_the_plain_answer_is_that_of_compatibility(seed: int) -> None:
    size = replace(SMALL, types=200)
    written = big_policy(size, seed)
    peer = peer_of(written, seed)
    plain = shared_types(written.system, peer.system)
    assert 0 < len(plain) < size.types
    systems = flow_system(loaded(written)), flow_system(loaded(peer))
    assert compatibility(*systems).shared.keys() == plain


def test_a_search_goes_over_every_chain(written: BigPolicy) -> None:
    a, b, c, d = sorted(written.system.definitions)[:4]
    assert reachable({a: {b}, b: {c}, c: {a}, d: {c}}) == {a: {b, c}, b: {a, c}, c: {a, b}, d: {a, b, c}}


def test_a_conflict_is_one_that_the_label_has_a_part_in(written: BigPolicy) -> None:
    system = written.system
    one, other = (
        FlowLabel(name=name, reads=frozenset({name}), writes=frozenset({name}))
        for name in sorted(system.definitions)[:2]
    )
    third = next(label for label in system.labels.values() if not walls_of(system, label) & walls_of(system, one))
    apart = replace(system, conflict_sets=frozenset({frozenset(one.reads | other.reads)}))
    assert in_conflict(apart, one, [other])
    assert not in_conflict(apart, one, [one])
    assert not in_conflict(apart, third, [one, other])


def test_wrong_decisions_stop_the_bench(written: BigPolicy) -> None:
    policy = loaded(written)
    questions = Questions.of(written, policy, SMALL)
    check_decisions(written, policy, questions)
    label = questions.pairs[0][0]
    changed = {**written.system.labels, label.name: FlowLabel(name="x", reads=frozenset(), writes=frozenset())}
    with pytest.raises(WrongAnswer, match=label.name):
        check_decisions(replace(written, system=replace(written.system, labels=changed)), policy, questions)


def test_wrong_shared_types_stop_the_bench(written: BigPolicy) -> None:
    own = flow_system(loaded(written))
    with pytest.raises(WrongAnswer, match="shared types"):
        check_sharing(written, peer_of(written), own, own)


# What it measures with


def test_a_figure_is_a_median_beside_its_goal_and_its_baseline() -> None:
    costs = {"costs_s": (0.5, 0.125, 0.25), "baseline": "nothing", "baseline_costs_s": (0.5, 0.25, 0.0625)}
    seconds = Measurement(name="one", unit=Unit.SECONDS, goal=0.25, **costs)  # type: ignore[arg-type]
    assert (seconds.median, seconds.figures, seconds.ratio, seconds.met) == (0.25, (0.125, 0.25, 0.5), 1.0, True)
    assert replace(seconds, goal=0.2).met is False
    rate = Measurement(name="many", unit=Unit.RATE, goal=4.0, **costs)  # type: ignore[arg-type]
    assert (rate.median, rate.figures, rate.met) == (4.0, (2.0, 4.0, 8.0), True)
    assert replace(rate, goal=4.5).met is False
    assert replace(rate, goal=None).met is None
    assert replace(rate, goal=None, ratio_goal=1.0).met is True
    assert replace(rate, goal=None, ratio_goal=0.9).met is False
    assert replace(rate, goal=4.0, ratio_goal=0.9).met is True  # one of the two is enough


def test_work_and_baseline_take_turns_and_the_first_round_does_not_count() -> None:
    ran: list[str] = []
    work = Work(name="work", prepare=lambda: "work", run=ran.append)
    baseline = Work(name="baseline", prepare=lambda: "baseline", run=ran.append)
    found = measured(work, baseline, unit=Unit.RATE, rounds=2)
    assert ran == ["baseline", "work"] * 3
    assert (len(found.costs_s), len(found.baseline_costs_s)) == (2, 2)


def test_memory_is_what_is_held_and_what_it_took() -> None:
    found = taken(lambda: [bytes(1 << 20) for _ in range(4)][:1])
    assert 1 << 20 <= found.held < 2 << 20
    assert 4 << 20 <= found.most < 5 << 20


# The report


def test_the_report_has_the_documented_shape(report: Report) -> None:
    document = json.loads(json.dumps(report.as_json()))
    assert document.keys() == {
        "format",
        "clock",
        "python",
        "cpus",
        "load_average",
        "rounds",
        "policy",
        "measurements",
        "memory_bytes",
    }
    assert (document["format"], document["rounds"]) == (FORMAT, 1)
    assert document["policy"].keys() == {"types", "labels", "conflict_sets", "asked", "file_bytes", "shared_types"}
    for each in document["measurements"]:
        assert each.keys() == {"name", "unit", "median", "lowest", "highest", "goal", "met", "baseline"}
        assert each["baseline"].keys() == {"name", "ratio", "goal"}
        assert each["unit"] in {"s", "1/s"}
        assert 0 < each["lowest"] <= each["median"] <= each["highest"]
        assert each["baseline"]["ratio"] > 0
        assert (each["met"] is None) == (each["goal"] is None)
    assert all(count > 0 for count in document["memory_bytes"].values())


def test_every_goal_is_measured_once(report: Report) -> None:
    names = [each.name for each in report.measurements]
    assert len(set(names)) == len(names)
    assert {each.name: each.goal for each in report.measurements if each.goal is not None} == GOALS


def test_elsewhere_than_on_a_terminal_the_table_is_plain(report: Report, capsys: pytest.CaptureFixture[str]) -> None:
    print_report(report.as_json())
    lines = capsys.readouterr().out.splitlines()
    assert all(line.isprintable() for line in lines)
    for each in report.measurements:
        (row,) = [line for line in lines if line.startswith(f"{each.name}  ")]
        assert row.endswith(f"× {each.baseline}")


def test_a_goal_that_is_not_met_is_no_failure(
    report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    slow = replace(report, measurements=tuple(replace(each, costs_s=(100.0,)) for each in report.measurements))
    monkeypatch.setattr(policy_bench, "bench", lambda size, rounds: slow)
    assert main(["--json", str(tmp_path / "report.json")]) == 0
    written = json.loads((tmp_path / "report.json").read_text())
    assert {each["met"] for each in written["measurements"]} == {None, False}
    assert " no " in capsys.readouterr().out


def test_a_wrong_answer_is_a_failure(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def wrong(size: Size, rounds: int) -> Report:
        raise WrongAnswer("types: expected 2, found 1")

    monkeypatch.setattr(policy_bench, "bench", wrong)
    assert main([]) == 1
    assert "wrong answer: types: expected 2, found 1" in capsys.readouterr().err
