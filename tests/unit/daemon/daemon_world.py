"""The story's world for tests of the daemon: its policy may be changed, its hosts are booted on demand."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import cache
from typing import Any

from shamon_host.daemon.host_daemon import HostDaemon
from shamon_host.daemon.ports import T
from shamon_host.domain.labels import HostName
from shamon_host.domain.policy import Policy
from shamon_host.domain.policy_file import parse_policy
from shamon_host.testing.clock import run_virtual
from shamon_host.testing.images import sha256_of
from shamon_host.testing.memory_host import CLEAN_IMAGE, MemoryHost
from shamon_host.testing.memory_world import MAC_VM_PINS, MEMORY_TIMING, MemoryWorld, attested_pins
from shamon_host.testing.network import Deliver, Request
from shamon_host.testing.story_policy import VM_ADDRESSES, story_policy

ALPHA, BETA, GAMMA = HostName("alpha"), HostName("beta"), HostName("gamma")
Change = tuple[str, str]
"""In the policy's text: what is replaced by what."""
XEN: Change = ('192.0.2.1"', '192.0.2.1"\nhypervisor = "xen"')
"""Alpha has Xen; the others have QEMU."""
ON_FAILURE = 'on_failure = "replace"'


@cache
def changed_policy(*changes: Change, mac_vms: bool = False, attested: bool = True) -> Policy:
    """The story's policy with every first occurrence of what is to be changed changed. `attested`: so are MAC VMs."""
    pins = (attested_pins() if attested else MAC_VM_PINS) if mac_vms else None
    text = story_policy(image_sha256=sha256_of(CLEAN_IMAGE), timing=MEMORY_TIMING, mac_vm=pins)
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    return parse_policy(text.encode(), source="policy.toml")


class DaemonWorld(MemoryWorld):
    """Three enrolled hosts, all off."""

    def __init__(self, *changes: Change, mac_vms: bool = False, attested: bool = True) -> None:
        super().__init__(policy=changed_policy(*changes, mac_vms=mac_vms, attested=attested))

    @property
    def alpha(self) -> MemoryHost:
        return self.hosts["alpha"]

    @property
    def beta(self) -> MemoryHost:
        return self.hosts["beta"]

    @property
    def gamma(self) -> MemoryHost:
        return self.hosts["gamma"]

    async def boot(self, *names: str) -> None:
        """Boot hosts, and wait until all that run have admitted each other."""
        for name in names:
            await self.hosts[name].boot()
        await self.admitted(*(name for name, host in self.hosts.items() if host.daemon))

    async def admitted(self, *names: str) -> None:
        async def all_are() -> bool:
            return all(state(self.hosts[one], other) == "admitted" for one in names for other in names if one != other)

        await self.until(all_are, within_s=100, what=f"{', '.join(names)} admit each other")

    async def pair_with_link(self) -> None:
        """alpha and beta admitted, web and db running, the red link up."""
        await self.boot("alpha", "beta")
        await self.start("alpha", "web")
        await self.start("beta", "db")
        await self.until(self.web_reaches_db, within_s=30, what="web reaches db")

    async def start(self, host: str, vm: str) -> None:
        result = await self.hosts[host].ask("vm", "start", vm)
        assert result.exit_code == 0, result.value

    async def web_reaches_db(self) -> bool:
        return await self.alpha.guest("web").reaches(VM_ADDRESSES["db"][0])

    async def spy_reaches_shop(self) -> bool:
        return await self.beta.guest("spy").reaches(VM_ADDRESSES["shop"][0])

    async def suspended(self, host: str, peer: str, *, within_s: float = 100) -> str:
        """Wait until `host` has suspended `peer`; return its reason."""

        async def it_is() -> bool:
            return state(self.hosts[host], peer) == "suspended"

        await self.until(it_is, within_s=within_s, what=f"{host} suspends {peer}")
        return daemon(self.hosts[host]).admissions.peers[HostName(peer)].reason

    def count_calls(self, path: str) -> list[tuple[str, str]]:
        """From now on, who calls whom at `path`."""
        calls: list[tuple[str, str]] = []

        async def tap(request: Request, deliver: Deliver) -> bytes:
            if request.path == path:
                calls.append((request.caller.host, request.to))
            return await deliver(request)

        self.network.tap = tap
        return calls


def play(
    test: Callable[[DaemonWorld], Awaitable[None]], *changes: Change, mac_vms: bool = False, attested: bool = True
) -> None:
    """Run a test in a prepared world, in virtual time. A daemon that ended by itself fails the test that did not
    expect it."""

    async def main() -> None:
        async with DaemonWorld(*changes, mac_vms=mac_vms, attested=attested) as world:
            await world.prepare()
            await test(world)
            for host in world.hosts.values():
                failure = host.failure()
                assert failure is None, failure

    run_virtual(main())


def daemon(host: MemoryHost) -> HostDaemon:
    assert host.daemon is not None
    return host.daemon


def state(host: MemoryHost, peer: str) -> str:
    return daemon(host).admissions.peers[HostName(peer)].state.value


def records(host: MemoryHost, kind: str, subject: str | None = None) -> list[Any]:
    """Details of the audit records of a kind, oldest first."""
    return [
        record.detail
        for record in daemon(host).audit.records(limit=10_000)
        if record.kind == kind and subject in (None, record.subject)
    ]


class SlowBlocking:
    """`daemon.ports.Blocking` whose calls take `delay_s` before they do anything."""

    def __init__(self, delay_s: float = 0.0) -> None:
        self.delay_s = delay_s

    async def __call__(self, call: Callable[[], T], /) -> T:
        running = asyncio.ensure_future(self._later(call))
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            while not running.done():
                with suppress(asyncio.CancelledError):
                    await asyncio.wait({running})
            if not running.cancelled():
                running.exception()
            raise

    async def _later(self, call: Callable[[], T]) -> T:
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        return call()
