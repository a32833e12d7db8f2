"""This host's VMs as they are: what the hypervisor reports of them, beside what was noted of them. Nothing is done to
a VM here; that is `hypervisor.vms`."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from shamon_host.attestation.guest_reference import GuestBoot
from shamon_host.domain.contexts import vm_context
from shamon_host.domain.disk_grants import DiskGrant, disk_grants
from shamon_host.domain.errors import BadInput
from shamon_host.domain.label_map import LabelMap
from shamon_host.domain.labels import HostName, TypeName, VmContext, VmName
from shamon_host.domain.policy import Policy, Renames, VmEntry
from shamon_host.domain.replay import renamed
from shamon_host.hypervisor.guest_tpms import GuestTpm
from shamon_host.hypervisor.ports import RUNNING_STATES, Documents, DomainReport, DomainState, Hypervisor
from shamon_host.hypervisor.vm_leases import VmLeases
from shamon_host.hypervisor.vm_quarantine import Quarantine, quarantine_in
from shamon_host.hypervisor.vm_spec import guest_cid, tap_devices

VM_DOCUMENTS = "vm"
"""Kind of the documents in which what is to become of each VM is noted."""

SUSPENDED_FOR = "suspended-for"
"""Kind of the documents with the peers for which a VM stands still."""


class ImageState(StrEnum):
    """How the image that a VM's overlay was made from stands to the pinned one."""

    CURRENT = "current"
    """It was made from the pinned one."""
    OUTDATED = "outdated"
    """Another one is pinned by now, or the VM is made from another image."""
    UNKNOWN = "unknown"
    """Nobody noted what it was made from."""
    NONE = "none"
    """It has no overlay yet: its next start makes one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VmStatus:
    """A VM of this host as people see it."""

    name: VmName
    label: str
    types: tuple[TypeName, ...]
    interfaces: tuple[TypeName, ...]
    """The type of each of its network interfaces: of those that it runs with, else of those that it would have."""
    wanted: bool
    """It should run: it was started and neither stopped nor cut off by a quarantine since."""
    quarantine: Quarantine | None
    image: str
    image_state: ImageState
    image_sha256: str
    """Of the clean image that its overlay was made from; empty when nobody noted it, or there is none."""
    replacing: str
    """Why it is being replaced; empty when it is not."""
    domain: DomainReport | None
    suspended_for: tuple[HostName, ...] = ()
    """The peers that failed, and are not back, for which it stands still."""
    attested: bool | None = None
    """Whether its lease holds; None: it need not be attested."""

    @property
    def cut_off(self) -> str:
        """Why it exchanges nothing with anybody, being in quarantine; empty where it is in none, or only noted."""
        return self.quarantine.reason if self.quarantine and self.quarantine.cuts_off else ""

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
    leases: VmLeases
    standing_by: Callable[[], frozenset[VmName]] = frozenset
    """VMs of other hosts whose domains stand still here: they wait for their memory, or have just left (live
    migration)."""

    def statuses(self) -> tuple[VmStatus, ...]:
        """Every VM that the policy gives to this host."""
        policy = self.policy()
        reports = {report.name: report for report in self.hypervisor.domains()}
        running = {name for name, report in reports.items() if report.state in RUNNING_STATES}
        statuses, suspended = [], self.all_suspended_for()
        for name in policy.vms_of(self.host):
            document = self._document(name)
            noted = _interfaces_in(document) if name in running else None
            base = _base_in(document)
            pin = policy.image_of(name).sha256
            statuses.append(
                VmStatus(
                    name=name,
                    label=policy.vms[name].label,
                    types=tuple(sorted(policy.label_of(name).types)),
                    interfaces=policy.interfaces_of(name) if noted is None else noted,
                    wanted=_wanted_in(document),
                    quarantine=quarantine_in(document),
                    image=policy.vms[name].image,
                    image_state=_image_state(base, pin),
                    image_sha256=base or "",
                    replacing=str(document.get("replacing", "")),
                    domain=reports.get(name),
                    suspended_for=tuple(sorted(suspended.get(name, ()))),
                    attested=None if policy.attested(name) is None else self.leases.holds(name),
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
        """Types of every VM that runs or is suspended under its label, is not cut off by a quarantine, and is attested
        if it has to be; and of those that stand still here on their way."""
        standing_by = (name for report in self._standing_by() for name in self.policy().label_of(report.name).types)
        return frozenset({*(name for status in self._connectable() for name in status.types), *standing_by})

    def taps(self) -> dict[str, TypeName]:
        """Tap → type, for every interface that belongs in a type's bridge now. A type that is no more has none."""
        known = self.label_map().types
        standing_by = {
            interface.device: name
            for report in self._standing_by()
            for interface, name in zip(report.interfaces, self.policy().interfaces_of(report.name), strict=False)
            if name in known
        }
        return standing_by | {
            interface.device: name
            for status in self._connectable()
            if status.domain is not None
            for interface, name in zip(status.domain.interfaces, status.interfaces, strict=False)
            if name in known
        }

    def devices(self) -> dict[VmName, tuple[str, ...]]:
        """Every VM that is this host's or may be moved to it, running or not → the taps that its interfaces have, in
        order: what they may do is settled before one comes."""
        policy, label_map = self.policy(), self.label_map()
        return {name: tap_devices(policy, label_map, name) for name in policy.possible_on(self.host)}

    def entry(self, name: VmName) -> VmEntry:
        """What the policy says of a VM of this host. Raises BadInput."""
        entry = self.policy().vms.get(name)
        if entry is None or self.policy().host_of(name) != self.host:
            ours = ", ".join(self.policy().vms_of(self.host))
            raise BadInput(f"no VM {name!r} on this host", expected=f"one of: {ours or 'none'}")
        return entry

    def context(self, name: VmName) -> VmContext:
        """The context that a VM of this host is to run under."""
        return vm_context(self.policy(), self.label_map(), name)

    def cid(self, name: VmName) -> int | None:
        """The address on vsock that a VM of this host is to have; None where it is not attested."""
        return guest_cid(self.policy(), self.label_map(), name)

    def has_its_tpm(self, report: DomainReport) -> bool:
        """Whether the domain of a VM that is attested has a TPM, and the address on vsock that is the VM's."""
        cid = self.cid(report.name)
        return cid is None or (report.tpm and report.cid == cid)

    def active(self) -> tuple[DomainReport, ...]:
        """Every domain that runs or is suspended, this host's own or not."""
        return tuple(report for report in self.hypervisor.domains() if report.state in RUNNING_STATES)

    def find(self, name: VmName) -> DomainReport | None:
        """The domain of a VM, where it runs or is suspended."""
        return next((report for report in self.active() if report.name == name), None)

    def _standing_by(self) -> tuple[DomainReport, ...]:
        """Domains of other hosts' VMs that stand still here by right, under their label."""
        names = self.standing_by()
        if not names:
            return ()
        return tuple(
            report
            for report in self.active()
            if report.name in names
            and self.policy().host_of(report.name) != self.host
            and report.state is DomainState.PAUSED
            and report.context == self.context(report.name)
        )

    def _connectable(self) -> tuple[VmStatus, ...]:
        return tuple(
            status
            for status in self.statuses()
            if status.domain is not None
            and status.runs
            and not status.cut_off
            and status.attested is not False
            and status.domain.context == self.context(status.name)
        )

    # What was noted. Whoever changes it holds the lock of `vms.VmManager`: each change reads before it writes.

    def quarantine(self, name: VmName) -> Quarantine | None:
        """The quarantine that the VM is in."""
        return quarantine_in(self._document(name))

    def suspended_for(self, name: VmName) -> frozenset[HostName]:
        """The peers that failed, and are not back, for which the VM is to stand still."""
        return _peers_in(self.documents.get(SUSPENDED_FOR, name))

    def all_suspended_for(self) -> dict[VmName, frozenset[HostName]]:
        """Of every VM of which any are noted, this host's or not."""
        return {VmName(name): _peers_in(document) for name, document in self.documents.items(SUSPENDED_FOR)}

    def note_suspended_for(self, name: VmName, peers: frozenset[HostName]) -> None:
        """In place of what was noted."""
        if peers:
            self.documents.put(SUSPENDED_FOR, name, {"peers": sorted(peers)})
        else:
            self.documents.delete(SUSPENDED_FOR, name)

    def overlay_of(self, name: VmName) -> str | None:
        """The digest of the image that the VM's overlay was made from; "" when there is none, None if nobody knows."""
        return _base_in(self._document(name))

    def replacing(self, name: VmName) -> str | None:
        """Why the VM is being replaced; None when it is not."""
        reason = self._document(name).get("replacing")
        return None if reason is None else str(reason)

    def needs_fresh(self, name: VmName) -> bool:
        """Whether a replacement of the VM was begun and did not get to its fresh overlay."""
        return bool(self._document(name).get("fresh"))

    def started_with(self, name: VmName) -> tuple[TypeName, ...] | None:
        """The types of the interfaces that a VM was last started with; None where none were noted."""
        return _interfaces_in(self._document(name))

    def started_disks(self, name: VmName) -> tuple[DiskGrant, ...] | None:
        """The disks beside its own that a VM was last started with; None where none were noted."""
        disks = self._document(name).get("disks")
        return None if disks is None else tuple(DiskGrant(**each) for each in disks)

    def tpm(self, name: VmName) -> GuestTpm | None:
        """The state of the VM's TPM; None where it has none, or one that is not known to be as old as its disk."""
        document = self._document(name).get("tpm")
        return None if document is None else GuestTpm.from_document(document)

    def booted(self, name: VmName) -> GuestBoot | None:
        """What a VM that is attested, or whose image pins it, was last booted from; None where nobody
        did."""
        document = self._document(name).get("boot")
        return None if document is None else GuestBoot.from_document(document, where=f"store: {name}")

    def noted(self) -> tuple[VmName, ...]:
        """Every VM that this host ever started."""
        return tuple(VmName(name) for name, _ in self.documents.items(VM_DOCUMENTS))

    def note(self, name: VmName, *, wanted: bool | None = None, quarantine: Quarantine | None = None) -> None:
        """Write down what is to become of a VM, in place of what was; `wanted`: None leaves that as it is, and False
        ends a replacement too. What it was started with stays."""
        changes: dict[str, Any] = {} if wanted is None else {"wanted": wanted}
        if wanted is False:
            changes["replacing"] = None
        document = None if quarantine is None else quarantine.to_document()
        self._change(name, **changes, quarantine=document, quarantined=None)

    def arrived(self, name: VmName, *, wanted: bool, base: str | None, runs: bool = False) -> dict[str, Any]:
        """The document of a VM that comes from another host, in place of whatever was noted of it here; `base` as for
        `note_overlay`. `runs`: its domain is there, so what that was started with stays noted."""
        kept = ("interfaces", "disks", "boot") if runs else ()
        started = {key: value for key, value in self._document(name).items() if key in kept}
        return {"wanted": wanted, **started, **({} if base is None else {"base": base})}

    def note_incoming(self, name: VmName) -> None:
        """The overlay of a VM that is not this host's is not whole yet: whatever else starts the VM makes a fresh
        one."""
        self._change(name, base=None, fresh=True)

    def note_replacing(self, name: VmName, reason: str) -> None:
        """A replacement begins: whatever ends it early, the next start makes a fresh overlay."""
        self._change(name, replacing=reason, fresh=True)

    def note_not_replacing(self, name: VmName) -> None:
        """The replacement is over, or given up."""
        self._change(name, replacing=None)

    def note_overlay(self, name: VmName, sha256: str | None, *, tpm: GuestTpm | None = None) -> None:
        """The VM's overlay is one above the image with this digest; "": there is none, so the next start makes one;
        None: it is about to be exchanged, and whatever ends that early, the next start makes one. `tpm`: the state of
        its TPM, which is new too."""
        self._change(name, base=sha256, fresh=sha256 is None or None, tpm=None if tpm is None else tpm.to_document())

    def note_ak(self, name: VmName, tpm: GuestTpm) -> bool:
        """The VM has shown the AK of its TPM for the first time; False where that is not its TPM any more, or has shown
        one before."""
        known = self.tpm(name)
        if known is None or known.mark != tpm.mark or known.ak_public:
            return False
        self._change(name, tpm=tpm.to_document())
        return True

    def note_start(self, name: VmName, boot: GuestBoot | None = None) -> None:
        """Write down what a VM is about to be started with, under the policy in force, and what it boots from, where
        that was digested."""
        policy = self.policy()
        disks = [asdict(grant) for grant in disk_grants(policy, name)]
        started_with = {"interfaces": list(policy.interfaces_of(name)), "disks": disks}
        self._change(name, **started_with, boot=None if boot is None else boot.to_document())

    def rename_types(self, renames: Renames) -> None:
        """Follow a version of the policy that gives types new names, in what was noted. Again changes nothing: no name
        that a version gives up is one of its own."""
        if not renames.types:
            return
        for name in self.noted():
            types = self.started_with(name)
            if types is not None:
                names = [renamed(each, renames) for each in types]
                self._change(name, interfaces=names)

    def _change(self, name: VmName, **changes: Any) -> None:
        """Of what was noted, in one write; None takes away."""
        document = {**self._document(name), **changes}
        self.documents.put(VM_DOCUMENTS, name, {key: value for key, value in document.items() if value is not None})

    def _document(self, name: VmName) -> dict[str, Any]:
        return self.documents.get(VM_DOCUMENTS, name) or {}


def _peers_in(document: Mapping[str, Any] | None) -> frozenset[HostName]:
    """Of one, in documents from before there could be several."""
    document = document or {"peers": ()}
    return frozenset(map(HostName, document["peers"] if "peers" in document else (document["peer"],)))


def _wanted_in(document: Mapping[str, Any]) -> bool:
    return bool(document.get("wanted"))


def _base_in(document: Mapping[str, Any]) -> str | None:
    """One that was never started has no overlay."""
    base = document.get("base", "" if document.get("interfaces") is None else None)
    return None if base is None else str(base)


def _image_state(base: str | None, pin: str) -> ImageState:
    """`base`: the digest that was noted; "" where there is no overlay, None where nobody knows."""
    if base == "":
        return ImageState.NONE
    if base is None:
        return ImageState.UNKNOWN
    return ImageState.CURRENT if base == pin else ImageState.OUTDATED


def _interfaces_in(document: Mapping[str, Any]) -> tuple[TypeName, ...] | None:
    types = document.get("interfaces")
    return None if types is None else tuple(map(TypeName, types))
