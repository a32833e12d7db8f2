"""The claims that come from the IMA log: `ima-policy`, `selinux`, `software`, `shamon-code`.

`walk` reads the entries that a quote newly vouches for, in order, and gathers facts and failures; `log_claims` says
what they amount to. The kernel logs a file or a state once, so facts and failures outlive the increment that showed
them (`verifier_state`), and a failure is sticky until the next boot.

What a replay proves is the measured bytes, not the name of the template. So an entry counts as critical data only if
its buffer hashes to its digest and is one of those expected, and everything else is taken for a file, whatever it says.
A violation proves nothing but itself, so every violation fails, whatever path it names.

Root can extend PCR 10 too. That can take nothing out of the log, but add what should be there and is not: the entry of
an IMA policy that was never loaded, while rules written straight to the kernel, which it does not measure, are in
force. So what must be there counts only where the boot puts it: the boot aggregate first, and the IMA policy right
behind SELinux's, both by systemd before it reads a unit or starts a program.

Source: Linux security/selinux/ima.c (`selinux-state`, `selinux-policy-hash`), security/integrity/ima/ima_main.c.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

from shamon_host.attestation.claims.making import absent, failed, passed
from shamon_host.attestation.ima_entry import printable
from shamon_host.attestation.ima_log import ImaEntry, ImaFields, ImaLogError, boot_aggregate
from shamon_host.attestation.pcr import Bank
from shamon_host.attestation.reference_model import ReferenceValues
from shamon_host.attestation.verifier_state import LogFacts
from shamon_host.domain.results import Claim, ClaimName

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
_NO_DIGESTS: frozenset[str] = frozenset()
_SHOWN_DIGESTS = 3


@dataclass(slots=True)
class _Walk:
    """Where a walk stands; `failures` has the first one of each claim, `more` how many came after it."""

    reference: ReferenceValues
    aggregates: tuple[bytes, ...]
    facts: LogFacts
    failures: dict[ClaimName, Claim] = field(default_factory=dict)
    more: dict[ClaimName, int] = field(default_factory=dict)

    def fail(self, claim: Claim) -> None:
        if claim.name in self.failures:
            self.more[claim.name] = self.more.get(claim.name, 0) + 1
        else:
            self.failures[claim.name] = claim


def walk(
    entries: Sequence[ImaEntry], facts: LogFacts, reference: ReferenceValues, pcrs: Mapping[int, bytes]
) -> tuple[LogFacts, dict[ClaimName, Claim]]:
    """Facts and first failures after `entries`, which follow the part of the log that `facts` are about.

    `pcrs` are the quoted values: the log's first entry holds a digest over PCR 0-9.
    """
    state = _Walk(
        reference,
        (boot_aggregate(Bank.SHA256, pcrs), boot_aggregate(Bank.SHA256, {pcr: pcrs[pcr] for pcr in range(8)})),
        facts,
    )
    for number, entry in enumerate(entries, start=facts.entries + 1):
        _one(state, number, entry)
    state.facts = replace(state.facts, entries=facts.entries + len(entries))
    return state.facts, {
        name: replace(claim, reason=f"{claim.reason} (and {state.more[name]} more)") if name in state.more else claim
        for name, claim in state.failures.items()
    }


def _one(state: _Walk, number: int, entry: ImaEntry) -> None:
    try:
        fields = entry.fields()
    except ImaLogError as error:
        state.fail(_software("an entry of the IMA log is malformed", number, entry.template, found=str(error)))
        return
    path = fields.path
    if entry.violation:
        state.fail(_software("a measurement could not be relied on: the file was open for writing", number, path or ""))
    elif fields.file_digest is None or path is None:
        state.fail(_software("an entry of the IMA log lacks a digest or a path", number, entry.template))
    elif fields.buf is not None and fields.buffer_matches_digest:
        _buffer(state, number, path, fields.buf)
    elif path == BOOT_AGGREGATE:
        _aggregate(state, number, fields)
    else:
        _file(state, number, path, fields)


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
                state.fail(
                    _software("unknown critical data was measured", number, name, expected=_any(known), found=digest)
                )


def _selinux_state(state: _Walk, number: int, buf: bytes) -> None:
    text = printable(buf.rstrip(b"\0").decode("utf-8", "backslashreplace"))
    previous, state.facts = state.facts.selinux_state, replace(state.facts, selinux_state=text)
    flags = set(text.split(";"))
    if not previous and "initialized=0" in flags:
        state.facts = replace(state.facts, selinux_state="")  # before its policy is loaded, SELinux decides nothing
    elif "enforcing=1" not in flags:
        state.fail(
            failed(
                ClaimName.SELINUX,
                "SELinux was not enforcing",
                where=_where(number, SELINUX_STATE),
                expected="enforcing=1 ever since boot",
                found=next((flag for flag in text.split(";") if flag.startswith("enforcing")), text),
                sticky=True,
            )
        )
    elif text not in state.reference.selinux.states:
        state.fail(
            failed(
                ClaimName.SELINUX,
                "SELinux is in a state that no good boot was in",
                where=_where(number, SELINUX_STATE),
                expected=" or ".join(state.reference.selinux.states),
                found=text,
                sticky=True,
            )
        )


def _selinux_policy(state: _Walk, number: int, buf: bytes) -> None:
    state.facts = replace(state.facts, selinux_policy=buf.hex())
    known = state.reference.selinux.policy_digests
    if buf.hex() not in known:
        state.fail(
            failed(
                ClaimName.SELINUX,
                "another SELinux policy was loaded",
                where=_where(number, SELINUX_POLICY),
                expected=_any(known),
                found=buf.hex(),
                sticky=True,
            )
        )


def _aggregate(state: _Walk, number: int, fields: ImaFields) -> None:
    digest = fields.file_digest
    if number > 1:
        # A kernel writes one, at its start: the second one is of a kernel that kexec started.
        state.fail(
            failed(
                ClaimName.IMA_POLICY,
                "another kernel was started without a new boot",
                where=_where(number, BOOT_AGGREGATE),
                expected="one boot aggregate, the first entry",
                found=str(digest),
                sticky=True,
            )
        )
        return
    if digest is not None and digest.algorithm == "sha256" and digest.digest in state.aggregates:
        state.facts = replace(state.facts, boot_aggregate=True)
        return
    state.fail(
        failed(
            ClaimName.IMA_POLICY,
            "the IMA log began after another boot than the quoted one",
            where=_where(number, BOOT_AGGREGATE),
            expected=f"sha256:{state.aggregates[0].hex()}",
            found=str(digest),
            sticky=True,
        )
    )


def _file(state: _Walk, number: int, path: str, fields: ImaFields) -> None:
    reference, facts = state.reference, state.facts
    if not facts.ima_policy:
        _before_the_policy(state, number, path)
    digest = fields.file_digest
    known = reference.files.get(path, _NO_DIGESTS)
    good = digest is not None and digest.kind == "ima" and digest.algorithm == "sha256" and digest.digest.hex() in known
    if good:
        if path == reference.ima_policy:
            state.facts = facts = replace(facts, ima_policy=True)
        words = {word for word, demanded in reference.early.items() if demanded == path}
        if not words <= facts.early:
            state.facts = facts = replace(facts, early=facts.early | words)
        if path in reference.code.entries:
            state.facts = replace(facts, code_entry=True)
        return
    # Once programs alone are measured, a path says nothing about whether its content was run: no excuse then.
    demanded = (
        path == reference.ima_policy or path in reference.early.values() or path.startswith(reference.code.prefix)
    )
    if not facts.ima_policy and not demanded and any(fnmatchcase(path, glob) for glob in reference.early_data):
        return
    name, reason = ClaimName.SOFTWARE, "an unknown program or file was measured"
    if known:
        reason = "a program or file was measured that is not the known one"
    if path == reference.ima_policy:
        name, reason = ClaimName.IMA_POLICY, "another IMA policy was loaded"
    elif path.startswith(reference.code.prefix):
        name, reason = ClaimName.SHAMON_CODE, "the daemon read code that is not Shamon's"
    state.fail(
        failed(
            name,
            reason,
            where=_where(number, path),
            expected=_any(known) or "no such file",
            found=str(digest),
            sticky=True,
        )
    )


def _before_the_policy(state: _Walk, number: int, path: str) -> None:
    """A file that was measured before the IMA policy, or that policy itself: is this its place?"""
    selinux = bool(state.facts.selinux_state and state.facts.selinux_policy)
    if path == state.reference.ima_policy:
        if selinux:
            return
        reason, expected = "the IMA policy was loaded before SELinux decided", f"{SELINUX_STATE}, {SELINUX_POLICY}"
    elif selinux and not path.startswith(_ASKED_FOR_BY_THE_KERNEL):
        reason, expected = "the boot went on without the IMA policy", f"IMA policy {state.reference.ima_policy}"
    else:
        return
    state.fail(
        failed(ClaimName.IMA_POLICY, reason, where=_where(number, path), expected=expected, found=path, sticky=True)
    )


def log_claims(facts: LogFacts, sticky: Mapping[ClaimName, Claim], reference: ReferenceValues) -> tuple[Claim, ...]:
    """The four claims after everything that quotes have vouched for in this boot."""
    fresh = (_ima_policy(facts, reference), _selinux(facts), _whole(facts), _code(facts, reference))
    return tuple(sticky.get(claim.name, claim) for claim in fresh)


def unvouched_claims(sticky: Mapping[ClaimName, Claim], reason: str) -> tuple[Claim, ...]:
    """The four claims where the log of this Evidence proves nothing: absent, but what stuck before stays."""
    return tuple(sticky.get(name, absent(name, reason)) for name in LOG_CLAIMS)


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
    return passed(ClaimName.SOFTWARE, f"all {facts.entries} measurements are known")


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
    return " or ".join(f"sha256:{digest}" for digest in shown) + (" or others" if len(digests) > len(shown) else "")
