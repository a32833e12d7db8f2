"""A key is installed once, under one SPI, on each of its two hosts, wherever a daemon is killed on the way."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from shamon_host.links.model import AddSa, Operation
from shamon_host.testing.memory_host import MemoryHost
from tests.examples import examples
from tests.unit.daemon.daemon_world import DaemonWorld, daemon, play


@dataclass(frozen=True)
class Crash:
    """A daemon is killed at its n-th kernel operation from now on, before or after the kernel carried it out."""

    host: str
    operation: int
    carried_out: bool


CRASHES = st.lists(
    st.builds(Crash, host=st.sampled_from(["alpha", "beta"]), operation=st.integers(0, 40), carried_out=st.booleans()),
    min_size=1,
    max_size=6,
)


@dataclass(kw_only=True)
class Installed:
    """Every SA that a host's kernel was ever given, over all runs of its daemon."""

    world: DaemonWorld
    sas: list[tuple[str, str, int, bytes]] = field(default_factory=list)
    """Host, destination, SPI and key."""
    left: dict[str, tuple[int, bool]] = field(default_factory=dict)
    """Host → operations until its daemon is killed."""

    def watch(self, host: MemoryHost) -> None:
        vars(host.kernel)["apply"] = self._watched(host, host.kernel.apply)

    def _watched(
        self, host: MemoryHost, apply: Callable[[Sequence[Operation]], None]
    ) -> Callable[[Sequence[Operation]], None]:
        def applied(operations: Sequence[Operation]) -> None:
            for operation in operations:
                count, carried_out = self.left.get(host.name, (-1, False))
                if count > 0:
                    self.left[host.name] = (count - 1, carried_out)
                elif count == 0:
                    host.sever()
                    if not carried_out:
                        return
                if isinstance(operation, AddSa):
                    sa = operation.sa
                    assert sa.key is not None
                    self.sas.append((host.name, sa.destination, sa.spi, sa.key))
                apply([operation])
                if count == 0:
                    return

        return applied

    def check(self) -> None:
        ids = [(host, destination, spi) for host, destination, spi, _ in self.sas]
        assert len(set(ids)) == len(ids), "an SPI was given a key twice"
        keys = [(host, key) for host, _, _, key in self.sas]
        assert len(set(keys)) == len(keys), "a key was installed twice"
        spis: dict[bytes, set[tuple[str, int]]] = {}
        for _, destination, spi, key in self.sas:
            spis.setdefault(key, set()).add((destination, spi))
        assert all(len(each) == 1 for each in spis.values()), "a key under two SPIs"


@settings(max_examples=examples(60), deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(CRASHES)
def test_no_key_and_spi_are_installed_twice_wherever_a_daemon_is_killed(crashes: list[Crash]) -> None:
    async def test(world: DaemonWorld) -> None:
        installed = Installed(world=world)
        for host in (world.alpha, world.beta):
            installed.watch(host)
        await world.pair_with_link()
        for crash in crashes:
            host = world.hosts[crash.host]
            installed.left[crash.host] = (crash.operation, crash.carried_out)
            daemon(host).schedule.wake_all()
            for _ in range(40):
                await world.wait(0.5)
                if host.severed:
                    break
            del installed.left[crash.host]
            if host.severed:
                await host.kill_daemon()
                await host.start_daemon()
        await world.until(world.web_reaches_db, within_s=60, what="web reaches db")
        installed.check()
        assert len(installed.sas) >= 4

    play(test)
