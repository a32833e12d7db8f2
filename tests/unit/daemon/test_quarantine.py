"""Quarantine and replacement on whole hosts: what an operator asks for, what the kernel and the peers see of it, and
what is there after a daemon died in the midst of it."""

from typing import Any

import pytest

from shamon_host.daemon.api import Answer, Api
from shamon_host.domain.errors import BackendFailed
from shamon_host.domain.labels import VmName
from shamon_host.links.model import AttachPort
from shamon_host.testing.images import sha256_of
from shamon_host.testing.memory_host import CLEAN_IMAGE
from tests.unit.daemon.daemon_world import Change, DaemonWorld, daemon, play, records

WEB = VmName("web")
NOTED: Change = ('[labels.red]\ntypes = ["acme/red"]', '[labels.red]\ntypes = ["acme/red"]\nquarantine = "note"')
GRADES = ["note", "ports-down", "suspend", "destroy"]


async def ask(world: DaemonWorld, path: str, method: str = "POST", **fields: Any) -> Answer:
    return await Api(daemon=daemon(world.alpha)).handle(method, path, fields)


async def quarantine(world: DaemonWorld, **fields: Any) -> Any:
    answer = await ask(world, "/v1/vms/web/quarantine", **fields)
    assert answer.status == 200, answer.body
    return answer.body


async def web(world: DaemonWorld) -> Any:
    vms = (await ask(world, "/v1/vms", method="GET")).body
    return next(vm for vm in vms if vm["name"] == "web")


def ports(world: DaemonWorld) -> list[str]:
    """Taps of VMs that are in a bridge on alpha."""
    bridges = world.alpha.kernel.read().bridges.values()
    return [port for bridge in bridges for port in bridge.ports if port.startswith("shvm")]


@pytest.mark.parametrize("grade", GRADES)
def test_a_type_that_is_used_no_more_has_no_link(grade: str) -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        await quarantine(world, grade=grade)
        await world.wait(3)
        if grade == "note":
            assert await world.web_reaches_db()
            assert len(daemon(world.alpha).own.links.status()) == 1
            return
        assert ports(world) == []
        assert not await world.web_reaches_db()
        assert daemon(world.alpha).own.links.status() == ()
        assert (await ask(world, "/v1/vms/web/start")).status == 200
        await world.until(world.web_reaches_db, within_s=30, what="web reaches db again")

    play(test, NOTED)


def test_what_an_operator_sees_of_it() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha")
        await world.start("alpha", "web")
        assert (await web(world))["quarantine"] is None
        told = await quarantine(world, grade="destroy", reason="odd", keep_memory=True, keep_disk=True)
        assert (told["state"], told["quarantined"], told["image_state"]) == ("absent", "odd", "none")
        kept = told["quarantine"]["kept"]
        assert [path.rpartition(".")[2] for path in kept] == ["memory", "disk"]
        assert all(path.startswith("/kept/web-") for path in kept)
        (done,) = records(world.alpha, "vm.quarantined", "web")
        assert (done["grade"], done["state"], set(done["ms"])) == ("destroy", "paused", {"ports down", "suspended"})
        assert {"quarantine: ports down", "quarantine: suspended"} <= daemon(world.alpha).figures.summary().keys()

    play(test)


@pytest.mark.parametrize(
    ("field", "bad"),
    [("grade", "stop"), ("grade", ["note"]), ("grade", 2), ("keep_memory", "yes"), ("keep_disk", 1), ("grade", "")],
)
def test_bad_fields(field: str, bad: Any) -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha")
        await world.start("alpha", "web")
        answer = await ask(world, "/v1/vms/web/quarantine", **{field: bad})
        assert (answer.status, answer.body["error"]["exit_code"]) == (400, 2)
        assert (await web(world))["quarantine"] is None

    play(test)


def test_less_than_the_policy_asks_for() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha")
        await world.start("alpha", "web")
        answer = await ask(world, "/v1/vms/web/quarantine", grade="note")
        assert (answer.status, answer.body["error"]["expected"]) == (409, "suspend or stronger")

    play(test)


@pytest.mark.parametrize("restarts", [False, True])
def test_a_port_that_somebody_puts_back_is_taken_down_again(*, restarts: bool) -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        (interface,) = (await web(world))["interfaces"]
        told = await quarantine(world, grade="ports-down")
        assert told["state"] == "running"
        if restarts:
            await world.alpha.kill_daemon()
        bridge = AttachPort(bridge=interface["bridge"], interface=interface["device"], isolated=False)
        world.alpha.kernel.apply([bridge])
        assert ports(world) == [interface["device"]]
        if restarts:
            await world.alpha.start_daemon()
        await world.wait(1)
        assert ports(world) == []
        assert (await web(world))["state"] == "running"
        assert not await world.web_reaches_db()

    play(test, NOTED)


@pytest.mark.parametrize("operations", range(4))
@pytest.mark.parametrize("grade", GRADES[1:])
def test_a_daemon_that_dies_in_the_midst_of_taking_ports_down(grade: str, operations: int) -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        alpha = world.alpha
        assert alpha._severable is not None
        alpha._severable.sever_after(operations, alpha.sever)
        await ask(world, "/v1/vms/web/quarantine", grade=grade)
        await alpha.kill_daemon()
        await alpha.start_daemon()
        await world.wait(2)
        assert (await web(world))["quarantined"]
        assert ports(world) == []
        assert not await world.web_reaches_db()
        states = {"ports-down": "running", "suspend": "paused", "destroy": "absent"}
        assert (await web(world))["state"] == states[grade]

    play(test, NOTED)


def test_a_replacement_that_was_cut_short_is_finished_by_the_next_daemon(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        await world.alpha.guest("web").write_marker("traces")

        def dies(*_arguments: object) -> str:
            world.alpha.sever()
            raise BackendFailed("this daemon is dead")

        with monkeypatch.context() as patch:
            patch.setattr(world.alpha.images, "fresh_overlay", dies)
            assert (await ask(world, "/v1/vms/web/replace")).status != 200
        await world.alpha.kill_daemon()
        assert not world.alpha.hypervisor.domains()
        await world.alpha.start_daemon()
        await world.until(world.web_reaches_db, within_s=60, what="web is back")
        assert await world.alpha.guest("web").read_marker() == ""
        assert (await web(world))["image_state"] == "current"

    play(test)


def test_how_long_a_replacement_took() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha")
        await world.start("alpha", "web")
        assert (await ask(world, "/v1/vms/web/replace", reason="to see")).status == 200
        (done,) = records(world.alpha, "vm.replaced", "web")
        assert done["image"] == sha256_of(CLEAN_IMAGE)
        parts = {"destroyed", "permitted", "overlay made", "started, paused", "label read back"}
        assert set(done["ms"]) == {*parts, "resumed"}
        assert "replacement: connected" in daemon(world.alpha).figures.summary()

    play(test)


def test_images_and_who_runs_on_them() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha")
        await world.start("alpha", "web")
        (image,) = (await ask(world, "/v1/images", method="GET")).body
        assert (image["name"], image["sha256"]) == ("app", sha256_of(CLEAN_IMAGE))
        assert (image["current"], image["none"]) == (["web"], ["probe", "shop"])
        assert (await ask(world, "/v1/images/app/check")).body == {"name": "app", "sha256": image["sha256"]}
        world.alpha.images.clean["app"] = b"another"
        assert (await ask(world, "/v1/images/app/check")).status == 403
        for name in ("none", "APP", "a b"):
            assert (await ask(world, f"/v1/images/{name}/check")).status == 400
        assert (await ask(world, "/v1/images/app")).status == 400

    play(test)
