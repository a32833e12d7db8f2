"""UEFI device paths as text, as far as a person needs them to tell what was booted.

`event_describe` shows them for images that firmware loaded and for boot options. Node types that are rare in a boot
chain are shown by number: this is for people, nothing is decided by it.

Source: UEFI Specification 2.10, 10.3 (nodes) and 10.6 (text representation).
"""

import struct
import uuid

from shamon_host.attestation.byte_reader import ByteReader
from shamon_host.domain.errors import BadInput

_MAX_NODES = 64
_NODE_HEADER_BYTES = 4
_END = 0x7F
_PNP_PCI_ROOT = (0x0A0341D0, 0x0A0841D0)

_KNOWN_GUIDS = {
    "1428f772-b64a-441e-b8c3-9ebdd7f893c7": "QemuKernel",
    "5568e427-68fc-4f3d-ac74-ca555231cc68": "LinuxInitrd",
    "55c5d1f8-04cd-46b5-8a20-e56cbb3052d0": "UnifiedKernelImage",
    "7cb8bdc9-f8eb-4f34-aaea-3ee4af6516a1": "OvmfFirmware",
}
"""Vendor media and firmware volumes met in this program's own boots."""


class DevicePathError(BadInput):
    """The bytes are no device path."""


def guid_text(data: bytes) -> str:
    """A 16-byte EFI_GUID as text, by its name where it is known here."""
    text = str(uuid.UUID(bytes_le=data))
    return _KNOWN_GUIDS.get(text, text)


def device_path_text(data: bytes) -> str:
    """`PciRoot(0x0)/Pci(0x2,0x0)/.../\\EFI\\BOOT\\BOOTX64.EFI`. Raises `DevicePathError`."""
    reader = ByteReader(data, order="little", error=DevicePathError, where="device path")
    nodes: list[str] = []
    while reader.remaining:
        if len(nodes) >= _MAX_NODES:
            raise DevicePathError("the device path has too many nodes", expected=f"at most {_MAX_NODES}")
        kind, subtype = reader.u8("node type"), reader.u8("node subtype")
        size = reader.u16("node length")
        if size < _NODE_HEADER_BYTES:
            raise DevicePathError("a node is shorter than its header", found=str(size))
        body = reader.take(size - _NODE_HEADER_BYTES, "node")
        if kind == _END:
            break
        try:
            nodes.append(_node_text(kind, subtype, body))
        except (struct.error, ValueError):
            nodes.append(f"Node({kind},{subtype},{body[:16].hex()})")
    return "/".join(nodes)


def _node_text(kind: int, subtype: int, body: bytes) -> str:
    """One node; a body that is too short raises struct.error or ValueError."""
    match kind, subtype:
        case (1, 1):
            function, device = struct.unpack("<BB", body)
            return f"Pci(0x{device:x},0x{function:x})"
        case (1, 3):
            _, start, end = struct.unpack("<IQQ", body)
            return f"MemoryMapped(0x{start:x},0x{end:x})"
        case (1, 4) | (3, 10) | (4, 3):
            return f"{ {1: 'VenHw', 3: 'VenMsg', 4: 'VenMedia'}[kind] }({guid_text(body[:16])})"
        case (2, 1):
            hid, uid = struct.unpack("<II", body)
            return f"PciRoot(0x{uid:x})" if hid in _PNP_PCI_ROOT else f"Acpi(0x{hid:08x},0x{uid:x})"
        case (3, 2):
            target, lun = struct.unpack("<HH", body)
            return f"Scsi({target},{lun})"
        case (3, 5):
            port, interface = struct.unpack("<BB", body)
            return f"USB({port},{interface})"
        case (3, 11):
            return f"MAC({body[:6].hex()})"
        case (3, 18):
            port, multiplier, lun = struct.unpack("<HHH", body)
            return f"Sata({port},{multiplier},{lun})"
        case (3, 23):
            namespace, eui = struct.unpack("<IQ", body)
            return f"NVMe(0x{namespace:x},{eui:016x})"
        case (3, 24):
            return f"Uri({body.decode('utf-8', 'backslashreplace')})"
        case (4, 1):
            number, _, _, signature = struct.unpack_from("<IQQ16s", body)
            return f"HD({number},{uuid.UUID(bytes_le=signature)})"
        case (4, 4):
            return body.decode("utf-16-le", "backslashreplace").rstrip("\0")
        case (4, 6):
            return f"FvFile({guid_text(body)})"
        case (4, 7):
            return f"Fv({guid_text(body)})"
        case _:
            return f"Node({kind},{subtype},{body[:16].hex()})"
