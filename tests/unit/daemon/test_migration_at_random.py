"""Moves among three hosts while daemons die, hosts boot and messages get lost, in any order: the VM is never in two
places, and runs in the one that all hosts name once everything is up again."""

import asyncio
from contextlib import suppress

from hypothesis import given, settings
from hypothesis import strategies as st

from shamon_host.domain.errors import ShamonError, Unreachable
from shamon_host.peer.wire import VM_PATHS
from shamon_host.testing.network import Deliver, Request
from tests.examples import examples
from tests.unit.daemon.daemon_world import ON_FAILURE, DaemonWorld, daemon, play
from tests.unit.daemon.test_migration import KINDS, MOVES, WEB, owner, runs, where
from tests.unit.daemon.test_migration_killed import never_twice

HOSTS = ("alpha", "beta", "gamma")
_hosts = st.sampled_from(HOSTS)
_steps = st.one_of(
    st.tuples(st.just("move"), _hosts),
    st.tuples(st.just("move-live"), _hosts),
    st.tuples(st.just("kill"), _hosts),
    st.tuples(st.just("boot"), _hosts),
    st.tuples(st.just("stop"), _hosts),
    st.tuples(st.just("lose"), st.integers(1, 8)),
    st.tuples(st.just("wait"), st.sampled_from([0.0, 0.05, 0.3, 2.0, 15.0])),
)


@settings(max_examples=examples(20), deadline=None)
@given(steps=st.lists(_steps, min_size=3, max_size=12))
def test_wherever_it_goes_it_is_in_one_place(steps: list[tuple[str, str | float]]) -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot(*HOSTS)
        await world.start("alpha", "web")
        never_twice(world)
        lose = 0

        async def tap(request: Request, deliver: Deliver) -> bytes:
            """The next so many messages of moves are lost, every second one after it arrived."""
            nonlocal lose
            if request.path not in VM_PATHS or not lose:
                return await deliver(request)
            lose -= 1
            if lose % 2:
                with suppress(ShamonError):
                    await deliver(request)
            raise Unreachable("the connection was lost", where=request.to)

        world.network.tap = tap
        for what, which in steps:
            host = world.hosts.get(str(which))
            if what == "lose":
                lose = int(which)
            elif what == "wait":
                await asyncio.sleep(float(which))
            elif host is not None and what in ("move", "move-live"):
                for each in world.hosts.values():
                    if each.daemon is not None and owner(each) == each.name != host.name:
                        await each.ask("vm", "migrate", "web", host.name, *(["--live"] if what == "move-live" else []))
            elif host is not None:
                await host.kill_daemon()
                if what == "boot":
                    await host.boot()
                elif what == "kill":
                    await host.start_daemon()
        lose = 0
        for host in world.hosts.values():
            if host.daemon is None:
                await host.start_daemon()

        async def settled() -> bool:
            owners = {owner(host) for host in world.hosts.values()}
            return (
                len(owners) == 1
                and where(world) == sorted(owners)
                and runs(world.hosts[where(world)[0]], WEB)
                and not any(daemon(host).store.items(kind) for host in world.hosts.values() for kind in KINDS)
            )

        await world.until(settled, within_s=300, what=f"the VM is in one place: {where(world)}")
        await world.admitted(*HOSTS)

    play(test, MOVES, (ON_FAILURE, 'on_failure = "keep"'))
