"""A boot of a real host (Debian 12, SELinux enforcing, swtpm) appraised with Reference Values taken from itself."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from shamon_host.attestation.appraisal import SELECTION, appraise_quoted
from shamon_host.attestation.evidence import Evidence
from shamon_host.attestation.ima_log import encode_ima_log, parse_ima_log
from shamon_host.attestation.pcr import Bank, replay
from shamon_host.attestation.ports import Quote
from shamon_host.attestation.quote import VerifiedQuote, verify_quote
from shamon_host.attestation.reference_model import ReferenceValues
from shamon_host.attestation.reference_record import Demanded, record
from shamon_host.attestation.verifier_state import VerifierState
from shamon_host.domain.policy import Demands
from shamon_host.domain.results import Claim, ClaimName, ClaimStatus

QUOTED_ENTRIES = 725
NONCE = bytes.fromhex("00112233445566778899aabbccddeeff")
DEMANDED = Demanded(
    ima_policy="/etc/selinux/default/contexts/files/file_contexts.subs_dist",
    code_prefix="/usr/lib/ipsec/",
    code_entry_globs=("*/libcharon.so.0.0.0",),
)
"""The captured host has no IMA policy of its own and no daemon: other files of its log stand in for them."""

Claims = dict[ClaimName, Claim]


@pytest.fixture(scope="module")
def evidence(vectors: Path) -> Evidence:
    def read(suffix: str) -> bytes:
        return (vectors / f"debian12-selinux.{suffix}").read_bytes()

    lines = (vectors / "debian12-selinux.pcrs.txt").read_text().splitlines()[1:]
    pairs = (line.split(":") for line in lines)
    pcrs = {int(number): bytes.fromhex(value.strip()[2:]) for number, value in pairs if int(number) < 15}
    # The PCRs were listed with the log, which runs two entries ahead of the quote.
    entries = parse_ima_log(read("ima"))[:QUOTED_ENTRIES]
    pcrs[10] = replay(Bank.SHA256, (entry.pcr_digest(Bank.SHA256) for entry in entries), bytes(32))
    return Evidence(
        quote=Quote(attest=read("attest"), signature=read("sig"), pcr_values=pcrs),
        merkle_index=0,
        merkle_path=(),
        event_log=read("tcg"),
        ima_offset=0,
        ima_log=read("ima"),
        hypervisor_report=b"",
        network_state=b"",
        audit_head=bytes(32),
    )


@pytest.fixture(scope="module")
def quoted(evidence: Evidence, vectors: Path) -> VerifiedQuote:
    quote, ak = evidence.quote, (vectors / "debian12-selinux.ak.pem").read_bytes()
    return verify_quote(quote.attest, quote.signature, ak, NONCE, SELECTION, {Bank.SHA256: quote.pcr_values})


@pytest.fixture(scope="module")
def reference(evidence: Evidence) -> ReferenceValues:
    return record(
        pcrs=evidence.quote.pcr_values, event_log=evidence.event_log, ima_log=evidence.ima_log, demanded=DEMANDED
    )


@pytest.fixture
def appraised(quoted: VerifiedQuote) -> Callable[..., tuple[Claims, VerifierState]]:
    def run(
        evidence: Evidence, reference: ReferenceValues, state: VerifierState | None = None
    ) -> tuple[Claims, VerifierState]:
        claims, following = appraise_quoted(quoted, evidence, demands=Demands(), reference=reference, state=state)
        return {claim.name: claim for claim in claims}, following

    return run


def test_it_passes(
    evidence: Evidence, reference: ReferenceValues, appraised: Callable[..., tuple[Claims, VerifierState]]
) -> None:
    claims, state = appraised(evidence, reference)
    assert {name: claim.reason for name, claim in claims.items() if claim.status is not ClaimStatus.PASS} == {}
    assert set(claims) == {
        ClaimName.BOOT_CHAIN,
        ClaimName.IMA_POLICY,
        ClaimName.SELINUX,
        ClaimName.SOFTWARE,
        ClaimName.SHAMON_CODE,
    }
    assert state.facts.entries == QUOTED_ENTRIES
    rest = evidence.ima_log[state.ima_offset :]
    assert len(parse_ima_log(rest, base_offset=state.ima_offset)) == 2
    again, unchanged = appraised(replace(evidence, ima_offset=state.ima_offset, ima_log=rest), reference, state)
    assert again == claims
    assert unchanged == state


def test_a_program_that_is_not_in_the_runtime_policy(
    evidence: Evidence, reference: ReferenceValues, appraised: Callable[..., tuple[Claims, VerifierState]]
) -> None:
    files = {path: digests for path, digests in reference.files.items() if path != "/usr/sbin/libvirtd"}
    claims, _ = appraised(evidence, replace(reference, files=files))
    assert "/usr/sbin/libvirtd" in claims[ClaimName.SOFTWARE].where


def test_a_log_without_one_of_its_entries(
    evidence: Evidence, reference: ReferenceValues, appraised: Callable[..., tuple[Claims, VerifierState]]
) -> None:
    entries = parse_ima_log(evidence.ima_log)
    claims, state = appraised(replace(evidence, ima_log=encode_ima_log(entries[:300] + entries[301:])), reference)
    assert claims[ClaimName.SOFTWARE].status is ClaimStatus.FAIL
    assert claims[ClaimName.SELINUX].status is ClaimStatus.ABSENT
    assert state.sticky == {}


def test_another_boot_order(
    evidence: Evidence, reference: ReferenceValues, appraised: Callable[..., tuple[Claims, VerifierState]]
) -> None:
    known = reference.pcrs[2][0]
    other = replace(known, value=bytes(32), events=known.events[:1] + known.events[2:])
    claims, _ = appraised(evidence, replace(reference, pcrs={**reference.pcrs, 2: (other,)}))
    assert claims[ClaimName.BOOT_CHAIN].where == "PCR 2, event 2"


def test_the_host_as_it_is_lacks_what_shamon_demands(evidence: Evidence) -> None:
    with pytest.raises(Exception, match="IMA policy"):
        record(pcrs=evidence.quote.pcr_values, event_log=evidence.event_log, ima_log=evidence.ima_log)
