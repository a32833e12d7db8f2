"""The ASCII log: the same entries as the binary one, whatever the template, the hash and the name."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shamon_host.attestation.event_log import parse_event_log
from shamon_host.attestation.ima_ascii import (
    detect_ascii_log_bank,
    is_ascii_log,
    iter_ascii_ima_log,
)
from shamon_host.attestation.ima_entry import TEMPLATES, ImaEntry, template_fields
from shamon_host.attestation.ima_log import (
    ImaLogError,
    ImaLogTruncatedError,
    LogHash,
    boot_aggregates,
    detect_log_bank,
    encode_ima_log,
    ima_buf_entry,
    ima_sig_entry,
    parse_ima_log,
    violation_entry,
)
from shamon_host.attestation.pcr import Bank
from tests.examples import examples

_DIGEST = hashlib.sha256(b"content").digest()


def shown(entry: ImaEntry) -> bytes:
    """An entry as the kernel's `ima_ascii_measurements_show` prints it, written from its source."""
    if entry.template == "ima":
        texts = [entry.measured[:20].hex().encode(), entry.measured[20:].rstrip(b"\0")]
    else:
        texts = [_shown_field(field, data) for field, data in entry.fields().raw.items()]
    head = b"%2d %s %s" % (entry.pcr, entry.template_hash.hex().encode(), entry.template.encode())
    return head + b"".join(b" " + text for text in texts) + b"\n"


def _shown_field(field: str, data: bytes) -> bytes:
    match field:
        case "n" | "n-ng" | "xattrnames":
            return data.split(b"\0")[0]
        case "d-ng" | "d-ngv2" | "d-modsig" if data:
            name, _, digest = data.partition(b"\0")
            return name + digest.hex().encode()
        case "iuid" | "igid" | "imode" if data:
            return str(int.from_bytes(data, "little")).encode()
        case _:
            return data.hex().encode()


def as_ascii(entries: Iterable[ImaEntry]) -> bytes:
    return b"".join(shown(entry) for entry in entries)


def entries_of(text: bytes, *, log_bank: Bank | LogHash = Bank.SHA1) -> tuple[ImaEntry, ...]:
    """All of them, with the right template hashes."""
    return tuple(iter_ascii_ima_log(text, log_bank=log_bank))


def _plain(entries: Iterable[ImaEntry]) -> list[ImaEntry]:
    return [entry._replace(end_offset=0) for entry in entries]


def test_an_ascii_log_of_a_newer_kernel(vectors: Path) -> None:
    text = (vectors / "ima-evm-pcrs0-9.ascii").read_bytes()
    assert is_ascii_log(text)
    entries = entries_of(text)
    assert [entry.fields().path for entry in entries] == ["boot_aggregate"]
    values = parse_event_log((vectors / "ima-evm-pcrs0-9.tcg").read_bytes()).replay()[Bank.SHA256]
    found = entries[0].fields().file_digest
    assert found is not None
    assert found.digest == boot_aggregates(Bank.SHA256, values)["0-9"]


def test_an_ascii_log_of_an_older_kernel(vectors: Path) -> None:
    text = (vectors / "ima-evm-pcrs0-7.ascii").read_bytes()
    entries = entries_of(text)
    assert [entry.fields().path for entry in entries] == ["boot_aggregate", "/init", "/bin/sh"]
    assert entries[-1].end_offset == len(text)
    assert as_ascii(entries) == text
    values = parse_event_log((vectors / "ima-evm-pcrs0-7.tcg").read_bytes()).replay()[Bank.SHA256]
    assert entries[0].fields().file_digest is not None
    assert str(entries[0].fields().file_digest) == f"sha256:{boot_aggregates(Bank.SHA256, values)['0-7'].hex()}"


@pytest.mark.parametrize(
    "name", ["ibmtss-sha1", "ibmtss-sha256", "ibmtss-sha384", "ibmtss-sha512", "ibmtss-templates", "debian12-selinux"]
)
def test_real_logs_are_the_same_in_ascii(vectors: Path, name: str) -> None:
    log = (vectors / f"{name}.ima").read_bytes()
    bank = detect_log_bank(log)
    entries = parse_ima_log(log, log_bank=bank)
    text = as_ascii(entries)
    assert detect_ascii_log_bank(text) is bank
    read = entries_of(text, log_bank=bank)
    assert encode_ima_log(read) == log
    assert _plain(read) == _plain(entries)
    assert read[-1].end_offset == len(text)


def test_names_with_blanks_and_line_feeds() -> None:
    names = [
        "/a b",
        " ",
        "/a ",
        "/a  b ",
        "/x\ny",
        "/x\n\n",
        "/x\n10 abc",
        "/tab\t",
        "/\udcff",
        "/ends (deleted)",
        "\n",
    ]
    entries = [
        ima_sig_entry(name, _DIGEST, signature=b"\x03\x02" if index % 2 else b"") for index, name in enumerate(names)
    ]
    entries.append(violation_entry("/b c\nd"))
    assert _plain(entries_of(as_ascii(entries))) == entries


def test_a_name_that_forges_an_entry_does_not_pass() -> None:
    forged = ima_sig_entry("/usr/bin/good", _DIGEST)
    text = as_ascii([ima_sig_entry("/x\n" + shown(forged).decode().rstrip("\n"), _DIGEST)])
    with pytest.raises(ImaLogError):
        entries_of(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "no IMA log"),
        (b"hello\n", "no IMA log"),
        (b"10 00 ima-ng x\n", "no IMA log"),
        (encode_ima_log([ima_sig_entry("/x", _DIGEST)]), "no IMA log"),
    ],
)
def test_other_files_are_no_ascii_logs(text: bytes, reason: str) -> None:
    assert not is_ascii_log(text)
    with pytest.raises(ImaLogError, match=reason):
        detect_ascii_log_bank(text)


_GOOD = shown(ima_sig_entry("/bin/x", _DIGEST))
_EVM = b"10 " + b"0" * 40 + b" iuid|imode 0 33188\n"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (_GOOD + b"hello\n" + _GOOD, "entry 2.*no entry"),
        (b"24" + _GOOD[2:], "no such PCR"),
        (_GOOD.replace(b"ima-sig", b"ima-gis"), "entry 1, byte 0: unknown IMA template"),
        (_GOOD.replace(b"sha256:", b"sha256:zz"), "d-ng is malformed"),
        (_GOOD.replace(b"/bin/x ", b"/bin/x abc"), "sig is malformed"),
        (_GOOD.replace(b"/bin/x", b"/bin/\0"), "NUL"),
        (_GOOD.replace(b"/bin/x", b"/bin/y"), "not that of the entry"),
        (_GOOD.replace(b" ima-sig", b"00" * 12 + b" ima-sig"), "wrong length"),
        (_EVM.replace(b"33188", b"65536"), "imode is malformed"),
        (_EVM.replace(b" 0 ", b" -1 "), "iuid is malformed"),
        (_EVM.replace(b" 0 ", b" 99999999999999 "), "iuid is malformed"),
        (_EVM.replace(b" 0 ", b" 0 0 "), "more fields"),
        (b"10 " + b"0" * 40 + b" ima 00 /x\n", "malformed"),
    ],
)
def test_malformed_ascii_logs_are_refused_with_their_reason(text: bytes, reason: str) -> None:
    with pytest.raises(ImaLogError, match=reason):
        entries_of(text)


def test_a_cut_last_line_is_a_truncated_log() -> None:
    text = as_ascii([ima_sig_entry("/bin/sh", _DIGEST), ima_sig_entry("/bin/x", _DIGEST, signature=b"\x03\x02ab")])
    first = text.index(b"\n") + 1
    for cut in range(first + 1, len(text) - 1):
        with pytest.raises(ImaLogTruncatedError) as refused:
            entries_of(text[:cut])
        assert refused.value.offset == first
    # Whole but for its line feed, or with empty lines behind it: as it was copied.
    assert len(entries_of(text[:-1])) == 2
    assert len(entries_of(text + b"\n\n")) == 2
    with pytest.raises(ImaLogTruncatedError):
        entries_of(shown(violation_entry("/bin/x")).rstrip())


def test_wrong_template_hashes_are_counted_where_asked() -> None:
    entries = [ima_sig_entry("/a", _DIGEST), ima_buf_entry("selinux-state", b"x"), violation_entry("/v")]
    text = as_ascii(entries).replace(b" /a ", b" /b ")
    wrong: list[int] = []
    assert [entry.fields().path for entry in iter_ascii_ima_log(text, wrong_hashes=wrong)] == [
        "/b",
        "selinux-state",
        "/v",
    ]
    assert wrong == [1]


_RAW = {
    "d": st.binary(min_size=20, max_size=20),
    "sig": st.binary(max_size=80),
    "buf": st.binary(max_size=80),
    "modsig": st.binary(max_size=40),
    "evmsig": st.binary(max_size=40),
    "xattrlengths": st.binary(max_size=12),
    "xattrvalues": st.binary(max_size=40),
    "xattrnames": st.sampled_from([b"", b"security.ima\0", b"security.selinux|security.ima\0"]),
    "iuid": st.binary(min_size=4, max_size=4) | st.just(b""),
    "igid": st.binary(min_size=4, max_size=4) | st.just(b""),
    "imode": st.binary(min_size=2, max_size=2) | st.just(b""),
}
_NAME = st.binary(max_size=30).map(lambda name: name.replace(b"\0", b"") + b"\0")
_HASHED = st.sampled_from([("sha1", 20), ("sha256", 32), ("sha512", 64), ("sm3", 32)]).flatmap(
    lambda kind: st.binary(min_size=kind[1], max_size=kind[1]).map(lambda digest: kind[0].encode() + b":\0" + digest)
)
_RAW |= {"n": _NAME, "n-ng": _NAME, "d-ng": _HASHED, "d-modsig": _HASHED | st.just(b"")}
_RAW |= {"d-ngv2": st.tuples(st.sampled_from([b"ima:", b"verity:"]), _HASHED).map(b"".join)}
_TEMPLATES = st.sampled_from(list(TEMPLATES)) | st.lists(
    st.sampled_from(sorted(set(_RAW) - {"n"})), min_size=1, max_size=6, unique=True
).map("|".join)


@st.composite
def _entries(draw: st.DrawFn) -> tuple[Bank | LogHash, list[ImaEntry]]:
    bank = draw(st.sampled_from([*Bank, *(other for other in LogHash if other.available)]))
    entries = []
    for _ in range(draw(st.integers(1, 4))):
        template = draw(_TEMPLATES)
        if template == "ima":
            measured = draw(_RAW["d"]) + draw(_NAME)[:-1].ljust(256, b"\0")
        else:
            raw = [draw(_RAW[field]) for field in template_fields(template)]
            measured = b"".join(len(field).to_bytes(4, "little") + field for field in raw)
        violation = draw(st.booleans()) and b"\n" not in measured
        template_hash = bytes(bank.digest_size) if violation else bank.digest(measured)
        entries.append(ImaEntry(draw(st.integers(0, 23)), template, template_hash, measured))
    return bank, entries


@settings(max_examples=examples(300))
@given(_entries())
def test_what_the_kernel_shows_gives_back_what_it_measured(made: tuple[Bank | LogHash, list[ImaEntry]]) -> None:
    bank, entries = made
    text = as_ascii(entries)
    assert is_ascii_log(text)
    assert _plain(entries_of(text, log_bank=bank)) == entries
    assert _plain(parse_ima_log(encode_ima_log(entries), log_bank=bank)) == entries


_TEXT = as_ascii([ima_sig_entry("/bin/a b", _DIGEST), ima_buf_entry("x", b"y"), violation_entry("/v")])


@settings(max_examples=examples(300))
@given(st.binary(max_size=60), st.integers(0, len(_TEXT) - 1), st.integers(0, 40))
def test_any_text_is_a_log_or_the_own_error(junk: bytes, position: int, cut: int) -> None:
    for text in (junk, _TEXT[:position] + junk + _TEXT[position + cut :], b"10 " + b"0" * 40 + b" ima-ng " + junk):
        try:
            bank = detect_ascii_log_bank(text)
            wrong: list[int] = []
            for entry in iter_ascii_ima_log(text, log_bank=bank, wrong_hashes=wrong):
                assert entry.describe().isprintable()
        except ImaLogError:
            continue
