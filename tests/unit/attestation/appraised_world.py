"""A host that attests itself to a Verifier, handshake after handshake, for the tests of appraisal."""

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from shamon_host.attestation.appraisal import VerifierState, appraise
from shamon_host.attestation.attester import Attester
from shamon_host.attestation.evidence import Evidence, Role
from shamon_host.attestation.reference_record import record
from shamon_host.attestation.reference_values import ReferenceValues
from shamon_host.domain.labels import HostName
from shamon_host.domain.policy import Demands
from shamon_host.domain.results import AttestationResult, Claim, ClaimName, ClaimStatus, TpmKind
from shamon_host.testing.machine import BootImage, MeasuredMachine

BETA = HostName("beta")
REPORT, NETWORK, HEAD = b'{"domains":[]}', b'{"spd":[]}', hashlib.sha256(b"audit").digest()


def good(name: ClaimName) -> Callable[[bytes], Claim]:
    """A check of an upper layer that passes."""
    return lambda _: Claim(name=name, status=ClaimStatus.PASS, reason="as it should be")


GOOD_LABELS, GOOD_NETWORK = good(ClaimName.RUNNING_LABELS), good(ClaimName.NETWORK_STATE)


def recorded(image: BootImage | None = None) -> ReferenceValues:
    """Reference Values of a machine of its own that booted the image."""
    machine = MeasuredMachine()
    machine.boot(image)
    return record(pcrs=machine.tpm.pcrs, event_log=machine.logs.event_log(), ima_log=machine.logs.ima_log(0))


@dataclass(kw_only=True)
class Attested:
    """The host and its Verifier. `evidence` and `appraise` are a handshake's two halves, `attest` is both."""

    machine: MeasuredMachine = field(default_factory=MeasuredMachine)
    reference: ReferenceValues = field(default_factory=recorded)
    demands: Demands = field(default_factory=lambda: Demands(allow_software_tpm=True))
    tpm_kind: TpmKind = TpmKind.SOFTWARE
    state: VerifierState | None = None
    report: bytes = REPORT
    handshakes: int = 0

    def __post_init__(self) -> None:
        self.machine.boot()
        self.attester = Attester(tpm=self.machine.tpm, logs=self.machine.logs, gather_s=0)

    def new_transcript(self) -> bytes:
        self.handshakes += 1
        return hashlib.sha256(f"transcript {self.handshakes}".encode()).digest()

    def evidence(self, transcript: bytes, *, offset: int | None = None) -> Evidence:
        """What the host answers when the Verifier asks on from where it stands."""
        state = self.state
        return asyncio.run(self._evidence(transcript, (state.ima_offset if state else 0) if offset is None else offset))

    async def _evidence(self, transcript: bytes, offset: int) -> Evidence:
        return await self.attester.evidence(
            role=Role.RESPONDER,
            transcript=transcript,
            hypervisor_report=self.report,
            network_state=NETWORK,
            audit_head=HEAD,
            ima_offset=offset,
            ima_reset_count=self.state.reset_count if self.state else 0,
        )

    def appraise(
        self,
        evidence: Evidence,
        transcript: bytes,
        *,
        role: Role = Role.RESPONDER,
        ak_public: bytes | None = None,
        check_hypervisor_report: Callable[[bytes], Claim] = GOOD_LABELS,
        check_network_state: Callable[[bytes], Claim] = GOOD_NETWORK,
    ) -> AttestationResult:
        """Appraise, and keep the state as a Verifier that restarts each time would: through its document."""
        result, state = appraise(
            evidence,
            role=role,
            transcript=transcript,
            host=BETA,
            ak_public=ak_public or self.machine.tpm.ak_public(),
            enrolled_tpm_kind=self.tpm_kind,
            demands=self.demands,
            reference=self.reference,
            state=self.state,
            check_hypervisor_report=check_hypervisor_report,
            check_network_state=check_network_state,
        )
        self.state = VerifierState.from_document(state.to_document())
        assert self.state == state
        return result

    def attest(self) -> AttestationResult:
        transcript = self.new_transcript()
        return self.appraise(self.evidence(transcript), transcript)


def claim_of(result: AttestationResult, name: ClaimName) -> Claim:
    (claim,) = (claim for claim in result.claims if claim.name is name)
    return claim


def without_files(image: BootImage, *paths: str) -> BootImage:
    """The image with some files never run."""
    return replace(
        image,
        early_files=tuple(item for item in image.early_files if item[0] not in paths),
        files=tuple(item for item in image.files if item[0] not in paths),
    )
