"""What the daemon answers, route by route; errors with their exit codes; hostile fields."""

from typing import Any

import pytest

from shamon_host.daemon.api import MAX_AUDIT_RECORDS, Answer, Api, error_body
from shamon_host.domain.errors import BackendFailed, BadInput, NotTrusted, Refused, ShamonError, Unreachable
from shamon_host.hypervisor.vm_states import VmStates
from shamon_host.testing.world import Fault
from tests.unit.daemon.daemon_world import DaemonWorld, daemon, play, records


async def ask(world: DaemonWorld, method: str, path: str, **fields: Any) -> Answer:
    return await Api(daemon=daemon(world.alpha)).handle(method, path, fields)


async def value(world: DaemonWorld, path: str, **fields: Any) -> Any:
    answer = await ask(world, "GET", path, **fields)
    assert answer.status == 200, answer.body
    return answer.body


def test_status() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha", "beta")
        status = await value(world, "/v1/status")
        assert status["host"] == "alpha"
        assert status["coalition"] == "lab"
        policy = status["policy"]
        assert (policy["version"], policy["digest"], policy["signed"]) == (1, world.policy.digest, False)
        assert policy["tpm_counter"] == world.alpha.machine.tpm.counter()
        assert policy == await value(world, "/v1/policy")
        assert status["enrolment"] == {
            "state": "enrolled",
            "serial": 1,
            "tpm": "software",
            "ek": "",
            "certificate_until": "2099-01-01",
            "renew": False,
        }
        assert status["peers"] == {"enrolled": 1, "admitted": 1, "suspended": 0, "expelled": 0}
        assert (status["refused_by"], status["no_links_because"]) == ({}, "")
        assert status["audit_head"] == daemon(world.alpha).audit.head().hex()
        assert status["figures"]["handshake_ms"]["count"] >= 1

    play(test)


def test_leave() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha", "beta")
        answer = await ask(world, "POST", "/v1/leave")
        assert answer.status == 200
        assert answer.body["host"] == "alpha"
        assert list(answer.body["unheard"]) == ["gamma"]  # it is off
        assert (await value(world, "/v1/status"))["enrolment"]["state"] == "left"
        assert daemon(world.beta).admissions.peers[daemon(world.alpha).name].state == "expelled"
        assert (await ask(world, "POST", "/v1/leave")).status == 403

    play(test)


def test_peers() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        beta, gamma = await value(world, "/v1/peers")
        assert (beta["host"], beta["state"], beta["carried"], beta["tpm"]) == (
            "beta",
            "admitted",
            ["acme/red"],
            "software",
        )
        assert 0 < beta["lease_s"] <= world.timing.lease_s
        assert any(claim.startswith("boot-chain pass") for claim in beta["claims"])
        assert (gamma["state"], gamma["lease_s"], gamma["claims"]) == ("enrolled", 0.0, [])
        assert "nobody listens" in gamma["last_error"]
        await world.beta.inflict(Fault.PROGRAM)
        await world.suspended("alpha", "beta")
        beta, _ = await value(world, "/v1/peers")
        assert (beta["state"], beta["lease_s"], beta["carried"]) == ("suspended", 0.0, [])
        assert "/usr/local/bin/unknown" in beta["reason"]

    play(test)


def test_what_a_peer_says_of_this_host_is_shown() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha", "beta")
        await world.alpha.inflict(Fault.PROGRAM)
        await world.suspended("beta", "alpha")
        status = await value(world, "/v1/status")
        assert "/usr/local/bin/unknown" in str(status["refused_by"]["beta"])
        beta = (await value(world, "/v1/peers"))[0]
        assert beta["refuses_us"] == status["refused_by"]["beta"]

    play(test)


def test_vms_and_links() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        vms = {vm["name"]: vm for vm in await value(world, "/v1/vms")}
        assert set(vms) == {"web", "shop", "probe"}
        assert (vms["web"]["state"], vms["web"]["wanted"], vms["web"]["types"]) == ("running", True, ["acme/red"])
        assert vms["web"]["context"].startswith("system_u:system_r:svirt_t:s0:c")
        assert (vms["shop"]["state"], vms["shop"]["context"], vms["shop"]["interfaces"]) == ("absent", "", [])
        (link,) = await value(world, "/v1/links")
        assert (link["peer"], link["type"], link["state"]) == ("beta", "acme/red", "up")

    play(test)


def test_what_is_still_to_do_of_links() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        assert await value(world, "/v1/links/plan") == {"operations": (), "handshakes": (), "out_of_reach": ()}
        world.alpha.kernel.flush_policies()
        world.alpha.kernel.flush_sas()
        plan = await value(world, "/v1/links/plan")
        assert plan["handshakes"] == ("beta",)
        assert len(plan["operations"]) == 10
        await world.wait(3)
        assert not any((await value(world, "/v1/links/plan")).values())

    play(test)


def test_the_life_of_a_vm() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha")
        for action, state in (
            ("start", "running"),
            ("quarantine", "paused"),
            ("start", "running"),
            ("replace", "running"),
            ("stop", "absent"),
        ):
            answer = await ask(world, "POST", f"/v1/vms/web/{action}")
            assert (answer.status, answer.body["state"]) == (200, state), action
        asked = {"reason": "asked for by the operator", "grade": "suspend", "keep": []}
        assert records(world.alpha, "vm.quarantine", "web") == [asked]

    play(test)


def test_audit() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha")
        first = await value(world, "/v1/audit", limit="2")
        assert [record["sequence"] for record in first] == [1, 2]
        assert set(first[0]) == {"sequence", "wall_s", "boottime_s", "kind", "subject", "detail", "digest"}
        rest = await value(world, "/v1/audit", after=2, limit=10**30)
        assert rest[0]["sequence"] == 3
        assert len(rest) <= MAX_AUDIT_RECORDS
        assert await value(world, "/v1/audit", after=10**30) == []

    play(test)


def test_attest() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha", "beta")
        answer = await ask(world, "POST", "/v1/attest")
        assert answer.body == {"attesting": ["beta", "gamma"]}

    play(test)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/v1"),
        ("GET", "/v2/status"),
        ("POST", "/v1/status"),
        ("DELETE", "/v1/vms/web/start"),
        ("GET", "/v1/vms/web/start"),
        ("POST", "/v1/vms/web/explode"),
        ("POST", "/v1/vms/web/start/now"),
        ("POST", "/v1/vms/We b/start"),
        ("POST", "/v1/vms//start"),
        ("POST", "/v1/vms/\x1b[2J/start"),
        ("POST", "/v1/vms/none/start"),
        ("POST", "/v1/vms/db/start"),
        ("GET", "/v1/" + "x" * 10_000),
    ],
)
def test_what_is_no_request(method: str, path: str) -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha")
        answer = await ask(world, method, path)
        assert answer.status == 400
        assert answer.body["error"]["exit_code"] == 2
        assert len(str(answer.body)) < 1000

    play(test)


@pytest.mark.parametrize(
    "bad",
    ["x", "", "-1", -1, 1.5e400, float("nan"), None, [], {}, "9" * 5000, "1e3"],
    ids=lambda bad: repr(bad)[:9],
)
def test_hostile_numbers(bad: Any) -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha")
        for name in ("after", "limit"):
            answer = await ask(world, "GET", "/v1/audit", **{name: bad})
            assert answer.status == 400, answer.body
            assert name in answer.body["error"]["what"]
            assert len(answer.body["error"]["found"]) <= 40

    play(test)


@pytest.mark.parametrize(
    "bad", ["", "x" * 501, "two\nlines", "\x1b[2J", 7, None, ["x"], {"a": 1}, "\ud800"], ids=lambda bad: repr(bad)[:9]
)
def test_hostile_reasons(bad: Any) -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha")
        await world.start("alpha", "web")
        answer = await ask(world, "POST", "/v1/vms/web/quarantine", reason=bad)
        assert answer.status == 400
        assert not records(world.alpha, "vm.quarantine")

    play(test)


def test_a_conflict_is_a_refusal() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha")
        await world.start("alpha", "web")
        answer = await ask(world, "POST", "/v1/vms/probe/start")
        assert (answer.status, answer.body["error"]["exit_code"]) == (409, 1)
        assert "chinese-wall" in answer.body["error"]["what"]

    play(test)


@pytest.mark.parametrize(
    ("error", "status", "exit_code"),
    [
        (BadInput("x"), 400, 2),
        (NotTrusted("x"), 403, 3),
        (Unreachable("x"), 503, 4),
        (Refused("x"), 409, 1),
        (BackendFailed("x"), 409, 1),
    ],
)
def test_errors_and_their_codes(
    error: ShamonError, status: int, exit_code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha")

        def fail(_states: VmStates) -> None:
            raise error

        monkeypatch.setattr(VmStates, "statuses", fail)
        answer = await ask(world, "GET", "/v1/vms")
        assert (answer.status, answer.body["error"]["exit_code"]) == (status, exit_code)
        assert answer.body == error_body(error)
        monkeypatch.undo()

    play(test)
