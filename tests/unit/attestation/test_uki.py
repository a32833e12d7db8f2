"""PE files and unified kernel images: Authenticode digests, sections, and the PCRs of a real boot."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shamon_host.attestation.authenticode import PeError, PeImage, authenticode_digest
from shamon_host.attestation.event_log import EventType, parse_event_log
from shamon_host.attestation.pcr import Bank, replay
from shamon_host.attestation.uki import (
    UkiError,
    expected_pcr4_events,
    expected_pcr9_events,
    expected_pcr11_events,
    pcr4_events,
    pcr4_value,
    pcr9_value,
    pcr11_value,
)
from tests.examples import examples

_DATA = Path(__file__).parent / "data"
_PE_OFFSET = 0x80
_OPTIONAL = _PE_OFFSET + 24
_OPTIONAL_BYTES = 112 + 16 * 8
_CHECKSUM = _OPTIONAL + 64
_CERTIFICATE_ENTRY = _OPTIONAL + 112 + 4 * 8
_HEADERS = 0x400


def _pe(sections: dict[str, bytes], *, trailing: bytes = b"", certificate: bytes = b"", reverse: bool = False) -> bytes:
    """A PE32+ file; with `reverse` the last section of the table lies first in the file."""
    table = b""
    offset = _HEADERS
    places = {}
    for name in reversed(sections) if reverse else sections:
        places[name] = offset
        offset += len(sections[name])
    body = b"".join(sections[name] for name in sorted(sections, key=lambda name: places[name]))
    for name, content in sections.items():
        fields = (len(content), 0x1000, len(content), places[name])
        table += name.encode().ljust(8, b"\0") + b"".join(field.to_bytes(4, "little") for field in fields) + bytes(16)
    optional = bytearray(_OPTIONAL_BYTES)
    optional[0:2] = b"\x0b\x02"
    optional[60:64] = _HEADERS.to_bytes(4, "little")
    optional[108:112] = (16).to_bytes(4, "little")
    end = _HEADERS + len(body) + len(trailing)
    optional[144:152] = end.to_bytes(4, "little") + len(certificate).to_bytes(4, "little")
    head = bytearray(b"MZ".ljust(_PE_OFFSET, b"\0"))
    head[0x3C:0x40] = _PE_OFFSET.to_bytes(4, "little")
    coff = b"PE\0\0" + b"\x64\x86" + len(sections).to_bytes(2, "little") + bytes(12)
    coff += _OPTIONAL_BYTES.to_bytes(2, "little") + b"\x22\0"
    return (bytes(head) + coff + bytes(optional) + table).ljust(_HEADERS, b"\0") + body + trailing + certificate


_KERNEL = _pe({".text": b"kernel code"})
_SECTIONS = {".text": b"stub", ".osrel": b"ID=x\n", ".cmdline": b"quiet", ".linux": _KERNEL, ".initrd": b"cpio"}
_UKI = _pe(_SECTIONS)


@pytest.fixture(scope="module")
def boot() -> dict[str, Any]:
    """What is known of the captured boot in `data/ovmf-uki.tcg`."""
    known: dict[str, Any] = json.loads((_DATA / "ovmf-uki.json").read_text())
    return known


def test_pcr_4_of_a_real_boot(boot: dict[str, Any]) -> None:
    events = pcr4_events(
        {Bank.SHA256: bytes.fromhex(boot["image_authenticode"])},
        {Bank.SHA256: bytes.fromhex(boot["kernel_authenticode"])},
    )
    assert replay(Bank.SHA256, (event.digests[Bank.SHA256] for event in events), bytes(32)).hex() == boot["pcrs"]["4"]
    measured = parse_event_log((_DATA / "ovmf-uki.tcg").read_bytes()).of_pcr(4)
    assert [event.type for event in events] == [event.type for event in measured]


def test_pcr_9_and_11_of_a_real_boot_follow_from_the_sections(boot: dict[str, Any]) -> None:
    # The captured kernel and initrd are not here, only their digests: put those in place of the computed ones.
    cmdline, osrel = boot["cmdline"].encode(), boot["osrel"].encode()
    image = _pe({".linux": b"L", ".osrel": osrel, ".cmdline": cmdline, ".initrd": b"I"})
    known = {
        hashlib.sha256(b"L").digest(): bytes.fromhex(boot["linux_sha256"]),
        hashlib.sha256(b"I").digest(): bytes.fromhex(boot["initrd_sha256"]),
    }
    log = parse_event_log((_DATA / "ovmf-uki.tcg").read_bytes())
    for pcr, events in ((9, expected_pcr9_events(image)), (11, expected_pcr11_events(image))):
        digests = [event.digests[Bank.SHA256] for event in events]
        value = replay(Bank.SHA256, (known.get(digest, digest) for digest in digests), bytes(32))
        assert value.hex() == boot["pcrs"][str(pcr)]
        assert [(event.type, event.data) for event in events] == [(event.type, event.data) for event in log.of_pcr(pcr)]


def test_values_are_the_replay_of_the_events() -> None:
    for value, events in (
        (pcr4_value(_UKI), expected_pcr4_events(_UKI)),
        (pcr9_value(_UKI), expected_pcr9_events(_UKI)),
        (pcr11_value(_UKI), expected_pcr11_events(_UKI)),
    ):
        assert value == replay(Bank.SHA256, (event.digests[Bank.SHA256] for event in events), bytes(32))
    phases = ("enter-initrd", "leave-initrd")
    digests = (hashlib.sha256(phase.encode()).digest() for phase in phases)
    assert pcr11_value(_UKI, phases=phases) == replay(Bank.SHA256, digests, pcr11_value(_UKI))


def test_events_of_several_banks() -> None:
    banks = (Bank.SHA1, Bank.SHA256)
    for events in (expected_pcr4_events(_UKI, banks=banks), expected_pcr11_events(_UKI, banks=banks)):
        assert all(set(event.digests) == set(banks) for event in events)
    kernel = expected_pcr4_events(_UKI, banks=banks)[-1]
    assert kernel.type == EventType.EV_EFI_BOOT_SERVICES_APPLICATION
    assert kernel.digests[Bank.SHA1] == authenticode_digest(_KERNEL, Bank.SHA1)


@pytest.mark.parametrize("section", [".linux", ".cmdline", ".initrd", ".osrel"])
def test_a_changed_section_changes_the_pcrs_that_hold_it(section: str) -> None:
    changed = _SECTIONS[section][:-1] + b"#"
    image = _pe({**_SECTIONS, section: changed})
    assert pcr4_value(image) != pcr4_value(_UKI)
    assert pcr11_value(image) != pcr11_value(_UKI)
    assert (pcr9_value(image) != pcr9_value(_UKI)) == (section in {".cmdline", ".initrd"})


def test_sections_are_read_as_they_stand_in_memory() -> None:
    image = PeImage.parse(_UKI)
    assert {name: image.content(name) for name in _SECTIONS} == _SECTIONS
    assert image.content(".splash") is None
    row = _UKI.index(b".cmdline")
    shorter = _UKI[: row + 8] + (3).to_bytes(4, "little") + _UKI[row + 12 :]
    longer = _UKI[: row + 8] + (8).to_bytes(4, "little") + _UKI[row + 12 :]
    huge = _UKI[: row + 8] + b"\xff\xff\xff\xff" + _UKI[row + 12 :]
    with pytest.raises(PeError, match="larger than its file"):
        PeImage.parse(huge).content(".cmdline")
    assert PeImage.parse(shorter).content(".cmdline") == b"qui"
    assert PeImage.parse(longer).content(".cmdline") == b"quiet\0\0\0"


def test_a_section_that_stands_twice_is_refused() -> None:
    twice = _UKI.replace(b".osrel\0\0", b".cmdline")
    with pytest.raises(PeError, match="stands twice"):
        PeImage.parse(twice).content(".cmdline")


def test_authenticode_leaves_out_checksum_and_certificates_only() -> None:
    digest = authenticode_digest(_UKI)
    changed = bytearray(_UKI)
    changed[_CHECKSUM : _CHECKSUM + 4] = b"\xde\xad\xbe\xef"
    assert authenticode_digest(bytes(changed)) == digest
    assert authenticode_digest(_pe(_SECTIONS, certificate=b"signature")) == digest
    assert authenticode_digest(_pe(_SECTIONS, trailing=b"t")) != digest
    for position in (2, _OPTIONAL + 16, _CERTIFICATE_ENTRY + 8, _HEADERS, len(_UKI) - 1):
        flipped = bytearray(_UKI)
        flipped[position] ^= 1
        assert authenticode_digest(bytes(flipped)) != digest


def test_authenticode_takes_sections_by_their_place_in_the_file() -> None:
    image = _pe(_SECTIONS, reverse=True)
    without = image[:_CHECKSUM] + image[_CHECKSUM + 4 : _CERTIFICATE_ENTRY] + image[_CERTIFICATE_ENTRY + 8 :]
    assert authenticode_digest(image) == hashlib.sha256(without).digest()


def test_authenticode_of_bytes_behind_the_sections_has_no_padding() -> None:
    image = _pe(_SECTIONS, trailing=b"abc")
    without = image[:_CHECKSUM] + image[_CHECKSUM + 4 : _CERTIFICATE_ENTRY] + image[_CERTIFICATE_ENTRY + 8 :]
    assert authenticode_digest(image) == hashlib.sha256(without).digest()


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (b"", "no PE file"),
        (b"\x7fELF" + bytes(100), "no PE file"),
        (b"MZ" + bytes(100), "no PE file"),
        (_UKI[:_OPTIONAL], "does not fit"),
        (_UKI[:_OPTIONAL] + b"\x07\x01" + _UKI[_OPTIONAL + 2 :], "neither PE32"),
        (_UKI[:-1], "outside of the file"),
    ],
)
def test_files_that_are_no_pe_are_refused(image: bytes, reason: str) -> None:
    with pytest.raises(PeError, match=reason):
        PeImage.parse(image)


def test_an_image_without_a_kernel_is_no_unified_kernel_image() -> None:
    image = _pe({".text": b"stub", ".cmdline": b"quiet"})
    for compute in (expected_pcr4_events, expected_pcr11_events, expected_pcr9_events):
        with pytest.raises(UkiError):
            compute(image)


@settings(max_examples=examples(300))
@given(st.integers(0, _HEADERS - 1), st.binary(min_size=1, max_size=8))
def test_changed_headers_end_in_the_own_error(position: int, change: bytes) -> None:
    image = _UKI[:position] + change + _UKI[position + len(change) :]
    try:
        parsed = PeImage.parse(image)
        parsed.authenticode()
        for section in parsed.sections:
            parsed.content(section.name)
    except PeError:
        return
