"""VMs attested by their host: each is asked in time, its answer is appraised, and what follows is done.

A VM that passes gets a lease, by which its ports are up; one that fails goes into quarantine, and is replaced where the
policy says so. What an answer means for the lease is decided in `domain.guest_leases`, and written down before anything
follows from it; so whatever is left undone by a daemon that died, the next one finds.

What keeps this host from judging (no Reference Values, no boot digested) counts against no VM: its ports go down with
its lease, or stay down, and that is all.
"""

import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from shamon_host.attestation.guest_appraisal import GuestResult, appraise_guest
from shamon_host.attestation.guest_messages import NONCE_BYTES, EvidenceRequest, read_answer
from shamon_host.attestation.result_document import claim_document, time_text
from shamon_host.daemon.audit_log import AuditLog
from shamon_host.daemon.background import Background
from shamon_host.daemon.enforced_policy import EnforcedPolicy
from shamon_host.daemon.guest_memory import GuestMemory
from shamon_host.daemon.guest_references import GuestReferenceSource
from shamon_host.daemon.link_reconciler import LinkReconciler
from shamon_host.daemon.ports import Blocking, Clock, Guests
from shamon_host.daemon.suspension import describe
from shamon_host.domain.errors import BadInput, ShamonError
from shamon_host.domain.guest_demand import GuestDemand
from shamon_host.domain.guest_leases import Answer, GuestLease
from shamon_host.domain.labels import HostName, VmName
from shamon_host.domain.results import Claim
from shamon_host.hypervisor.durations import Laps, Measured
from shamon_host.hypervisor.guest_tpms import GuestTpm
from shamon_host.hypervisor.ports import DomainState
from shamon_host.hypervisor.told_once import ToldOnce
from shamon_host.hypervisor.vms import VmManager

TICK_S = 1.0
"""How often it is looked which VM is to be asked; a lease that ended is seen at the next look."""
_AGAIN_S = 10.0
"""Between two tries to quarantine or replace a VM."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestVerdict:
    """What came of asking a VM last."""

    at_s: float
    """Wall clock."""
    answer: Answer
    reason: str
    claims: tuple[Claim, ...] = ()

    def to_document(self) -> dict[str, Any]:
        return {
            "at": time_text(self.at_s),
            "answer": self.answer.value,
            "reason": self.reason,
            "claims": [claim_document(claim) for claim in self.claims],
        }


@dataclass(kw_only=True)
class VmAttestation:
    """Runs until cancelled; used in one event loop."""

    name: HostName
    enforced: EnforcedPolicy
    vms: VmManager
    references: GuestReferenceSource
    memory: GuestMemory
    guests: Guests
    reconciler: LinkReconciler
    detach_port: Callable[[str], None]
    replace: Callable[[VmName, str], None]
    """Start a clean VM in the place of one that failed, for a reason. Raises ShamonError."""
    audit: AuditLog
    clock: Clock
    blocking: Blocking
    background: Background
    measured: Measured
    changed: Callable[[], None]
    """VMs' ports went up or down."""
    verdicts: dict[VmName, GuestVerdict] = field(default_factory=dict)
    """The last one about each VM, in this run of the daemon."""
    _busy: set[VmName] = field(default_factory=set)
    _due_s: dict[VmName, float] = field(default_factory=dict)
    _held: set[VmName] = field(default_factory=set)
    """VMs whose lease held at the last look."""
    _laps: dict[VmName, Laps] = field(default_factory=dict)
    """Since the verdict by which a VM is being replaced."""
    _told: ToldOnce = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._told = ToldOnce(audit=self.audit.append)

    async def run(self) -> None:
        """Look for ever. Raises what ends the daemon: a decision that cannot be written down."""
        while True:
            self._look()
            await self.clock.sleep(TICK_S)

    def document(self, vm: VmName) -> dict[str, Any] | None:
        """What is known of a VM that is attested, as a JSON object; None for any other."""
        demand = self._demand(vm)
        if demand is None:
            return None
        lease, verdict = self.vms.states.leases.of(vm), self.verdicts.get(vm)
        now_s = self.clock.boottime_s()
        holds = lease is not None and self.vms.states.leases.holds(vm)
        return {
            "demand": demand.name,
            "attested": holds,
            "lease_s": round(lease.until_s - now_s, 1) if holds and lease and lease.until_s is not None else 0.0,
            "failed": lease.failed if lease else "",
            "last": None if verdict is None else verdict.to_document(),
        }

    def _look(self) -> None:
        leases, now_s = self.vms.states.leases, self.clock.boottime_s()
        held: set[VmName] = set()
        for vm in self.enforced.policy.vms_of(self.name):
            demand = self._demand(vm)
            lease = leases.of(vm) if demand is not None else None
            if demand is None or lease is None:
                continue
            if lease.holds(now_s=now_s, boot_id=leases.boot_id):
                held.add(vm)
            outdated = lease.passed and not lease.failed and lease.reference != demand.sha256
            if vm not in self._busy and (outdated or self._due_s.get(vm, now_s) <= now_s):
                self._busy.add(vm)
                self.background.spawn(self._turn(vm, demand, failed=bool(lease.failed)), f"attestation of {vm}")
        ended, self._held = self._held - held, held
        if ended:
            self.background.spawn(self._ports_down(), "ports of VMs whose leases ended")

    async def _ports_down(self) -> None:
        """Whoever watches the domains does it too, tells what fails, and may be waiting for a MAC VM."""
        with suppress(ShamonError):
            await self.blocking(self.reconciler.narrow)
        self.changed()

    async def _turn(self, vm: VmName, demand: GuestDemand, *, failed: bool) -> None:
        try:
            await (self._react if failed else self._attest)(vm, demand)
        finally:
            self._busy.discard(vm)

    async def _attest(self, vm: VmName, demand: GuestDemand) -> None:
        """Ask a VM once, and write down what that means."""
        self._due_s[vm] = self.clock.boottime_s() + TICK_S
        states = self.vms.states
        try:
            cid = await self.reachable(vm)
            lease, tpm, boot = states.leases.of(vm), states.tpm(vm), states.booted(vm)
            if cid is None or lease is None or tpm is None or boot is None or lease.failed:
                return
            reference = await self.blocking(lambda: self.references.load(demand))
        except ShamonError as error:
            self._told.failed("vm.not-attested", vm, error)
            self.verdicts[vm] = self._verdict(Answer.NONE, str(error))
            return
        state = self.memory.recall(vm, tpm.mark)
        follows = state is not None and state.reference_digest == reference.values.digest
        request = EvidenceRequest(
            vm=vm,
            nonce=secrets.token_bytes(NONCE_BYTES),
            ima_offset=state.ima_offset if state and follows else 0,
            ima_reset_count=state.reset_count if state else 0,
        )
        asked_s = self.clock.boottime_s()
        try:
            data = await self.ask(cid, request)
            answer = await self.blocking(lambda: read_answer(data))
        except ShamonError as error:
            await self._settle(vm, demand, lease, self._verdict(Answer.NONE, str(error)), asked_s)
            return
        result, following = await self.blocking(
            lambda: appraise_guest(
                answer,
                request=request,
                ak_public=tpm.ak_public or answer.ak_public,
                boot=boot,
                reference=reference,
                state=state,
            )
        )
        if result.bound and not tpm.ak_public:
            self.audit.append("vm.ak", vm, {"tpm": tpm.mark})
            shown = GuestTpm(mark=tpm.mark, ak_public=answer.ak_public)
            if not await self.blocking(lambda: self.vms.note_ak(vm, shown)):
                return  # replaced meanwhile
        if result.bound and following is not None:
            self.memory.keep(vm, tpm.mark, following)
        verdict = self._verdict(_meaning(result), _words(result), result.claims)
        reset_count = following.reset_count if result.bound and following is not None else None
        await self._settle(vm, demand, lease, verdict, asked_s, reset_count=reset_count)

    async def _settle(
        self,
        vm: VmName,
        demand: GuestDemand,
        lease: GuestLease,
        verdict: GuestVerdict,
        asked_s: float,
        *,
        reset_count: int | None = None,
    ) -> None:
        """Decide, write it down, and do what follows. `reset_count`: of the VM's TPM, where the answer is bound."""
        now_s, leases = self.clock.boottime_s(), self.vms.states.leases
        current = leases.of(vm)
        if current is None or current.mark != lease.mark:
            return  # it was started anew, or stopped, while it was asked
        self.verdicts[vm] = verdict
        after = lease.after(
            verdict.answer, demand, asked_s=asked_s, now_s=now_s, reason=verdict.reason, reset_count=reset_count
        )
        held = lease.holds(now_s=now_s, boot_id=leases.boot_id)
        holds = after.holds(now_s=now_s, boot_id=leases.boot_id)
        if after.failed or (holds and not held):
            detail = {"trusted": holds, "reason": after.failed, "lease_s": demand.lease_s if holds else 0}
            self.audit.append("vm.appraised", vm, detail)
        if not leases.settle(vm, after):
            return  # the same, or it had failed
        if after.failed:
            self._laps[vm] = Laps()
            await self._react(vm, demand)
            return
        self._due_s[vm] = now_s + (demand.period_s if holds else TICK_S)
        if verdict.answer is Answer.NONE:
            self._due_s[vm] = now_s + min(TICK_S, demand.period_s)
        if holds and not held:
            await self._connect(vm)

    async def _connect(self, vm: VmName) -> None:
        laps = self._laps.pop(vm, None)
        if laps is not None:
            laps.lap("attested")
        try:
            await self.blocking(self.reconciler.reconcile)
        except ShamonError as error:  # whoever watches the kernel tries again
            self._told.failed("links.not-reconciled", vm, error)
        self._held.add(vm)
        self.changed()
        if laps is not None:
            laps.lap("connected")
            self.audit.append("vm.connected-again", vm, {"ms": laps.parts_ms})
            for part, took_ms in {**laps.parts_ms, "in all": laps.total_ms}.items():
                self.measured(f"failed VM: {part}", took_ms)

    async def _react(self, vm: VmName, demand: GuestDemand) -> None:
        """Of a VM that failed: into quarantine, if it is in none, and replaced, if it is to be."""
        self._due_s[vm] = self.clock.boottime_s() + _AGAIN_S
        states = self.vms.states
        lease, laps = states.leases.of(vm), self._laps.setdefault(vm, Laps())
        if lease is None or not lease.failed:
            return
        reason = f"its attestation failed: {lease.failed}"[:1000]
        try:
            quarantine = states.quarantine(vm)
            if quarantine is None or not quarantine.cuts_off:
                if not await self.blocking(lambda: self._cut_off(vm, lease.mark, reason)):
                    return
                laps.lap("in quarantine")
            if lease.replaces(demand):
                await self.blocking(lambda: self.replace(vm, reason))
                laps.lap("replaced")
                self._due_s.pop(vm, None)
        except ShamonError as error:
            self._told.failed("vm.action-failed", vm, error)
        finally:
            self.changed()

    def _cut_off(self, vm: VmName, mark: str, reason: str) -> bool:
        """Into quarantine, unless the VM that failed is not the one that runs any more. Synchronous."""
        with self.vms.held():
            lease = self.vms.states.leases.of(vm)
            if lease is None or lease.mark != mark:
                return False
            self.vms.quarantine(vm, reason, ports_down=self.detach_port)
            return True

    async def reachable(self, vm: VmName) -> int | None:
        """The address of a VM that runs, as what runs has it; None where it does not run, or nobody is to ask it.
        Raises BadInput for one that is not attested."""
        states = self.vms.states
        wanted = states.cid(vm) if vm in states.policy().vms_of(self.name) else None
        if wanted is None:
            raise BadInput("the VM is not attested", where=vm, expected="a VM of this host with `attest` in the policy")
        domain = await self.blocking(lambda: states.find(vm))
        quarantine = states.quarantine(vm)
        if domain is None or domain.state is not DomainState.RUNNING or (quarantine and quarantine.cuts_off):
            return None
        return wanted if states.has_its_tpm(domain) else None

    async def ask(self, cid: int, request: EvidenceRequest) -> bytes:
        """Raises Unreachable, BadInput."""
        return await self.guests.ask(cid, request.encode(), timeout_s=self.enforced.policy.intervals.timeout_s)

    def _demand(self, vm: VmName) -> GuestDemand | None:
        policy = self.enforced.policy
        return policy.attested(vm) if vm in policy.vms else None

    def _verdict(self, answer: Answer, reason: str, claims: tuple[Claim, ...] = ()) -> GuestVerdict:
        return GuestVerdict(at_s=self.clock.wall_s(), answer=answer, reason=reason, claims=claims)


def _meaning(result: GuestResult) -> Answer:
    if result.trusted:
        return Answer.PASSES
    return Answer.NONE if result.transient else Answer.FAILS


def _words(result: GuestResult) -> str:
    return "; ".join(describe(claim) for claim in result.failures)[:1000]
