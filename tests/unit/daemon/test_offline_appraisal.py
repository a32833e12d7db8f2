"""Verdicts repeated from files: the same as then, and never a pass for what the file alone cannot prove."""

from dataclasses import replace

import pytest

from shamon_host.attestation.evidence import Role
from shamon_host.attestation.evidence_file import EvidenceFile, decode_file
from shamon_host.attestation.reference_model import ReferenceValues, merged_digests
from shamon_host.daemon.offline_appraisal import OFFLINE, Enrolled, Repeated, repeat
from shamon_host.domain.labels import HostName
from shamon_host.domain.policy import Policy
from shamon_host.domain.results import AttestationResult, ClaimName, ClaimStatus, TpmKind
from shamon_host.testing.images import sha256_of
from shamon_host.testing.memory_host import MemoryHost
from shamon_host.testing.world import Fault
from tests.unit.daemon.daemon_world import BETA, DaemonWorld, changed_policy, daemon, play
from tests.unit.daemon.test_migration import MOVES, migrate

LOG_CLAIMS = {ClaimName.IMA_POLICY, ClaimName.SELINUX, ClaimName.SOFTWARE, ClaimName.SHAMON_CODE}


class Kept:
    """What alpha kept of beta, in a world of real daemons: Evidence that passed, then failed."""

    def __init__(self) -> None:
        self.files: dict[bool, EvidenceFile] = {}

        async def test(world: DaemonWorld) -> None:
            await world.pair_with_link()
            await world.wait(25)
            await world.beta.inflict(Fault.PROGRAM)
            await world.suspended("alpha", "beta")
            await world.wait(10)
            for trusted in (True, False):
                self.files[trusted] = decode_file(daemon(world.alpha).history.evidence(BETA, trusted=trusted))
            assert world.enrolment.reference is not None
            self.reference: ReferenceValues = world.enrolment.reference
            self.policy: Policy = world.policy
            self.beta: MemoryHost = world.beta
            self.other_ak: bytes = world.alpha.machine.tpm.ak_public()

        play(test)

    @property
    def enrolled(self) -> Enrolled:
        return Enrolled(ak_public=self.files[True].ak_public, tpm=TpmKind.SOFTWARE)

    def repeat(self, file: EvidenceFile | None = None, **changed: object) -> Repeated:
        arguments = {
            "now_s": 1.8e9,
            "reference": self.reference,
            "policy": self.policy,
            "enrolled": self.enrolled,
            **changed,
        }
        return repeat(file or self.files[True], **arguments)  # type: ignore[arg-type]  # as given


@pytest.fixture(scope="module")
def kept() -> Kept:
    return Kept()


def status(result: AttestationResult, name: ClaimName) -> ClaimStatus:
    return next(claim.status for claim in result.claims if claim.name is name)


def failing(repeated: Repeated) -> dict[ClaimName, ClaimStatus]:
    return {claim.name: claim.status for claim in repeated.record.result.failures}


def test_what_passed_passes(kept: Kept) -> None:
    repeated = kept.repeat()
    assert repeated.record.result.trusted
    assert repeated.notes[-1] == "the verdict is that of then"
    assert repeated.record.reference_digest == kept.reference.digest
    # No host stands for it, least of all the one that appraised it then.
    assert (repeated.record.verifier, repeated.record.appraised_s) == (OFFLINE, 1.8e9)


def test_what_failed_fails_with_the_same_words(kept: Kept) -> None:
    file = kept.files[False]
    repeated = kept.repeat(file)
    assert failing(repeated) == {ClaimName.SOFTWARE: ClaimStatus.FAIL}
    assert repeated.record.result.failures == file.record.result.failures
    assert repeated.notes[-1] == "the verdict is that of then"


def test_without_the_enrolled_ak_the_binding_is_absent(kept: Kept) -> None:
    repeated = kept.repeat(enrolled=None)
    assert failing(repeated) == {ClaimName.BINDING: ClaimStatus.ABSENT}
    (claim,) = repeated.record.result.failures
    assert "--ak" in claim.expected
    assert repeated.notes[-1] == "other than then: binding (pass then, absent now)"


def test_with_another_ak_nothing_counts(kept: Kept) -> None:
    repeated = kept.repeat(enrolled=Enrolled(ak_public=kept.other_ak, tpm=TpmKind.SOFTWARE))
    found = failing(repeated)
    assert found.pop(ClaimName.BINDING) is ClaimStatus.FAIL
    assert set(found.values()) == {ClaimStatus.ABSENT}
    assert len(found) == 8


@pytest.mark.parametrize("part", ["transcript", "role", "path", "report", "quote", "head"])
def test_what_the_quote_was_made_over_is_verified_again(part: str, kept: Kept) -> None:
    file = kept.files[True]
    evidence = file.evidence
    changed = {
        "transcript": replace(file, transcript=bytes(32)),
        "role": replace(file, role=Role.INITIATOR if file.role is Role.RESPONDER else Role.RESPONDER),
        "path": replace(file, evidence=replace(evidence, merkle_path=(*evidence.merkle_path, bytes(32)))),
        "report": replace(file, evidence=replace(evidence, hypervisor_report=evidence.hypervisor_report + b" ")),
        "quote": replace(file, evidence=replace(evidence, quote=kept.files[False].evidence.quote)),
        "head": replace(file, evidence=replace(evidence, audit_head=bytes(32))),
    }[part]
    assert failing(kept.repeat(changed))[ClaimName.BINDING] is ClaimStatus.FAIL


def test_what_the_file_says_of_itself_counts_for_nothing(kept: Kept) -> None:
    """The verdict, the qualifying data and the kind of TPM: whoever wrote the file wrote them."""
    bad, good = kept.files[False], kept.files[True]
    told = replace(bad, record=replace(good.record, evidence_digest="0" * 64), qualifying_data=bytes(32))
    assert failing(kept.repeat(told)) == {ClaimName.SOFTWARE: ClaimStatus.FAIL}
    assert "qualifying data that the file names is not" in kept.repeat(told).notes[0]
    hardware = replace(good, tpm=TpmKind.HARDWARE)
    strict = replace(kept.policy, demands=replace(kept.policy.demands, allow_software_tpm=False))
    alone = Enrolled(ak_public=good.ak_public, tpm=None)
    assert failing(kept.repeat(hardware, policy=strict, enrolled=alone))[ClaimName.TPM_KIND] is ClaimStatus.ABSENT
    assert failing(kept.repeat(hardware, policy=strict))[ClaimName.TPM_KIND] is ClaimStatus.FAIL
    assert not failing(kept.repeat(hardware, enrolled=alone))


def test_without_a_policy_what_it_decides_is_absent(kept: Kept) -> None:
    decided = dict.fromkeys((ClaimName.RUNNING_LABELS, ClaimName.NETWORK_STATE), ClaimStatus.ABSENT)
    assert failing(kept.repeat(policy=None)) == {**decided, ClaimName.TPM_KIND: ClaimStatus.ABSENT}
    hardware = Enrolled(ak_public=kept.files[True].ak_public, tpm=TpmKind.HARDWARE)
    assert failing(kept.repeat(policy=None, enrolled=hardware)) == decided


def test_labels_are_judged_by_the_hosts_own_policy_where_that_is_given(kept: Kept) -> None:
    theirs = changed_policy(("version = 1", f'version = 2\nparent = "{"0" * 64}"'))
    repeated = kept.repeat(peer_policy=theirs)
    assert repeated.record.result.trusted
    assert repeated.record.peer_policy_digest == theirs.digest != repeated.record.policy_digest == kept.policy.digest
    assert any(note.startswith("another policy of the host than then") for note in repeated.notes)
    with_other_vms = changed_policy(('label = "red"', 'label = "blue"'), ('label = "red"', 'label = "blue"'))
    assert ClaimName.RUNNING_LABELS in failing(kept.repeat(peer_policy=with_other_vms))


def test_other_reference_values_are_another_question_and_the_whole_log_answers_it(kept: Kept) -> None:
    found = sha256_of(b"\x7fELF unknown 1")
    files = merged_digests(kept.reference.files, {"/usr/local/bin/unknown": frozenset({found})})
    repeated = kept.repeat(kept.files[False], reference=replace(kept.reference, files=files))
    assert repeated.record.result.trusted
    assert any(note.startswith("another Reference Values than then") for note in repeated.notes)
    assert repeated.notes[-1] == "other than then: software (fail then, pass now)"
    fewer = {path: digests for path, digests in kept.reference.files.items() if "libvirtd" not in path}
    again = kept.repeat(reference=replace(kept.reference, files=fewer))
    assert failing(again) == {ClaimName.SOFTWARE: ClaimStatus.FAIL}
    assert "libvirtd" in again.record.result.failures[0].where


def test_a_log_from_some_offset_on_proves_no_claim_of_the_log(kept: Kept) -> None:
    file = kept.files[True]
    state = file.state
    assert state is not None
    assert state.ima_offset > 0
    part = replace(
        file,
        evidence=replace(file.evidence, ima_offset=state.ima_offset, ima_log=file.evidence.ima_log[state.ima_offset :]),
    )
    assert failing(kept.repeat(part)) == dict.fromkeys(LOG_CLAIMS, ClaimStatus.ABSENT)
    bad = kept.files[False]
    assert bad.state is not None
    start = bad.state.ima_offset
    part = replace(bad, evidence=replace(bad.evidence, ima_offset=start, ima_log=bad.evidence.ima_log[start:]))
    found = failing(kept.repeat(part))
    assert found[ClaimName.SOFTWARE] is ClaimStatus.FAIL
    assert set(found) == LOG_CLAIMS


def test_a_clock_that_went_back_is_seen_again(kept: Kept) -> None:
    file = kept.files[True]
    assert file.state is not None
    later = replace(file, state=replace(file.state, clock_ms=file.state.clock_ms + 10**9))
    repeated = kept.repeat(later)
    assert failing(repeated)[ClaimName.BINDING] is ClaimStatus.FAIL
    assert "went backwards" in repeated.record.result.failures[0].reason


def test_a_file_of_another_host_is_judged_as_that_host(kept: Kept) -> None:
    file = kept.files[True]
    result = replace(file.record.result, host=HostName("gamma"))
    repeated = kept.repeat(replace(file, record=replace(file.record, result=result)))
    assert status(repeated.record.result, ClaimName.RUNNING_LABELS) is not ClaimStatus.PASS


def test_a_vm_that_was_moved_there() -> None:
    """The report's own tokens are not enough: the file does not show that they were the newest."""

    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha", "beta")
        await world.start("alpha", "web")
        await migrate(world, world.alpha, "beta")
        await world.wait(25)
        file = decode_file(daemon(world.alpha).history.evidence(BETA, trusted=True))
        assert world.enrolment.reference is not None
        repeated = repeat(file, now_s=1.8e9, reference=world.enrolment.reference, policy=world.policy)
        claims = {claim.name: claim for claim in repeated.record.result.claims}
        assert claims[ClaimName.RUNNING_LABELS].status is ClaimStatus.ABSENT
        assert (claims[ClaimName.RUNNING_LABELS].where, "moved here" in claims[ClaimName.RUNNING_LABELS].reason) == (
            "web",
            True,
        )
        assert claims[ClaimName.NETWORK_STATE].status is ClaimStatus.PASS

    play(test, MOVES)
