"""What the vouched part of an IMA log measured, kept so that it can be judged anew.

When the Reference Values of a host change, the Verifier walks again over what quotes have vouched for (`appraisal`),
and asks for nothing twice. So it keeps of each entry what a walk reads: the measured bytes, and whether it was a
violation; not the template's hash, which follows from them. Entries that repeat cost a few bytes.

Packed form, inside zlib: for each entry a varint, the distance back to an entry of the same kind and content, or 0 and
then the entry: PCR (varint), flags (1: violation), template and measured bytes, each after its length (varint).
A ledger is believed only if it leads to the PCR value that was vouched for.
"""

import hashlib
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from shamon_host.attestation.ima_entry import ImaEntry
from shamon_host.attestation.ima_reader import iter_frames
from shamon_host.domain.errors import BadInput, ShamonError

MAX_LEDGER_BYTES = 64 * 1024 * 1024
"""Of one packed piece, unpacked: as much as a log may have."""
MAX_LEDGER_ENTRIES = 1 << 21
"""Of one packed piece: more than a log has room for."""
_SHA1_BYTES = 20
_VIOLATION = 1
_MAX_SHIFT = 35
_SPEED = 1
"""Digests do not get smaller, paths do at any level."""


class Entries(Protocol):
    """Entries that can be gone through again and again."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[ImaEntry]: ...


@dataclass(frozen=True, slots=True)
class LoggedEntries:
    """Entries as they stand in a binary log, which takes less memory than they do. `count`: how many there are."""

    log: bytes
    count: int

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[ImaEntry]:
        return map(ImaEntry._make, iter_frames(self.log))


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """Entries in the order of the log."""

    elsewhere: int = 0
    """How many entries stand in front of those that are here: whoever stores the state has them, or nobody."""
    pieces: tuple[Entries, ...] = ()

    @property
    def entries(self) -> tuple[ImaEntry, ...]:
        """Those that are here."""
        return tuple(entry for piece in self.pieces for entry in piece)

    @property
    def count(self) -> int:
        """How many entries there are, here and elsewhere."""
        return self.elsewhere + sum(map(len, self.pieces))

    def followed_by(self, entries: Entries) -> "Ledger":
        """With what was vouched for next. Takes no time: nothing is packed before it is stored."""
        if not len(entries):
            return self
        return Ledger(elsewhere=self.elsewhere, pieces=(*self.pieces, entries))


def pack(entries: Iterable[ImaEntry]) -> bytes:
    """Entries as bytes to be stored."""
    out = bytearray()
    seen: dict[tuple[int, bool, str, bytes], int] = {}
    for at, entry in enumerate(entries):
        violation = not any(entry.template_hash)
        content = (entry.pcr, violation, entry.template, entry.measured)
        before = seen.get(content)
        seen[content] = at
        if before is not None:
            out += _varint(at - before)
            continue
        template = entry.template.encode("ascii")
        out += b"\0" + _varint(entry.pcr) + bytes([_VIOLATION if violation else 0])
        out += _varint(len(template)) + template + _varint(len(entry.measured)) + entry.measured
    return zlib.compress(out, _SPEED)


def unpack(data: bytes) -> tuple[ImaEntry, ...]:
    """The entries that were packed; their template hashes are SHA-1, as in the kernel's usual log, and their offsets 0.

    Raises BadInput: a store that was changed is no ledger.
    """
    inflate = zlib.decompressobj()
    try:
        plain = inflate.decompress(data, MAX_LEDGER_BYTES)
    except zlib.error as error:
        raise _malformed(str(error)) from None
    if not inflate.eof or inflate.unused_data:
        raise _malformed("it ends too early, or is too large")
    entries: list[ImaEntry] = []
    at = 0
    while at < len(plain):
        back, at = _read_varint(plain, at)
        if back > len(entries) or len(entries) >= MAX_LEDGER_ENTRIES:
            raise _malformed("it points before its beginning, or does not end")
        if back:
            entries.append(entries[-back])
            continue
        pcr, at = _read_varint(plain, at)
        flags, at = _read_varint(plain, at)
        template, at = _read_bytes(plain, at)
        measured, at = _read_bytes(plain, at)
        if flags & ~_VIOLATION or not template.isascii():
            raise _malformed("an entry has unknown flags, or no template")
        violation = bool(flags & _VIOLATION)
        template_hash = bytes(_SHA1_BYTES) if violation else hashlib.sha1(measured, usedforsecurity=False).digest()
        entries.append(ImaEntry(pcr, template.decode("ascii"), template_hash, measured))
    return tuple(entries)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < _MAX_SHIFT and at < len(data):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return value, at
        shift += 7
    raise _malformed("a number in it does not end")


def _read_bytes(data: bytes, at: int) -> tuple[bytes, int]:
    size, at = _read_varint(data, at)
    if size > len(data) - at:
        raise _malformed("an entry is longer than what is there")
    return data[at : at + size], at + size


def _malformed(found: str) -> ShamonError:
    return BadInput("a stored ledger of measurements is malformed", found=found)
