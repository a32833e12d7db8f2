"""What the daemon answers to `shamon link doctor`, on hosts that really run, fail, fall silent and come back."""

import asyncio
from typing import Any

import pytest

from shamon_host.daemon.api import Answer, Api
from shamon_host.domain.labels import HostName, TypeName
from shamon_host.links.path_report import PathReport, Stage, Verdict
from shamon_host.testing.story_policy import VM_ADDRESSES
from shamon_host.testing.world import Fault
from tests.unit.daemon.daemon_world import DaemonWorld, daemon, play, records

RED, BLUE = "acme/red", "rival/blue"
NOT_BETAS = ('types = ["acme/red", "rival/blue"]\n\n[hosts.gamma]', 'types = ["rival/blue"]\n\n[hosts.gamma]')
READS_ONLY = ('[labels.red]\ntypes = ["acme/red"]', '[labels.red]\nreads = ["acme/red"]')


async def ask(world: DaemonWorld, host: str = "alpha", **fields: Any) -> Answer:
    query = {"peer": "beta" if host == "alpha" else "alpha", "type": RED, **fields}
    return await Api(daemon=daemon(world.hosts[host])).handle("GET", "/v1/link/doctor", query)


async def report(world: DaemonWorld, host: str = "alpha", **fields: Any) -> PathReport:
    answer = await ask(world, host, **fields)
    assert answer.status == 200, answer.body
    return PathReport.from_document(answer.body, source="the daemon's answer")


async def first(world: DaemonWorld, host: str = "alpha", **fields: Any) -> Stage:
    found = (await report(world, host, **fields)).first_wrong
    assert found is not None
    return found


def test_a_link_that_is_well_from_both_ends() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        before = len(records(world.alpha, "link.apply"))
        for host in ("alpha", "beta"):
            found = await report(world, host)
            assert found.verdict is Verdict.OK, [stage for stage in found.stages if stage.verdict is not Verdict.OK]
        assert len(records(world.alpha, "link.apply")) == before
        assert (await report(world, vm="web")).verdict is Verdict.OK

    play(test)


def test_counters_are_watched_for_the_interval() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        loop = asyncio.get_running_loop()
        started = loop.time()
        asking = asyncio.ensure_future(report(world, interval_s="7"))
        await world.wait(3)
        assert await world.alpha.guest("web").reaches(VM_ADDRESSES["db"][0])
        found = await asking
        assert loop.time() - started == pytest.approx(7)
        assert found.interval_s == 7
        moved = {(stage.part.value, stage.name): stage.moved for stage in found.stages}
        assert moved["out", "SA"]["packets"] >= 1
        assert moved["in", "SA"]["packets"] >= 1
        assert moved["out", "device"]["to_peer"] == moved["out", "SA"]["packets"]

    play(test)


def test_no_vm_here_and_none_there() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha", "beta")
        assert (await first(world)).found == "web is absent"
        await world.start("alpha", "web")
        stage = await first(world)
        assert (stage.name, stage.found) == ("offer", f"beta did not offer {RED}: no VM there uses it")
        assert (await first(world, "beta")).found == "db is absent"
        await world.start("beta", "db")
        await world.until(world.web_reaches_db, within_s=30, what="web reaches db")
        await world.beta.ask("vm", "stop", "db")
        await world.wait(5)
        assert (await first(world)).name == "offer"

    play(test)


def test_a_vm_in_quarantine() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        await world.alpha.ask("vm", "quarantine", "web")
        await world.wait(5)
        stage = await first(world)
        assert (stage.name, "web is in quarantine" in stage.found) == ("VM", True)

    play(test)


def test_a_peer_that_fails_and_one_that_is_refused() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        await world.beta.inflict(Fault.PROGRAM)
        await world.suspended("alpha", "beta")
        stage = await first(world)
        assert (stage.name, "/usr/local/bin/unknown" in stage.found) == ("admission", True)
        assert "shamon explain beta" in stage.remedy
        await world.suspended("beta", "alpha")
        assert "run `shamon explain beta` on alpha" in (await first(world, "beta")).remedy

    play(test)


def test_a_peer_that_falls_silent() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        await world.beta.kill_daemon()
        await world.wait(15)  # longer than the period, shorter than the lease
        stage = await first(world)
        assert (stage.name, "nobody listens" in stage.found) == ("handshake", True)
        assert "end with the lease" in stage.remedy
        await world.suspended("alpha", "beta")
        stage = await first(world)
        assert (stage.name, "nobody listens" in stage.found) == ("admission", True)
        assert "reachable" in stage.remedy

    play(test)


def test_a_peer_that_was_never_there() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha")
        await world.start("alpha", "web")
        await world.wait(5)
        stage = await first(world)
        assert (stage.name, "nobody listens" in stage.found) == ("admission", True)
        assert stage.found.startswith("beta is not admitted: enrolled; ")

    play(test)


def test_selinux_that_is_switched_off() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        world.alpha.kernel.selinux.set_enforcing(False)
        assert (await first(world)).name == "SELinux"

    play(test)


def test_a_type_that_the_peer_may_not_carry_and_one_that_nobody_knows() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha")
        stage = await first(world, type="audit/black")
        assert (stage.name, stage.found) == ("policy", "the label of beta lacks audit/black")
        stage = await first(world, type="acme/none")
        assert (stage.name, stage.found) == ("policy", "the policy knows no type acme/none")

    play(test)


def test_a_vm_that_only_reads() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha", "beta")
        await world.start("alpha", "web")
        await world.start("beta", "db")
        await world.wait(5)
        stage = await first(world)
        assert (stage.name, stage.part) == ("filter of web", "out"), stage
        assert "receives only" in stage.found

    play(test, READS_ONLY)


def test_a_fault_that_the_daemon_repairs_meanwhile_is_told_and_no_fault() -> None:
    """The second look counts."""

    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        links = daemon(world.alpha).own.links
        device = links.status()[0]["device"]
        bridge = links.status()[0]["bridge"]
        world.alpha.kernel.put_port(bridge, device, isolated=False)
        found = await report(world, interval_s=5)
        assert found.verdict is Verdict.OK
        stage = next(stage for stage in found.stages if stage.name == "device")
        assert f"repaired just now: {device} is not isolated" in stage.found

    play(test)


def test_after_a_restart_of_the_daemon_links_go_on_and_the_offer_is_not_known_yet() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        await world.alpha.kill_daemon()
        await world.alpha.start_daemon()
        found = await report(world, interval_s=0)
        assert found.first_wrong is None or found.first_wrong.name == "admission"
        assert "offer" in {stage.name for stage in found.unknown}
        await world.admitted("alpha", "beta")
        await world.until(world.web_reaches_db, within_s=30, what="web reaches db")
        assert (await report(world)).verdict is Verdict.OK

    play(test)


BAD_INTERVALS: list[Any] = ["x", "", "nan", "inf", -1, 61, True, None, [], "9" * 5000]


@pytest.mark.parametrize(
    "fields",
    [
        {"peer": "alpha"},
        {"peer": "delta"},
        {"peer": "\x1b[2J"},
        {"peer": ["beta"]},
        {"type": ""},
        {"type": "red"},
        {"type": "acme/" + "x" * 10_000},
        {"type": {"a": 1}},
        {"vm": ""},
        {"vm": "We b"},
        *({"interval_s": bad} for bad in BAD_INTERVALS),
    ],
    ids=lambda fields: repr(fields)[:24],
)
def test_hostile_requests(fields: dict[str, Any]) -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha")
        answer = await ask(world, **fields)
        assert answer.status == 400, answer.body
        assert len(str(answer.body)) < 1000

    play(test)


def test_what_a_peer_offered_is_kept_by_own_names_and_forgotten_with_it() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        admissions = daemon(world.alpha).admissions
        assert admissions.offered == {HostName("beta"): frozenset({TypeName(RED)})}
        await admissions.drop_host(HostName("beta"), "192.0.2.2")
        assert admissions.offered == {}

    play(test)
