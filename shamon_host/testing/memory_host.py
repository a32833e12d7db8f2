"""A whole host in memory: daemon, kernel, hypervisor, TPM, logs and database, of which the daemon is the least.

Everything of the product runs as on a real host; only what is behind the ports is simulated. Killing the daemon severs
it from all of them at once, so that nothing it does while it falls apart has an effect, as with `kill -9`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from shamon_host.attestation.attester import directly
from shamon_host.attestation.evidence import Evidence
from shamon_host.attestation.guest_record import OF_MAC_VM, record_guest
from shamon_host.attestation.guest_reference import GuestBoot, GuestReference
from shamon_host.attestation.reference_record import record
from shamon_host.attestation.reference_values import ReferenceValues
from shamon_host.daemon.api import Api
from shamon_host.daemon.audit_log import AuditLog
from shamon_host.daemon.config import MacVmConfig
from shamon_host.daemon.database import Database
from shamon_host.daemon.guest_references import require_pinned
from shamon_host.daemon.host_daemon import HostDaemon
from shamon_host.daemon.mac_vm_backends import MacVmBackends
from shamon_host.daemon.ports import Backends, Blocking, StopReason
from shamon_host.daemon.result_history import ResultHistory
from shamon_host.daemon.service import plain_error
from shamon_host.daemon.store import Store
from shamon_host.domain.errors import BackendFailed, BadInput, NotTrusted, ShamonError
from shamon_host.domain.guest_demand import GuestDemand
from shamon_host.domain.labels import HostName, TypeName, VmName
from shamon_host.domain.policy import HypervisorKind, Policy
from shamon_host.hypervisor.vm_spec import VmSettings
from shamon_host.link_agent.divided_kernel import DividedKernel
from shamon_host.links.model import SecurityAssociation
from shamon_host.peer.enrolment import PeerRegistry
from shamon_host.peer.ports import EnrolledPeer
from shamon_host.testing.clock import VirtualClock
from shamon_host.testing.disks import MemoryDisks
from shamon_host.testing.flask import MemoryFlask
from shamon_host.testing.guests import MemoryGuests
from shamon_host.testing.hypervisor import MemoryGuest, MemoryHypervisor
from shamon_host.testing.images import MemoryImages, sha256_of
from shamon_host.testing.kernel import MemoryKernel
from shamon_host.testing.kernel_selinux import SelinuxMode
from shamon_host.testing.live import MemoryLive
from shamon_host.testing.mac_vm import MemoryControlWire, MemoryMacVm
from shamon_host.testing.machine import IMA_POLICY, BootImage, MeasuredMachine
from shamon_host.testing.memory_ca import memory_authorities, memory_key, memory_peer, memory_record
from shamon_host.testing.network import MemoryNetwork, memory_identity
from shamon_host.testing.passage_streams import MemoryPassageStreams
from shamon_host.testing.severable import MemoryServiceManager, SeverableDatabase, SeverableKernel, SeverableTpm
from shamon_host.testing.story_policy import VM_ADDRESSES
from shamon_host.testing.wire import MemoryWire
from shamon_host.testing.world import BootVariant, CommandResult, Fault, FaultTrace, PeerObjects

CLEAN_IMAGE = b"a clean disk image"
MAC_VM_IMAGE = b"the image of a MAC VM"
MAC_VM_FILES = {"/mac-vm/vmlinuz": b"its kernel", "/mac-vm/initrd": b"its initial RAM disk"}
MAC_VM_SETTINGS = VmSettings(kernel="/mac-vm/vmlinuz", initrd="/mac-vm/initrd", cmdline="its command line")
MAC_VM_BOOT = BootImage(
    early_files=(),
    files=(
        (IMA_POLICY, b"measure func=BPRM_CHECK\n"),
        *((path, b"\x7fELF") for path in OF_MAC_VM.early.values()),
        ("/opt/shamon/lib/python3.11/site-packages/shamon_host/__init__.py", b"# the link agent"),
    ),
)
"""What is measured in a MAC VM that has a TPM."""
_WRONG_SPI = 0x0BAD0001
_PROGRAM, _MODULE = "/usr/local/bin/unknown", "/root/stranger.ko"
_EXIT_CODES = {400: 2, 403: 3, 503: 4}


@dataclass(kw_only=True)
class Enrolment:
    """What the operator carried to every host: policy, registry, Reference Values."""

    policy: Policy
    policies: dict[HostName, Policy] = field(default_factory=dict)
    """Hosts that were set up with another policy than `policy`."""
    envelopes: dict[HostName, bytes] = field(default_factory=dict)
    """Host → envelope around its policy, where that is signed."""
    registry: PeerRegistry = field(default_factory=PeerRegistry)
    reference: ReferenceValues | None = None
    guests: dict[str, GuestReference] = field(default_factory=dict)
    """Reference Values of guests, by the demand that they are for."""
    signed: bool = False
    """Whether each change of the Reference Values must be another version."""
    hosts: "dict[str, MemoryHost]" = field(default_factory=dict)

    def address(self, host: str) -> str:
        """Where the policy says that the host is."""
        return self.policy.hosts[HostName(host)].address

    def enrol(self, host: "MemoryHost") -> None:
        """Register the host's AK and certificate, as `shamon coalition enrol` does."""
        self.hosts[host.name] = host
        self.registry = PeerRegistry(records=[*self.registry.records(), memory_record(host.enrolled_as())])

    def load(self, host: HostName) -> ReferenceValues:
        """`daemon.references.ReferenceSource`."""
        if self.reference is None:
            raise NotTrusted("no Reference Values for this host", where=host)
        return self.reference


@dataclass(frozen=True, kw_only=True)
class GuestFiles:
    """`daemon.guest_references.GuestReferenceSource`."""

    enrolment: Enrolment

    def load(self, demand: GuestDemand) -> GuestReference:
        reference = self.enrolment.guests.get(demand.name)
        if reference is None:
            raise NotTrusted("no Reference Values for the guests of this demand", where=demand.name)
        return require_pinned(reference, demand, where=demand.name)


class RepeatingAttester:
    """An Attester gone bad: answers every handshake with the first Evidence it made."""

    def __init__(self, evidence: Callable[..., Awaitable[Evidence]]) -> None:
        self._honest = evidence
        self._kept: Evidence | None = None

    async def evidence(self, **fields: object) -> Evidence:
        if self._kept is None:
            self._kept = await self._honest(**fields)
        return self._kept


class StoryGuest:
    """`world.Guest` over a simulated machine; a VM that does not run reaches nothing."""

    def __init__(self, host: "MemoryHost", vm: str) -> None:
        self._host = host
        self._vm = vm

    async def reaches(self, address: str) -> bool:
        guest = self._guest()
        return guest is not None and guest.ping(address)

    async def resolves(self, address: str) -> bool:
        guest = self._guest()
        return guest is not None and guest.resolve(address)

    async def write_marker(self, text: str) -> None:
        self._host.images.overlays[self._disk()].written = text

    async def read_marker(self) -> str:
        return self._host.images.overlays[self._disk()].written

    def _guest(self) -> MemoryGuest | None:
        with suppress(BackendFailed):
            return self._host.hypervisor.guest(self._vm)
        return None

    def _disk(self) -> str:
        disk = self._host.images.overlay(VmName(self._vm))
        if disk is None:
            raise BadInput("the VM has no disk", where=self._vm)
        return disk


class MemoryHost:
    """`world.Host`: see the module."""

    def __init__(self, *, name: str, wire: MemoryWire, network: MemoryNetwork, enrolment: Enrolment) -> None:
        self.name = name
        self.host = HostName(name)
        self.clock = VirtualClock()
        address, mac_vm = enrolment.address(name), enrolment.policy.hosts[self.host].mac_vm
        self.mac_vm = MemoryMacVm(MemoryKernel([address], wire, self.clock)) if mac_vm is not None else None
        """What holds its links; None where the host itself does."""
        self.kernel = MemoryKernel([address] if self.mac_vm is None else [], wire, self.clock)
        self.control_wire = MemoryControlWire()
        self.disks = MemoryDisks()
        on_xen = enrolment.policy.hypervisor_of(self.host) is HypervisorKind.XEN
        self.flask = MemoryFlask() if on_xen else None
        """Of Xen; None: the hypervisor is QEMU."""
        self.hypervisor = MemoryHypervisor(
            switch=self.kernel,
            addresses=VM_ADDRESSES,
            enforcing=lambda: self.kernel.selinux.mode is SelinuxMode.ENFORCING,
            files=self.disks,
            flask=self.flask,
            appliances={} if self.mac_vm is None or mac_vm is None else {mac_vm: self.mac_vm},
            guest_images={} if mac_vm is None else {mac_vm: MAC_VM_BOOT},
            clock_s=self.clock.boottime_s,
        )
        self.guests = MemoryGuests(hypervisor=self.hypervisor)
        self.vm_settings = {} if mac_vm is None else {mac_vm: MAC_VM_SETTINGS}
        self.images = MemoryImages(clean={"app": CLEAN_IMAGE, "mac-vm": MAC_VM_IMAGE}, files=dict(MAC_VM_FILES))
        no_live = on_xen or mac_vm is not None
        self.live = None if no_live else MemoryLive(hypervisor=self.hypervisor, images=self.images)
        self.machine = MeasuredMachine(clock_s=self.clock.boottime_s)
        self.blocking: Blocking = directly
        """How the next daemon makes calls that block."""
        self.daemon: HostDaemon | None = None
        self.database: SeverableDatabase | None = None
        """Of the daemon that runs."""
        self._network = network
        self._enrolment = enrolment
        self._identity = memory_identity(self.host)
        self._database = Database(":memory:")
        self.service_manager = MemoryServiceManager()
        self._severable: SeverableKernel | None = None
        self._tpm: SeverableTpm | None = None
        self._task: asyncio.Task[None] | None = None
        self._repeating = False
        self._faults = 0
        self._paused_s = 0.0
        self._serving = AsyncExitStack()

    # What `world.Host` asks

    async def boot(self, variant: BootVariant = BootVariant.GOOD) -> None:
        self.service_manager.reason = StopReason.SHUTDOWN
        await self.stop_daemon()
        self.service_manager.reason = StopReason.STOP
        self._repeating = False
        self.hypervisor.power_off()
        self.kernel.reboot()
        if self.flask is not None:
            self.flask.reboot()
        self.clock.reboot()
        self.machine.boot(boot_image(variant))
        await self.start_daemon()

    async def ask(self, *arguments: str) -> CommandResult:
        if self.daemon is None:
            return CommandResult(exit_code=4, value={"error": {"what": "the daemon of this host does not answer"}})
        method, path, fields = _request(arguments)
        answer = await Api(daemon=self.daemon).handle(method, path, fields)
        if answer.status == 200:
            return CommandResult(exit_code=0, value=answer.body)
        return CommandResult(exit_code=_EXIT_CODES.get(answer.status, 1), value=answer.body)

    async def inflict(self, fault: Fault) -> FaultTrace:
        self._faults += 1
        match fault:
            case Fault.PROGRAM:
                digest = self._run_unknown_program()
                return FaultTrace(needles=(_PROGRAM, digest))
            case Fault.MODULE:
                content = b"\x7fELF module %d" % self._faults
                self.machine.load_module(_MODULE, content)
                return FaultTrace(needles=(_MODULE, sha256_of(content)))
            case Fault.PERMISSIVE:
                for enforcing in (False, True, False):
                    self.kernel.selinux.set_enforcing(enforcing)
                    self.machine.setenforce(enforcing)
                return FaultTrace(needles=("enforcing",))
            case Fault.DAEMON_STOPPED:
                await self.stop_daemon()
                self._run_unknown_program()
                return FaultTrace(needles=())
            case Fault.DAEMON_KILLED:
                await self.kill_daemon()
                self._run_unknown_program()
                return FaultTrace(needles=())
            case Fault.OLD_EVIDENCE:
                await self.stop_daemon()
                self._repeating = True
                await self.start_daemon()
                await asyncio.sleep(2.0)  # it attests once, with what it then repeats
                self._run_unknown_program()
                return FaultTrace(needles=("binding",))

    async def kill_daemon(self) -> None:
        self.sever()
        await self._end()
        self.hypervisor.forget_subscribers()
        self._let_go()

    async def start_daemon(self) -> None:
        identity = self._identity
        whole = None if self.mac_vm is None else DividedKernel(host=self.kernel, mac_vm=self.mac_vm)
        mac_vm = None if whole is None else self._mac_vm_backends(whole)
        self._severable = SeverableKernel(whole or self.kernel)
        self._tpm = SeverableTpm(self.machine.tpm)
        self.database = database = SeverableDatabase(self._database)
        registry = PeerRegistry(records=self._enrolment.registry.records())
        daemon = HostDaemon(
            name=self.host,
            policy_file=self._enrolment.policies.get(self.host, self._enrolment.policy),
            policy_envelope=self._enrolment.envelopes.get(self.host, b""),
            registry=registry,
            authorities=memory_authorities(),
            references=self._enrolment,
            guest_references=GuestFiles(enrolment=self._enrolment),
            store=Store(database),
            audit=AuditLog(database, wall_s=self.clock.wall_s, boottime_s=self.clock.boottime_s),
            history=ResultHistory(database),
            vm_settings=self.vm_settings,
            backends=Backends(
                clock=self.clock,
                tpm=self._tpm,
                logs=self.machine.logs,
                kernel=self._severable,
                hypervisor=self.hypervisor,
                flask=self.flask,
                mac_vm=mac_vm,
                live=self.live,
                passages=MemoryPassageStreams(kernel=self.kernel) if self.live else None,
                images=self.images,
                disks=self.disks,
                transport=self._network.transport(identity, registry),
                guests=None if self.flask else self.guests,
                service_manager=self.service_manager,
                blocking=self.blocking,
                boot_id=self.machine.boot_id,
                record_key=memory_key(self.host),
            ),
        )
        if self._repeating:
            daemon.host.attester = RepeatingAttester(daemon.host.attester.evidence)  # type: ignore[assignment]
        try:
            await daemon.start()
        except ShamonError:
            await daemon.stop()
            raise
        self._network.listen(identity, daemon.service, registry)
        await self._serving.enter_async_context(self.guests.served(daemon.guest_answers))
        self.daemon = daemon
        self._task = asyncio.create_task(self._run(daemon), name=f"daemon of {self.name}")

    async def stop_daemon(self) -> None:
        daemon = self.daemon
        self._network.stop(self.host)
        await self._end()
        if daemon is not None:
            await daemon.stop()
            if self.service_manager.reason is not StopReason.RESTART:
                self.kernel.fd_store.stop_unit()
        self.hypervisor.forget_subscribers()
        self._let_go()

    async def step_clock(self, seconds: float) -> None:
        self.clock.step(seconds)

    async def objects(self, peer: str) -> PeerObjects:
        address, state = self._enrolment.address(peer), self.links_kernel.read()
        return PeerObjects(
            gate_open=address in state.gate,
            sas=sum(address in (sa.source, sa.destination) for sa in state.sas),
            spd_entries=sum(address in (entry.source, entry.destination) for entry in state.spd),
            devices=sum(tunnel.remote == address for tunnel in state.tunnels),
        )

    async def flush_policies(self) -> None:
        self.links_kernel.flush_policies()

    async def refuses_wrong_category(self, peer: str) -> Mapping[str, int]:
        """The sender gets a new SA for its red link, this host the same SA with the label of its blue link."""
        sender = self._enrolment.hosts[peer]
        own = self._enrolment.address(self.name)
        outgoing = sender.sa_of("acme/red", to=own)
        incoming, blue = self.sa_of("acme/red", to=own), self.sa_of("rival/blue", to=own).context
        key = bytes(36)
        await asyncio.sleep(1.0)  # of two SAs the newer one is used, and the kernel counts in seconds
        kernel = self.links_kernel
        before, denials = kernel.counters(), len(kernel.avc)
        kernel.put_sa(replace(incoming, spi=_WRONG_SPI, context=blue, key=key))
        sender.links_kernel.put_sa(replace(outgoing, spi=_WRONG_SPI, key=key))
        vm = next(
            name for name, entry in self._enrolment.policy.vms.items() if (entry.host, entry.label) == (peer, "red")
        )
        await sender.guest(vm).reaches(VM_ADDRESSES["web"][0])
        rose = {name: count - before[name] for name, count in kernel.counters().items() if count > before[name]}
        return {**rose, "avc": len(kernel.avc) - denials}

    async def overlay_is_clean(self, vm: str) -> bool:
        disk = self.images.overlay(VmName(vm))
        return disk is not None and self.images.overlays[disk].base_sha256 == sha256_of(CLEAN_IMAGE)

    def guest(self, vm: str) -> StoryGuest:
        return StoryGuest(self, vm)

    @property
    def own_addresses(self) -> Sequence[str]:
        return (self._enrolment.address(self.name), "2001:db8::1")

    # What the world and other hosts ask

    def enrolled_as(self) -> EnrolledPeer:
        """This host's entry in the registry."""
        return memory_peer(self.host, self.machine.tpm.ak_public())

    def record_reference(self) -> ReferenceValues:
        """Reference Values of a known-good boot of this host; it is off again afterwards."""
        self.machine.boot(boot_image(BootVariant.GOOD))
        return record(
            pcrs=self.machine.tpm.pcrs,
            event_log=self.machine.logs.event_log(),
            ima_log=self.machine.logs.ima_log(0),
        )

    def sever(self) -> None:
        """The daemon is dead from now on, whatever it is about to do; `kill_daemon` clears up after it."""
        if self._severable is not None:
            self._severable.severed = True
        if self._tpm is not None:
            self._tpm.severed = True
        if self.database is not None:
            self.database.severed = True
        self._network.stop(self.host)

    @property
    def severed(self) -> bool:
        return self._severable is not None and self._severable.severed

    def sa_of(self, type_name: str, *, to: str) -> SecurityAssociation:
        """The newest SA of the link of a type towards an address, as this host's kernel holds it."""
        assert self.daemon is not None
        context = self.daemon.own.enforced.label_map.link_context(TypeName(type_name))
        return max(
            (sa for sa in self.links_kernel.read().sas if sa.destination == to and sa.context == context),
            key=lambda sa: sa.hard_lifetime_s,
        )

    async def kill_daemon_at(self, operations: int, *, within_s: float) -> None:
        """Kill the daemon at its next operation on the kernel but so many, or when there were not that many in time."""
        dead = asyncio.Event()

        def die() -> None:
            self.sever()
            dead.set()

        if self._severable is not None:
            self._severable.sever_after(operations, die)
            with suppress(TimeoutError):
                await asyncio.wait_for(dead.wait(), within_s)
        await self.kill_daemon()

    @property
    def links_kernel(self) -> MemoryKernel:
        """The kernel that holds its links: its own, or the MAC VM's."""
        return self.kernel if self.mac_vm is None else self.mac_vm.kernel

    def _mac_vm_backends(self, kernel: DividedKernel) -> MacVmBackends:
        assert self.mac_vm is not None
        return MacVmBackends(
            config=MacVmConfig(bridge="wire", address=f"{self._enrolment.address(self.name)}/24"),
            kernel=kernel,
            remote=self.mac_vm,
            pause=self._pause,
            now_s=lambda: self.clock.boottime_s() + self._paused_s,
            make_control_wire=self.control_wire.make,
        )

    def _pause(self, seconds: float) -> None:
        """In a thread of the daemon's, of which there are none here: time for it alone."""
        self._paused_s += seconds

    def forget_everything(self) -> None:
        """The disk of the daemon's state is lost or put back; to be called while no daemon runs."""
        self._database.close()
        self._database = Database(":memory:")

    async def power_off(self) -> None:
        """The world ends."""
        await self.kill_daemon()
        self._database.close()

    def failure(self) -> BaseException | None:
        """What ended the daemon by itself; None while it runs."""
        task = self._task
        return task.exception() if task is not None and task.done() and not task.cancelled() else None

    async def _run(self, daemon: HostDaemon) -> None:
        """Run the daemon; one that ends by itself is stopped, as `daemon.service` does."""
        try:
            await daemon.run()
        except BaseExceptionGroup as group:
            with suppress(ShamonError):
                await daemon.stop()
            raise plain_error(group) from group

    def _let_go(self) -> None:
        """The daemon's handles are closed."""
        self.kernel.close()
        if self.mac_vm is not None:
            self.mac_vm.close()

    async def _end(self) -> None:
        """Let the daemon's task fall; what it raises in doing so is of no interest."""
        await self._serving.aclose()
        task, self._task, self.daemon = self._task, None, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def _run_unknown_program(self) -> str:
        content = b"\x7fELF unknown %d" % self._faults
        self.machine.run_program(_PROGRAM, content)
        return sha256_of(content)


@cache
def mac_vm_reference() -> GuestReference:
    """Of the MAC VMs of these hosts."""
    machine = MeasuredMachine()
    machine.boot(MAC_VM_BOOT)
    boot = GuestBoot(
        kernel=sha256_of(MAC_VM_FILES[MAC_VM_SETTINGS.kernel]),
        initrd=sha256_of(MAC_VM_FILES[MAC_VM_SETTINGS.initrd]),
        cmdline=MAC_VM_SETTINGS.cmdline,
    )
    return record_guest(pcrs=machine.tpm.pcrs, ima_log=machine.logs.ima_log(0), boot=boot, demanded=OF_MAC_VM)


def boot_image(variant: BootVariant) -> BootImage:
    """What a host boots in each variant: the wrong one has another kernel command line."""
    good = BootImage()
    return good if variant is BootVariant.GOOD else replace(good, cmdline=good.cmdline + " lockdown=none")


def _request(arguments: Sequence[str]) -> tuple[str, str, dict[str, Any]]:
    """What the command line asks the daemon for."""
    match list(arguments):
        case ["status" | "peers" | "vms" | "links" as what]:
            return "GET", f"/v1/{what}", {}
        case ["mac-vm"]:
            return "GET", "/v1/mac-vm", {}
        case ["links", "--plan"]:
            return "GET", "/v1/links/plan", {}
        case ["audit", *options]:
            return (
                "GET",
                "/v1/audit",
                {options[i].removeprefix("--"): options[i + 1] for i in range(0, len(options), 2)},
            )
        case ["attest"]:
            return "POST", "/v1/attest", {}
        case ["vms", "--away"]:
            return "GET", "/v1/vms/away", {}
        case ["vms", "reference", name]:
            return "GET", f"/v1/vms/{name}/reference", {}
        case ["vm", "move", name]:
            return "GET", f"/v1/vms/{name}/move", {}
        case ["vm", "migrate", name, to, *options]:
            fields: dict[str, Any] = {"to": to, **({"live": True} if options else {})}
            return "POST", f"/v1/vms/{name}/migrate", fields
        case ["vm", action, name]:
            return "POST", f"/v1/vms/{name}/{action}", {}
        case _:
            raise BadInput("not a request of the story", found=" ".join(arguments))
