"""A verdict repeated from an evidence file: the Verifier's own appraisal, without the handshake.

The path from leaf to root, the quote's signature, the PCRs and the logs are verified again. What a file alone cannot
prove is never passed: it is absent, and says what is missing. That is the AK, if only the file names it; the claims of
the IMA log, if the file has it from some offset on only; the claims that a policy decides, if none is given.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from shamon_host.attestation.appraisal import appraise
from shamon_host.attestation.claims.making import absent, passed
from shamon_host.attestation.claims.measurements import LOG_CLAIMS
from shamon_host.attestation.evidence_file import EvidenceFile
from shamon_host.attestation.reference_model import ReferenceValues
from shamon_host.attestation.result_document import ResultRecord, evidence_digest
from shamon_host.attestation.verifier_state import VerifierState
from shamon_host.daemon.appraising import root_of
from shamon_host.daemon.tap_filters import check_reported_filters
from shamon_host.daemon.vm_owners import owners_by_word
from shamon_host.domain.labels import HostName
from shamon_host.domain.policy import Demands, Policy
from shamon_host.domain.results import AttestationResult, Claim, ClaimName, ClaimStatus, TpmKind
from shamon_host.hypervisor.report import check_hypervisor_report

OFFLINE = HostName("offline")
"""The Verifier of a verdict that no host stands for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolled:
    """What the coalition, and not the file, says of the host. `tpm` is None where only its AK is known."""

    ak_public: bytes
    """TPMT_PUBLIC or PEM."""
    tpm: TpmKind | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeated:
    """The verdict of now, and in which respects it is another question than the one of then."""

    record: ResultRecord
    """Its Verifier is OFFLINE, its time that of the repetition."""
    notes: tuple[str, ...]


def repeat(
    file: EvidenceFile,
    *,
    now_s: float,
    reference: ReferenceValues,
    policy: Policy | None,
    peer_policy: Policy | None = None,
    enrolled: Enrolled | None = None,
) -> Repeated:
    """Appraise the Evidence of a file again, at `now_s` of the wall clock (seconds). `policy` is the Verifier's,
    `peer_policy` the appraised host's where that is another one. Raises QuoteError for an AK that is no key; bad
    Evidence is a failed claim."""
    then, evidence, theirs = file.record, file.evidence, peer_policy or policy
    host = then.result.host
    kind = (enrolled.tpm if enrolled else None) or file.tpm
    result, _ = appraise(
        evidence,
        role=file.role,
        transcript=file.transcript,
        host=host,
        ak_public=enrolled.ak_public if enrolled else file.ak_public,
        enrolled_tpm_kind=kind,
        demands=policy.demands if policy else Demands(),
        reference=reference,
        state=_state(file, reference),
        check_hypervisor_report=_check(
            ClaimName.RUNNING_LABELS, theirs, lambda data, given: _running_labels(data, host, given)
        ),
        check_network_state=_check(
            ClaimName.NETWORK_STATE,
            theirs,
            lambda data, given: check_reported_filters(data, evidence.hypervisor_report, host=host, policy=given),
        ),
    )
    if policy is None and kind is TpmKind.SOFTWARE:
        kind_known = False
    else:
        kind_known = bool(enrolled and enrolled.tpm) or (policy is not None and policy.demands.allow_software_tpm)
    claims = tuple(
        _limited(claim, file, enrolled=enrolled is not None, kind_known=kind_known) for claim in result.claims
    )
    record = ResultRecord(
        result=replace(result, claims=claims),
        verifier=OFFLINE,
        appraised_s=now_s,
        policy_digest=policy.digest if policy else then.policy_digest,
        peer_policy_digest=theirs.digest if theirs else then.peer_policy_digest,
        reference_digest=reference.digest,
        evidence_digest=evidence_digest(evidence),
    )
    notes = _notes(then, record, policy)
    if file.qualifying_data != root_of(evidence, file.role, file.transcript):
        notes.insert(0, "the qualifying data that the file names is not that of its Evidence")
    return Repeated(record=record, notes=tuple(notes))


def _running_labels(data: bytes, host: HostName, policy: Policy) -> Claim:
    """Where VMs were moved to, only tokens say, and which of them was the newest a file does not show: what holds by
    the policy holds, and what holds by the report's own tokens alone is absent."""
    claim = check_hypervisor_report(data, host=host, policy=policy)
    if claim.status is not ClaimStatus.FAIL:
        return claim
    owned = check_hypervisor_report(data, host=host, policy=policy.placed(owners_by_word(data)))
    if owned.status is not ClaimStatus.PASS:
        return claim
    return absent(
        claim.name,
        "a VM runs here that was moved here, as the report says; whether that was its newest token, a file cannot show",
        where=claim.where,
    )


def _state(file: EvidenceFile, reference: ReferenceValues) -> VerifierState | None:
    """What the Verifier knew: all of it where the file begins in the midst of the IMA log, else its clock alone."""
    state = file.state
    if state is None or not state.seen or file.evidence.ima_offset:
        return state
    return state.of_its_tpm_alone(reference.digest)


def _check(name: ClaimName, policy: Policy | None, check: Callable[[bytes, Policy], Claim]) -> Callable[[bytes], Claim]:
    if policy is None:
        return lambda _: absent(name, "no policy was given that says what it must be", expected="--policy FILE")
    given = policy
    return lambda data: check(data, given)


def _limited(claim: Claim, file: EvidenceFile, *, enrolled: bool, kind_known: bool) -> Claim:
    """The claim, as far as the file can carry it."""
    if claim.name is ClaimName.TPM_KIND and not kind_known:
        return absent(
            claim.name,
            f"the file calls it a {file.tpm} TPM; whether it is one, and whether that is accepted, it cannot say",
            expected="--registry DIR, and --policy FILE",
        )
    if claim.status is not ClaimStatus.PASS:
        return claim
    if claim.name is ClaimName.BINDING:
        if not enrolled:
            return absent(
                claim.name,
                "the quote is signed by the AK that the file names; nothing else says that it is the host's",
                expected="--ak FILE or --registry DIR",
            )
        return passed(
            claim.name,
            "a quote by the enrolled AK over this Evidence and the handshake that the file names; when that was, the "
            "file says",
        )
    if claim.name in LOG_CLAIMS and file.evidence.ima_offset:
        return absent(
            claim.name,
            f"the file has the IMA log from byte {file.evidence.ima_offset} on only, and nothing bad there",
            where="IMA log",
            expected="a log from its first entry on",
        )
    return claim


def _notes(then: ResultRecord, now: ResultRecord, policy: Policy | None) -> list[str]:
    notes = []
    if then.evidence_digest != now.evidence_digest:
        notes.append("the IMA log was put together from several pieces of Evidence")
    for what, before, after in (
        ("Reference Values", then.reference_digest, now.reference_digest),
        ("policy", then.policy_digest, now.policy_digest),
        ("policy of the host", then.peer_policy_digest, now.peer_policy_digest),
    ):
        if before != after:
            notes.append(f"another {what} than then: {after[:16]}, not {before[:16]}")
    if policy is None:
        notes.append("without a policy, PCR 12 and 13 are taken to be empty")
    differing = _differing(then.result, now.result)
    notes.append("the verdict is that of then" if not differing else f"other than then: {', '.join(differing)}")
    return notes


def _differing(then: AttestationResult, now: AttestationResult) -> list[str]:
    before = {claim.name: claim.status for claim in then.claims}
    return [
        f"{claim.name} ({before[claim.name]} then, {claim.status} now)"
        for claim in now.claims
        if before.get(claim.name) is not claim.status and claim.name in before
    ]
