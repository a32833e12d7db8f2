"""How messages look on the wire, before any of them means anything: bounded, strict, and nothing left to guess.

A body is one JSON object, at the evidence step followed by a newline and the exact bytes of the Evidence. An object
has exactly the keys that its message names, once each, sorted and without blanks, so that a message has one form only;
numbers are integers; lengths are bounded before anything is decoded. Refusals cross the wire as words, so that the
operator of the other host reads what was wrong.
"""

import binascii
import json
from typing import Any, Self

from shamon_host.attestation.evidence import MAX_EVIDENCE_BYTES
from shamon_host.domain.errors import BadInput, Refused, ShamonError
from shamon_host.domain.text import printable as plain
from shamon_host.peer.errors import Busy

PROTOCOL_VERSION = 2

HELLO = "/v1/hello"
EVIDENCE = "/v1/evidence"
CONFIRM = "/v1/confirm"
HINT = "/v1/hint"
POLICY_PREPARE = "/v1/policy/prepare"
POLICY_COMMIT = "/v1/policy/commit"
POLICY_ABORT = "/v1/policy/abort"
POLICY_FETCH = "/v1/policy/fetch"
REGISTRY = "/v1/registry"
VM_PREPARE = "/v1/vm/prepare"
VM_DISK = "/v1/vm/disk"
VM_ACCEPT = "/v1/vm/accept"
VM_HAND = "/v1/vm/hand"
VM_ABORT = "/v1/vm/abort"
VM_RECEIVE = "/v1/vm/receive"
VM_JOIN = "/v1/vm/join"
VM_PATHS = frozenset({VM_PREPARE, VM_DISK, VM_RECEIVE, VM_JOIN, VM_ACCEPT, VM_HAND, VM_ABORT})
POLICY_PATHS = frozenset({POLICY_PREPARE, POLICY_COMMIT, POLICY_ABORT, POLICY_FETCH})

MAX_HEADER_BYTES = 128 * 1024
"""Longest JSON object: a hello with its offers, or a verdict with its reasons."""
MAX_REFUSAL_BYTES = 8 * 1024
MAX_POLICY_MESSAGE = 9 << 20
"""An envelope has the policy in base64, and the record of the update is beside it."""
MAX_REGISTRY_MESSAGE = 4 << 20
"""Records of about 1000 hosts; more of them take more than one message."""
MAX_WORDS = 1000
"""Longest sentence taken from or told to a peer, in characters."""

MAX_DISK_PART = 1 << 20
"""Bytes of a disk in one message."""

_LIMITS = {
    HELLO: MAX_HEADER_BYTES,
    EVIDENCE: MAX_HEADER_BYTES + 1 + MAX_EVIDENCE_BYTES,
    CONFIRM: MAX_HEADER_BYTES,
    HINT: 1024,
    POLICY_PREPARE: MAX_POLICY_MESSAGE,
    POLICY_COMMIT: MAX_POLICY_MESSAGE,
    POLICY_ABORT: 1024,
    POLICY_FETCH: MAX_POLICY_MESSAGE,
    REGISTRY: MAX_REGISTRY_MESSAGE,
    VM_PREPARE: 1024,
    VM_DISK: MAX_DISK_PART + 1024,
    VM_ACCEPT: 16 * 1024,
    VM_HAND: 16 * 1024,
    VM_ABORT: 1024,
    VM_RECEIVE: 1024,
    VM_JOIN: 1024,
}
_MAX_INTEGER_DIGITS = 20
_SEPARATOR = b"\n"


def body_limit(path: str) -> int:
    """The longest request or answer on `path`, in bytes. Raises BadInput for a path that is not served."""
    try:
        return _LIMITS[path]
    except KeyError:
        raise BadInput("nothing is served here", where=printable(path, 80), expected=", ".join(_LIMITS)) from None


def encode_object(fields: dict[str, Any]) -> bytes:
    """Canonical JSON: sorted keys, no blanks, so that equal values have equal bytes."""
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def join(header: bytes, payload: bytes) -> bytes:
    """A JSON object followed by a payload of raw bytes."""
    return header + _SEPARATOR + payload


def split(body: bytes) -> tuple[bytes, bytes]:
    """The JSON object and the payload that `join` put together. Raises BadInput."""
    end = body.find(_SEPARATOR, 0, MAX_HEADER_BYTES + 1)
    if end < 0:
        raise BadInput("malformed message", expected="a JSON object, a newline, and the Evidence")
    return body[:end], body[end + 1 :]


class Fields:
    """One JSON object that is read field by field. Every reader raises BadInput with `where` and the field's name."""

    def __init__(self, values: dict[str, Any], where: str) -> None:
        self._values = values
        self._where = where

    @classmethod
    def parse(cls, data: bytes, where: str, names: frozenset[str]) -> Self:
        """Read `data` as an object with exactly the keys `names`."""
        if len(data) > MAX_HEADER_BYTES:
            raise BadInput(
                "message is too long", where=where, expected=f"at most {MAX_HEADER_BYTES} bytes", found=str(len(data))
            )
        try:
            values = json.loads(
                data.decode("utf-8"),
                object_pairs_hook=_no_duplicates,
                parse_float=_no_float,
                parse_constant=_no_float,
                parse_int=_bounded_integer,
            )
            canonical = encode_object(values)  # may reach the limit of recursion where reading did not
        except (ValueError, RecursionError) as error:
            raise BadInput("malformed message", where=where, expected="JSON", found=type(error).__name__) from None
        fields = cls.of(values, where, names)
        if canonical != data:
            raise BadInput("malformed message", where=where, expected="canonical JSON", found="other bytes for it")
        return fields

    @classmethod
    def of(cls, values: object, where: str, names: frozenset[str]) -> Self:
        """Take an object inside a message, with exactly the keys `names`."""
        if not isinstance(values, dict):
            raise BadInput("malformed message", where=where, expected="an object", found=type(values).__name__)
        if set(values) != names:
            raise BadInput(
                "malformed message",
                where=where,
                expected="the fields " + ", ".join(sorted(names)),
                found=printable(", ".join(sorted(values)), 200),
            )
        return cls(values, where)

    def text(self, name: str, *, most: int = 256) -> str:
        """Printable text of 1 to `most` characters."""
        value = self._values[name]
        if not isinstance(value, str) or not 0 < len(value) <= most or not value.isprintable():
            raise self._bad(name, f"text of 1 to {most} printable characters")
        return value

    def number(self, name: str, *, least: int, most: int) -> int:
        """An integer from `least` to `most`."""
        value = self._values[name]
        if type(value) is not int or not least <= value <= most:
            raise self._bad(name, f"an integer from {least} to {most}")
        return value

    def flag(self, name: str) -> bool:
        value = self._values[name]
        if type(value) is not bool:
            raise self._bad(name, "true or false")
        return value

    def is_null(self, name: str) -> bool:
        return self._values[name] is None

    def octets(self, name: str, *, least: int, most: int | None = None) -> bytes:
        """`least` to `most` bytes (exactly `least` where `most` is not given) in lower-case hexadecimal."""
        most = least if most is None else most
        value = self._values[name]
        try:
            data = binascii.unhexlify(value) if isinstance(value, str) else None
        except ValueError:
            data = None
        if data is None or not least <= len(data) <= most or data.hex() != value:
            raise self._bad(name, f"{least} to {most} bytes in lower-case hexadecimal")
        return data

    def objects(self, name: str, names: frozenset[str], *, most: int) -> list["Fields"]:
        """A list of up to `most` objects with exactly the keys `names`."""
        value = self._values[name]
        if not isinstance(value, list) or len(value) > most:
            raise self._bad(name, f"a list of at most {most}")
        return [Fields.of(item, f"{self._where}.{name}", names) for item in value]

    def texts(self, name: str, *, most: int, longest: int) -> tuple[str, ...]:
        """A list of up to `most` sentences of up to `longest` characters; others than printable ones become '?'."""
        value = self._values[name]
        if not isinstance(value, list) or len(value) > most:
            raise self._bad(name, f"a list of at most {most}")
        if not all(isinstance(item, str) and len(item) <= longest for item in value):
            raise self._bad(name, f"sentences of at most {longest} characters")
        return tuple(printable(item, longest) for item in value)

    def _bad(self, name: str, expected: str) -> BadInput:
        return BadInput(
            "malformed message",
            where=f"{self._where}.{name}",
            expected=expected,
            found=type(self._values[name]).__name__,
        )


def printable(text: str, most: int = MAX_WORDS) -> str:
    """`text` on one line, of at most `most` characters, fit for a log or a terminal."""
    return plain(text[: most + 1])[:most]


def encode_refusal(error: ShamonError) -> bytes:
    """What a caller is told of `error`: its words, and whether to try again."""
    return encode_object({"busy": isinstance(error, Busy), "words": printable(str(error))})


def decode_refusal(body: bytes, peer: str) -> Refused:
    """The refusal that `encode_refusal` made at `peer`. Never raises: whatever came is a refusal."""
    try:
        fields = Fields.parse(body[:MAX_REFUSAL_BYTES], "refusal", frozenset({"busy", "words"}))
        busy, words = fields.flag("busy"), fields.text("words", most=MAX_WORDS)
    except BadInput:
        return Refused("refused, with no reason that can be read", where=peer)
    return Busy(words, where=peer) if busy else Refused(words, where=peer)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a key is there twice")
    return fields


def _no_float(text: str) -> float:
    raise ValueError("a number that is not an integer")


def _bounded_integer(text: str) -> int:
    if len(text) > _MAX_INTEGER_DIGITS:
        raise ValueError("an integer that is too long")
    return int(text)
