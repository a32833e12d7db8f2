"""The IMA runtime log: read in pieces, replayed to the quoted PCR, and written for the fake kernel.

The Verifier keeps, for each peer, an offset into that peer's log and the PCR value up to there; each Evidence brings
the bytes from that offset on. `parse_ima_log` reads them, `replay_until` finds the prefix that the quote vouches for.
Log and quote are not taken at one moment, so the log may run ahead: entries behind the prefix wait for the next time.

The bytes are read in `ima_reader`, the text of `ascii_runtime_measurements` in `ima_ascii`.

Source: Linux security/integrity/ima/ima_fs.c (`ima_measurements_show`), ima_queue.c, ima_crypto.c
(`ima_calc_boot_aggregate_tfm`).
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from shamon_host.attestation.ima_entry import (
    IMA_PCR,
    IMA_TEMPLATE,
    SHA1_BYTES,
    FileDigest,
    ImaEntry,
    ImaFields,
    ImaLogError,
)
from shamon_host.attestation.ima_reader import (
    Frame,
    ImaLogTruncatedError,
    LogHash,
    detect_log_bank,
    iter_frames,
    iter_ima_log,
    parse_ima_log,
    template_hasher,
)
from shamon_host.attestation.pcr import Bank
from shamon_host.domain.errors import NotTrusted

__all__ = [
    "IMA_PCR",
    "FileDigest",
    "Frame",
    "ImaEntry",
    "ImaFields",
    "ImaLogError",
    "ImaLogTruncatedError",
    "ImaReplay",
    "ImaReplayError",
    "LogHash",
    "boot_aggregate",
    "boot_aggregates",
    "detect_log_bank",
    "encode_ima_log",
    "ima_buf_entry",
    "ima_sig_entry",
    "iter_frames",
    "iter_ima_log",
    "parse_ima_log",
    "replay_until",
    "violation_entry",
]

_BOOT_AGGREGATE_PCRS = range(10)
_BOOT_AGGREGATE_PCRS_SHA1 = range(8)


class ImaReplayError(NotTrusted):
    """No prefix of the log leads to the quoted PCR values."""


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
    function = template_hasher(bank)
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
            digest = function(entry.measured).digest()
        value = values[pcr] = function(value + digest).digest()
        verified += 1
        if value == target[pcr]:
            open_pcrs.discard(pcr)
        else:
            open_pcrs.add(pcr)
    if open_pcrs:
        pcr = min(open_pcrs)
        raise _astray(pcr, len(entries), bank, target[pcr], values[pcr])
    return ImaReplay(
        verified=verified, next_offset=entries[verified - 1].end_offset if verified else None, values=values
    )


@dataclass(slots=True)
class Vouched:
    """What came of `vouched_entries`, once it has come to its end."""

    count: int = 0
    offset: int | None = None
    """Behind the last entry; None where there is none."""


def vouched_entries(
    entries: Iterable[Frame], start: bytes, target: bytes, result: Vouched, *, pcr: int = IMA_PCR
) -> Iterator[Frame]:
    """The prefix of `entries` that leads from `start` to the quoted `target` (SHA-256 bank, 32 bytes), one by one.

    For logs of any length: nothing is kept. Whoever takes an entry may believe it only when the last one has come; an
    `ImaReplayError` instead says that the entries do not lead there, as does one that is cut short before they do, or
    that went into another PCR.
    """
    if start == target:
        return
    sha256, ones, value, number = hashlib.sha256, b"\xff" * 32, start, 0
    zeros = b""
    try:
        for number, entry in enumerate(entries, start=1):
            at, _, template_hash, measured, end = entry
            if at != pcr:
                raise ImaReplayError(
                    "an IMA entry went into a PCR that is not quoted",
                    where=f"entry {number}: {ImaEntry._make(entry).describe()}",
                    expected=f"PCR {pcr}",
                    found=f"PCR {at}",
                )
            zeros = zeros or bytes(len(template_hash))
            value = sha256(value + (ones if template_hash == zeros else sha256(measured).digest())).digest()
            yield entry
            if value == target:
                result.count, result.offset = number, end
                return
    except ImaLogTruncatedError:
        pass  # the kernel may have been writing: what a quote covers is in front of that
    raise _astray(pcr, number, Bank.SHA256, target, value)


def _astray(pcr: int, count: int, bank: Bank, target: bytes, value: bytes) -> ImaReplayError:
    return ImaReplayError(
        f"the IMA log does not lead to the quoted PCR {pcr}",
        where=f"{count} entries replayed, bank {bank}",
        expected=target.hex(),
        found=value.hex(),
        remedy="Entries are missing, changed or out of order, or the log was read before the quote.",
    )


def boot_aggregate(bank: Bank, values: Mapping[int, bytes]) -> bytes:
    """The digest of IMA's first entry: over PCR 0-9 of the bank (0-7 for SHA-1, and before kernel 5.8 for all).

    `values` are PCR values at the time the kernel started IMA; give PCR 0-7 only, for an older kernel.
    """
    pcrs = _BOOT_AGGREGATE_PCRS_SHA1 if bank is Bank.SHA1 else _BOOT_AGGREGATE_PCRS
    return bank.digest(b"".join(values[pcr] for pcr in pcrs if pcr in values))


def boot_aggregates(bank: Bank, values: Mapping[int, bytes]) -> dict[str, bytes]:
    """What the first entry may say under each definition, by its PCRs: `0-7`, and `0-9` of kernel 5.8 and later.

    `values` are as for `boot_aggregate`. A definition is left out where one of its PCRs is not in `values`.
    """
    return {
        f"{pcrs[0]}-{pcrs[-1]}": bank.digest(b"".join(values[pcr] for pcr in pcrs))
        for pcrs in (_BOOT_AGGREGATE_PCRS_SHA1, _BOOT_AGGREGATE_PCRS)
        if all(pcr in values for pcr in pcrs)
    }


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
    log_bank: Bank | LogHash = Bank.SHA1,
) -> ImaEntry:
    """An `ima-sig` entry as the kernel makes it for a file; `digest` is the file's."""
    measured = (
        _field(algorithm.encode() + b":\0" + digest) + _field(path.encode("utf-8", "surrogateescape") + b"\0")
    ) + _field(signature)
    return ImaEntry(pcr, "ima-sig", log_bank.digest(measured), measured)


def ima_buf_entry(name: str, buf: bytes, *, pcr: int = IMA_PCR, log_bank: Bank | LogHash = Bank.SHA1) -> ImaEntry:
    """An `ima-buf` entry as the kernel makes it for critical data, e.g. `selinux-state`."""
    measured = _field(b"sha256:\0" + Bank.SHA256.digest(buf)) + _field(name.encode("utf-8") + b"\0") + _field(buf)
    return ImaEntry(pcr, "ima-buf", log_bank.digest(measured), measured)


def violation_entry(path: str, *, pcr: int = IMA_PCR, log_bank: Bank | LogHash = Bank.SHA1) -> ImaEntry:
    """An `ima-sig` violation: a file was open for writing while it was measured."""
    measured = _field(b"sha256:\0" + bytes(32)) + _field(path.encode("utf-8", "surrogateescape") + b"\0") + _field(b"")
    return ImaEntry(pcr, "ima-sig", bytes(log_bank.digest_size), measured)
