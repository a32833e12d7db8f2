"""The life of this host's VMs: start, stop, suspend, replace; `quarantines` has what a quarantine does,
`vm_enforcement` what becomes of what runs and may not.

Each VM starts paused under the static label that the label map gives it; the label is read back from the running
process before a single instruction of the guest runs, and a mismatch destroys it (invariant 2). What may start is
decided by the reference monitor, whose answer is in the audit log before the hypervisor is asked (invariant 6).
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from shamon_host.attestation.guest_reference import GuestBoot
from shamon_host.domain import monitor
from shamon_host.domain.decision import Decision
from shamon_host.domain.errors import BackendFailed, NotTrusted, Refused, ShamonError
from shamon_host.domain.labels import FlaskContext, HostName, TypeName, VmName
from shamon_host.domain.policy import HypervisorKind, Policy, Renames, VmEntry
from shamon_host.domain.quarantine import Grade
from shamon_host.domain.results import TpmKind
from shamon_host.hypervisor.answers import Answers, Unanswered
from shamon_host.hypervisor.attested_starts import AttestedStarts, file_digest
from shamon_host.hypervisor.durations import Laps, Measured, unmeasured
from shamon_host.hypervisor.guest_tpms import GuestTpm
from shamon_host.hypervisor.ports import (
    Audit,
    BootFile,
    DomainReport,
    DomainState,
    Hypervisor,
    Images,
    VmInterface,
    VmSpec,
)
from shamon_host.hypervisor.quarantines import NOTHING, Keep, Quarantines
from shamon_host.hypervisor.vm_disks import VmDisks
from shamon_host.hypervisor.vm_enforcement import VmEnforcement
from shamon_host.hypervisor.vm_quarantine import Quarantine
from shamon_host.hypervisor.vm_spec import VmSettings, vm_spec
from shamon_host.hypervisor.vm_states import VmStates
from shamon_host.hypervisor.vm_versions import kept_by


@dataclass(kw_only=True)
class VmManager:
    """All VMs of this host. Synchronous; calls that change something, from any thread, wait for each other."""

    states: VmStates
    images: Images
    disks: VmDisks
    audit: Audit
    ensure_bridge: Callable[[TypeName], str]
    """Make the bridge of a type and return its name."""
    host_tpm: TpmKind
    """What this host is enrolled with."""
    successor: Callable[[], Policy | None]
    """A version of the policy that this host has agreed to and that is not in force yet."""
    admitted: Callable[[], bool]
    """Whether some peer has admitted this host in this boot."""
    detach_port: Callable[[str], None]
    """Take a tap off its bridge."""
    settings: Mapping[VmName, VmSettings] = field(default_factory=dict)
    require_enforced: Callable[[], None] = lambda: None
    """Raises NotTrusted while labels bind nobody, as the hypervisor enforces another policy than the one in force, or
    while a domain runs that the policy does not know."""
    moving: Callable[[VmName], str] = lambda _: ""
    """Why a VM must not be started now, as it is on its way from one host to another; empty where it is not."""
    wired: Callable[[VmName], tuple[VmInterface, ...]] = lambda _: ()
    """Interfaces that a VM has beside those of its label's types: a MAC VM's."""
    wall_s: Callable[[], float] = time.time
    measured: Measured = unmeasured
    digest: Callable[[str], str] = file_digest
    """Of a file, SHA-256 in hexadecimal. Raises BackendFailed."""
    attested: AttestedStarts = field(init=False)
    answers: Answers = field(init=False)
    quarantines: Quarantines = field(init=False)
    enforcement: VmEnforcement = field(init=False)
    _lock: threading.RLock = field(default_factory=threading.RLock, repr=False)

    def __post_init__(self) -> None:
        self.attested = AttestedStarts(
            states=self.states, audit=self.audit, detach_port=self.detach_port, digest=self.digest
        )
        self.answers = Answers(hypervisor=self.states.hypervisor, audit=self.audit, lock=self._lock)
        self.quarantines = Quarantines(
            states=self.states,
            images=self.images,
            audit=self.audit,
            answers=self.answers,
            wall_s=self.wall_s,
            lock=self._lock,
            measured=self.measured,
        )
        self.enforcement = VmEnforcement(
            states=self.states,
            images=self.images,
            disks=self.disks,
            attested=self.attested,
            quarantines=self.quarantines,
            audit=self.audit,
            lock=self._lock,
            decide=self._decide,
        )

    def start(self, name: VmName, *, release: bool = True, back: HostName | None = None) -> DomainReport:
        """Start a VM, resume it when it is suspended, release it when it is in quarantine.

        Without `release`, a quarantine that is a note alone stays, and any other one is no start; a VM that is
        suspended for another peer than `back` is there afterwards, and stands still. With it, what was there when this
        was asked for ends, and nothing else. Raises Refused (the monitor, or that, or memory that is still to be kept),
        NotTrusted (image or label), BackendFailed.
        """
        seen, seen_for = self.states.quarantine(name), self.states.suspended_for(name)
        self.disks.read_pinned(name)
        with self._lock:
            entry = self.states.entry(name)
            stays_for = self.states.suspended_for(name) - (seen_for if release else {back})
            self._require_not_moving(name)
            self.quarantines.require_kept(name)
            quarantine = self.states.quarantine(name)
            if quarantine is not None and quarantine.cuts_off and not release:
                raise Refused("the VM is in quarantine", where=name, found=quarantine.reason)
            if quarantine is not None and release and not quarantine.is_same_as(seen):
                raise Refused(
                    "the VM was put in quarantine while it was to be started",
                    where=name,
                    found=quarantine.reason,
                    remedy="Look at it; `shamon vm start` again releases it.",
                )
            self._permit(entry)
            stays = None if release else quarantine
            if quarantine is not None and release:
                self.audit("vm.release", name, {"quarantined": quarantine.reason, "grade": quarantine.grade})
                self.quarantines.settle_destroyed(name)
            if release and seen_for:
                self.audit("vm.release", name, {"suspended_for": sorted(seen_for)})
            running = self.states.find(name)
            if running is None:
                fresh = self.states.needs_fresh(name)
                self._start_new(entry, fresh=fresh, quarantine=stays, stands_still=bool(stays_for))
                self.states.note_suspended_for(name, stays_for)
                return self._report(name)
            self._verify(running)
            self.disks.prepare(name)
            self._require_disks(running)
            self.attested.require_tpm(running)
            released = quarantine is not None and release
            if released or running.state is DomainState.PAUSED:
                self.attested.begin_unless_holds(name, anew=released)
            self.attested.ports_down(running)
            unanswered = None if stays_for else self._resumed(name)
            self.states.note(name, wanted=True, quarantine=stays)
            self.states.note_suspended_for(name, stays_for)
            if unanswered is not None:
                raise unanswered
            return self._report(name)

    def _resumed(self, name: VmName) -> Unanswered | None:
        """The error of a machine that has not answered: it may run on by and by, so it counts as one that is to. Raises
        BackendFailed."""
        try:
            self.answers.resume(name)
        except Unanswered as error:
            return error
        return None

    def start_incoming(
        self, name: VmName, start: Callable[[VmSpec], DomainReport], *, permit: Callable[[], None]
    ) -> VmSpec:
        """Have a VM of another host started to wait for its memory, on a fresh overlay, its label read back; return
        what it was started with. `permit`: raises Refused where it may not come beside what runs here now. Raises
        NotTrusted (image, what it is booted from, or label), Refused, BackendFailed; then nothing of it is left."""
        with self._lock:
            self.require_enforced()
            permit()
            policy = self.states.policy()
            entry = policy.vms[name]
            self._hypervisor.destroy(name)
            self.states.note_incoming(name)
            try:
                settings, boot = self._booted_from(entry)
                spec = vm_spec(
                    policy,
                    self.states.label_map(),
                    name,
                    disk=self.images.fresh_overlay(name, entry.image, policy.images[entry.image].sha256),
                    disks=(),
                    settings=settings,
                    bridge_of=self.ensure_bridge,
                )
                self.states.note_start(name, boot)
                report = start(spec)
                self._verify(report)
                self._require_disks(report)
            except ShamonError:
                self.discard_incoming(name)
                raise
            return spec

    def discard_incoming(self, name: VmName) -> None:
        """What was started to wait here goes, with its disk. Raises BackendFailed."""
        with self._lock:
            self._hypervisor.destroy(name)
            self.images.discard(name)

    def start_again(self, name: VmName) -> DomainReport | None:
        """Start a VM that is to run and does not, or resume one whose start was cut short; None where it is not to run.
        Raises as `start` does."""
        with self._lock:
            if name not in self.states.wanted():
                return None
            domain = self.states.find(name)
            runs = domain is not None and domain.state is DomainState.RUNNING
            return domain if runs else self.start(name, release=False)

    def stop(self, name: VmName) -> None:
        """Destroy the domain; its overlay stays, and so does its quarantine. Raises Refused while its memory is to be
        kept, and BackendFailed."""
        with self._lock:
            self.states.entry(name)
            self.quarantines.require_kept(name)
            self.audit("vm.stop", name, {})
            self.states.note(name, wanted=False, quarantine=self.states.quarantine(name))
            self._hypervisor.destroy(name)
            self.states.leases.forget(name)

    def suspend(self, name: VmName, reason: str, *, peer: HostName | None = None) -> None:
        """Pause the domain; it is still wanted, and `start` resumes it. `peer`: the one for which it stands still,
        until `resume_for`, or somebody starts or replaces it, whatever pauses or resumes it meanwhile. Raises
        BackendFailed, and BadInput for a VM of another host that is to stand still for a peer."""
        with self._lock:
            if peer is not None:
                self.states.entry(name)
            self.audit("vm.suspend", name, {"reason": reason})
            if peer is not None:
                self.states.note_suspended_for(name, self.states.suspended_for(name) | {peer})
            if self.states.find(name) is not None:
                self.answers.suspend(name)

    def resume_for(self, name: VmName, peer: HostName) -> None:
        """This peer is back: a VM that stood still for no other one runs again, as by `start`, unless somebody has
        stopped it or put it in quarantine meanwhile. Raises as that does; then it still stands still for the peer."""
        with self._lock:
            peers = self.states.suspended_for(name)
            domain = self.states.find(name) if name in self.states.wanted() else None
            if peers == {peer} and domain is not None and domain.state is DomainState.PAUSED:
                self.start(name, release=False, back=peer)
            self.states.note_suspended_for(name, self.states.suspended_for(name) - {peer})

    def hold(self, name: VmName) -> None:
        """A VM that is to stand still, or to be gone, is, whatever let it go on. Raises BackendFailed."""
        with self._lock:
            self.quarantines.settle(name)

    def quarantine(
        self,
        name: VmName,
        reason: str,
        *,
        ports_down: Callable[[str], None],
        grade: Grade | None = None,
        keep: Keep = NOTHING,
    ) -> None:
        """Put a VM in quarantine, with this grade or as the policy says.

        `ports_down` detaches one tap from its bridge. Whatever else a grade does is done also when a port cannot be
        detached; then that error is raised. Raises Refused for a grade weaker than that of the policy, or than the one
        that the VM is in quarantine with; BadInput; BackendFailed, also when the memory could not be kept.
        """
        self.quarantines.impose(name, reason, ports_down=ports_down, grade=grade, keep=keep)

    def replace(self, name: VmName, reason: str, *, in_service: bool = False) -> DomainReport:
        """Destroy the VM and start a clean one: image verified, fresh overlay, label read back. `in_service`: only one
        that runs, or should, and is neither suspended nor in quarantine; Refused for any other.

        It is destroyed also when no clean one may be started. Raises as `start` does, and Refused where somebody asks
        for something else before the clean one starts. A replacement that is cut short is finished by `finish`, or by
        whatever starts the VM next.
        """
        laps = Laps()
        with self._lock:
            self.states.entry(name)
            self._require_not_moving(name)
            self.quarantines.require_kept(name)
            if in_service:
                self._require_in_service(name)
            self.audit("vm.replace", name, {"reason": reason})
            ends = self.states.quarantine(name)
            self.states.note_replacing(name, reason)
            self._hypervisor.destroy(name)
            laps.lap("destroyed")
        self.disks.read_pinned(name)
        with self._lock:
            self._require_replacing(name, reason)
            try:
                entry = self.states.entry(name)
                self._permit(entry)
                laps.lap("permitted")
                now = self.states.quarantine(name)
                stays = None if now is None or now.is_same_as(ends) else now  # a note that was made meanwhile
                report = self._start_new(entry, fresh=True, quarantine=stays, laps=laps)
                self.states.note_suspended_for(name, frozenset())
            except ShamonError:
                self.states.note_not_replacing(name)
                raise
        self.audit("vm.replaced", name, {"image": self.states.overlay_of(name), "ms": laps.parts_ms})
        for part, took_ms in {**laps.parts_ms, "connected": laps.total_ms}.items():
            self.measured(f"replacement: {part}", took_ms)
        return report

    def _require_in_service(self, name: VmName) -> None:
        """A replacement would start it, or end what somebody has put it in. Raises Refused."""
        quarantine, domain = self.states.quarantine(name), self.states.find(name)
        why = ""
        if quarantine is not None:
            why = f"it is in quarantine: {quarantine.reason}"
        elif self.states.suspended_for(name) or (domain is not None and domain.state is DomainState.PAUSED):
            why = "it is suspended"
        elif domain is None and name not in self.states.wanted():
            why = "it does not run"
        if why:
            raise Refused("the VM is left as it is", where=name, expected="one that runs, or should", found=why)

    def _require_replacing(self, name: VmName, reason: str) -> None:
        """Raises Refused where somebody has asked for something else since this replacement began."""
        self.quarantines.require_kept(name)
        if self.states.replacing(name) != reason:
            quarantine = self.states.quarantine(name)
            raise Refused(
                "something else was asked for while the VM was being replaced, and that counts",
                where=name,
                found=f"in quarantine: {quarantine.reason}" if quarantine else "",
                remedy="See `shamon vms` and the audit log; whatever starts it next starts a clean one.",
            )

    def finish(self) -> None:
        """At a start of the daemon: finish replacements that an earlier run of it began, but for the MAC VM's, which
        whoever keeps it finishes; and write the memory that it was to keep. What fails does not hold up the rest, and
        the audit log says why."""
        for status in self.states.statuses():
            try:
                if status.replacing and not self.states.policy().is_mac_vm(status.name):
                    self.replace(status.name, status.replacing)
                self.quarantines.keep_memory(status.name)
            except ShamonError as error:
                self.audit("vm.not-restored", status.name, {"reason": str(error)})

    def replace_at_start(self, reason: str) -> None:
        """Whatever starts a VM that should run, before `restore` replaces it, starts a clean one."""
        with self._lock:
            for name in self.states.wanted():
                if not self.states.policy().is_mac_vm(name) and not self.moving(name):
                    self.states.note_replacing(name, reason)

    def restore(self, *, replace: bool, reason: str, missing_only: bool = False) -> tuple[VmName, ...]:
        """After a boot: start every VM that should run, from the clean image if `replace`; not the MAC VM, which runs
        before them. With `missing_only` those that run already are left alone. One that cannot be started (the policy
        no longer allows it, its image is not the pinned one) does not hold up the others, and the audit log says why.
        Returns what was started."""
        started = []
        with self._lock:
            for status in self.states.statuses():
                if not status.wanted or (missing_only and status.runs) or self.states.policy().is_mac_vm(status.name):
                    continue
                try:
                    if replace or status.replacing:
                        self.replace(status.name, reason if replace else status.replacing)
                    else:
                        self.start(status.name, release=False)
                except ShamonError as error:
                    self.audit("vm.not-restored", status.name, {"reason": str(error)})
                    continue
                started.append(status.name)
        return tuple(started)

    def enforce_labels(self) -> tuple[VmName, ...]:
        """See `VmEnforcement.enforce`."""
        return self.enforcement.enforce()

    def stop_forbidden(self, before: Policy | None = None) -> tuple[VmName, ...]:
        """See `VmEnforcement.stop_forbidden`."""
        return self.enforcement.stop_forbidden(before)

    @property
    def resisting(self) -> frozenset[VmName]:
        """Domains that should be gone, or stand still, and do not, as of the last `enforce_labels`."""
        return self.enforcement.resisting

    def note_ak(self, name: VmName, tpm: GuestTpm) -> bool:
        """See `VmStates.note_ak`; what else is noted of the VM meanwhile, a quarantine for one, stays."""
        with self._lock:
            return self.states.note_ak(name, tpm)

    def rename_types(self, renames: Renames) -> None:
        """Follow a version of the policy that gives types new names, in what was noted of VMs."""
        with self._lock:
            self.states.rename_types(renames)

    def adopt_disk(self, name: str) -> None:
        """Let the file that lies at its path be a disk of VMs of this host, though another one was. Raises BadInput,
        and Refused while one of them runs."""
        with self._lock:
            users = {vm for vm, entry in self.states.policy().vms.items() if name in entry.resources}
            running = sorted(users.intersection(report.name for report in self.states.active()))
            if running:
                raise Refused(
                    "VMs run with the file that was this disk",
                    where=name,
                    found=", ".join(running),
                    remedy="Stop them first.",
                )
            self.disks.adopt(name)

    def withdraw_disks(self) -> None:
        """After a change of the policy, and at a start: files that are no disks any more lose their labels."""
        with self._lock:
            self.disks.withdraw()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Nothing starts or stops meanwhile, but by this thread."""
        with self._lock:
            yield

    def _start_new(
        self,
        entry: VmEntry,
        *,
        fresh: bool,
        quarantine: Quarantine | None = None,
        laps: Laps | None = None,
        stands_still: bool = False,
    ) -> DomainReport:
        """`quarantine`: the one that it is in from now on, a note alone. `stands_still`: it is not to run yet."""
        name, laps = entry.name, laps or Laps()
        overlay = self.images.overlay(name)
        if overlay is None and not fresh:
            self._require_never_had_disk(name)
        fresh = fresh or overlay is None
        if not fresh:
            self.attested.require_known_tpm(name)
        self._hypervisor.destroy(name)  # what is left of one that ended
        self.attested.begin(name, fresh=fresh)
        if fresh or overlay is None:
            overlay = self._fresh_overlay(entry, laps)
        settings, pinned = self._booted_from(entry)
        boot = pinned or self.attested.boot(name, settings)
        disks = self.disks.prepare(name)
        spec = vm_spec(
            self.states.policy(),
            self.states.label_map(),
            name,
            disk=overlay,
            disks=disks,
            settings=settings,
            bridge_of=self.ensure_bridge,
            wired=self.wired(name),
        )
        self.states.note_start(name, boot)
        report = self._hypervisor.start_paused(spec)
        laps.lap("started, paused")
        try:
            self._verify(report)
            self._require_disks(report)
            self.attested.require_tpm(report)
            self.attested.ports_down(report)
            laps.lap("label read back")
            self.states.note(name, wanted=True, quarantine=quarantine)
            if not stands_still:
                self._hypervisor.resume(name)
        except ShamonError:
            self._hypervisor.destroy(name)
            raise
        laps.lap("resumed")
        self.states.note_not_replacing(name)
        return self._report(name)

    def _require_never_had_disk(self, name: VmName) -> None:
        """A VM whose disk somebody took away does not start clean without a word. Raises BackendFailed."""
        if self.states.overlay_of(name) != "":
            raise BackendFailed(
                "the disk of the VM is gone",
                where=name,
                remedy=f"Put it back, or let it start with a clean one: `shamon vm replace {name}`.",
            )

    def _booted_from(self, entry: VmEntry) -> tuple[VmSettings, GuestBoot | None]:
        """Kernel, initrd and command line, copied and compared with the policy's pins where it has any. Raises
        NotTrusted, BackendFailed."""
        settings = self.settings.get(entry.name, VmSettings())
        pins = self.states.policy().images[entry.image].boot
        if pins is None:
            return settings, None
        if settings.cmdline != pins.cmdline:
            raise NotTrusted(
                "the VM would be booted with another command line than the pinned one",
                where=entry.name,
                expected=pins.cmdline,
                found=settings.cmdline,
                remedy="Correct cmdline of the VM in the host's configuration.",
            )
        pinned = replace(
            settings,
            kernel=self.images.boot_file(entry.name, BootFile.KERNEL, settings.kernel, pins.kernel_sha256),
            initrd=self.images.boot_file(entry.name, BootFile.INITRD, settings.initrd, pins.initrd_sha256),
        )
        return pinned, GuestBoot(kernel=pins.kernel_sha256, initrd=pins.initrd_sha256, cmdline=pins.cmdline)

    def _require_not_moving(self, name: VmName) -> None:
        why = self.moving(name)
        if why:
            raise Refused("the VM is on its way from one host to another", where=name, found=why)

    def _fresh_overlay(self, entry: VmEntry, laps: Laps) -> str:
        """A new overlay above the pinned image, and a new TPM; a disk that is kept for forensics is moved aside."""
        name, pin = entry.name, self.states.policy().images[entry.image]
        quarantine = self.states.quarantine(name)
        if quarantine is not None and quarantine.disk:
            self.quarantines.set_aside(name, quarantine)
        self.states.note_overlay(name, None)
        try:
            overlay = self.images.fresh_overlay(name, entry.image, pin.sha256)
        except ShamonError:
            if self.images.overlay(name) is None:
                self.states.note_overlay(name, "")
            raise
        self.states.note_overlay(name, pin.sha256, tpm=self.attested.new_tpm(name))
        laps.lap("overlay made")
        return overlay

    def _permit(self, entry: VmEntry) -> None:
        self.require_enforced()
        policy = self.states.policy()
        start, *to_come = self.start_decisions(entry.name)
        attached = [monitor.vm_attach(policy, entry.name, name) for name in policy.interfaces_of(entry.name)]
        for decision in (start, *attached, *to_come):
            self.audit(decision.check, entry.name, decision.as_detail())
            decision.enforce()

    def start_decisions(self, name: VmName) -> list[Decision]:
        """What the monitor says of a start now: first under the policy in force, then under a version to come, to which
        this host has agreed; what runs is permitted in it, and stays so until it counts. Not yet in the audit log."""
        policy, successor = self.states.policy(), self.successor()
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
            for report in self.states.active()
            if report.name in policy.vms and report.name != name
        }
        return monitor.vm_start(
            policy, name, host=self.states.host, running=running, host_tpm=self.host_tpm, admitted=self.admitted()
        )

    def _verify(self, report: DomainReport) -> None:
        """Compare the label that was read back with the one that the label map gives; destroy on a mismatch.

        A label that nobody enforces counts for nothing. Raises NotTrusted.
        """
        name = report.name
        wanted = self.states.context(name)
        on_xen = isinstance(wanted, FlaskContext)
        mac = "FLASK" if on_xen else "SELinux"
        decision = monitor.label_vm(self.states.policy(), name, wanted=wanted, found=report.context)
        self.audit(decision.check, name, decision.as_detail())
        if not decision.permitted:
            self._hypervisor.destroy(name)
            raise NotTrusted(
                "the VM does not run under its label, and was destroyed before it ran",
                where=name,
                expected=str(wanted),
                found=str(report.context or "no label"),
                remedy="FLASK must be enforcing, with the policy of this host loaded into Xen: see `shamon status`."
                if on_xen
                else "SELinux must be enforcing, with the policy modules of this program and of libvirt loaded.",
            )
        if not report.enforced:
            raise NotTrusted(
                "the label of the VM binds nobody",
                where=name,
                expected=f"{mac} enforcing",
                found="permissive",
                remedy=f"Boot this host again with {mac} enforcing; its peers refuse it until then.",
            )

    def _require_disks(self, report: DomainReport) -> None:
        """Destroy a domain that has other disks than its own. Raises NotTrusted."""
        if not self.enforcement.has_its_disks(report):
            detail = self.enforcement.disks_detail(report)
            self.audit("vm.other-disks", report.name, detail)
            self._hypervisor.destroy(report.name)
            raise NotTrusted(
                "the VM has other disks than those that it was given, and was destroyed before it ran",
                where=report.name,
                remedy="Find out who attached or took away a disk; then start it again.",
                **detail,
            )

    def _report(self, name: VmName) -> DomainReport:
        report = self.states.find(name)
        if report is None:
            on_xen = self.states.policy().hypervisor_of(self.states.host) is HypervisorKind.XEN
            logs = "/var/log/libvirt/libxl and /var/log/xen" if on_xen else "/var/log/libvirt/qemu"
            raise BackendFailed("the VM ended right after it was started", where=name, remedy=f"See its log in {logs}.")
        return report

    @property
    def _hypervisor(self) -> Hypervisor:
        return self.states.hypervisor
