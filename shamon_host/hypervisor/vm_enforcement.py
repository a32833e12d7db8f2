"""What runs on this host, held to the policy: why a domain must go, and its end. Part of `vms.VmManager`."""

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from shamon_host.domain.decision import Decision
from shamon_host.domain.disk_grants import disk_grants
from shamon_host.domain.errors import ShamonError
from shamon_host.domain.labels import VmName
from shamon_host.domain.policy import Policy
from shamon_host.hypervisor.attested_starts import AttestedStarts
from shamon_host.hypervisor.ports import Audit, BootFile, DomainBoot, DomainReport, DomainState, Images, disks_listed
from shamon_host.hypervisor.quarantines import Quarantines
from shamon_host.hypervisor.told_once import ToldOnce
from shamon_host.hypervisor.vm_disks import VmDisks
from shamon_host.hypervisor.vm_states import VmStates
from shamon_host.hypervisor.vm_versions import runs_otherwise


@dataclass(kw_only=True)
class VmEnforcement:
    """It only narrows: nothing is started, or let go on, here."""

    states: VmStates
    images: Images
    disks: VmDisks
    attested: AttestedStarts
    quarantines: Quarantines
    audit: Audit
    lock: threading.RLock
    decide: Callable[[Policy, VmName], Decision]
    """The monitor's answer on `vm.start` under a policy, beside what else runs."""
    resisting: frozenset[VmName] = field(default=frozenset(), init=False)
    """Domains that should be gone, or stand still, and do not, as of the last `enforce`."""
    _forbidden_still: set[VmName] = field(default_factory=set, init=False, repr=False)
    """What the policy does not permit and could not be destroyed."""
    _told: ToldOnce = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._told = ToldOnce(audit=self.audit)

    def enforce(self) -> tuple[VmName, ...]:
        """Destroy every VM that runs under another label than its own, with other disks, or on another host than its
        own (it may have been started by hand), and every domain that the policy does not know; bring what is in
        quarantine, or suspended for a peer, back to what that demands. One with which that fails does not hold up the
        others: it is in the audit log, once, and in `resisting`. Returns what was destroyed."""
        with self.lock:
            active = self.states.active()
            destroyed, failed = self._destroy_each(active, self._why_not_here)
            self._forbidden_still &= {report.name for report in active} - set(destroyed)
            self.resisting = frozenset({*failed, *self.quarantines.enforce()})
        return destroyed

    def _why_not_here(self, report: DomainReport) -> tuple[str, Mapping[str, Any]] | None:
        """Why a domain must go, as the kind and the detail of a record of the audit log."""
        name, policy = report.name, self.states.policy()
        entry = policy.vms.get(name)
        if entry is None:  # judged like any start: somebody started it past this program
            return "vm.stranger", self.decide(policy, name).as_detail()
        owner = policy.host_of(name)
        here = owner == self.states.host or self._stands_by(report)
        expected = self.states.context(name) if here else None
        if expected is None or report.context != expected:
            words = str(expected or f"to run on {owner}")
            return "vm.mislabelled", {"expected": words, "found": str(report.context)}
        if name in self._forbidden_still:
            decision = self._forbidden(policy, report, labels=True)
            if decision is not None:
                return "vm.forbidden", decision.as_detail()
            self._forbidden_still.discard(name)
        if report.state is DomainState.PAUSED and self._stands_still(name):
            return None  # it does nothing, and is kept as it is until it is started, replaced or stopped
        if self._lacks_tpm(report):
            return "vm.other-devices", self.attested.tpm_detail(report)
        boot = self._wanted_boot(name)
        if boot is not None and report.boot != boot:
            return "vm.other-boot", {"expected": asdict(boot), "found": asdict(report.boot)}
        return None if self.has_its_disks(report) else ("vm.other-disks", self.disks_detail(report))

    def _destroy_each(
        self, reports: Iterable[DomainReport], why: Callable[[DomainReport], tuple[str, Mapping[str, Any]] | None]
    ) -> tuple[tuple[VmName, ...], tuple[VmName, ...]]:
        """Destroy every domain for which `why` has a reason, each by itself; which are gone, and with which that
        failed."""
        destroyed, failed = [], []
        for report in reports:
            try:
                reason = why(report)
                if reason is not None:
                    kind, detail = reason
                    self._told(kind, report.name, detail)
                    self.states.hypervisor.destroy(report.name)
                    destroyed.append(report.name)
            except ShamonError as error:
                self._told.failed("vm.not-destroyed", report.name, error)
                failed.append(report.name)
        self._told.over_but_for(failed)
        return tuple(destroyed), tuple(failed)

    def stop_forbidden(self, before: Policy | None) -> tuple[VmName, ...]:
        """Destroy every VM of this host that the policy in force now does not permit, or not with the interfaces that
        it runs with. Returns their names. What cannot be destroyed does not hold up the rest: the audit log says so,
        and `enforce` tries again.

        `before`: the policy that was in force until now; then also what runs under another label than it would get.
        None at a start, where `enforce` follows: VMs that this host ever started, and those of its label map.
        """
        with self.lock:
            policy = self.states.policy()
            ours = {*self.states.label_map().vms, *self.states.noted()}
            if before is not None:
                ours.update(before.vms)

            def why(report: DomainReport) -> tuple[str, Mapping[str, Any]] | None:
                decision = (
                    None if self._stands_by(report) else self._forbidden(policy, report, labels=before is not None)
                )
                return None if decision is None else ("vm.forbidden", decision.as_detail())

            stopped, failed = self._destroy_each([each for each in self.states.active() if each.name in ours], why)
            self._forbidden_still = set(failed)
        return stopped

    def _stands_by(self, report: DomainReport) -> bool:
        """It is a VM of another host that stands still here, as it may: it waits for its memory, or has just left."""
        policy, name = self.states.policy(), report.name
        return (
            report.state is DomainState.PAUSED
            and name in self.states.standing_by()
            and name in policy.vms
            and policy.host_of(name) != self.states.host
            and self.states.host in policy.hosts_for(name)
        )

    def _stands_still(self, name: VmName) -> bool:
        quarantine = self.states.quarantine(name)
        return quarantine is not None and quarantine.suspends

    def _forbidden(self, policy: Policy, report: DomainReport, *, labels: bool) -> Decision | None:
        """Why a VM may not run here, or not with the interfaces (and, with `labels`, the label) that it has."""
        name = report.name
        decision = self.decide(policy, name)
        if not decision.permitted:
            return decision
        return runs_otherwise(
            name,
            interfaces=self.states.started_with(name),
            grants=self.states.started_disks(name),
            wanted_grants=disk_grants(policy, name),
            wanted_interfaces=policy.interfaces_of(name),
            context=report.context,
            wanted_context=self.states.context(name) if labels else None,
            lacks_tpm=self._lacks_tpm(report),
        )

    def _lacks_tpm(self, report: DomainReport) -> bool:
        """It is to be attested and has nothing for that. A MAC VM is replaced by whoever keeps it (`daemon.mac_vm`):
        its host has no links without it."""
        return not self.states.has_its_tpm(report) and not self.states.policy().is_mac_vm(report.name)

    def _wanted_boot(self, name: VmName) -> DomainBoot | None:
        """What a VM runs with that this program started from what its image pins, then; None for every other one."""
        booted = self.states.booted(name)
        policy = self.states.policy()
        if booted is None or policy.image_of(name).boot is None:
            return None
        kernel, initrd = (self.images.boot_path(name, kind) for kind in (BootFile.KERNEL, BootFile.INITRD))
        return DomainBoot(kernel=kernel, initrd=initrd, cmdline=booted.cmdline.strip())

    def has_its_disks(self, report: DomainReport) -> bool:
        own = self.images.overlay(report.name)
        return report.disk == own and report.disks == self.disks.of(report.name)

    def disks_detail(self, report: DomainReport) -> dict[str, str]:
        """The disks that it is to have, and that it has."""
        own = self.images.overlay(report.name) or ""
        return {
            "expected": disks_listed(own, self.disks.of(report.name)),
            "found": disks_listed(report.disk, report.disks),
        }
