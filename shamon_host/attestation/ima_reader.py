"""Reading the kernel's `binary_runtime_measurements`, in pieces or whole, in any template-hash format.

`ima_log` replays what is read here. One loop reads for everybody: an appraiser takes the entries only if every
template hash is right, `shamon inspect` wants to be told which are not. The loop is a generator, so a log of any
length needs the memory of its bytes and of one entry.

The format is the kernel's on a little-endian machine (or with `ima_canonical_fmt`): PCR, template hash, name length,
name, data length (not for template `ima`), data. The hash is SHA-1, except in the files that newer kernels have for
each bank and for the hash of `ima_hash=` (`binary_runtime_measurements_sha256`).

Source: Linux security/integrity/ima/ima_fs.c (`ima_measurements_show`), ima_crypto.c.
"""

import hashlib
import struct
from collections.abc import Callable, Iterator
from enum import StrEnum
from functools import cache, partial
from typing import Protocol

from shamon_host.attestation.ima_entry import (
    IMA_NAME_BYTES,
    IMA_TEMPLATE,
    SHA1_BYTES,
    ImaEntry,
    ImaLogError,
    printable,
    template_fields,
)
from shamon_host.attestation.pcr import PCR_COUNT, Bank

MAX_LOG_BYTES = 64 * 1024 * 1024
MAX_TEMPLATE_NAME_BYTES = 255
MAX_TEMPLATE_DATA_BYTES = 8 * 1024 * 1024
"""More than one buffer that the kernel can allocate (KMALLOC_MAX_SIZE, 4 MiB), and its name and digest."""
_DETECTING_ENTRIES = 16
_KNOWN_TEMPLATES = 64
"""How many are kept; a kernel's log has a few, a hostile one may have another in each entry."""
Frame = tuple[int, str, bytes, bytes, int]
"""What an `ImaEntry` is, too: PCR, template, template hash, measured bytes, offset behind it. A plain tuple costs less,
which counts where somebody goes through tens of thousands of entries and looks into few."""


class _Hash(Protocol):
    def digest(self) -> bytes: ...


class LogHash(StrEnum):
    """Template hashes of logs for which this program knows no PCR bank: what `ima_hash=` or an SM3 bank may leave."""

    SM3 = "sm3"
    SHA3_256 = "sha3-256"
    SHA3_384 = "sha3-384"
    SHA3_512 = "sha3-512"
    SHA224 = "sha224"
    MD5 = "md5"

    @property
    def digest_size(self) -> int:
        """Bytes in one digest."""
        return {"md5": 16, "sha224": 28, "sha3-384": 48, "sha3-512": 64}.get(self.value, 32)

    @property
    def available(self) -> bool:
        """Whether Python's hashlib has it here: SM3 depends on how its OpenSSL was built."""
        try:
            template_hasher(self)
        except ValueError:
            return False
        return True

    def digest(self, data: bytes) -> bytes:
        """The hash of `data`. Raises ValueError where it is not available."""
        return template_hasher(self)(data).digest()


class ImaLogTruncatedError(ImaLogError):
    """The last entry is incomplete; `offset` is where it starts in the whole log."""

    def __init__(self, what: str, *, offset: int) -> None:
        super().__init__(what, where=f"IMA log, byte {offset}", remedy="Read the log again from that entry.")
        self.offset = offset


def parse_ima_log(log: bytes, *, log_bank: Bank | LogHash = Bank.SHA1, base_offset: int = 0) -> tuple[ImaEntry, ...]:
    """The entries of `log`, whose first byte is at `base_offset` of the whole log.

    `log_bank` is the hash of the log's own template digests (SHA-1, unless read from one of the kernel's per-hash
    files). Each template hash is checked against its entry. Raises `ImaLogTruncatedError` where the last entry is
    incomplete, `ImaLogError` where the bytes are no log, or more than `MAX_LOG_BYTES`.
    """
    if len(log) > MAX_LOG_BYTES:
        raise ImaLogError("the IMA log is too long", expected=f"at most {MAX_LOG_BYTES} bytes", found=str(len(log)))
    return tuple(iter_ima_log(log, log_bank=log_bank, base_offset=base_offset))


def iter_ima_log(
    log: bytes,
    *,
    log_bank: Bank | LogHash = Bank.SHA1,
    base_offset: int = 0,
    wrong_hashes: list[int] | None = None,
) -> Iterator[ImaEntry]:
    """The entries of `log` one after the other; the errors of `parse_ima_log` come when their entry is reached.

    `wrong_hashes` is for looking at a log that need not be good: an entry whose template hash is wrong is not refused
    then, but its number, counted from 1, is added to the list. What cannot be read is an error all the same.
    """
    frames = iter_frames(log, log_bank=log_bank, base_offset=base_offset)
    hashed = template_hasher(log_bank)
    zeros = bytes(log_bank.digest_size)
    start = base_offset
    for number, entry in enumerate(map(ImaEntry._make, frames), start=1):
        if entry.template_hash not in (zeros, hashed(entry.measured).digest()):
            if wrong_hashes is None:
                raise _bad("the template hash is not that of the entry", start, entry.template_hash.hex())
            wrong_hashes.append(number)
        start = entry.end_offset
        yield entry


def iter_frames(log: bytes, *, log_bank: Bank | LogHash = Bank.SHA1, base_offset: int = 0) -> Iterator[Frame]:
    """The same entries, whose template hashes nobody has looked at: for who replays the log to a quote, which proves
    the measured bytes themselves."""
    size = log_bank.digest_size
    known: dict[bytes, tuple[str, struct.Struct]] = {}
    # Nearly every entry has the template of the one before it: all in front of its data is then read in one step.
    name, template, head = b"", "", _head(size, 0)
    position, end = 0, len(log)
    while position < end:
        start = position
        try:
            pcr, template_hash, name_size, found, data_size = head.unpack_from(log, start)
        except struct.error:
            pcr, template_hash, name_size, found, data_size = 0, b"", 0, b"", 0
        if not found or found != name or name_size != len(name):
            try:
                name = _read_name(log, start + 4 + size, start + base_offset)
                if name not in known:
                    if len(known) == _KNOWN_TEMPLATES:
                        known.clear()
                    known[name] = _template_name(name, start + base_offset), _head(size, len(name))
                template, head = known[name]
                pcr, template_hash, _, _, data_size = head.unpack_from(log, start)
            except struct.error:
                raise ImaLogTruncatedError("the last entry is truncated", offset=start + base_offset) from None
        position = start + head.size
        if template == IMA_TEMPLATE:
            measured, position = _old_template(log, position - 4, start + base_offset)
        elif data_size > MAX_TEMPLATE_DATA_BYTES:
            raise _bad("template data is too long", start + base_offset, str(data_size))
        else:
            measured = log[position : position + data_size]
            position += data_size
        if position > end:
            raise ImaLogTruncatedError("the last entry is truncated", offset=start + base_offset)
        if pcr >= PCR_COUNT:
            raise _bad("no such PCR", start + base_offset, str(pcr))
        yield pcr, template, template_hash, measured, position + base_offset


def detect_log_bank(log: bytes) -> Bank | LogHash:
    """The hash of a log's template digests, told by where the first entry's name stands, and by the hashes themselves.

    Raises `ImaLogError` if none fits.
    """
    for size in (*(bank.digest_size for bank in Bank), 28, 16):
        if _names_template(log, 4 + size):
            break
    else:
        raise ImaLogError("this is no IMA log", found=printable(log[:16].decode("latin-1")))
    return likeliest_hash(size, lambda bank, wrong: iter_ima_log(log, log_bank=bank, wrong_hashes=wrong))


def likeliest_hash(size: int, read: Callable[[Bank | LogHash, list[int]], Iterator[ImaEntry]]) -> Bank | LogHash:
    """The hash of `size` bytes that most of the first entries have; a PCR bank's where they do not tell.

    `read` gives the entries under a hash, and adds to the list as `iter_ima_log` does. Raises `ImaLogError` where no
    hash has that size.
    """
    candidates: list[Bank | LogHash] = [bank for bank in Bank if bank.digest_size == size]
    candidates += [other for other in LogHash if other.digest_size == size and other.available]
    if not candidates:
        raise ImaLogError("no template hash has this length", found=f"{size} bytes")
    return max(candidates, key=lambda candidate: _fitting_entries(candidate, read))


def _names_template(log: bytes, position: int) -> bool:
    name_size = int.from_bytes(log[position : position + 4], "little")
    name = log[position + 4 : position + 4 + min(name_size, MAX_TEMPLATE_NAME_BYTES)]
    try:
        template_fields(name.decode("ascii"))
    except (ImaLogError, UnicodeDecodeError):
        return False
    return len(name) == name_size


def _fitting_entries(log_hash: Bank | LogHash, read: Callable[[Bank | LogHash, list[int]], Iterator[ImaEntry]]) -> int:
    """How many of the first entries fit a hash. `max` takes the first of equals, hence the PCR bank."""
    wrong: list[int] = []
    fitting = 0
    try:
        for number, entry in enumerate(read(log_hash, wrong), 1):
            fitting += not entry.violation and number not in wrong
            if number == _DETECTING_ENTRIES:
                break
    except ImaLogError:
        return fitting
    return fitting


@cache
def template_hasher(log_hash: Bank | LogHash) -> Callable[[bytes], _Hash]:
    """hashlib's constructor for a hash, looked up once. Raises ValueError where hashlib has none."""
    name = log_hash.value.replace("-", "_")
    constructor: Callable[[bytes], _Hash] = getattr(hashlib, name, None) or partial(hashlib.new, name)
    constructor(b"")
    return constructor


def _bad(what: str, offset: int, found: str) -> ImaLogError:
    return ImaLogError(what, where=f"IMA log, byte {offset}", found=found)


def _head(hash_size: int, name_size: int) -> struct.Struct:
    """What stands before an entry's data: PCR, template hash, length of the name, name, length of the data."""
    return struct.Struct(f"<I{hash_size}sI{name_size}sI")


def _read_name(log: bytes, position: int, offset: int) -> bytes:
    (size,) = struct.unpack_from("<I", log, position)
    if not 0 < size <= MAX_TEMPLATE_NAME_BYTES:
        raise _bad("a template name is empty or too long", offset, f"{size} bytes")
    (name,) = struct.unpack_from(f"{size}s", log, position + 4)
    return bytes(name)


def _template_name(name: bytes, offset: int) -> str:
    try:
        template = name.decode("ascii")
    except UnicodeDecodeError:
        raise _bad("a template name is not text", offset, name.hex()) from None
    try:
        template_fields(template)
    except ImaLogError as error:
        error.where = f"IMA log, byte {offset}"
        raise
    return template


def _old_template(log: bytes, position: int, offset: int) -> tuple[bytes, int]:
    """The `ima` template: SHA-1 digest, length and path without a terminator. Hashed with the path padded."""
    digest = log[position : position + SHA1_BYTES]
    position += SHA1_BYTES + 4
    name_size = int.from_bytes(log[position - 4 : position], "little")
    name = log[position : position + min(name_size, IMA_NAME_BYTES)]
    if name_size >= IMA_NAME_BYTES or b"\0" in name:
        raise _bad("the path of an ima entry is malformed", offset, f"{name_size} bytes")
    return digest + name.ljust(IMA_NAME_BYTES, b"\0"), position + name_size
