"""The IMA runtime log: read in pieces, replayed to the quoted PCR, and written for the fake kernel.

The Verifier keeps, for each peer, an offset into that peer's log and the PCR value up to there; each Evidence brings
the bytes from that offset on. `parse_ima_log` reads them, `replay_until` finds the prefix that the quote vouches for.
Log and quote are not taken at one moment, so the log may run ahead: entries behind the prefix wait for the next time.

The format is the kernel's `binary_runtime_measurements` on a little-endian machine (or with `ima_canonical_fmt`):
PCR, template hash, name length, name, data length (not for template `ima`), data.

Source: Linux security/integrity/ima/ima_fs.c (`ima_measurements_show`), ima_queue.c, ima_crypto.c.
"""

import hashlib
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from shamon_host.attestation.ima_entry import (
    IMA_NAME_BYTES,
    IMA_PCR,
    IMA_TEMPLATE,
    SHA1_BYTES,
    FileDigest,
    ImaEntry,
    ImaFields,
    ImaLogError,
    printable,
    template_fields,
)
from shamon_host.attestation.pcr import PCR_COUNT, Bank
from shamon_host.domain.errors import NotTrusted

__all__ = [
    "IMA_PCR",
    "FileDigest",
    "ImaEntry",
    "ImaFields",
    "ImaLogError",
    "ImaLogTruncatedError",
    "ImaReplay",
    "ImaReplayError",
    "boot_aggregate",
    "detect_log_bank",
    "encode_ima_log",
    "ima_buf_entry",
    "ima_sig_entry",
    "parse_ima_log",
    "replay_until",
    "violation_entry",
]

MAX_LOG_BYTES = 64 * 1024 * 1024
MAX_TEMPLATE_NAME_BYTES = 255
MAX_TEMPLATE_DATA_BYTES = 4 * 1024 * 1024
_BOOT_AGGREGATE_PCRS = range(10)
_BOOT_AGGREGATE_PCRS_SHA1 = range(8)


class ImaLogTruncatedError(ImaLogError):
    """The last entry is incomplete; `offset` is where it starts in the whole log."""

    def __init__(self, what: str, *, offset: int) -> None:
        super().__init__(what, where=f"IMA log, byte {offset}", remedy="Read the log again from that entry.")
        self.offset = offset


class ImaReplayError(NotTrusted):
    """No prefix of the log leads to the quoted PCR values."""


def parse_ima_log(log: bytes, *, log_bank: Bank = Bank.SHA1, base_offset: int = 0) -> tuple[ImaEntry, ...]:
    """The entries of `log`, whose first byte is at `base_offset` of the whole log.

    `log_bank` is the hash of the log's own template digests (SHA-1, unless read from one of the kernel's per-hash
    files). Each template hash is checked against its entry. Raises `ImaLogTruncatedError` where the last entry is
    incomplete, `ImaLogError` where the bytes are no log.
    """
    if len(log) > MAX_LOG_BYTES:
        raise ImaLogError("the IMA log is too long", expected=f"at most {MAX_LOG_BYTES} bytes", found=str(len(log)))
    size = log_bank.digest_size
    hasher = _hasher(log_bank)
    zeros = bytes(size)
    head = struct.Struct(f"<I{size}sI")
    length = struct.Struct("<I")
    known: dict[bytes, str] = {}
    entries: list[ImaEntry] = []
    position, end = 0, len(log)
    while position < end:
        start = position
        try:
            pcr, template_hash, name_size = head.unpack_from(log, position)
            position += head.size
            name = log[position : position + name_size]
            position += name_size
            if name not in known:
                if not 0 < name_size <= MAX_TEMPLATE_NAME_BYTES:
                    raise _bad("a template name is empty or too long", start + base_offset, f"{name_size} bytes")
                if position > end:
                    raise struct.error
                known[name] = _template_name(name, start + base_offset)
            template = known[name]
            if template == IMA_TEMPLATE:
                measured, position = _old_template(log, position, start + base_offset)
            else:
                (data_size,) = length.unpack_from(log, position)
                position += 4
                if data_size > MAX_TEMPLATE_DATA_BYTES:
                    raise _bad("template data is too long", start + base_offset, str(data_size))
                measured = log[position : position + data_size]
                position += data_size
        except struct.error:
            raise ImaLogTruncatedError("the last entry is truncated", offset=start + base_offset) from None
        if position > end:
            raise ImaLogTruncatedError("the last entry is truncated", offset=start + base_offset)
        if pcr >= PCR_COUNT:
            raise _bad("no such PCR", start + base_offset, str(pcr))
        if template_hash != zeros and hasher(measured) != template_hash:
            raise _bad("the template hash is not that of the entry", start + base_offset, template_hash.hex())
        entries.append(ImaEntry(pcr, template, template_hash, measured, position + base_offset))
    return tuple(entries)


def _hasher(bank: Bank) -> Callable[[bytes], bytes]:
    """`bank.digest` without its lookups: it runs three times for each of tens of thousands of entries."""
    function = {Bank.SHA1: hashlib.sha1, Bank.SHA256: hashlib.sha256, Bank.SHA384: hashlib.sha384}.get(
        bank, hashlib.sha512
    )
    return lambda data: function(data).digest()


def _bad(what: str, offset: int, found: str) -> ImaLogError:
    return ImaLogError(what, where=f"IMA log, byte {offset}", found=found)


def _template_name(name: bytes, offset: int) -> str:
    try:
        template = name.decode("ascii")
    except UnicodeDecodeError:
        raise _bad("a template name is not text", offset, name.hex()) from None
    template_fields(template)
    return template


def _old_template(log: bytes, position: int, offset: int) -> tuple[bytes, int]:
    """The `ima` template: SHA-1 digest, length and path without a terminator. Hashed with the path padded."""
    digest = log[position : position + SHA1_BYTES]
    (name_size,) = struct.unpack_from("<I", log, position + SHA1_BYTES)
    position += SHA1_BYTES + 4
    name = log[position : position + min(name_size, IMA_NAME_BYTES)]
    if name_size >= IMA_NAME_BYTES or b"\0" in name:
        raise _bad("the path of an ima entry is malformed", offset, f"{name_size} bytes")
    return digest + name.ljust(IMA_NAME_BYTES, b"\0"), position + name_size


@dataclass(frozen=True, slots=True, kw_only=True)
class ImaReplay:
    """How far a quote vouches for a log."""

    verified: int
    """How many of the given entries are covered by the quote."""
    next_offset: int | None
    """Offset behind the last covered entry; None where none is covered (the caller's own offset still holds)."""
    values: Mapping[int, bytes]
    """PCR values behind the last covered entry: the start values of the next increment."""


def replay_until(
    entries: Sequence[ImaEntry],
    start_values: Mapping[int, bytes],
    target: Mapping[int, bytes],
    bank: Bank = Bank.SHA256,
    *,
    padded_sha1: bool = False,
) -> ImaReplay:
    """The prefix of `entries` after which the PCRs have the quoted values; entries behind it are allowed.

    `start_values` are the PCR values before the first entry (a PCR that is not in it starts at zero), `target` the
    quoted ones by PCR index, usually PCR 10 alone. `padded_sha1` is for kernels before 5.8, which extended every bank
    with the SHA-1 digest and zeros behind it. Raises `ImaReplayError` when no prefix fits, also when an entry went
    into a PCR that `target` does not have.
    """
    size = bank.digest_size
    hasher = _hasher(bank)
    ones = b"\xff" * size
    values = {pcr: start_values.get(pcr, bytes(size)) for pcr in target}
    open_pcrs = {pcr for pcr, value in target.items() if values[pcr] != value}
    verified = 0
    for entry in entries:
        if not open_pcrs:
            break
        pcr = entry.pcr
        value = values.get(pcr)
        if value is None:
            raise ImaReplayError(
                "an IMA entry went into a PCR that is not quoted",
                where=f"entry {verified + 1}: {entry.describe()}",
                expected=", ".join(f"PCR {index}" for index in sorted(target)),
                found=f"PCR {pcr}",
            )
        if not any(entry.template_hash):
            digest = ones
        elif padded_sha1:
            digest = entry.template_hash[:size].ljust(size, b"\0")
        else:
            digest = hasher(entry.measured)
        value = values[pcr] = hasher(value + digest)
        verified += 1
        if value == target[pcr]:
            open_pcrs.discard(pcr)
        else:
            open_pcrs.add(pcr)
    if open_pcrs:
        pcr = min(open_pcrs)
        raise ImaReplayError(
            f"the IMA log does not lead to the quoted PCR {pcr}",
            where=f"{len(entries)} entries replayed, bank {bank}",
            expected=target[pcr].hex(),
            found=values[pcr].hex(),
            remedy="Entries are missing, changed or out of order, or the log was read before the quote.",
        )
    return ImaReplay(
        verified=verified, next_offset=entries[verified - 1].end_offset if verified else None, values=values
    )


def boot_aggregate(bank: Bank, values: Mapping[int, bytes]) -> bytes:
    """The digest of IMA's first entry: over PCR 0-9 of the bank (0-7 for SHA-1, and before kernel 5.8 for all).

    `values` are PCR values at the time the kernel started IMA; give PCR 0-7 only, for an older kernel.
    """
    pcrs = _BOOT_AGGREGATE_PCRS_SHA1 if bank is Bank.SHA1 else _BOOT_AGGREGATE_PCRS
    return bank.digest(b"".join(values[pcr] for pcr in pcrs if pcr in values))


def detect_log_bank(log: bytes) -> Bank:
    """The hash of a log's template digests, told by its first entry. Raises `ImaLogError` if none fits."""
    for bank in Bank:
        position = 4 + bank.digest_size
        name_size = int.from_bytes(log[position : position + 4], "little")
        name = log[position + 4 : position + 4 + min(name_size, MAX_TEMPLATE_NAME_BYTES)]
        try:
            template_fields(name.decode("ascii"))
        except (ImaLogError, UnicodeDecodeError):
            continue
        return bank
    raise ImaLogError("this is no IMA log", found=printable(log[:16].decode("latin-1")))


def encode_ima_log(entries: Iterable[ImaEntry]) -> bytes:
    """The bytes the kernel would show for `entries`."""
    out = bytearray()
    for entry in entries:
        name = entry.template.encode("ascii")
        out += entry.pcr.to_bytes(4, "little") + entry.template_hash + len(name).to_bytes(4, "little") + name
        if entry.template == IMA_TEMPLATE:
            path = entry.measured[SHA1_BYTES:].rstrip(b"\0")
            out += entry.measured[:SHA1_BYTES] + _field(path)
        else:
            out += _field(entry.measured)
    return bytes(out)


def _field(data: bytes) -> bytes:
    return len(data).to_bytes(4, "little") + data


def ima_sig_entry(
    path: str,
    digest: bytes,
    *,
    algorithm: str = "sha256",
    signature: bytes = b"",
    pcr: int = IMA_PCR,
    log_bank: Bank = Bank.SHA1,
) -> ImaEntry:
    """An `ima-sig` entry as the kernel makes it for a file; `digest` is the file's."""
    measured = (
        _field(algorithm.encode() + b":\0" + digest) + _field(path.encode("utf-8", "surrogateescape") + b"\0")
    ) + _field(signature)
    return ImaEntry(pcr, "ima-sig", log_bank.digest(measured), measured)


def ima_buf_entry(name: str, buf: bytes, *, pcr: int = IMA_PCR, log_bank: Bank = Bank.SHA1) -> ImaEntry:
    """An `ima-buf` entry as the kernel makes it for critical data, e.g. `selinux-state`."""
    measured = _field(b"sha256:\0" + Bank.SHA256.digest(buf)) + _field(name.encode("utf-8") + b"\0") + _field(buf)
    return ImaEntry(pcr, "ima-buf", log_bank.digest(measured), measured)


def violation_entry(path: str, *, pcr: int = IMA_PCR, log_bank: Bank = Bank.SHA1) -> ImaEntry:
    """An `ima-sig` violation: a file was open for writing while it was measured."""
    measured = _field(b"sha256:\0" + bytes(32)) + _field(path.encode("utf-8", "surrogateescape") + b"\0") + _field(b"")
    return ImaEntry(pcr, "ima-sig", bytes(log_bank.digest_size), measured)
