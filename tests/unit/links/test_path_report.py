"""Reports as JSON, from hosts that may say anything; and two of them as one path."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shamon_host.domain.errors import BadInput
from shamon_host.links.doctor import diagnose
from shamon_host.links.joined_path import APART_S, join
from shamon_host.links.path_report import Part, PathReport, Verdict
from shamon_host.links.rekeying import GRACE_S
from tests.unit.links.conftest import join as shake_hands
from tests.unit.links.doctor_world import KERNEL_FAULTS, TERM_FAULTS, DoctorWorld

REPORT = DoctorWorld().report()
DOCUMENT = json.loads(json.dumps(REPORT.to_document()))


def read(document: Any) -> PathReport:
    return PathReport.from_document(document, source="beta.json")


@pytest.mark.parametrize("name", [*KERNEL_FAULTS, None])
def test_a_report_is_read_as_it_was_written(name: str | None) -> None:
    world = DoctorWorld()
    if name is not None:
        KERNEL_FAULTS[name][0](world)
    report = world.report()
    document = json.loads(json.dumps(report.to_document()))
    assert read(document) == report
    first = document["first_wrong"]
    assert (first is None) == (name is None)
    assert first is None or document["stages"][first]["verdict"] == "wrong"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("version", 2),
        ("host", "\x1b[2J"),
        ("type", "no type"),
        ("context", 7),
        ("vm", ["web"]),
        ("wall_s", True),
        ("wall_s", float("nan")),
        ("wall_s", "1"),
        ("interval_s", -1),
        ("link", []),
        ("link", {"local_port": 1 << 16, "peer_port": 1, "in_spis": [], "out_spis": []}),
        ("link", {"local_port": 1, "peer_port": 1, "in_spis": [True], "out_spis": []}),
        ("link", {"local_port": 1, "peer_port": 1, "in_spis": list(range(1025)), "out_spis": []}),
        ("stages", {}),
        ("stages", [{}] * 501),
        ("stages", [[]]),
        ("stages", [{**DOCUMENT["stages"][0], "verdict": "fine"}]),
        ("stages", [{**DOCUMENT["stages"][0], "part": "elsewhere"}]),
        ("stages", [{**DOCUMENT["stages"][0], "found": "x" * 2001}]),
        ("stages", [{**DOCUMENT["stages"][0], "moved": {"packets": -1}}]),
        ("stages", [{**DOCUMENT["stages"][0], "moved": {str(number): 0 for number in range(257)}}]),
    ],
)
def test_what_is_no_report(key: str, value: Any) -> None:
    with pytest.raises(BadInput) as caught:
        read({**DOCUMENT, key: value})
    assert caught.value.where == "beta.json"


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=5)


@given(st.dictionaries(st.sampled_from([*DOCUMENT, "more"]), JSON), st.sets(st.sampled_from(sorted(DOCUMENT))))
def test_anything_else_is_refused_or_read_in_bounds(changes: dict[str, Any], missing: set[str]) -> None:
    document = {key: value for key, value in {**DOCUMENT, **changes}.items() if key not in missing}
    report: PathReport | None
    try:
        report, words = read(document), ""
    except BadInput as error:
        report, words = None, str(error)
    if report is None:
        assert 0 < len(words) < 1000
    else:
        assert read(json.loads(json.dumps(report.to_document()))) == report


@given(JSON)
def test_a_value_that_is_no_object_is_refused(value: Any) -> None:
    with pytest.raises(BadInput):
        read(value)


class Both(DoctorWorld):
    def joined(self, **changes: Any) -> PathReport:
        theirs = diagnose(self.facts(self.beta))
        return join(self.report(), replace(theirs, **changes))


def test_two_reports_are_one_path() -> None:
    report = Both().joined()
    assert report.verdict is Verdict.OK
    order = [(stage.host, stage.part) for stage in report.stages]
    assert list(dict.fromkeys(order)) == [
        ("alpha", Part.READY),
        ("beta", Part.READY),
        ("alpha", Part.TERMS),
        ("beta", Part.TERMS),
        ("alpha", Part.OUT),
        ("alpha", Part.WIRE),
        ("beta", Part.IN),
        ("beta", Part.OUT),
        ("alpha", Part.IN),
        ("alpha", Part.REFUSED),
        ("beta", Part.REFUSED),
    ]


@pytest.mark.parametrize("name", [*KERNEL_FAULTS, *TERM_FAULTS])
def test_what_is_wrong_over_there_is_named_with_the_host(name: str) -> None:
    """The same faults at alpha, asked about on beta."""
    world = DoctorWorld()
    if name in KERNEL_FAULTS:
        KERNEL_FAULTS[name][0](world)
        stage = KERNEL_FAULTS[name][2]
        theirs = world.report()
    else:
        changes, stage, _ = TERM_FAULTS[name]
        theirs = replace(world.report(**changes), type=REPORT.type)
    own = diagnose(world.facts(world.beta))
    assert own.verdict is Verdict.OK
    first = join(own, theirs).first_wrong
    assert first is not None
    assert first.host == "alpha" or first.part is Part.WIRE
    assert first.name == stage


def test_a_handshake_between_the_reports_is_no_fault() -> None:
    """Whichever of the two is the older one: one way fits, as the earlier SA to receive with is still there."""
    world = Both()
    before = diagnose(world.facts(world.beta)), world.report()
    shake_hands(world.alpha, world.beta)
    for own, theirs in ((world.report(), before[0]), (before[1], diagnose(world.facts(world.beta)))):
        report = join(own, theirs)
        assert report.verdict is Verdict.UNKNOWN
        assert [stage.name for stage in report.unknown] == ["both ends"]
        assert "a handshake may lie between" in report.unknown[0].found
    assert world.joined().verdict is Verdict.OK


def test_sas_of_which_neither_side_knows() -> None:
    world = Both()
    theirs = diagnose(world.facts(world.beta))
    assert theirs.ends is not None
    strange = replace(theirs.ends, in_spis=frozenset({0x4711}), out_spis=frozenset({0x4712}))
    first = world.joined(ends=strange).first_wrong
    assert first is not None
    assert (first.name, first.found.count("does not have")) == ("both ends", 2)
    assert "0x00004712, which alpha does not have" in first.found
    old = world.joined(ends=strange, wall_s=theirs.wall_s - APART_S - 1)
    assert old.verdict is Verdict.UNKNOWN
    assert "11 s apart" in old.unknown[0].found


def test_reports_may_be_as_far_apart_as_sas_to_receive_with_stay() -> None:
    assert APART_S <= GRACE_S


def test_ports_that_do_not_fit() -> None:
    world = Both()
    ends = diagnose(world.facts(world.beta)).ends
    assert ends is not None
    first = world.joined(ends=replace(ends, local_port=ends.local_port + 1)).first_wrong
    assert first is not None
    assert "ports of alpha and beta" in first.found


def test_a_side_without_a_link_is_unknown_at_the_wire() -> None:
    assert [stage.name for stage in Both().joined(ends=None).unknown] == ["both ends"]


@pytest.mark.parametrize("changes", [{"host": "gamma"}, {"peer": "gamma"}, {"type": "rival/blue"}])
def test_a_report_about_another_link_is_refused(changes: dict[str, str]) -> None:
    with pytest.raises(BadInput, match="another link"):
        Both().joined(**changes)


def test_a_report_that_is_joined_already_is_refused() -> None:
    world = Both()
    theirs = diagnose(world.facts(world.beta))
    both = join(theirs, world.report())
    with pytest.raises(BadInput, match="joined already"):
        join(world.report(), both)
