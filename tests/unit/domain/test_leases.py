"""Arithmetic of leases, with what a hostile peer may grant."""

import pytest

from shamon_host.domain import leases
from shamon_host.domain.errors import BadInput, Refused


@pytest.mark.parametrize("theirs", [float("nan"), float("inf"), float("-inf"), -1.0, 0.0, 0.5, 1e9])
def test_what_is_no_lease_is_refused(theirs: float) -> None:
    with pytest.raises(BadInput, match="bad lease"):
        leases.lease_end_s(100.0, theirs)


def test_the_gate_closes_a_margin_before_the_lease() -> None:
    assert leases.gate_seconds(100.0, 90.0, 2.0, 110.0) == pytest.approx(78.0)


@pytest.mark.parametrize("now_s", [187.96, 188.0, 190.0, 1e9])
def test_a_gate_of_nothing_is_not_opened_for_ever(now_s: float) -> None:
    with pytest.raises(Refused, match="nothing is left"):
        leases.gate_seconds(100.0, 90.0, 2.0, now_s)


def test_a_start_in_the_future_does_not_lengthen_the_lease() -> None:
    assert leases.gate_seconds(1000.0, 90.0, 2.0, 100.0) == pytest.approx(88.0)
    assert leases.sa_lifetime_s(1000.0, 90.0, 100.0) == 90


def test_a_negative_margin_does_not_lengthen_the_gate() -> None:
    assert leases.gate_seconds(100.0, 90.0, -50.0, 100.0) == pytest.approx(90.0)


def test_the_backstop_is_in_whole_seconds_and_never_without_end() -> None:
    assert leases.sa_lifetime_s(100.0, 90.0, 100.5) == 90
    assert leases.sa_lifetime_s(100.0, 90.0, 189.9) == 1
    with pytest.raises(Refused, match="over"):
        leases.sa_lifetime_s(100.0, 90.0, 190.0)


def test_the_end_of_a_lease() -> None:
    assert leases.lease_end_s(100.0, 90.0) == 190.0
