"""Reading binary logs of every hash and template, as an iterator, and with a look at what is wrong in them."""

import hashlib
from collections.abc import Sequence
from itertools import islice, permutations
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shamon_host.attestation.ima_entry import TEMPLATES, ImaEntry, template_fields
from shamon_host.attestation.ima_log import (
    ImaLogError,
    ImaLogTruncatedError,
    LogHash,
    boot_aggregate,
    boot_aggregates,
    detect_log_bank,
    encode_ima_log,
    ima_buf_entry,
    ima_sig_entry,
    iter_ima_log,
    parse_ima_log,
    replay_until,
    violation_entry,
)
from shamon_host.attestation.pcr import Bank, replay
from tests.examples import examples

_LOG_HASHES: tuple[Bank | LogHash, ...] = (*Bank, *(other for other in LogHash if other.available))
_DIGEST = hashlib.sha256(b"content").digest()
_FIELDS = {
    "d": _DIGEST[:20],
    "d-ng": b"sha256:\0" + _DIGEST,
    "d-ngv2": b"ima:sha256:\0" + _DIGEST,
    "d-modsig": b"sha256:\0" + _DIGEST,
    "n": b"/usr/bin/x\0",
    "n-ng": b"/usr/bin/x\0",
    "sig": b"\x03\x02\x04abcd\0\x02xx",
    "buf": b"measured data",
    "modsig": b"\x30\x03abc",
    "evmsig": b"\x05\x02\x04abcd\0\x02xx",
    "xattrnames": b"security.selinux|security.ima\0",
    "xattrlengths": b"\x02\0\0\0\x03\0\0\0",
    "xattrvalues": b"abcde",
    "iuid": b"\0\0\0\0",
    "igid": b"\0\0\0\0",
    "imode": b"\xa4\x81",
}


def make_entry(
    template: str, *, pcr: int = 10, log_bank: Bank | LogHash = Bank.SHA1, violation: bool = False
) -> ImaEntry:
    """An entry of any template, its fields as the kernel makes them."""
    if template == "ima":
        measured = _FIELDS["d"] + b"/usr/bin/x".ljust(256, b"\0")
    else:
        fields = (_FIELDS[field] for field in template_fields(template))
        measured = b"".join(len(field).to_bytes(4, "little") + field for field in fields)
    return ImaEntry(pcr, template, bytes(log_bank.digest_size) if violation else log_bank.digest(measured), measured)


def _plain(entries: Sequence[ImaEntry]) -> list[ImaEntry]:
    return [entry._replace(end_offset=0) for entry in entries]


_CUSTOM = ("n-ng|d-ng", "sig", "d", "n|d", "d-ngv2|n-ng|sig|modsig", "|".join(sorted(_FIELDS)), "buf|n-ng")


@pytest.mark.parametrize("log_bank", _LOG_HASHES)
@pytest.mark.parametrize("first", [*TEMPLATES, *_CUSTOM])
def test_every_template_and_log_hash_whichever_entry_is_first(first: str, log_bank: Bank | LogHash) -> None:
    rest = [make_entry(template, log_bank=log_bank) for template in (*TEMPLATES, *_CUSTOM, *TEMPLATES)]
    for entries in (
        [make_entry(first, log_bank=log_bank), *rest],
        [make_entry(first, log_bank=log_bank, violation=True), *rest],
    ):
        log = encode_ima_log(entries)
        assert detect_log_bank(log) is log_bank
        assert _plain(parse_ima_log(log, log_bank=log_bank)) == entries


def test_the_log_hash_is_known_with_a_wrong_first_entry_and_in_one_of_violations() -> None:
    for log_bank in _LOG_HASHES:
        wrong = make_entry("ima-sig", log_bank=log_bank)._replace(template_hash=b"\1" * log_bank.digest_size)
        assert detect_log_bank(encode_ima_log([wrong, make_entry("ima-ng", log_bank=log_bank)])) is log_bank
        # Where nothing tells the hashes of one length apart, it is taken for the TPM bank of that length.
        only = [violation_entry("/tmp/x", log_bank=log_bank)] * 3
        assert detect_log_bank(encode_ima_log(only)).digest_size == log_bank.digest_size
    assert detect_log_bank(encode_ima_log([violation_entry("/x", log_bank=Bank.SHA256)])) is Bank.SHA256


def test_a_log_is_read_no_further_than_it_is_asked_for() -> None:
    log = encode_ima_log([make_entry("ima-ng"), make_entry("ima-sig")]) + b"then no log any more, but other bytes"
    assert [entry.template for entry in islice(iter_ima_log(log), 2)] == ["ima-ng", "ima-sig"]
    with pytest.raises(ImaLogError):
        parse_ima_log(log)


def test_an_unknown_template_is_refused_with_its_place() -> None:
    log = encode_ima_log([make_entry("ima-ng"), make_entry("ima-sig")])
    second = len(encode_ima_log([make_entry("ima-ng")]))
    with pytest.raises(ImaLogError, match=f"byte {second}: unknown IMA template"):
        parse_ima_log(log.replace(b"ima-sig", b"ima-gis"))


def test_wrong_template_hashes_are_counted_by_their_numbers() -> None:
    entries = [make_entry(template) for template in TEMPLATES] + [violation_entry("/tmp/x")]
    entries[2] = entries[2]._replace(template_hash=b"\1" * 20)
    entries[5] = entries[5]._replace(measured=entries[5].measured[:-1] + b"!")
    log = encode_ima_log(entries)
    wrong: list[int] = []
    assert _plain(list(iter_ima_log(log, wrong_hashes=wrong))) == entries
    assert wrong == [3, 6]
    with pytest.raises(ImaLogError, match="not that of the entry"):
        parse_ima_log(log)
    with pytest.raises(ImaLogTruncatedError):
        list(iter_ima_log(log[:-1], wrong_hashes=wrong))


@pytest.mark.parametrize("template", ["ima", "n", "sig", "ima-ng", "evm-sig"])
def test_truncation_behind_an_entry_of_another_template(template: str) -> None:
    # The reader expects the template it saw last; an entry that is shorter than that one's head is no truncation.
    for before in ("|".join(sorted(_FIELDS)), "ima", "n"):
        first = encode_ima_log([make_entry(before)])
        log = first + encode_ima_log([make_entry(template)])
        assert [entry.template for entry in parse_ima_log(log)] == [before, template]
        for cut in range(len(first) + 1, len(log)):
            with pytest.raises(ImaLogTruncatedError) as refused:
                parse_ima_log(log[:cut], base_offset=5)
            assert refused.value.offset == len(first) + 5


def test_another_template_in_each_entry() -> None:
    templates = ["|".join(fields) for fields in islice(permutations(sorted(_FIELDS), 3), 300)]
    entries = [make_entry(template) for template in templates]
    assert _plain(parse_ima_log(encode_ima_log(entries))) == entries


def test_a_long_buffer_is_read() -> None:
    entry = ima_buf_entry("kernel_version", bytes(4 * 1024 * 1024))
    assert parse_ima_log(encode_ima_log([entry]))[0].fields().buffer_matches_digest
    log = encode_ima_log([entry]).replace(len(entry.measured).to_bytes(4, "little"), b"\1\0\x80\0", 1)
    with pytest.raises(ImaLogError, match="too long"):
        parse_ima_log(log)


def test_entries_in_several_pcrs_lead_to_each_of_them() -> None:
    entries = parse_ima_log(encode_ima_log([make_entry("ima-ng", pcr=pcr) for pcr in (10, 11, 0, 10, 23)]))
    digest = entries[0].pcr_digest(Bank.SHA384)
    ends = {pcr: replay(Bank.SHA384, [digest] * count, bytes(48)) for pcr, count in ((10, 2), (11, 1), (0, 1), (23, 1))}
    assert replay_until(entries, {}, ends, Bank.SHA384).verified == 5


def test_a_log_of_sm3_or_sha3_leads_to_the_same_pcrs() -> None:
    for log_bank in _LOG_HASHES:
        entries = [ima_sig_entry(f"/bin/{number}", _DIGEST, log_bank=log_bank) for number in range(3)]
        target = replay(Bank.SHA256, (entry.pcr_digest(Bank.SHA256) for entry in entries), bytes(32))
        parsed = parse_ima_log(encode_ima_log(entries), log_bank=log_bank)
        assert replay_until(parsed, {}, {10: target}).verified == 3


def test_both_definitions_of_boot_aggregate() -> None:
    values = {pcr: bytes([pcr]) * 32 for pcr in range(24)}
    found = boot_aggregates(Bank.SHA256, values)
    assert found == {
        "0-7": hashlib.sha256(b"".join(bytes([pcr]) * 32 for pcr in range(8))).digest(),
        "0-9": hashlib.sha256(b"".join(bytes([pcr]) * 32 for pcr in range(10))).digest(),
    }
    assert found["0-9"] == boot_aggregate(Bank.SHA256, values)
    del values[8]
    assert list(boot_aggregates(Bank.SHA256, values)) == ["0-7"]
    del values[0]
    assert boot_aggregates(Bank.SHA256, values) == {}


def test_the_templates_of_the_real_log_are_detected_and_read(vectors: Path) -> None:
    for name, bank in (
        ("ibmtss-templates", Bank.SHA1),
        ("debian12-selinux", Bank.SHA1),
        ("ibmtss-sha512", Bank.SHA512),
    ):
        log = (vectors / f"{name}.ima").read_bytes()
        assert detect_log_bank(log) is bank
        wrong: list[int] = []
        assert encode_ima_log(iter_ima_log(log, log_bank=bank, wrong_hashes=wrong)) == log
        assert wrong == []


_LOG = encode_ima_log([make_entry(template) for template in (*TEMPLATES, *_CUSTOM)])


@settings(max_examples=examples(300))
@given(st.binary(max_size=80), st.integers(0, len(_LOG) - 1), st.integers(0, 40))
def test_any_bytes_are_a_log_or_the_own_error(junk: bytes, position: int, cut: int) -> None:
    for log in (junk, _LOG[:position] + junk + _LOG[position + cut :], b"\x0a\0\0\0" + bytes(20) + junk):
        try:
            bank = detect_log_bank(log)
            wrong: list[int] = []
            entries = list(iter_ima_log(log, log_bank=bank, wrong_hashes=wrong))
        except ImaLogError:
            continue
        assert encode_ima_log(entries) == log
        assert set(wrong) <= set(range(1, len(entries) + 1))
