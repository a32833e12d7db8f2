"""Reading the kernel's `ascii_runtime_measurements`: the same entries as from the binary log, rebuilt from their text.

What was hashed is not in the text, so each field is put back as the kernel measured it; the template hash then says
whether that is right. Lost is only what the kernel does not show of a violation, whose hash is zero.

    10 2e03...300f3 ima-sig sha256:83d1...0e /usr/bin/x 030204...
    │  │            │       └ the fields of the template, each behind one blank, empty ones too
    │  │            └ template, or its list of fields
    │  └ template hash
    └ PCR, two places wide

A name may hold blanks (the kernel writes underscores for them, other writers do not) and line feeds, so the fields are
told apart from both ends, and a line that is no entry belongs to the name before it if the template hash agrees.

Source: Linux security/integrity/ima/ima_fs.c (`ima_ascii_measurements_show`), ima_template_lib.c
(`ima_show_template_data_ascii`, and the `ima_event*_init` functions for what is measured).
"""

import re
from binascii import Error as HexError
from binascii import unhexlify
from collections.abc import Iterator

from shamon_host.attestation.ima_entry import (
    IMA_NAME_BYTES,
    IMA_TEMPLATE,
    SHA1_BYTES,
    ImaEntry,
    ImaLogError,
    printable,
    template_fields,
)
from shamon_host.attestation.ima_reader import (
    MAX_TEMPLATE_DATA_BYTES,
    ImaLogTruncatedError,
    LogHash,
    likeliest_hash,
    template_hasher,
)
from shamon_host.attestation.pcr import PCR_COUNT, Bank

_HEAD = re.compile(rb" ?([0-9]{1,2}) ((?:[0-9a-f]{2}){16,64}) ([!-~]{1,255})(?: |\Z)", re.ASCII)
_DIGESTS = frozenset({"d-ng", "d-ngv2", "d-modsig"})
_NAMES = frozenset({"n", "n-ng"})
_NUMBER_BYTES = {"iuid": 4, "igid": 4, "imode": 2}
"""uid_t, gid_t and umode_t."""


def is_ascii_log(log: bytes) -> bool:
    """Whether bytes begin as an ASCII log does; the binary one begins with a PCR in four bytes, three of them zero."""
    return _HEAD.match(log[:512]) is not None


def detect_ascii_log_bank(log: bytes) -> Bank | LogHash:
    """The hash of an ASCII log's template digests. Raises `ImaLogError` where it is no such log."""
    first = _HEAD.match(log)
    if first is None:
        raise ImaLogError("this is no IMA log in ASCII", found=printable(log[:40].decode("latin-1")))
    size = len(first[2]) // 2
    return likeliest_hash(size, lambda bank, wrong: iter_ascii_ima_log(log, log_bank=bank, wrong_hashes=wrong))


def iter_ascii_ima_log(
    log: bytes, *, log_bank: Bank | LogHash = Bank.SHA1, wrong_hashes: list[int] | None = None
) -> Iterator[ImaEntry]:
    """The entries one after the other; `wrong_hashes` as for `iter_ima_log`.

    Raises `ImaLogTruncatedError` where the last line is incomplete, `ImaLogError` where it is no log. `end_offset` of
    the entries counts the bytes of the text.
    """
    position, number = 0, 0
    while position < len(log):
        start = position
        number += 1
        line, position, complete = _line(log, start)
        if not line and not log[start:].strip(b"\n"):
            return
        where = f"IMA log, entry {number}, byte {start}"
        found = _try_entry(line, position, log_bank, where)
        right = _is_right(found, log_bank)
        if not right or (isinstance(found, ImaEntry) and found.violation):
            if not complete:
                raise ImaLogTruncatedError("the last entry is truncated", offset=start)
            longer = _with_its_lines(line, log, position, log_bank, where)
            if isinstance(longer, ImaEntry) and _is_right(longer, log_bank):
                found, right, position = longer, True, longer.end_offset
        if isinstance(found, ImaLogError):
            raise found
        if not right:
            if wrong_hashes is None:
                what = "the template hash is not that of the entry"
                raise ImaLogError(what, where=where, found=found.template_hash.hex())
            wrong_hashes.append(number)
        yield found


def _is_right(found: ImaEntry | ImaLogError, log_bank: Bank | LogHash) -> bool:
    if isinstance(found, ImaLogError):
        return False
    return found.violation or template_hasher(log_bank)(found.measured).digest() == found.template_hash


def _line(log: bytes, start: int) -> tuple[bytes, int, bool]:
    """A line without its end, where the next one starts, and whether it had an end."""
    end = log.find(b"\n", start)
    return (log[start:], len(log), False) if end < 0 else (log[start:end], end + 1, True)


def _with_its_lines(
    line: bytes, log: bytes, position: int, log_bank: Bank | LogHash, where: str
) -> ImaEntry | ImaLogError | None:
    """The entry of `line` and of those lines behind it that are no entries, hence of a name with line feeds."""
    lines = [line]
    while position < len(log):
        following, behind, complete = _line(log, position)
        if not complete or _HEAD.match(following):
            break
        lines.append(following)
        position = behind
    found = _try_entry(b"\n".join(lines), position, log_bank, where)
    # No hash tells whether empty lines behind a violation are its name's, so they are not.
    return None if isinstance(found, ImaEntry) and found.violation and not any(lines[1:]) else found


def _try_entry(line: bytes, end_offset: int, log_bank: Bank | LogHash, where: str) -> ImaEntry | ImaLogError:
    try:
        return _entry(line, end_offset, log_bank, where)
    except ImaLogError as error:
        error.where = where
        return error


def _entry(line: bytes, end_offset: int, log_bank: Bank | LogHash, where: str) -> ImaEntry:
    head = _HEAD.match(line)
    if head is None:
        raise ImaLogError("no entry of an IMA log", where=where, found=printable(line[:40].decode("latin-1")))
    pcr, template_hash = int(head[1]), unhexlify(head[2])
    if pcr >= PCR_COUNT:
        raise ImaLogError("no such PCR", where=where, found=str(pcr))
    if len(template_hash) != log_bank.digest_size:
        expected = f"{log_bank.digest_size} bytes"
        raise ImaLogError(
            "a template hash has the wrong length", where=where, expected=expected, found=line[:80].decode("latin-1")
        )
    template = head[3].decode("ascii")
    ids = template_fields(template)
    fields = [
        _measured(field, text, where) for field, text in zip(ids, _split(line[head.end() :], ids, where), strict=True)
    ]
    if template == IMA_TEMPLATE:
        digest, name = fields[0], fields[1][:-1]
        if len(digest) != SHA1_BYTES or len(name) >= IMA_NAME_BYTES:
            raise ImaLogError("an ima entry is malformed", where=where)
        measured = digest + name.ljust(IMA_NAME_BYTES, b"\0")
    else:
        measured = b"".join(len(field).to_bytes(4, "little") + field for field in fields)
    if len(measured) > MAX_TEMPLATE_DATA_BYTES:
        raise ImaLogError("template data is too long", where=where, found=str(len(measured)))
    return ImaEntry(pcr, template, template_hash, measured, end_offset)


def _split(text: bytes, ids: tuple[str, ...], where: str) -> list[bytes]:
    """The text of each field. What is too much of blanks is in the name; what is missing at the end was empty."""
    parts = text.split(b" ")
    surplus = len(parts) - len(ids)
    if surplus > 0:
        names = [index for index, field in enumerate(ids) if field in _NAMES]
        if len(names) != 1:
            raise ImaLogError("an entry has more fields than its template", where=where, expected=f"{len(ids)}")
        first = names[0]
        parts[first : first + surplus + 1] = [b" ".join(parts[first : first + surplus + 1])]
    return parts + [b""] * -surplus


def _measured(field: str, text: bytes, where: str) -> bytes:
    """A field's bytes as the kernel hashed them, from what it shows of them."""
    if field in _NAMES or field == "xattrnames":
        if b"\0" in text:
            raise ImaLogError("a name holds a NUL byte", where=where)
        return text + b"\0" if text or field in _NAMES else b""
    if not text:
        return b""
    try:
        if field in _NUMBER_BYTES:
            if not text.isdigit() or len(text) > 10:
                raise ValueError
            return int(text).to_bytes(_NUMBER_BYTES[field], "little")
        if field in _DIGESTS:
            name, _, digest = text.rpartition(b":")
            return name + b":\0" + unhexlify(digest)
        return unhexlify(text)
    except (HexError, ValueError, OverflowError):
        shown = printable(text[:40].decode("latin-1"))
        raise ImaLogError(f"the field {field} is malformed", where=where, found=shown) from None
