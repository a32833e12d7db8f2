"""What was vouched for is kept, and judged anew just as if the log had been read again."""

import zlib
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shamon_host.attestation.appraisal import SELECTION, appraise_quoted
from shamon_host.attestation.evidence import Evidence
from shamon_host.attestation.ima_entry import ImaEntry
from shamon_host.attestation.ima_log import encode_ima_log
from shamon_host.attestation.ledger import Ledger, pack, unpack
from shamon_host.attestation.pcr import Bank
from shamon_host.attestation.ports import Quote
from shamon_host.attestation.quote import VerifiedQuote
from shamon_host.attestation.reference_model import ReferenceValues
from shamon_host.attestation.tpm_structures import ClockInfo
from shamon_host.attestation.verifier_state import VerifierState
from shamon_host.domain.errors import BadInput
from shamon_host.domain.policy import Demands
from shamon_host.domain.results import Claim, ClaimName, ClaimStatus
from tests.examples import examples
from tests.unit.attestation.measured_world import (
    entries,
    good_boot,
    good_reference,
    hexdigest,
    logs,
    references,
    with_pcr10,
)

CLOCK = ClockInfo(clock_ms=1, reset_count=1, restart_count=0, safe=True)


def judged(
    log: tuple[ImaEntry, ...], upto: int, reference: ReferenceValues, state: VerifierState | None
) -> tuple[tuple[Claim, ...], VerifierState]:
    """The claims of a quote after the first `upto` entries, which come from where the state says, if it can."""
    pcrs = with_pcr10(log[:upto])
    whole = state is None or (state.reference_digest != reference.digest and state.ledger.elsewhere > 0)
    offset = 0 if whole or state is None else state.ima_offset
    evidence = Evidence(
        quote=Quote(attest=b"", signature=b"", pcr_values=pcrs),
        merkle_index=0,
        merkle_path=(),
        event_log=b"",
        ima_offset=offset,
        ima_log=encode_ima_log(log)[offset:],
        hypervisor_report=b"",
        network_state=b"",
        audit_head=bytes(32),
    )
    quoted = VerifiedQuote(
        qualified_signer=b"", clock=CLOCK, firmware_version=0, selection=SELECTION, pcrs={Bank.SHA256: pcrs}
    )
    return appraise_quoted(quoted, evidence, demands=Demands(), reference=reference, state=state)


@settings(max_examples=examples(150), deadline=None)
@given(log=logs(), before=references(), after=references(), data=st.data())
def test_judging_the_ledger_anew_says_what_the_whole_log_would(
    log: tuple[ImaEntry, ...], before: ReferenceValues, after: ReferenceValues, data: st.DataObject
) -> None:
    """In any number of increments under the old values, then an increment under the new ones."""
    cuts = sorted(data.draw(st.lists(st.integers(1, len(log)), min_size=1, max_size=3)))
    state: VerifierState | None = None
    for cut in cuts:
        _, state = judged(log, cut, before, state)
    assert state is not None
    stored = VerifierState.from_document(state.to_document()).with_ledger(
        Ledger(pieces=(unpack(pack(state.ledger.entries)),))
    )
    upto = data.draw(st.integers(cuts[-1], len(log)))
    claims, following = judged(log, upto, after, stored)
    if before.digest != after.digest:
        fresh, whole = judged(log, upto, after, None)
        assert claims == fresh
        assert following == whole
        assert following.ima_offset == len(encode_ima_log(log[:upto]))


def test_the_log_is_not_asked_for_again() -> None:
    """The Evidence after the change has no entry at all, and the sticky failure is gone."""
    unknown = next(entry for entry in good_boot().entries if "libvirtd" in (entry.fields().path or ""))
    files = {path: digests for path, digests in good_reference().files.items() if "libvirtd" not in path}
    strict = replace(good_reference(), files=files)
    log = good_boot().entries
    claims, state = judged(log, len(log), strict, None)
    (software,) = (claim for claim in claims if claim.name is ClaimName.SOFTWARE)
    assert software.sticky
    assert str(unknown.fields().path) in software.where
    claims, state = judged(log, len(log), good_reference(), state)
    assert {claim.status for claim in claims} == {ClaimStatus.PASS}
    assert state.reference_digest == good_reference().digest


@pytest.mark.parametrize("spoil", ["one is missing", "one is changed", "one is elsewhere"])
def test_a_ledger_that_does_not_lead_to_what_was_vouched_for_is_void(spoil: str) -> None:
    log = good_boot().entries
    _, state = judged(log, len(log), good_reference(), None)
    entries_ = list(state.ledger.entries)
    ledger = Ledger(pieces=(tuple(entries_),))
    if spoil == "one is missing":
        ledger = Ledger(pieces=(tuple(entries_[:-1]),))
    elif spoil == "one is changed":
        ledger = Ledger(pieces=((*entries_[:-1], entries_[0]),))
    else:
        ledger = Ledger(elsewhere=1, pieces=(tuple(entries_[1:]),))
    other = replace(good_reference(), digests=frozenset({hexdigest(b"other")}))
    claims, following = judged(log, len(log), other, state.with_ledger(ledger))
    if spoil != "one is elsewhere":  # there the Verifier asks for the whole log at once
        assert ClaimStatus.FAIL in {claim.status for claim in claims}
        assert following.ima_offset == 0
        claims, following = judged(log, len(log), other, following)
    assert {claim.status for claim in claims} == {ClaimStatus.PASS}


@given(st.lists(entries(), max_size=30))
def test_what_is_packed_is_unpacked(log: list[ImaEntry]) -> None:
    again = unpack(pack(log))
    assert [(e.pcr, e.template, e.measured, e.violation) for e in again] == [
        (e.pcr, e.template, e.measured, e.violation) for e in log
    ]
    assert [e.pcr_digest(Bank.SHA256) for e in again] == [e.pcr_digest(Bank.SHA256) for e in log]


def test_entries_that_repeat_cost_little() -> None:
    (entry, *_) = good_boot().entries
    assert len(pack([entry] * 100_000)) < 1000


@settings(max_examples=examples(300))
@given(st.binary(max_size=60))
def test_bytes_that_are_no_ledger_are_refused_as_such(data: bytes) -> None:
    for stored in (data, zlib.compress(data), pack(good_boot().entries)[:-1] + data):
        try:
            unpack(stored)
        except BadInput:
            continue


@pytest.mark.parametrize(
    "plain",
    [
        b"\x01",  # before the beginning
        b"\x00",  # ends in an entry
        b"\x00\x0a\x02\x03ima\x00",  # unknown flags
        b"\x00\x0a\x00\x7fima\x00",  # longer than what is there
        b"\xff\xff\xff\xff\xff\xff\xff",  # no end
        b"\x00\x0a\x00\x02\xff\xfe\x00",  # no template
    ],
)
def test_a_malformed_ledger(plain: bytes) -> None:
    with pytest.raises(BadInput, match="ledger"):
        unpack(zlib.compress(plain))


def test_a_ledger_that_does_not_end_is_refused() -> None:
    bomb = zlib.compress(bytes(1 << 20) * 65)
    with pytest.raises(BadInput):
        unpack(bomb)
