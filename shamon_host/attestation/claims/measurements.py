"""The claims that come from the IMA log: `ima-policy`, `selinux`, `software`, `shamon-code`.

`walk` reads the entries that a quote newly vouches for, in order, and gathers facts and failures; `log_claims` says
what they amount to. The kernel logs a file or a state once, so facts and failures outlive the increment that showed
them (`verifier_state`), and a failure is sticky until the next boot.

`walk` is the one place that judges: `reference_diff` listens to it (`on_failure`), and a changed version of the
Reference Values has it walk again over what was vouched for before (`ledger`).

What a replay proves is the measured bytes, not the name of the template. So an entry counts as critical data only if
its buffer hashes to its digest and is one of those expected, and everything else is taken for a file, whatever it says.
A violation proves nothing but itself, so a violation fails, unless the Reference Values take the log's word for its
path.

Root can extend PCR 10 too. That can take nothing out of the log, but add what should be there and is not: the entry of
an IMA policy that was never loaded, while rules written straight to the kernel, which it does not measure, are in
force. So what must be there counts only where the boot puts it: the boot aggregate first, and the IMA policy right
behind SELinux's, both by systemd before it reads a unit or starts a program.

Source: Linux security/selinux/ima.c (`selinux-state`, `selinux-policy-hash`), security/integrity/ima/ima_main.c.
"""

from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass, field, replace
from enum import Enum, auto

from shamon_host.attestation.claims.making import absent, failed, passed
from shamon_host.attestation.ima_entry import printable
from shamon_host.attestation.ima_log import Frame, ImaEntry, ImaFields, ImaLogError, boot_aggregate
from shamon_host.attestation.pcr import Bank
from shamon_host.attestation.reference_model import ReferenceValues
from shamon_host.attestation.reference_part import digest_text
from shamon_host.attestation.verifier_state import LogFacts
from shamon_host.domain.results import Claim, ClaimName, ClaimStatus

LOG_CLAIMS = (ClaimName.IMA_POLICY, ClaimName.SELINUX, ClaimName.SOFTWARE, ClaimName.SHAMON_CODE)
BOOT_AGGREGATE = "boot_aggregate"
SELINUX_STATE = "selinux-state"
SELINUX_POLICY = "selinux-policy-hash"
_ASKED_FOR_BY_THE_KERNEL = (
    "/usr/lib/modules/",
    "/usr/lib/firmware/",
    "/lib/modules/",
    "/lib/firmware/",
    "/usr/lib/modprobe.d/",
    "/etc/modprobe.d/",
    "/usr/bin/kmod",
)
"""What drivers may load at any moment, hence also between SELinux's policy and IMA's."""
_MAX_STATE_BYTES = 4096
"""Of `selinux-state`: the kernel writes some hundred. What a log says is remembered, hence bounded."""
_MAX_POLICY_DIGEST_BYTES = 64
_PROVES_NOTHING = "the IMA log proves nothing"
_NO_DIGESTS: frozenset[str] = frozenset()
_SHOWN_DIGESTS = 3


class Lacking(Enum):
    """What Reference Values would have to have for an entry not to fail."""

    FILE = auto()
    BUFFER = auto()
    SELINUX_STATE = auto()
    SELINUX_POLICY = auto()
    VIOLATION = auto()
    STRONG_HASH = auto()
    """The entry has a digest that two files may share."""
    NOTHING = auto()
    """No Reference Values excuse it: its place in the log, its form, SELinux that does not enforce."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogFailure:
    """One entry that fails."""

    claim: Claim
    number: int
    """Of the entry, from 1."""
    path: str
    """The file's, or the name of the buffer."""
    content: str
    """What would have to be known: a digest as Reference Values write it, or SELinux's state. Else empty."""
    lacking: Lacking


@dataclass(slots=True)
class _Walk:
    """Where a walk stands; `failures` has the first one of each claim, `more` how many came after it."""

    reference: ReferenceValues
    aggregates: tuple[bytes, ...] | None
    facts: LogFacts
    on_failure: Callable[[LogFailure], None] | None
    failures: dict[ClaimName, Claim] = field(default_factory=dict)
    more: dict[ClaimName, int] = field(default_factory=dict)

    def fail(self, number: int, path: str, claim: Claim, lacking: Lacking = Lacking.NOTHING, content: str = "") -> None:
        if claim.name in self.failures:
            self.more[claim.name] = self.more.get(claim.name, 0) + 1
        else:
            self.failures[claim.name] = claim
        if self.on_failure is not None:
            self.on_failure(LogFailure(claim=claim, number=number, path=path, content=content, lacking=lacking))


def walk(
    entries: Iterable[Frame],
    facts: LogFacts,
    reference: ReferenceValues,
    pcrs: Mapping[int, bytes] | None,
    *,
    on_failure: Callable[[LogFailure], None] | None = None,
) -> tuple[LogFacts, dict[ClaimName, Claim]]:
    """Facts and first failures after `entries`, which follow the part of the log that `facts` are about.

    `pcrs` are the quoted values: the log's first entry holds a digest over PCR 0-9. None is for who has no quote, and
    learns nothing of the boot that the log is of. `on_failure` is told of every failure, not of the first ones alone.
    """
    state = _Walk(
        reference,
        None if pcrs is None else _aggregates(pcrs),
        facts,
        on_failure,
    )
    lookup = reference.lookup
    last = ""
    known: Set[bytes] = frozenset()
    # Until the IMA policy is in force, an entry's place counts too, and each one is read.
    ordinary = facts.ima_policy
    before = number = facts.entries
    for number, entry in enumerate(entries, start=before + 1):
        if ordinary:
            _, template, template_hash, measured, _ = entry
            if template != last:
                last, known = template, lookup.recognised(template)
            # Of a violation nothing is proved, whatever it says.
            proved = template_hash[0] or any(template_hash)
            if proved and (measured in known or lookup.recognises(template, measured)):
                continue
        _one(state, number, ImaEntry._make(entry))
        ordinary = state.facts.ima_policy
    state.facts = replace(state.facts, entries=number)
    return state.facts, {
        name: replace(claim, reason=f"{claim.reason} (and {state.more[name]} more)") if name in state.more else claim
        for name, claim in state.failures.items()
    }


def _one(state: _Walk, number: int, entry: ImaEntry) -> None:
    try:
        fields = entry.fields()
    except ImaLogError as error:
        claim = _software("an entry of the IMA log is malformed", number, entry.template, found=str(error))
        state.fail(number, entry.template, claim)
        return
    path = fields.path
    if entry.violation:
        _violation(state, number, path or "")
    elif fields.file_digest is None or path is None:
        claim = _software("an entry of the IMA log lacks a digest or a path", number, entry.template)
        state.fail(number, entry.template, claim)
    elif fields.buf is not None and fields.buffer_matches_digest:
        _buffer(state, number, path, fields.buf)
    elif path == BOOT_AGGREGATE:
        _aggregate(state, number, fields)
    else:
        _file(state, number, path, fields)


def _violation(state: _Walk, number: int, path: str) -> None:
    if state.reference.lookup.may_be_written(path):
        state.facts = replace(state.facts, violations=state.facts.violations + 1)
        return
    claim = _software("a measurement could not be relied on: the file was open for writing", number, path)
    state.fail(number, path, claim, Lacking.VIOLATION)


def _buffer(state: _Walk, number: int, name: str, buf: bytes) -> None:
    match name:
        case "selinux-state":
            _selinux_state(state, number, buf)
        case "selinux-policy-hash":
            _selinux_policy(state, number, buf)
        case _:
            digest = Bank.SHA256.digest(buf).hex()
            known = state.reference.buffers.get(name, _NO_DIGESTS)
            if digest not in known:
                claim = _software(
                    "unknown critical data was measured",
                    number,
                    name,
                    expected=_any(known) or "no such critical data",
                    found=f"sha256:{digest}",
                )
                state.fail(number, name, claim, Lacking.BUFFER, digest)


def _selinux_state(state: _Walk, number: int, buf: bytes) -> None:
    text = printable(buf[:_MAX_STATE_BYTES].rstrip(b"\0").decode("utf-8", "backslashreplace"))
    if len(buf) > _MAX_STATE_BYTES:
        text += "…"
    previous, state.facts = state.facts.selinux_state, replace(state.facts, selinux_state=text)
    flags = set(text.split(";"))
    if not previous and "initialized=0" in flags:
        state.facts = replace(state.facts, selinux_state="")  # before its policy is loaded, SELinux decides nothing
    elif "enforcing=1" not in flags:
        claim = failed(
            ClaimName.SELINUX,
            "SELinux was not enforcing",
            where=_where(number, SELINUX_STATE),
            expected="enforcing=1 ever since boot",
            found=next((flag for flag in text.split(";") if flag.startswith("enforcing")), text),
            sticky=True,
        )
        state.fail(number, SELINUX_STATE, claim)
    elif text not in state.reference.selinux.states:
        claim = failed(
            ClaimName.SELINUX,
            "SELinux is in a state that no good boot was in",
            where=_where(number, SELINUX_STATE),
            expected=" or ".join(state.reference.selinux.states),
            found=text,
            sticky=True,
        )
        state.fail(number, SELINUX_STATE, claim, Lacking.SELINUX_STATE, text)


def _selinux_policy(state: _Walk, number: int, buf: bytes) -> None:
    digest = buf.hex() if len(buf) <= _MAX_POLICY_DIGEST_BYTES else f"{buf[:_MAX_POLICY_DIGEST_BYTES].hex()}…"
    state.facts = replace(state.facts, selinux_policy=digest)
    known = state.reference.selinux.policy_digests
    if digest not in known:
        claim = failed(
            ClaimName.SELINUX,
            "another SELinux policy was loaded",
            where=_where(number, SELINUX_POLICY),
            expected=_any(known),
            found=digest,
            sticky=True,
        )
        state.fail(number, SELINUX_POLICY, claim, Lacking.SELINUX_POLICY, digest)


def _aggregates(pcrs: Mapping[int, bytes]) -> tuple[bytes, ...]:
    """What a kernel may have written first: over PCR 0-9, or before version 5.8 over PCR 0-7."""
    return boot_aggregate(Bank.SHA256, pcrs), boot_aggregate(Bank.SHA256, {pcr: pcrs[pcr] for pcr in range(8)})


def _aggregate(state: _Walk, number: int, fields: ImaFields) -> None:
    digest = fields.file_digest
    if number > 1:
        # A kernel writes one, at its start: the second one is of a kernel that kexec started.
        reason, expected = "another kernel was started without a new boot", "one boot aggregate, the first entry"
    elif state.aggregates is None or (
        digest is not None and digest.algorithm == "sha256" and digest.digest in state.aggregates
    ):
        state.facts = replace(state.facts, boot_aggregate=True)
        return
    else:
        reason = "the IMA log began after another boot than the quoted one"
        expected = f"sha256:{state.aggregates[0].hex()}"
    where = _where(number, BOOT_AGGREGATE)
    claim = failed(ClaimName.IMA_POLICY, reason, where=where, expected=expected, found=str(digest), sticky=True)
    state.fail(number, BOOT_AGGREGATE, claim)


def _file(state: _Walk, number: int, path: str, fields: ImaFields) -> None:
    reference, lookup = state.reference, state.reference.lookup
    before = not state.facts.ima_policy
    if before:
        _before_the_policy(state, number, path)
    digest = fields.file_digest
    known = lookup.digests(path)
    content = digest_text(digest)
    if content in known:
        _known(state, path)
        return
    if content and lookup.has_digest(path, content):
        return
    # Once programs alone are measured, a path says nothing about whether its content was run: no early excuse then.
    if before and lookup.excused_early(path):
        return
    if lookup.is_signed(path, fields):
        state.facts = replace(state.facts, signed=state.facts.signed + 1)
        return
    if lookup.excused(path):
        state.facts = replace(state.facts, excused=state.facts.excused + 1)
        return
    name, reason = ClaimName.SOFTWARE, "an unknown program or file was measured"
    package = f", as in package {of}" if known and (of := lookup.package(path)) else ""
    if known:
        reason = "a program or file was measured that is not the known one"
    if path == reference.ima_policy:
        name, reason = ClaimName.IMA_POLICY, "another IMA policy was loaded"
    elif path.startswith(reference.code.prefix):
        name, reason = ClaimName.SHAMON_CODE, "the daemon read code that is not Shamon's"
    expected = f"{_any(known)}{package}" if known else "no such file"
    claim = failed(name, reason, where=_where(number, path), expected=expected, found=str(digest), sticky=True)
    state.fail(number, path, claim, Lacking.FILE if content else Lacking.STRONG_HASH, content)


def _known(state: _Walk, path: str) -> None:
    """What a file shows that was measured with an expected digest."""
    reference, facts = state.reference, state.facts
    if path == reference.ima_policy:
        facts = replace(facts, ima_policy=True)
    words = {word for word, demanded in reference.early.items() if demanded == path}
    if not words <= facts.early:
        facts = replace(facts, early=facts.early | words)
    if path in reference.code.entries:
        facts = replace(facts, code_entry=True)
    state.facts = facts


def _before_the_policy(state: _Walk, number: int, path: str) -> None:
    """A file that was measured before the IMA policy, or that policy itself: is this its place?"""
    if not state.reference.selinux.demanded:
        return  # a guest without SELinux: that no stranger comes before its IMA policy is all that can be asked
    selinux = bool(state.facts.selinux_state and state.facts.selinux_policy)
    if path == state.reference.ima_policy:
        if selinux:
            return
        reason, expected = "the IMA policy was loaded before SELinux decided", f"{SELINUX_STATE}, {SELINUX_POLICY}"
    elif selinux and not path.startswith(_ASKED_FOR_BY_THE_KERNEL):
        reason, expected = "the boot went on without the IMA policy", f"IMA policy {state.reference.ima_policy}"
    else:
        return
    where = _where(number, path)
    claim = failed(ClaimName.IMA_POLICY, reason, where=where, expected=expected, found=path, sticky=True)
    state.fail(number, path, claim)


def log_claims(facts: LogFacts, sticky: Mapping[ClaimName, Claim], reference: ReferenceValues) -> tuple[Claim, ...]:
    """The four claims after everything that quotes have vouched for in this boot."""
    fresh = (_ima_policy(facts, reference), _selinux(facts), _whole(facts), _code(facts, reference))
    return tuple(sticky.get(claim.name, claim) for claim in fresh)


def unvouched_claims(sticky: Mapping[ClaimName, Claim], what: str) -> tuple[Claim, ...]:
    """The four claims where the log of this Evidence proves nothing: absent, but what stuck before stays."""
    reason = f"{_PROVES_NOTHING}: {what}"
    return tuple(sticky.get(name, absent(name, reason)) for name in LOG_CLAIMS)


def log_is_vouched(claims: Iterable[Claim]) -> bool:
    """Whether the log of the Evidence that these claims are about led to its quote.

    Of a log that did, `software` fails for an entry, hence for good. (True as well where all four had stuck before.)
    """
    return not any(
        claim.reason.startswith(_PROVES_NOTHING)
        or (claim.name is ClaimName.SOFTWARE and claim.status is ClaimStatus.FAIL and not claim.sticky)
        for claim in claims
        if claim.name in LOG_CLAIMS
    )


def _ima_policy(facts: LogFacts, reference: ReferenceValues) -> Claim:
    missing = [] if facts.boot_aggregate else [BOOT_AGGREGATE]
    missing += [] if facts.ima_policy else [f"IMA policy {reference.ima_policy}"]
    missing += [f"{word} {path}" for word, path in reference.early.items() if word not in facts.early]
    if missing:
        return absent(
            ClaimName.IMA_POLICY, f"the IMA log has no entry of {', '.join(missing)}", expected=", ".join(missing)
        )
    return passed(ClaimName.IMA_POLICY, f"the IMA policy, {', '.join(reference.early)} were measured as expected")


def _selinux(facts: LogFacts) -> Claim:
    missing = [] if facts.selinux_state else [SELINUX_STATE]
    missing += [] if facts.selinux_policy else [SELINUX_POLICY]
    if missing:
        return absent(
            ClaimName.SELINUX,
            f"the IMA log has no entry of {', '.join(missing)}: SELinux is off, or IMA does not measure it",
            expected=", ".join(missing),
        )
    return passed(ClaimName.SELINUX, "enforcing ever since boot, with a known policy", found=facts.selinux_policy)


def _whole(facts: LogFacts) -> Claim:
    if not facts.entries:
        return absent(ClaimName.SOFTWARE, "the IMA log is empty: IMA does not measure")
    excused = [
        f"{count} {what}"
        for count, what in (
            (facts.signed, "by their signature"),
            (facts.excused, "excused by the pattern of their path"),
            (facts.violations, "of data files that were being written"),
        )
        if count
    ]
    told = f" ({', '.join(excused)})" if excused else ""
    return passed(ClaimName.SOFTWARE, f"all {facts.entries} measurements are known{told}")


def _code(facts: LogFacts, reference: ReferenceValues) -> Claim:
    if not facts.code_entry:
        return absent(
            ClaimName.SHAMON_CODE,
            "the IMA log has no entry of Shamon's own code: IMA does not measure what the daemon reads",
            expected=" or ".join(reference.code.entries[:_SHOWN_DIGESTS]),
        )
    return passed(ClaimName.SHAMON_CODE, f"everything read below {reference.code.prefix} is known")


def _software(reason: str, number: int, path: str, *, expected: str = "", found: str = "") -> Claim:
    return failed(ClaimName.SOFTWARE, reason, where=_where(number, path), expected=expected, found=found, sticky=True)


def _where(number: int, path: str) -> str:
    return f"IMA entry {number}, {printable(path)}"


def _any(digests: frozenset[str]) -> str:
    shown = sorted(digests)[:_SHOWN_DIGESTS]
    return " or ".join(digest if ":" in digest else f"sha256:{digest}" for digest in shown) + (
        " or others" if len(digests) > len(shown) else ""
    )
