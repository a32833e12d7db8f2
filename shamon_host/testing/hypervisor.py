"""A hypervisor in memory whose guests are small machines with network cards and a disk.

Labels behave as sVirt does on SELinux: an enforcing kernel refuses a context that its policy does not know; a
permissive one runs the domain as the hypervisor's own domain instead, silently. With a `flask` they behave as on Xen: a
domain whose label the loaded policy does not know runs as one without a label, and dom0 can see, stop or end only what
the policy lets it, and has no list of domains where it may not look at one. What libvirt and QEMU, or libxl, refuse
is refused here too: no bridge, no disk, a tap or disk that another domain holds. Domains outlive the daemon and die
with their host.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from shamon_host.domain.errors import BackendFailed
from shamon_host.domain.labels import FlaskContext, SelinuxContext, VmContext, VmName
from shamon_host.hypervisor.ports import DomainBoot, DomainReport, DomainState, VmDisk, VmInterface, VmSpec
from shamon_host.testing.disks import MemoryDisks
from shamon_host.testing.flask import MemoryFlask
from shamon_host.testing.guest import MemoryGuest, TapSwitch
from shamon_host.testing.machine import BootImage, MeasuredMachine

__all__ = ["KNOWN_DOMAIN_TYPES", "MemoryGuest", "MemoryHypervisor", "TapSwitch"]

KNOWN_DOMAIN_TYPES = ("svirt_t",)
_FALLBACK = SelinuxContext(user="system_u", role="system_r", type="virtd_t")
_TAP_NAME_LIMIT = 15


@dataclass(kw_only=True)
class _Domain:
    spec: VmSpec
    state: DomainState
    context: VmContext | None
    disks: tuple[VmDisk, ...]
    guest: MemoryGuest
    loads: int = 0
    """How often Xen's policy had been replaced when it got its label."""


class Appliance(Protocol):
    """A guest that is more than a small machine: `testing.mac_vm`."""

    def plug(self, interface: VmInterface, send: Callable[[bytes], None]) -> Callable[[bytes], None] | None:
        """A card, and what takes frames to it; None where there is no bridge for it in memory."""
        ...

    def start(self) -> None:
        """It runs, or runs on."""
        ...

    def pause(self) -> None:
        """It stands still."""
        ...

    def end(self) -> None:
        """Its domain is gone."""
        ...


@dataclass(kw_only=True)
class MemoryHypervisor:
    """`hypervisor.ports.Hypervisor`. `addresses`: VM → its IP addresses; `enforcing`: what SELinux says now, where
    there is no `flask`; `disk_exists`: whether there is an overlay at a path."""

    switch: TapSwitch
    addresses: Mapping[str, tuple[str, ...]]
    enforcing: Callable[[], bool]
    disk_exists: Callable[[str], bool] = lambda _path: True
    files: MemoryDisks = field(default_factory=MemoryDisks)
    """The disks that domains have beside their own."""
    dumps: dict[str, VmName] = field(default_factory=dict)
    """Path → the domain whose memory was written there."""
    waiting: set[VmName] = field(default_factory=set)
    """Domains that wait for the memory of another one."""
    unfinished: dict[VmName, bool] = field(default_factory=dict)
    """Domains that QEMU stopped to send what is left of them → whether they ran until then."""
    flask: MemoryFlask | None = None
    """Of a Xen hypervisor; None: QEMU."""
    appliances: Mapping[VmName, Appliance] = field(default_factory=dict)
    clock_s: Callable[[], float] = lambda: 0.0
    guest_image: BootImage = field(default_factory=BootImage)
    """What the guests boot that have a TPM, but for those in `guest_images`."""
    guest_images: Mapping[VmName, BootImage] = field(default_factory=dict)
    machines: dict[str, MeasuredMachine] = field(default_factory=dict)
    """UUID → the machine around a domain's TPM, whose state outlives the domain."""
    _domains: dict[VmName, _Domain] = field(default_factory=dict)
    _subscribers: list[Callable[[], None]] = field(default_factory=list)

    def start_paused(self, spec: VmSpec) -> DomainReport:
        self.domains()
        self._refuse_impossible(spec)
        context = self._svirt(spec) if self.flask is None else self.flask.resolved(spec.context)
        domain = _Domain(
            spec=spec,
            state=DomainState.PAUSED,
            context=context,
            disks=spec.disks,
            guest=MemoryGuest(
                name=spec.name,
                addresses=tuple(self.addresses.get(spec.name, ())),
                running=lambda: self._runs(spec.name),
            ),
            loads=self.flask.loads if self.flask else 0,
        )
        self._refuse_further_disks(spec, context)
        self._plug(domain)
        self._domains[spec.name] = domain
        if spec.cid is not None:
            self.machines.setdefault(spec.uuid, MeasuredMachine(clock_s=self.clock_s)).boot(
                self.guest_images.get(spec.name, self.guest_image)
            )
        self._notify()
        return self._report(domain)

    def resume(self, name: VmName) -> None:
        if name in self.waiting:
            raise BackendFailed("the domain waits for its memory", where=name)
        if name in self.unfinished:
            raise BackendFailed("Migration is not finalized yet", where=name)
        self._require("unpause", name)
        self._set(name, DomainState.RUNNING)
        if name in self.appliances:
            self.appliances[name].start()

    def stop_for_the_rest(self, name: VmName) -> None:
        """As QEMU does before the switchover, by itself."""
        if name not in self.unfinished:
            self.unfinished[name] = self._find(name).state is DomainState.RUNNING
            self._set(name, DomainState.PAUSED)

    def end_sending(self, name: VmName, *, whole: bool) -> None:
        """QEMU lets it run on that it had stopped itself, unless it was sent whole."""
        ran = self.unfinished.pop(name, False)
        if ran and not whole:
            self._set(name, DomainState.RUNNING)

    def suspend(self, name: VmName) -> None:
        self._require("pause", name)
        self._set(name, DomainState.PAUSED)
        if name in self.appliances:
            self.appliances[name].pause()

    def destroy(self, name: VmName) -> None:
        """All of its domains are transient, so there is no definition."""
        if name in self._domains:
            for permission in ("getdomaininfo", "pause", "destroy"):  # in libxl's order
                self._require(permission, name)
            self._end(name)

    def forget_tpm(self, name: VmName, uuid: str) -> None:
        if name in self._domains:
            raise BackendFailed("the TPM of a domain that is there is in use", where=name)
        self.machines.pop(uuid, None)

    def dump_memory(self, name: VmName, path: str) -> None:
        if path in self.dumps:
            return
        if self._find(name).state is not DomainState.PAUSED:
            raise BackendFailed("the memory of a domain that runs changes while it is written", where=name)
        self._require("getvcpucontext", name)
        self.dumps[path] = name

    def domains(self) -> Sequence[DomainReport]:
        """Xen's list ends before the first that it says nothing of, which is an error: others may be behind it."""
        for name in self._domains:
            self._require("getdomaininfo", name)
        return tuple(self._report(domain) for domain in self._domains.values())

    def subscribe(self, changed: Callable[[], None]) -> None:
        self._subscribers.append(changed)

    # What tests and worlds do to it

    def guest(self, name: str) -> MemoryGuest:
        """The guest of a domain. Raises BackendFailed."""
        return self._find(VmName(name)).guest

    def machine(self, name: str) -> MeasuredMachine:
        """The machine of a domain with a TPM, as its guest has it."""
        return self.machines[self._find(VmName(name)).spec.uuid]

    def running_at(self, cid: int) -> MeasuredMachine | None:
        """The machine of the guest that runs with this address on vsock."""
        for domain in self._domains.values():
            if domain.spec.cid == cid and domain.state is DomainState.RUNNING:
                return self.machines[domain.spec.uuid]
        return None

    def reboot(self, name: VmName) -> None:
        """The guest reboots. With a TPM, or on Xen, its domain is destroyed; else it goes on."""
        if self.flask is not None or self._find(name).spec.cid is not None:
            self.crash(name)

    def crash(self, name: VmName) -> None:
        """The machine's process dies, and its domain is gone with it."""
        self._end(self._find(name).spec.name)

    def exchange(self, name: VmName, **changes: Any) -> None:
        """Somebody destroys the domain and starts, by hand, one that differs in this, and no more."""
        spec = replace(self._find(name).spec, **changes)
        self.destroy(name)
        self.start_paused(spec)
        self.resume(name)

    def relabel(self, name: VmName, context: VmContext | None) -> None:
        """Somebody with the power to do it gives the running process, or domain, another label."""
        self._find(name).context = context
        self._notify()

    def attach(self, name: VmName, disk: VmDisk) -> None:
        """Somebody gives a running domain another disk."""
        domain = self._find(name)
        domain.disks = (*domain.disks, disk)
        self._notify()

    def power_off(self) -> None:
        """The host goes down: every domain is gone, and so is whoever listened."""
        for domain in self._domains.values():
            self._unplug(domain)
        self._domains.clear()
        self.waiting.clear()
        self.unfinished.clear()
        self._subscribers.clear()

    def forget_subscribers(self) -> None:
        """The daemon died."""
        self._subscribers.clear()

    def _end(self, name: VmName) -> None:
        self._unplug(self._domains.pop(name))
        self.waiting.discard(name)
        self.unfinished.pop(name, None)
        self._notify()

    def _require(self, permission: str, name: VmName) -> None:
        """Xen's FLASK lets dom0 do it. Raises BackendFailed."""
        if not self._may(permission, self._find(name)):
            raise BackendFailed("Xen refuses a call", where=name, found=f"FLASK denies dom0 {permission}")

    def _may(self, permission: str, domain: _Domain) -> bool:
        return self.flask is None or self.flask.toolstack_may(permission, self._context(domain))

    def _svirt(self, spec: VmSpec) -> SelinuxContext:
        context = spec.context
        if isinstance(context, SelinuxContext) and context.type in KNOWN_DOMAIN_TYPES:
            return context
        if self.enforcing():
            raise BackendFailed("SELinux refuses the context", where=spec.name, found=str(context))
        return _FALLBACK

    def _refuse_impossible(self, spec: VmSpec) -> None:
        """What libvirt, QEMU or the kernel would not do."""
        others = [domain.spec for domain in self._domains.values()]
        taps = [interface.device for interface in spec.interfaces]
        held = {interface.device for other in others for interface in other.interfaces}
        reasons = {
            "the domain is active already": any(other.name == spec.name for other in others),
            "another domain has this UUID": any(other.uuid == spec.uuid for other in others),
            "the address on vsock is in use": spec.cid is not None and any(other.cid == spec.cid for other in others),
            "Xen gives no TPM to its guests": spec.cid is not None and self.flask is not None,
            "the disk is in use": any(other.disk == spec.disk for other in others),
            "no such disk": not self.disk_exists(spec.disk),
            "the tap is in use": bool(held.intersection(taps)) or len(set(taps)) != len(taps),
            "bad name of a tap": any(not 0 < len(tap) <= _TAP_NAME_LIMIT for tap in taps),
            "bad name of a domain": not spec.name or "/" in spec.name,
            "no memory or no processor": spec.memory_mib < 1 or spec.vcpus < 1,
            "a multicast address cannot be a card's": any(
                bytes.fromhex(interface.mac.replace(":", ""))[0] & 1 for interface in spec.interfaces
            ),
        }
        for reason, holds in reasons.items():
            if holds:
                raise BackendFailed(reason, where=spec.name)

    def _refuse_further_disks(self, spec: VmSpec, context: VmContext) -> None:
        """What QEMU's locks on images, or SELinux, would not let it open. On Xen dom0 opens disks for its guests, and
        their files' labels say nothing of the guest."""
        held = [disk for other in self._domains.values() for disk in other.disks]
        for disk in spec.disks:
            if disk.path not in self.files.files:
                raise BackendFailed("no such disk", where=disk.path)
            if any(other.path == disk.path and not (other.read_only and disk.read_only) for other in held):
                raise BackendFailed("the disk is in use", where=disk.path)
            if not isinstance(context, SelinuxContext) or not self.enforcing():
                continue
            if not self.files.may_open(disk.path, context, write=not disk.read_only):
                raise BackendFailed("SELinux refuses the disk", where=disk.path)

    def _plug(self, domain: _Domain) -> None:
        """All interfaces or none. Raises BackendFailed."""
        plugged: list[str] = []
        try:
            for interface in domain.spec.interfaces:
                receive = self._card(domain, interface)
                if receive is None:
                    continue
                self.switch.plug_tap(interface.device, interface.bridge, receive)
                plugged.append(interface.device)
        except BackendFailed:
            for device in plugged:
                self.switch.unplug_tap(device)
            raise

    def _card(self, domain: _Domain, interface: VmInterface) -> Callable[[bytes], None] | None:
        send = self._sender(interface.device)
        appliance = self.appliances.get(domain.spec.name)
        if appliance is not None:
            return appliance.plug(interface, send)
        return domain.guest.add_card(bytes.fromhex(interface.mac.replace(":", "")), send)

    def _sender(self, device: str) -> Callable[[bytes], None]:
        return lambda frame: self.switch.send_from_tap(device, frame)

    def _unplug(self, domain: _Domain) -> None:
        for interface in domain.spec.interfaces:
            self.switch.unplug_tap(interface.device)
        if domain.spec.name in self.appliances:
            self.appliances[domain.spec.name].end()

    def _set(self, name: VmName, state: DomainState) -> None:
        domain = self._find(name)
        if domain.state is not state:
            domain.state = state
            self._notify()

    def _runs(self, name: VmName) -> bool:
        domain = self._domains.get(name)
        return domain is not None and domain.state is DomainState.RUNNING

    def _find(self, name: VmName) -> _Domain:
        if name not in self._domains:
            raise BackendFailed("no such domain", where=name)
        return self._domains[name]

    def _report(self, domain: _Domain) -> DomainReport:
        spec, flask = domain.spec, self.flask
        return DomainReport(
            name=spec.name,
            uuid=spec.uuid,
            state=domain.state,
            interfaces=spec.interfaces,
            disk=spec.disk,
            disks=domain.disks,
            context=self._context(domain),
            enforced=self.enforcing() if flask is None else flask.enforcing,
            cid=spec.cid,
            tpm=spec.cid is not None,
            boot=DomainBoot(kernel=spec.kernel, initrd=spec.initrd, cmdline=spec.cmdline),
        )

    def _context(self, domain: _Domain) -> VmContext | None:
        """Its label now."""
        if self.flask is None or not isinstance(domain.context, FlaskContext):
            return domain.context
        return self.flask.present(domain.context, domain.loads)

    def _notify(self) -> None:
        for changed in tuple(self._subscribers):
            changed()
