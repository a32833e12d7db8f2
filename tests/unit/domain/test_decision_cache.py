"""What is remembered is what would be computed; figures count; a cache is as large as it may be and no larger."""

from collections.abc import Callable
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shamon_host.domain import chinese_wall, decision_cache, decisions, ste
from shamon_host.domain.decision_cache import CacheFigures, DecisionCache
from shamon_host.domain.labels import UNLABELLED
from shamon_host.domain.policy import Policy
from tests.examples import examples
from tests.unit.domain.generated import policies
from tests.unit.domain.values import POLICY


def never() -> object:
    raise AssertionError("computed again")


@given(policies(), st.randoms(use_true_random=False))
@settings(max_examples=examples(150), deadline=None)
def test_answers_are_those_without_the_cache(policy: Policy, random: Random) -> None:
    labels = [*policy.vm_labels.values(), UNLABELLED]
    for _ in range(2):  # the second time they come out of the cache
        for one in labels:
            for other in labels:
                assert decisions.may_send(policy, one, other) == ste.may_send(one, other)
            for resource in policy.resource_labels.values():
                assert decisions.may_use(policy, one, resource) == ste.may_use(one, resource)
            running = random.sample(labels, random.randint(0, len(labels)))
            assert decisions.conflict_with(policy, one, running) == chinese_wall.conflicts(policy, one, running)


def test_who_runs_is_a_set_whatever_its_order_and_number() -> None:
    policy, (red, blue) = replace(POLICY), (POLICY.vm_labels["red"], POLICY.vm_labels["blue"])
    orders = POLICY.vm_labels["orders"]
    first = decisions.conflict_with(policy, red, [blue, orders])
    assert first is not None
    for running in ([orders, blue], (blue, blue, orders), iter([orders, orders, blue])):
        assert decisions.conflict_with(policy, red, running) is first
    assert policy.decisions.figures() == CacheFigures(hits=3, misses=1, entries=1, dropped=0)


def test_directions_are_different_questions() -> None:
    policy, label = replace(POLICY), POLICY.vm_labels["red"]
    some = min(label.types)
    reader = replace(label, name="reader", types=frozenset({some}), read_only=frozenset({some}), write_only=frozenset())
    writer = replace(reader, name="writer", read_only=frozenset(), write_only=frozenset({some}))
    assert decisions.may_send(policy, writer, reader) == {some}
    assert decisions.may_send(policy, reader, writer) == frozenset()


def test_no_conflict_is_remembered_too() -> None:
    cache = DecisionCache()
    assert cache.remember("question", lambda: None) is None
    assert cache.remember("question", never) is None


def test_a_failure_is_not_remembered() -> None:
    cache = DecisionCache()
    with pytest.raises(AssertionError, match="computed again"):
        cache.remember("question", never)
    assert cache.remember("question", lambda: 7) == 7
    assert cache.figures() == CacheFigures(hits=0, misses=2, entries=1, dropped=0)


def test_figures_count_as_people_read_them() -> None:
    cache = DecisionCache()
    for question in (1, 2, 1, 1):
        assert cache.remember(question, lambda question=question: question) == question  # type: ignore[misc]
    assert cache.figures().as_detail() == {"hits": 2, "misses": 2, "entries": 2, "dropped": 0}


def test_it_is_bounded_and_right_after_all_was_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decision_cache, "MAX_ENTRIES", 3)
    cache = DecisionCache()
    answers: list[Callable[[], int]] = [lambda number=number: number for number in range(10)]  # type: ignore[misc]
    for number, answer in enumerate(answers):
        assert cache.remember(number, answer) == number
        assert cache.figures().entries <= 3
    assert cache.figures() == CacheFigures(hits=0, misses=10, entries=1, dropped=3)
    assert cache.remember(9, never) == 9
    assert cache.remember(0, lambda: 0) == 0


def test_another_version_starts_with_nothing_remembered() -> None:
    def asked(policy: Policy) -> int:
        decisions.may_send(policy, POLICY.vm_labels["red"], POLICY.vm_labels["red"])
        return policy.decisions.figures().misses

    one = replace(POLICY)
    assert asked(one) == asked(one) == 1
    assert asked(replace(one, version=2)) == 1
    assert one.decisions.figures().hits == 1
