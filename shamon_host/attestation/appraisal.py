"""The Verifier: Evidence in, Attestation Result out (RFC 9334, section 8.4). Pure: no clock, no I/O, no TPM.

`appraise` first makes sure that the Evidence was made for this handshake by the enrolled AK; nothing else in it counts
otherwise. Then each family of claims (`claims`) says its part. What must be remembered goes into the next
`VerifierState`: how far the IMA log is vouched for, and what failed in this boot for good.

The Verifier's own layer ends at the host's boot, kernel and software. What the hypervisor and the links report is bound
by the same quote but read by the layers that know it: their checks are given as functions.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain

from shamon_host.attestation.claims.boot_chain import boot_chain_claim
from shamon_host.attestation.claims.making import absent, failed, passed
from shamon_host.attestation.claims.measurements import log_claims, unvouched_claims, walk
from shamon_host.attestation.evidence import Evidence, Role, bound_root
from shamon_host.attestation.ima_log import (
    Frame,
    ImaEntry,
    ImaReplayError,
    Vouched,
    iter_frames,
    replay_until,
    vouched_entries,
)
from shamon_host.attestation.ledger import LoggedEntries
from shamon_host.attestation.pcr import Bank, PcrSelection
from shamon_host.attestation.ports import QUOTED_PCRS
from shamon_host.attestation.quote import VerifiedQuote, load_ak, verify_quote
from shamon_host.attestation.reference_model import IMA_PCR, ReferenceValues
from shamon_host.attestation.tpm_public import TpmPublic
from shamon_host.attestation.verifier_state import LogFacts, VerifierState
from shamon_host.domain.errors import NotTrusted, ShamonError
from shamon_host.domain.labels import HostName
from shamon_host.domain.policy import Demands
from shamon_host.domain.results import AttestationResult, Claim, ClaimName, TpmKind

__all__ = ["Check", "VerifierState", "appraise", "appraise_quoted"]

SELECTION = PcrSelection.of({Bank.SHA256: QUOTED_PCRS})
Check = Callable[[bytes], Claim]
"""Reads a report of a layer above and makes its claim."""
_HALF_OF_COUNTS = 1 << 31
_COUNTS = 1 << 32


def appraise(
    evidence: Evidence,
    *,
    role: Role,
    transcript: bytes,
    host: HostName,
    ak_public: bytes,
    enrolled_tpm_kind: TpmKind,
    demands: Demands,
    reference: ReferenceValues,
    state: VerifierState | None,
    check_hypervisor_report: Check,
    check_network_state: Check,
) -> tuple[AttestationResult, VerifierState]:
    """All claims about `host`, and the state for its next appraisal.

    `role` is the Attester's in the handshake whose `transcript` (32 bytes) this is. `ak_public` is the enrolled AK,
    TPMT_PUBLIC or PEM. `state` is what the last appraisal of this AK returned, None for the first; it is returned as it
    was where the Evidence was not made for this handshake. Raises QuoteError only for an enrolled AK that is no key:
    bad Evidence is a failed claim.
    """
    key, area = load_ak(ak_public)
    ak_name = (area or TpmPublic.attestation_key(key)).name
    known = state if state is not None and state.seen else None
    quoted: VerifiedQuote | None = None
    try:
        quoted = _bound(evidence, role, transcript, ak_public, allow_sha1=demands.allow_sha1)
        require_forward(known, quoted)
        binding = passed(ClaimName.BINDING, "a fresh quote by the enrolled AK, made for this handshake")
    except ShamonError as error:
        binding = failed(
            ClaimName.BINDING,
            f"{error.what} ({error.remedy.rstrip('.')})" if error.remedy else error.what,
            where=error.where or "Evidence",
            expected=error.expected,
            found=error.found,
        )
        quoted = None
    if quoted is None:
        keep = known or VerifierState.unseen()
        claims = _nothing_else(binding, known.under(reference.digest) if known else None)
        return _result(host, ak_name, keep.reset_count, enrolled_tpm_kind, claims), keep
    claims, following = appraise_quoted(quoted, evidence, demands=demands, reference=reference, state=known)
    all_claims = (
        binding,
        *claims,
        _reported(ClaimName.RUNNING_LABELS, "hypervisor report", evidence.hypervisor_report, check_hypervisor_report),
        _reported(ClaimName.NETWORK_STATE, "network state", evidence.network_state, check_network_state),
        _tpm_kind(enrolled_tpm_kind, demands),
    )
    return _result(host, ak_name, quoted.clock.reset_count, enrolled_tpm_kind, all_claims), following


def appraise_quoted(
    quoted: VerifiedQuote,
    evidence: Evidence,
    *,
    demands: Demands,
    reference: ReferenceValues,
    state: VerifierState | None,
) -> tuple[tuple[Claim, ...], VerifierState]:
    """The claims that PCRs and logs prove, once the quote is known to be good, and the next state."""
    pcrs = quoted.pcrs[Bank.SHA256]
    boot = boot_chain_claim(pcrs, evidence.event_log, reference, demands.empty_pcrs)
    same_boot = state is not None and state.reset_count == quoted.clock.reset_count
    current = (
        state.at(quoted.clock, quoted.firmware_version)
        if state is not None and same_boot
        else VerifierState.of_boot(quoted.clock, quoted.firmware_version, reference.digest)
    )
    known: tuple[ImaEntry, ...] = ()
    if current.reference_digest != reference.digest:
        current, known = _to_judge_anew(current, reference.digest)
    vouched = Vouched()
    try:
        new = vouched_entries(_log_behind(evidence, current), current.ima_pcr, pcrs[IMA_PCR], vouched)
        facts, failures = walk(chain[Frame](known, new), current.facts, reference, pcrs)
    except ShamonError as error:
        # Transient: the log may only have been read too early or from the wrong place. What stuck before stays.
        following = current
        if known:
            facts, sticky = walk(known, LogFacts(), reference, pcrs)
            following = replace(current, facts=facts, sticky=sticky)
        claims = unvouched_claims(following.sticky, error.what)
        return (boot, *_with_reason(claims, error)), following
    sticky = {**failures, **current.sticky}
    offset = current.ima_offset if vouched.offset is None else vouched.offset
    log = evidence.ima_log[current.ima_offset - evidence.ima_offset : offset - evidence.ima_offset]
    following = replace(
        current,
        ima_offset=offset,
        ima_pcr=pcrs[IMA_PCR],
        facts=facts,
        sticky=sticky,
        ledger=current.ledger.followed_by(LoggedEntries(log, vouched.count)),
    )
    return (boot, *log_claims(facts, sticky, reference)), following


def _to_judge_anew(state: VerifierState, reference_digest: str) -> tuple[VerifierState, tuple[ImaEntry, ...]]:
    """The state with nothing judged, and the entries that it vouches for: none, and the state from the beginning of the
    log, where the ledger is not whole or does not lead to the PCR that was vouched for."""
    ledger = state.ledger
    if ledger.elsewhere or ledger.count != state.facts.entries:
        return state.under(reference_digest), ()
    entries = ledger.entries
    try:
        whole = replay_until(entries, {}, {IMA_PCR: state.ima_pcr}).verified == len(entries)
    except ImaReplayError:
        whole = False
    if not whole:
        return state.under(reference_digest), ()
    return replace(state, reference_digest=reference_digest, facts=LogFacts(), sticky={}), entries


def _bound(evidence: Evidence, role: Role, transcript: bytes, ak_public: bytes, *, allow_sha1: bool) -> VerifiedQuote:
    """The quote, if it is over a tree with this handshake's leaf."""
    quote = evidence.quote
    return verify_quote(
        quote.attest,
        quote.signature,
        ak_public,
        bound_root(evidence, role, transcript),
        SELECTION,
        {Bank.SHA256: quote.pcr_values},
        allow_sha1=allow_sha1,
    )


def require_forward(state: VerifierState | None, quoted: VerifiedQuote) -> None:
    """Raises NotTrusted where the TPM has gone back behind what it said before: its state was copied and restored.

    Its firmware may be another one after a reset alone (TPM 2.0 Part 1, field upgrade).
    """
    if state is None:
        return
    clock = quoted.clock
    if clock.reset_count == state.reset_count and state.firmware_version not in {None, quoted.firmware_version}:
        raise NotTrusted(
            "the TPM's firmware changed within a boot",
            where="TPMS_ATTEST.firmwareVersion",
            expected=f"{state.firmware_version:016x}",
            found=f"{quoted.firmware_version:016x}",
            remedy="A TPM whose firmware was updated has to be reset: boot the host.",
        )
    # Counts may be disguised by a constant (modulo 2**32), so they are compared as serial numbers.
    for what, before, now in (
        ("resetCount", state.reset_count, clock.reset_count),
        ("restartCount", state.restart_count, clock.restart_count),
    ):
        if (now - before) % _COUNTS >= _HALF_OF_COUNTS:
            raise _gone_back(what, before, now)
        if now != before:
            return
    if clock.clock_ms < state.clock_ms:
        raise _gone_back("clock", state.clock_ms, clock.clock_ms)


def _gone_back(what: str, before: int, now: int) -> NotTrusted:
    return NotTrusted(
        f"the TPM's {what} went backwards",
        where="TPMS_CLOCK_INFO",
        expected=f"{before} or more",
        found=str(now),
        remedy="Was the TPM cleared, or its state restored from a copy? Enrol the host anew once that is explained.",
    )


def _log_behind(evidence: Evidence, state: VerifierState) -> Iterator[Frame]:
    """The entries of the Evidence's log behind what `state` vouches for. Raises ShamonError for another log."""
    start = evidence.ima_offset
    if start not in {0, state.ima_offset}:
        raise NotTrusted(
            "the IMA log starts elsewhere than asked for",
            where="IMA log",
            expected=f"byte {state.ima_offset} or 0",
            found=f"byte {start}",
            remedy="It comes whole the next time.",
        )
    entries = iter_frames(evidence.ima_log, base_offset=start)
    if start < state.ima_offset:
        # The same boot, told from its beginning: it must be the history that was vouched for.
        known = Vouched()
        try:
            for _ in vouched_entries(entries, bytes(len(state.ima_pcr)), state.ima_pcr, known):
                pass
        except ImaReplayError:
            raise _another_log("its beginning is not the one vouched for before", evidence, state) from None
        if known.offset != state.ima_offset:
            raise _another_log("its beginning is not the one vouched for before", evidence, state)
    return entries


def _another_log(what: str, evidence: Evidence, state: VerifierState) -> ImaReplayError:
    length = len(evidence.ima_log)
    what = "it is shorter than before" if length < state.ima_offset else what
    return ImaReplayError(
        f"the IMA log is not the one of this boot: {what}",
        where="IMA log",
        expected=f"{state.ima_offset} bytes as vouched for",
        found=f"{length} bytes",
    )


def _with_reason(claims: tuple[Claim, ...], error: ShamonError) -> tuple[Claim, ...]:
    """Of the four absent claims, `software` carries the reason in full and is a failure of its own."""
    told = failed(
        ClaimName.SOFTWARE, error.what, where=error.where or "IMA log", expected=error.expected, found=error.found
    )
    return tuple(told if claim.name is ClaimName.SOFTWARE and not claim.sticky else claim for claim in claims)


def _reported(name: ClaimName, what: str, report: bytes, check: Check) -> Claim:
    if not report:
        return absent(name, f"the Evidence has no {what}")
    try:
        claim = check(report)
    except ShamonError as error:
        return failed(name, f"the {what} is refused: {error.what}", expected=error.expected, found=error.found)
    return claim if claim.name is name else absent(name, f"the {what} was not checked")


def _tpm_kind(kind: TpmKind, demands: Demands) -> Claim:
    if kind is TpmKind.HARDWARE:
        return passed(ClaimName.TPM_KIND, "a hardware TPM, as enrolled")
    if demands.allow_software_tpm:
        return passed(
            ClaimName.TPM_KIND,
            "a software TPM, which the policy allows: it proves nothing against whoever runs it",
            found=kind,
        )
    return failed(
        ClaimName.TPM_KIND,
        "a software TPM proves nothing against whoever runs it",
        expected="a hardware TPM, or demands.allow_software_tpm in the policy",
        found=kind,
    )


def _nothing_else(binding: Claim, state: VerifierState | None) -> tuple[Claim, ...]:
    """Claims where the quote is not to be believed: nothing in the Evidence counts, but what stuck before stays."""
    sticky = state.sticky if state is not None else {}
    reason = "the Evidence is not bound to this handshake"
    others = (name for name in ClaimName if name is not ClaimName.BINDING)
    return (binding, *(sticky.get(name, absent(name, reason)) for name in others))


def _result(
    host: HostName, ak_name: bytes, reset_count: int, kind: TpmKind, claims: tuple[Claim, ...]
) -> AttestationResult:
    order = list(ClaimName)
    return AttestationResult(
        host=host,
        ak_name=ak_name,
        reset_count=reset_count,
        tpm=kind,
        claims=tuple(sorted(claims, key=lambda claim: order.index(claim.name))),
    )
