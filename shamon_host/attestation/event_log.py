"""The firmware's event log (`binary_bios_measurements`): read, replayed, and written for fakes.

Evidence carries the log of one boot; its replay has to give the quoted PCR 0-9 and 11-14, and a PCR that differs from
the Reference Values is explained by its events. Both forms are read: SHA-1 only (TPM 1.2 and old firmware) and
crypto-agile ("Spec ID Event03"), with what is special about the start of PCR 0 (locality, H-CRTM).

Source: TCG PC Client Platform Firmware Profile 1.06, "Event Logging": TCG_PCClientPCREvent, TCG_PCR_EVENT2, the
Specification ID Version and Startup Locality events, and the H-CRTM event.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from shamon_host.attestation.byte_reader import ByteReader
from shamon_host.attestation.event_model import Event, EventType
from shamon_host.attestation.pcr import PCR_COUNT, Bank, extend, initial_value
from shamon_host.domain.errors import BadInput

__all__ = ["Event", "EventLog", "EventLogError", "EventType", "encode_event_log", "parse_event_log"]

MAX_LOG_BYTES = 4 * 1024 * 1024
MAX_EVENTS = 20_000
MAX_ALGORITHMS = 8
MAX_DIGEST_BYTES = 64

_SPEC_ID = b"Spec ID Event"
_SPEC_ID_03 = b"Spec ID Event03\0"
_STARTUP_LOCALITY = b"StartupLocality\0"
_HCRTM_LOCALITY = 4
_LOCALITIES = (0, 3, 4)
_SHA1_BYTES = 20


class EventLogError(BadInput):
    """The bytes are no event log that firmware wrote."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EventLog:
    """The events of one boot, without the header that says how to read them."""

    banks: tuple[Bank, ...]
    """Banks with a digest in every event that extends; algorithms that are not known here are left out."""
    algorithms: tuple[int, ...]
    """TPM_ALG_ID of every algorithm that the log announces, known here or not."""
    events: tuple[Event, ...]
    header: Event | None = None
    """The Spec ID event in front of the others: always there in a crypto-agile log, sometimes in one of SHA-1 only."""
    agile: bool = True
    """Crypto-agile (TCG_PCR_EVENT2), or SHA-1 only (TCG_PCClientPCREvent)."""
    startup_locality: int = 0
    """The value that PCR 0 started with: 0, 3 or 4."""

    def replay(self) -> dict[Bank, dict[int, bytes]]:
        """The values of all PCRs of each bank after the last event."""
        return {bank: replay_events(self.events, bank, startup_locality=self.startup_locality) for bank in self.banks}

    def of_pcr(self, pcr: int) -> tuple[Event, ...]:
        """The events that changed `pcr`, in order."""
        return tuple(event for event in self.events if event.pcr == pcr and event.extends)


def replay_events(events: Iterable[Event], bank: Bank, *, startup_locality: int = 0) -> dict[int, bytes]:
    """The values of PCR 0-23 of `bank` after `events`. Raises `EventLogError` if an event lacks that bank's digest."""
    values = {pcr: initial_value(bank, pcr, startup_locality=startup_locality) for pcr in range(PCR_COUNT)}
    for number, event in enumerate(events, start=1):
        if not event.extends:
            continue
        digest = event.digests.get(bank)
        if digest is None:
            raise EventLogError("an event has no digest for the bank", where=f"event {number}", expected=str(bank))
        values[event.pcr] = extend(bank, values[event.pcr], digest)
    return values


def parse_event_log(log: bytes) -> EventLog:
    """Raises `EventLogError` where `log` is malformed, truncated or no event log at all."""
    if len(log) > MAX_LOG_BYTES:
        raise EventLogError("the event log is too long", expected=f"at most {MAX_LOG_BYTES} bytes", found=str(len(log)))
    reader = ByteReader(log, order="little", error=EventLogError, where="event log")
    # Some firmware hands over its whole buffer: zeros, or erased flash, behind the last event.
    end = min(len(log.rstrip(b"\0")), len(log.rstrip(b"\xff")))
    if not end:
        raise EventLogError("the event log is empty", where="event log")
    try:
        first = _read_sha1_event(reader)
    except EventLogError as error:
        raise EventLogError(
            "this is no event log", where=error.where, expected="a TCG event log", found=f"{error.what}: {error.found}"
        ) from error
    agile = first.type == EventType.EV_NO_ACTION and first.data.startswith(_SPEC_ID_03)
    sizes = _read_spec_id(first.data) if agile else {Bank.SHA1.algorithm_id: _SHA1_BYTES}
    is_header = agile or (first.type == EventType.EV_NO_ACTION and first.data.startswith(_SPEC_ID))
    events: list[Event] = [] if is_header else [first]
    while reader.offset < end:
        if len(events) >= MAX_EVENTS:
            raise EventLogError("the event log has too many events", expected=f"at most {MAX_EVENTS}")
        events.append(_read_event(reader, sizes) if agile else _read_sha1_event(reader))
    if not events:
        raise EventLogError("the event log has no events", where="event log")
    extending = [event.digests for event in events if event.extends]
    banks = tuple(
        bank
        for algorithm in sizes
        if (bank := Bank.of_algorithm_id(algorithm)) is not None and all(bank in digests for digests in extending)
    )
    if not banks:
        raise EventLogError(
            "no hash of the event log is known, or has a digest in every event",
            where="event log",
            found=", ".join(f"0x{item:04x}" for item in sizes),
        )
    return EventLog(
        banks=banks,
        algorithms=tuple(sizes),
        events=tuple(events),
        header=first if is_header else None,
        agile=agile,
        startup_locality=_startup_locality(events),
    )


def _read_sha1_event(reader: ByteReader) -> Event:
    """TCG_PCClientPCREvent."""
    start = reader.offset
    pcr = reader.u32("pcrIndex")
    kind = reader.u32("eventType")
    _require_pcr(start, pcr, kind)
    digest = reader.take(_SHA1_BYTES, "digest")
    data = reader.sized(4, "event data", limit=MAX_LOG_BYTES)
    return Event(pcr=pcr, type=kind, digests={Bank.SHA1: digest}, data=data)


def _read_event(reader: ByteReader, sizes: Mapping[int, int]) -> Event:
    """TCG_PCR_EVENT2: at most one digest for each algorithm of the header.

    Some firmware leaves one out, as Linux allows (include/linux/tpm_eventlog.h): that bank then has no replay.
    """
    start = reader.offset
    pcr = reader.u32("pcrIndex")
    kind = reader.u32("eventType")
    _require_pcr(start, pcr, kind)
    count = reader.u32("number of digests")
    if count > len(sizes):
        raise EventLogError(
            "an event has more digests than the header announces",
            where=f"event log, byte {start}",
            expected=f"at most {len(sizes)} digests",
            found=str(count),
        )
    seen: set[int] = set()
    digests: dict[Bank, bytes] = {}
    for _ in range(count):
        algorithm = reader.u16("hash algorithm")
        size = sizes.get(algorithm)
        if size is None or algorithm in seen:
            raise EventLogError(
                "a digest's algorithm is not in the header, or stands twice",
                where=f"event log, byte {start}",
                found=f"0x{algorithm:04x}",
            )
        seen.add(algorithm)
        digest = reader.take(size, "digest")
        bank = Bank.of_algorithm_id(algorithm)
        if bank is not None:
            digests[bank] = digest
    return Event(pcr=pcr, type=kind, digests=digests, data=reader.sized(4, "event data", limit=MAX_LOG_BYTES))


def _require_pcr(start: int, pcr: int, kind: int) -> None:
    # Informative events may carry any index: nothing is extended for them.
    if pcr >= PCR_COUNT and kind != EventType.EV_NO_ACTION:
        raise EventLogError("no such PCR", where=f"event log, byte {start}", found=str(pcr))


def _read_spec_id(data: bytes) -> dict[int, int]:
    """TCG_EfiSpecIDEvent: digest size by algorithm."""
    reader = ByteReader(data, order="little", error=EventLogError, where="Spec ID event", offset=len(_SPEC_ID_03))
    reader.u32("platformClass")
    reader.take(4, "version, errata and uintnSize")
    count = reader.u32("numberOfAlgorithms")
    if not 0 < count <= MAX_ALGORITHMS:
        raise EventLogError(
            "bad number of algorithms", where="Spec ID event", expected=f"1-{MAX_ALGORITHMS}", found=str(count)
        )
    sizes: dict[int, int] = {}
    for _ in range(count):
        algorithm = reader.u16("algorithmId")
        size = reader.u16("digestSize")
        bank = Bank.of_algorithm_id(algorithm)
        if algorithm in sizes or not 0 < size <= MAX_DIGEST_BYTES or (bank is not None and size != bank.digest_size):
            raise EventLogError(
                "bad algorithm in the header", where="Spec ID event", found=f"0x{algorithm:04x} of {size} bytes"
            )
        sizes[algorithm] = size
    reader.sized(1, "vendorInfo", limit=255)
    reader.end()
    return sizes


def _startup_locality(events: Sequence[Event]) -> int:
    """Where PCR 0 starts: as a StartupLocality event says, or 4 behind an H-CRTM event.

    Raises `EventLogError` for two such events, or one behind the first extension of PCR 0 (an H-CRTM event is that
    first extension itself).
    """
    locality: int | None = None
    hcrtm = False
    extended = False
    for event in events:
        if event.type == EventType.EV_NO_ACTION and event.data.startswith(_STARTUP_LOCALITY):
            value = event.data[len(_STARTUP_LOCALITY) :]
            if locality is not None or extended or len(value) != 1 or value[0] not in _LOCALITIES:
                raise EventLogError(
                    "malformed or misplaced StartupLocality event", where="event log", found=value[:8].hex()
                )
            locality = value[0]
        elif event.pcr == 0 and event.extends:
            if event.type == EventType.EV_EFI_HCRTM_EVENT:
                hcrtm = True
            else:
                extended = True
    if locality is None:
        return _HCRTM_LOCALITY if hcrtm else 0
    return locality


def encode_event_log(
    events: Iterable[Event], *, banks: tuple[Bank, ...] = (Bank.SHA1, Bank.SHA256), startup_locality: int = 0
) -> bytes:
    """Crypto-agile bytes of a log with `events`, as OVMF would write them, the Spec ID header first.

    Every event needs a digest for each of `banks`, else `EventLogError`. A `startup_locality` other than 0 adds the
    event that says so.
    """
    header = (
        _SPEC_ID_03
        + bytes(4)
        + bytes([0, 2, 0, 2])
        + len(banks).to_bytes(4, "little")
        + b"".join(bank.algorithm_id.to_bytes(2, "little") + bank.digest_size.to_bytes(2, "little") for bank in banks)
        + b"\0"
    )
    out = bytearray(
        bytes(4)
        + EventType.EV_NO_ACTION.to_bytes(4, "little")
        + bytes(_SHA1_BYTES)
        + len(header).to_bytes(4, "little")
        + header
    )
    informative: list[Event] = []
    if startup_locality:
        zeros = {bank: bytes(bank.digest_size) for bank in banks}
        data = _STARTUP_LOCALITY + bytes([startup_locality])
        informative.append(Event(pcr=0, type=EventType.EV_NO_ACTION, digests=zeros, data=data))
    for number, event in enumerate([*informative, *events], start=1):
        out += event.pcr.to_bytes(4, "little") + event.type.to_bytes(4, "little") + len(banks).to_bytes(4, "little")
        for bank in banks:
            digest = event.digests.get(bank)
            if digest is None or len(digest) != bank.digest_size:
                raise EventLogError("an event has no digest for the bank", where=f"event {number}", expected=str(bank))
            out += bank.algorithm_id.to_bytes(2, "little") + digest
        out += len(event.data).to_bytes(4, "little") + event.data
    return bytes(out)
