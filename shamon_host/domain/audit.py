"""The hash chain of the audit log, as values. `daemon.audit_log` keeps the records in a database.

Each record's digest covers the digest before it, so the newest digest (the head) stands for the whole log. The head is
in every leaf that this host quotes over: peers hold what it was at each attestation, and a log that was cut or
rewritten no longer leads to those heads.
"""

import hashlib
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from shamon_host.domain.canonical import canonical_json
from shamon_host.domain.errors import BadInput, NotTrusted

ZERO_HEAD = bytes(32)
"""Head of a log without records, and what the first record follows."""
MAX_TEXT = 4096
"""Longer strings in a detail are cut: a peer's words must not be able to keep a record out of the log."""
MAX_ITEMS = 1024
MAX_DEPTH = 8
MAX_DETAIL = 64 * 1024
"""Characters of a detail, about: what is beyond is left out."""
_ITEM_COST = 8
MAX_SUBJECT = 256
_KIND = re.compile(r"[a-z][a-z0-9]*(?:[.-][a-z0-9]+){0,7}")
_SECRET = re.compile(r"passw(?:or)?d|passphrase|secret|private|(?:^|_)key$|token|credential|seed$")
"""Keys of a detail that name what never belongs into a log (invariant 8)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRecord:
    """One record. `sequence` counts from 1 without gaps; `previous` and `digest` are 32 bytes (SHA-256)."""

    sequence: int
    wall_s: float
    """Seconds since the epoch, for people: may be stepped."""
    boottime_s: float
    kind: str
    """A check (`vm.start`) or an event (`peer.suspend`)."""
    subject: str
    detail: Mapping[str, Any]
    """JSON: strings, numbers, booleans, None, lists, objects."""
    previous: bytes
    digest: bytes


def append(
    head: AuditRecord | None, *, kind: str, subject: str, detail: Mapping[str, Any], wall_s: float, boottime_s: float
) -> AuditRecord:
    """The record that follows `head` (None: the first). Raises BadInput on what may not be in a log, such as a secret.

    Over-long text from outside is cut, never refused: a record that is too large is still a record.
    """
    if not _KIND.fullmatch(kind):
        raise BadInput(
            "bad kind of audit record", expected="lower case words joined by '.' or '-'", found=repr(kind[:80])
        )
    if not (math.isfinite(wall_s) and math.isfinite(boottime_s)):
        raise BadInput("bad time of an audit record", found=f"{wall_s}, {boottime_s}")
    cleaned = _Cleaner().clean(detail, "detail")
    fields: dict[str, Any] = {
        "sequence": head.sequence + 1 if head else 1,
        "wall_s": float(wall_s),
        "boottime_s": float(boottime_s),
        "kind": str(kind),
        "subject": _text(subject, MAX_SUBJECT),
        "detail": cleaned,
    }
    previous = head.digest if head else ZERO_HEAD
    return AuditRecord(**fields, previous=previous, digest=_digest(fields, previous))


def verify_chain(records: Iterable[AuditRecord], *, after: AuditRecord | None = None) -> AuditRecord | None:
    """Check that `records` follow each other, and `after` (None: that they are the log from its start).

    Returns the last record, or `after` where there is none. Raises NotTrusted with the first sequence that is broken.
    """
    last = after
    for record in records:
        sequence, previous = (last.sequence + 1, last.digest) if last else (1, ZERO_HEAD)
        if record.sequence != sequence:
            raise _broken(sequence, "a record is missing", expected=str(sequence), found=str(record.sequence))
        if record.previous != previous:
            raise _broken(
                sequence,
                "it does not follow the record before it",
                expected=previous.hex(),
                found=record.previous.hex(),
            )
        digest = _digest(
            {
                "sequence": record.sequence,
                "wall_s": record.wall_s,
                "boottime_s": record.boottime_s,
                "kind": record.kind,
                "subject": record.subject,
                "detail": record.detail,
            },
            record.previous,
        )
        if record.digest != digest:
            raise _broken(sequence, "it was changed", expected=digest.hex(), found=record.digest.hex())
        last = record
    return last


def _digest(fields: Mapping[str, Any], previous: bytes) -> bytes:
    return hashlib.sha256(previous + canonical_json({**fields, "detail": dict(fields["detail"])})).digest()


def _broken(sequence: int, what: str, *, expected: str, found: str) -> NotTrusted:
    return NotTrusted(
        f"the audit log is broken at record {sequence}: {what}",
        expected=expected,
        found=found,
        remedy="Keep the log as evidence, compare its heads with those that the peers have seen, and only then start "
        "with a new one.",
    )


class _Cleaner:
    """Makes JSON's own types of a detail, bounded in depth, in items and in all. Raises BadInput for anything else."""

    def __init__(self) -> None:
        self._left = MAX_DETAIL

    def clean(self, value: Any, path: str, depth: int = MAX_DEPTH) -> Any:
        self._left -= _ITEM_COST
        match value:
            case None | bool():
                return value
            case int():
                return value if abs(value) < 1 << 63 else "(a large integer)"
            case float():
                return value if math.isfinite(value) else str(value)
            case str():
                text = _text(value, max(1, min(MAX_TEXT, self._left)))
                self._left -= len(text)
                return text
            case Mapping() | list() | tuple() if depth == 0:
                return "(too deep)"
            case Mapping():
                return {
                    self._key(key, path): self.clean(item, f"{path}.{key}", depth - 1)
                    for key, item in self._first(value.items())
                }
            case list() | tuple():
                return [self.clean(item, path, depth - 1) for item in self._first(value)]
            case _:
                raise BadInput("only JSON may be in the audit log", where=path, found=type(value).__name__)

    def _first(self, items: Iterable[Any]) -> Iterator[Any]:
        for item in islice(items, MAX_ITEMS):
            if self._left <= 0:
                return
            yield item

    def _key(self, key: object, path: str) -> str:
        if not isinstance(key, str) or _SECRET.search(key.lower()):
            raise BadInput(
                "this may not be in the audit log",
                where=path,
                expected="the name of nothing secret",
                found=repr(key)[:80],
            )
        self._left -= len(key)
        return _text(key, MAX_SUBJECT)


def _text(text: str, limit: int) -> str:
    """Text that a database can hold (no lone surrogates, no NUL), cut to `limit` characters."""
    clean = str(text[: limit + 1]).encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")
    return clean if len(clean) <= limit else clean[: limit - 1] + "…"
