"""What goes over the wire between a host and its MAC VM: frames of a length and JSON.

The host asks, the MAC VM answers; on a second connection the MAC VM tells what its kernel tells. `CALLS` has what may
be asked, with the types of what goes along and comes back.
"""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shamon_host.domain.errors import BackendFailed, BadInput
from shamon_host.domain.text import printable
from shamon_host.link_agent.setup import MacVmSetup
from shamon_host.link_agent.values import from_json
from shamon_host.links.model import KernelState, Operation
from shamon_host.links.ports import KernelEvent, Traffic

HEADER = struct.Struct("!I")
MAX_FRAME_BYTES = 64 << 20
"""The state of a kernel with 16,384 links has some 30 MiB."""
MAX_EVENT_BYTES = 4 << 10
"""They are read where everything else of the host's daemon goes on."""
MAX_WORDS = 1000
"""Characters of each part of an error."""
_SHORT, _LONG = 64 << 10, 8 << 20
"""An error of five parts has room in the one; counts of 16,384 links, or the denials that are told, in the other."""

EVENTS = "events"
"""Asked as a connection's first: from then on it carries what the kernel tells, and nothing is asked on it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What is asked by one name: type of the argument (None: there is none) and of the answer."""

    takes: Any
    gives: Any
    most: int = _SHORT
    """Bytes of the answer."""


CALLS: Mapping[str, Call] = {
    "set up": Call(takes=MacVmSetup, gives=str),
    "read": Call(takes=None, gives=KernelState, most=MAX_FRAME_BYTES),
    "apply": Call(takes=tuple[Operation, ...], gives=None),
    "attempt": Call(takes=tuple[Operation, ...], gives=tuple[tuple[str, ...], ...], most=MAX_FRAME_BYTES),
    "allocate SPI": Call(takes=tuple[str, str], gives=int),
    "counters": Call(takes=None, gives=Mapping[str, int], most=_LONG),
    "traffic": Call(takes=None, gives=Mapping[str, Traffic], most=_LONG),
    "denials": Call(takes=None, gives=tuple[str, ...], most=_LONG),
    EVENTS: Call(takes=None, gives=KernelEvent, most=MAX_EVENT_BYTES),
}


def frame(document: Any, most: int = MAX_FRAME_BYTES) -> bytes:
    """Raises BadInput for a body of more than `most` bytes, and for a number that is not finite."""
    try:
        body = json.dumps(document, separators=(",", ":"), allow_nan=False).encode()
    except ValueError as error:
        raise BadInput("no frame for a number that is not finite", found=str(error)) from None
    if len(body) > most:
        raise BadInput("too much for one frame", expected=f"at most {most} bytes", found=str(len(body)))
    return HEADER.pack(len(body)) + body


def frame_length(header: bytes, most: int = MAX_FRAME_BYTES) -> int:
    """Of the body that follows. Raises BadInput."""
    (length,) = HEADER.unpack(header)
    if length > most:
        raise BadInput("a frame is too long", expected=f"at most {most} bytes", found=str(length))
    return int(length)


def document_in(body: bytes) -> dict[str, Any]:
    """Raises BadInput."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise BadInput("a malformed frame between host and MAC VM", expected="a JSON object")
    return document


def answer_in(body: bytes, gives: Any) -> Any:
    """What the MAC VM answered, a value of the type `gives` (None: there is none). Raises BackendFailed: what it says
    that failed; and BadInput, and nothing else, whatever it sent."""
    document = document_in(body)
    if "failed" in document:
        raise failure_in(document["failed"])
    return from_json(gives, document.get("answer")) if gives is not None else None


def failure_words(error: BackendFailed) -> tuple[str, ...]:
    """An error as it crosses the wire."""
    return tuple(part[:MAX_WORDS] for part in (error.what, error.where, error.expected, error.found, error.remedy))


def failure_in(words: object) -> BackendFailed:
    """Raises BadInput."""
    if (
        not isinstance(words, list | tuple)
        or len(words) != 5
        or not all(isinstance(part, str) and len(part) <= MAX_WORDS for part in words)
    ):
        raise BadInput("a malformed error from the MAC VM", expected="five strings")
    what, where, expected, found, remedy = (printable(part) for part in words)
    return BackendFailed(what, where=where, expected=expected, found=found, remedy=remedy)
