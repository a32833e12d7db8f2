"""Boot events in words: what a person reads when a PCR is not as it should be.

A refusal names the PCR and the event, and this says what the event is about: which image was loaded from where, which
UEFI variable, which section of a unified kernel image. The data of an event is not what a quote proves (the digest is),
so text whose digest does not cover it is only what the log says; nothing is decided by it.

Source: TCG PC Client Platform Firmware Profile 1.06, "Event Logging": UEFI_IMAGE_LOAD_EVENT, UEFI_VARIABLE_DATA,
UEFI_GPT_DATA, event data by type; UEFI Specification 2.10, 3.1.3 (EFI_LOAD_OPTION).
"""

import uuid

from shamon_host.attestation.byte_reader import ByteReader
from shamon_host.attestation.device_path import DevicePathError, device_path_text, guid_text
from shamon_host.attestation.event_log import EventLogError
from shamon_host.attestation.event_model import Event, EventType
from shamon_host.attestation.ima_entry import printable
from shamon_host.attestation.signature_list import SignatureListError, signature_lists_text, signature_text

_MAX_TEXT = 240
_MAX_NAME_CHARS = 512
_GUID_BYTES = 16
_GPT_HEADER_BYTES = 92
_GPT_ENTRY_NAME = 56
_GPT_ENTRY_MIN = 128
_MAX_PARTITIONS = 128
_SEPARATOR_ERROR = b"\x01\0\0\0"
_UKI_PCR = 11
_SIGNATURE_LISTS = frozenset({"PK", "KEK", "db", "dbx", "dbt", "dbr"})
_SECURE_BOOT = {b"": "unset", b"\x00": "off", b"\x01": "on"}


def describe(event: Event) -> str:
    """One line for people: PCR, type, and what the event is about. Never raises; unprintable characters are escaped."""
    try:
        text = _detail(event)
    except (EventLogError, DevicePathError, ValueError):
        text = _preview(event.data)
    text = printable(text)
    if len(text) > _MAX_TEXT:
        text = text[: _MAX_TEXT - 1] + "…"
    return f"PCR {event.pcr} {event.type_name}{': ' if text else ''}{text}"


def _detail(event: Event) -> str:
    data = event.data
    match event.type:
        case EventType.EV_SEPARATOR:
            return "separator after an error" if data == _SEPARATOR_ERROR else "separator"
        case (
            EventType.EV_EFI_VARIABLE_DRIVER_CONFIG
            | EventType.EV_EFI_VARIABLE_BOOT
            | EventType.EV_EFI_VARIABLE_BOOT2
            | EventType.EV_EFI_VARIABLE_AUTHORITY
        ):
            return _variable(data, authority=event.type == EventType.EV_EFI_VARIABLE_AUTHORITY)
        case (
            EventType.EV_EFI_BOOT_SERVICES_APPLICATION
            | EventType.EV_EFI_BOOT_SERVICES_DRIVER
            | EventType.EV_EFI_RUNTIME_SERVICES_DRIVER
        ):
            return _image_load(data)
        case EventType.EV_S_CRTM_VERSION:
            return f"firmware version {_version(data)}"
        case EventType.EV_EFI_PLATFORM_FIRMWARE_BLOB:
            return _firmware_blob(data, "")
        case EventType.EV_EFI_PLATFORM_FIRMWARE_BLOB2 | EventType.EV_EFI_HANDOFF_TABLES2:
            size = data[0] if data else 0
            return _firmware_blob(data[1 + size :], data[1 : 1 + size].decode("ascii", "backslashreplace"))
        case EventType.EV_EFI_GPT_EVENT:
            return _partitions(data)
        case EventType.EV_EVENT_TAG:
            return _tagged(data)
        case EventType.EV_NO_ACTION:
            return _string(data[:_GUID_BYTES].rstrip(b"\0"))
        case EventType.EV_IPL if event.pcr == _UKI_PCR and _string(data).startswith("."):
            return f"section {_string(data)} of the unified kernel image"
        case _:
            return _string(data)


def _string(data: bytes) -> str:
    """Text in UTF-16 or UTF-8, whichever it is; otherwise its start in hex."""
    # UTF-16 has no mark here: it shows in a printable first character and mostly zero high bytes.
    if len(data) % 2 == 0 and data[1:2] == b"\0" and data[0] >= ord(" ") and 4 * data[1::2].count(0) >= len(data):
        return data.decode("utf-16-le").rstrip("\0")
    text = data.rstrip(b"\0")
    if any(byte < ord(" ") and byte not in b"\t\n\r" for byte in text):
        return _preview(data)
    return text.decode("utf-8")


def _preview(data: bytes) -> str:
    if not data:
        return ""
    return f"{data[:24].hex()}{'…' if len(data) > 24 else ''} ({len(data)} bytes)"


def _version(data: bytes) -> str:
    if len(data) == _GUID_BYTES and data[1:2] != b"\0":
        return str(uuid.UUID(bytes_le=data))
    return _string(data) or "(empty)"


def _reader(data: bytes) -> ByteReader:
    return ByteReader(data, order="little", error=EventLogError, where="event data")


def _variable(data: bytes, *, authority: bool) -> str:
    """UEFI_VARIABLE_DATA, with the value spelled out where it means something to people.

    `authority`: the value is the one entry of the variable that an image was verified by.
    """
    reader = _reader(data)
    vendor = guid_text(reader.take(_GUID_BYTES, "vendor GUID"))
    name_chars = reader.u64("name length")
    size = reader.u64("data length")
    if name_chars > _MAX_NAME_CHARS:
        raise EventLogError("a variable's name is too long", found=str(name_chars))
    name = reader.take(2 * name_chars, "variable name").decode("utf-16-le")
    value = reader.take(size, "variable data")
    if name == "SecureBoot":
        return f"variable SecureBoot: {_SECURE_BOOT.get(value, value.hex())}"
    if name == "BootOrder":
        numbers = (value[i : i + 2][::-1].hex().upper() for i in range(0, len(value), 2))
        return f"variable BootOrder: {', '.join(numbers)}"
    if name.startswith("Boot") and len(name) == len("Boot0000"):
        return f"variable {name}: {_load_option(value)}"
    if not value:
        return f"variable {name} ({vendor}): empty"
    try:
        if authority:
            return f"variable {name}, {signature_text(value)}"
        if name in _SIGNATURE_LISTS:
            return f"variable {name}: {signature_lists_text(value)}"
    except SignatureListError:
        pass  # told by its size, like any other
    return f"variable {name} ({vendor}): {len(value)} bytes"


def _load_option(data: bytes) -> str:
    """EFI_LOAD_OPTION: description and device path."""
    reader = _reader(data)
    reader.u32("attributes")
    path_size = reader.u16("device path length")
    chars = bytearray()
    while (char := reader.take(2, "description")) != b"\0\0":
        chars += char
    path = device_path_text(reader.take(path_size, "device path"))
    return f"“{chars.decode('utf-16-le')}” {path}"


def _image_load(data: bytes) -> str:
    """UEFI_IMAGE_LOAD_EVENT: where the image came from, and its size in memory."""
    reader = _reader(data)
    reader.u64("image location")
    size = reader.u64("image length")
    reader.u64("link time address")
    path_size = reader.u64("device path length")
    path = device_path_text(reader.take(path_size, "device path"))
    return f"image {path or 'without a path'} ({size} bytes)"


def _firmware_blob(data: bytes, name: str) -> str:
    reader = _reader(data)
    base, size = reader.u64("blob base"), reader.u64("blob length")
    return f"{name + ' ' if name else ''}{size} bytes at 0x{base:x}"


def _partitions(data: bytes) -> str:
    """UEFI_GPT_DATA: names of the partitions."""
    reader = _reader(data)
    header = reader.take(_GPT_HEADER_BYTES, "GPT header")
    entry_size = int.from_bytes(header[84:88], "little")
    count = reader.u64("number of partitions")
    if count > _MAX_PARTITIONS or not _GPT_ENTRY_MIN <= entry_size <= 8 * _GPT_ENTRY_MIN:
        raise EventLogError("malformed GPT event", found=f"{count} partitions of {entry_size} bytes")
    entries = (reader.take(entry_size, "partition") for _ in range(count))
    names = [entry[_GPT_ENTRY_NAME:_GPT_ENTRY_MIN].decode("utf-16-le").rstrip("\0") or "(no name)" for entry in entries]
    disk = uuid.UUID(bytes_le=header[56:72])
    return f"partition table of disk {disk}: {', '.join(names) or 'no partitions'}"


def _tagged(data: bytes) -> str:
    """TCG_PCClientTaggedEvent."""
    reader = _reader(data)
    reader.u32("tag")
    return _string(reader.sized(4, "tagged data", limit=len(data)))
