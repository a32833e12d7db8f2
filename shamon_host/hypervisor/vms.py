"""The life of this host's VMs: start, stop, suspend, quarantine, replace.

Each VM starts paused under the static label that the label map gives it; the label is read back from the running
process before a single instruction of the guest runs, and a mismatch destroys it (invariant 2). What may start is
decided by the reference monitor, whose answer is in the audit log before the hypervisor is asked (invariant 6).
"""

import hashlib
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from shamon_host.domain import monitor
from shamon_host.domain.errors import BadInput, NotTrusted, Refused
from shamon_host.domain.label_map import VM_CATEGORIES, LabelMap
from shamon_host.domain.labels import HostName, TypeName, VmLabel, VmName
from shamon_host.domain.policy import Policy, VmEntry
from shamon_host.hypervisor.ports import DomainReport, DomainState, Hypervisor, Images, VmInterface, VmSpec

RUNNING_STATES = (DomainState.RUNNING, DomainState.PAUSED)


class Audit(Protocol):
    """Append to the audit log, durably, before the effect."""

    def __call__(self, kind: str, subject: str, detail: Mapping[str, Any]) -> object: ...


class Documents(Protocol):
    """Small durable state of this host; `daemon.store` implements it."""

    def get(self, kind: str, key: str) -> dict[str, Any] | None: ...

    def put(self, kind: str, key: str, document: Mapping[str, Any]) -> None: ...

    def delete(self, kind: str, key: str) -> None: ...


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
    wanted: bool
    """It should run: it was started and neither stopped nor quarantined since."""
    quarantined: str
    """Why; empty when it is not."""
    domain: DomainReport | None


@dataclass(kw_only=True)
class VmManager:
    """All VMs of this host. Synchronous; one caller at a time."""

    host: HostName
    hypervisor: Hypervisor
    images: Images
    documents: Documents
    audit: Audit
    policy: Callable[[], Policy]
    label_map: Callable[[], LabelMap]
    ensure_bridge: Callable[[TypeName], str]
    """Make the bridge of a type and return its name."""
    settings: Mapping[VmName, VmSettings] = field(default_factory=dict)
    tap_prefix: str = "shvm"

    def start(self, name: VmName, *, fresh: bool = False) -> DomainReport:
        """Start a VM, or resume it when it is suspended; `fresh` discards its overlay first. Releases a quarantine.

        Raises Refused (the monitor), NotTrusted (image or label), BackendFailed.
        """
        entry = self._entry(name)
        running = self._running(name)
        self._permit(entry)
        quarantined = self._document(name).get("quarantined")
        if quarantined and running is not None and not fresh:
            self.audit("vm.release", name, {"quarantined": quarantined})
        if running is not None and not fresh:
            self._verify(running)
            if running.state is DomainState.PAUSED:
                self.hypervisor.resume(name)
            self._want(name, wanted=True)
            return self._report(name)
        if running is not None:
            self.hypervisor.destroy(name)
        return self._start_new(entry, fresh=fresh)

    def stop(self, name: VmName) -> None:
        """Destroy the domain; its overlay stays."""
        self._entry(name)
        self.audit("vm.stop", name, {})
        self._want(name, wanted=False)
        self.hypervisor.destroy(name)

    def suspend(self, name: VmName, reason: str) -> None:
        """Pause the domain; it is still wanted, and `start` resumes it."""
        self.audit("vm.suspend", name, {"reason": reason})
        if self._running(name) is not None:
            self.hypervisor.suspend(name)

    def quarantine(self, name: VmName, reason: str, *, ports_down: Callable[[str], None]) -> None:
        """Take the VM off its bridges, then suspend it; memory and disk are kept until it is replaced or stopped.

        `ports_down` detaches one tap from its bridge.
        """
        self._entry(name)
        self.audit("vm.quarantine", name, {"reason": reason})
        self.documents.put("vm", name, {"wanted": False, "quarantined": reason})
        domain = self._running(name)
        if domain is None:
            return
        for interface in domain.interfaces:
            ports_down(interface.device)
        self.hypervisor.suspend(name)

    def replace(self, name: VmName, reason: str) -> DomainReport:
        """Destroy the VM and start a clean one: image verified, fresh overlay, label read back."""
        self._entry(name)
        self.audit("vm.replace", name, {"reason": reason})
        return self.start(name, fresh=True)

    def restore(self, *, replace: bool, reason: str) -> tuple[VmName, ...]:
        """After a boot: start every VM that should run, from the clean image if `replace`. A VM that the policy
        no longer allows is not started, and the audit log says why. Returns what was started."""
        started = []
        for status in self.statuses():
            if not status.wanted:
                continue
            try:
                if replace:
                    self.replace(status.name, reason)
                else:
                    self.start(status.name)
            except (Refused, NotTrusted) as error:
                self.audit("vm.not-restored", status.name, {"reason": str(error)})
                continue
            started.append(status.name)
        return tuple(started)

    def statuses(self) -> tuple[VmStatus, ...]:
        """Every VM that the policy gives to this host."""
        policy = self.policy()
        reports = {report.name: report for report in self.hypervisor.domains()}
        return tuple(
            VmStatus(
                name=name,
                label=entry.label,
                types=tuple(sorted(policy.vm_labels[entry.label].types)),
                wanted=bool(self._document(name).get("wanted")),
                quarantined=str(self._document(name).get("quarantined", "")),
                domain=reports.get(name),
            )
            for name, entry in sorted(policy.vms.items())
            if entry.host == self.host
        )

    def running_types(self) -> frozenset[TypeName]:
        """Types of every VM that runs or is suspended, and is not quarantined."""
        return frozenset(
            name
            for status in self.statuses()
            if status.domain is not None and status.domain.state in RUNNING_STATES and not status.quarantined
            for name in status.types
        )

    def taps(self) -> dict[str, TypeName]:
        """Tap → type, for every interface that belongs in a type's bridge now."""
        return {
            interface.device: name
            for status in self.statuses()
            if status.domain is not None and status.domain.state in RUNNING_STATES and not status.quarantined
            for interface, name in zip(status.domain.interfaces, status.types, strict=False)
        }

    def enforce_labels(self) -> tuple[VmName, ...]:
        """Destroy every domain that runs under another label than its own (it may have been started by hand)."""
        destroyed = []
        for report in self.hypervisor.domains():
            if report.state not in RUNNING_STATES or report.name not in self.policy().vms:
                continue
            expected = self._context(self._entry(report.name))
            if report.context != expected:
                self.audit("vm.mislabelled", report.name, {"expected": str(expected), "found": str(report.context)})
                self.hypervisor.destroy(report.name)
                destroyed.append(report.name)
        return tuple(destroyed)

    def _start_new(self, entry: VmEntry, *, fresh: bool) -> DomainReport:
        name = entry.name
        pin = self.policy().images[entry.image]
        overlay = self.images.overlay(name)
        if fresh or overlay is None:
            self.images.verify(entry.image, pin.sha256)
            overlay = self.images.fresh_overlay(name, entry.image)
        self.hypervisor.destroy(name)  # a definition that a crash left behind
        report = self.hypervisor.start_paused(self._spec(entry, overlay))
        self._verify(report)
        self._want(name, wanted=True)
        self.hypervisor.resume(name)
        return self._report(name)

    def _permit(self, entry: VmEntry) -> None:
        policy = self.policy()
        running = {
            report.name: policy.vm_labels[policy.vms[report.name].label]
            for report in self.hypervisor.domains()
            if report.state in RUNNING_STATES and report.name in policy.vms and report.name != entry.name
        }
        decision = monitor.vm_start(policy, entry.name, host=self.host, running=running)
        self.audit(decision.check, entry.name, decision.as_detail())
        decision.enforce()

    def _verify(self, report: DomainReport) -> None:
        """Compare the label that was read back with the one that the label map gives; destroy on a mismatch."""
        entry = self._entry(report.name)
        decision = monitor.label_vm(self.policy(), entry.name, wanted=self._context(entry), found=report.context)
        self.audit(decision.check, entry.name, decision.as_detail())
        if not decision.permitted:
            self.hypervisor.destroy(entry.name)
        decision.enforce()

    def _spec(self, entry: VmEntry, disk: str) -> VmSpec:
        settings = self.settings.get(entry.name, VmSettings())
        types = sorted(self._label(entry).types)
        serial = (self.label_map().vms[entry.name][0] - VM_CATEGORIES.start) // 2
        return VmSpec(
            name=entry.name,
            uuid=str(uuid.uuid5(uuid.NAMESPACE_DNS, f"{entry.name}.{self.policy().coalition}")),
            context=self._context(entry),
            disk=disk,
            interfaces=tuple(
                VmInterface(
                    device=f"{self.tap_prefix}{serial}-{index}",
                    bridge=self.ensure_bridge(name),
                    mac=_mac(f"{self.policy().coalition}/{entry.name}/{name}"),
                )
                for index, name in enumerate(types)
            ),
            memory_mib=settings.memory_mib,
            vcpus=settings.vcpus,
            kernel=settings.kernel,
            initrd=settings.initrd,
            cmdline=settings.cmdline,
        )

    def _context(self, entry: VmEntry) -> Any:
        return self.label_map().vm_context(entry.name, self._label(entry).types)

    def _label(self, entry: VmEntry) -> VmLabel:
        return self.policy().vm_labels[entry.label]

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
            raise NotTrusted("the VM is gone after it was started", where=name)
        return report

    def _document(self, name: VmName) -> dict[str, Any]:
        return self.documents.get("vm", name) or {}

    def _want(self, name: VmName, *, wanted: bool) -> None:
        self.documents.put("vm", name, {"wanted": wanted})


def _mac(seed: str) -> str:
    """A stable, locally administered address for an interface."""
    digest = hashlib.sha256(seed.encode()).digest()
    return ":".join(f"{byte:02x}" for byte in (0x52, 0x54, *digest[:4]))
