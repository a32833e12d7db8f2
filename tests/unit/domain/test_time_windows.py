"""Windows of time: what may be written, its canonical form, and when it opens and closes, against a slow oracle."""

import datetime
import math
from collections.abc import Sequence
from contextlib import suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shamon_host.domain.errors import BadInput
from shamon_host.domain.time_windows import DAY_S, TimeWindow, next_change_s, open_until, parse_window

WEEK_MIN = 7 * 24 * 60
MONDAY_S = datetime.datetime(2026, 6, 1, tzinfo=datetime.UTC).timestamp()
OFFICE = parse_window("mon-fri 08:00-18:00")


def at(day: str, clock: str) -> float:
    """Unix time of a moment in the week of `MONDAY_S`, computed from the calendar."""
    date = 1 + ["mon", "tue", "wed", "thu", "fri", "sat", "sun"].index(day)
    time = datetime.time.fromisoformat(clock)
    return datetime.datetime.combine(datetime.date(2026, 6, date), time, datetime.UTC).timestamp()


DAYS = st.frozensets(st.integers(0, 6), min_size=1)
# Many edges that meet, and some that do not.
MINUTES = st.one_of(st.sampled_from([0, 1, 480, 719, 720, 1080, 1439, 1440]), st.integers(0, 1440))
WINDOWS = st.builds(
    lambda days, edges: TimeWindow(days=days, start_minute=min(edges), end_minute=max(edges)),
    DAYS,
    st.lists(MINUTES, min_size=2, max_size=2, unique=True),
)
SEVERAL = st.lists(WINDOWS, max_size=6)
WHOLE_DAYS = st.lists(
    st.builds(
        lambda days, edges: TimeWindow(days=days, start_minute=edges[0], end_minute=edges[1]),
        st.frozensets(st.integers(0, 6), min_size=4),
        st.sampled_from([(0, 1440), (0, 720), (720, 1440)]),
    ),
    min_size=1,
    max_size=5,
)


# What may be written


@pytest.mark.parametrize(
    ("text", "days", "start", "end", "canonical"),
    [
        ("mon 00:00-24:00", {0}, 0, 1440, None),
        ("mon,wed 08:05-09:00", {0, 2}, 485, 540, None),
        ("mon-fri 08:00-18:00", {0, 1, 2, 3, 4}, 480, 1080, None),
        ("sat-sun 23:59-24:00", {5, 6}, 1439, 1440, None),
        ("daily 00:00-00:01", set(range(7)), 0, 1, None),
        ("mon-sun 00:00-00:01", set(range(7)), 0, 1, "daily 00:00-00:01"),
        ("mon,tue 00:00-00:01", {0, 1}, 0, 1, "mon-tue 00:00-00:01"),
        ("sun,mon 00:00-00:01", {0, 6}, 0, 1, "mon,sun 00:00-00:01"),
        ("fri,mon-wed 00:00-00:01", {0, 1, 2, 4}, 0, 1, "mon-wed,fri 00:00-00:01"),
        ("sun,sat,fri,thu,wed,tue,mon 00:00-00:01", set(range(7)), 0, 1, "daily 00:00-00:01"),
    ],
)
def test_forms(text: str, days: set[int], start: int, end: int, canonical: str | None) -> None:
    window = parse_window(text)
    assert window == TimeWindow(days=frozenset(days), start_minute=start, end_minute=end)
    assert str(window) == (canonical or text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "mon-fri 08:00-18:00"),
        ("mon", "mon-fri 08:00-18:00"),
        ("08:00-18:00", "mon-fri 08:00-18:00"),
        ("mon 8:00-18:00", "mon-fri 08:00-18:00"),
        ("mon  08:00-18:00", "mon-fri 08:00-18:00"),
        ("mon 08:00-18:00\n", "mon-fri 08:00-18:00"),
        ("Mon 08:00-18:00", "mon-fri 08:00-18:00"),
        ("mon, wed 08:00-18:00", "mon-fri 08:00-18:00"),
        ("mon,daily 08:00-18:00", "mon-fri 08:00-18:00"),
        ("mon-wed-fri 08:00-18:00", "mon-fri 08:00-18:00"),
        ("mon 08:00-18:00, 19:00-20:00", "mon-fri 08:00-18:00"),
        ("mon 0８:00-18:00", "mon-fri 08:00-18:00"),  # a digit, but not ours
        ("mon 08:60-18:00", "00:00 to 24:00"),
        ("mon 08:00-24:01", "00:00 to 24:00"),
        ("mon 08:00-99:99", "00:00 to 24:00"),
        ("mon 18:00-08:00", "as two"),
        ("mon 08:00-08:00", "a start before the end"),
        ("mon 24:00-24:00", "a start before the end"),
        ("fri-mon 08:00-18:00", "mon,fri-sun"),
        ("mon-mon 08:00-18:00", "from an earlier to a later day"),
        ("mon,mon 08:00-18:00", "each day once"),
        ("mon-wed,tue 08:00-18:00", "each day once"),
    ],
)
def test_what_is_refused(text: str, says: str) -> None:
    with pytest.raises(BadInput, match=says) as caught:
        parse_window(text)
    assert caught.value.expected
    assert caught.value.found


@pytest.mark.parametrize(
    ("days", "start", "end"), [(set(), 0, 1), ({7}, 0, 1), ({-1}, 0, 1), ({0}, -1, 1), ({0}, 1, 1), ({0}, 0, 1441)]
)
def test_a_window_cannot_be_made_of_anything_else(days: set[int], start: int, end: int) -> None:
    with pytest.raises(BadInput):
        TimeWindow(days=frozenset(days), start_minute=start, end_minute=end)


@given(WINDOWS)
def test_the_canonical_form_is_read_back(window: TimeWindow) -> None:
    assert parse_window(str(window)) == window


@given(st.one_of(st.text(), st.text("monwedfrisatudaily,-:0123456789 ", max_size=40)))
def test_any_text_is_a_window_or_refused(text: str) -> None:
    window = None
    with suppress(BadInput):
        window = parse_window(text)
    assert window is None or parse_window(str(window)) == window


# When they open and close


def test_office_hours() -> None:
    assert open_until([OFFICE], at("mon", "08:00")) == 10 * 3600
    assert open_until([OFFICE], at("fri", "17:59:59")) == 1
    assert open_until([OFFICE], at("fri", "18:00")) is None
    assert open_until([OFFICE], at("sat", "12:00")) is None
    assert next_change_s([OFFICE], at("wed", "09:00")) == 9 * 3600
    assert next_change_s([OFFICE], at("fri", "18:00")) == (6 + 48 + 8) * 3600
    assert next_change_s([OFFICE], at("mon", "07:59:59.75")) == 0.25


def test_windows_that_meet_are_one() -> None:
    night = [parse_window("fri 22:00-24:00"), parse_window("sat 00:00-06:00"), parse_window("sat 05:00-07:00")]
    assert open_until(night, at("fri", "22:00")) == 9 * 3600
    weekend = [parse_window("sat-sun 00:00-24:00"), parse_window("mon 00:00-08:00")]
    assert open_until(weekend, at("sat", "00:00")) == 56 * 3600
    assert open_until(weekend, at("sun", "23:59")) == 8 * 3600 + 60
    assert open_until(weekend, at("mon", "07:00")) == 3600
    assert next_change_s(weekend, at("mon", "08:00")) == (16 + 4 * 24) * 3600


def test_what_never_changes_is_asked_again_after_a_day() -> None:
    always = [parse_window("daily 00:00-12:00"), parse_window("daily 12:00-24:00")]
    for now_s in (0.0, MONDAY_S, at("sun", "23:59:59")):
        assert open_until(always, now_s) == DAY_S == 86400
        assert next_change_s(always, now_s) == DAY_S
        assert open_until([], now_s) is None
        assert next_change_s([], now_s) == DAY_S


def test_open_for_all_of_the_week_but_a_minute() -> None:
    nearly = [parse_window("mon-sat 00:00-24:00"), parse_window("sun 00:00-23:59")]
    assert open_until(nearly, MONDAY_S) == (WEEK_MIN - 1) * 60
    assert next_change_s(nearly, at("sun", "23:59")) == 60


@given(st.one_of(SEVERAL, WHOLE_DAYS), st.integers(0, 2 * WEEK_MIN), st.integers(0, 59_999))
@example([parse_window("daily 00:00-24:00")], 0, 0)
@example([parse_window("sun 12:00-24:00"), parse_window("mon 00:00-12:00")], 6 * 1440 + 720, 0)
def test_as_the_oracle_has_it(windows: Sequence[TimeWindow], minute: int, millisecond: int) -> None:
    """The oracle knows for each minute of the week whether it is open, and walks from one to the next."""
    is_open = [False] * WEEK_MIN
    for window in windows:
        for day in window.days:
            for each in range(window.start_minute, window.end_minute):
                is_open[day * 1440 + each] = True
    now = is_open[minute % WEEK_MIN]
    steps = next((step for step in range(WEEK_MIN) if is_open[(minute + step) % WEEK_MIN] != now), None)
    expected = DAY_S if steps is None else steps * 60 - millisecond / 1000
    wall_s = MONDAY_S + minute * 60 + millisecond / 1000

    change_s, until_s = next_change_s(windows, wall_s), open_until(windows, wall_s)

    assert change_s == pytest.approx(expected, abs=1e-6)
    assert change_s > 0
    if now:
        assert until_s == change_s
    else:
        assert until_s is None


@given(SEVERAL, st.floats(allow_nan=False, allow_infinity=False))
@example([OFFICE], -1e-20)
@example([parse_window("sun 00:00-24:00")], math.nextafter(MONDAY_S, 0))
@example([parse_window("wed 00:00-24:00")], -5e-324)
@example([parse_window("thu 00:00-24:00")], 1e300)
def test_any_time_is_before_a_change(windows: Sequence[TimeWindow], wall_s: float) -> None:
    until_s = open_until(windows, wall_s)
    assert 0 < next_change_s(windows, wall_s) <= WEEK_MIN * 60
    assert until_s is None or 0 < until_s <= WEEK_MIN * 60


def test_the_last_moment_before_an_edge_is_before_it() -> None:
    sunday = [parse_window("sun 00:00-24:00")]
    last_s = math.nextafter(MONDAY_S, 0)
    assert open_until(sunday, last_s) == MONDAY_S - last_s
    assert open_until(sunday, MONDAY_S) is None
    assert open_until([parse_window("wed 00:00-24:00")], -5e-324) == 5e-324


@pytest.mark.parametrize("wall_s", [math.nan, math.inf, -math.inf])
def test_what_is_no_time_is_refused(wall_s: float) -> None:
    with pytest.raises(BadInput, match="bad time"):
        open_until([OFFICE], wall_s)
    with pytest.raises(BadInput, match="bad time"):
        next_change_s([OFFICE], wall_s)
