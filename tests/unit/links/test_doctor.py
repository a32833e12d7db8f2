"""The doctor names the one thing that is wrong, says nothing of a link that is well, and never calls unknown ok."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shamon_host.domain.admission import AdmissionState
from shamon_host.domain.errors import BackendFailed
from shamon_host.domain.labels import VmName
from shamon_host.links.doctor import diagnose
from shamon_host.links.doctor_facts import MAX_VMS
from shamon_host.links.model import KernelState
from shamon_host.links.path_report import Part, PathReport, Verdict
from shamon_host.links.refusals import meaning
from shamon_host.links.tap_filter import TapFilter
from shamon_host.testing.kernel import MemoryKernel
from tests.unit.links.conftest import RED, frame
from tests.unit.links.doctor_world import (
    ADMITTED,
    KERNEL_FAULTS,
    TAP,
    TERM_FAULTS,
    WEB,
    DoctorWorld,
    blind,
)

STILL_ARRIVES = {
    "bridge open to the host", "stranger in the bridge", "port not isolated", "foreign entry behind it",
    "guard damaged", "guard gone", "block entry gone", "SPD flushed", "forwarding on", "SELinux permissive",
    "filter damaged", "filter of somebody else", "filter without its window", "filter shuts what it receives",
    "no SPD entry in", "foreign entry before it, in", "no SA in", "an SA with another label", "an SA by hand",
}  # fmt: skip
"""Faults that need not keep alpha's frames from beta: of the other direction, or a danger and no obstacle."""
_NO_SENDER = {"tap gone"}


@pytest.fixture
def world() -> DoctorWorld:
    return DoctorWorld()


def test_a_link_that_is_well(world: DoctorWorld) -> None:
    assert world.carries()
    report = world.report(between=world.carries)
    assert report.first_wrong is None
    assert report.unknown == ()
    assert report.verdict is Verdict.OK
    assert [stage.name for stage in report.stages] == [
        *("policy", "label map", "SELinux", "guard", "settings", "VM", "admission", "handshake", "offer", "link"),
        *("tap of web", "filter of web", "bridge", "device", "socket", "SPD", "SA", "gate"),
        *("SA", "SPD", "device", "filter of web"),
        "counters",
    ]
    assert report.ends is not None
    assert report.ends.local_port == world.link.local_port
    assert "shamon_link_t" in report.context


def test_a_filter_that_limits_is_no_fault(world: DoctorWorld) -> None:
    """Its window gets shorter meanwhile."""
    limits = TapFilter(device=TAP, rate_bytes_s=10**6, open_s=600.0)
    world.alpha.links.reconcile(world.alpha.taps, {TAP: limits})
    world.alpha.clock.advance(7)
    report = world.report(between=world.carries)
    assert report.verdict is Verdict.OK
    assert any("1000000 bytes/s, for 59" in stage.found for stage in report.stages)


def test_what_moved_is_shown_where_it_moved(world: DoctorWorld) -> None:
    """Three frames out, two in."""

    def frames() -> None:
        for number in range(3):
            world.alpha.kernel.send_from_tap(TAP, frame(f"out {number}"))
        for number in range(2):
            world.beta.kernel.send_from_tap(TAP, frame(f"in {number}", source=2))

    moved = {(stage.part, stage.name): dict(stage.moved) for stage in world.report(between=frames).stages}
    assert moved[Part.OUT, "tap of web"] == {"from_vm": 3, "to_vm": 2, "not_taken": 0}
    assert moved[Part.OUT, "device"] == {"to_peer": 3, "refused": 0}
    assert moved[Part.OUT, "SA"] == {"packets": 3}
    assert moved[Part.IN, "SA"] == {"packets": 2}
    assert moved[Part.IN, "device"] == {"from_peer": 2, "refused": 0}
    assert moved[Part.IN, "filter of web"] == {"to_vm": 2}
    assert moved[Part.REFUSED, "counters"] == {}


@pytest.mark.parametrize("name", KERNEL_FAULTS)
def test_the_fault_in_the_kernel_is_named_first(world: DoctorWorld, name: str) -> None:
    inject, part, stage, word = KERNEL_FAULTS[name]
    inject(world)
    first = world.report().first_wrong
    assert first is not None
    assert (first.part, first.name) == (part, stage), first
    assert word in first.found
    assert first.expected
    assert first.remedy


@pytest.mark.parametrize("name", sorted(KERNEL_FAULTS.keys() - STILL_ARRIVES - _NO_SENDER))
def test_the_fault_is_one(world: DoctorWorld, name: str) -> None:
    """The faults do what they are called: no frame of alpha's VM arrives at beta's."""
    KERNEL_FAULTS[name][0](world)
    assert not world.carries()


@pytest.mark.parametrize("name", TERM_FAULTS)
def test_the_fault_beside_the_kernel_is_named_first(world: DoctorWorld, name: str) -> None:
    changes, stage, word = TERM_FAULTS[name]
    first = world.report(**changes).first_wrong
    assert first is not None
    assert (first.part in (Part.READY, Part.TERMS), first.name) == (True, stage), first
    assert word in first.found
    assert first.remedy


@given(st.sets(st.sampled_from(sorted(KERNEL_FAULTS)), max_size=3), st.sets(st.sampled_from(sorted(TERM_FAULTS))))
def test_no_fault_is_ever_taken_for_well(kernel: set[str], terms: set[str]) -> None:
    """Whatever is wrong at once, whichever comes first: it is never ok. Nothing wrong: it is."""
    world = DoctorWorld()
    injected = 0
    for name in sorted(kernel):
        try:
            KERNEL_FAULTS[name][0](world)
            injected += 1
        except (BackendFailed, AssertionError, KeyError, ValueError, StopIteration):
            continue  # what it would break is broken already
    changes = {key: value for name in sorted(terms) for key, value in TERM_FAULTS[name][0].items()}
    report = world.report(**changes)
    assert (report.verdict is Verdict.OK) == (not injected and not terms)
    assert injected + len(terms) == 0 or report.verdict is Verdict.WRONG


def test_what_cannot_be_read_is_unknown(world: DoctorWorld) -> None:
    facts = world.facts()
    report = diagnose(replace(facts, before=blind(facts.before), after=blind(facts.after)))
    assert report.verdict is Verdict.UNKNOWN
    ok = {stage.name for stage in report.stages if stage.verdict is Verdict.OK}
    assert ok == {"policy", "label map", "VM", "admission", "handshake", "offer", "link"}
    assert any("EPERM" in stage.found for stage in report.unknown)


def test_a_kernel_that_does_not_answer_is_said_to_be_so(world: DoctorWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: MemoryKernel) -> KernelState:
        raise BackendFailed("the kernel refused", where="read devices", found="EPERM")

    monkeypatch.setattr(MemoryKernel, "read", fail)
    look = world.alpha.links.examine(world.beta.name, RED)
    assert (look.state, look.link is not None) == (None, True)
    assert "EPERM" in look.unread
    assert look.traffic is not None


def test_without_a_handshake_since_the_start_the_offer_is_unknown(world: DoctorWorld) -> None:
    report = world.report(of_peer=replace(ADMITTED, offered=None))
    assert [stage.name for stage in report.unknown] == ["offer"]
    assert report.verdict is Verdict.UNKNOWN


def test_a_link_that_is_not_ready_yet(world: DoctorWorld) -> None:
    facts = world.facts()
    assert facts.after.link is not None
    opening = replace(facts.after, link=replace(facts.after.link, attached=False))
    first = diagnose(replace(facts, after=opening)).first_wrong
    assert first is not None
    assert (first.name, "not installed yet" in first.found) == ("link", True)


def test_what_the_peer_says_of_this_host_is_what_to_look_at(world: DoctorWorld) -> None:
    peer = replace(ADMITTED, state=AdmissionState.SUSPENDED, reason="it does not trust this host", refuses_us=("x",))
    first = world.report(of_peer=peer).first_wrong
    assert first is not None
    assert first.remedy == "It does not trust this host: run `shamon explain alpha` on beta."


def test_of_several_vms_those_that_run_are_followed(world: DoctorWorld) -> None:
    world.alpha.start_vm("shvm1-0", RED)
    others = (
        WEB,
        replace(WEB, name=VmName("app"), taps=("shvm1-0",)),
        replace(WEB, name=VmName("old"), state="absent"),
    )
    report = world.report(vms=others)
    assert report.verdict is Verdict.OK
    taps = [stage.name for stage in report.stages if stage.name.startswith("tap")]
    assert taps == ["tap of web", "tap of app"]
    assert "old is absent" in next(stage.found for stage in report.stages if stage.name == "VM")
    one = world.report(vms=others, vm=VmName("app"))
    assert [stage.name for stage in one.stages if stage.name.startswith("tap")] == ["tap of app"]


def test_of_very_many_vms_some_are_followed_and_the_report_stays_one(world: DoctorWorld) -> None:
    vms = tuple(replace(WEB, name=VmName(f"vm{number}")) for number in range(MAX_VMS + 200))
    report = world.report(vms=vms)
    assert report.verdict is Verdict.OK
    assert sum(stage.name.startswith("tap") for stage in report.stages) == MAX_VMS
    assert "200 more are not followed" in next(stage.found for stage in report.stages if stage.name == "VM")
    assert PathReport.from_document(json.loads(json.dumps(report.to_document())), source="x") == report


def test_what_was_refused_meanwhile_is_told_in_words(world: DoctorWorld) -> None:
    """beta's SA is gone: alpha, which still has its own, sends; beta refuses. Only beta's counters tell."""
    KERNEL_FAULTS["no SA in"][0](world)  # at alpha

    def answer() -> None:
        world.beta.kernel.send_from_tap(TAP, frame("to alpha"))

    report = world.report(between=answer)
    (last,) = [stage for stage in report.stages if stage.part is Part.REFUSED]
    assert last.verdict is Verdict.WRONG
    assert last.moved == {"XfrmInNoStates": 1}
    assert meaning("XfrmInNoStates") in last.found
    assert report.first_wrong is not last


def test_every_counter_of_the_kernel_in_memory_has_a_meaning(world: DoctorWorld) -> None:
    unknown = meaning("XfrmSomethingNew")
    assert all(meaning(name) != unknown for name in world.alpha.kernel.counters())
