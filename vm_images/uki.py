"""Unified kernel images: systemd's EFI stub with release, command line, kernel and initrd as sections, so that the
firmware measures all of them.

The sections are placed behind those of the stub; their order and alignment are fixed, so equal inputs give an equal
file.
"""

import struct
from collections.abc import Mapping
from pathlib import Path

from vm_images.commands import run

STUB = Path("/usr/lib/systemd/boot/efi/linuxx64.efi.stub")
_PAGE = 4096


def make_uki(out: Path, *, os_release: Path, cmdline: Path, kernel: Path, initrd: Path, stub: Path = STUB) -> None:
    """Write `out` from its parts.

    Raises:
        ValueError: the stub is not a PE32+ file.
    """
    add_sections(out, stub, {".osrel": os_release, ".cmdline": cmdline, ".linux": kernel, ".initrd": initrd})


def add_sections(out: Path, image: Path, sections: Mapping[str, Path]) -> None:
    """Write `out`: the EFI file `image` with these files as sections behind its own, in this order.

    Raises:
        ValueError: the image is not a PE32+ file.
    """
    address = _end_of_image(image.read_bytes())
    arguments: list[str | Path] = ["objcopy", "--enable-deterministic-archives"]
    for section, path in sections.items():
        arguments += ["--add-section", f"{section}={path}", "--change-section-vma", f"{section}={address:#x}"]
        address += -(-path.stat().st_size // _PAGE) * _PAGE
    run([*arguments, image, out])


def _end_of_image(stub: bytes) -> int:
    """The first free page behind a PE32+ file's sections, image base included (PE format, optional header and section
    table).
    """
    (pe,) = struct.unpack_from("<I", stub, 0x3C)
    if stub[pe : pe + 4] != b"PE\0\0":
        raise ValueError("the EFI stub has no PE header")
    sections, optional_size = struct.unpack_from("<H12xH", stub, pe + 6)
    magic, image_base = struct.unpack_from("<H22xQ", stub, pe + 24)
    if magic != 0x20B:
        raise ValueError(f"the EFI stub's optional header has magic {magic:#x}, expected 0x20b (PE32+)")
    table = pe + 24 + optional_size
    ends: list[int] = []
    for index in range(sections):
        size, address = struct.unpack_from("<8xII", stub, table + 40 * index)
        ends.append(address + size)
    last: int = max(ends)
    return int(image_base) + -(-last // _PAGE) * _PAGE
