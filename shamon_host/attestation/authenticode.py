"""PE files: their sections, and the Authenticode digest that UEFI firmware measures when it loads one.

`uki` builds on this to say, when an image is made, what its boot will leave in the PCRs. The file is the builder's
own, but it is read like any other input: bounded, and refused in this module's own error type.

Source: Microsoft, "Windows Authenticode Portable Executable Signature Format", "Calculating the PE Image Hash";
PE format (COFF header, optional header, section table); edk2 SecurityPkg/Library/DxeTpm2MeasureBootLib
(`MeasurePeImage`), whose treatment of bytes behind the last section is followed: hashed as they are, without padding.
"""

from dataclasses import dataclass
from typing import Self

from shamon_host.attestation.byte_reader import ByteReader
from shamon_host.attestation.pcr import Bank
from shamon_host.domain.errors import BadInput

_PE_OFFSET_FIELD = 0x3C
_COFF_HEADER_BYTES = 24
_CHECKSUM_OFFSET = 64
_SIZE_OF_HEADERS_OFFSET = 60
_SECTION_HEADER_BYTES = 40
_CERTIFICATE_DIRECTORY = 4
_DIRECTORY_BYTES = 8
_DIRECTORY_COUNT_OFFSETS = {0x10B: 92, 0x20B: 108}
"""Offset of NumberOfRvaAndSizes in the optional header, by its magic (PE32, PE32+)."""


class PeError(BadInput):
    """The bytes are no PE file that firmware would load."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeSection:
    """A row of the section table. Offsets and sizes in bytes."""

    name: str
    virtual_size: int
    raw_offset: int
    raw_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PeImage:
    """A PE file with what is needed of its headers."""

    data: bytes
    sections: tuple[PeSection, ...]
    size_of_headers: int
    checksum_offset: int
    certificate_entry: int | None
    """Offset of the certificate table's data directory entry, None where the file has none."""
    certificate_size: int

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Raises `PeError`."""
        if data[:2] != b"MZ":
            raise PeError("this is no PE file", expected="MZ at its start", found=data[:2].hex())
        start = _reader(data, _PE_OFFSET_FIELD).u32("e_lfanew")
        coff = _reader(data, start)
        if coff.take(4, "PE signature") != b"PE\0\0":
            raise PeError("this is no PE file", where=f"byte {start}", expected="a PE signature")
        coff.u16("machine")
        section_count = coff.u16("number of sections")
        coff.take(12, "COFF header")
        optional_size = coff.u16("size of the optional header")
        optional = start + _COFF_HEADER_BYTES
        magic = _reader(data, optional).u16("magic of the optional header")
        if magic not in _DIRECTORY_COUNT_OFFSETS:
            raise PeError("neither PE32 nor PE32+", where=f"byte {optional}", found=f"0x{magic:04x}")
        size_of_headers = _reader(data, optional + _SIZE_OF_HEADERS_OFFSET).u32("SizeOfHeaders")
        count_offset = optional + _DIRECTORY_COUNT_OFFSETS[magic]
        entry: int | None = count_offset + 4 + _CERTIFICATE_DIRECTORY * _DIRECTORY_BYTES
        certificate_size = 0
        if _reader(data, count_offset).u32("NumberOfRvaAndSizes") > _CERTIFICATE_DIRECTORY and entry is not None:
            certificate_size = _reader(data, entry + 4).u32("size of the certificate table")
        else:
            entry = None
        if size_of_headers > len(data) or size_of_headers < (entry or optional) or certificate_size > len(data):
            raise PeError("headers or certificates do not fit the file", found=f"{len(data)} bytes")
        table = _reader(data, optional + optional_size)
        return cls(
            data=data,
            sections=tuple(_read_section(table, len(data)) for _ in range(section_count)),
            size_of_headers=size_of_headers,
            checksum_offset=optional + _CHECKSUM_OFFSET,
            certificate_entry=entry,
            certificate_size=certificate_size,
        )

    def content(self, name: str) -> bytes | None:
        """A section as it stands in memory (VirtualSize bytes, zeros behind the raw data), or None.

        Raises `PeError` where the name stands twice (loaders differ in which one they take), or where the section
        is larger than the whole file, which no builder of images means.
        """
        found = [section for section in self.sections if section.name == name]
        if not found:
            return None
        if len(found) > 1:
            raise PeError("a section stands twice", where=name)
        section = found[0]
        if section.virtual_size > len(self.data):
            raise PeError("a section is larger than its file", where=name, found=f"{section.virtual_size} bytes")
        raw = self.data[section.raw_offset : section.raw_offset + min(section.raw_size, section.virtual_size)]
        return raw.ljust(section.virtual_size, b"\0")

    def authenticode(self, bank: Bank = Bank.SHA256) -> bytes:
        """The image's Authenticode digest: its file without checksum, certificate table and that table's entry."""
        data = self.data
        parts = [data[: self.checksum_offset]]
        after_checksum = self.checksum_offset + 4
        if self.certificate_entry is None:
            parts.append(data[after_checksum : self.size_of_headers])
        else:
            parts.append(data[after_checksum : self.certificate_entry])
            parts.append(data[self.certificate_entry + _DIRECTORY_BYTES : self.size_of_headers])
        hashed = self.size_of_headers
        for section in sorted(self.sections, key=lambda item: item.raw_offset):
            if section.raw_size:
                parts.append(data[section.raw_offset : section.raw_offset + section.raw_size])
                hashed += section.raw_size
        end = len(data) - self.certificate_size
        if end > hashed:
            parts.append(data[hashed:end])
        return bank.digest(b"".join(parts))


def authenticode_digest(image: bytes, bank: Bank = Bank.SHA256) -> bytes:
    """The Authenticode digest of a PE file. Raises `PeError`."""
    return PeImage.parse(image).authenticode(bank)


def _reader(data: bytes, offset: int) -> ByteReader:
    return ByteReader(data, order="little", error=PeError, where="PE file", offset=min(offset, len(data)))


def _read_section(table: ByteReader, file_size: int) -> PeSection:
    name = table.take(8, "section name").rstrip(b"\0").decode("ascii", "backslashreplace")
    virtual_size = table.u32("VirtualSize")
    table.u32("VirtualAddress")
    raw_size = table.u32("SizeOfRawData")
    raw_offset = table.u32("PointerToRawData")
    table.take(_SECTION_HEADER_BYTES - 24, "section header")
    # An uninitialised section has no bytes in the file, whatever its offset says.
    if raw_size and raw_offset + raw_size > file_size:
        raise PeError("a section lies outside of the file", where=name, found=f"{raw_offset} + {raw_size} bytes")
    return PeSection(name=name, virtual_size=virtual_size, raw_offset=raw_offset, raw_size=raw_size)
