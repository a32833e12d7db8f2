"""A corpus of bad Evidence: good Evidence with one thing changed, each refused by the right claim and reason.

The changes are those that somebody between two hosts, or a host that was broken into and still has its TPM, can make.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from shamon_host.attestation.evidence import Evidence, Role, leaf
from shamon_host.attestation.ima_log import encode_ima_log, parse_ima_log
from shamon_host.attestation.merkle import MerkleTree
from shamon_host.attestation.pcr import Bank, PcrSelection, composite_digest
from shamon_host.attestation.tpm_structures import ClockInfo, QuoteAttest, TpmSignature
from shamon_host.domain.results import ClaimName, ClaimStatus
from shamon_host.testing.machine import MeasuredMachine
from tests.unit.attestation.appraised_world import HEAD, NETWORK, REPORT, Attested, claim_of

Change = Callable[[Attested, Evidence, bytes], Evidence]
"""World, good Evidence, and the transcript that it has to be for → bad Evidence."""


@dataclass(frozen=True, slots=True)
class Bad:
    """One change, and what has to come of it."""

    name: str
    change: Change
    claim: ClaimName
    reason: str
    """Occurs in the claim's reason."""
    reason_known: str = ""
    """The same where the Verifier knows the log's beginning already; empty: as for the first time."""


def _signed(world: Attested, evidence: Evidence, attest: QuoteAttest) -> Evidence:
    """Evidence whose quote says something else, signed by the very AK: no TPM does that, but a Verifier has to look."""
    data = attest.encode()
    r, s = decode_dss_signature(world.machine.tpm._key.sign(data, ec.ECDSA(SHA256())))
    quote = replace(evidence.quote, attest=data, signature=TpmSignature.ecdsa(Bank.SHA256, r, s).encode())
    return replace(evidence, quote=quote)


def _saying(**changes: object) -> Change:
    def change(world: Attested, evidence: Evidence, _transcript: bytes) -> Evidence:
        attest = QuoteAttest.parse(evidence.quote.attest)
        return _signed(world, evidence, replace(attest, **changes))  # type: ignore[arg-type]

    return change


def _selecting(selection: PcrSelection) -> Change:
    def change(world: Attested, evidence: Evidence, _transcript: bytes) -> Evidence:
        attest = QuoteAttest.parse(evidence.quote.attest)
        values = {bank: {pcr: bytes(bank.digest_size) for pcr in range(24)} for bank in Bank}
        digest = composite_digest(Bank.SHA256, selection, values)
        return _signed(world, evidence, replace(attest, selection=selection, pcr_digest=digest))

    return change


def _quoted(*, attest: Callable[[bytes], bytes] = bytes, signature: Callable[[bytes], bytes] = bytes) -> Change:
    def change(_world: Attested, evidence: Evidence, _transcript: bytes) -> Evidence:
        quote = evidence.quote
        return replace(
            evidence, quote=replace(quote, attest=attest(quote.attest), signature=signature(quote.signature))
        )

    return change


def _logged(make: Callable[[list[bytes]], list[bytes]]) -> Change:
    """Entries of the IMA log in another order, more or fewer of them."""

    def change(_world: Attested, evidence: Evidence, _transcript: bytes) -> Evidence:
        entries = [encode_ima_log([entry]) for entry in parse_ima_log(evidence.ima_log)]
        return replace(evidence, ima_log=b"".join(make(entries)))

    return change


def _of_another_host(_world: Attested, _evidence: Evidence, transcript: bytes) -> Evidence:
    return Attested(machine=MeasuredMachine()).evidence(transcript)


def _quote_of_another_host(_world: Attested, evidence: Evidence, transcript: bytes) -> Evidence:
    return replace(evidence, quote=Attested(machine=MeasuredMachine()).evidence(transcript).quote)


def _old(world: Attested, _evidence: Evidence, _transcript: bytes) -> Evidence:
    return world.evidence(world.new_transcript())


def _old_quote(world: Attested, evidence: Evidence, _transcript: bytes) -> Evidence:
    return replace(evidence, quote=world.evidence(world.new_transcript()).quote)


def _relayed(world: Attested, evidence: Evidence, transcript: bytes) -> Evidence:
    """A quote that the host made for another peer's leaf, with the path that leads from there."""
    mine = leaf(Role.RESPONDER, transcript, hypervisor_report=REPORT, network_state=NETWORK, audit_head=HEAD)
    theirs = hashlib.sha256(b"another peer's leaf").digest()
    tree = MerkleTree.over([theirs, hashlib.sha256(b"a third one's").digest()])
    assert mine not in tree.levels[0]
    quote = world.machine.tpm.quote(tree.root)
    return replace(evidence, quote=quote, merkle_index=0, merkle_path=tree.path(0))


def _path_of_an_earlier_root(world: Attested, evidence: Evidence, transcript: bytes) -> Evidence:
    mine = leaf(Role.RESPONDER, transcript, hypervisor_report=REPORT, network_state=NETWORK, audit_head=HEAD)
    tree = MerkleTree.over([mine, hashlib.sha256(b"beside it, earlier").digest()])
    return replace(evidence, merkle_index=0, merkle_path=tree.path(0))


def _signed_by_another_key(_world: Attested, evidence: Evidence, _transcript: bytes) -> Evidence:
    key = ec.generate_private_key(ec.SECP256R1())
    r, s = decode_dss_signature(key.sign(evidence.quote.attest, ec.ECDSA(SHA256())))
    return replace(evidence, quote=replace(evidence.quote, signature=TpmSignature.ecdsa(Bank.SHA256, r, s).encode()))


def _another_pcr_value(_world: Attested, evidence: Evidence, _transcript: bytes) -> Evidence:
    values = {**evidence.quote.pcr_values, 7: bytes(32)}
    return replace(evidence, quote=replace(evidence.quote, pcr_values=values))


def _cut(data: bytes) -> bytes:
    return data[:-1]


def _clock(world: Attested, **changes: int) -> ClockInfo:
    assert world.state is not None
    known = ClockInfo(
        clock_ms=world.state.clock_ms,
        reset_count=world.state.reset_count,
        restart_count=world.state.restart_count,
        safe=True,
    )
    return replace(known, **changes)  # type: ignore[arg-type]


def _clock_rolled_back(world: Attested, evidence: Evidence, _transcript: bytes) -> Evidence:
    attest = QuoteAttest.parse(evidence.quote.attest)
    assert world.state is not None
    world.state = replace(world.state, clock_ms=attest.clock_info.clock_ms + 1)
    return _signed(world, evidence, replace(attest, clock_info=_clock(world, clock_ms=world.state.clock_ms - 1)))


def _boots_rolled_back(world: Attested, evidence: Evidence, _transcript: bytes) -> Evidence:
    attest = QuoteAttest.parse(evidence.quote.attest)
    count = attest.clock_info.reset_count - 1
    return _signed(world, evidence, replace(attest, clock_info=_clock(world, reset_count=count)))


BINDING, SOFTWARE = ClaimName.BINDING, ClaimName.SOFTWARE
_ASTRAY, _ANOTHER_LOG = "does not lead to the quoted PCR", "not the one of this boot"
_NO_PCR_10 = PcrSelection.of({Bank.SHA256: [*range(10), *range(11, 15)]})
_ONE_BANK_MORE = PcrSelection.of({Bank.SHA256: range(15), Bank.SHA1: (0,)})
CORPUS = (
    Bad("attest-truncated", _quoted(attest=_cut), BINDING, "does not fit"),
    Bad("attest-with-more-behind-it", _quoted(attest=lambda data: data + b"\0"), BINDING, "bytes follow the end"),
    Bad("signature-truncated", _quoted(signature=_cut), BINDING, "does not fit"),
    Bad("magic-of-no-tpm", _saying(magic=0xFF544346), BINDING, "not made by a TPM"),
    Bad("another-kind-of-attest", _saying(attest_type=0x8017), BINDING, "not a quote"),
    Bad("other-qualifying-data", _saying(extra_data=bytes(32)), BINDING, "other qualifying data"),
    Bad("no-qualifying-data", _saying(extra_data=b""), BINDING, "other qualifying data"),
    Bad("other-pcr-digest", _saying(pcr_digest=bytes(32)), BINDING, "PCR values are not the quoted ones"),
    Bad("no-pcr-digest", _saying(pcr_digest=b""), BINDING, "PCR values are not the quoted ones"),
    Bad("wrong-bank", _selecting(PcrSelection.of({Bank.SHA384: range(15)})), BINDING, "selects other PCRs"),
    Bad("sha1-bank", _selecting(PcrSelection.of({Bank.SHA1: range(15)})), BINDING, "selects other PCRs"),
    Bad(
        "one-bank-more",
        _selecting(PcrSelection.of({Bank.SHA256: range(15), Bank.SHA1: (0,)})),
        BINDING,
        "selects other",
    ),
    Bad("empty-selection", _selecting(PcrSelection.of({})), BINDING, "selects other PCRs"),
    Bad("bank-without-pcrs", _selecting(PcrSelection.of({Bank.SHA256: ()})), BINDING, "selects other PCRs"),
    Bad("one-pcr-less", _selecting(PcrSelection.of({Bank.SHA256: range(14)})), BINDING, "selects other PCRs"),
    Bad(
        "without-pcr-10",
        _selecting(PcrSelection.of({Bank.SHA256: [*range(10), *range(11, 15)]})),
        BINDING,
        "other PCRs",
    ),
    Bad("another-pcr-value", _another_pcr_value, BINDING, "PCR values are not the quoted ones"),
    Bad("signed-by-another-key", _signed_by_another_key, BINDING, "not by the expected AK"),
    Bad("quote-of-another-host", _quote_of_another_host, BINDING, "not by the expected AK"),
    Bad("evidence-of-another-host", _of_another_host, BINDING, "not by the expected AK"),
    Bad("old-evidence", _old, BINDING, "other qualifying data"),
    Bad("old-quote", _old_quote, BINDING, "other qualifying data"),
    Bad("relayed-binding", _relayed, BINDING, "other qualifying data"),
    Bad("path-from-an-earlier-root", _path_of_an_earlier_root, BINDING, "other qualifying data"),
    Bad("clock-rolled-back", _clock_rolled_back, BINDING, "clock went backwards"),
    Bad("firmware-changed-in-a-boot", _saying(firmware_version=1), BINDING, "firmware changed within a boot"),
    Bad("boots-rolled-back", _boots_rolled_back, BINDING, "resetCount went backwards"),
    Bad("log-truncated", _logged(lambda entries: entries[:-1]), SOFTWARE, _ASTRAY, _ANOTHER_LOG),
    Bad("log-empty", _logged(lambda entries: []), SOFTWARE, _ASTRAY, _ANOTHER_LOG),
    Bad("log-without-its-first", _logged(lambda entries: entries[1:]), SOFTWARE, _ASTRAY, _ANOTHER_LOG),
    Bad("log-reordered", _logged(lambda e: [e[1], e[0], *e[2:]]), SOFTWARE, _ASTRAY, _ANOTHER_LOG),
    Bad("log-reversed", _logged(lambda entries: entries[::-1]), SOFTWARE, _ASTRAY, _ANOTHER_LOG),
    Bad("entry-duplicated", _logged(lambda e: [e[0], e[0], *e[1:]]), SOFTWARE, _ASTRAY, _ANOTHER_LOG),
    Bad("log-is-something-else", lambda _w, e, _t: replace(e, ima_log=b"\1" * 64), SOFTWARE, ""),
)


@pytest.mark.parametrize("bad", CORPUS, ids=lambda bad: bad.name)
@pytest.mark.parametrize("known", [False, True], ids=["first-seen", "known-before"])
def test_bad_evidence_is_refused_for_its_own_reason(bad: Bad, known: bool) -> None:
    world = Attested()
    needs_history = bad.name.endswith(("rolled-back", "in-a-boot"))
    if known or needs_history:
        assert world.attest().trusted
    state = world.state
    transcript = world.new_transcript()
    evidence = bad.change(world, world.evidence(transcript, offset=0), transcript)
    result = world.appraise(evidence, transcript)
    assert not result.trusted
    claim = claim_of(result, bad.claim)
    assert claim.status is ClaimStatus.FAIL
    assert (bad.reason_known if known and bad.reason_known else bad.reason) in claim.reason
    if bad.claim is BINDING:
        # Nothing else of it counts, and nothing of it is remembered.
        assert {other.status for other in result.claims if other is not claim} == {ClaimStatus.ABSENT}
        assert known is False or needs_history or world.state == state
    # It was the Evidence, not the host: good Evidence is believed again.
    if not needs_history:
        assert world.attest().trusted


def test_every_change_has_a_name_of_its_own() -> None:
    assert len({bad.name for bad in CORPUS}) == len(CORPUS)
