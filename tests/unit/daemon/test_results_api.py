"""What the daemon answers about results: routes, fields, and requests that are none."""

from typing import Any

import pytest
from jsonschema import Draft202012Validator

from shamon_host.daemon.api import Answer, Api
from shamon_host.interchange.schema import result_schema
from shamon_host.peer.result_envelope import verifiers_of_registry, verify_result
from shamon_host.testing.world import Fault
from tests.unit.daemon.daemon_world import BETA, DaemonWorld, daemon, play


async def ask(world: DaemonWorld, path: str, *, method: str = "GET", **fields: Any) -> Answer:
    return await Api(daemon=daemon(world.alpha)).handle(method, path, fields)


async def failed(world: DaemonWorld) -> None:
    await world.boot("alpha", "beta")
    await world.beta.inflict(Fault.PROGRAM)
    await world.suspended("alpha", "beta")


def test_runs_and_their_documents() -> None:
    async def test(world: DaemonWorld) -> None:
        await failed(world)
        answer = await ask(world, "/v1/results", host="beta")
        assert answer.status == 200
        assert [run["trusted"] for run in answer.body] == [False, True]
        for run in answer.body:
            assert run.keys() == {"number", "host", "trusted", "count", "first", "last"}
            Draft202012Validator(result_schema()).validate(run["first"])
        last = answer.body[0]["last"]
        assert (last["verifier"], last["policy_digest"]) == ("alpha", world.policy.digest)
        assert world.enrolment.reference is not None
        assert last["reference_digest"] == world.enrolment.reference.digest
        assert last["reset_count"] == world.beta.machine.tpm.reset_count
        assert last["ak_name"] == daemon(world.alpha).registry.enrolled(BETA).ak_name.hex()
        assert len((await ask(world, "/v1/results", host="beta", limit="1")).body) == 1
        assert len((await ask(world, "/v1/results", host="beta", limit=10**30)).body) == 2
        assert (await ask(world, "/v1/results", host="gamma")).body == []

    play(test)


def test_a_signed_result_is_verified_with_the_registry_of_any_host() -> None:
    async def test(world: DaemonWorld) -> None:
        await failed(world)
        envelope = (await ask(world, "/v1/results/signed", host="beta")).body["envelope"]
        record = verify_result(envelope.encode("ascii"), verifiers_of_registry(world.enrolment.registry))
        assert record == daemon(world.alpha).history.newest(BETA)
        assert not record.result.trusted

    play(test)


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/results", {}),
        ("/v1/results", {"host": "../beta"}),
        ("/v1/results", {"host": ["beta"]}),
        ("/v1/results", {"host": "beta" * 100}),
        ("/v1/results", {"host": "alpha"}),
        ("/v1/results", {"host": "delta"}),
        ("/v1/results", {"host": "beta", "limit": 0}),
        ("/v1/results", {"host": "beta", "limit": -1}),
        ("/v1/results", {"host": "beta", "limit": "many"}),
        ("/v1/results", {"host": "beta", "limit": float("inf")}),
        ("/v1/results/signed", {"host": "gamma"}),
        ("/v1/results/signed", {"host": "delta"}),
        ("/v1/results/evidence", {"host": "gamma"}),
        ("/v1/results/evidence", {"host": "beta", "which": "all"}),
        ("/v1/results/evidence", {"host": "beta", "which": 1}),
        ("/v1/results/explain", {"host": "delta"}),
        ("/v1/results/else", {"host": "beta"}),
        ("/v1/results/signed/more", {"host": "beta"}),
    ],
)
def test_what_is_no_request(path: str, fields: dict[str, Any]) -> None:
    async def test(world: DaemonWorld) -> None:
        await failed(world)
        answer = await ask(world, path, **fields)
        assert (answer.status, answer.body["error"]["exit_code"]) == (400, 2)
        assert answer.body["error"]["expected"] or answer.body["error"]["where"]

    play(test)


def test_results_are_only_read() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha", "beta")
        assert (await ask(world, "/v1/results", method="POST", host="beta")).status == 400
        assert (await ask(world, "/v1/results", method="DELETE", host="beta")).status == 400

    play(test)
