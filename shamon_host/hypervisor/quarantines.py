"""Quarantines brought about: a VM is taken off its bridges, suspended or destroyed, its memory and disk are kept. One
that is suspended for a peer (`VmManager.suspend`) is held to that here too.

What is wanted is written down first, and everything after that brings the VM to it, from wherever it is: so it does not
matter where a daemon died. It only narrows, hence no check of the monitor is asked; the end of a quarantine is a start.

Memory is written while others may go on: the VM stands still meanwhile, and off its bridges.
"""

import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from shamon_host.domain.errors import BackendFailed, BadInput, Refused, ShamonError
from shamon_host.domain.labels import VmName
from shamon_host.domain.quarantine import Grade
from shamon_host.hypervisor.answers import Answers
from shamon_host.hypervisor.durations import Laps, Measured, unmeasured
from shamon_host.hypervisor.ports import Audit, DomainState, Images
from shamon_host.hypervisor.told_once import ToldOnce
from shamon_host.hypervisor.vm_quarantine import Memory, Quarantine, moment
from shamon_host.hypervisor.vm_states import VmStates


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """What is to be kept of a VM for forensics."""

    memory: bool = False
    disk: bool = False

    @property
    def words(self) -> list[str]:
        return [name for name in ("memory", "disk") if getattr(self, name)]


NOTHING = Keep()


@dataclass(kw_only=True)
class Quarantines:
    """Of this host's VMs. Part of `vms.VmManager`, whose lock it shares."""

    states: VmStates
    images: Images
    audit: Audit
    answers: Answers
    wall_s: Callable[[], float]
    lock: threading.RLock
    measured: Measured = unmeasured
    new_mark: Callable[[], str] = lambda: secrets.token_hex(4)
    _writing: set[VmName] = field(default_factory=set, repr=False)
    """VMs whose memory is written now."""
    _told: ToldOnce = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._told = ToldOnce(audit=self.audit)

    def impose(
        self, name: VmName, reason: str, *, ports_down: Callable[[str], None], grade: Grade | None, keep: Keep
    ) -> None:
        """See `VmManager.quarantine`."""
        laps, imposed = Laps(), False
        try:
            with self.lock:
                wanted = self._wanted(name, reason, grade, keep)
                self.audit("vm.quarantine", name, {"reason": reason, "grade": wanted.grade, "keep": keep.words})
                self.states.note(name, wanted=False if wanted.cuts_off else None, quarantine=wanted)
                imposed = True
                if wanted.cuts_off:
                    self.states.leases.end(name)
                    self._cut_off(name, wanted, ports_down, laps)
                self._report(name, wanted, laps)
        finally:
            if imposed:  # also where a port could not be detached
                self.keep_memory(name)

    def enforce(self) -> tuple[VmName, ...]:
        """Bring every VM in quarantine, or suspended for a peer, to what it is to be, but for ports: whoever reconciles
        them takes them down. One with which that fails does not hold up the others, and the audit log says why. Returns
        those."""
        failed = []
        for status in self.states.statuses():
            if status.cut_off or status.suspended_for:
                try:
                    self.settle(status.name)
                except ShamonError as error:
                    self._told.failed("vm.quarantine-failed", status.name, error)
                    failed.append(status.name)
        self._told.over_but_for(failed)
        return tuple(failed)

    def settle(self, name: VmName) -> None:
        """Bring a VM to what its quarantine, and the peers that it is suspended for, ask for. Raises BackendFailed."""
        wanted, peers = self.states.quarantine(name), self.states.suspended_for(name)
        if wanted is not None and wanted.cuts_off:
            self._settle(name, wanted, "its quarantine demands it")
        if peers:
            self._suspend(name, f"it is suspended for {', '.join(sorted(peers))}")

    def keep_memory(self, name: VmName) -> None:
        """Write the memory of a VM to a file, if that was asked for and not done; it may take minutes.

        Raises BackendFailed where it cannot be; then the VM stands still until a quarantine is asked for again."""
        while True:
            with self.lock:
                wanted = self.states.quarantine(name)
                if wanted is None or wanted.memory is not Memory.ASKED or name in self._writing:
                    return
                path = self.images.kept_path(wanted.file(name, "memory"))
                self.audit("vm.keep", name, {"memory": path})
                self._suspend(name, "its memory is to be written")
                self._writing.add(name)
            failed = self._write(name, path)
            with self.lock:
                if self.states.quarantine(name) != wanted:
                    continue  # somebody has asked for something else meanwhile
                self._written(name, wanted, path, failed)
            if failed is not None:
                raise BackendFailed(
                    "the memory of the VM could not be kept; it is in quarantine all the same",
                    where=name,
                    found=str(failed),
                    remedy="A VM that is there stands still until a quarantine is asked for again, with it or without.",
                ) from failed
            return

    def require_kept(self, name: VmName) -> None:
        """Raises Refused while the memory of a VM is to be kept and is not: nobody may change it, or take it away."""
        if name in self._writing:
            raise Refused(
                "the memory of the VM is being written",
                where=name,
                remedy="Try again when it is kept; `shamon vms --json` says so.",
            )
        quarantine = self.states.quarantine(name)
        if quarantine is not None and quarantine.waits and self.states.find(name) is not None:
            raise Refused(
                "the memory of the VM is to be kept, and is not yet",
                where=name,
                found=quarantine.not_kept,
                remedy=f"To do without it, or to try again: `shamon vm quarantine {name} --reason TEXT`, without "
                "--keep-memory or with it.",
            )

    def settle_destroyed(self, name: VmName) -> None:
        """Of a VM whose quarantine is to destroy it nothing is left, however far that came before."""
        wanted = self.states.quarantine(name)
        if wanted is not None and wanted.grade is Grade.DESTROY:
            self._settle(name, wanted, "its quarantine demands it")

    def set_aside(self, name: VmName, wanted: Quarantine) -> Quarantine:
        """Move the overlay of a VM whose domain is gone to where things are kept, and note that."""
        file = wanted.file(name, "disk")
        self.audit("vm.keep", name, {"disk": self.images.kept_path(file)})
        path = self.images.set_aside(name, file)
        done = replace(wanted, disk=False, kept=(*wanted.kept, path) if path else wanted.kept)
        self.states.note(name, quarantine=done)
        return done

    def _wanted(self, name: VmName, reason: str, grade: Grade | None, keep: Keep) -> Quarantine:
        """What the VM's quarantine is from now on. Raises BadInput, Refused."""
        self.states.entry(name)
        before, least = self.states.quarantine(name), self.states.policy().quarantine_of(name)
        whose = "the policy asks for"
        if before is not None and least.is_weaker_than(before.grade):
            least, whose = before.grade, "it is in quarantine with"
        chosen = grade or least
        if chosen.is_weaker_than(least):
            raise Refused(
                f"a weaker quarantine than {whose}",
                where=name,
                expected=f"{least} or stronger",
                found=chosen,
                remedy="Only `shamon vm start`, which the monitor decides, or a replacement ends a quarantine.",
            )
        if keep.words and not chosen.cuts_off:
            raise BadInput(
                "a VM that is only noted goes on as it is, and nothing of it is kept",
                where=name,
                expected=f"{Grade.PORTS_DOWN} or stronger",
                found=chosen,
            )
        domain = self.states.find(name)
        runs = domain is not None and domain.state is DomainState.RUNNING
        return Quarantine(
            grade=chosen,
            reason=reason,
            since=moment(self.wall_s()),
            mark=self.new_mark(),
            memory=Memory.ASKED if keep.memory else Memory.NOT_ASKED,
            disk=keep.disk or (before is not None and before.disk),
            resumes=(runs and keep.memory) or (before is not None and before.resumes),
            kept=() if before is None else before.kept,
        )

    def _cut_off(self, name: VmName, wanted: Quarantine, ports_down: Callable[[str], None], laps: Laps) -> None:
        """The VM is suspended or destroyed also when a port cannot be detached; then that error is raised."""
        domain = self.states.find(name)
        try:
            for interface in domain.interfaces if domain is not None else ():
                ports_down(interface.device)
            laps.lap("ports down")
        finally:
            self._settle(name, wanted, "")
        if wanted.suspends:
            laps.lap("destroyed" if wanted.destroys else "suspended")

    def _settle(self, name: VmName, wanted: Quarantine, why: str) -> None:
        """Bring a VM to what its quarantine asks for. `why`: for the audit log, where nobody asked just now."""
        domain = self.states.find(name)
        if wanted.destroys or (wanted.grade is Grade.DESTROY and domain is None):
            if domain is not None and why:
                self.audit("vm.stop", name, {"reason": why})
            self.states.hypervisor.destroy(name)
            self._let_go_of_disk(name, wanted)
        elif domain is None:
            return
        elif wanted.suspends:
            self._suspend(name, why)
        elif wanted.resumes and domain.state is DomainState.PAUSED and self._may_go_on(name):
            self.answers.resume(name)
            self.states.note(name, quarantine=replace(wanted, resumes=False))

    def _may_go_on(self, name: VmName) -> bool:
        return name not in self._writing and not self.states.suspended_for(name)

    def _let_go_of_disk(self, name: VmName, wanted: Quarantine) -> None:
        """The domain is destroyed: its overlay goes, or is moved aside."""
        if wanted.disk:
            self.set_aside(name, wanted)
        elif self.images.overlay(name) is not None:
            self.audit("vm.discard-disk", name, {"reason": wanted.reason})
            self.images.discard(name)
        if self.states.overlay_of(name) != "":
            self.states.note_overlay(name, "")

    def _suspend(self, name: VmName, why: str) -> None:
        domain = self.states.find(name)
        if domain is not None and domain.state is DomainState.RUNNING:
            if why:
                self.audit("vm.suspend", name, {"reason": why})
            self.answers.suspend(name)

    def _write(self, name: VmName, path: str) -> ShamonError | None:
        """What kept the memory from being written."""
        try:
            self.states.hypervisor.dump_memory(name, path)
        except ShamonError as error:
            return error
        finally:
            with self.lock:
                self._writing.discard(name)
        return None

    def _written(self, name: VmName, wanted: Quarantine, path: str, failed: ShamonError | None) -> None:
        """Note what became of the memory, and go on to what was asked for."""
        if failed is None:
            wanted = replace(wanted, memory=Memory.KEPT, kept=(*wanted.kept, path))
            self.audit("vm.kept", name, {"memory": path})
        else:
            wanted = replace(wanted, memory=Memory.FAILED, not_kept=str(failed))
            self.audit("vm.not-kept", name, {"memory": str(failed)})
        self.states.note(name, quarantine=wanted)
        self._settle(name, wanted, "its memory is kept" if failed is None else "its memory could not be kept")

    def _report(self, name: VmName, wanted: Quarantine, laps: Laps) -> None:
        domain = self.states.find(name)
        state = domain.state.value if domain is not None else "absent"
        self.audit("vm.quarantined", name, {"grade": wanted.grade, "state": state, "ms": laps.parts_ms})
        for part, took_ms in laps.parts_ms.items():
            self.measured(f"quarantine: {part}", took_ms)
