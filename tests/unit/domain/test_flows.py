"""The flow model against definitions that are spelt out: small systems, every edge, every chain."""

from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shamon_host.domain.flows import (
    FlowLabel,
    FlowSystem,
    Reachability,
    TypeIndex,
    bits,
    flow_system,
    meaning,
    nearest,
    rendered,
    ways,
)
from shamon_host.domain.flows import Step as FlowStep
from shamon_host.domain.labels import TypeName
from shamon_host.domain.policy import TpmDemand, TypeDefinition
from shamon_host.domain.policy_file import parse_policy

A, B, C, D, E = (TypeName(f"org/{letter}") for letter in "abcde")
NAMES = (A, B, C, D, E)
LABELS = ("l0", "l1", "l2", "l3")
WALLS = (*NAMES, "org", "org/dept", "wall")
OWNERS = ((), ("org",), ("org/dept", "org"))

Edge = tuple[TypeName, str, TypeName]


# Small systems


def label(name: str, reads: Iterable[TypeName], writes: Iterable[TypeName]) -> FlowLabel:
    return FlowLabel(name=name, reads=frozenset(reads), writes=frozenset(writes))


def system(*labels: FlowLabel, types: Iterable[TypeName] = NAMES, **downgraders: Iterable[str]) -> FlowSystem:
    """Types without owners and walls. `downgraders`: last part of a type's name → labels."""
    return FlowSystem(
        definitions={
            name: TypeDefinition(name=name, downgraders=frozenset(downgraders.get(name.partition("/")[2], ())))
            for name in types
        },
        labels={each.name: each for each in labels},
    )


def both(name: str, *types: TypeName) -> FlowLabel:
    return label(name, types, types)


def few(names: Iterable[str], most: int = 2) -> st.SearchStrategy[frozenset[str]]:
    return st.frozensets(st.sampled_from(sorted(names)), max_size=most)


@st.composite
def labels(draw: st.DrawFn, name: str, types: Iterable[TypeName]) -> FlowLabel:
    chosen = st.frozensets(st.sampled_from(sorted(types)), max_size=3)
    return FlowLabel(name=name, reads=draw(chosen), writes=draw(chosen))


@st.composite
def systems(draw: st.DrawFn, most_types: int = 5, most_labels: int = 4) -> FlowSystem:
    names = NAMES[: draw(st.integers(2, most_types))]
    sets = draw(st.frozensets(st.frozensets(st.sampled_from(WALLS), min_size=2, max_size=2), max_size=1))
    return FlowSystem(
        definitions={
            name: TypeDefinition(
                name=name,
                confidentiality=draw(st.sampled_from([0, 0, 0, 1])),
                apart=draw(st.sampled_from([frozenset[str]()] * 4 + [frozenset({"wall"})])),
                downgraders=draw(few(LABELS, 1)),
            )
            for name in names
        },
        owners={name: draw(st.sampled_from(OWNERS)) for name in names},
        labels={name: draw(labels(name, names)) for name in LABELS[: draw(st.integers(0, most_labels))]},
        conflict_sets=frozenset(members for members in sets if members <= {*names, "org", "org/dept", "wall"}),
    )


# What the model says, edge by edge


def edges(of: FlowSystem, *, released: bool = False) -> set[Edge]:
    return {
        (source, each.name, target)
        for each in of.labels.values()
        for source in each.reads
        for target in each.writes
        if source != target
        and released
        == (each.name in of.definitions[source].downgraders and each.name in of.definitions[target].downgraders)
    }


def permitted(of: FlowSystem) -> set[tuple[TypeName, TypeName]]:
    """Every flow that the system permits, by following edges until nothing is new."""
    flows = {(source, target) for source, _, target in edges(of)}
    while True:
        more = {(one, end) for one, middle in flows for start, end in flows if middle == start and one != end} - flows
        if not more:
            return flows
        flows |= more


@given(of=systems())
def test_split_has_every_edge_once_on_the_right_side(of: FlowSystem) -> None:
    for released in (False, True):
        found = {
            (source, each.name, target)
            for each in of.labels.values()
            for bundle in ((of.split(each).releases,) if released else of.split(each).chains)
            for source in bundle.sources
            for target in bundle.targets
            if source != target
        }
        assert found == edges(of, released=released)


@given(of=systems())
def test_a_label_joins_if_and_only_if_it_has_an_edge(of: FlowSystem) -> None:
    for each in of.labels.values():
        assert each.joins == any(source != target for source in each.reads for target in each.writes)


@given(of=systems())
def test_reachability_is_the_transitive_closure(of: FlowSystem) -> None:
    index = TypeIndex(of.definitions)
    reach = Reachability(len(index.names))
    for each in of.labels.values():
        for bundle in of.split(each).chains:
            reach.add(index.mask(bundle.sources), index.mask(bundle.targets))
    flows = permitted(of)
    for number, name in enumerate(index.names):
        assert set(index.types(reach.successors[number])) == {end for start, end in flows if start == name}
        assert set(index.types(reach.predecessors[number])) == {start for start, end in flows if end == name}


def test_a_copy_of_a_closure_grows_alone() -> None:
    reach = Reachability(3)
    reach.add(0b001, 0b010)
    copied = reach.copy()
    copied.add(0b010, 0b100)
    assert (reach.successors[0], copied.successors[0]) == (0b010, 0b110)
    assert (reach.predecessors[2], copied.predecessors[2]) == (0, 0b011)


@given(numbers=st.sets(st.integers(0, 300)))
def test_bits_are_the_numbers_that_were_set(numbers: set[int]) -> None:
    assert list(bits(sum(1 << number for number in numbers))) == sorted(numbers)


@given(of=systems(), start=st.sampled_from(NAMES), goals=st.frozensets(st.sampled_from(NAMES)), backwards=st.booleans())
def test_nearest_is_a_shortest_chain(
    of: FlowSystem, start: TypeName, goals: frozenset[TypeName], backwards: bool
) -> None:
    found = nearest(start, goals - {start}, ways(of, backwards=backwards))
    known = {(end, name, source) for source, name, end in edges(of)} if backwards else edges(of)
    reached, length = {start}, 0
    while not reached & (goals - {start}):
        more = reached | {end for source, _, end in known if source in reached}
        if more == reached:
            assert found == ()
            return
        reached, length = more, length + 1
    assert len(found) == length
    assert set(found) <= known
    assert found[0][0] == start
    assert found[-1][2] in goals
    assert all(one[2] == other[0] for one, other in pairwise(found))


def test_a_chain_ends_at_a_downgrader_that_both_types_name() -> None:
    review, copy = label("review", [A], [B]), label("copy", [B], [C])
    assert permitted(system(review, copy, a=["review"])) == {(A, B), (B, C), (A, C)}
    ended = system(review, copy, a=["review"], b=["review"])
    assert permitted(ended) == {(B, C)}
    assert edges(ended, released=True) == {(A, "review", B)}
    assert nearest(A, {C}, ways(ended)) == ()


def test_chains_print_with_labels_and_sides() -> None:
    steps = (FlowStep(A, "one", "own", B), FlowStep(B, "two", "peer", C))
    assert rendered(steps) == "org/a -(one@own)-> org/b -(two@peer)-> org/c"


# What a type means


def test_a_meaning_has_what_hosts_have_to_agree_about_and_nothing_else() -> None:
    plain = system(types=[A, B])
    digest = meaning(plain, A).digest

    def with_a(**fields: Any) -> FlowSystem:
        return replace(plain, definitions={**plain.definitions, A: replace(plain.definitions[A], **fields)})

    different = [
        replace(plain, owners={A: ("org",)}),
        replace(plain, conflict_sets=frozenset({frozenset({A, "wall"})})),
        with_a(confidentiality=1),
        with_a(integrity=1),
        with_a(tpm=TpmDemand.HARDWARE),
        with_a(apart=frozenset({B})),
        with_a(downgraders=frozenset({"review"})),
    ]
    digests = [meaning(each, A).digest for each in different]
    assert len({digest, *digests}) == len(different) + 1
    fields = [meaning(plain, A).differing(meaning(each, A)) for each in different]
    assert fields == [
        ("owner",),
        ("walls",),
        ("confidentiality",),
        ("integrity",),
        ("tpm",),
        ("walls",),
        ("downgraders",),
    ]
    for same in (with_a(equivalent=frozenset({B})), replace(plain, owners={B: ("org",)}), plain):
        assert meaning(same, A).digest == digest


def test_walls_count_for_those_they_name_and_for_what_these_own() -> None:
    of = replace(
        system(types=[A, B, C]),
        owners={A: ("org/dept", "org"), B: ("org",)},
        conflict_sets=frozenset({frozenset({"org/dept", "wall"}), frozenset({"org", "rival"})}),
    )
    assert meaning(of, A).walls == (("org", "rival"), ("org/dept", "wall"))
    assert meaning(of, B).walls == (("org", "rival"),)
    assert meaning(of, C).walls == ()
    assert meaning(of, A).owner == meaning(of, B).owner == "org"


def test_apart_is_a_conflict_set_for_both() -> None:
    declared = replace(system(types=[A, B]), conflict_sets=frozenset({frozenset({A, B})}))
    apart = system(types=[A, B])
    apart = replace(apart, definitions={**apart.definitions, A: replace(apart.definitions[A], apart=frozenset({B}))})
    for name in (A, B):
        assert meaning(declared, name).digest == meaning(apart, name).digest


def test_equivalent_types_are_compared_without_name_and_owner() -> None:
    other = TypeName("rival/x")
    mine = replace(system(types=[A]), owners={A: ("org",)}, conflict_sets=frozenset({frozenset({A, "wall"})}))
    theirs = replace(
        system(types=[other]), owners={other: ("rival",)}, conflict_sets=frozenset({frozenset({other, "wall"})})
    )
    common: dict[str, TypeName] = {A: A, other: A}
    assert meaning(mine, A, common).differing(meaning(theirs, other, common)) == ()
    assert meaning(mine, A).differing(meaning(theirs, other)) == ("walls",)


# From a policy

POLICY = parse_policy(
    b"""
    coalition = {name = "flows", version = 1}
    organisations = {org = {}, rival = {}}
    departments = {"org/dept" = {of = "org"}}
    conflicts = {rivals = {types = ["org", "rival"]}}
    images = {i = {sha256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"}}
    hosts = {alpha = {address = "192.0.2.1", types = ["org/a", "org/b"]}}
    [types."org/a"]
    owner = "org/dept"
    downgraders = ["review"]
    [types."org/b"]
    downgraders = ["review"]
    [types."org/c"]
    [labels.review]
    types = ["org/c"]
    reads = ["org/a"]
    writes = ["org/b"]
    [labels.plain]
    types = ["org/a"]
    [resources.books]
    types = ["org/b", "org/c"]
    [resources.old]
    inaccessible = true
    """,
    source="flows.toml",
)


def test_a_policy_becomes_its_flow_system() -> None:
    found = flow_system(POLICY)
    assert found.definitions.keys() == {A, B, C}
    assert found.owners == {A: ("org/dept", "org"), B: ("org",), C: ("org",)}
    assert found.conflict_sets == {frozenset({"org", "rival"})}
    assert found.labels == {
        "review": label("review", [A, C], [B, C]),
        "plain": label("plain", [A], [A]),
        "resource:books": label("resource:books", [B, C], [B, C]),
    }
    assert permitted(found) == {(A, C), (C, B), (A, B), (B, C)}
    assert edges(found, released=True) == {(A, "review", B)}


@pytest.mark.parametrize("name", [A, B, C])
def test_the_meaning_of_a_policys_types(name: TypeName) -> None:
    assert meaning(flow_system(POLICY), name).walls == (("org", "rival"),)
