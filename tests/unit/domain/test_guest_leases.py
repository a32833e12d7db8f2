"""The lease of a VM that is attested: what each answer does to it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shamon_host.domain.guest_demand import AfterFailure, GuestDemand
from shamon_host.domain.guest_leases import BOOTED, Answer, GuestLease

DEMAND = GuestDemand(name="app", sha256="0" * 64, period_s=5, lease_s=15, on_failure=AfterFailure.REPLACE)
BEGUN = GuestLease(mark="one", boot_id="boot", since_s=100.0, fresh=True)


def holds(lease: GuestLease, now_s: float, boot_id: str = "boot") -> bool:
    return lease.holds(now_s=now_s, boot_id=boot_id)


def test_it_begins_without_a_result() -> None:
    assert not holds(BEGUN, 100.0)
    assert not BEGUN.replaces(DEMAND)


def test_a_passing_answer_counts_from_before_the_question() -> None:
    lease = BEGUN.after(Answer.PASSES, DEMAND, asked_s=101.0, now_s=104.0)
    assert (lease.until_s, lease.passed) == (116.0, True)
    assert [holds(lease, now_s) for now_s in (104.0, 115.9, 116.0)] == [True, True, False]
    assert (BEGUN.reference, lease.reference) == ("", DEMAND.sha256)
    assert not holds(lease, 104.0, "another boot")
    assert not holds(lease.ended(), 104.0)


def test_bad_evidence_ends_it_at_once_and_for_good() -> None:
    lease = BEGUN.after(Answer.PASSES, DEMAND, asked_s=101.0, now_s=101.0)
    failed = lease.after(Answer.FAILS, DEMAND, asked_s=102.0, now_s=102.0, reason="a program")
    assert (failed.failed, holds(failed, 102.0), failed.replaces(DEMAND)) == ("a program", False, True)
    assert failed.after(Answer.PASSES, DEMAND, asked_s=103.0, now_s=103.0) == failed


@pytest.mark.parametrize("answer", list(Answer))
def test_a_boot_that_is_no_start_ends_it_whatever_it_shows(answer: Answer) -> None:
    lease = BEGUN.after(Answer.PASSES, DEMAND, asked_s=101.0, now_s=101.0, reset_count=7)
    again = lease.after(Answer.PASSES, DEMAND, asked_s=106.0, now_s=106.0, reset_count=7)
    assert (again.until_s, again.failed) == (121.0, "")
    for booted in (6, 8):
        failed = again.after(answer, DEMAND, asked_s=107.0, now_s=107.0, reset_count=booted)
        assert (failed.failed, holds(failed, 107.0), failed.replaces(DEMAND)) == (BOOTED, False, True)


def test_a_boot_before_it_first_passes_counts_against_nobody() -> None:
    waiting = BEGUN.after(Answer.NONE, DEMAND, asked_s=101.0, now_s=101.0, reset_count=7)
    lease = waiting.after(Answer.PASSES, DEMAND, asked_s=102.0, now_s=102.0, reset_count=8)
    assert holds(lease, 102.0)
    silent = lease.after(Answer.NONE, DEMAND, asked_s=103.0, now_s=103.0)
    assert holds(silent, 103.0)


@pytest.mark.parametrize("passed", [False, True])
def test_silence_counts_when_the_time_is_over(*, passed: bool) -> None:
    """From its start, or with its lease."""
    lease = BEGUN.after(Answer.PASSES, DEMAND, asked_s=100.0, now_s=100.0) if passed else BEGUN
    assert lease.after(Answer.NONE, DEMAND, asked_s=110.0, now_s=114.9, reason="no answer") == lease
    failed = lease.after(Answer.NONE, DEMAND, asked_s=110.0, now_s=115.0, reason="no answer")
    assert failed.failed == "no answer"


@pytest.mark.parametrize(
    ("fresh", "passed", "action", "replaced"),
    [
        (True, True, AfterFailure.REPLACE, True),
        (False, False, AfterFailure.REPLACE, True),
        (True, False, AfterFailure.REPLACE, False),
        (True, True, AfterFailure.KEEP, False),
        (False, False, AfterFailure.KEEP, False),
    ],
)
def test_a_clean_one_that_never_passed_is_not_replaced(
    *, fresh: bool, passed: bool, action: AfterFailure, replaced: bool
) -> None:
    demand = GuestDemand(name="app", sha256="0" * 64, on_failure=action)
    lease = GuestLease(mark="one", boot_id="boot", since_s=0.0, fresh=fresh, passed=passed, failed="a program")
    assert lease.replaces(demand) is replaced


@given(st.lists(st.tuples(st.sampled_from(Answer), st.floats(0, 20)), max_size=12))
def test_ports_are_up_only_within_a_lease_after_an_answer_that_passed(answers: list[tuple[Answer, float]]) -> None:
    lease, now_s, last = BEGUN, 100.0, None
    for answer, wait_s in answers:
        now_s += wait_s
        lease = lease.after(answer, DEMAND, asked_s=now_s, now_s=now_s)
        last = now_s if answer is Answer.PASSES and not lease.failed else last
        assert holds(lease, now_s) == (not lease.failed and last is not None and now_s < last + DEMAND.lease_s)
