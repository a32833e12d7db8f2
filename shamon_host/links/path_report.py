"""What was found on the way of a type's frames between two hosts: stages in the order that a frame takes, as values.

A report is one host's; `joined_path` makes one of two. It travels as JSON (`to_document`), from the daemon to the
command line and, as a file, from one host to the other: what is read is not trusted, and only shown.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Self

from shamon_host.domain.errors import BadInput
from shamon_host.domain.labels import HostName, TypeName, VmName, plain_name, type_name

MAX_REPORT_BYTES = 1 << 20
MAX_STAGES, MAX_TEXT = 500, 2000
_VERSION = 1
_MAX_SPIS, _MAX_COUNTERS = 1024, 256
_MAX_COUNT = 1 << 64


class Verdict(StrEnum):
    OK = "ok"
    WRONG = "wrong"
    UNKNOWN = "unknown"
    """It could not be looked at, or there is nothing to look at. Never taken for ok."""


class Part(StrEnum):
    """Where a stage stands, in order."""

    READY = "ready"
    """What a link needs of this host alone."""
    TERMS = "terms"
    """What there is between the two hosts: whether they carry the type."""
    OUT = "out"
    """From the VM to the wire."""
    WIRE = "wire"
    """What both ends must agree on; only where both are known."""
    IN = "in"
    """From the wire to the VM."""
    REFUSED = "refused"
    """What the kernel refused meanwhile, of any link."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One stage, as `host` sees it. `found` is a sentence for people, `remedy` what to do."""

    host: HostName
    part: Part
    name: str
    looked_at: str
    verdict: Verdict
    found: str
    expected: str = ""
    remedy: str = ""
    moved: Mapping[str, int] = field(default_factory=dict)
    """By how much its counters rose while the host was looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkEnds:
    """What must fit what the other side has: ports and SPIs, of a link that was agreed on."""

    local_port: int
    peer_port: int
    in_spis: frozenset[int]
    out_spis: frozenset[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class PathReport:
    """`vm`: the VM that was asked about, None for all of the type. `wall_s`: when, by the host's wall clock;
    `interval_s`: how long its counters were watched."""

    host: HostName
    peer: HostName
    type: TypeName
    context: str
    """Of the type's links on this host; "" where the type has no category."""
    vm: VmName | None
    wall_s: float
    interval_s: float
    ends: LinkEnds | None
    stages: tuple[Stage, ...]

    @property
    def first_wrong(self) -> Stage | None:
        return next((stage for stage in self.stages if stage.verdict is Verdict.WRONG), None)

    @property
    def unknown(self) -> tuple[Stage, ...]:
        return tuple(stage for stage in self.stages if stage.verdict is Verdict.UNKNOWN)

    @property
    def verdict(self) -> Verdict:
        """OK only if every stage is."""
        if self.first_wrong is not None:
            return Verdict.WRONG
        return Verdict.UNKNOWN if self.unknown or not self.stages else Verdict.OK

    def to_document(self) -> dict[str, Any]:
        """As a JSON object; `verdict` and `first_wrong` (the index of a stage, or null) follow from the stages."""
        first = self.first_wrong
        return {
            "version": _VERSION,
            "host": self.host,
            "peer": self.peer,
            "type": self.type,
            "context": self.context,
            "vm": self.vm,
            "wall_s": self.wall_s,
            "interval_s": self.interval_s,
            "verdict": self.verdict.value,
            "first_wrong": None if first is None else self.stages.index(first),
            "link": None if self.ends is None else _ends_document(self.ends),
            "stages": [asdict(stage) for stage in self.stages],
        }

    @classmethod
    def from_document(cls, document: Any, *, source: str) -> Self:
        """What `to_document` gave. Raises BadInput, naming `source`, for anything else."""
        try:
            if document["version"] != _VERSION:
                raise BadInput("the report is of another version", where=source, expected=str(_VERSION))
            stages = document["stages"]
            if not isinstance(stages, list) or len(stages) > MAX_STAGES:
                raise ValueError("stages")
            return cls(
                host=HostName(plain_name(_text(document, "host"))),
                peer=HostName(plain_name(_text(document, "peer"))),
                type=type_name(_text(document, "type")),
                context=_text(document, "context"),
                vm=None if document["vm"] is None else VmName(plain_name(_text(document, "vm"))),
                wall_s=_seconds(document["wall_s"]),
                interval_s=_seconds(document["interval_s"]),
                ends=None if document["link"] is None else _ends(document["link"]),
                stages=tuple(_stage(item) for item in stages),
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise _no_report(source, f"{type(error).__name__}: {error}") from None
        except BadInput as error:
            raise error if error.where == source else _no_report(source, str(error)) from None


def parse_report(data: bytes, *, source: str) -> PathReport:
    """A report as JSON text, of at most MAX_REPORT_BYTES. Raises BadInput, naming `source`."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _no_report(source, f"no JSON: {error}") from None
    return PathReport.from_document(document, source=source)


def _no_report(source: str, found: str) -> BadInput:
    return BadInput(
        "this is no report of `shamon link doctor`",
        where=source,
        expected="what it prints with --json",
        found=found[:200],
    )


def _ends_document(ends: LinkEnds) -> dict[str, Any]:
    return {**asdict(ends), "in_spis": sorted(ends.in_spis), "out_spis": sorted(ends.out_spis)}


def _ends(item: Any) -> LinkEnds:
    spis = [_numbers(item[key]) for key in ("in_spis", "out_spis")]
    return LinkEnds(
        local_port=_number(item["local_port"], 1 << 16),
        peer_port=_number(item["peer_port"], 1 << 16),
        in_spis=spis[0],
        out_spis=spis[1],
    )


def _stage(item: Any) -> Stage:
    moved = item["moved"]
    if not isinstance(moved, dict) or len(moved) > _MAX_COUNTERS:
        raise ValueError("counters")
    return Stage(
        host=HostName(plain_name(_text(item, "host"))),
        part=Part(_text(item, "part")),
        verdict=Verdict(_text(item, "verdict")),
        moved={_checked(name): _number(count, _MAX_COUNT) for name, count in moved.items()},
        **{key: _text(item, key) for key in ("name", "looked_at", "found", "expected", "remedy")},
    )


def _text(item: Any, key: str) -> str:
    return _checked(item[key])


def _checked(value: Any) -> str:
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        raise ValueError("text")
    return value


def _number(value: Any, limit: int) -> int:
    if type(value) is not int or not 0 <= value < limit:
        raise ValueError("number")
    return value


def _numbers(values: Any) -> frozenset[int]:
    if not isinstance(values, list) or len(values) > _MAX_SPIS:
        raise ValueError("SPIs")
    return frozenset(_number(value, 1 << 32) for value in values)


def _seconds(value: Any) -> float:
    if type(value) not in (int, float) or not 0 <= value < 1e12:
        raise ValueError("seconds")
    return float(value)
