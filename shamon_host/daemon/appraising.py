"""One appraisal of a peer by this host: what goes in, what comes out, and what of it can be kept as a file."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from shamon_host.attestation.appraisal import VerifierState, appraise
from shamon_host.attestation.evidence import Evidence, Role, bound_root
from shamon_host.attestation.evidence_file import EvidenceFile
from shamon_host.attestation.reference_model import ReferenceValues
from shamon_host.attestation.result_document import ResultRecord, evidence_digest
from shamon_host.daemon.suspension import describe, is_transient
from shamon_host.daemon.tap_filters import check_reported_filters
from shamon_host.daemon.vm_owners import claimed
from shamon_host.domain.errors import Refused, ShamonError
from shamon_host.domain.labels import HostName, VmName
from shamon_host.domain.policy import Policy
from shamon_host.domain.results import AttestationResult, Claim, ClaimStatus
from shamon_host.domain.vm_tokens import VmToken
from shamon_host.hypervisor.report import check_hypervisor_report
from shamon_host.peer.ports import EnrolledPeer
from shamon_host.peer.vm_token import KeyOf


@dataclass(frozen=True, slots=True, kw_only=True)
class Appraised:
    """The file has the result in it."""

    file: EvidenceFile
    following: VerifierState
    log_is_behind: bool
    """All that fails is that the IMA log does not lead to its quote, in a boot in which it did before: the Attester may
    have read it too early, or this Verifier has asked for another part of it than it now needs."""
    moves: tuple[tuple[VmToken, bytes], ...] = ()
    """Tokens of VMs that the Evidence brought and that were not known, verified, with their envelopes."""

    @property
    def result(self) -> AttestationResult:
        return self.file.record.result


@dataclass(frozen=True, slots=True, kw_only=True)
class Appraisal:
    """Everything but the Evidence. `state` is what is remembered of the AK."""

    verifier: HostName
    enrolled: EnrolledPeer
    policy: Policy
    peer_policy: Policy
    reference: ReferenceValues
    state: VerifierState | None
    wall_s: float
    tokens: Mapping[VmName, VmToken] = field(default_factory=dict)
    """VM → the newest token that was known when the handshake began: a host may have given a VM away since, and reports
    in its place who has it."""
    key_of: KeyOf = lambda host: ""

    def of(self, evidence: Evidence, role: Role, transcript: bytes) -> Appraised:
        """Appraise Evidence of one handshake. Synchronous, and long for a long log."""
        enrolled = self.enrolled
        owned = claimed(evidence.hypervisor_report, known=self.tokens, policy=self.peer_policy, key_of=self.key_of)
        theirs = self.peer_policy.placed(owned.moved)

        def labels(data: bytes) -> Claim:
            claim = check_hypervisor_report(data, host=enrolled.host, policy=theirs)
            problem = owned.problems.get(VmName(claim.where), "") if claim.status is ClaimStatus.FAIL else ""
            return replace(claim, reason=f"{claim.reason}; {problem}"[:1000]) if problem else claim

        result, following = appraise(
            evidence,
            role=role,
            transcript=transcript,
            host=enrolled.host,
            ak_public=enrolled.ak_public,
            enrolled_tpm_kind=enrolled.tpm,
            demands=self.policy.demands,
            reference=self.reference,
            state=self.state,
            check_hypervisor_report=labels,
            check_network_state=lambda data: check_reported_filters(
                data, evidence.hypervisor_report, host=enrolled.host, policy=theirs
            ),
        )
        record = ResultRecord(
            result=result,
            verifier=self.verifier,
            appraised_s=self.wall_s,
            policy_digest=self.policy.digest,
            peer_policy_digest=theirs.digest,
            reference_digest=self.reference.digest,
            evidence_digest=evidence_digest(evidence),
        )
        file = EvidenceFile(
            record=record,
            role=role,
            transcript=transcript,
            qualifying_data=root_of(evidence, role, transcript),
            ak_public=enrolled.ak_public,
            tpm=enrolled.tpm,
            state=self.state,
            evidence=evidence,
        )
        return Appraised(
            file=file, following=following, log_is_behind=self._log_is_behind(evidence, result), moves=owned.news
        )

    def _log_is_behind(self, evidence: Evidence, result: AttestationResult) -> bool:
        state = self.state
        if state is None:
            return False
        # Reference Values that changed in the midst of a handshake want a log that nobody had asked for yet.
        changed_since = 0 < state.ima_offset == evidence.ima_offset
        return (
            (state.reference_digest == self.reference.digest or changed_since)
            and state.reset_count == result.reset_count
            and bool(result.failures)
            and all(map(is_transient, result.failures))
        )


def behind_its_quote(peer: HostName, result: AttestationResult) -> Refused:
    """Why a handshake ends without a verdict: neither side is the worse for it, and the lease goes on to its end."""
    return Refused(
        "the IMA log does not lead to its quote this time",
        where=peer,
        found="; ".join(describe(claim) for claim in result.failures)[:1000],
        remedy="It is asked for again, until the lease ends.",
    )


def root_of(evidence: Evidence, role: Role, transcript: bytes) -> bytes:
    """What the quote of such Evidence is to be over, 32 bytes; all zero where its path leads nowhere."""
    try:
        return bound_root(evidence, role, transcript)
    except ShamonError:
        return bytes(32)
