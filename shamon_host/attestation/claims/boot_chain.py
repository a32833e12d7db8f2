"""The claim `boot-chain`: PCR 0-9 and 11-14 are what a good boot leaves, or the event that differs is named.

Decided by the quoted values alone; the event log explains a mismatch and proves nothing else. So a host without an
event log (Xen's dom0 after an EFI boot) can pass, and a log that lies changes no verdict.
"""

from collections.abc import Mapping, Sequence

from shamon_host.attestation.claims.making import failed, passed
from shamon_host.attestation.event_describe import describe
from shamon_host.attestation.event_log import EventLog, EventLogError, parse_event_log
from shamon_host.attestation.event_model import Event
from shamon_host.attestation.pcr import Bank, initial_value, replay
from shamon_host.attestation.reference_model import APPRAISED_PCRS, EventReference, PcrReference, ReferenceValues
from shamon_host.domain.results import Claim, ClaimName

_NAME = ClaimName.BOOT_CHAIN
_ZERO = bytes(32)


def boot_chain_claim(
    pcrs: Mapping[int, bytes], event_log: bytes, reference: ReferenceValues, empty_pcrs: Sequence[int]
) -> Claim:
    """The claim. `pcrs` are the quoted values, `empty_pcrs` those that the policy wants to be zero."""
    wrong = [
        pcr
        for pcr in APPRAISED_PCRS
        if (pcr in empty_pcrs and pcrs[pcr] != _ZERO)
        or (pcr not in empty_pcrs and all(pcrs[pcr] != known.value for known in reference.pcrs[pcr]))
    ]
    if not wrong:
        return passed(_NAME, "PCR 0-9 and 11-14 are as recorded from a good boot")
    log: EventLog | None = None
    unreadable = "there is no event log to name the event" if not event_log else ""
    if event_log:
        try:
            log = parse_event_log(event_log)
        except EventLogError as error:
            unreadable = f"the event log that should name the event is malformed: {error}"
    differences = [
        _empty_difference(pcr, pcrs[pcr], log)
        if pcr in empty_pcrs
        else _difference(pcr, pcrs[pcr], reference.pcrs[pcr], log, unreadable)
        for pcr in wrong
    ]
    # The PCR that can say which event it was is told first, above all one that ought to have none: what was given to
    # the image beside it leaves its traces in others, too.
    named = [item for item in differences if ", event" in item.where]
    unexpected = [item for pcr, item in zip(wrong, differences, strict=True) if pcr in empty_pcrs and item in named]
    first = next(iter(unexpected or named or differences))
    others = [_in_short(item) for item in differences if item is not first]
    also = f" ({', '.join(others)} {'differs' if len(others) == 1 else 'differ'} too)" if others else ""
    return failed(_NAME, f"{first.reason}{also}", where=first.where, expected=first.expected, found=first.found)


def _in_short(difference: Claim) -> str:
    """`event 1 of PCR 9 EV_EVENT_TAG: Linux initrd`, or the PCR alone."""
    pcr, _, event = difference.where.partition(", ")
    described, digest, _ = difference.found.rpartition(" (sha256 ")
    return f"{event} of {described if digest else pcr}" if event else pcr


def _empty_difference(pcr: int, value: bytes, log: EventLog | None) -> Claim:
    events = log.of_pcr(pcr) if log else ()
    return failed(
        _NAME,
        f"PCR {pcr} must be empty, but an event was extended into it",
        where=f"PCR {pcr}, event 1" if events else f"PCR {pcr}",
        expected="no event, all zeros",
        found=describe(events[0]) if events else value.hex(),
    )


def _difference(pcr: int, value: bytes, known: Sequence[PcrReference], log: EventLog | None, unreadable: str) -> Claim:
    """What is wrong with one PCR, in the terms of the recorded boot that it is closest to."""
    values = " or ".join(reference.value.hex() for reference in known)
    if log is None:
        return failed(
            _NAME, f"PCR {pcr} is not as recorded; {unreadable}", where=f"PCR {pcr}", expected=values, found=value.hex()
        )
    events = log.of_pcr(pcr)
    if Bank.SHA256 not in log.banks or not _explains(events, value, pcr, log.startup_locality):
        return failed(
            _NAME,
            f"PCR {pcr} is not as recorded, and the event log does not explain its value",
            where=f"PCR {pcr}",
            expected=values,
            found=value.hex(),
        )
    digests = [event.digests[Bank.SHA256] for event in events]
    closest = max(known, key=lambda reference: _common_prefix(digests, reference.events))
    at = _common_prefix(digests, closest.events)
    found = _found(events[at]) if at < len(events) else "no such event"
    expected = _expected(closest.events[at]) if at < len(closest.events) else "no further event"
    return failed(
        _NAME,
        f"PCR {pcr} is not as recorded: its event {at + 1} differs",
        where=f"PCR {pcr}, event {at + 1}",
        expected=expected if closest.events else values,
        found=found,
    )


def _explains(events: Sequence[Event], value: bytes, pcr: int, locality: int) -> bool:
    start = initial_value(Bank.SHA256, pcr, startup_locality=locality)
    return replay(Bank.SHA256, (event.digests[Bank.SHA256] for event in events), start) == value


def _common_prefix(digests: Sequence[bytes], known: Sequence[EventReference]) -> int:
    count = 0
    for digest, reference in zip(digests, known, strict=False):
        if digest != reference.digest:
            break
        count += 1
    return count


def _found(event: Event) -> str:
    return f"{describe(event)} (sha256 {event.digests[Bank.SHA256].hex()})"


def _expected(event: EventReference) -> str:
    return f"{event.description} (sha256 {event.digest.hex()})"
