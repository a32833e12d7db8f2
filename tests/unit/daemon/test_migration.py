"""Cold migration between two hosts of a coalition: a VM is in one place at every moment, whoever fails when."""

from typing import Any

from shamon_host.domain.labels import HostName, VmName
from shamon_host.testing.memory_host import MemoryHost
from shamon_host.testing.story_policy import VM_ADDRESSES
from tests.unit.daemon.daemon_world import ALPHA, BETA, DaemonWorld, daemon, play, records, state

WEB, DB = VmName("web"), VmName("db")
MOVES = (
    'label = "red"\nimage = "app"\nhost = "alpha"',
    'label = "red"\nimage = "app"\nhost = "alpha"\nmay_move_to = ["beta", "gamma"]',
)


async def migrate(world: DaemonWorld, source: MemoryHost, to: str, vm: str = "web") -> dict[str, Any]:
    """Move it, and wait for the end. The answer to whoever asked; an error as the API gives it."""
    begun = await source.ask("vm", "migrate", vm, to)
    if begun.exit_code:
        return dict(begun.value)
    return await ended(world, source, vm)


async def ended(world: DaemonWorld, source: MemoryHost, vm: str = "web") -> dict[str, Any]:
    async def over() -> bool:
        return daemon(source).departures.progress[VmName(vm)].done

    await world.until(over, within_s=60, what="the move is over")
    return dict((await source.ask("vm", "move", vm)).value)


def runs(host: MemoryHost, vm: str = "web") -> bool:
    return any(report.name == vm and report.state == "running" for report in host.hypervisor.domains())


def where(world: DaemonWorld, vm: str = "web") -> list[str]:
    return [name for name, host in world.hosts.items() if any(each.name == vm for each in host.hypervisor.domains())]


def owner(host: MemoryHost, vm: str = "web") -> HostName:
    return daemon(host).policy.host_of(VmName(vm))


async def gamma_reaches_web(world: DaemonWorld) -> None:
    """db on beta reaches web, wherever it is."""

    async def reaches() -> bool:
        return await world.beta.guest("db").reaches(VM_ADDRESSES["web"][0])

    await world.until(reaches, within_s=60, what="db reaches web")


def test_a_vm_moves_with_its_disk_and_its_links_follow() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("gamma")
        await world.pair_with_link()
        await world.alpha.guest("web").write_marker("written on alpha")
        answer = await migrate(world, world.alpha, "gamma")
        assert answer["done"]
        assert answer["step"] == "it is running", answer
        assert answer["downtime_ms"] > 0
        assert list(answer["parts_ms"]) == ["prepared", "stopped", "copied", "accepted", "given", "taken"]
        assert where(world) == ["gamma"]
        assert world.gamma.images.overlays["/overlays/web.qcow2"].written == "written on alpha"
        assert world.alpha.images.overlay(WEB) is None
        await gamma_reaches_web(world)
        await world.admitted("alpha", "beta", "gamma")
        assert {owner(host) for host in world.hosts.values()} == {"gamma"}
        assert [row["name"] for row in (await world.alpha.ask("vms", "--away")).value] == ["web"]
        assert "web" not in [row["name"] for row in (await world.alpha.ask("vms")).value]
        assert (await world.alpha.ask("vm", "start", "web")).exit_code != 0

    play(test, MOVES)
