"""This host by itself, as it is without any peer: its boot, the policy in force here, its VMs and its links."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from shamon_host.attestation.tpm_public import TpmPublic
from shamon_host.daemon.audit_log import AuditLog
from shamon_host.daemon.boot_session import BootSession
from shamon_host.daemon.enforced_policy import EnforcedPolicy
from shamon_host.daemon.hypervisor_policy import HypervisorPolicy, require_own_hypervisor
from shamon_host.daemon.link_reconciler import LinkReconciler
from shamon_host.daemon.mac_vm import WIRES, MacVm, require_own_profile
from shamon_host.daemon.policy_versions import PolicyVersions
from shamon_host.daemon.ports import Backends
from shamon_host.daemon.store import Store
from shamon_host.daemon.suspension import was_cut_off
from shamon_host.daemon.vm_owners import VmOwners
from shamon_host.domain.errors import BackendFailed, NotTrusted, ShamonError
from shamon_host.domain.labels import HostName, VmName
from shamon_host.domain.policy import HypervisorKind, Policy
from shamon_host.hypervisor.durations import Measured
from shamon_host.hypervisor.vm_disks import VmDisks
from shamon_host.hypervisor.vm_leases import VmLeases
from shamon_host.hypervisor.vm_spec import VmSettings
from shamon_host.hypervisor.vm_states import VmStates
from shamon_host.hypervisor.vms import VmManager
from shamon_host.links.manager import LinkManager
from shamon_host.links.sa_limits import RekeyAfter
from shamon_host.peer.enrolment import PeerRegistry


@dataclass(kw_only=True)
class OwnHost:
    """One for each daemon."""

    name: HostName
    policy_file: Policy
    policy_envelope: bytes
    registry: PeerRegistry
    store: Store
    audit: AuditLog
    backends: Backends
    vm_settings: Mapping[VmName, VmSettings]
    measured: Measured
    moving: Callable[[VmName], str]
    """Why a VM must not be started now, as it is on its way from one host to another; empty where it is not."""
    standing_by: Callable[[], frozenset[VmName]]
    """VMs of other hosts whose domains stand still here (`VmStates.standing_by`)."""
    session: BootSession = field(init=False)
    owners: VmOwners = field(init=False)
    enforced: EnforcedPolicy = field(init=False)
    links: LinkManager = field(init=False)
    xen: HypervisorPolicy | None = field(init=False)
    """The MAC policy of the hypervisor; None where that is QEMU, whose VMs the kernel's SELinux keeps apart."""
    mac_vm: MacVm | None = field(init=False)
    """What holds its links; None where the host itself does."""
    vms: VmManager = field(init=False)
    reconciler: LinkReconciler = field(init=False)

    def __post_init__(self) -> None:
        name, backends = self.name, self.backends
        self.session = session = BootSession(store=self.store, boot_id=backends.boot_id)
        self.owners = VmOwners(store=self.store, registry=self.registry)
        self.enforced = enforced = EnforcedPolicy(
            host=name,
            file=self.policy_file,
            file_envelope=self.policy_envelope,
            versions=PolicyVersions(self.store),
            audit=self.audit,
            clock=backends.clock,
            tpm=backends.tpm,
            moved=self.owners.moved,
        )
        self.links = LinkManager(
            host=name,
            address=enforced.policy.hosts[name].address,
            kernel=backends.kernel,
            documents=self.store,
            label_map=lambda: enforced.label_map,
            audit=self.audit.append,
            boottime_s=backends.clock.boottime_s,
            boot_id=backends.boot_id,
            rekey_after=self._rekey_after,
            cut_off=lambda peer: was_cut_off(self.audit, peer),
        )
        self.xen = None
        if backends.flask is not None:
            self.xen = HypervisorPolicy(
                host=name,
                flask=backends.flask,
                policy=lambda: enforced.policy,
                kept=enforced.versions.policy,
                documents=self.store,
                audit=self.audit.append,
                clock=backends.clock,
                boot_id=backends.boot_id,
            )
        self.mac_vm = None
        if backends.mac_vm is not None:
            self.mac_vm = MacVm(
                host=name,
                backends=backends.mac_vm,
                policy=lambda: enforced.policy,
                label_map=lambda: enforced.label_map,
                audit=self.audit,
            )
            backends.mac_vm.remote.setup = self.mac_vm.setup
            backends.mac_vm.kernel.beside = self._wrong_beside_links
            backends.mac_vm.kernel.apart = self._mac_vm_is_apart
        self.vms = VmManager(
            states=VmStates(
                host=name,
                hypervisor=backends.hypervisor,
                documents=self.store,
                policy=lambda: enforced.policy,
                label_map=lambda: enforced.label_map,
                leases=VmLeases(documents=self.store, boottime_s=backends.clock.boottime_s, boot_id=backends.boot_id),
                standing_by=self.standing_by,
            ),
            images=backends.images,
            disks=VmDisks(
                host=name,
                disks=backends.disks,
                documents=self.store,
                audit=self.audit.append,
                policy=lambda: enforced.policy,
                label_map=lambda: enforced.label_map,
            ),
            audit=self.audit.append,
            successor=lambda: enforced.placed(enforced.successor) if enforced.successor else None,
            ensure_bridge=self.links.ensure_bridge,
            detach_port=self.detach_port,
            host_tpm=self.registry.enrolled(name).tpm,
            admitted=lambda: session.admitted,
            settings=self.vm_settings,
            require_enforced=self._require_enforced,
            moving=self.moving,
            wired=self.mac_vm.interfaces if self.mac_vm is not None else lambda _: (),
            wall_s=backends.clock.wall_s,
            measured=self.measured,
        )
        self.reconciler = LinkReconciler(
            enforced=enforced,
            clock=backends.clock,
            links=self.links,
            vms=self.vms.states,
            read_host=backends.mac_vm.kernel.read_host if backends.mac_vm is not None else None,
        )

    async def start(self) -> None:
        """Bring kernel and VMs to what the policy allows; no VM is started yet. Raises ShamonError."""
        blocking = self.backends.blocking
        await blocking(self._require_own_tpm)
        self._require_own_hypervisor()
        await blocking(self.enforced.install)
        config = self.backends.mac_vm.config if self.backends.mac_vm is not None else None
        require_own_profile(self.enforced.policy, self.name, config)
        self.session.take_up()
        # An earlier run may have ended between a change of the policy and what follows from it.
        await blocking(lambda: self.vms.rename_types(self.enforced.policy.renames))
        await blocking(self._stop_forbidden)
        if self.xen is not None:
            # Before labels are read: under another policy they are not what they were given as.
            await blocking(self.xen.bring_about)
        await blocking(lambda: self._or_later("host.domains-unreadable", self._enforce_labels))
        await blocking(self.vms.withdraw_disks)
        await blocking(lambda: self._or_later("links.not-reconciled", self._reconcile))

    def _stop_forbidden(self) -> None:
        try:
            self.vms.stop_forbidden()
        except BackendFailed:
            if self.xen is None:
                raise
            # Another policy may forbid to end domains: `_enforce_labels` tries it again under this host's own.

    def _enforce_labels(self) -> None:
        if self.xen is not None:
            self.vms.stop_forbidden()
        self.vms.enforce_labels()

    def _reconcile(self) -> None:
        """Without its MAC VM this host has no links and gives no VM a port, but the daemon starts, says why, and brings
        it about when it is ready itself (`watchers`)."""
        if self.mac_vm is None:
            self.reconciler.reconcile()
            return
        try:
            self.reconciler.narrow()
            self.mac_vm.keep_wire()
            self.reconciler.reconcile()
        except ShamonError as error:
            self.audit.append("links.not-reconciled", self.name, {"reason": str(error)})

    def bring_mac_vm_about(self) -> bool:
        """Without it this host has no links, and no VM of its gets a port. True where it was started now. Raises
        ShamonError."""
        return self.mac_vm is not None and self.mac_vm.bring_about(self.vms)

    def _wrong_beside_links(self) -> tuple[str, ...]:
        return self.mac_vm.wrong if self.mac_vm is not None else ()

    def _mac_vm_is_apart(self) -> bool:
        return self.mac_vm is not None and bool(self.mac_vm.held_apart(self.vms.states))

    def replace(self, vm: VmName, reason: str, *, in_service: bool = False) -> None:
        """Start a clean VM in the place of one of this host. Raises as `VmManager.replace`."""
        if self.mac_vm is not None and vm == self.mac_vm.name:
            self.mac_vm.replace(self.vms, reason, in_service=in_service)
        else:
            self.vms.replace(vm, reason, in_service=in_service)

    def detach_port(self, device: str) -> None:
        """Take a tap of a VM of this host out of its bridge. A MAC VM that is cut off stays on the network and the
        control wire: its peers hear through it why. Raises BackendFailed."""
        if device not in WIRES:
            self.links.detach_port(device)

    def _or_later(self, kind: str, call: Callable[[], object]) -> None:
        """Where Xen does not enforce the policy, it may not say what runs either, or let nobody end it: then no VM
        starts, but the daemon does, says why, and tries again (`watchers`)."""
        try:
            call()
        except BackendFailed as error:
            if self.xen is None or not self.xen.wrong:
                raise
            self.audit.append(kind, self.name, {"reason": str(error)})

    def _require_own_tpm(self) -> None:
        """Without TPM and log this host has nothing to prove itself with. Raises BackendFailed, NotTrusted."""
        enrolled, found = self.registry.enrolled(self.name), self.backends.tpm.ak_public()
        if found != enrolled.ak_public:
            raise NotTrusted(
                "this host's TPM has another Attestation Key than the enrolled one",
                where=self.name,
                expected=f"AK {enrolled.ak_name.hex()}",
                found=f"AK {TpmPublic.parse(found).name.hex()}",
                remedy="Enrol this host again, on every host, if its TPM was changed or cleared.",
            )
        self.backends.logs.measurement_count()

    def _require_own_hypervisor(self) -> None:
        found = HypervisorKind.QEMU if self.xen is None else HypervisorKind.XEN
        require_own_hypervisor(self.enforced.policy, self.name, found)

    def _require_enforced(self) -> None:
        self._require_own_hypervisor()
        if self.xen is not None:
            self.xen.require()
        self._require_no_stranger()

    def _require_no_stranger(self) -> None:
        """What runs beside a domain that the policy does not know, nobody has decided about: its types may be in
        conflict with those of a VM, and so may what it holds of this host. Raises NotTrusted."""
        known = self.enforced.policy.vms
        strangers = sorted(report.name for report in self.vms.states.active() if report.name not in known)
        if strangers:
            raise NotTrusted(
                "a domain runs that the policy does not know: no VM starts beside it",
                where=strangers[0],
                expected="it is destroyed when it is seen",
                found=f"{len(strangers)} of them: {', '.join(strangers[:4])}",
                remedy="Destroy it by hand; the audit log says what kept this host from doing it.",
            )

    def _rekey_after(self) -> RekeyAfter:
        intervals = self.enforced.policy.intervals
        return RekeyAfter(bytes=intervals.rekey_bytes, packets=intervals.rekey_packets)
