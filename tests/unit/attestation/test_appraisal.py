"""The Verifier: who made the Evidence and when, how the log travels, what sticks and until when."""

import hashlib
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from shamon_host.attestation.evidence import Role
from shamon_host.attestation.ima_log import encode_ima_log
from shamon_host.attestation.pcr import Bank, composite_digest
from shamon_host.attestation.ports import QUOTED_PCRS
from shamon_host.attestation.tpm_structures import QuoteAttest, TpmSignature
from shamon_host.attestation.verifier_state import VerifierState
from shamon_host.domain.errors import BadInput, NotTrusted
from shamon_host.domain.policy import Demands
from shamon_host.domain.results import Claim, ClaimName, ClaimStatus, TpmKind
from shamon_host.testing.machine import MeasuredMachine
from shamon_host.testing.tpm import MemoryTpm
from tests.unit.attestation.appraised_world import Attested, claim_of, good

UNKNOWN = "/usr/local/bin/unknown"


@pytest.fixture
def world() -> Attested:
    return Attested()


def test_a_good_host_is_trusted(world: Attested) -> None:
    result = world.attest()
    assert result.trusted
    assert [claim.name for claim in result.claims] == list(ClaimName)
    assert result.ak_name[:2] == b"\x00\x0b"
    assert result.reset_count == world.machine.tpm.reset_count


class TestBinding:
    def test_old_evidence_is_refused(self, world: Attested) -> None:
        transcript = world.new_transcript()
        old = world.evidence(transcript)
        assert world.appraise(old, transcript).trusted
        state = world.state
        result = world.appraise(old, world.new_transcript())
        claim = claim_of(result, ClaimName.BINDING)
        assert claim.status is ClaimStatus.FAIL
        assert "qualifying data" in claim.reason
        assert {claim.status for claim in result.claims[1:]} == {ClaimStatus.ABSENT}
        assert world.state == state

    def test_evidence_is_for_its_role(self, world: Attested) -> None:
        transcript = world.new_transcript()
        result = world.appraise(world.evidence(transcript), transcript, role=Role.INITIATOR)
        assert claim_of(result, ClaimName.BINDING).status is ClaimStatus.FAIL

    def test_another_ak_is_refused(self, world: Attested) -> None:
        transcript = world.new_transcript()
        result = world.appraise(world.evidence(transcript), transcript, ak_public=MemoryTpm().ak_public())
        assert "AK" in claim_of(result, ClaimName.BINDING).reason

    def test_an_old_tpm_that_signs_over_sha1_only_if_the_policy_says_so(self, world: Attested) -> None:
        # A key that its TPM keeps, which is enrolled by its PEM: so nothing but the signature says its hash.
        key = ec.generate_private_key(ec.SECP256R1())
        pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        transcript = world.new_transcript()
        evidence = world.evidence(transcript)
        quoted = QuoteAttest.parse(evidence.quote.attest)
        digest = composite_digest(Bank.SHA1, quoted.selection, {Bank.SHA256: evidence.quote.pcr_values})
        attest = replace(quoted, pcr_digest=digest).encode()
        r, s = decode_dss_signature(key.sign(attest, ec.ECDSA(SHA1())))
        signature = TpmSignature.ecdsa(Bank.SHA1, r, s).encode()
        evidence = replace(evidence, quote=replace(evidence.quote, attest=attest, signature=signature))
        claim = claim_of(world.appraise(evidence, transcript, ak_public=pem), ClaimName.BINDING)
        assert claim.status is ClaimStatus.FAIL
        assert "SHA-1" in claim.reason
        world.demands = replace(world.demands, allow_sha1=True)
        assert world.appraise(evidence, transcript, ak_public=pem).trusted

    @pytest.mark.parametrize("name", ["hypervisor_report", "network_state", "audit_head"])
    def test_what_is_reported_is_bound(self, world: Attested, name: str) -> None:
        transcript = world.new_transcript()
        another: dict[str, Any] = {name: hashlib.sha256(b"another").digest()}
        changed = replace(world.evidence(transcript), **another)
        assert not world.appraise(changed, transcript).trusted

    def test_pcr_values_are_the_quoted_ones(self, world: Attested) -> None:
        transcript = world.new_transcript()
        evidence = world.evidence(transcript)
        values = {**evidence.quote.pcr_values, 4: bytes(32)}
        result = world.appraise(replace(evidence, quote=replace(evidence.quote, pcr_values=values)), transcript)
        assert claim_of(result, ClaimName.BINDING).status is ClaimStatus.FAIL

    @pytest.mark.parametrize("path", [(b"short",), (bytes(32),) * 17])
    def test_a_malformed_path_is_a_failed_claim(self, world: Attested, path: tuple[bytes, ...]) -> None:
        transcript = world.new_transcript()
        result = world.appraise(replace(world.evidence(transcript), merkle_path=path), transcript)
        assert claim_of(result, ClaimName.BINDING).status is ClaimStatus.FAIL

    def test_bytes_that_are_no_quote(self, world: Attested) -> None:
        transcript = world.new_transcript()
        evidence = world.evidence(transcript)
        for quote in (replace(evidence.quote, attest=b"?"), replace(evidence.quote, signature=b"")):
            result = world.appraise(replace(evidence, quote=quote), transcript)
            assert claim_of(result, ClaimName.BINDING).status is ClaimStatus.FAIL

    def test_an_unreadable_first_evidence_leaves_no_trace(self, world: Attested) -> None:
        transcript = world.new_transcript()
        world.appraise(replace(world.evidence(transcript), ima_log=b"", network_state=b"x"), transcript)
        assert world.state == VerifierState.unseen()
        world.machine.tpm.reset_count = 1 << 31  # disguised counts start anywhere
        world.machine.boot()
        assert world.attest().trusted

    def test_an_enrolled_key_that_is_no_ak_is_an_error(self, world: Attested) -> None:
        transcript = world.new_transcript()
        with pytest.raises(NotTrusted):
            world.appraise(world.evidence(transcript), transcript, ak_public=b"no key")


class TestClock:
    def test_a_reset_count_that_went_back_is_refused(self, world: Attested) -> None:
        world.machine.boot()
        assert world.attest().trusted
        world.machine.tpm.reset_count -= 2
        world.machine.boot()
        claim = claim_of(world.attest(), ClaimName.BINDING)
        assert (claim.status, "resetCount" in claim.reason) == (ClaimStatus.FAIL, True)

    def test_a_clock_that_went_back_within_a_boot_is_refused(self) -> None:
        now = [100.0]
        world = Attested(machine=MeasuredMachine(clock_s=lambda: now[0]))
        assert world.attest().trusted
        now[0] = 99.0
        claim = claim_of(world.attest(), ClaimName.BINDING)
        assert (claim.status, "clock" in claim.reason) == (ClaimStatus.FAIL, True)
        now[0] = 101.0
        assert world.attest().trusted

    def test_after_a_boot_the_clock_may_start_anywhere(self) -> None:
        now = [100.0]
        world = Attested(machine=MeasuredMachine(clock_s=lambda: now[0]))
        assert world.attest().trusted
        now[0] = 5.0
        world.machine.boot()
        assert world.attest().trusted

    def test_counts_that_wrap_around_go_forward(self, world: Attested) -> None:
        world.machine.tpm.reset_count = (1 << 32) - 2
        world.machine.boot()
        assert world.attest().trusted
        world.machine.tpm.reset_count = -1
        world.machine.boot()
        assert world.attest().trusted


class TestIncrements:
    def test_only_what_is_new_travels(self, world: Attested) -> None:
        assert world.attest().trusted
        assert world.state is not None
        assert world.state.ima_offset == len(world.machine.logs.ima_log(0))
        world.machine.run_program("/usr/sbin/libvirtd", b"\x7fELF libvirtd")  # logged before
        transcript = world.new_transcript()
        evidence = world.evidence(transcript)
        assert evidence.ima_log == b""
        assert world.appraise(evidence, transcript).trusted

    def test_a_whole_log_is_welcome_at_any_time(self, world: Attested) -> None:
        world.attest()
        state = world.state
        transcript = world.new_transcript()
        assert world.appraise(world.evidence(transcript, offset=0), transcript).trusted
        assert world.state == state

    def test_a_new_entry_in_a_whole_log_is_seen(self, world: Attested) -> None:
        world.attest()
        world.machine.run_program(UNKNOWN, b"x")
        transcript = world.new_transcript()
        result = world.appraise(world.evidence(transcript, offset=0), transcript)
        assert UNKNOWN in claim_of(result, ClaimName.SOFTWARE).where

    def test_the_log_may_run_ahead_of_the_quote(self, world: Attested) -> None:
        transcript = world.new_transcript()
        evidence = world.evidence(transcript)
        world.machine.run_program(UNKNOWN, b"x")
        ahead = replace(evidence, ima_log=world.machine.logs.ima_log(0))
        assert world.appraise(ahead, transcript).trusted
        assert world.state is not None
        assert world.state.ima_offset == len(evidence.ima_log)
        assert not world.attest().trusted

    def test_an_entry_cut_short_behind_the_quote_is_ignored(self, world: Attested) -> None:
        transcript = world.new_transcript()
        evidence = world.evidence(transcript)
        world.machine.run_program(UNKNOWN, b"x")
        ahead = replace(evidence, ima_log=world.machine.logs.ima_log(0)[:-3])
        assert world.appraise(ahead, transcript).trusted

    @pytest.mark.parametrize("change", ["last", "first", "order", "truncated", "garbage", "all"])
    def test_a_log_that_does_not_lead_to_the_quote_fails_but_does_not_stick(self, world: Attested, change: str) -> None:
        entries = world.machine.logs.entries
        log = {
            "last": encode_ima_log(entries[:-1]),
            "first": encode_ima_log(entries[1:]),
            "order": encode_ima_log([*entries[:-2], entries[-1], entries[-2]]),
            "truncated": world.machine.logs.ima_log(0)[:-1],
            "garbage": b"\xff" * 100,
            "all": b"",
        }[change]
        transcript = world.new_transcript()
        result = world.appraise(replace(world.evidence(transcript), ima_log=log), transcript)
        assert claim_of(result, ClaimName.SOFTWARE).status is ClaimStatus.FAIL
        assert not claim_of(result, ClaimName.SOFTWARE).sticky
        for name in (ClaimName.IMA_POLICY, ClaimName.SELINUX, ClaimName.SHAMON_CODE):
            assert claim_of(result, name).status is ClaimStatus.ABSENT
        assert world.attest().trusted

    def test_a_log_shorter_than_what_was_vouched_for_is_refused(self, world: Attested) -> None:
        world.attest()
        transcript = world.new_transcript()
        evidence = world.evidence(transcript, offset=0)
        shorter = replace(evidence, ima_log=encode_ima_log(world.machine.logs.entries[:-1]))
        claim = claim_of(world.appraise(shorter, transcript), ClaimName.SOFTWARE)
        assert "shorter" in claim.reason

    def test_a_log_from_elsewhere_is_refused(self, world: Attested) -> None:
        world.attest()
        transcript = world.new_transcript()
        end = world.machine.logs.entries[0].end_offset or 100
        result = world.appraise(replace(world.evidence(transcript), ima_offset=end), transcript)
        assert "starts elsewhere" in claim_of(result, ClaimName.SOFTWARE).reason
        assert world.attest().trusted

    def test_a_new_boot_is_told_from_its_beginning(self, world: Attested) -> None:
        world.attest()
        world.machine.boot()
        assert world.attest().trusted
        transcript = world.new_transcript()
        evidence = world.evidence(transcript)
        world.machine.boot()
        stale = world.new_transcript()
        moved = replace(world.evidence(stale), ima_offset=evidence.ima_offset, ima_log=b"")
        assert not world.appraise(moved, stale).trusted


class TestSticky:
    def test_a_failure_sticks_until_the_next_boot(self, world: Attested) -> None:
        assert world.attest().trusted
        world.machine.run_program(UNKNOWN, b"x")
        first = world.attest()
        again = world.attest()
        assert claim_of(again, ClaimName.SOFTWARE) == claim_of(first, ClaimName.SOFTWARE)
        assert claim_of(again, ClaimName.SOFTWARE).sticky
        assert [claim.name for claim in again.failures] == [ClaimName.SOFTWARE]
        world.machine.boot()
        assert world.attest().trusted

    def test_it_sticks_through_evidence_that_proves_nothing(self, world: Attested) -> None:
        world.machine.run_program(UNKNOWN, b"x")
        failed = claim_of(world.attest(), ClaimName.SOFTWARE)
        transcript = world.new_transcript()
        evidence = world.evidence(transcript)
        unvouched = world.appraise(replace(evidence, ima_log=b"?"), transcript)
        unbound = world.appraise(evidence, world.new_transcript())
        for result in (unvouched, unbound):
            assert claim_of(result, ClaimName.SOFTWARE) == failed

    def test_permissive_once_is_permissive_until_the_next_boot(self, world: Attested) -> None:
        """IMA logs a state once: going permissive a second time leaves no trace."""
        assert world.attest().trusted
        world.machine.setenforce(False)
        world.machine.setenforce(True)
        assert claim_of(world.attest(), ClaimName.SELINUX).found == "enforcing=0"
        count = world.machine.logs.measurement_count()
        world.machine.setenforce(False)
        assert world.machine.logs.measurement_count() == count
        assert claim_of(world.attest(), ClaimName.SELINUX).status is ClaimStatus.FAIL
        world.machine.boot()
        assert world.attest().trusted

    def test_changed_reference_values_clear_it(self, world: Attested) -> None:
        world.machine.run_program(UNKNOWN, b"x")
        assert not world.attest().trusted
        files = {**world.reference.files, UNKNOWN: frozenset({hashlib.sha256(b"x").hexdigest()})}
        world.reference = replace(world.reference, files=files)
        assert world.state is not None
        world.state = world.state.under(world.reference.digest)
        assert world.state.ima_offset == 0
        assert world.attest().trusted

    def test_unbound_evidence_after_a_change_judges_nothing(self, world: Attested) -> None:
        """Neither by the old values, nor by the new ones: what was vouched for waits for a quote."""
        world.machine.run_program(UNKNOWN, b"x")
        assert not world.attest().trusted
        before = world.state
        world.reference = replace(world.reference, version=2)
        evidence = world.evidence(world.new_transcript())
        claim = claim_of(world.appraise(evidence, world.new_transcript()), ClaimName.SOFTWARE)
        assert claim.status is ClaimStatus.ABSENT
        assert not claim.sticky
        assert world.state == before

    def test_under_changed_reference_values_an_increment_proves_nothing(self, world: Attested) -> None:
        assert world.attest().trusted
        world.reference = replace(world.reference, files={**world.reference.files, "/a": frozenset({"0" * 64})})
        assert not claim_of(world.attest(), ClaimName.SOFTWARE).sticky
        assert world.attest().trusted


class TestUpperLayers:
    def test_a_missing_report_is_absent(self, world: Attested) -> None:
        world.report = b""
        result = world.attest()
        assert claim_of(result, ClaimName.BINDING).status is ClaimStatus.PASS
        assert claim_of(result, ClaimName.RUNNING_LABELS).status is ClaimStatus.ABSENT

    def test_a_check_that_fails(self, world: Attested) -> None:
        bad = Claim(name=ClaimName.RUNNING_LABELS, status=ClaimStatus.FAIL, reason="a label", where="web")
        transcript = world.new_transcript()
        result = world.appraise(world.evidence(transcript), transcript, check_hypervisor_report=lambda _: bad)
        assert result.failures == (bad,)

    def test_a_check_that_cannot_read_the_report(self, world: Attested) -> None:
        def unreadable(_: bytes) -> Claim:
            raise BadInput("no JSON")

        transcript = world.new_transcript()
        result = world.appraise(world.evidence(transcript), transcript, check_network_state=unreadable)
        assert claim_of(result, ClaimName.NETWORK_STATE).status is ClaimStatus.FAIL

    def test_a_check_of_something_else_is_no_check(self, world: Attested) -> None:
        transcript = world.new_transcript()
        result = world.appraise(
            world.evidence(transcript), transcript, check_network_state=good(ClaimName.RUNNING_LABELS)
        )
        assert claim_of(result, ClaimName.NETWORK_STATE).status is ClaimStatus.ABSENT


class TestTpmKind:
    @pytest.mark.parametrize(
        ("kind", "allowed", "trusted"),
        [
            (TpmKind.HARDWARE, False, True),
            (TpmKind.HARDWARE, True, True),
            (TpmKind.SOFTWARE, True, True),
            (TpmKind.SOFTWARE, False, False),
        ],
    )
    def test_software_only_where_the_policy_allows_it(self, kind: TpmKind, allowed: bool, trusted: bool) -> None:
        world = Attested(tpm_kind=kind, demands=Demands(allow_software_tpm=allowed))
        result = world.attest()
        assert result.trusted is trusted
        assert result.tpm is kind


def test_a_quote_covers_pcr_0_to_14(world: Attested) -> None:
    assert sorted(world.evidence(world.new_transcript()).quote.pcr_values) == list(QUOTED_PCRS)


class TestStateDocument:
    def test_a_changed_store_is_no_state(self, world: Attested) -> None:
        world.machine.run_program(UNKNOWN, b"x")
        world.attest()
        assert world.state is not None
        document = world.state.to_document()
        for change in (
            {"ima_pcr": "00"},
            {"reset_count": "1"},
            {"ima_offset": -1},
            {"facts": None},
            {"sticky": [{"name": "binding", "reason": "", "where": "", "expected": "", "found": ""}]},
            {"sticky": [{"name": "luck"}]},
        ):
            with pytest.raises(BadInput):
                VerifierState.from_document({**document, **change})
