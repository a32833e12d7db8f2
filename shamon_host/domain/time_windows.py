"""Weekly windows of time, in UTC: when an overlay of the policy lets its VMs exchange frames.

UTC, so that all hosts of a coalition open and close at the same moment and no hour comes twice in autumn. The time is
an argument, seconds since the epoch (Unix time, which counts no leap seconds); nothing here reads a clock.
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

from shamon_host.domain.errors import BadInput

DAY_S = 86400.0
"""The answer where a state never changes: whoever asks then asks again a day later."""
_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DAY_MIN = 24 * 60
_WEEK_MIN = 7 * _DAY_MIN
_EPOCH_DAY = 3
"""1970-01-01 was a Thursday."""
_DAY = rf"(?:{'|'.join(_DAYS)})"
_WINDOW = re.compile(
    rf"(?P<days>daily|{_DAY}(?:-{_DAY})?(?:,{_DAY}(?:-{_DAY})?){{0,6}}) "
    r"(?P<start>[0-9]{2}:[0-9]{2})-(?P<end>[0-9]{2}:[0-9]{2})"
)
_EXPECTED = 'days and times such as "mon-fri 08:00-18:00", "mon,wed 00:00-24:00" or "daily 06:30-07:00"'


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeWindow:
    """Open on `days` (0..6, Monday is 0) from one minute of the day (UTC) on until another, up to 1440, begins.

    A window over midnight is two of them. Raises BadInput for what is no window. `str` gives the canonical form, which
    `parse_window` reads: days in the order of the week, two and more that follow on one another as a range.
    """

    days: frozenset[int]
    start_minute: int
    end_minute: int

    def __post_init__(self) -> None:
        if not self.days or not self.days <= set(range(7)):
            raise BadInput("bad days of a time window", expected="some of 0 to 6", found=str(sorted(self.days))[:80])
        if not 0 <= self.start_minute < self.end_minute <= _DAY_MIN:
            raise BadInput(
                "bad times of a time window",
                expected="a start before the end, both from 00:00 to 24:00",
                found=f"{_clock(self.start_minute)}-{_clock(self.end_minute)}",
                remedy="Write a window over midnight as two: one to 24:00, one from 00:00 on the days after.",
            )

    def __str__(self) -> str:
        return f"{_days_text(self.days)} {_clock(self.start_minute)}-{_clock(self.end_minute)}"


def parse_window(text: str) -> TimeWindow:
    """Read `DAYS HH:MM-HH:MM`: days are `daily`, or days and ranges of days with commas between. Raises BadInput."""
    match = _WINDOW.fullmatch(text)
    if not match:
        raise BadInput("bad time window", expected=_EXPECTED, found=repr(text[:80]))
    return TimeWindow(
        days=_days(match["days"]),
        start_minute=_minute(match["start"], text),
        end_minute=_minute(match["end"], text),
    )


def open_until(windows: Iterable[TimeWindow], wall_s: float) -> float | None:
    """Seconds, more than 0, until the last of the windows that follow on one another closes; None if all are closed.

    DAY_S where they never close. No windows are closed. Raises BadInput if `wall_s` is not finite.
    """
    now_s = _second_of_week(wall_s)
    stretches = _stretches(windows)
    if _always_open(stretches):
        return DAY_S
    for start, end in stretches:
        if start * 60 <= now_s < end * 60:
            return float(end * 60 - now_s)
    return None


def next_change_s(windows: Iterable[TimeWindow], wall_s: float) -> float:
    """Seconds, more than 0, until the windows close if one is open, else until one opens.

    DAY_S where that never happens. Raises BadInput if `wall_s` is not finite.
    """
    now_s = _second_of_week(wall_s)
    stretches = _stretches(windows)
    if _always_open(stretches):
        return DAY_S
    edges = (edge * 60 - now_s for stretch in stretches for edge in stretch if edge * 60 > now_s)
    return float(next(edges, DAY_S))


def _stretches(windows: Iterable[TimeWindow]) -> list[tuple[int, int]]:
    """When one of the windows is open, in minutes from Monday on: merged, sorted, and apart.

    Over two weeks, so that whatever is open or opens in the first of them is there with its true end.
    """
    one_week = sorted(
        (day * _DAY_MIN + window.start_minute, day * _DAY_MIN + window.end_minute)
        for window in windows
        for day in window.days
    )
    merged: list[tuple[int, int]] = []
    for start, end in one_week + [(start + _WEEK_MIN, end + _WEEK_MIN) for start, end in one_week]:
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _always_open(stretches: list[tuple[int, int]]) -> bool:
    return stretches == [(0, 2 * _WEEK_MIN)]


def _second_of_week(wall_s: float) -> Fraction:
    """Seconds since Monday, 00:00. Exact, for a time just before midnight must not become midnight."""
    if not math.isfinite(wall_s):
        raise BadInput("bad time", expected="seconds since the epoch", found=str(wall_s))
    return (Fraction(wall_s) + _EPOCH_DAY * _DAY_MIN * 60) % (_WEEK_MIN * 60)


def _days(text: str) -> frozenset[int]:
    if text == "daily":
        return frozenset(range(7))
    days: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        run = range(_DAYS.index(first), _DAYS.index(last or first) + 1)
        if len(run) < (2 if last else 1):
            raise BadInput(
                "bad days of a time window",
                expected="a range from an earlier to a later day of a week that begins on Monday",
                found=part,
                remedy="Write a range over Sunday as two: fri-mon is mon,fri-sun.",
            )
        days += run
    if len(set(days)) < len(days):
        raise BadInput("bad days of a time window", expected="each day once", found=text)
    return frozenset(days)


def _days_text(days: frozenset[int]) -> str:
    """Runs of two days and more as ranges."""
    if len(days) == 7:
        return "daily"
    runs: list[list[int]] = []
    for day in sorted(days):
        if runs and day == runs[-1][-1] + 1:
            runs[-1].append(day)
        else:
            runs.append([day])
    return ",".join("-".join(_DAYS[day] for day in dict.fromkeys((run[0], run[-1]))) for run in runs)


def _minute(text: str, window: str) -> int:
    hour, minute = int(text[:2]), int(text[3:])
    if minute > 59 or hour * 60 + minute > _DAY_MIN:
        raise BadInput("bad time window", expected="times from 00:00 to 24:00", found=repr(window))
    return hour * 60 + minute


def _clock(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"
