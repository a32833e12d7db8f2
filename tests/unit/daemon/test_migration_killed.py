"""Either daemon dies before any one of its acts in a migration: the VM is never in two places, and after a restart it
runs in one, with its disk, under its label."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from shamon_host.domain.errors import BackendFailed
from shamon_host.domain.labels import VmName
from shamon_host.peer.wire import VM_PATHS
from shamon_host.testing.memory_host import MemoryHost
from shamon_host.testing.network import Deliver, Request
from tests.unit.daemon.daemon_world import ON_FAILURE, DaemonWorld, daemon, play
from tests.unit.daemon.test_migration import KINDS, MOVES, live_of, owner, runs, where

WEB = VmName("web")
_ACTS = {
    "hypervisor": ("start_paused", "resume", "suspend", "destroy"),
    "live": ("start_incoming", "receive", "send", "abandon"),
    "images": (
        "outgoing",
        "read",
        "begin_incoming",
        "write_incoming",
        "fit_incoming",
        "make_way",
        "place_incoming",
        "discard",
        "discard_incoming",
    ),
}
_MOST_ACTS = 80
_MARK = "written on alpha"
_NOTE = "in memory on alpha"


@dataclass
class Fate:
    """So many acts are left to the daemon of a host: changes of its database, of its domains and of disks."""

    host: MemoryHost
    left: int
    dead: bool = False
    acts: list[str] = field(default_factory=list)
    _undo: list[Callable[[], None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for port, names in _ACTS.items():
            for name in names:
                self._wrap(getattr(self.host, port), name)
        self._wrap(self.host.database, "transaction")

    def _wrap(self, target: Any, name: str) -> None:
        real = getattr(target, name)

        def act(*arguments: Any, **named: Any) -> Any:
            self.act(name)
            return real(*arguments, **named)

        before = vars(target).get(name)
        setattr(target, name, act)
        self._undo.append(lambda: delattr(target, name) if before is None else setattr(target, name, before))

    def act(self, name: str) -> None:
        if not self.dead and self.left == 0:
            self.dead = True
            self.host.sever()
        if self.dead:
            raise BackendFailed("this daemon is dead")
        self.left -= 1
        self.acts.append(name)

    async def restart(self, *, boots: bool) -> None:
        for undo in self._undo:
            undo()
        await self.host.kill_daemon()
        if boots:
            await self.host.boot()
        else:
            await self.host.start_daemon()


def never_twice(world: DaemonWorld) -> None:
    """From now on it is noticed when a second domain of the VM is started, but to wait for its memory, or when one runs
    that is not its host's, or while another one does."""
    for host in world.hosts.values():
        _watch_starts(world, host)


def _watch_starts(world: DaemonWorld, host: MemoryHost) -> None:
    start, start_incoming, resume = host.hypervisor.start_paused, live_of(host).start_incoming, host.hypervisor.resume
    incoming = False

    def started(spec: Any) -> Any:
        if spec.name == WEB and not incoming:
            assert not any(map(runs, world.hosts.values())), f"{host.name} starts what is on {where(world)}"
            assert host.daemon is None or host.daemon.policy.host_of(WEB) == host.name
        return start(spec)

    def started_to_wait(spec: Any) -> Any:
        nonlocal incoming
        incoming = True
        try:
            return start_incoming(spec)
        finally:
            incoming = False

    def resumed(name: VmName) -> None:
        if name == WEB:
            assert not any(runs(each) for each in world.hosts.values() if each is not host)
            assert host.daemon is None or host.daemon.policy.host_of(WEB) == host.name
        resume(name)

    host.hypervisor.start_paused = started  # type: ignore[method-assign]
    live_of(host).start_incoming = started_to_wait  # type: ignore[method-assign]
    host.hypervisor.resume = resumed  # type: ignore[method-assign]


async def settled(world: DaemonWorld) -> str:
    """Where the VM runs once everything has come to rest."""

    async def rests() -> bool:
        hosts = (world.alpha, world.beta)
        return (
            [runs(host) for host in hosts].count(True) == 1
            and len({owner(host) for host in hosts}) == 1
            and where(world) == [owner(world.alpha)]
            and not any(daemon(host).store.items(kind) for host in hosts for kind in KINDS)
        )

    await world.until(rests, within_s=200, what=f"the VM is in one place: {where(world)}")
    return where(world)[0]


async def checked(world: DaemonWorld, place: str, *, booted: bool = False, live: bool = False) -> None:
    """It has its disk, or a clean one where the host that it is on booted without having been stopped; and the hosts
    trust each other."""
    here, there = (world.alpha, world.beta) if place == "alpha" else (world.beta, world.alpha)
    assert here.images.overlays["/overlays/web.qcow2"].written in ((_MARK, "") if booted else (_MARK,))
    if live and not booted:
        assert here.hypervisor.guest("web").note == _NOTE
    assert there.images.overlay(WEB) is None
    assert not here.kernel.read().passages | there.kernel.read().passages
    assert not here.hypervisor.waiting | there.hypervisor.waiting
    assert not there.images.incoming
    assert not here.images.incoming
    await world.admitted("alpha", "beta")


async def prepared(world: DaemonWorld) -> None:
    await world.boot("alpha", "beta")
    await world.start("alpha", "web")
    await world.alpha.guest("web").write_marker(_MARK)
    world.alpha.hypervisor.guest("web").note = _NOTE
    await world.admitted("alpha", "beta")
    await asyncio.sleep(1.0)
    never_twice(world)


def attempt(who: str, acts: int, *, boots: bool, live: bool) -> tuple[bool, str]:
    """Whether the daemon of `who` died after so many acts, and where the VM is in the end."""
    outcome: list[tuple[bool, str]] = []

    async def test(world: DaemonWorld) -> None:
        await prepared(world)
        host = world.hosts[who]
        fates: list[Fate] = [Fate(host, acts)] if who == "alpha" else []

        async def tap(request: Request, deliver: Deliver) -> bytes:
            if request.path in VM_PATHS and not fates:  # what it does in handshakes is tested elsewhere
                fates.append(Fate(host, acts))
            return await deliver(request)

        world.network.tap = tap
        await world.alpha.ask("vm", "migrate", "web", "beta", *(["--live"] if live else []))

        async def over() -> bool:
            return any(fate.dead for fate in fates) or (
                where(world) == ["beta"]
                and runs(world.beta)
                and not daemon(world.alpha).store.items("vm-departure")
                and not daemon(world.beta).store.items("vm-arrival")
            )

        await world.until(over, within_s=100, what="the daemon died, or the VM has moved")
        await asyncio.sleep(0.5)
        [fate] = fates
        died = fate.dead
        if died:
            await fate.restart(boots=boots)
        place = await settled(world)
        await checked(world, place, booted=died and boots and place == who, live=live)
        outcome.append((died, place))

    play(test, MOVES, (ON_FAILURE, 'on_failure = "keep"'))
    return outcome[0]


@pytest.mark.parametrize("live", [False, True], ids=["stopped", "live"])
@pytest.mark.parametrize("who", ["alpha", "beta"])
def test_a_daemon_that_dies_before_each_of_its_acts(who: str, *, live: bool) -> None:
    places = []
    for acts in range(_MOST_ACTS):
        died, place = attempt(who, acts, boots=acts % 3 == 2, live=live)
        places.append(place)
        if not died:
            break
    else:
        raise AssertionError("it never comes to an end")
    assert acts > 10
    assert places[0] == "alpha"
    assert sorted(places) == places, "once it is the other host's it stays that"
    assert places[-1] == "beta"
