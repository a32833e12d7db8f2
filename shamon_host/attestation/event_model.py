"""One event of the firmware's log, and the names of its types.

A value that `event_log` reads and writes, and `event_describe` puts into words for people.

Source: TCG PC Client Platform Firmware Profile 1.06, "Event Logging" (event types and their data).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

from shamon_host.attestation.pcr import Bank


class EventType(IntEnum):
    """Event types, named as in the specification."""

    EV_PREBOOT_CERT = 0x00
    EV_POST_CODE = 0x01
    EV_UNUSED = 0x02
    EV_NO_ACTION = 0x03
    EV_SEPARATOR = 0x04
    EV_ACTION = 0x05
    EV_EVENT_TAG = 0x06
    EV_S_CRTM_CONTENTS = 0x07
    EV_S_CRTM_VERSION = 0x08
    EV_CPU_MICROCODE = 0x09
    EV_PLATFORM_CONFIG_FLAGS = 0x0A
    EV_TABLE_OF_DEVICES = 0x0B
    EV_COMPACT_HASH = 0x0C
    EV_IPL = 0x0D
    EV_IPL_PARTITION_DATA = 0x0E
    EV_NONHOST_CODE = 0x0F
    EV_NONHOST_CONFIG = 0x10
    EV_NONHOST_INFO = 0x11
    EV_OMIT_BOOT_DEVICE_EVENTS = 0x12
    EV_POST_CODE2 = 0x13
    EV_EFI_VARIABLE_DRIVER_CONFIG = 0x80000001
    EV_EFI_VARIABLE_BOOT = 0x80000002
    EV_EFI_BOOT_SERVICES_APPLICATION = 0x80000003
    EV_EFI_BOOT_SERVICES_DRIVER = 0x80000004
    EV_EFI_RUNTIME_SERVICES_DRIVER = 0x80000005
    EV_EFI_GPT_EVENT = 0x80000006
    EV_EFI_ACTION = 0x80000007
    EV_EFI_PLATFORM_FIRMWARE_BLOB = 0x80000008
    EV_EFI_HANDOFF_TABLES = 0x80000009
    EV_EFI_PLATFORM_FIRMWARE_BLOB2 = 0x8000000A
    EV_EFI_HANDOFF_TABLES2 = 0x8000000B
    EV_EFI_VARIABLE_BOOT2 = 0x8000000C
    EV_EFI_GPT_EVENT2 = 0x8000000D
    EV_EFI_HCRTM_EVENT = 0x80000010
    EV_EFI_VARIABLE_AUTHORITY = 0x800000E0
    EV_EFI_SPDM_FIRMWARE_BLOB = 0x800000E1
    EV_EFI_SPDM_FIRMWARE_CONFIG = 0x800000E2


_TYPE_NAMES = {int(kind): kind.name for kind in EventType}


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event. Only `pcr`, the digests and their order are proven by a quote; `data` is what the log says of them."""

    pcr: int
    type: int
    """An `EventType` where the number is known, see `type_name`."""
    digests: Mapping[Bank, bytes]
    data: bytes

    @classmethod
    def measuring(
        cls, pcr: int, kind: EventType, data: bytes, *, banks: tuple[Bank, ...], measured: bytes | None = None
    ) -> "Event":
        """An event as firmware makes it: digests over `measured`, or over the event data itself."""
        content = data if measured is None else measured
        return cls(pcr=pcr, type=kind, digests={bank: bank.digest(content) for bank in banks}, data=data)

    @property
    def type_name(self) -> str:
        """The type as the specification names it, or its number in hex."""
        return _TYPE_NAMES.get(self.type, f"0x{self.type:08x}")

    @property
    def extends(self) -> bool:
        """Whether the event changed its PCR: all do but EV_NO_ACTION."""
        return self.type != EventType.EV_NO_ACTION

    @property
    def data_is_measured(self) -> bool:
        """Whether the digest is over `data`, so that what the log says of the event is proven with it.

        So it is, too, where a boot loader puts a word in front of the text that it measures, with or without the NUL
        behind it (GRUB: `grub_cmd: `, `kernel_cmdline: `; Red Hat's: `grub_cmd `), and for an EV_EFI_VARIABLE_BOOT over
        the variable's value alone, as the profile has it: which of the variables it is, is then the log's word.
        """
        said = [self.data]
        if self.type == EventType.EV_IPL:
            text = self.data.rstrip(b"\0")
            said += [text, text.partition(b": ")[2], text.partition(b" ")[2], text.partition(b" ")[2] + b"\0"]
        if self.type == EventType.EV_EFI_VARIABLE_BOOT:
            said += _variable_value(self.data)
        return any(bank.digest(data) == digest for bank, digest in self.digests.items() for data in said)


def _variable_value(data: bytes) -> tuple[bytes, ...]:
    """The value in a UEFI_VARIABLE_DATA (vendor GUID, length of the name, length of the value, both); none where the
    lengths are wrong."""
    chars, size = (int.from_bytes(data[start : start + 8], "little") for start in (16, 24))
    return (data[32 + 2 * chars :],) if len(data) == 32 + 2 * chars + size else ()
