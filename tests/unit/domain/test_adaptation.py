"""The least additions, against every subset of what could be taken over; and what each addition says about itself."""

from collections.abc import Collection, Iterator
from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from shamon_host.domain import adaptation
from shamon_host.domain.adaptation import Adaptation, Addition, Minimality, WallAddition, adapt
from shamon_host.domain.compatibility import Reason, compatibility
from shamon_host.domain.errors import BadInput
from shamon_host.domain.flows import FlowLabel, FlowSystem
from shamon_host.domain.labels import TypeName
from shamon_host.domain.policy import TypeDefinition
from tests.unit.domain.big_systems import big_system, changed, without
from tests.unit.domain.test_compatibility import X, identified, matches, pairs, redefined, relabelled
from tests.unit.domain.test_flows import A, B, C, D, E, both, edges, label, permitted, system, systems

Taken = tuple[str, object]


# Everything that could be taken over, and what comes of it


def choices(own: FlowSystem, peer: FlowSystem) -> list[Taken]:
    names = dict((theirs, mine) for mine, theirs in matches(own, peer))
    ambiguous = {
        theirs
        for theirs, definition in peer.definitions.items()
        for mine in definition.equivalent & own.definitions.keys()
        if theirs in own.definitions[mine].equivalent
    }
    types = peer.definitions.keys() - names.keys() - own.definitions.keys() - ambiguous
    sets = {in_own(own, peer, members) for members in peer.wall_sets} - own.wall_sets
    return [
        *(("type", name) for name in sorted(types)),
        *(("walls", members) for members in sorted(sets, key=sorted)),
        *(("label", name) for name, each in sorted(peer.labels.items()) if each.joins),
    ]


def in_own(own: FlowSystem, peer: FlowSystem, members: Collection[str]) -> frozenset[str]:
    names = dict[str, str]((theirs, mine) for mine, theirs in matches(own, peer))
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
    for name in (str(what) for kind, what in taken if kind == "label"):
        reads, writes = (
            frozenset(same[each] for each in ends & same.keys())
            for ends in (peer.labels[name].reads, peer.labels[name].writes)
        )
        as_own = name if name not in own.labels else f"{name}-fresh"
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


@given(problem=problems(), nodes=st.integers(0, 2))
def test_without_a_search_nothing_can_be_left_out(
    problem: tuple[FlowSystem, FlowSystem, frozenset[TypeName]], nodes: int
) -> None:
    own, peer, wanted = problem
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adaptation, "MOST_NODES", nodes)
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
