"""Invariants 1 to 4 and 7 over any life of a coalition: whole hosts with their daemons, in virtual time.

Hosts boot, well or badly; daemons are killed, at any operation on the kernel too, stopped and started; the kernel
refuses; VMs start and stop; hands flush, the clock is stepped, cables are cut, programs run that nobody knows. After
every step, and at many moments within one, nothing is open that should not be; and after a quiet while everything that
should be is.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from unittest import mock

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from shamon_host.daemon.api import Api
from shamon_host.daemon.coalition_host import CoalitionHost
from shamon_host.daemon.ports import StopReason
from shamon_host.domain.admission import AdmissionState
from shamon_host.domain.errors import ShamonError
from shamon_host.domain.flask_expected import expected_flask
from shamon_host.domain.flask_labels import flask_context, flask_type
from shamon_host.domain.labels import HostName, VmName
from shamon_host.domain.quarantine import Grade
from shamon_host.hypervisor.ports import DomainState
from shamon_host.interchange.flask import flask_base_source
from shamon_host.links.desired import BLOCK_ENTRIES
from shamon_host.peer.ports import Outcome
from shamon_host.testing.clock import VirtualTimeLoop
from shamon_host.testing.memory_host import MemoryHost
from shamon_host.testing.story_policy import HOST_ADDRESSES, VM_ADDRESSES
from shamon_host.testing.world import BootVariant, Fault
from tests.examples import examples
from tests.unit.daemon.daemon_world import XEN, Change, DaemonWorld, SlowBlocking

HOSTS = st.sampled_from(sorted(HOST_ADDRESSES))
VMS = st.sampled_from([*sorted(VM_ADDRESSES), "web", "probe"])
FLUSHES = st.sampled_from(["flush_policies", "flush_sas", "flush_nft", "damage_guard"])
FAULTS = st.sampled_from([Fault.PROGRAM, Fault.MODULE, Fault.PERMISSIVE])
LATENCIES = st.sampled_from([0.0, 0.0, 0.05, 0.2])
Install = Callable[[CoalitionHost, Outcome], Awaitable[None]]
LOOK_S = 0.15
"""Within a longer step, the invariants are looked at this often for the first few seconds."""


def _noted(label: str) -> tuple[str, str]:
    """In the story's policy: a quarantine of such a VM is a note, unless somebody asks for more."""
    return f"[labels.{label}]\n", f'[labels.{label}]\nquarantine = "note"\n'


class Coalition(RuleBasedStateMachine):
    """The story's three hosts; one event loop for the whole life."""

    changes: tuple[Change, ...] = ()
    """In the text of the story's policy."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner(loop_factory=VirtualTimeLoop)
        self.world = DaemonWorld(*self.changes, *(_noted(label) for label in ("red", "blue", "black")))
        self.slow = {name: SlowBlocking() for name in self.world.hosts}
        for name, host in self.world.hosts.items():
            host.blocking = self.slow[name]
        self.bad: set[str] = set()
        """Hosts in a boot that no peer may trust any more."""
        self.flushed: set[str] = set()
        """Hosts whose network somebody has touched and whose daemon may not have repaired it yet."""
        self.leases: dict[tuple[str, str], float] = {}
        """(who, about whom) → CLOCK_BOOTTIME at which the newest lease ends that a handshake granted."""
        self.patch = mock.patch.object(CoalitionHost, "install_outbound", self._noting(CoalitionHost.install_outbound))
        self.patch.start()
        self.runner.run(self._found())

    async def _found(self) -> None:
        await self.world.prepare()
        for host in self.world.hosts.values():
            await host.boot()
        for vm in ("web", "db", "shop", "spy"):
            await self.world.start(self._host_of(vm), vm)
        await self.world.wait(3)

    def teardown(self) -> None:
        async def end() -> None:
            for host in self.world.hosts.values():
                await host.power_off()

        self.runner.run(end())
        self.runner.close()
        self.patch.stop()

    def _noting(self, install: Install) -> Install:
        async def noting(host: CoalitionHost, outcome: Outcome) -> None:
            self.leases[host.name, outcome.peer] = outcome.started_s + outcome.lease_s
            await install(host, outcome)

        return noting

    # What happens

    @rule(name=HOSTS, variant=st.sampled_from([BootVariant.GOOD, BootVariant.GOOD, BootVariant.WRONG]))
    def boot(self, name: str, variant: BootVariant) -> None:
        self.flushed.discard(name)
        for pair in [pair for pair in self.leases if pair[0] == name]:
            del self.leases[pair]
        (self.bad.discard if variant is BootVariant.GOOD else self.bad.add)(name)
        self._do(self.world.hosts[name].boot(variant))

    @rule(name=HOSTS, fault=FAULTS)
    def fault(self, name: str, fault: Fault) -> None:
        self.bad.add(name)
        self._do(self.world.hosts[name].inflict(fault))

    @rule(name=HOSTS, after_s=st.sampled_from([0.0, 0.1, 0.25, 0.4]))
    def kill(self, name: str, after_s: float) -> None:
        """In the midst of a handshake, perhaps."""

        async def kill() -> None:
            await self.world.wait(after_s)
            await self.world.hosts[name].kill_daemon()

        self._do(kill())

    @rule(name=HOSTS, operations=st.integers(0, 30), wakes=st.booleans())
    def kill_at_operation(self, name: str, operations: int, wakes: bool) -> None:
        """At that operation on the kernel: of a handshake, a repair, or of whatever comes next."""
        host = self.world.hosts[name]

        async def kill() -> None:
            if wakes:
                with contextlib.suppress(ShamonError):
                    await host.ask("attest")
            await host.kill_daemon_at(operations, within_s=2.0)

        if host.daemon is not None:
            self._do(kill())

    @rule(name=HOSTS, operations=st.integers(0, 30))
    def refuse_operation(self, name: str, operations: int) -> None:
        """The kernel refuses one operation, once."""
        self.world.hosts[name].kernel.fail_after = operations

    @rule(name=HOSTS, restarts=st.booleans(), after_s=st.sampled_from([0.0, 0.3]))
    def stop(self, name: str, restarts: bool, after_s: float) -> None:
        """`systemctl stop`, or the first half of `systemctl restart`."""
        host = self.world.hosts[name]

        async def stop() -> None:
            await self.world.wait(after_s)
            if host.daemon is None:
                return
            refuses = host.kernel.fail_after is not None
            host.service_manager.reason = StopReason.RESTART if restarts else StopReason.STOP
            await host.stop_daemon()
            host.service_manager.reason = StopReason.STOP
            if not restarts and not refuses:
                left = host.kernel.read()
                assert not [*left.tunnels, *left.sas, *left.gate]
                assert left.spd <= set(BLOCK_ENTRIES)

        self._do(stop())

    @rule(name=HOSTS)
    def start_daemon(self, name: str) -> None:
        if self.world.hosts[name].daemon is None:
            self._do(self.world.hosts[name].start_daemon())

    @rule(vm=VMS, grade=st.sampled_from(Grade), keeps=st.booleans())
    def quarantine(self, vm: str, grade: Grade, keeps: bool) -> None:
        daemon = self.world.hosts[self._host_of(vm)].daemon
        fields = {"grade": grade.value, "keep_memory": keeps, "keep_disk": keeps}
        if daemon is not None:
            self._do(Api(daemon=daemon).handle("POST", f"/v1/vms/{vm}/quarantine", fields))

    @rule(vm=VMS, action=st.sampled_from(["start", "start", "stop", "quarantine", "replace"]))
    def vm(self, vm: str, action: str) -> None:
        host = self.world.policy.vms[VmName(vm)].host
        self._do(self.world.hosts[host].ask("vm", action, vm))

    @rule(name=HOSTS, flush=FLUSHES)
    def flush(self, name: str, flush: str) -> None:
        if name in self.flushed:
            return  # who takes both guards away at once, policies and nft, is root and has won
        self.flushed.add(name)
        getattr(self.world.hosts[name].kernel, flush)()

    @rule(name=HOSTS, seconds=st.sampled_from([-3600.0, 3600.0]))
    def step_clock(self, name: str, seconds: float) -> None:
        self._do(self.world.hosts[name].step_clock(seconds))

    @rule(name=HOSTS, cut=st.booleans())
    def cable(self, name: str, cut: bool) -> None:
        """Of the daemons only: link packets still pass, so what is to keep them out are gate and leases."""
        network, host = self.world.network, HostName(name)
        (network.cut_host if cut else network.heal_host)(host)

    @rule(name=HOSTS, latency_s=LATENCIES)
    def slow_down(self, name: str, latency_s: float) -> None:
        self.slow[name].delay_s = latency_s

    @rule(seconds=st.sampled_from([0.3, 1.0, 5.0, 12.0, 40.0]))
    def time_passes(self, seconds: float) -> None:
        self._do(self._pass(seconds))

    @rule()
    def quiet(self) -> None:
        """Daemons run, cables are in, nothing happens: all that is good comes up, all that is bad stays down."""
        self._do(self._settle())

    # What always holds

    @invariant()
    def nothing_is_open_that_should_not_be(self) -> None:
        self.runner.run(self._look())

    async def _look(self) -> None:
        world = self.world
        hosts = world.hosts
        for host in hosts.values():
            failure = host.failure()
            assert failure is None, (host.name, failure)
        self._leases()
        running = {vm for vm in VM_ADDRESSES if self._runs(vm)}
        alpha = {vm for vm in running if world.policy.vms[VmName(vm)].host == "alpha"}
        assert not ({"web", "probe"} <= alpha), "conflicting types run together"
        mark = world.mark_wire()
        for one in sorted(running):
            for other in sorted(running - {one}):
                reached = hosts[self._host_of(one)].hypervisor.guest(one).ping(VM_ADDRESSES[other][0])
                if reached:
                    assert self._label(one) == self._label(other), (one, other)
                    assert self._host_of(one) == self._host_of(other) or self._linked(one, other), (one, other)
        clear = [packet for packet in world.wire.since(mark) if packet.is_clear_link]
        assert not clear, clear
        world.wire.packets.clear()

    def _leases(self) -> None:
        """No gate outlives the lease that a handshake granted."""
        for host in self.world.hosts.values():
            gate = host.kernel.read().gate
            for peer, address in HOST_ADDRESSES.items():
                if address in gate:
                    left = self.leases[host.name, peer] - host.clock.boottime_s()
                    assert gate[address] <= left - self.world.timing.margin_s + 1e-6, (host.name, peer)

    def _linked(self, one: str, other: str) -> bool:
        """Each host's gate for the other is open, which `_leases` holds to the leases."""
        for here, there in ((one, other), (other, one)):
            name, state = self._host_of(here), self.world.hosts[self._host_of(here)].kernel.read()
            if not state.guard:
                assert name in self.flushed, name
            elif HOST_ADDRESSES[self._host_of(there)] not in state.gate:
                return False
        return True

    # What comes about

    async def _pass(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        for _ in range(5):
            if loop.time() + LOOK_S < end:
                await asyncio.sleep(LOOK_S)
                await self._look()
        await asyncio.sleep(max(0.0, end - loop.time()))
        if seconds >= 5:
            self._repaired()
            await self._cut_off()

    async def _cut_off(self) -> None:
        """Of a peer that is suspended nothing is left, unless that happens right now."""
        if await self._left_of_suspended():
            await asyncio.sleep(0.05)
            assert not await self._left_of_suspended()

    async def _left_of_suspended(self) -> set[tuple[str, str]]:
        return {
            (name, peer)
            for name, host in self.world.hosts.items()
            if host.daemon is not None and not self.slow[name].delay_s
            for peer, state in host.daemon.admissions.peers.items()
            if state.state is AdmissionState.SUSPENDED and not (await host.objects(peer)).nothing
        }

    def _repaired(self) -> None:
        for name, host in self.world.hosts.items():
            if host.daemon is not None:
                state = host.kernel.read()
                assert state.guard
                assert state.spd >= set(BLOCK_ENTRIES)
                self.flushed.discard(name)

    async def _settle(self) -> None:
        world = self.world
        for name, host in world.hosts.items():
            self.slow[name].delay_s = 0.0
            host.kernel.fail_after = None
            world.network.heal_host(HostName(name))
            if host.daemon is None:
                await host.start_daemon()
        await world.wait(2 * world.timing.lease_s + 2)
        self._repaired()
        await self._look()
        good = sorted(set(world.hosts) - self.bad)
        for name, host in world.hosts.items():
            assert host.daemon is not None
            for peer, state in host.daemon.admissions.peers.items():
                objects = await host.objects(peer)
                if name in good and peer in good:
                    assert state.state is AdmissionState.ADMITTED, (name, peer, state.reason)
                else:
                    assert state.state is not AdmissionState.ADMITTED, (name, peer)
                    assert objects.nothing, (name, peer, objects)
                links = len(host.daemon.admissions.carried(peer))
                assert (objects.devices, objects.spd_entries) == (links, 2 * links), (name, peer, objects)
            assert host.daemon.audit.verify() > 0
        running = {vm for vm in VM_ADDRESSES if self._runs(vm)}
        cut_off = {vm for vm in running if self._cut_off_vm(vm)}
        for one in cut_off:
            for other in running - {one}:
                for source, target in ((one, other), (other, one)):
                    guest = world.hosts[self._host_of(source)].hypervisor.guest(source)
                    assert not guest.ping(VM_ADDRESSES[target][0]), (source, target)
        running -= cut_off
        for one in running:
            for other in running - {one}:
                together = {self._host_of(one), self._host_of(other)}
                if self._label(one) == self._label(other) and (len(together) == 1 or together <= set(good)):
                    assert world.hosts[self._host_of(one)].hypervisor.guest(one).ping(VM_ADDRESSES[other][0])

    def _do(self, work: Awaitable[object]) -> None:
        async def act() -> None:
            with contextlib.suppress(ShamonError):  # refused or failed: what counts is what the kernel holds
                await work

        self.runner.run(act())

    def _runs(self, vm: str) -> bool:
        host: MemoryHost = self.world.hosts[self._host_of(vm)]
        return any(report.name == vm and report.state is DomainState.RUNNING for report in host.hypervisor.domains())

    def _cut_off_vm(self, vm: str) -> bool:
        """Of a host whose daemon runs."""
        daemon = self.world.hosts[self._host_of(vm)].daemon
        assert daemon is not None
        quarantine = daemon.own.vms.states.quarantine(VmName(vm))
        return quarantine is not None and quarantine.cuts_off

    def _host_of(self, vm: str) -> str:
        return self.world.policy.vms[VmName(vm)].host

    def _label(self, vm: str) -> str:
        return self.world.policy.vms[VmName(vm)].label


class CoalitionWithXen(Coalition):
    """Alpha has Xen, and somebody there who loads other policies into it."""

    changes = (XEN,)

    @rule(which=st.sampled_from(["without labels", "allows more"]))
    def swap_policy(self, which: str) -> None:
        flask = self.world.alpha.flask
        assert flask is not None
        if which == "without labels":
            flask.load(flask_base_source())
        else:
            flask.allow(flask_type("red"), flask_type("blue"), "grant", "map_read")

    async def _settle(self) -> None:
        """What runs is under its label, which means what the policy says."""
        await super()._settle()
        own = self.world.alpha
        assert own.flask is not None
        expected = expected_flask(self.world.policy, own.host)
        assert dict(own.flask.state(expected.access).access) == dict(expected.access)
        for domain in own.hypervisor.domains():
            assert domain.context == flask_context(self._label(domain.name))


CoalitionWithXen.TestCase.settings = settings(max_examples=examples(4), stateful_step_count=12, deadline=None)
TestCoalitionWithXen = CoalitionWithXen.TestCase
Coalition.TestCase.settings = settings(max_examples=examples(7), stateful_step_count=12, deadline=None)
TestCoalition = Coalition.TestCase
