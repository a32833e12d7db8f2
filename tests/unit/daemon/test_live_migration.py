"""Live migration between two hosts of a coalition: the VM runs on, with its memory, and is in one place at every moment,
whoever fails when."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from shamon_host.domain.errors import Unreachable
from shamon_host.domain.labels import HostName
from shamon_host.links.model import PASSAGE_SESSION
from shamon_host.peer.wire import VM_ACCEPT, VM_HAND, VM_JOIN, VM_PATHS, VM_RECEIVE
from shamon_host.testing.memory_host import MemoryHost
from shamon_host.testing.network import Deliver, Request, memory_identity
from shamon_host.testing.story_policy import VM_ADDRESSES
from tests.unit.daemon.daemon_world import ALPHA, BETA, GAMMA, ON_FAILURE, XEN, DaemonWorld, daemon, play, records
from tests.unit.daemon.test_migration import (
    CONFLICT,
    KINDS,
    MOVES,
    WEB,
    db_reaches_web,
    ended,
    migrate,
    owner,
    runs,
    where,
)

KEEP = (ON_FAILURE, 'on_failure = "keep"')
PARTS = ["attested", "prepared", "copied", "disk ended", "memory ended", "accepted", "given", "taken"]


async def migrate_live(world: DaemonWorld, source: MemoryHost, to: str, vm: str = "web") -> dict[str, Any]:
    begun = await source.ask("vm", "migrate", vm, to, "--live")
    if begun.exit_code:
        return dict(begun.value)
    return await ended(world, source, vm)


async def running(world: DaemonWorld, *hosts: str) -> None:
    """web runs on alpha, with something in its memory and on its disk."""
    await world.boot("alpha", "beta", *hosts)
    await world.start("alpha", "web")
    world.alpha.hypervisor.guest("web").note = "in memory"
    await world.alpha.guest("web").write_marker("on disk")
    await world.admitted("alpha", "beta", *hosts)


def is_whole(host: MemoryHost) -> bool:
    """web is there with its memory and its disk."""
    disk = host.images.overlays["/overlays/web.qcow2"].written
    return (host.hypervisor.guest("web").note, disk) == ("in memory", "on disk")


def nothing_is_left(world: DaemonWorld) -> bool:
    """No passage, no domain that waits, nothing under way."""
    hosts = [host for host in world.hosts.values() if host.daemon is not None]
    return not any(
        host.kernel.read().passages or host.hypervisor.waiting or any(daemon(host).store.items(kind) for kind in KINDS)
        for host in hosts
    )


def test_a_vm_moves_while_it_runs() -> None:
    async def test(world: DaemonWorld) -> None:
        await running(world, "gamma")
        mark = world.mark_wire()
        answer = await migrate_live(world, world.alpha, "beta")
        assert answer.get("step") == "it is running", answer
        assert list(answer["parts_ms"]) == PARTS
        running_ms = sum(answer["parts_ms"][part] for part in PARTS[:3])
        assert answer["downtime_ms"] == pytest.approx(sum(answer["parts_ms"].values()) - running_ms)
        assert answer["sent_bytes"] > 0
        tally = world.wire_since(mark)
        assert (tally.clear, tally.esp > 0) == (0, True)
        assert where(world) == ["beta"]
        assert is_whole(world.beta)
        assert world.alpha.images.overlay(WEB) is None
        await db_runs_and_reaches(world)
        await world.admitted("alpha", "beta", "gamma")
        assert {owner(host) for host in world.hosts.values()} == {"beta"}
        assert nothing_is_left(world)
        assert any(name.startswith("live migration: ") for name in (await world.alpha.ask("status")).value["figures"])

    play(test, MOVES)


async def db_runs_and_reaches(world: DaemonWorld) -> None:
    await world.start("beta", "db")
    await db_reaches_web(world)
