"""Reference Values that change while the daemon runs: no restart, no log that is read again, no way back."""

import hashlib
from dataclasses import replace
from typing import Any

from shamon_host.attestation.evidence import Evidence
from shamon_host.attestation.reference_model import ReferencePart, ReferenceValues
from shamon_host.testing.world import Fault
from tests.unit.daemon.daemon_world import BETA, DaemonWorld, daemon, play, records, state

STRANGER = ReferencePart(digests=frozenset({hashlib.sha256(b"stranger").hexdigest()}))


def values(world: DaemonWorld) -> ReferenceValues:
    assert world.enrolment.reference is not None
    return world.enrolment.reference


class Noting:
    """beta's Attester, and from which byte on its log was asked for since."""

    def __init__(self, world: DaemonWorld) -> None:
        host = daemon(world.beta).host
        self.offsets: list[int] = []
        self._honest = host.attester.evidence
        host.attester = self  # type: ignore[assignment]  # in its place

    async def evidence(self, **fields: Any) -> Evidence:
        made = await self._honest(**fields)
        self.offsets.append(made.ima_offset)
        return made


def test_a_change_is_judged_without_the_log() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        noted = Noting(world)
        world.enrolment.reference = values(world).merged(STRANGER).following(values(world))
        await world.wait(25)
        assert state(world.alpha, "beta") == "admitted"
        assert noted.offsets
        assert all(noted.offsets)
        assert daemon(world.alpha).store.get("reference", BETA) == {
            "digest": values(world).digest,
            "version": 2,
        }

    play(test)


def test_a_failure_that_stuck_is_cleared_by_a_change() -> None:
    """And by that alone: the host runs on in the same boot, and shows no entry of its log twice."""

    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        await world.beta.inflict(Fault.PROGRAM)
        await world.suspended("alpha", "beta")
        path, digest = unknown(world)
        noted = Noting(world)
        await world.wait(40)
        assert state(world.alpha, "beta") == "suspended"
        part = ReferencePart(files={path: frozenset({digest})})
        world.enrolment.reference = values(world).merged(part).following(values(world))
        await world.until(lambda: admitted(world), within_s=100, what="alpha admits beta again")
        assert all(noted.offsets)

    play(test)


def test_there_is_no_way_back() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.pair_with_link()
        first = values(world)
        world.enrolment.reference = first.merged(STRANGER).following(first)
        await world.wait(25)
        assert state(world.alpha, "beta") == "admitted"
        world.enrolment.reference = first
        await world.suspended("alpha", "beta")
        refused = records(world.alpha, "reference.update", BETA)[-1]
        assert not refused["permitted"]
        assert "version 1" in refused["reason"]
        world.enrolment.reference = replace(first, version=3)
        await world.until(lambda: admitted(world), within_s=100, what="alpha admits beta again")

    play(test)


async def admitted(world: DaemonWorld) -> bool:
    return state(world.alpha, "beta") == "admitted"


def unknown(world: DaemonWorld) -> tuple[str, str]:
    """The program that beta ran and nobody knows."""
    fields = world.beta.machine.logs.entries[-1].fields()
    assert fields.path is not None
    assert fields.file_digest is not None
    return fields.path, fields.file_digest.digest.hex()
