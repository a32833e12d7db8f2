"""One guest that answers its host, and the host that appraises it: machine, agent, Reference Values, and state."""

from dataclasses import dataclass, field

from shamon_host.attestation.guest_appraisal import GuestResult, appraise_guest
from shamon_host.attestation.guest_messages import EvidenceRequest, GuestEvidence, read_answer
from shamon_host.attestation.guest_record import record_guest
from shamon_host.attestation.guest_reference import GuestBoot, GuestReference
from shamon_host.attestation.ima_log import boot_aggregate, ima_buf_entry, ima_sig_entry
from shamon_host.attestation.pcr import Bank
from shamon_host.attestation.verifier_state import VerifierState
from shamon_host.domain.labels import VmName
from shamon_host.domain.results import Claim, ClaimName
from shamon_host.guest_agent.answering import Answering
from shamon_host.testing.machine import BootImage, MeasuredMachine, sha256

WEB = VmName("web")
BOOT = GuestBoot(kernel="1" * 64, initrd="2" * 64, cmdline="quiet")


def without_selinux() -> MeasuredMachine:
    """A guest as small ones are: QEMU gave it a kernel, no firmware measured anything, and it has no SELinux."""
    machine = MeasuredMachine()
    machine.tpm.reset()
    machine.logs.present, machine.logs.entries = True, []
    image = BootImage()
    machine._append(ima_sig_entry("boot_aggregate", boot_aggregate(Bank.SHA256, machine.tpm.pcrs)))
    machine._append(ima_buf_entry("kernel_version", b"6.1.0-memory"))
    for path, content in (*image.early_files, *image.files):
        machine.run_program(path, content)
    return machine


def booted() -> MeasuredMachine:
    """A guest with firmware that measures, and SELinux."""
    machine = MeasuredMachine()
    machine.boot()
    return machine


def recorded(machine: MeasuredMachine) -> GuestReference:
    return record_guest(pcrs=machine.tpm.pcrs, ima_log=machine.logs.ima_log(0), boot=BOOT)


@dataclass(kw_only=True)
class GuestWorld:
    machine: MeasuredMachine = field(default_factory=booted)
    reference: GuestReference = field(default_factory=lambda: recorded(booted()))
    boot: GuestBoot = BOOT
    ak: bytes = b""
    state: VerifierState | None = None
    asked: int = 0

    def __post_init__(self) -> None:
        self.ak = self.ak or self.machine.tpm.ak_public()

    def request(self, vm: VmName = WEB) -> EvidenceRequest:
        """A new question, for what this host does not know yet."""
        self.asked += 1
        follows = self.state is not None and self.state.reference_digest == self.reference.values.digest
        return EvidenceRequest(
            vm=vm,
            nonce=sha256(b"nonce %d" % self.asked),
            ima_offset=self.state.ima_offset if self.state and follows else 0,
            ima_reset_count=self.state.reset_count if self.state else 0,
        )

    def answer(self, request: EvidenceRequest) -> GuestEvidence:
        return read_answer(Answering(tpm=self.machine.tpm, logs=self.machine.logs).answer(request.encode()))

    def appraise(self, answer: GuestEvidence, request: EvidenceRequest) -> GuestResult:
        result, self.state = appraise_guest(
            answer, request=request, ak_public=self.ak, boot=self.boot, reference=self.reference, state=self.state
        )
        return result

    def attest(self) -> GuestResult:
        request = self.request()
        return self.appraise(self.answer(request), request)


def claim_of(result: GuestResult, name: ClaimName) -> Claim:
    return next(claim for claim in result.claims if claim.name is name)


def failing(result: GuestResult) -> list[ClaimName]:
    return [claim.name for claim in result.failures]
