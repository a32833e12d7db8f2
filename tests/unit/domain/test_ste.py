"""Simple type enforcement: what a host lacks, and types in words. Who may communicate: `test_against_oracle`."""

from hypothesis import given, settings
from hypothesis import strategies as st

from shamon_host.domain.labels import TypeName
from shamon_host.domain.ste import lacking_types, listed

TYPES = st.sets(st.sampled_from([TypeName(f"org/t{number}") for number in range(8)]))


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
