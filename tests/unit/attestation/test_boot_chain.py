"""The claim boot-chain: a boot that differs is refused, and the PCR and the event are named."""

from dataclasses import replace

import pytest

from shamon_host.attestation.claims.boot_chain import boot_chain_claim
from shamon_host.attestation.event_log import EventLog, encode_event_log, parse_event_log
from shamon_host.attestation.event_model import Event, EventType
from shamon_host.attestation.pcr import Bank
from shamon_host.attestation.reference_model import PcrReference
from shamon_host.domain.policy import Demands
from shamon_host.domain.results import Claim, ClaimName, ClaimStatus
from shamon_host.testing.machine import BootImage, MeasuredMachine
from tests.unit.attestation.appraised_world import Attested, claim_of, recorded

BANKS = (Bank.SHA1, Bank.SHA256)
GOOD = BootImage()


def booted(image: BootImage) -> MeasuredMachine:
    machine = MeasuredMachine()
    machine.boot(image)
    return machine


def claim_about(machine: MeasuredMachine, *, log: bytes | None = None, empty: tuple[int, ...] = (12, 13)) -> Claim:
    event_log = machine.logs.event_log() if log is None else log
    return boot_chain_claim(machine.tpm.pcrs, event_log, recorded(), empty)


def log_of(machine: MeasuredMachine) -> EventLog:
    return parse_event_log(machine.logs.event_log())


@pytest.mark.parametrize(
    ("image", "pcr", "event", "words"),
    [
        (replace(GOOD, firmware=b"another firmware"), 0, 2, "EV_EFI_PLATFORM_FIRMWARE_BLOB"),
        (replace(GOOD, uki=b"another image"), 4, 1, "EV_EFI_BOOT_SERVICES_APPLICATION"),
        (replace(GOOD, kernel=b"another kernel"), 4, 1, "EV_EFI_BOOT_SERVICES_APPLICATION"),
        (replace(GOOD, cmdline="enforcing=0"), 4, 1, "EV_EFI_BOOT_SERVICES_APPLICATION"),
    ],
)
def test_the_pcr_and_its_event_are_named(image: BootImage, pcr: int, event: int, words: str) -> None:
    claim = claim_about(booted(image))
    assert claim.status is ClaimStatus.FAIL
    assert claim.where == f"PCR {pcr}, event {event}"
    assert f"PCR {pcr}" in claim.reason
    assert "event" in claim.reason
    assert words in claim.expected
    assert words in claim.found
    assert claim.expected != claim.found


def test_all_pcrs_that_differ_are_named() -> None:
    claim = claim_about(booted(replace(GOOD, cmdline="init_on_alloc=0")))
    for words in ("PCR 4", "LoadOptions", "section .cmdline of the unified kernel image"):
        assert words in claim.reason
    claim = claim_about(booted(replace(GOOD, initrd=b"another initrd")))
    assert "event 2 of PCR 9 EV_EVENT_TAG: Linux initrd" in claim.reason
    assert "section .cmdline" not in claim.reason


def test_a_single_pcr_that_differs() -> None:
    """As after a command line that replaced the image's own, without the load options' own PCR."""
    machine = booted(GOOD)
    machine.tpm.extend(8, bytes(32))
    claim = claim_about(machine)
    assert claim.where == "PCR 8"
    assert "does not explain" in claim.reason


def test_a_replaced_command_line_is_seen_in_pcr_12() -> None:
    claim = claim_about(booted(replace(GOOD, load_options="enforcing=0")))
    assert claim.where == "PCR 12, event 1"
    assert "must be empty" in claim.reason
    assert "PCR 9" in claim.reason


@pytest.mark.parametrize("pcr", [12, 13])
def test_pcrs_that_must_be_empty(pcr: int) -> None:
    machine = booted(GOOD)
    event = Event.measuring(pcr, EventType.EV_IPL, b"credentials", banks=BANKS)
    machine.tpm.extend(pcr, event.digests[Bank.SHA256])
    log = encode_event_log([*log_of(machine).events, event], banks=BANKS)
    claim = claim_about(machine, log=log)
    assert claim.where == f"PCR {pcr}, event 1"
    assert "credentials" in claim.found
    assert "must be empty" in claim.reason


def test_without_that_demand_the_recorded_value_counts() -> None:
    machine = booted(GOOD)
    machine.tpm.extend(12, bytes(32))
    assert claim_about(machine, empty=()).status is ClaimStatus.FAIL
    reference = recorded()
    known = replace(reference, pcrs={**reference.pcrs, 12: (PcrReference(value=machine.tpm.pcrs[12]),)})
    assert boot_chain_claim(machine.tpm.pcrs, machine.logs.event_log(), known, ()).status is ClaimStatus.PASS


def test_an_event_too_many() -> None:
    machine = booted(GOOD)
    event = Event.measuring(4, EventType.EV_EFI_BOOT_SERVICES_APPLICATION, b"one more", banks=BANKS)
    machine.tpm.extend(4, event.digests[Bank.SHA256])
    claim = claim_about(machine, log=encode_event_log([*log_of(machine).events, event], banks=BANKS))
    assert claim.where == "PCR 4, event 5"
    assert claim.expected == "no further event"


def test_an_event_too_few() -> None:
    machine = MeasuredMachine()
    machine.boot(GOOD)
    events = [event for event in log_of(machine).events if event.pcr != 9 or b"initrd" not in event.data.lower()]
    tpm = type(machine.tpm)()
    for event in events:
        tpm.extend(event.pcr, event.digests[Bank.SHA256])
    claim = boot_chain_claim(tpm.pcrs, encode_event_log(events, banks=BANKS), recorded(), (12, 13))
    assert claim.where == "PCR 9, event 2"
    assert claim.found == "no such event"


def test_a_log_that_does_not_explain_the_pcr_explains_nothing() -> None:
    """The attester of another boot shows the log of a good one."""
    claim = claim_about(booted(replace(GOOD, kernel=b"evil")), log=booted(GOOD).logs.event_log())
    assert "does not explain" in claim.reason
    assert claim.where.startswith("PCR")


@pytest.mark.parametrize("log", [b"", b"\xff" * 64, b"no event log"])
def test_without_a_log_the_pcr_alone_is_named(log: bytes) -> None:
    claim = claim_about(booted(replace(GOOD, kernel=b"evil")), log=log)
    assert claim.where == "PCR 4"
    assert claim.status is ClaimStatus.FAIL
    assert "event log" in claim.reason


def test_good_pcrs_need_no_log() -> None:
    """Xen's dom0 has none after an EFI boot."""
    assert claim_about(booted(GOOD), log=b"").status is ClaimStatus.PASS


def test_several_good_boots_may_be_known() -> None:
    other = replace(GOOD, firmware=b"newer firmware")
    world = Attested(reference=recorded().merged(recorded(other)))
    assert world.attest().trusted
    world.machine.boot(other)
    assert world.attest().trusted
    world.machine.boot(replace(GOOD, firmware=b"unknown firmware"))
    assert claim_of(world.attest(), ClaimName.BOOT_CHAIN).where == "PCR 0, event 2"


def test_a_policy_without_empty_pcrs() -> None:
    world = Attested(demands=Demands(allow_software_tpm=True, empty_pcrs=()))
    assert world.attest().trusted
