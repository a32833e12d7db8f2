"""Simple type enforcement against a brute-force oracle that knows only the definition."""

from hypothesis import given, settings
from hypothesis import strategies as st

from shamon_host.domain.labels import TypeName
from shamon_host.domain.ste import lacking_types, listed, shared_types

TYPES = st.sets(st.sampled_from([TypeName(f"org/t{number}") for number in range(8)]))


@settings(deadline=None)
@given(one=TYPES, other=TYPES)
def test_two_labels_may_communicate_exactly_if_some_type_is_in_both(one: set[TypeName], other: set[TypeName]) -> None:
    oracle = {mine for mine in one for theirs in other if mine == theirs}
    assert shared_types(one, other) == oracle
    assert bool(shared_types(one, other)) == any(mine == theirs for mine in one for theirs in other)


@settings(deadline=None)
@given(one=TYPES, other=TYPES)
def test_communication_is_mutual_and_nothing_communicates_without_types(
    one: set[TypeName], other: set[TypeName]
) -> None:
    assert shared_types(one, other) == shared_types(other, one)
    assert not shared_types(one, ())


@settings(deadline=None)
@given(needed=TYPES, held=TYPES)
def test_adding_the_lacking_types_makes_a_host_able(needed: set[TypeName], held: set[TypeName]) -> None:
    lacking = lacking_types(needed, held)
    assert not lacking_types(needed, held | lacking)
    assert lacking.isdisjoint(held)
    assert (not lacking) == all(name in held for name in needed)


def test_listed_is_for_people() -> None:
    assert listed([TypeName("b/b"), TypeName("a/a")]) == "a/a, b/b"
    assert listed([]) == "none"
