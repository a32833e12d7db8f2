"""Logs that an attacker wrote: whatever their bytes, the outcome is a failed claim, never an exception or a pass."""

import hashlib
import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shamon_host.attestation.claims.boot_chain import boot_chain_claim
from shamon_host.attestation.ima_log import ima_buf_entry
from shamon_host.domain.results import ClaimName, ClaimStatus
from shamon_host.testing.machine import BootImage
from tests.examples import examples
from tests.unit.attestation.appraised_world import Attested, claim_of, recorded

_REFERENCE = recorded()
_WRONG = Attested(reference=_REFERENCE)
_WRONG.machine.boot(replace(BootImage(), initrd=b"another"))
_PCRS, _EVENT_LOG = dict(_WRONG.machine.tpm.pcrs), _WRONG.machine.logs.event_log()
_BAD = Attested(reference=_REFERENCE)
_BAD.machine.run_program("/tmp/unknown", b"x")
_IMA_LOG = _BAD.machine.logs.ima_log(0)


@st.composite
def changed(draw: st.DrawFn, original: bytes) -> bytes:
    """The log with some bytes changed, cut out or put in; or anything at all."""
    if draw(st.booleans()):
        return draw(st.binary(max_size=300))
    data = bytearray(original)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        data[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=4))
    return bytes(data)


@settings(deadline=None, max_examples=examples(150))
@given(changed(_EVENT_LOG))
def test_no_event_log_makes_a_wrong_boot_right(log: bytes) -> None:
    claim = boot_chain_claim(_PCRS, log, _REFERENCE, (12, 13))
    assert claim.status is ClaimStatus.FAIL
    assert "PCR" in claim.where


@settings(deadline=None, max_examples=examples(150))
@given(changed(_IMA_LOG))
def test_no_ima_log_hides_what_ran(log: bytes) -> None:
    world = Attested(machine=_BAD.machine, reference=_REFERENCE)
    _BAD.machine.run_program("/tmp/unknown", b"x")
    transcript = world.new_transcript()
    result = world.appraise(replace(world.evidence(transcript), ima_log=log), transcript)
    assert claim_of(result, ClaimName.BINDING).status is ClaimStatus.PASS
    assert claim_of(result, ClaimName.SOFTWARE).status is ClaimStatus.FAIL
    assert not result.trusted


@pytest.mark.parametrize("name", ["selinux-state", "selinux-policy-hash", "anything", "/usr/bin/\x01" * 100_000])
def test_what_is_remembered_of_an_entry_is_small_however_large_it_is(name: str) -> None:
    """Else a bad host could make a state that no store takes, and nobody would remember that it failed."""
    world = Attested(reference=_REFERENCE)
    entry = ima_buf_entry(name, b"\x00initialized=1;enforcing=0;" * 100_000)
    world.machine.tpm.extend(10, hashlib.sha256(entry.measured).digest())
    world.machine.logs.entries.append(entry)
    result = world.attest()
    assert not result.trusted
    assert world.state is not None
    assert world.state.sticky
    assert len(json.dumps(world.state.to_document())) < 32 * 1024
