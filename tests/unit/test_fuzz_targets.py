"""Every parser of a stranger's bytes raises its own error or returns: `make fuzz` in small."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.examples import examples
from tests.fuzz.targets import TARGETS, run


@st.composite
def _changed(draw: st.DrawFn, seeds: tuple[bytes, ...]) -> bytes:
    """One of the seeds with bytes changed, cut out, put in, or its end cut off; or anything at all."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=200))
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 5))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        data[at : at + draw(st.integers(0, 4))] = draw(st.binary(max_size=5))
    if draw(st.integers(0, 3)) == 0:
        del data[draw(st.integers(0, len(data))) :]
    return bytes(data)


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_a_parser_raises_its_own_error_or_returns(name: str) -> None:
    target = TARGETS[name]
    seeds = target.seeds()  # once: those with a signature in them are others each time that they are made

    @settings(deadline=None, max_examples=examples(150))
    @given(_changed(seeds))
    def try_it(data: bytes) -> None:
        run(target, data)

    try_it()


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_the_seeds_reach_the_parser(name: str) -> None:
    target = TARGETS[name]
    assert target.seeds()
    assert all(run(target, seed) for seed in target.seeds()[:1]) or name in _ONLY_NEARLY


_ONLY_NEARLY = {"pcr-selection", "envelope", "canonical-policy", "refusal"}
"""Their first input is one that is refused: what is good there takes a whole world to make."""
