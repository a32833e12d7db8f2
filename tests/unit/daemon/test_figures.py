"""Durations: medians of the newest, none of what failed."""

import pytest

from shamon_host.daemon.figures import Figures


def test_summary() -> None:
    figures = Figures()
    for value in (1.0, 9.0, 2.0):
        figures.add("quote_ms", value)
    assert figures.summary() == {"quote_ms": {"median": 2.0, "last": 2.0, "count": 3}}


def test_only_the_newest_are_kept() -> None:
    figures = Figures()
    for value in range(10_000):
        figures.add("quote_ms", float(value))
    kept = figures.summary()["quote_ms"]
    assert kept["count"] < 1000
    assert kept["median"] > 9000


def test_what_raises_is_not_counted() -> None:
    figures = Figures()
    with pytest.raises(KeyError), figures.timed("quote_ms"):
        raise KeyError
    assert figures.summary() == {}
    with figures.timed("quote_ms"):
        pass
    assert figures.summary()["quote_ms"]["count"] == 1
