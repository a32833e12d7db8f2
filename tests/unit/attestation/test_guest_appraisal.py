"""What a host says of its guests: each claim, with and without SELinux, and that no byte of an answer makes it pass."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shamon_host.attestation.guest_appraisal import appraise_guest, demanded_claims
from shamon_host.attestation.guest_messages import read_answer
from shamon_host.attestation.guest_reference import GuestBoot
from shamon_host.attestation.ima_log import ima_sig_entry
from shamon_host.attestation.verifier_state import VerifierState
from shamon_host.domain.errors import NotTrusted, ShamonError
from shamon_host.domain.labels import VmName
from shamon_host.domain.results import ClaimName, ClaimStatus
from shamon_host.guest_agent.answering import Answering
from shamon_host.testing.machine import IMA_POLICY, MeasuredMachine
from tests.examples import examples
from tests.unit.attestation.guest_world import (
    BOOT,
    GuestWorld,
    booted,
    claim_of,
    failing,
    recorded,
    without_selinux,
)

GUEST_CLAIMS = [
    ClaimName.BINDING,
    ClaimName.BOOT_CHAIN,
    ClaimName.IMA_POLICY,
    ClaimName.SELINUX,
    ClaimName.SOFTWARE,
    ClaimName.SHAMON_CODE,
]


def small() -> GuestWorld:
    return GuestWorld(machine=without_selinux(), reference=recorded(without_selinux()))


def test_a_good_guest_passes_every_claim_that_its_kind_has() -> None:
    world = GuestWorld()
    result = world.attest()
    assert result.trusted
    assert [claim.name for claim in result.claims] == GUEST_CLAIMS == list(demanded_claims(world.reference))
    world.machine.run_program("/usr/sbin/libvirtd", b"\x7fELF libvirtd")
    assert world.attest().trusted


def test_a_guest_without_selinux_passes_the_others() -> None:
    world = small()
    result = world.attest()
    assert result.trusted
    assert [claim.name for claim in result.claims] == [name for name in GUEST_CLAIMS if name is not ClaimName.SELINUX]
    assert not GuestWorld(machine=without_selinux()).attest().trusted, "one that should have it"


@pytest.mark.parametrize("make", [GuestWorld, small])
def test_a_strange_program_fails_and_sticks_until_the_next_boot(make: type[GuestWorld]) -> None:
    world = make()
    assert world.attest().trusted
    world.machine.run_program("/tmp/strange", b"x")
    first = world.attest()
    assert failing(first) == [ClaimName.SOFTWARE]
    assert "/tmp/strange" in claim_of(first, ClaimName.SOFTWARE).where
    assert not first.transient
    assert failing(world.attest()) == [ClaimName.SOFTWARE]


@pytest.mark.parametrize(
    ("boot", "where", "words"),
    [
        (replace(BOOT, kernel="3" * 64), "kernel", "another kernel"),
        (replace(BOOT, initrd=""), "initrd", "another initrd"),
        (replace(BOOT, cmdline="quiet init=/bin/sh"), "cmdline", "another command line"),
        (GuestBoot(), "kernel", "another kernel"),
    ],
)
def test_what_its_host_started_is_part_of_the_boot_chain(boot: GuestBoot, where: str, words: str) -> None:
    result = GuestWorld(boot=boot).attest()
    assert failing(result) == [ClaimName.BOOT_CHAIN]
    claim = claim_of(result, ClaimName.BOOT_CHAIN)
    assert (claim.where, words in claim.reason) == (where, True)


def test_firmware_that_measures_something_else() -> None:
    world = GuestWorld()
    world.machine.tpm.extend(0, b"x" * 32)
    assert ClaimName.BOOT_CHAIN in failing(world.attest())


def test_a_guest_that_never_loaded_its_ima_policy() -> None:
    machine = without_selinux()
    reference = recorded(machine)
    other = MeasuredMachine()
    other.tpm.reset()
    other.logs.present = True
    for entry in machine.logs.entries:
        if entry.fields().path != IMA_POLICY:
            other._append(entry)
    assert failing(GuestWorld(machine=other, reference=reference).attest()) == [ClaimName.IMA_POLICY]


def test_an_answer_is_for_one_question_about_one_vm() -> None:
    world = GuestWorld()
    first = world.request()
    answer = world.answer(first)
    for request in (world.request(), replace(first, vm=VmName("db"))):
        result = world.appraise(answer, request)
        assert failing(result)[0] is ClaimName.BINDING
        assert not result.bound
        assert not result.transient
        assert world.state is None
    assert world.appraise(answer, first).trusted


def test_another_ak() -> None:
    world = GuestWorld(ak=booted().tpm.ak_public())
    result = world.attest()
    assert not result.bound
    assert {claim.status for claim in result.claims[1:]} == {ClaimStatus.ABSENT}


@pytest.mark.parametrize("ak", [b"", b"\x00" * 90, b"-----BEGIN PUBLIC KEY-----\n"])
def test_an_ak_that_is_no_key(ak: bytes) -> None:
    world = GuestWorld()
    request = world.request()
    result, state = appraise_guest(
        world.answer(request), request=request, ak_public=ak, boot=BOOT, reference=world.reference, state=None
    )
    assert (result.bound, result.trusted, state) == (False, False, None)


def test_a_tpm_that_goes_back() -> None:
    world = GuestWorld()
    world.machine.boot()
    assert world.attest().trusted
    world.machine.tpm.reset_count -= 1
    assert "went backwards" in claim_of(world.attest(), ClaimName.BINDING).reason


def test_a_log_that_was_read_too_early_says_nothing_yet() -> None:
    world = GuestWorld()
    assert world.attest().trusted
    world.machine.run_program("/tmp/strange", b"x")
    request = world.request()
    answer = world.answer(request)
    early = replace(answer, evidence=replace(answer.evidence, ima_log=b""))
    result = world.appraise(early, request)
    assert not result.trusted
    assert result.transient
    assert failing(world.attest()) == [ClaimName.SOFTWARE]


def test_other_reference_values_judge_the_whole_log_anew() -> None:
    world = GuestWorld()
    assert world.attest().trusted
    world.machine.run_program("/usr/bin/more", b"more")
    assert not world.attest().trusted
    world.state = VerifierState.from_document(world.state.to_document()) if world.state else None
    before, world.reference = world.reference, recorded(world.machine)
    assert world.attest().trusted
    world.reference = before
    assert failing(world.attest()) == [ClaimName.SOFTWARE]


def test_a_new_boot_is_asked_for_all_of_its_log() -> None:
    world = GuestWorld()
    assert world.attest().trusted
    world.machine.run_program("/tmp/strange", b"x")
    assert not world.attest().trusted
    world.machine.boot()
    request = world.request()
    answer = world.answer(request)
    assert request.ima_offset > 0
    assert answer.evidence.ima_offset == 0
    assert world.appraise(answer, request).trusted


_WORLD = GuestWorld()
_WORLD.machine.run_program("/tmp/strange", b"x")
_REQUEST = _WORLD.request()
_ANSWER = Answering(tpm=_WORLD.machine.tpm, logs=_WORLD.machine.logs).answer(_REQUEST.encode())


@settings(deadline=None, max_examples=examples(200))
@given(st.data())
def test_no_byte_of_an_answer_makes_a_bad_guest_good(data: st.DataObject) -> None:
    changed = bytearray(_ANSWER)
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(0, len(changed) - 1))
        changed[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    try:
        answer = read_answer(bytes(changed))
    except ShamonError:
        return
    result, _ = appraise_guest(
        answer, request=_REQUEST, ak_public=_WORLD.ak, boot=BOOT, reference=_WORLD.reference, state=None
    )
    assert not result.trusted


def test_what_is_no_start_to_record() -> None:
    machine = booted()
    machine.setenforce(False)
    with pytest.raises(NotTrusted, match="SELinux was not enforcing"):
        recorded(machine)
    machine = without_selinux()
    machine.race("/srv/data")
    with pytest.raises(NotTrusted, match="not reliable"):
        recorded(machine)
    machine = MeasuredMachine()
    machine.logs.present = True
    machine._append(ima_sig_entry("/usr/bin/x", b"1" * 32))
    with pytest.raises(NotTrusted, match="has not measured its IMA policy"):
        recorded(machine)
