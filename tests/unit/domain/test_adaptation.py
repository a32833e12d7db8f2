"""The least additions, against every subset of what could be taken over; and what each addition says about itself."""

from collections.abc import Collection
from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from shamon_host.domain import adaptation_search
from shamon_host.domain.adaptation import Adaptation, adapt
from shamon_host.domain.additions import Addition, Minimality, WallAddition
from shamon_host.domain.compatibility import Reason, compatibility
from shamon_host.domain.errors import BadInput, Refused
from shamon_host.domain.flows import FlowLabel, FlowSystem
from shamon_host.domain.labels import TypeName
from shamon_host.domain.policy import TypeDefinition
from tests.unit.domain.big_systems import big_system, changed, without
from tests.unit.domain.test_compatibility import X, identified, matches, pairs, redefined, relabelled
from tests.unit.domain.test_flows import A, B, C, D, E, edges, label, permitted, system, systems

Taken = tuple[str, object]


# Everything that could be taken over, and what comes of it


def choices(own: FlowSystem, peer: FlowSystem) -> list[Taken]:
    matched = {theirs for _, theirs in matches(own, peer)}
    ambiguous = {
        theirs
        for theirs, definition in peer.definitions.items()
        for mine in definition.equivalent & own.definitions.keys()
        if theirs in own.definitions[mine].equivalent
    }
    types = peer.definitions.keys() - matched - own.definitions.keys() - ambiguous
    sets = {in_own(own, peer, members) for members in peer.wall_sets} - own.wall_sets
    return [
        *(("type", name) for name in sorted(types)),
        *(("walls", members) for members in sorted(sets, key=sorted)),
        *(("label", name) for name, each in sorted(peer.labels.items()) if each.joins),
    ]


def in_own(own: FlowSystem, peer: FlowSystem, members: Collection[str]) -> frozenset[str]:
    names = {str(theirs): str(mine) for mine, theirs in matches(own, peer)}
    return frozenset(names.get(member, member) for member in members)


def with_taken(own: FlowSystem, peer: FlowSystem, taken: Collection[Taken]) -> FlowSystem | None:
    """Own with this, or None if that names types that it does not have then."""
    types = {TypeName(str(what)) for kind, what in taken if kind == "type"}
    walls = {frozenset[str](what) for kind, what in taken if kind == "walls" and isinstance(what, frozenset)}
    definitions = dict(own.definitions)
    for name in types:
        definition = peer.definitions[name]
        definitions[name] = replace(definition, apart=in_own(own, peer, definition.apart))
        walls = walls | {frozenset({name, wall}) for wall in definitions[name].apart}
    named = {member for members in walls for member in members}
    if named & peer.definitions.keys() - definitions.keys():
        return None
    found = FlowSystem(
        definitions=definitions,
        owners={**own.owners, **{name: peer.owners.get(name, ()) for name in types}},
        labels=own.labels,
        conflict_sets=own.conflict_sets | walls,
    )
    same = {theirs: mine for mine, theirs in identified(found, peer)}
    for key in (str(what) for kind, what in taken if kind == "label"):
        reads, writes = (
            frozenset(same[each] for each in ends & same.keys())
            for ends in (peer.labels[key].reads, peer.labels[key].writes)
        )
        as_own = key if key not in own.labels else f"{key}-fresh"
        found = relabelled(found, FlowLabel(name=as_own, reads=reads, writes=writes))
    return found


def shares(own: FlowSystem, peer: FlowSystem, wanted: Collection[TypeName]) -> bool:
    shared = compatibility(own, peer).shared
    return set(wanted) <= shared.keys() | shared.values()


def smallest(own: FlowSystem, peer: FlowSystem, wanted: Collection[TypeName]) -> int | None:
    """How many additions it takes, by trying every set of them."""
    every = choices(own, peer)
    for size in range(len(every) + 1):
        for taken in combinations(every, size):
            found = with_taken(own, peer, taken)
            if found is not None and shares(found, peer, wanted):
                return size
    return None


def as_taken(addition: Addition) -> Taken:
    match addition.what:
        case TypeDefinition():
            return ("type", addition.what.name)
        case WallAddition():
            return ("walls", addition.what.members)
        case FlowLabel():
            return ("label", addition.taken_from)


@st.composite
def problems(draw: st.DrawFn) -> tuple[FlowSystem, FlowSystem, frozenset[TypeName]]:
    """Own, often a peer that lost some lines, and what is wanted."""
    if draw(st.integers(0, 3)):
        peer = draw(systems(5, 4))
        own = peer
        for name in draw(st.frozensets(st.sampled_from(sorted(peer.definitions)), max_size=2)):
            own = without(own, types=[name] if len(own.definitions) > 1 else [])
        own = without(own, labels=draw(st.frozensets(st.sampled_from(["l0", "l1", "l2", "l3"]))))
        if draw(st.booleans()):
            own = replace(own, conflict_sets=frozenset())
        if draw(st.integers(0, 4)) == 0:
            own = relabelled(
                own, label("l0", *(draw(st.frozensets(st.sampled_from(sorted(own.definitions)))) for _ in "rw"))
            )
    else:
        own, peer = draw(pairs(4, 3))
    names = sorted(own.definitions.keys() | peer.definitions.keys())
    return own, peer, draw(st.frozensets(st.sampled_from(names), min_size=1, max_size=2))


# The answer


@given(problem=problems())
def test_it_is_as_small_as_any_set_of_additions(problem: tuple[FlowSystem, FlowSystem, frozenset[TypeName]]) -> None:
    own, peer, wanted = problem
    found, least = adapt(own, peer, wanted), smallest(own, peer, wanted)
    assert found.possible == (least is not None)
    event(f"additions: {least}")
    if least is None:
        assert found.obstacle is not None
        assert not found.obstacle.shareable
        assert str(found.obstacle)
        return
    assert found.minimality is Minimality.SMALLEST
    assert len(found.additions) == least
    check_additions(own, peer, found)


@given(problem=problems(), work=st.integers(0, 20))
def test_without_a_search_nothing_can_be_left_out(
    problem: tuple[FlowSystem, FlowSystem, frozenset[TypeName]], work: int
) -> None:
    own, peer, wanted = problem
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adaptation_search, "MOST_WORK", work)
        found = adapt(own, peer, wanted)
    if not found.possible:
        return
    check_additions(own, peer, found)
    taken = [as_taken(each) for each in found.additions]
    for size in range(len(taken)):
        for fewer in combinations(taken, size):
            less = with_taken(own, peer, fewer)
            assert less is None or not shares(less, peer, wanted)
    if found.minimality is Minimality.SMALLEST:
        assert len(taken) == smallest(own, peer, wanted)


def check_additions(own: FlowSystem, peer: FlowSystem, found: Adaptation) -> None:
    """The additions make own into what is said to come of them, and each says all that it permits."""
    assert found.adapted is not None
    assert shares(found.adapted, peer, found.wanted)
    current = own
    for addition in found.additions:
        following = added(current, addition)
        assert set(addition.flows) == permitted(following) - permitted(current)
        new = edges(following, released=True) - edges(current, released=True)
        assert set(addition.releases) == {(source, target) for source, _, target in new}
        if isinstance(addition.what, FlowLabel):
            assert addition.what.name not in current.labels
            assert addition.signers == {name for flow in (*addition.flows, *addition.releases) for name in flow}
        else:
            assert not addition.flows
            assert addition.signers
        current = following
    assert current.definitions == found.adapted.definitions
    assert current.labels == found.adapted.labels
    assert current.wall_sets == found.adapted.wall_sets


def added(of: FlowSystem, addition: Addition) -> FlowSystem:
    match addition.what:
        case TypeDefinition():
            definitions = {**of.definitions, addition.what.name: addition.what}
            return replace(of, definitions=definitions)
        case WallAddition(members=members, apart_of=None):
            return replace(of, conflict_sets=of.conflict_sets | {members})
        case WallAddition(members=members, apart_of=name):
            assert name is not None
            return redefined(of, name, apart=of.definitions[name].apart | members - {name})
        case FlowLabel():
            return relabelled(of, addition.what)


# Single cases


def told(found: Adaptation) -> list[str]:
    return [str(each) for each in found.additions]


def test_what_is_shareable_needs_nothing() -> None:
    found = adapt(system(types=[A, B]), system(types=[A, B, C]), [A, B])
    assert found.possible
    assert not found.additions
    assert found.minimality is Minimality.SMALLEST


def test_types_come_first_and_each_label_says_what_it_permits() -> None:
    peer = system(label("ab", [A], [B]), label("bc", [B], [C]), label("de", [D], [E]))
    own = system(label("ab", [A], [B]), types=[A, B, D])
    found = adapt(own, peer, [B])
    assert told(found) == ["type org/c", "label bc: reads org/b; writes org/c"]
    assert [each.flows for each in found.additions] == [(), ((A, C), (B, C))]
    assert [each.signers for each in found.additions] == [{C}, {A, B, C}]


def test_a_flow_that_the_peer_denies_cannot_be_added_away() -> None:
    own = system(label("ab", [A], [B]), types=[A, B])
    found = adapt(own, system(label("bc", [B], [C])), [C])
    assert not found.possible
    assert str(found.obstacle) == "org/c: peer does not permit the flow org/a -(ab@own)-> org/b -(bc@own)-> org/c"
    assert found.adapted is None
    assert not found.additions


def test_definitions_that_differ_cannot_be_added_away() -> None:
    peer = redefined(system(label("ab", [A], [B])), A, integrity=2)
    direct = adapt(system(types=[A, B]), peer, [A]).obstacle
    assert direct is not None
    assert (direct.reason, direct.fields) == (Reason.MEANING, ("integrity",))
    near = adapt(system(types=[A, B]), peer, [B]).obstacle
    assert (
        str(near)
        == "org/b: own does not permit the flow org/a -(ab@peer)-> org/b, where integrity of its far end differ"
    )


def test_what_the_peer_does_not_know_cannot_be_taken_from_it() -> None:
    obstacle = adapt(system(types=[A, B]), system(types=[A]), [A, B]).obstacle
    assert str(obstacle) == "org/b is unknown to peer"
    with pytest.raises(BadInput, match="unknown type"):
        adapt(system(types=[A]), system(types=[A]), [C])


def test_conflict_sets_are_taken_as_the_peer_has_them() -> None:
    sets = frozenset({frozenset({A, "wall"})})
    peer = replace(redefined(system(types=[A, B]), B, apart=frozenset({"rival"})), conflict_sets=sets)
    found = adapt(system(types=[A, B]), peer, [A, B])
    assert told(found) == ["conflict set org/a, wall", "apart of org/b"]
    assert [each.signers for each in found.additions] == [{A}, {B}]
    taken = adapt(system(types=[A]), peer, [B])
    assert told(taken) == ["type org/b"]


def test_types_that_a_conflict_set_names_come_along() -> None:
    peer = replace(system(types=[A, B, C]), conflict_sets=frozenset({frozenset({A, B})}))
    assert told(adapt(system(types=[A]), peer, [A])) == ["type org/b", "conflict set org/a, org/b"]
    apart = redefined(system(types=[A, B, C]), B, apart=frozenset({A, C}))
    assert told(adapt(system(types=[A]), apart, [A])) == ["type org/b", "type org/c"]


def test_a_wall_that_only_own_has_cannot_be_added_away() -> None:
    own = redefined(system(types=[A]), A, apart=frozenset({"wall"}))
    obstacle = adapt(own, system(types=[A]), [A]).obstacle
    assert str(obstacle) == "org/a means something else to each side: walls"


def test_a_label_gets_another_name_where_its_own_is_taken() -> None:
    own = system(label("ab", [C], [C]), label("ab-2", [C], [C]))
    found = adapt(own, system(label("ab", [A], [B]), label("resource:x", [D, E], [D, E])), [A, D])
    assert [each.taken_from for each in found.additions] == ["ab", "resource:x"]
    assert [each.what.name for each in found.additions if isinstance(each.what, FlowLabel)] == ["ab-3", "x-2"]


def test_a_downgrader_keeps_its_name_or_is_not_taken() -> None:
    peer = system(label("review", [A], [B]), types=[A, B], a=["review"], b=["review"])
    found = adapt(system(types=[A, B], a=["review"], b=["review"]), peer, [A])
    assert told(found) == ["label review: reads org/a; writes org/b"]
    assert (found.additions[0].flows, found.additions[0].releases) == ((), ((A, B),))
    assert found.additions[0].signers == {A, B}
    own = system(label("review", [A], [A]), types=[A, B], a=["review"], b=["review"])
    obstacle = adapt(own, peer, [A]).obstacle
    assert str(obstacle) == "org/a: own does not permit the release org/a -(review@peer)-> org/b"


def test_a_release_may_be_taken_as_a_flow_where_the_peer_permits_it_too() -> None:
    """The label's name is taken, so it would release nothing; but through another label the peer permits the flow."""
    other = label("other", [A], [B])
    peer = system(label("l", [A, C], [B]), other, a=["l"], b=["l"])
    found = adapt(system(label("l", [D], [E]), other, a=["l"], b=["l"]), peer, [C, A])
    assert told(found) == ["label l-2: reads org/a, org/c; writes org/b"]


def test_additions_use_the_names_of_own() -> None:
    own = redefined(system(types=[A, B]), A, equivalent=frozenset({X}))
    peer = redefined(system(label("xb", [X], [B]), types=[X, B]), X, equivalent=frozenset({A}))
    peer = replace(peer, conflict_sets=frozenset({frozenset({X, "wall"})}))
    for wanted in (A, X):
        assert told(adapt(own, peer, [wanted])) == ["conflict set org/a, wall", "label xb: reads org/a; writes org/b"]


def test_a_definition_is_taken_with_the_names_of_own() -> None:
    own = redefined(system(types=[A]), A, equivalent=frozenset({X}))
    peer = redefined(system(types=[X, B]), X, equivalent=frozenset({A}))
    found = adapt(own, redefined(peer, B, apart=frozenset({X})), [B])
    assert [each.what for each in found.additions] == [TypeDefinition(name=B, apart=frozenset({A}))]


def test_an_ambiguous_type_is_not_taken() -> None:
    own = redefined(redefined(system(types=[A, B]), A, equivalent=frozenset({X})), B, equivalent=frozenset({X}))
    peer = redefined(system(types=[X]), X, equivalent=frozenset({A, B}))
    obstacle = adapt(own, peer, [X]).obstacle
    assert obstacle is not None
    assert obstacle.reason is Reason.AMBIGUOUS


# Choosing labels

COVER = {"l0": "bdef", "l1": "bcf", "l2": "bc", "l3": "abde", "l4": "abd"}
"""Two labels do; who takes first what does most ends with three, of which none can be left out."""

TRAP = {"best": "defg", "l1": "bcde", "l2": "fghi", **{letter: letter for letter in "bcdefghi"}}
"""The best is taken first, and is not needed any more once the two others are there."""
TRAPPED = [TypeName(f"org/{letter}") for letter in "abcdefghi"]


def cover() -> tuple[FlowSystem, FlowSystem, TypeName]:
    start, ends = TypeName("org/s"), {letter: TypeName(f"org/{letter}") for letter in "abcdef"}
    found = [label(name, [start], [ends[letter] for letter in letters]) for name, letters in COVER.items()]
    return system(types=[start, *ends.values()]), system(*found, types=[start, *ends.values()]), start


def test_few_labels_are_found_where_taking_the_best_first_does_not() -> None:
    own, peer, start = cover()
    found = adapt(own, peer, [start])
    assert [each.taken_from for each in found.additions] == ["l1", "l3"]
    assert found.minimality is Minimality.SMALLEST


def test_what_a_release_needs_is_taken_and_releases_elsewhere_are_not() -> None:
    peer = system(label("da", [D], [A]), label("l", [A], [B]), a=["l"], b=["l"])
    own = system(label("da", [D], [A]), types=[A, D, E], a=["l"])
    assert told(adapt(own, peer, [D])) == ["type org/b", "label l: reads org/a; writes org/b"]
    assert told(adapt(own, peer, [E])) == []


def test_a_release_is_needed_if_one_wanted_type_needs_it() -> None:
    others = (label("ab", [A], [B]), label("ac", [A], [C]))
    peer = system(label("l", [B], [C]), *others, b=["l"], c=["l"])
    own = system(*others, b=["l"], c=["l"])
    assert [told(adapt(own, peer, wanted)) for wanted in ([A], [A, B])] == [[], ["label l: reads org/b; writes org/c"]]


def test_what_may_flow_there_anyway_needs_no_release() -> None:
    peer = system(label("da", [D], [A]), label("l", [A], [B]), label("m", [A], [B]), a=["l"], b=["l"])
    found = adapt(system(a=["l"], b=["l"]), peer, [D])
    assert [each.taken_from for each in found.additions] == ["da", "m"]


def test_what_turns_out_to_be_needless_is_left_out_without_a_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adaptation_search, "MOST_WORK", 0)
    peer = system(
        *(label(name, [A], [TypeName(f"org/{each}") for each in to]) for name, to in TRAP.items()), types=TRAPPED
    )
    found = adapt(system(types=TRAPPED), peer, [A])
    assert [each.taken_from for each in found.additions] == ["l1", "l2"]


@pytest.mark.parametrize("limit", ["MOST_WORK", "MOST_CHOSEN"])
def test_beyond_a_limit_the_answer_is_not_called_the_smallest(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    own, peer, start = cover()
    monkeypatch.setattr(adaptation_search, limit, 0)
    found = adapt(own, peer, [start])
    assert found.possible
    assert found.minimality is Minimality.MINIMAL
    assert len(found.additions) == 3


def test_an_adaptation_that_does_not_do_is_not_given_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shamon_host.domain.adaptation_search.Search.least", lambda search: ([], Minimality.SMALLEST))
    own, peer, start = cover()
    with pytest.raises(Refused, match="org/s"):
        adapt(own, peer, [start])


# Big ones


@pytest.mark.parametrize("labels", [5, 300])
def test_big_policies_are_adapted(labels: int) -> None:
    peer = big_system(far=0.1)
    own = changed(peer, labels=labels)
    found = adapt(own, peer, peer.definitions)
    assert found.adapted is not None
    assert set(compatibility(found.adapted, peer).shared) == set(peer.definitions)
    assert found.adapted.wall_sets == peer.wall_sets
    assert not adapt(peer, own, peer.definitions).possible


def test_a_big_policy_takes_only_what_is_wanted() -> None:
    peer = big_system()
    own = changed(peer)
    lost = sorted(peer.definitions.keys() - own.definitions.keys())
    found = adapt(own, peer, lost[:1])
    assert found.minimality is Minimality.SMALLEST
    assert 1 <= len(found.additions) < len(adapt(own, peer, peer.definitions).additions)
