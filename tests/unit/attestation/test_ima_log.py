"""The IMA log: real logs of all templates and hashes, hostile ones, increments, and the writer for fakes."""

import hashlib
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shamon_host.attestation.event_log import parse_event_log
from shamon_host.attestation.ima_entry import FileDigest, printable, template_fields
from shamon_host.attestation.ima_log import (
    ImaEntry,
    ImaLogError,
    ImaLogTruncatedError,
    ImaReplayError,
    boot_aggregate,
    detect_log_bank,
    encode_ima_log,
    ima_buf_entry,
    ima_sig_entry,
    parse_ima_log,
    replay_until,
    violation_entry,
)
from shamon_host.attestation.pcr import Bank, replay
from tests.examples import examples


def _kernel_pcr10(vectors: Path) -> dict[Bank, bytes]:
    lines = (vectors / "ibmtss-pcr10.txt").read_text().splitlines()
    return dict(zip(Bank, (bytes.fromhex(line.split(":")[1]) for line in lines), strict=True))


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


_ENTRIES = (
    ima_sig_entry("boot_aggregate", _digest("boot")),
    ima_sig_entry("/usr/lib/systemd/systemd", _digest("systemd"), signature=b"\x03\x02signature"),
    ima_buf_entry("selinux-state", b"initialized=1;enforcing=1;"),
    violation_entry("/var/log/wtmp"),
    ima_sig_entry("/usr/bin/naïve \udcff", _digest("odd")),
)
_LOG = encode_ima_log(_ENTRIES)
_BOUNDARIES = {entry.end_offset for entry in parse_ima_log(_LOG)} | {0}


def _values(count: int, bank: Bank = Bank.SHA256) -> bytes:
    return replay(bank, (entry.pcr_digest(bank) for entry in _ENTRIES[:count]), bytes(bank.digest_size))


@pytest.mark.parametrize("log_bank", list(Bank))
@pytest.mark.parametrize("bank", list(Bank))
def test_every_log_format_replays_to_the_kernels_pcr_of_every_bank(vectors: Path, log_bank: Bank, bank: Bank) -> None:
    log = (vectors / f"ibmtss-{log_bank}.ima").read_bytes()
    assert detect_log_bank(log) is log_bank
    entries = parse_ima_log(log, log_bank=log_bank)
    assert encode_ima_log(entries) == log
    replayed = replay_until(entries, {}, {10: _kernel_pcr10(vectors)[bank]}, bank)
    assert (replayed.verified, replayed.next_offset) == (362, len(log))


def test_all_templates_are_read_and_their_hashes_are_right(vectors: Path) -> None:
    log = (vectors / "ibmtss-templates.ima").read_bytes()
    entries = parse_ima_log(log)
    assert encode_ima_log(entries) == log
    assert len(entries) == 17
    assert len({entry.template for entry in entries}) == 14
    assert [entry.template for entry in entries if entry.violation] == ["ima"]
    fields = {entry.template: entry.fields() for entry in entries}
    assert fields["ima-sigv2"].file_digest == FileDigest("sha256", hashlib.sha256(b"").digest())
    assert fields["ima-buf"].path == ".builtin_trusted_keys"
    assert fields["evm-sig"].raw["xattrnames"].startswith(b"security.selinux|security.ima")
    assert fields["ima-modsig"].modsig_digest is not None
    assert fields["n-ng|sig|d-ng"].path == "boot_aggregate"
    assert fields["sig"].path is None
    assert fields["sig"].file_digest is None
    assert all(entry.describe() for entry in entries)


def test_captured_log_holds_the_selinux_state_and_leads_to_the_pcr(vectors: Path) -> None:
    log = (vectors / "debian12-selinux.ima").read_bytes()
    text = (vectors / "debian12-selinux.pcrs.txt").read_text()
    pcr10 = next(line.split(":")[1].strip() for line in text.splitlines() if line.strip().startswith("10"))
    entries = parse_ima_log(log)
    assert replay_until(entries, {}, {10: bytes.fromhex(pcr10[2:])}).verified == 727
    buffers = {fields.path: fields for entry in entries if (fields := entry.fields()).buf is not None}
    assert (buffers["selinux-state"].buf or b"").startswith(b"initialized=1;enforcing=1;")
    assert len(buffers["selinux-policy-hash"].buf or b"") == 32
    assert all(fields.buffer_matches_digest for fields in buffers.values())


def test_boot_aggregates_of_both_kernels(vectors: Path) -> None:
    for name, pcrs in (("ima-evm-pcrs0-9", range(10)), ("ima-evm-pcrs0-7", range(8))):
        values = parse_event_log((vectors / f"{name}.tcg").read_bytes()).replay()[Bank.SHA256]
        said = (vectors / f"{name}.ascii").read_text().split()[3]
        found = boot_aggregate(Bank.SHA256, {pcr: values[pcr] for pcr in pcrs})
        assert said == f"sha256:{found.hex()}"


def test_writer_and_reader_agree() -> None:
    entries = parse_ima_log(_LOG)
    assert [entry._replace(end_offset=0) for entry in entries] == list(_ENTRIES)
    assert entries[-1].end_offset == len(_LOG)
    fields = [entry.fields() for entry in entries]
    assert fields[1].path == "/usr/lib/systemd/systemd"
    assert fields[1].file_digest == FileDigest("sha256", _digest("systemd"))
    assert fields[1].signature == b"\x03\x02signature"
    assert fields[2].buf == b"initialized=1;enforcing=1;"
    assert fields[2].buffer_matches_digest
    assert not fields[1].buffer_matches_digest
    assert entries[3].violation
    assert fields[4].path == "/usr/bin/naïve \\xff"


@pytest.mark.parametrize("log_bank", list(Bank))
def test_writer_in_every_log_format(log_bank: Bank) -> None:
    entries = (
        ima_sig_entry("/bin/sh", _digest("sh"), log_bank=log_bank),
        ima_buf_entry("selinux-state", b"x", log_bank=log_bank),
        violation_entry("/tmp/x", log_bank=log_bank),
    )
    parsed = parse_ima_log(encode_ima_log(entries), log_bank=log_bank)
    assert [entry._replace(end_offset=0) for entry in parsed] == list(entries)


def test_old_template_is_hashed_with_its_name_padded() -> None:
    digest = hashlib.sha1(b"content").digest()
    measured = digest + b"/sbin/init".ljust(256, b"\0")
    entry = ImaEntry(10, "ima", hashlib.sha1(measured).digest(), measured)
    (parsed,) = parse_ima_log(encode_ima_log([entry]))
    assert parsed.fields().path == "/sbin/init"
    assert parsed.fields().file_digest == FileDigest("sha1", digest)


def test_a_log_that_runs_ahead_of_the_quote_is_covered_up_to_the_quote() -> None:
    entries = parse_ima_log(_LOG)
    for count in range(len(entries) + 1):
        replayed = replay_until(entries, {}, {10: _values(count)})
        assert replayed.verified == count
        assert replayed.values == {10: _values(count)}
        assert replayed.next_offset == (entries[count - 1].end_offset if count else None)


def test_increments_give_what_the_whole_log_gives() -> None:
    offset, values = 0, {10: bytes(32)}
    for count in (2, 2, 3, 5):
        entries = parse_ima_log(_LOG[offset:], base_offset=offset)
        replayed = replay_until(entries, values, {10: _values(count)})
        offset, values = replayed.next_offset or offset, dict(replayed.values)
    assert offset == len(_LOG)
    assert values == {10: _values(5)}


def test_missing_swapped_and_changed_entries_lead_elsewhere() -> None:
    entries = parse_ima_log(_LOG)
    target = {10: _values(5)}
    forged = ima_sig_entry("/usr/lib/systemd/systemd", _digest("other"))
    for wrong in (
        entries[:-1],
        entries[1:],
        (entries[1], entries[0], *entries[2:]),
        (entries[0], forged, *entries[2:]),
        (entries[0]._replace(template_hash=bytes(20)), *entries[1:]),
        (*entries[:3], ima_sig_entry("/var/log/wtmp", bytes(32)), entries[4]),
    ):
        with pytest.raises(ImaReplayError, match="PCR 10"):
            replay_until(wrong, {}, target)


def test_an_entry_in_a_pcr_that_is_not_quoted_is_refused() -> None:
    elsewhere = ima_sig_entry("/bin/sh", _digest("sh"), pcr=11)
    with pytest.raises(ImaReplayError, match="not quoted"):
        replay_until([_ENTRIES[0], elsewhere, _ENTRIES[1]], {}, {10: _values(2)})


def test_several_pcrs_have_to_be_right_at_once() -> None:
    other = ima_sig_entry("/bin/sh", _digest("sh"), pcr=11)
    in_eleven = replay(Bank.SHA256, [other.pcr_digest(Bank.SHA256)], bytes(32))
    entries = [_ENTRIES[0], other, _ENTRIES[1]]
    assert replay_until(entries, {}, {10: _values(2), 11: in_eleven}).verified == 3
    assert replay_until(entries, {}, {10: _values(1), 11: in_eleven}).verified == 2
    with pytest.raises(ImaReplayError):
        replay_until(entries, {}, {10: _values(2), 11: bytes(32)})


def test_old_kernels_extended_every_bank_with_the_padded_sha1() -> None:
    value = bytes(32)
    for entry in _ENTRIES:
        digest = b"\xff" * 32 if entry.violation else entry.template_hash + bytes(12)
        value = hashlib.sha256(value + digest).digest()
    assert replay_until(_ENTRIES, {}, {10: value}, padded_sha1=True).verified == 5
    with pytest.raises(ImaReplayError):
        replay_until(_ENTRIES, {}, {10: value})


def test_every_truncation_is_named_and_says_where_to_read_on() -> None:
    ends = sorted(_BOUNDARIES)
    for cut in range(len(_LOG)):
        if cut in _BOUNDARIES:
            assert len(parse_ima_log(_LOG[:cut])) == ends.index(cut)
            continue
        with pytest.raises(ImaLogTruncatedError) as refused:
            parse_ima_log(_LOG[:cut], base_offset=1000)
        assert refused.value.offset - 1000 == max(end for end in ends if end <= cut)


def test_every_flipped_bit_of_a_log_is_refused_or_leads_elsewhere() -> None:
    # What may change is the violation's own text: the kernel extends ones for it, whatever it says.
    start, end = parse_ima_log(_LOG)[2].end_offset, parse_ima_log(_LOG)[3].end_offset
    survived = set()
    for position in range(8 * len(_LOG)):
        changed = bytearray(_LOG)
        changed[position // 8] ^= 1 << position % 8
        try:
            replay_until(parse_ima_log(bytes(changed)), {}, {10: _values(5)})
        except (ImaLogError, ImaReplayError):
            continue
        survived.add(position // 8)
    assert survived
    assert all(start <= position < end for position in survived)


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        (b"\x18\0\0\0" + _LOG[4:], "no such PCR"),
        (_LOG.replace(b"ima-sig", b"ima-gis", 1), "unknown IMA template"),
        (_LOG[:24] + b"\xff\xff\0\0" + _LOG[28:], "empty or too long"),
        (_LOG[:24] + b"\0\0\0\0" + _LOG[28:], "empty or too long"),
        (_LOG[:35] + b"\xff\xff\xff\xff" + _LOG[39:], "template data is too long"),
        (_LOG[:28] + b"\xff" + _LOG[29:], "not text"),
        (_LOG[:4] + b"\x01" * 20 + _LOG[24:], "not that of the entry"),
        (b"no log at all, but text that is long enough to be read as one", "."),
    ],
)
def test_malformed_logs_are_refused_with_their_reason(log: bytes, reason: str) -> None:
    with pytest.raises(ImaLogError, match=reason):
        parse_ima_log(log)


def _entry(template: str, *fields: bytes) -> ImaEntry:
    measured = b"".join(len(field).to_bytes(4, "little") + field for field in fields)
    return ImaEntry(10, template, hashlib.sha1(measured).digest(), measured)


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (_entry("ima-ng", b"sha256:\0" + bytes(32)), "do not fill"),
        (_entry("ima-ng", b"sha256:\0" + bytes(32), b"/a\0", b""), "do not fill"),
        (_entry("ima-ng", b"sha256:\0" + bytes(20), b"/a\0"), "wrong length"),
        (_entry("ima-ng", b"sha999:\0" + bytes(32), b"/a\0"), "no known hash"),
        (_entry("ima-ng", b"sha256" + bytes(32), b"/a\0"), "no known hash"),
        (_entry("ima-ngv2", b"md:sha256:\0" + bytes(32), b"/a\0"), "no known kind"),
        (_entry("ima-ng", b"sha256:\0" + bytes(32), b"/a"), "NUL"),
        (_entry("ima-ng", b"sha256:\0" + bytes(32), b"/a\0b\0"), "NUL"),
        (_entry("ima-ng", b"sha256:\0" + bytes(32), b""), "NUL"),
        (_entry("d|n", bytes(19), b"/a\0"), "wrong length"),
    ],
)
def test_fields_that_are_not_what_the_template_says_are_refused(entry: ImaEntry, reason: str) -> None:
    with pytest.raises(ImaLogError, match=reason):
        entry.fields()
    assert "unreadable" in entry.describe()


def test_measured_bytes_do_not_pass_under_another_template() -> None:
    # The template's name is in no hash, so a liar may change it; what was measured must not read as something else.
    entry = ima_sig_entry("/usr/bin/evil", _digest("evil"))
    for template in ("ima-ng", "ima-ngv2", "ima-sigv2", "ima-modsig", "n-ng|d-ng|sig", "sig|n-ng|d-ng", "d|n|sig"):
        with pytest.raises(ImaLogError):
            entry._replace(template=template).fields()
    assert not entry._replace(template="ima-buf").fields().buffer_matches_digest


@pytest.mark.parametrize("template", ["", "ima-nope", "d-ng|d-ng", "d-ng|", "d-ng|n-ng|what"])
def test_unknown_templates_are_refused(template: str) -> None:
    with pytest.raises(ImaLogError, match="unknown IMA template"):
        template_fields(template)


def test_text_for_people_cannot_forge_a_line() -> None:
    assert printable("a\nb\x1b[2Jc") == "a\\nb\\x1b[2Jc"
    entry = ima_sig_entry("/tmp/x\r\nPCR 10 good\x1b[A", _digest("x"))
    assert entry.describe() == f"ima-sig /tmp/x\\r\\nPCR 10 good\\x1b[A sha256:{_digest('x').hex()}"
    assert "enforcing=1" in _ENTRIES[2].describe()
    assert _ENTRIES[3].describe() == "ima-sig /var/log/wtmp violation"


def test_no_log_is_recognised_in_other_bytes() -> None:
    for data in (b"", b"\0" * 100, b"ASCII runtime measurements"):
        with pytest.raises(ImaLogError, match="no IMA log"):
            detect_log_bank(data)


@settings(max_examples=examples(300))
@given(st.binary(max_size=120), st.integers(0, len(_LOG) - 1), st.integers(0, 40))
def test_changed_logs_end_in_the_own_error(junk: bytes, position: int, cut: int) -> None:
    for log in (junk, _LOG[:position] + junk + _LOG[position + cut :]):
        for log_bank in (Bank.SHA1, Bank.SHA256):
            try:
                entries = parse_ima_log(log, log_bank=log_bank)
                for entry in entries:
                    entry.fields()
            except ImaLogError:
                continue
            assert encode_ima_log(entries) == log


@given(st.binary(max_size=80), st.sampled_from(["ima-ng", "ima-sig", "ima-ngv2", "evm-sig", "ima-buf", "n|sig", "ima"]))
def test_fields_of_arbitrary_bytes_end_in_the_own_error(measured: bytes, template: str) -> None:
    entry = ImaEntry(10, template, b"\x01" * 20, measured)
    assert entry.describe().isprintable()
    try:
        entry.fields()
    except ImaLogError:
        return


def test_a_long_log_is_read_and_replayed_in_little_time() -> None:
    paths = [f"/usr/lib/python3/dist-packages/package/module{number}.py" for number in range(16_000)]
    log = encode_ima_log(ima_sig_entry(path, _digest(path)) for path in paths)
    target = {10: replay(Bank.SHA256, (e.pcr_digest(Bank.SHA256) for e in parse_ima_log(log)), bytes(32))}
    best_s = float("inf")
    for _ in range(3):
        started = time.process_time()
        replay_until(parse_ima_log(log), {}, target)
        best_s = min(best_s, time.process_time() - started)
    # About 40 ms where it was written: a slow machine may take its time, a reader that is not linear may not.
    assert best_s < 0.5
