"""Unified images, of a kernel or of Xen, in a few hundred bytes: real PE files, so that what a boot of them measures
can be computed.

`machine` boots them; `attestation.uki` and `attestation.authenticode` read them like those of a host.

Source: PE format (DOS header, COFF header, PE32+ optional header, section table).
"""

from collections.abc import Mapping

_PE_OFFSET = 0x80
_OPTIONAL_BYTES = 112 + 16 * 8
_HEADER_BYTES = 0x400
_MAX_SECTIONS = 12


def pe_file(sections: Mapping[str, bytes]) -> bytes:
    """A PE32+ file with these sections, in their order."""
    assert len(sections) <= _MAX_SECTIONS
    table, body = b"", b""
    for name, content in sections.items():
        place = _HEADER_BYTES + len(body)
        fields = (len(content), 0x1000, len(content), place)  # VirtualSize, VirtualAddress, SizeOfRawData, Pointer
        table += name.encode().ljust(8, b"\0") + b"".join(field.to_bytes(4, "little") for field in fields) + bytes(16)
        body += content
    optional = bytearray(_OPTIONAL_BYTES)
    optional[0:2] = b"\x0b\x02"  # magic of PE32+
    optional[60:64] = _HEADER_BYTES.to_bytes(4, "little")
    optional[108:112] = (16).to_bytes(4, "little")  # NumberOfRvaAndSizes
    dos = bytearray(b"MZ".ljust(_PE_OFFSET, b"\0"))
    dos[0x3C:0x40] = _PE_OFFSET.to_bytes(4, "little")
    coff = b"PE\0\0\x64\x86" + len(sections).to_bytes(2, "little") + bytes(12)
    coff += _OPTIONAL_BYTES.to_bytes(2, "little") + b"\x22\0"
    return (bytes(dos) + coff + bytes(optional) + table).ljust(_HEADER_BYTES, b"\0") + body


def uki_file(*, stub: bytes, kernel: bytes, initrd: bytes, cmdline: str) -> bytes:
    """A unified kernel image: systemd's stub with release, command line, kernel (a PE file itself) and initrd."""
    return pe_file(
        {
            ".text": stub,
            ".osrel": b"ID=memory\n",
            ".cmdline": cmdline.encode(),
            ".linux": pe_file({".text": kernel}),
            ".initrd": initrd,
        }
    )


def xen_file(*, xen: bytes, flask: bytes, kernel: bytes, initrd: bytes, cmdline: str) -> bytes:
    """A unified image of Xen: the hypervisor with its configuration, its FLASK policy, dom0's kernel and initramfs."""
    config = f"[global]\ndefault=host\n[host]\noptions=flask=enforcing\nkernel=kernel {cmdline}\nramdisk=initrd\n"
    return pe_file(
        {".text": xen, ".config": config.encode(), ".xsm": flask, ".kernel": kernel, ".ramdisk": initrd},
    )
