"""The disks that VMs have beside their own: each file is labelled, its label is read back, its content compared with
the policy's pin, and only then may a VM start with it.

The label is what the kernel goes by. Which file a disk is says its identity (inode and file system) for one that is
written, and its content for a pinned one; a path says nothing.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from shamon_host.domain import monitor
from shamon_host.domain.contexts import disk_context
from shamon_host.domain.decision import Decision, Rule
from shamon_host.domain.disk_grants import disk_grants
from shamon_host.domain.errors import BadInput, NotTrusted, ShamonError
from shamon_host.domain.label_map import DISK_TYPES, LabelMap
from shamon_host.domain.labels import HostName, ResourceLabel, SelinuxContext, TypeName, VmName
from shamon_host.domain.policy import Policy
from shamon_host.hypervisor.ports import Audit, DiskFile, Disks, Documents, VmDisk

_KIND = "disk"
_USER = "system_u"
"""Whose files restorecon -F makes them: the reference policy lets the daemon relabel no others."""
_NOBODYS = "virt_image_t"
"""SELinux type of files in libvirt's directories that are nobody's disk; no VM reaches them."""


class DiskState(StrEnum):
    READY = "ready"
    """Its file has its label; the content of a pinned one is compared at each start."""
    NEW = "new"
    """Its file gets the label at the next start."""
    OTHER = "other"
    """Another file lies at its path."""
    MISSING = "missing"
    """It has no path here, or no file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskStatus:
    """A disk of this host's VMs as people see it. `users`: the VMs that have it; `reason`: why it is missing."""

    name: str
    types: tuple[TypeName, ...]
    pinned: bool
    users: tuple[VmName, ...]
    state: DiskState
    path: str = ""
    label: SelinuxContext | None = None
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class VmDisks:
    """The disks of this host's VMs, by the names that the policy gives them. Calls that change something are made one
    at a time (`vms.VmManager` sees to it)."""

    host: HostName
    disks: Disks
    documents: Documents
    audit: Audit
    policy: Callable[[], Policy]
    label_map: Callable[[], LabelMap]

    # What is there

    def of(self, vm: VmName) -> tuple[VmDisk, ...]:
        """What the VM is to have beside its own disk, in order; one without a path here has an empty one."""
        return tuple(
            VmDisk(path=self._path(grant.name), read_only=not grant.written) for grant in disk_grants(self.policy(), vm)
        )

    def statuses(self) -> tuple[DiskStatus, ...]:
        """Every disk that VMs of this host have beside their own; nothing is changed, and no content is read."""
        policy = self.policy()
        return tuple(self._status(name, policy) for name in policy.disks_on(self.host))

    def decisions(self, vm: VmName) -> list[Decision]:
        """What `label.resource` would say of each disk of the VM at a start now. Not yet in the audit log, and the
        content of pinned ones is not read."""
        policy = self.policy()
        return [self._decision(self._status(name, policy)) for name in self._ours(vm, policy)]

    def read_pinned(self, vm: VmName) -> None:
        """Read the pinned content that the VM has, ahead of `prepare`, which then need not. Changes nothing and needs
        nothing to be held; whatever is wrong is told by `prepare`. A file without its label is not read: it may have
        one under which VMs write it."""
        policy = self.policy()
        for name in self._ours(vm, policy):
            resource = policy.resource_labels[name]
            if resource.pinned:
                with contextlib.suppress(ShamonError):
                    if self._standing(name, resource, self.disks.inspect(name)) is DiskState.READY:
                        self.disks.verify(name, resource.sha256)

    def _ours(self, vm: VmName, policy: Policy) -> tuple[str, ...]:
        """The disks of a VM; none of one that is not this host's."""
        return policy.disks_of(vm) if vm in policy.vms and policy.host_of(vm) == self.host else ()

    def _status(self, name: str, policy: Policy) -> DiskStatus:
        resource = policy.resource_labels[name]
        status = DiskStatus(
            name=name,
            types=tuple(sorted(resource.types)),
            pinned=resource.pinned,
            users=tuple(vm for vm in policy.vms_of(self.host) if name in policy.disks_of(vm)),
            state=DiskState.MISSING,
            path=self._path(name),
        )
        try:
            file = self.disks.inspect(name)
        except ShamonError as error:
            return replace(status, reason=str(error))
        return replace(status, label=file.label, state=self._standing(name, resource, file))

    def _standing(self, name: str, resource: ResourceLabel, file: DiskFile) -> DiskState:
        wanted = disk_context(self.policy(), self.label_map(), name)
        return standing(file, wanted, self._noted(name).get("file"), pinned=resource.pinned)

    def _decision(self, status: DiskStatus) -> Decision:
        wanted = disk_context(self.policy(), self.label_map(), status.name)
        gets_it = status.state in (DiskState.READY, DiskState.NEW)
        found = wanted if gets_it else status.label
        decision = monitor.label_resource(self.policy(), status.name, wanted=wanted, found=found)
        if gets_it or (status.state is DiskState.OTHER and not decision.permitted):
            return decision
        return replace(decision, permitted=False, rule=Rule.LABEL, reason=status.reason or _ANOTHER_FILE)

    def _path(self, name: str) -> str:
        try:
            return self.disks.path(name)
        except BadInput:
            return ""

    # What is done

    def prepare(self, vm: VmName) -> tuple[VmDisk, ...]:
        """Make every disk of the VM ready for it. Raises NotTrusted for another file than the one that had the name,
        and for other content than the pinned; BadInput and BackendFailed."""
        for name in self.policy().disks_of(vm):
            self._prepare(name, self.policy().resource_labels[name])
        return self.of(vm)

    def adopt(self, name: str) -> None:
        """Let the file that lies at its path be this disk, though another one was. Raises BadInput, BackendFailed."""
        ours = self.policy().disks_on(self.host)
        if name not in ours:
            raise BadInput(f"no VM of this host has the disk {name!r}", expected=f"one of: {', '.join(ours) or 'none'}")
        file = self.disks.inspect(name)
        self.audit("disk.adopt", name, {"path": self.disks.path(name), "file": file.identity, "label": str(file.label)})
        self._note(name, self.policy().resource_labels[name], file)

    def withdraw(self) -> None:
        """Take the label away from every file that was a disk of this host and is none by the policy in force, and
        forget it: no VM reaches it any more, and none gets it without an operator."""
        ours = set(self.policy().disks_on(self.host))
        for name, document in self.documents.items(_KIND):
            if name not in ours:
                try:
                    self._withdraw(name, document)
                except ShamonError as error:
                    self.audit("disk.not-withdrawn", name, {"reason": str(error), "file": document["file"]})
                self.documents.delete(_KIND, name)

    def _prepare(self, name: str, resource: ResourceLabel) -> None:
        wanted = disk_context(self.policy(), self.label_map(), name)
        file = self.disks.inspect(name)
        state = self._standing(name, resource, file)
        if state is DiskState.NEW:
            if not resource.pinned:
                self._note(name, resource, file)
            self.audit("disk.label", name, {"path": self.disks.path(name), "from": str(file.label), "to": str(wanted)})
            self.disks.relabel(name, file, wanted)
            file = self.disks.inspect(name)
            state = self._standing(name, resource, file)
        decision = monitor.label_resource(self.policy(), name, wanted=wanted, found=file.label)
        self.audit(decision.check, name, decision.as_detail())
        if state is not DiskState.READY:
            noted = self._noted(name).get("file")
            raise NotTrusted(
                "the file is not that of this disk",
                where=f"{name}: {self.disks.path(name)}",
                expected=str(wanted) + (f", {noted}" if noted and not resource.pinned else ""),
                found=f"{file.label or 'no label'}, {file.identity}",
                remedy=_OTHER_FILE if noted else _NO_FRESH_FILE,
            )
        if resource.pinned:
            self.disks.verify(name, resource.sha256)  # under the label with which no VM writes it
        self._note(name, resource, file)

    def _withdraw(self, name: str, document: dict[str, Any]) -> None:
        file = self.disks.inspect(name)
        label = file.label
        if label is None or file.identity != document["file"] or label.type not in DISK_TYPES or not label.categories:
            return
        bare = replace(label, type=_NOBODYS)  # with its categories, so that it is nobody's new disk either
        self.audit("disk.withdraw", name, {"path": self.disks.path(name), "from": str(label), "to": str(bare)})
        self.disks.relabel(name, file, bare)

    def _noted(self, name: str) -> dict[str, Any]:
        """`file`: the identity of the disk's file; `types`: those that it had. Empty where it never had one."""
        return self.documents.get(_KIND, name) or {}

    def _note(self, name: str, resource: ResourceLabel, file: DiskFile) -> None:
        before, note = self._noted(name), {"file": file.identity, "types": sorted(resource.types)}
        if before and before["types"] != note["types"]:
            self.audit("disk.retyped", name, {"from": before["types"], "to": note["types"]})
        if before != note:
            self.documents.put(_KIND, name, note)


def standing(file: DiskFile, wanted: SelinuxContext, noted: str | None, *, pinned: bool) -> DiskState:
    """What the file at a disk's path is to it: READY, NEW or OTHER. `noted`: the identity of the disk's own file, None
    where it has none yet. A pinned disk is known by its content instead, whichever file that is in."""
    label, same = file.label, pinned or noted == file.identity
    if label is None or label.user != _USER:
        return DiskState.OTHER
    if same and label.type in DISK_TYPES and label.categories == wanted.categories:
        return DiskState.READY if label == wanted else DiskState.NEW
    fresh = not label.categories and label.type in ((_NOBODYS, wanted.type) if pinned else (_NOBODYS,))
    return DiskState.NEW if fresh and (same or noted is None) else DiskState.OTHER


_ANOTHER_FILE = "another file lies where this disk was"
_OTHER_FILE = (
    "Another file lies where this disk was. Put the right one back; if this one is to be the disk from now on, give it "
    "the label of a new one (restorecon -F) and run `shamon disk adopt` with its name."
)
_NO_FRESH_FILE = (
    "It has no label that libvirt's directories give, or belongs to another disk or VM. For a new disk put a new file "
    "below /var/lib/libvirt/images, and run restorecon -F on it."
)
