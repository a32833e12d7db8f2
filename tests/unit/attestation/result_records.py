"""Result records for tests: of real appraisals, and drawn from all that there may be."""

from dataclasses import replace

from hypothesis import strategies as st

from shamon_host.attestation.evidence import Role, leaf
from shamon_host.attestation.evidence_file import EvidenceFile
from shamon_host.attestation.merkle import root_from_path
from shamon_host.attestation.result_document import MAX_TEXT, ResultRecord, evidence_digest
from shamon_host.domain.labels import HostName
from shamon_host.domain.results import AttestationResult, Claim, ClaimName, ClaimStatus, TpmKind
from tests.unit.attestation.appraised_world import Attested

ALPHA, BETA = HostName("alpha"), HostName("beta")
PASSING = AttestationResult(
    host=BETA,
    ak_name=b"\x00\x0b" + bytes(32),
    reset_count=3,
    tpm=TpmKind.SOFTWARE,
    claims=tuple(Claim(name=name, status=ClaimStatus.PASS, reason="as it should be") for name in ClaimName),
)


def record_of(result: AttestationResult = PASSING, *, appraised_s: float = 1_700_000_000.125) -> ResultRecord:
    return ResultRecord(
        result=result,
        verifier=ALPHA,
        appraised_s=appraised_s,
        policy_digest="1" * 64,
        peer_policy_digest="2" * 64,
        reference_digest="3" * 64,
        evidence_digest="4" * 64,
    )


def failing(name: ClaimName = ClaimName.SOFTWARE, **fields: object) -> AttestationResult:
    """A result in which one claim fails."""
    bad = {"status": ClaimStatus.FAIL, "reason": "it is not", **fields}
    claims = tuple(replace(claim, **bad) if claim.name is name else claim for claim in PASSING.claims)  # type: ignore[arg-type]  # fields of Claim
    return replace(PASSING, claims=claims)


def attested(world: Attested) -> ResultRecord:
    """The record of one handshake of a world."""
    transcript = world.new_transcript()
    evidence = world.evidence(transcript)
    result = world.appraise(evidence, transcript)
    return replace(
        record_of(result), reference_digest=world.reference.digest, evidence_digest=evidence_digest(evidence)
    )


def kept(world: Attested, *, offset: int | None = None) -> EvidenceFile:
    """The file of one handshake of a world."""
    transcript, state = world.new_transcript(), world.state
    evidence = world.evidence(transcript, offset=offset)
    result = world.appraise(evidence, transcript)
    own = leaf(
        Role.RESPONDER,
        transcript,
        hypervisor_report=evidence.hypervisor_report,
        network_state=evidence.network_state,
        audit_head=evidence.audit_head,
    )
    return EvidenceFile(
        record=replace(
            record_of(result), reference_digest=world.reference.digest, evidence_digest=evidence_digest(evidence)
        ),
        role=Role.RESPONDER,
        transcript=transcript,
        qualifying_data=root_from_path(own, evidence.merkle_index, evidence.merkle_path),
        ak_public=world.machine.tpm.ak_public(),
        tpm=TpmKind.SOFTWARE,
        state=state,
        evidence=evidence,
    )


_texts = st.text(max_size=60)
_digests = st.binary(min_size=32, max_size=32).map(bytes.hex)


@st.composite
def records(draw: st.DrawFn) -> ResultRecord:
    """Any record that an appraisal could make: some claims may not have been made."""
    claims = [
        Claim(
            name=name,
            status=draw(st.sampled_from(ClaimStatus)),
            reason=draw(_texts),
            where=draw(
                st.one_of(
                    _texts,
                    st.integers(0, 23).map("PCR {}".format),
                    st.tuples(st.integers(0, 23), st.integers(1, 99)).map(lambda at: f"PCR {at[0]}, event {at[1]}"),
                    st.tuples(st.integers(1, 99), st.text(min_size=1, max_size=9)).map(
                        lambda at: f"IMA entry {at[0]}, {at[1]}"
                    ),
                )
            ),
            expected=draw(_texts),
            found=draw(st.one_of(_texts, st.just("x" * (MAX_TEXT + 1)))),
            sticky=draw(st.booleans()),
        )
        for name in draw(st.sets(st.sampled_from(ClaimName), min_size=5))
    ]
    return ResultRecord(
        result=AttestationResult(
            host=BETA,
            ak_name=draw(st.binary(min_size=1, max_size=66)),
            reset_count=draw(st.integers(0, 2**32 - 1)),
            tpm=draw(st.sampled_from(TpmKind)),
            claims=tuple(claims),
        ),
        verifier=ALPHA,
        appraised_s=draw(st.integers(0, 4 * 10**12)) / 1000,
        policy_digest=draw(_digests),
        peer_policy_digest=draw(_digests),
        reference_digest=draw(_digests),
        evidence_digest=draw(_digests),
    )
