"""The story of a verdict in plain words: what is believed of a peer now and since when, what failed first, what was
expected and found and where, what followed, what clears it, and what came before. Pure: history and audit log go in.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

from shamon_host.attestation.result_document import claim_document, time_text
from shamon_host.daemon.failure_actions import PendingAction
from shamon_host.daemon.result_history import Run
from shamon_host.daemon.suspension import is_transient
from shamon_host.domain.admission import AdmissionState, PeerState
from shamon_host.domain.audit import AuditRecord
from shamon_host.domain.labels import HostName
from shamon_host.domain.results import AttestationResult, Claim, ClaimName, ClaimStatus

MAX_BEFORE = 5
MAX_FOLLOWED = 20
_DONE = {"vm.replace": "was replaced by a clean one", "vm.suspend": "was suspended", "vm.quarantine": "was quarantined"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """Sentences for people. Times are RFC 3339, UTC."""

    host: HostName
    verifier: HostName
    verdict: str
    """`trusted`, `not trusted`, `silent` (no Evidence came), `never appraised`, `expelled`."""
    since: str
    """When that began; empty where nothing says."""
    summary: str
    first_failure: Claim | None = None
    """The claim that failed first, as it was then."""
    failing: tuple[Claim, ...] = ()
    """What fails now, the first one first."""
    followed: tuple[str, ...] = ()
    clears: tuple[str, ...] = ()
    before: tuple[str, ...] = ()

    def to_document(self) -> dict[str, Any]:
        """As a JSON object, for the API."""
        return {
            "host": self.host,
            "verifier": self.verifier,
            "verdict": self.verdict,
            "since": self.since,
            "summary": self.summary,
            "first_failure": claim_document(self.first_failure) if self.first_failure else None,
            "failing": [claim_document(claim) for claim in self.failing],
            "followed": list(self.followed),
            "clears": list(self.clears),
            "before": list(self.before),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What this host knows of a peer at `now_s` (CLOCK_BOOTTIME)."""

    verifier: HostName
    state: PeerState
    runs: Sequence[Run]
    """Newest first."""
    records: Sequence[AuditRecord]
    """About the peer and about this host's VMs, oldest first."""
    pending: Sequence[PendingAction] = ()
    last_error: str = ""
    """Why the last handshake with it came to nothing."""
    refuses_us: Sequence[str] = ()
    now_s: float = 0.0
    failing_runs: Sequence[Run] = field(init=False)

    def __post_init__(self) -> None:
        streak = tuple(takewhile(lambda run: not run.trusted, self.runs))
        object.__setattr__(self, "failing_runs", streak)


def tell(known: Known) -> Story:
    """The story of one peer."""
    admitted = known.state.counts_at(known.now_s)
    if known.state.state is AdmissionState.EXPELLED:
        story = _story(known, "expelled", "", f"{known.state.host} is expelled: it is never admitted again.")
    elif not known.runs:
        story = _never(known)
    elif known.failing_runs:
        story = _failing(known, admitted=admitted)
    elif admitted:
        story = _trusted(known)
    else:
        story = _silent(known)
    return story


def first_failing(result: AttestationResult) -> Claim | None:
    """The claim that says most of why a result is not trusted: what is wrong, before what is only not shown."""
    failures = sorted(result.failures, key=lambda claim: list(ClaimName).index(claim.name))
    return min(failures, key=lambda claim: (claim.status is not ClaimStatus.FAIL, is_transient(claim)), default=None)


def what_clears(claim: Claim, host: HostName) -> str:
    """What brings a failed claim back."""
    changed = "a change of its Reference Values"
    if claim.sticky:
        return (
            f"{claim.name}: sticky. IMA logs a thing once, so nothing that {host} does now clears it: only a clean "
            f"boot, or {changed} that accepts what was found."
        )
    match claim.name:
        case ClaimName.BINDING:
            return (
                f"{claim.name}: nothing to do if it was one handshake: the next one has fresh Evidence. If it stays: "
                f"is the AK of {host} the enrolled one, and was its TPM cleared, or restored from a copy? Once that is "
                f"explained, enrolling {host} anew clears it."
            )
        case ClaimName.BOOT_CHAIN:
            return f"{claim.name}: a boot of {host} as it was recorded, or {changed}."
        case ClaimName.TPM_KIND:
            return f"{claim.name}: a hardware TPM, enrolled as one, or a policy that accepts a software TPM."
        case ClaimName.RUNNING_LABELS | ClaimName.NETWORK_STATE:
            return f"{claim.name}: {host} puts it right; its next Evidence shows it, with nothing else to do."
        case _ if claim.status is ClaimStatus.ABSENT and claim.expected:
            return (
                f"{claim.name}: an entry of what is missing in the IMA log. If it does not come by itself, a boot of "
                f"{host} in which IMA measures it."
            )
        case _:
            return f"{claim.name}: nothing to do. It says nothing of {host} yet, and the next whole log clears it."


def _trusted(known: Known) -> Story:
    host, streak = known.state.host, tuple(takewhile(lambda run: run.trusted, known.runs))
    lease_s = known.state.lease_until_s - known.now_s
    newest = known.runs[0]
    summary = (
        f"{known.verifier} trusts {host}: every claim passes, last at {time_text(newest.last_s)}, with a "
        f"{newest.last.result.tpm} TPM. Its lease ends in {lease_s:.0f} s unless it proves itself again."
    )
    return _story(
        known, "trusted", time_text(streak[-1].first_s), summary, before=tuple(_before(known.runs[len(streak) :]))
    )


def _failing(known: Known, *, admitted: bool) -> Story:
    host, streak = known.state.host, known.failing_runs
    began, newest = streak[-1], streak[0]
    first, now = first_failing(began.first.result), newest.last.result
    failing = tuple(sorted(now.failures, key=lambda claim: claim is not first_failing(now)))
    times = sum(run.count for run in streak)
    since_s: float | None = began.first_s
    if admitted:
        # Only a log that was read too early leaves a peer admitted: what is believed is what was proved before.
        proved = tuple(takewhile(lambda run: run.trusted, known.runs[len(streak) :]))
        since_s = proved[-1].first_s if proved else None
        summary = (
            f"{known.verifier} still trusts {host}, for what it proved before. Its last Evidence says nothing yet: it "
            f"has until the end of its lease, in {known.state.lease_until_s - known.now_s:.0f} s."
        )
    else:
        summary = f"{known.verifier} does not trust {host}: its Evidence failed, {_times(times)} by now."
    return _story(
        known,
        "trusted" if admitted else "not trusted",
        time_text(since_s) if since_s is not None else "",
        summary,
        first_failure=first,
        failing=failing,
        followed=_followed(known, began.first_s),
        clears=tuple(dict.fromkeys(what_clears(claim, host) for claim in _causes(failing))),
        before=tuple(_before(known.runs[len(streak) :])),
    )


def _silent(known: Known) -> Story:
    """Its last Evidence passed, and it is not admitted."""
    host, newest = known.state.host, known.runs[0]
    suspensions = [record for record in known.records if record.kind == "peer.suspend" and record.subject == host]
    since = suspensions[-1].wall_s if suspensions and suspensions[-1].wall_s >= newest.last_s else None
    reason = known.state.reason or "it has proved nothing yet since this daemon started"
    summary = (
        f"{known.verifier} does not count on {host}: {reason.rstrip('.')}. Its last Evidence, at "
        f"{time_text(newest.last_s)}, passed."
    )
    if known.last_error:
        summary += f" The last handshake failed: {known.last_error.rstrip('.')}."
    if known.refuses_us:
        clears = f"{host} refuses {known.verifier}: see `shamon explain {known.verifier}` there."
    else:
        clears = (
            f"nothing to do: {known.verifier} goes on asking, and the next Evidence that passes admits {host} again."
        )
    return _story(
        known,
        "silent",
        time_text(since) if since is not None else "",
        summary,
        followed=_followed(known, since) if since is not None else (),
        clears=(clears,),
        before=tuple(_before(known.runs)),
    )


def _never(known: Known) -> Story:
    host = known.state.host
    summary = f"{known.verifier} has never appraised Evidence of {host}."
    if known.last_error:
        summary += f" The last handshake failed: {known.last_error.rstrip('.')}."
    clears = f"nothing to do here: {known.verifier} goes on asking {host}. Is it up, and its daemon running?"
    return _story(known, "never appraised", "", summary, clears=(clears,))


def _story(known: Known, verdict: str, since: str, summary: str, **parts: Any) -> Story:
    if known.refuses_us:
        summary += f" {known.state.host} does not trust {known.verifier} either way: {'; '.join(known.refuses_us)}."
    return Story(host=known.state.host, verifier=known.verifier, verdict=verdict, since=since, summary=summary, **parts)


def _causes(failing: Sequence[Claim]) -> Sequence[Claim]:
    """Without what is absent only because another claim failed: nothing counts without the binding."""
    if any(claim.name is ClaimName.BINDING for claim in failing):
        return [claim for claim in failing if claim.sticky or claim.name is ClaimName.BINDING]
    return failing


def _followed(known: Known, since_s: float) -> tuple[str, ...]:
    found = [_happened(record, known.state.host) for record in known.records if record.wall_s >= since_s]
    told = [text for text in found if text][:MAX_FOLLOWED]
    planned = [
        f"planned: {item.action} {item.vm}, in {max(0.0, item.due_s - known.now_s):.0f} s"
        for item in known.pending
        if item.peer == known.state.host
    ]
    return (*told, *planned)


def _happened(record: AuditRecord, host: HostName) -> str:
    """A record as a sentence, if it follows from what the peer did; else empty."""
    reason, when = str(record.detail.get("reason", "")), time_text(record.wall_s)
    if record.kind == "peer.suspend" and record.subject == host:
        carried = record.detail.get("carried") or []
        links = f"its links of {', '.join(map(str, carried))} were closed" if carried else "it had no links"
        return f"{when} {host} was suspended, {links}"
    if record.kind == "peer.not-closed" and record.subject == host:
        return f"{when} something of {host} could not be removed, and is tried again: {reason}"
    if record.kind.startswith("vm.") and reason.startswith((f"{host} failed", f"still suspended for {host}")):
        return f"{when} {record.subject} {_DONE.get(record.kind, record.kind)}"
    return ""


def _before(runs: Sequence[Run]) -> Iterator[str]:
    for run in runs[:MAX_BEFORE]:
        span = time_text(run.first_s) + (f" to {time_text(run.last_s)}" if run.count > 1 else "")
        if run.trusted:
            yield f"{span} trusted, {_times(run.count)}"
        else:
            claim = first_failing(run.first.result)
            why = f": {claim.name}, {claim.reason}" if claim else ""
            yield f"{span} not trusted, {_times(run.count)}{why}"
    if len(runs) > MAX_BEFORE:
        yield "earlier: see `shamon results show`"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
