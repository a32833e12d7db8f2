"""The story's world with `web` attested: its guests are machines with TPMs of their own, all of one image."""

from collections.abc import Awaitable, Callable
from functools import cache
from typing import Any

from shamon_host.attestation.guest_record import record_guest
from shamon_host.attestation.guest_reference import GuestBoot, GuestReference
from shamon_host.domain.labels import VmName
from shamon_host.hypervisor.vm_spec import GUEST_CIDS
from shamon_host.testing.machine import MeasuredMachine
from shamon_host.testing.memory_host import MemoryHost
from tests.unit.daemon.daemon_world import Change, DaemonWorld, daemon, play

WEB = VmName("web")
PROGRAM = "/usr/local/bin/strange"


@cache
def guest_reference() -> GuestReference:
    """Of the guests of this world; their host boots them from their disks."""
    machine = MeasuredMachine()
    machine.boot()
    return record_guest(pcrs=machine.tpm.pcrs, ima_log=machine.logs.ima_log(0), boot=GuestBoot())


def demanding(*, on_failure: str = "replace", sha256: str = "") -> tuple[Change, ...]:
    """`web` is attested every 5 seconds, and its answers count for 15."""
    demand = f'sha256 = "{sha256 or guest_reference().digest}"\nperiod_s = 5\nlease_s = 15\non_failure = "{on_failure}"'
    web = '[vms.web]\nlabel = "red"\nimage = "app"\nhost = "alpha"'
    return ((web, f'[guests.app]\n{demand}\n\n{web}\nattest = "app"'),)


def play_attested(
    test: Callable[[DaemonWorld], Awaitable[None]], *changes: Change, on_failure: str = "replace"
) -> None:
    """As `play`, with `web` attested."""

    async def with_references(world: DaemonWorld) -> None:
        world.enrolment.guests["app"] = guest_reference()
        await test(world)

    play(with_references, *demanding(on_failure=on_failure), *changes)


def cid(host: MemoryHost) -> int:
    found = daemon(host).own.vms.states.cid(WEB)
    assert found is not None
    assert found in GUEST_CIDS
    return found


async def web(world: DaemonWorld) -> Any:
    result = await world.alpha.ask("vms")
    return next(vm for vm in result.value if vm["name"] == "web")


async def attested(world: DaemonWorld, *, within_s: float = 60) -> None:
    async def it_is() -> bool:
        return world.alpha.daemon is not None and bool((await web(world))["attestation"]["attested"])

    await world.until(it_is, within_s=within_s, what="web is attested")


def ports(host: MemoryHost) -> list[str]:
    """Taps of VMs that are in a bridge."""
    return [port for each in host.kernel.read().bridges.values() for port in each.ports if port.startswith("shvm")]
