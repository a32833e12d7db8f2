"""This host's VMs as they are: what the hypervisor reports of them, beside what was noted of them. Nothing is done to
a VM here; that is `hypervisor.vms`."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from shamon_host.domain.contexts import vm_context
from shamon_host.domain.disk_grants import DiskGrant, disk_grants
from shamon_host.domain.errors import BadInput
from shamon_host.domain.label_map import LabelMap
from shamon_host.domain.labels import HostName, TypeName, VmContext, VmName
from shamon_host.domain.policy import Policy, Renames, VmEntry
from shamon_host.domain.replay import renamed
from shamon_host.hypervisor.ports import RUNNING_STATES, Documents, DomainReport, Hypervisor
from shamon_host.hypervisor.vm_spec import tap_devices

_KIND = "vm"
_STARTED_WITH = ("interfaces", "disks")


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

    @property
    def runs(self) -> bool:
        """It runs or is suspended."""
        return self.domain is not None and self.domain.state in RUNNING_STATES


@dataclass(frozen=True, kw_only=True)
class VmStates:
    """All VMs of this host. Each answer is read anew; BackendFailed where the hypervisor does not give one."""

    host: HostName
    hypervisor: Hypervisor
    documents: Documents
    policy: Callable[[], Policy]
    label_map: Callable[[], LabelMap]

    def statuses(self) -> tuple[VmStatus, ...]:
        """Every VM that the policy gives to this host."""
        policy = self.policy()
        reports = {report.name: report for report in self.hypervisor.domains()}
        running = {name for name, report in reports.items() if report.state in RUNNING_STATES}
        statuses = []
        for name in policy.vms_of(self.host):
            document = self._document(name)
            noted = _interfaces_in(document) if name in running else None
            statuses.append(
                VmStatus(
                    name=name,
                    label=policy.vms[name].label,
                    types=tuple(sorted(policy.label_of(name).types)),
                    interfaces=policy.interfaces_of(name) if noted is None else noted,
                    wanted=_wanted_in(document),
                    quarantined=_quarantine_in(document),
                    domain=reports.get(name),
                )
            )
        return tuple(statuses)

    def wanted(self) -> tuple[VmName, ...]:
        """Every VM of this host that should run, whether it does or not: nothing but the store is asked."""
        return tuple(name for name in self.policy().vms_of(self.host) if _wanted_in(self._document(name)))

    def running(self) -> dict[VmName, tuple[TypeName, ...]]:
        """VMs of this host that run or are suspended → the type of each of their interfaces."""
        return {status.name: status.interfaces for status in self.statuses() if status.runs}

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
        policy, label_map = self.policy(), self.label_map()
        return {name: tap_devices(policy, label_map, name) for name in policy.vms_of(self.host)}

    def entry(self, name: VmName) -> VmEntry:
        """What the policy says of a VM of this host. Raises BadInput."""
        entry = self.policy().vms.get(name)
        if entry is None or entry.host != self.host:
            ours = ", ".join(self.policy().vms_of(self.host))
            raise BadInput(f"no VM {name!r} on this host", expected=f"one of: {ours or 'none'}")
        return entry

    def context(self, name: VmName) -> VmContext:
        """The context that a VM of this host is to run under."""
        return vm_context(self.policy(), self.label_map(), name)

    def active(self) -> tuple[DomainReport, ...]:
        """Every domain that runs or is suspended, this host's own or not."""
        return tuple(report for report in self.hypervisor.domains() if report.state in RUNNING_STATES)

    def find(self, name: VmName) -> DomainReport | None:
        """The domain of a VM, where it runs or is suspended."""
        return next((report for report in self.active() if report.name == name), None)

    def _connectable(self) -> tuple[VmStatus, ...]:
        return tuple(
            status
            for status in self.statuses()
            if status.domain is not None
            and status.runs
            and not status.quarantined
            and status.domain.context == self.context(status.name)
        )

    # What was noted

    def quarantined(self, name: VmName) -> str:
        """Why the VM is in quarantine; empty when it is not."""
        return _quarantine_in(self._document(name))

    def started_with(self, name: VmName) -> tuple[TypeName, ...] | None:
        """The types of the interfaces that a VM was last started with; None where none were noted."""
        return _interfaces_in(self._document(name))

    def started_disks(self, name: VmName) -> tuple[DiskGrant, ...] | None:
        """The disks beside its own that a VM was last started with; None where none were noted."""
        disks = self._document(name).get("disks")
        return None if disks is None else tuple(DiskGrant(**each) for each in disks)

    def noted(self) -> tuple[VmName, ...]:
        """Every VM that this host ever started."""
        return tuple(VmName(name) for name, _ in self.documents.items(_KIND))

    def note(self, name: VmName, *, wanted: bool, quarantined: str = "") -> None:
        """Write down what is to become of a VM, in place of what was. What it was started with stays."""
        kept = {key: value for key, value in self._document(name).items() if key in _STARTED_WITH}
        reason = {"quarantined": quarantined} if quarantined else {}
        self.documents.put(_KIND, name, {**kept, "wanted": wanted, **reason})

    def note_start(self, name: VmName) -> None:
        """Write down what a VM is about to be started with, under the policy in force."""
        policy = self.policy()
        disks = [asdict(grant) for grant in disk_grants(policy, name)]
        started_with = {"interfaces": list(policy.interfaces_of(name)), "disks": disks}
        self.documents.put(_KIND, name, {**self._document(name), **started_with})

    def rename_types(self, renames: Renames) -> None:
        """Follow a version of the policy that gives types new names, in what was noted. Again changes nothing: no name
        that a version gives up is one of its own."""
        if not renames.types:
            return
        for name in self.noted():
            types = self.started_with(name)
            if types is not None:
                names = [renamed(each, renames) for each in types]
                self.documents.put(_KIND, name, {**self._document(name), "interfaces": names})

    def _document(self, name: VmName) -> dict[str, Any]:
        return self.documents.get(_KIND, name) or {}


def _wanted_in(document: Mapping[str, Any]) -> bool:
    return bool(document.get("wanted"))


def _quarantine_in(document: Mapping[str, Any]) -> str:
    return str(document.get("quarantined", ""))


def _interfaces_in(document: Mapping[str, Any]) -> tuple[TypeName, ...] | None:
    types = document.get("interfaces")
    return None if types is None else tuple(map(TypeName, types))
