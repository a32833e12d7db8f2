"""`shamon link doctor` on real hosts: a link that is well, and faults that last, each named from where it is seen."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shamon_host.testing.story_policy import VM_ADDRESSES
from tests.integration.lab.coalition import SHAMON, Coalition
from tests.integration.lab.console import VmConsole
from tests.integration.lab.host import LabHost
from tests.integration.lab.lab import Lab
from tests.integration.lab.link_objects import send_through_wrong_category
from tests.integration.lab.story_world import LAB_TIMING
from tests.integration.lab.waiting import wait_until

pytestmark = pytest.mark.full
RED = "acme/red"
_WITHIN_S = 6 * LAB_TIMING.lease_s
_VMS = {"alpha": ("web", "shop"), "beta": ("db", "spy")}


class Pair:
    """alpha and beta, with a red and a blue VM each."""

    def __init__(self, lab: Lab) -> None:
        Coalition(lab, timing=LAB_TIMING, hosts=("alpha", "beta")).found()
        self.alpha, self.beta = lab.host("alpha"), lab.host("beta")
        for host in (self.alpha, self.beta):
            host.run("systemctl enable --now shamon.service", timeout_s=240)
        for host in (self.alpha, self.beta):
            self.until_answers(host)
            for vm in _VMS[host.name]:
                host.run(f"{SHAMON} vm start {vm}", timeout_s=300)
        VmConsole(self.alpha, "web").wait_ready()
        wait_until(self.reaches, timeout_s=_WITHIN_S, what="web reaches db")

    def until_answers(self, host: LabHost) -> None:
        wait_until(
            lambda: host.run(f"{SHAMON} status", check=False, timeout_s=60).status == 0,
            timeout_s=180,
            what=f"the daemon of {host.name} answers",
            every_s=2,
        )

    def reaches(self) -> bool:
        return VmConsole(self.alpha, "web").reaches(VM_ADDRESSES["db"][0], timeout_s=1)

    def doctor(self, host: LabHost, *options: str) -> tuple[int, Any]:
        """Exit code and report."""
        peer = "beta" if host is self.alpha else "alpha"
        result = host.run(f"{SHAMON} link doctor {peer} {RED} --json {' '.join(options)}", check=False, timeout_s=120)
        return result.status, json.loads(result.stdout)

    def first(self, host: LabHost, *options: str) -> dict[str, Any]:
        """The first stage that is wrong; {} when none is."""
        _, report = self.doctor(host, *options)
        index = report["first_wrong"]
        return {} if index is None else report["stages"][index]

    def until_first(self, host: LabHost, stage: str, *options: str) -> dict[str, Any]:
        wait_until(
            lambda: self.first(host, *options).get("name", "") == stage,
            timeout_s=_WITHIN_S,
            what=f"the doctor of {host.name} names {stage or 'nothing'}",
            every_s=2,
        )
        return self.first(host, *options)


@pytest.fixture(scope="module")
def pair(images: Path) -> Iterator[Pair]:
    with Lab(images) as lab:
        yield Pair(lab)


def watched(pair: Pair) -> Any:
    """What the doctor reports while web pings db."""
    pair.alpha.run(
        f"rm -f /run/doctor.done; (exec > /run/doctor.json 2> /dev/null < /dev/null; "
        f"{SHAMON} link doctor beta {RED} --vm web --interval 20 --json; touch /run/doctor.done) &"
    )

    def is_done() -> bool:
        pair.reaches()
        return pair.alpha.run("test -e /run/doctor.done", check=False).status == 0

    wait_until(is_done, timeout_s=120, what="the doctor ends")
    return json.loads(pair.alpha.get("/run/doctor.json"))


def test_a_link_that_is_well_and_what_passes_through_it(pair: Pair) -> None:
    pair.until_first(pair.alpha, "")
    report = watched(pair)
    assert {stage["verdict"] for stage in report["stages"]} == {"ok"}, report
    moved = {(stage["part"], stage["name"]): stage["moved"] for stage in report["stages"]}
    for part, stage, counter in (
        ("out", "tap of web", "from_vm"),
        ("out", "tap of web", "to_vm"),
        ("out", "device", "to_peer"),
        ("in", "device", "from_peer"),
    ):
        assert moved[part, stage][counter] > 0, (part, stage, moved)
    # A handshake in between makes new SAs, through which little may have passed yet.
    assert {*moved["out", "SA"], *moved["in", "SA"]} == {"packets"}


def test_both_sides_as_one(pair: Pair) -> None:
    code, theirs = pair.doctor(pair.beta)
    assert code == 0, theirs
    pair.alpha.put("/run/beta.json", json.dumps(theirs).encode())
    code, report = pair.doctor(pair.alpha, "--peer-report", "/run/beta.json")
    assert code == 0, report
    assert {stage["host"] for stage in report["stages"]} == {"alpha", "beta"}
    assert [stage["name"] for stage in report["stages"] if stage["part"] == "wire"] == ["both ends"]
    text = pair.alpha.run(f"{SHAMON} link doctor beta {RED} --peer-report /run/beta.json", timeout_s=120).stdout
    assert "Nothing is wrong that alpha and beta can see." in text


def test_a_packet_through_an_sa_of_another_type_is_seen_as_a_denial(pair: Pair) -> None:
    rose = send_through_wrong_category(
        sender=pair.beta, receiver=pair.alpha, guests=(VmConsole(pair.beta, "db"), VM_ADDRESSES["web"][0])
    )
    assert rose.get("avc", 0) > 0, rose
    _, report = pair.doctor(pair.alpha)
    stage = next(stage for stage in report["stages"] if stage["name"] == "denials")
    assert stage["verdict"] == "wrong", report
    assert "polmatch of association denied to system_u:object_r:shamon_link_t" in stage["found"]


def test_a_vm_that_is_stopped_on_the_other_host(pair: Pair) -> None:
    pair.beta.run(f"{SHAMON} vm stop db", timeout_s=120)
    stage = pair.until_first(pair.alpha, "offer")
    assert f"beta did not offer {RED}" in stage["found"]
    _, theirs = pair.doctor(pair.beta)
    pair.alpha.put("/run/beta.json", json.dumps(theirs).encode())
    stage = pair.first(pair.alpha, "--peer-report", "/run/beta.json")
    assert (stage["name"], stage["host"]) == ("VM", "beta"), stage
    pair.beta.run(f"{SHAMON} vm start db", timeout_s=300)
    VmConsole(pair.beta, "db").wait_ready()
    wait_until(pair.reaches, timeout_s=_WITHIN_S, what="web reaches db again")


def test_a_peer_that_is_silent(pair: Pair) -> None:
    """First its handshakes fail, while the lease lasts; then it is suspended."""
    pair.beta.run("systemctl stop shamon.service", timeout_s=120)
    stage = pair.until_first(pair.alpha, "handshake")
    assert "it failed" in stage["found"]
    stage = pair.until_first(pair.alpha, "admission")
    assert "beta is not admitted: suspended" in stage["found"]
    assert "the lease ended" in stage["found"]
