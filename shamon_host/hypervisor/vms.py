"""The life of this host's VMs: start, stop, suspend, quarantine, replace.

Each VM starts paused under the static label that the label map gives it; the label is read back from the running
process before a single instruction of the guest runs, and a mismatch destroys it (invariant 2). What may start is
decided by the reference monitor, whose answer is in the audit log before the hypervisor is asked (invariant 6).
"""

import hashlib
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from shamon_host.domain import monitor
from shamon_host.domain.decision import Decision
from shamon_host.domain.errors import BackendFailed, BadInput, NotTrusted, ShamonError
from shamon_host.domain.label_map import VM_CATEGORIES, LabelMap
from shamon_host.domain.labels import HostName, SelinuxContext, TypeName, VmLabel, VmName
from shamon_host.domain.policy import Policy, Renames, VmEntry
from shamon_host.domain.replay import renamed
from shamon_host.domain.results import TpmKind
from shamon_host.hypervisor.ports import DomainReport, DomainState, Hypervisor, Images, VmInterface, VmSpec
from shamon_host.hypervisor.vm_versions import kept_by, runs_otherwise

TAP_PREFIX = "shvm"
RUNNING_STATES = (DomainState.RUNNING, DomainState.PAUSED)


class Audit(Protocol):
    """Append to the audit log, durably, before the effect."""

    def __call__(self, kind: str, subject: str, detail: Mapping[str, Any]) -> object: ...


class Documents(Protocol):
    """Small durable state of this host; `daemon.store` implements it."""

    def get(self, kind: str, key: str) -> dict[str, Any] | None: ...

    def put(self, kind: str, key: str, document: Mapping[str, Any]) -> None: ...

    def delete(self, kind: str, key: str) -> None: ...

    def items(self, kind: str) -> Sequence[tuple[str, dict[str, Any]]]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class VmSettings:
    """What a host's own configuration says of a VM: how it is booted, nothing that bears on its label."""

    memory_mib: int = 128
    vcpus: int = 1
    kernel: str = ""
    initrd: str = ""
    cmdline: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class VmStatus:
    """A VM of this host as people see it."""

    name: VmName
    label: str
    types: tuple[TypeName, ...]
    interfaces: tuple[TypeName, ...]
    """The type of each of its network interfaces: of those that it runs with, else of those that it would have."""
    wanted: bool
    """It should run: it was started and neither stopped nor quarantined since."""
    quarantined: str
    """Why; empty when it is not."""
    domain: DomainReport | None


@dataclass(kw_only=True)
class VmManager:
    """All VMs of this host. Synchronous; calls that change something, from any thread, wait for each other."""

    host: HostName
    hypervisor: Hypervisor
    images: Images
    documents: Documents
    audit: Audit
    policy: Callable[[], Policy]
    label_map: Callable[[], LabelMap]
    ensure_bridge: Callable[[TypeName], str]
    """Make the bridge of a type and return its name."""
    host_tpm: TpmKind
    """What this host is enrolled with."""
    successor: Callable[[], Policy | None]
    """A version of the policy that this host has agreed to and that is not in force yet."""
    admitted: Callable[[], bool]
    """Whether some peer has admitted this host in this boot."""
    settings: Mapping[VmName, VmSettings] = field(default_factory=dict)
    _lock: threading.RLock = field(default_factory=threading.RLock, repr=False)

    def start(self, name: VmName) -> DomainReport:
        """Start a VM, resume it when it is suspended, release it when it is in quarantine.

        Raises Refused (the monitor), NotTrusted (image or label), BackendFailed.
        """
        with self._lock:
            entry = self._entry(name)
            running = self._running(name)
            self._permit(entry)
            quarantined = self._document(name).get("quarantined")
            if quarantined:
                self.audit("vm.release", name, {"quarantined": quarantined})
            if running is None:
                return self._start_new(entry, fresh=False)
            self._verify(running)
            self.hypervisor.resume(name)
            self._want(name, wanted=True)
            return self._report(name)

    def stop(self, name: VmName) -> None:
        """Destroy the domain; its overlay stays."""
        with self._lock:
            self._entry(name)
            self.audit("vm.stop", name, {})
            self._want(name, wanted=False)
            self.hypervisor.destroy(name)

    def suspend(self, name: VmName, reason: str) -> None:
        """Pause the domain; it is still wanted, and `start` resumes it."""
        with self._lock:
            self.audit("vm.suspend", name, {"reason": reason})
            if self._running(name) is not None:
                self.hypervisor.suspend(name)

    def quarantine(self, name: VmName, reason: str, *, ports_down: Callable[[str], None]) -> None:
        """Take the VM off its bridges, then suspend it; memory and disk are kept until it is replaced or stopped.

        `ports_down` detaches one tap from its bridge. The VM is suspended also when a port cannot be detached; then
        that error is raised.
        """
        with self._lock:
            self._entry(name)
            self.audit("vm.quarantine", name, {"reason": reason})
            self._note(name, wanted=False, quarantined=reason)
            domain = self._running(name)
            if domain is None:
                return
            try:
                for interface in domain.interfaces:
                    ports_down(interface.device)
            finally:
                self.hypervisor.suspend(name)

    def replace(self, name: VmName, reason: str) -> DomainReport:
        """Destroy the VM and start a clean one: image verified, fresh overlay, label read back.

        It is destroyed also when no clean one may be started. Raises as `start` does.
        """
        with self._lock:
            entry = self._entry(name)
            self.audit("vm.replace", name, {"reason": reason})
            self.hypervisor.destroy(name)
            self._permit(entry)
            return self._start_new(entry, fresh=True)

    def restore(self, *, replace: bool, reason: str, missing_only: bool = False) -> tuple[VmName, ...]:
        """After a boot: start every VM that should run, from the clean image if `replace`. With `missing_only` those
        that run already are left alone. One that cannot be started (the policy no longer allows it, its image is not
        the pinned one) does not hold up the others, and the audit log says why. Returns what was started."""
        started = []
        with self._lock:
            for status in self.statuses():
                runs = status.domain is not None and status.domain.state in RUNNING_STATES
                if not status.wanted or (missing_only and runs):
                    continue
                try:
                    if replace:
                        self.replace(status.name, reason)
                    else:
                        self.start(status.name)
                except ShamonError as error:
                    self.audit("vm.not-restored", status.name, {"reason": str(error)})
                    continue
                started.append(status.name)
        return tuple(started)

    def statuses(self) -> tuple[VmStatus, ...]:
        """Every VM that the policy gives to this host."""
        policy = self.policy()
        reports = {report.name: report for report in self.hypervisor.domains()}
        running = {name for name, report in reports.items() if report.state in RUNNING_STATES}
        statuses = []
        for name, entry in sorted(policy.vms.items()):
            if entry.host == self.host:
                document = self._document(name)
                noted = _started_with(document) if name in running else None
                statuses.append(
                    VmStatus(
                        name=name,
                        label=entry.label,
                        types=tuple(sorted(policy.label_of(name).types)),
                        interfaces=policy.interfaces_of(name) if noted is None else noted,
                        wanted=bool(document.get("wanted")),
                        quarantined=str(document.get("quarantined", "")),
                        domain=reports.get(name),
                    )
                )
        return tuple(statuses)

    def wanted(self) -> tuple[VmName, ...]:
        """Every VM of this host that should run, whether it does or not: nothing but the store is asked."""
        return tuple(
            name
            for name, entry in sorted(self.policy().vms.items())
            if entry.host == self.host and self._document(name).get("wanted")
        )

    def running_types(self) -> frozenset[TypeName]:
        """Types of every VM that runs or is suspended under its label, and is not quarantined."""
        return frozenset(name for status in self._connectable() for name in status.types)

    def taps(self) -> dict[str, TypeName]:
        """Tap → type, for every interface that belongs in a type's bridge now. A type that is no more has none."""
        known = self.label_map().types
        return {
            interface.device: name
            for status in self._connectable()
            if status.domain is not None
            for interface, name in zip(status.domain.interfaces, status.interfaces, strict=False)
            if name in known
        }

    def devices(self) -> dict[VmName, tuple[str, ...]]:
        """Every VM of this host, running or not → the taps that its interfaces have, in order."""
        return {name: self._devices(name) for name in self.policy().vms_of(self.host)}

    def _devices(self, name: VmName) -> tuple[str, ...]:
        return tap_devices(self.policy(), self.label_map(), name)

    def enforce_labels(self) -> tuple[VmName, ...]:
        """Destroy every VM that runs under another label than its own, or on another host than its own (it may have
        been started by hand); suspend again what runs in spite of its quarantine. Returns what was destroyed."""
        destroyed = []
        with self._lock:
            for report in self.hypervisor.domains():
                entry = self.policy().vms.get(report.name)
                if report.state not in RUNNING_STATES or entry is None:
                    continue
                expected = self._context(entry) if entry.host == self.host else None
                if expected is None or report.context != expected:
                    self.audit(
                        "vm.mislabelled",
                        report.name,
                        {"expected": str(expected or f"to run on {entry.host}"), "found": str(report.context)},
                    )
                    self.hypervisor.destroy(report.name)
                    destroyed.append(report.name)
                elif report.state is DomainState.RUNNING and self._document(report.name).get("quarantined"):
                    self.suspend(report.name, "it ran in spite of its quarantine")
        return tuple(destroyed)

    def rename_types(self, renames: Renames) -> None:
        """Follow a version of the policy that gives types new names, in what was noted of VMs. Again changes nothing:
        no name that a version gives up is one of its own."""
        if not renames.types:
            return
        with self._lock:
            for name, document in self.documents.items("vm"):
                types = _started_with(document)
                if types is not None:
                    noted = [renamed(each, renames) for each in types]
                    self.documents.put("vm", name, {**document, "interfaces": noted})

    def stop_forbidden(self, before: Policy | None = None) -> tuple[VmName, ...]:
        """Destroy every VM of this host that the policy in force now does not permit, or not with the interfaces that
        it runs with. Returns their names.

        `before`: the policy that was in force until now; then also what runs under another label than it would get.
        None at a start, where `enforce_labels` follows: VMs that this host ever started, and those of its label map.
        """
        stopped = []
        with self._lock:
            policy = self.policy()
            ours = {*self.label_map().vms, *(name for name, _ in self.documents.items("vm"))}
            if before is not None:
                ours.update(before.vms)
            for report in self.hypervisor.domains():
                if report.state not in RUNNING_STATES or report.name not in ours:
                    continue
                decision = self._forbidden(policy, report, labels=before is not None)
                if decision is not None:
                    self.audit("vm.forbidden", report.name, decision.as_detail())
                    self.hypervisor.destroy(report.name)
                    stopped.append(report.name)
        return tuple(stopped)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Nothing starts or stops meanwhile, but by this thread."""
        with self._lock:
            yield

    def running(self) -> dict[VmName, tuple[TypeName, ...]]:
        """VMs of this host that run or are suspended → the type of each of their interfaces."""
        return {
            status.name: status.interfaces
            for status in self.statuses()
            if status.domain is not None and status.domain.state in RUNNING_STATES
        }

    def _connectable(self) -> tuple[VmStatus, ...]:
        return tuple(
            status
            for status in self.statuses()
            if status.domain is not None
            and status.domain.state in RUNNING_STATES
            and not status.quarantined
            and status.domain.context == self._context(self._entry(status.name))
        )

    def _start_new(self, entry: VmEntry, *, fresh: bool) -> DomainReport:
        name = entry.name
        pin = self.policy().images[entry.image]
        overlay = self.images.overlay(name)
        if fresh or overlay is None:
            self.images.verify(entry.image, pin.sha256)
            overlay = self.images.fresh_overlay(name, entry.image)
        self.hypervisor.destroy(name)  # a definition that somebody left behind
        types = self.policy().interfaces_of(name)
        self.documents.put("vm", name, {**self._document(name), "interfaces": list(types)})
        report = self.hypervisor.start_paused(self._spec(entry, types, overlay))
        try:
            self._verify(report)
            self._want(name, wanted=True)
            self.hypervisor.resume(name)
        except ShamonError:
            self.hypervisor.destroy(name)
            raise
        return self._report(name)

    def _permit(self, entry: VmEntry) -> None:
        policy = self.policy()
        start, *to_come = self.start_decisions(entry.name)
        attached = [monitor.vm_attach(policy, entry.name, name) for name in policy.interfaces_of(entry.name)]
        for decision in (start, *attached, *to_come):
            self.audit(decision.check, entry.name, decision.as_detail())
            decision.enforce()

    def start_decisions(self, name: VmName) -> list[Decision]:
        """What the monitor says of a start now: first under the policy in force, then under a version to come, to which
        this host has agreed; what runs is permitted in it, and stays so until it counts. Not yet in the audit log."""
        policy, successor = self.policy(), self.successor()
        decisions = [self._decide(policy, name)]
        if successor is not None and name in policy.vms:
            decisions.append(self._decide(successor, name))
            if decisions[-1].permitted:
                decisions += kept_by(policy, successor, name)
        return decisions

    def _decide(self, policy: Policy, name: VmName) -> Decision:
        """The monitor's answer on `vm.start` under a policy, beside what else runs. Not yet in the audit log."""
        running = {
            report.name: policy.label_of(report.name)
            for report in self.hypervisor.domains()
            if report.state in RUNNING_STATES and report.name in policy.vms and report.name != name
        }
        return monitor.vm_start(
            policy, name, host=self.host, running=running, host_tpm=self.host_tpm, admitted=self.admitted()
        )

    def _forbidden(self, policy: Policy, report: DomainReport, *, labels: bool) -> Decision | None:
        """Why a VM may not run here, or not with the interfaces (and, with `labels`, the label) that it has."""
        name = report.name
        decision = self._decide(policy, name)
        if not decision.permitted:
            return decision
        return runs_otherwise(
            name,
            interfaces=_started_with(self._document(name)),
            wanted_interfaces=policy.interfaces_of(name),
            context=report.context,
            wanted_context=self._context(policy.vms[name]) if labels else None,
        )

    def _verify(self, report: DomainReport) -> None:
        """Compare the label that was read back with the one that the label map gives; destroy on a mismatch.

        A label that nobody enforces counts for nothing. Raises NotTrusted.
        """
        entry = self._entry(report.name)
        decision = monitor.label_vm(self.policy(), entry.name, wanted=self._context(entry), found=report.context)
        self.audit(decision.check, entry.name, decision.as_detail())
        if not decision.permitted:
            self.hypervisor.destroy(entry.name)
            raise NotTrusted(
                "the VM does not run under its label, and was destroyed before it ran",
                where=entry.name,
                expected=str(self._context(entry)),
                found=str(report.context or "no label"),
                remedy="SELinux must be enforcing, with the policy modules of this program and of libvirt loaded.",
            )
        if not report.enforced:
            raise NotTrusted(
                "the label of the VM binds nobody",
                where=entry.name,
                expected="SELinux enforcing",
                found="permissive",
                remedy="Boot this host again with SELinux enforcing; its peers refuse it until then.",
            )

    def _spec(self, entry: VmEntry, types: Sequence[TypeName], disk: str) -> VmSpec:
        settings = self.settings.get(entry.name, VmSettings())
        devices = self._devices(entry.name)
        return VmSpec(
            name=entry.name,
            uuid=str(uuid.uuid5(uuid.NAMESPACE_DNS, f"{entry.name}.{self.policy().coalition}")),
            context=self._context(entry),
            disk=disk,
            interfaces=tuple(
                VmInterface(
                    device=devices[index],
                    bridge=self.ensure_bridge(name),
                    mac=interface_mac(self.policy().coalition, entry.host, entry.name, index),
                )
                for index, name in enumerate(types)
            ),
            memory_mib=settings.memory_mib,
            vcpus=settings.vcpus,
            kernel=settings.kernel,
            initrd=settings.initrd,
            cmdline=settings.cmdline,
        )

    def _context(self, entry: VmEntry) -> SelinuxContext:
        return self.label_map().vm_context(entry.name, self._label(entry).types)

    def _label(self, entry: VmEntry) -> VmLabel:
        return self.policy().label_of(entry.name)

    def _entry(self, name: VmName) -> VmEntry:
        entry = self.policy().vms.get(name)
        if entry is None or entry.host != self.host:
            ours = ", ".join(sorted(vm for vm, other in self.policy().vms.items() if other.host == self.host))
            raise BadInput(f"no VM {name!r} on this host", expected=f"one of: {ours or 'none'}")
        return entry

    def _running(self, name: VmName) -> DomainReport | None:
        for report in self.hypervisor.domains():
            if report.name == name and report.state in RUNNING_STATES:
                return report
        return None

    def _report(self, name: VmName) -> DomainReport:
        report = self._running(name)
        if report is None:
            raise BackendFailed(
                "the VM ended right after it was started", where=name, remedy="See its log in /var/log/libvirt/qemu."
            )
        return report

    def _document(self, name: VmName) -> dict[str, Any]:
        return self.documents.get("vm", name) or {}

    def _want(self, name: VmName, *, wanted: bool) -> None:
        self._note(name, wanted=wanted)

    def _note(self, name: VmName, **fields: bool | str) -> None:
        """Write down what is to become of a VM, in place of what was. What it was started with stays."""
        kept = {key: value for key, value in self._document(name).items() if key == "interfaces"}
        self.documents.put("vm", name, {**kept, **fields})


def _started_with(document: Mapping[str, Any]) -> tuple[TypeName, ...] | None:
    """The types of the interfaces that a VM was last started with, from its document; None where none were noted."""
    types = document.get("interfaces")
    return None if types is None else tuple(map(TypeName, types))


def tap_devices(policy: Policy, label_map: LabelMap, vm: VmName) -> tuple[str, ...]:
    """The taps that a VM's interfaces have on the host with this label map, in order. Raises KeyError."""
    serial = (label_map.vms[vm][0] - VM_CATEGORIES.start) // 2
    return tuple(f"{TAP_PREFIX}{serial}-{index}" for index in range(len(policy.interfaces_of(vm))))


def interface_mac(coalition: str, host: HostName, vm: VmName, index: int) -> str:
    """The stable, locally administered address of a VM's interface, whatever its type is called. `host`: the one that
    the policy gives the VM to. Where another policy gives a VM of this name to another host, that is another VM."""
    digest = hashlib.sha256(f"{coalition}/{host}/{vm}/{index}".encode()).digest()
    return ":".join(f"{byte:02x}" for byte in (0x52, 0x54, *digest[:4]))
