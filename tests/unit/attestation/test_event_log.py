"""The event log: real logs of many platforms, hostile ones, the writer for fakes, and what people read."""

import base64
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shamon_host.attestation.device_path import DevicePathError, device_path_text
from shamon_host.attestation.event_describe import describe
from shamon_host.attestation.event_log import (
    Event,
    EventLog,
    EventLogError,
    EventType,
    encode_event_log,
    parse_event_log,
)
from shamon_host.attestation.pcr import Bank, extend, replay
from tests.examples import examples

_DATA = Path(__file__).parent / "data"
_BANKS = (Bank.SHA1, Bank.SHA256)
_EVENTS = (
    Event.measuring(0, EventType.EV_S_CRTM_VERSION, "v1".encode("utf-16-le"), banks=_BANKS),
    Event.measuring(4, EventType.EV_EFI_ACTION, b"Calling EFI Application from Boot Option", banks=_BANKS),
    Event.measuring(7, EventType.EV_SEPARATOR, bytes(4), banks=_BANKS),
    Event.measuring(11, EventType.EV_IPL, ".linux\0".encode("utf-16-le"), banks=_BANKS, measured=b"kernel"),
)
_LOG = encode_event_log(_EVENTS)


def _sha1_event(pcr: int, kind: int, digest: bytes, data: bytes) -> bytes:
    return pcr.to_bytes(4, "little") + kind.to_bytes(4, "little") + digest + len(data).to_bytes(4, "little") + data


def test_cloud_log_replays_to_its_known_pcrs(vectors: Path) -> None:
    log = parse_event_log((vectors / "go-tpm-tools-rhel8.tcg").read_bytes())
    assert log.banks == (Bank.SHA1, Bank.SHA256, Bank.SHA384)
    values = log.replay()[Bank.SHA256]
    assert {pcr: values[pcr].hex() for pcr in (0, 4, 7, 9, 14)} == {
        0: "24af52a4f429b71a3184a6d64cddad17e54ea030e2aa6576bf3a5a3d8bd3328f",
        4: "758a3d35f1b0ff5b135dacd07db0c8132c0ac665d944090d4bf96e66447a245c",
        7: "5fd54361d580eb7592adb8deb236ff35444ceeac7148f24b3de63c041f12b3da",
        9: "d43b2f61eb18b4791812ff5f20ab20e4ef621ba683370bedf5dbdf518b3a8078",
        14: "d8f57ebcc1a23cc46832696e1a657f720e1be8f5b405bb7204682114e363b455",
    }


def test_h_crtm_starts_pcr_0_at_4(vectors: Path) -> None:
    log = parse_event_log(base64.b64decode((vectors / "tpm2-tss-hcrtm.tcg.b64").read_bytes()))
    assert log.startup_locality == 4
    assert log.replay()[Bank.SHA1][0].hex() == "15f4e6ca457d1af6bc49511a93ba3500ad69acc5"


def test_secure_boot_log_has_all_its_events_and_a_bogus_file_is_refused(vectors: Path) -> None:
    log = parse_event_log((vectors / "keylime-secureboot.tcg").read_bytes())
    assert len(log.events) == 98
    assert log.header is not None
    assert log.header.type == EventType.EV_NO_ACTION
    with pytest.raises(EventLogError):
        parse_event_log((vectors / "keylime-bogus.tcg").read_bytes())


def test_a_digest_that_an_event_lacks_takes_its_bank_out_of_the_replay() -> None:
    whole = encode_event_log([Event.measuring(4, EventType.EV_SEPARATOR, bytes(4), banks=_BANKS)])
    sha256 = Bank.SHA256.digest(bytes(4))
    lacking = (
        (4).to_bytes(4, "little")
        + EventType.EV_SEPARATOR.to_bytes(4, "little")
        + (1).to_bytes(4, "little")
        + Bank.SHA256.algorithm_id.to_bytes(2, "little")
        + sha256
        + (4).to_bytes(4, "little")
        + bytes([1, 0, 0, 0])
    )
    log = parse_event_log(whole + lacking)
    assert log.banks == (Bank.SHA256,)
    assert log.replay()[Bank.SHA256][4] == replay(Bank.SHA256, [sha256, sha256], bytes(32))
    no_digest_at_all = lacking[:8] + bytes(4) + lacking[-8:]
    with pytest.raises(EventLogError, match="no hash of the event log"):
        parse_event_log(whole + no_digest_at_all)


def test_logs_agree_with_the_pcrs_of_their_machines(vectors: Path) -> None:
    sha1 = parse_event_log((vectors / "ima-evm-pcrs0-9.tcg").read_bytes()).replay()[Bank.SHA1]
    for line in (vectors / "ima-evm-pcrs0-9.pcrs.txt").read_text().splitlines()[1:]:
        pcr, _, value = line.partition(": ")
        if pcr != "10":
            assert sha1[int(pcr)].hex() == value
    sha256 = parse_event_log((vectors / "debian12-selinux.tcg").read_bytes()).replay()[Bank.SHA256]
    for line in (vectors / "debian12-selinux.pcrs.txt").read_text().splitlines()[1:]:
        pcr, _, value = line.partition(": 0x")
        if int(pcr) != 10:
            assert sha256[int(pcr)].hex() == value.lower()


def test_log_of_a_unified_kernel_image_agrees_with_the_pcrs_of_its_boot() -> None:
    values = parse_event_log((_DATA / "ovmf-uki.tcg").read_bytes()).replay()[Bank.SHA256]
    known = json.loads((_DATA / "ovmf-uki.json").read_text())["pcrs"]
    assert {pcr: values[int(pcr)].hex() for pcr in known} == known


def test_writer_and_reader_agree() -> None:
    log = parse_event_log(_LOG)
    assert log.header is not None
    assert log == EventLog(
        banks=_BANKS, algorithms=tuple(bank.algorithm_id for bank in _BANKS), events=_EVENTS, header=log.header
    )
    assert log.replay()[Bank.SHA256][7] == extend(Bank.SHA256, bytes(32), Bank.SHA256.digest(bytes(4)))
    assert log.of_pcr(4) == (_EVENTS[1],)
    assert [event.data_is_measured for event in log.events] == [True, True, True, False]


def test_a_boot_variable_is_measured_by_its_value_alone() -> None:
    name = "BootOrder".encode("utf-16-le")
    value = b"\x02\0\x01\0"
    head = bytes(16) + len("BootOrder").to_bytes(8, "little")
    data = head + len(value).to_bytes(8, "little") + name + value

    def is_measured(data: bytes, measured: bytes, kind: EventType = EventType.EV_EFI_VARIABLE_BOOT) -> bool:
        return Event.measuring(1, kind, data, banks=_BANKS, measured=measured).data_is_measured

    assert is_measured(data, value)
    assert is_measured(data, data)
    assert not is_measured(data, name)
    assert not is_measured(data, value, EventType.EV_EFI_VARIABLE_BOOT2)
    for size in (0, len(value) - 1, len(value) + 1, 2**64 - 1):
        for measured in (value, b"", value[:-1], name + value):
            assert not is_measured(head + size.to_bytes(8, "little") + name + value, measured)
    assert not is_measured(b"", value)


def test_what_grub_and_firmware_measure_on_other_machines_is_told_apart_from_what_they_only_say(vectors: Path) -> None:
    log = parse_event_log((vectors / "go-tpm-tools-rhel8.tcg").read_bytes())
    said = {event.type_name: event.data_is_measured for event in log.events if event.pcr in (1, 8)}
    assert said == {"EV_EFI_VARIABLE_BOOT": True, "EV_SEPARATOR": True, "EV_IPL": True}
    applications = [event for event in log.events if event.type == EventType.EV_EFI_BOOT_SERVICES_APPLICATION]
    assert applications
    assert not any(event.data_is_measured for event in applications)


def test_writer_states_the_locality() -> None:
    log = parse_event_log(encode_event_log(_EVENTS, startup_locality=3))
    assert log.startup_locality == 3
    assert log.replay()[Bank.SHA1][0] == extend(Bank.SHA1, bytes(19) + b"\x03", _EVENTS[0].digests[Bank.SHA1])
    assert describe(log.events[0]) == "PCR 0 EV_NO_ACTION: StartupLocality"


def test_writer_refuses_an_event_without_a_digest() -> None:
    with pytest.raises(EventLogError, match="event 1"):
        encode_event_log(_EVENTS, banks=(Bank.SHA384,))


def test_sha1_logs_are_read() -> None:
    digest = Bank.SHA1.digest(bytes(4))
    data = _sha1_event(0, 3, bytes(20), b"Spec ID Event00\0" + bytes(9)) + _sha1_event(7, 4, digest, bytes(4))
    for padding in (b"", bytes(100), b"\xff" * 100):
        log = parse_event_log(data + padding)
        assert log.banks == (Bank.SHA1,)
        assert log.replay()[Bank.SHA1][7] == extend(Bank.SHA1, bytes(20), digest)
    assert parse_event_log(_sha1_event(7, 4, digest, bytes(4))).events[0].type_name == "EV_SEPARATOR"


@pytest.mark.parametrize("padding", [bytes(1), bytes(4096), b"\xff" * 4096])
def test_padding_behind_the_last_event_is_left_out(padding: bytes) -> None:
    assert parse_event_log(_LOG + padding).events == _EVENTS


@pytest.mark.parametrize("junk", [b"\x01", b"\0\0\x01", b"\xff\0\xff" * 20])
def test_other_bytes_behind_the_last_event_are_refused(junk: bytes) -> None:
    with pytest.raises(EventLogError):
        parse_event_log(_LOG + junk)


def test_every_truncation_is_refused_but_at_an_event() -> None:
    whole = {len(encode_event_log(_EVENTS[:count])) for count in range(1, len(_EVENTS) + 1)}
    for cut in range(len(_LOG)):
        if cut in whole:
            assert len(parse_event_log(_LOG[:cut]).events) < len(_EVENTS)
        else:
            with pytest.raises(EventLogError):
                parse_event_log(_LOG[:cut])


def _locality(value: bytes, pcr: int = 0) -> Event:
    zeros = {bank: bytes(bank.digest_size) for bank in _BANKS}
    return Event(pcr=pcr, type=EventType.EV_NO_ACTION, digests=zeros, data=b"StartupLocality\0" + value)


@pytest.mark.parametrize(
    "events",
    [
        (_locality(b"\x02"),),
        (_locality(b""),),
        (_locality(b"\x03\x03"),),
        (_locality(b"\x03"), _locality(b"\x03")),
        (_EVENTS[0], _locality(b"\x03")),
    ],
)
def test_a_locality_that_firmware_could_not_state_is_refused(events: tuple[Event, ...]) -> None:
    with pytest.raises(EventLogError, match="StartupLocality"):
        parse_event_log(encode_event_log(events))


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (b"\x02\0\0\0\x04\0\x14\0", b"\x00\0\0\0\x04\0\x14\0", "bad number of algorithms"),
        (b"\x02\0\0\0\x04\0\x14\0", b"\xff\0\0\0\x04\0\x14\0", "bad number of algorithms"),
        (b"\x04\0\x14\0\x0b\0\x20\0", b"\x04\0\x15\0\x0b\0\x20\0", "bad algorithm"),
        (b"\x04\0\x14\0\x0b\0\x20\0", b"\x0b\0\x20\0\x0b\0\x20\0", "bad algorithm"),
        (b"\x08\0\0\0\x02\0\0\0\x04\0", b"\x08\0\0\0\x03\0\0\0\x04\0", "more digests than the header"),
        (b"\x08\0\0\0\x02\0\0\0\x04\0", b"\x08\0\0\0\x02\0\0\0\x0c\0", "not in the header"),
        (b"\0\0\0\0\x08\0\0\0\x02", b"\x18\0\0\0\x08\0\0\0\x02", "no such PCR"),
    ],
)
def test_malformed_logs_are_refused_with_their_reason(old: bytes, new: bytes, reason: str) -> None:
    assert old in _LOG
    with pytest.raises(EventLogError, match=reason):
        parse_event_log(_LOG.replace(old, new, 1))


@pytest.mark.parametrize("log", [b"", bytes(31), bytes(5000), encode_event_log(())])
def test_no_log_at_all_is_refused(log: bytes) -> None:
    with pytest.raises(EventLogError):
        parse_event_log(log)


def test_an_unknown_algorithm_beside_a_known_one_is_passed_over() -> None:
    header = b"Spec ID Event03\0" + bytes(4) + b"\0\x02\0\x02" + b"\x02\0\0\0" + b"\x12\0\x20\0\x0b\0\x20\0" + b"\0"
    digest = Bank.SHA256.digest(bytes(4))
    event = b"\x07\0\0\0\x04\0\0\0\x02\0\0\0" + b"\x12\0" + b"\x55" * 32 + b"\x0b\0" + digest + b"\x04\0\0\0" + bytes(4)
    log = parse_event_log(_sha1_event(0, 3, bytes(20), header) + event)
    assert log.banks == (Bank.SHA256,)
    assert log.events[0].digests == {Bank.SHA256: digest}


@settings(max_examples=examples(300))
@given(st.binary(max_size=100), st.integers(0, len(_LOG) - 1), st.integers(0, 40))
def test_changed_logs_end_in_the_own_error(junk: bytes, position: int, cut: int) -> None:
    for data in (junk, _LOG[:position] + junk + _LOG[position + cut :]):
        try:
            log = parse_event_log(data)
            log.replay()
        except EventLogError:
            continue
        assert all(describe(event).isprintable() for event in log.events)


@pytest.mark.parametrize(
    "name", ["go-tpm-tools-rhel8.tcg", "keylime-secureboot.tcg", "ima-evm-pcrs0-9.tcg", "debian12-selinux.tcg"]
)
def test_every_real_event_has_words_for_people(vectors: Path, name: str) -> None:
    for event in parse_event_log((vectors / name).read_bytes()).events:
        text = describe(event)
        assert text.startswith(f"PCR {event.pcr} EV_")
        assert text.isprintable()


def test_words_for_the_boot_of_a_unified_kernel_image() -> None:
    words = [describe(event) for event in parse_event_log((_DATA / "ovmf-uki.tcg").read_bytes()).events]
    for expected in (
        "PCR 7 EV_EFI_VARIABLE_DRIVER_CONFIG: variable SecureBoot: off",
        "PCR 4 EV_EFI_BOOT_SERVICES_APPLICATION: image VenMedia(QemuKernel)/kernel (10316641 bytes)",
        "PCR 1 EV_EFI_VARIABLE_BOOT: variable BootOrder: 0000",
        "PCR 4 EV_EFI_ACTION: Calling EFI Application from Boot Option",
        "PCR 7 EV_SEPARATOR: separator",
        "PCR 11 EV_IPL: section .linux of the unified kernel image",
        "PCR 9 EV_EVENT_TAG: Linux initrd",
    ):
        assert expected in words


@given(st.integers(0, 2**32 - 1) | st.sampled_from(EventType), st.integers(0, 23), st.binary(max_size=200))
def test_words_for_arbitrary_events(kind: int, pcr: int, data: bytes) -> None:
    text = describe(Event(pcr=pcr, type=kind, digests={}, data=data))
    assert text.isprintable()
    assert len(text) < 400


@given(st.binary(max_size=100))
def test_device_paths_of_arbitrary_bytes(data: bytes) -> None:
    try:
        device_path_text(data)
    except DevicePathError:
        return
