"""SELinux denials (AVC) that concern links, out of lines of the kernel's log or of auditd's. Pure.

The lines are text that others may have had a hand in: each is bounded, only what the kernel writes itself is taken from
it (an untrusted name in one is quoted or in hexadecimal), and one that does not look so is left out.
Sources: avc_audit_pre_callback and avc_audit_post_callback (security/selinux/avc.c).
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from shamon_host.domain.errors import BadInput
from shamon_host.domain.labels import SelinuxContext
from shamon_host.links.path_report import Part, PathReport, Stage, Verdict

MAX_LINE = 4096
MAX_DENIALS = 10_000
RECENT_S = 60.0
"""Before the report: what is older is only counted."""
_TYPES = frozenset({"shamon_link_t", "shamon_spd_t"})
_CLASSES = frozenset({"association", "peer", "packet"})
_LINE = re.compile(
    r"audit\((?P<time>[0-9]{1,12}\.[0-9]{1,6}):[0-9]{1,20}\): avc: {1,2}denied {1,2}"
    r"\{ (?P<permissions>[a-z_]{1,40}(?: [a-z_]{1,40}){0,31}) \}.* "
    r"scontext=(?P<source>[A-Za-z0-9_:.,-]{1,512}) tcontext=(?P<target>[A-Za-z0-9_:.,-]{1,512}) "
    r"tclass=(?P<tclass>[a-z0-9_]{1,40})(?: permissive=(?P<permissive>[01]))?",
    re.ASCII,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Denial:
    """One denial. `wall_s`: when, seconds since the epoch. Contexts as the log has them: ranges of levels too."""

    wall_s: float
    permissions: str
    source: str
    target: str
    tclass: str
    permissive: bool

    def concerns(self, context: str) -> bool:
        """It is about a link's or an SPD entry's context with the category of this link context."""
        try:
            wanted = SelinuxContext.parse(context)
        except BadInput:
            return False
        return any(
            _type(text) in _TYPES and _categories(text) == wanted.categories for text in (self.source, self.target)
        )

    def __str__(self) -> str:
        mode = ", which permissive mode let pass" if self.permissive else ""
        return f"{self.permissions} of {self.tclass} denied to {self.source} on {self.target}{mode}"


def denials_of(lines: Iterable[str]) -> tuple[Denial, ...]:
    """Those of the lines that are about associations, peers, packets, or the contexts of links; oldest first, and at
    most the newest MAX_DENIALS."""
    found: list[Denial] = []
    for line in lines:
        denial = _parse(line)
        if denial is not None and (denial.tclass in _CLASSES or {_type(denial.source), _type(denial.target)} & _TYPES):
            found.append(denial)
    return tuple(sorted(found, key=lambda denial: denial.wall_s)[-MAX_DENIALS:])


def with_denials(report: PathReport, lines: Iterable[str] | None, *, unread: str = "") -> PathReport:
    """The report with a stage of what SELinux denied on this host; `lines` None: the log could not be read."""
    stage = _unread(report, unread) if lines is None else _stage(report, denials_of(lines))
    return replace(report, stages=(*report.stages, stage))


def _stage(report: PathReport, denials: tuple[Denial, ...]) -> Stage:
    recent = [denial for denial in denials if denial.wall_s >= report.wall_s - RECENT_S]
    ours = [denial for denial in recent if denial.concerns(report.context)]
    if ours:
        kinds = list(dict.fromkeys(str(denial) for denial in reversed(ours)))
        return _avc(
            report, Verdict.WRONG, f"{len(ours)} about this type: " + "; ".join(kinds[:3]),
            remedy="A packet, its SA and its SPD entry had not one label: an SA by hand, or a peer that mixes types.",
        )  # fmt: skip
    others = f"; {len(recent)} about other associations or peers" if recent else ""
    older = f"; {len(denials) - len(recent)} older ones" if len(denials) > len(recent) else ""
    return _avc(report, Verdict.OK, f"none about this type in the last {RECENT_S:.0f} s{others}{older}")


def _unread(report: PathReport, reason: str) -> Stage:
    return _avc(report, Verdict.UNKNOWN, f"the log cannot be read: {reason}"[:500], remedy="Ask as root.")


def _avc(report: PathReport, verdict: Verdict, found: str, *, remedy: str = "") -> Stage:
    return Stage(
        host=report.host,
        part=Part.REFUSED,
        name="denials",
        looked_at="what SELinux denied to links (AVC), in the kernel's log and auditd's",
        verdict=verdict,
        found=found[:1000],
        expected="none",
        remedy=remedy,
    )


def _parse(line: str) -> Denial | None:
    match = _LINE.search(line) if len(line) <= MAX_LINE else None
    if match is None:
        return None
    return Denial(
        wall_s=float(match["time"]),
        permissions=match["permissions"],
        source=match["source"],
        target=match["target"],
        tclass=match["tclass"],
        permissive=match["permissive"] == "1",
    )


def _type(context: str) -> str:
    parts = context.split(":", 3)
    return parts[2] if len(parts) > 2 else ""


def _categories(context: str) -> frozenset[int] | None:
    """None for a range of levels, and for what is no context."""
    try:
        return SelinuxContext.parse(context).categories
    except BadInput:
        return None
