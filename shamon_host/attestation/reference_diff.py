"""What a host would fail on under its Reference Values, and for each difference the part that would allow it.

The judge is the Verifier's own (`walk`, `boot_chain_claim`). A part allows just what was found: whether it should be
allowed is for a person to decide, who then merges it (`shamon reference merge`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from shamon_host.attestation.claims.boot_chain import boot_chain_claim
from shamon_host.attestation.claims.measurements import Lacking, LogFailure, log_claims, walk
from shamon_host.attestation.event_describe import describe
from shamon_host.attestation.event_log import EventLog, EventLogError, parse_event_log
from shamon_host.attestation.ima_entry import ImaEntry
from shamon_host.attestation.pcr import Bank, initial_value, replay
from shamon_host.attestation.reference_model import (
    APPRAISED_PCRS,
    EventReference,
    PcrReference,
    ReferencePart,
    ReferenceValues,
    SelinuxReference,
)
from shamon_host.attestation.reference_paths import exact_pattern, overlaps, too_wide
from shamon_host.attestation.verifier_state import LogFacts
from shamon_host.domain.results import Claim, ClaimStatus

_SHA256_HEX = 64
_HOPELESS = (Lacking.NOTHING, Lacking.STRONG_HASH)
_FLAGS = {"initialized=1", "enforcing=1"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One thing that would fail."""

    claim: Claim
    missing: str
    """The rule that is missing, in words; or why none can be given."""
    part: ReferencePart | None
    """What would allow it; None where no Reference Values can."""
    entry: int | None = None
    """Number of the entry in the IMA log, from 1; None for a PCR, or for an entry that is not there."""
    path: str = ""
    """The file, or the name of the buffer."""
    content: str = ""
    """Digest as Reference Values write it, or SELinux's state."""
    others: int = 0
    """How many further entries fail for this very reason, where none of them can be allowed."""


def log_differences(
    entries: Sequence[ImaEntry], reference: ReferenceValues, pcrs: Mapping[int, bytes] | None
) -> tuple[Difference, ...]:
    """For a whole IMA log, in its order; what is not there at all comes last.

    `pcrs` are the quoted PCRs, None where there is only a log: then nobody asks of which boot it is.
    """
    failures: list[LogFailure] = []
    facts, sticky = walk(entries, LogFacts(), reference, pcrs, on_failure=failures.append)
    found: list[Difference] = []
    told: dict[str, int] = {}
    for failure in failures:
        difference = _of_entry(failure, reference)
        # Of what no rule can allow, the first one is told: one cause has many of them behind it.
        if failure.lacking in _HOPELESS and difference.missing in told:
            first = told[difference.missing]
            found[first] = replace(found[first], others=found[first].others + 1)
            continue
        told[difference.missing] = len(found)
        found.append(difference)
    found += (
        Difference(claim=claim, missing="none can be given: it has to be measured", part=None)
        for claim in log_claims(facts, sticky, reference)
        if claim.status is ClaimStatus.ABSENT
    )
    return tuple(found)


def boot_differences(
    pcrs: Mapping[int, bytes], event_log: bytes, reference: ReferenceValues, empty_pcrs: Sequence[int] = ()
) -> Iterator[Difference]:
    """For the quoted PCRs, one difference for each of them that is not as it should be."""
    log: EventLog | None = None
    try:
        log = parse_event_log(event_log) if event_log else None
    except EventLogError:
        log = None
    for pcr in APPRAISED_PCRS:
        good = {each: (PcrReference(value=pcrs[each]),) for each in APPRAISED_PCRS if each != pcr}
        alone = replace(reference, pcrs={**good, pcr: reference.pcrs.get(pcr, ())})
        claim = boot_chain_claim(pcrs, event_log, alone, [pcr] if pcr in empty_pcrs else [])
        if claim.status is ClaimStatus.PASS:
            continue
        if pcr in empty_pcrs:
            yield Difference(claim=claim, missing="the policy demands that this PCR is empty", part=None)
            continue
        known = PcrReference(value=pcrs[pcr], events=_events(pcr, pcrs[pcr], log))
        yield Difference(
            claim=claim,
            missing=f"a value of PCR {pcr}",
            part=ReferencePart(pcrs={pcr: (known,)}),
            content=pcrs[pcr].hex(),
        )


def merged_parts(differences: Sequence[Difference]) -> ReferencePart:
    """One part that allows all differences that a part can allow."""
    merged = ReferencePart()
    for difference in differences:
        if difference.part is not None:
            merged = merged.merged(difference.part)
    return merged


def _of_entry(failure: LogFailure, reference: ReferenceValues) -> Difference:
    missing, part = _missing(failure, reference)
    return Difference(
        claim=failure.claim,
        missing=missing,
        part=part,
        entry=failure.number,
        path=failure.path,
        content=failure.content,
    )


def _missing(failure: LogFailure, reference: ReferenceValues) -> tuple[str, ReferencePart | None]:
    """The rule that is missing, and the part that has it."""
    digests = {failure.path: frozenset({failure.content})}
    match failure.lacking:
        case Lacking.FILE:
            return "a digest of this file", ReferencePart(files=digests)
        case Lacking.STRONG_HASH:
            return "none can be given: boot with ima_hash=sha256", None
        case Lacking.BUFFER:
            return "a digest of this critical data", ReferencePart(buffers=digests)
        case Lacking.SELINUX_POLICY if len(failure.content) == _SHA256_HEX:
            selinux = SelinuxReference(policy_digests=frozenset({failure.content}))
            return "a digest of this SELinux policy", ReferencePart(selinux=selinux)
        case Lacking.SELINUX_STATE if set(failure.content.split(";")) >= _FLAGS:
            return "this state of SELinux", ReferencePart(selinux=SelinuxReference(states=(failure.content,)))
        case Lacking.VIOLATION:
            return _violation(failure.path, reference)
        case _:
            return f"none can be given: {failure.claim.reason}", None


def _violation(path: str, reference: ReferenceValues) -> tuple[str, ReferencePart | None]:
    pattern = exact_pattern(path)
    why = too_wide(pattern)
    demanded = (reference.ima_policy, *reference.early.values(), *reference.code.entries)
    if overlaps(pattern, reference.code.prefix) or any(overlaps(pattern, each) for each in demanded):
        why = "something is demanded of it"
    if why:
        return f"none can be given: a violation of this file is not tolerated, since {why}", None
    return "tolerance of its violations", ReferencePart(violations=(pattern,))


def _events(pcr: int, value: bytes, log: EventLog | None) -> tuple[EventReference, ...]:
    """The events that lead to the value, if the log has them."""
    if log is None or Bank.SHA256 not in log.banks:
        return ()
    events = log.of_pcr(pcr)
    start = initial_value(Bank.SHA256, pcr, startup_locality=log.startup_locality)
    if replay(Bank.SHA256, (event.digests[Bank.SHA256] for event in events), start) != value:
        return ()
    return tuple(
        EventReference(type=event.type_name, digest=event.digests[Bank.SHA256], description=describe(event))
        for event in events
    )
