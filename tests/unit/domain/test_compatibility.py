"""What two policies may share, against an exhaustive search over every chain of small systems side by side."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, pairwise, permutations, product
from typing import Any

import pytest
from hypothesis import assume, event, given
from hypothesis import strategies as st

from shamon_host.domain.compatibility import Compatibility, Reason, compatibility
from shamon_host.domain.compatibility import Side as AnswerSide
from shamon_host.domain.flows import FlowLabel, FlowSystem
from shamon_host.domain.labels import TypeName
from tests.unit.domain.big_systems import big_system, changed, without
from tests.unit.domain.test_flows import (
    LABELS,
    NAMES,
    A,
    B,
    C,
    D,
    E,
    both,
    edges,
    few,
    label,
    labels,
    permitted,
    system,
    systems,
)

X, Y, Z = (TypeName(f"rival/{letter}") for letter in "xyz")

Pair = tuple[TypeName, TypeName]
Side = int
OWN, PEER, THIRD = range(3)
Node = tuple[Side, TypeName]
Join = tuple[Node, Node]


# The model, spelt out


def walls(of: FlowSystem, name: TypeName, names: Mapping[str, str]) -> set[frozenset[str]]:
    sets = {
        *of.conflict_sets,
        *(frozenset({each, wall}) for each in of.definitions for wall in of.definitions[each].apart),
    }
    about = {name, *of.owners.get(name, ())}
    return {frozenset(names.get(member, member) for member in members) for members in sets if members & about}


def matches(own: FlowSystem, peer: FlowSystem) -> set[Pair]:
    """Pairs that are the same type: the same name, or the only ones to call each other equivalent."""
    mutual = {
        (mine, theirs)
        for mine, theirs in product(own.definitions.keys() - peer.definitions.keys(), peer.definitions.keys())
        if theirs not in own.definitions
        and theirs in own.definitions[mine].equivalent
        and mine in peer.definitions[theirs].equivalent
    }
    single = {pair for pair in mutual if sum(pair[0] == other[0] or pair[1] == other[1] for other in mutual) == 1}
    return single | {(name, name) for name in own.definitions.keys() & peer.definitions.keys()}


def identified(own: FlowSystem, peer: FlowSystem) -> set[Pair]:
    """Those of them that mean the same to both."""
    names: dict[str, str] = {}
    for pair in matches(own, peer):
        names |= dict.fromkeys(pair, min(pair))

    def same(mine: TypeName, theirs: TypeName) -> bool:
        one, other = own.definitions[mine], peer.definitions[theirs]
        owners = [of.owners.get(name, ())[-1:] for of, name in ((own, mine), (peer, theirs))]
        return (
            (one.confidentiality, one.integrity, one.tpm, one.downgraders)
            == (other.confidentiality, other.integrity, other.tpm, other.downgraders)
            and walls(own, mine, names) == walls(peer, theirs, names)
            and (mine != theirs or owners[0] == owners[1])
        )

    return {pair for pair in matches(own, peer) if same(*pair)}


@dataclass(frozen=True, kw_only=True)
class World:
    """Systems side by side, as the definition of the model has it."""

    systems: Mapping[Side, FlowSystem]
    same: Mapping[tuple[Node, Side], TypeName]
    """A type of one side, another side → what it is there, where that is the same type and means the same."""

    @classmethod
    def of(cls, *systems: FlowSystem) -> "World":
        sides = dict(enumerate(systems))
        same = {
            ((side, one), other_side): other
            for side, other_side in permutations(sides, 2)
            for one, other in identified(sides[side], sides[other_side])
        }
        return cls(systems=sides, same=same)

    def as_known(self, side: Side, node: Node) -> TypeName | None:
        """What a side calls a type of any side, or None if it does not know it."""
        return node[1] if node[0] == side else self.same.get((node, side))

    def forbidden(self, joins: Collection[Join]) -> set[tuple[Node, ...]]:
        """Every flow (start, end) and release (start, end, to) that a side on its way denies, if these are shared."""
        flows = {side: permitted(of) for side, of in self.systems.items()}
        releases = {side: edges(of, released=True) for side, of in self.systems.items()}
        found: set[tuple[Node, ...]] = set()
        for start in ((side, name) for side, of in self.systems.items() for name in of.definitions):
            for end, visited in self._across(start, joins):
                there = end[0]
                for side in visited:
                    one, other = self.as_known(side, start), self.as_known(side, end)
                    if one is None and other is None:
                        continue
                    if self.as_known(there, start) != end[1] and (one, other) not in flows[side]:
                        found.add((start, end))
                    for _, name, to in (each for each in releases[there] if each[0] == end[1]):
                        at = self.as_known(side, (there, to))
                        if (other, name, at) not in releases[side] and (one, at) not in flows[side] and one != at:
                            found.add((start, end, (there, to)))
        return found

    def _across(self, start: Node, joins: Collection[Join]) -> set[tuple[Node, frozenset[Side]]]:
        """Where chains from `start` lead that cross at least once, and over which sides: every chain, step by step."""
        crossings = {*joins, *((other, one) for one, other in joins)}
        steps = {side: edges(of) for side, of in self.systems.items()}
        reached = {(start, frozenset({start[0]}))}
        todo = [*reached]
        while todo:
            (side, name), visited = todo.pop()
            following = [((side, end), visited) for source, _, end in steps[side] if source == name]
            following += [(other, visited | {other[0]}) for one, other in crossings if one == (side, name)]
            fresh = {each for each in following if each not in reached}
            reached |= fresh
            todo += fresh
        return {(node, visited) for node, visited in reached if len(visited) > 1}


def joined(shared: Iterable[Pair], one: Side = OWN, other: Side = PEER) -> set[Join]:
    return {((one, mine), (other, theirs)) for mine, theirs in shared}


def expected(own: FlowSystem, peer: FlowSystem) -> set[Pair]:
    world = World.of(own, peer)
    return {pair for pair in identified(own, peer) if not world.forbidden(joined([pair]))}


# Systems that are alike enough to share something


def redefined(of: FlowSystem, name: TypeName, **fields: Any) -> FlowSystem:
    return replace(of, definitions={**of.definitions, name: replace(of.definitions[name], **fields)})


def relabelled(of: FlowSystem, *labels: FlowLabel) -> FlowSystem:
    return replace(of, labels={**of.labels, **{each.name: each for each in labels}})


def renamed(of: FlowSystem, old: TypeName, new: TypeName) -> FlowSystem:
    """The system with another name for a type, wherever it is."""

    def types(names: Iterable[TypeName]) -> frozenset[TypeName]:
        return frozenset(new if name == old else name for name in names)

    def walls(names: Iterable[str]) -> frozenset[str]:
        return frozenset(new if name == old else name for name in names)

    return FlowSystem(
        definitions={
            name: replace(of.definitions[was], name=name, apart=walls(of.definitions[was].apart))
            for was in of.definitions
            for name in types([was])
        },
        owners={name: owners for was, owners in of.owners.items() for name in types([was])},
        labels={
            name: FlowLabel(name=name, reads=types(each.reads), writes=types(each.writes))
            for name, each in of.labels.items()
        },
        conflict_sets=frozenset(walls(members) for members in of.conflict_sets),
    )


@st.composite
def variations(draw: st.DrawFn, of: FlowSystem) -> FlowSystem:
    """A system with a few changes."""
    for change in draw(st.lists(st.sampled_from("tllnnndwr"), max_size=3)):
        name = draw(st.sampled_from(sorted(of.definitions)))
        match change:
            case "t" if len(of.definitions) > 2:
                of = without(of, types=[name])
            case "l" if of.labels:
                of = without(of, labels=[draw(st.sampled_from(sorted(of.labels)))])
            case "n":
                of = relabelled(of, draw(labels(draw(st.sampled_from(LABELS)), of.definitions)))
            case "d":
                of = redefined(of, name, confidentiality=1)
            case "w":
                of = replace(of, conflict_sets=of.conflict_sets ^ {frozenset({name, "wall"})})
            case "r":
                of = redefined(of, name, downgraders=draw(few(LABELS, 2)))
            case _:
                pass
    return of


@st.composite
def pairs(draw: st.DrawFn, most_types: int = 5, most_labels: int = 4) -> tuple[FlowSystem, FlowSystem]:
    """Two systems that differ a little, in which the same types may have different names."""
    own = draw(systems(most_types, most_labels))
    peer = draw(variations(own))
    for new in draw(st.sampled_from([(), (), (X,), (X, Y)])):
        name = draw(st.sampled_from(sorted(own.definitions)))
        if name in peer.definitions:
            own = redefined(own, name, equivalent=own.definitions[name].equivalent | {new})
            peer = redefined(renamed(peer, name, new), new, equivalent=frozenset({name}))
    return (own, peer) if draw(st.booleans()) else (peer, own)


# The answer


@given(pair=pairs())
def test_it_is_what_an_exhaustive_search_finds(pair: tuple[FlowSystem, FlowSystem]) -> None:
    found = compatibility(*pair)
    assert set(found.shared.items()) == expected(*pair)
    event(f"shared: {len(found.shared)}")


@given(pair=pairs())
def test_all_together_are_safe_and_nothing_can_be_added(pair: tuple[FlowSystem, FlowSystem]) -> None:
    world, shared = World.of(*pair), set(compatibility(*pair).shared.items())
    assert not world.forbidden(joined(shared))
    for more in identified(*pair) - shared:
        assert world.forbidden(joined(shared | {more}))


@given(pair=pairs())
def test_both_sides_come_to_the_same_pairs_and_names(pair: tuple[FlowSystem, FlowSystem]) -> None:
    own, peer = pair
    one, other = compatibility(own, peer), compatibility(peer, own)
    assert {(theirs, mine) for mine, theirs in one.shared.items()} == set(other.shared.items())
    assert {one.shared[name]: common for name, common in one.common.items()} == other.common
    assert all(common == min(name, one.shared[name]) for name, common in one.common.items())
    assert {name: (each.reason, len(each.witness)) for name, each in one.answers().items()} == {
        name: (each.reason, len(each.witness)) for name, each in other.answers().items()
    }


@given(of=systems())
def test_a_policy_shares_everything_with_itself(of: FlowSystem) -> None:
    assert compatibility(of, of).shared == {name: name for name in of.definitions}


@given(pair=pairs())
def test_a_witness_is_a_shortest_chain_that_the_other_side_denies(pair: tuple[FlowSystem, FlowSystem]) -> None:
    found, world = compatibility(*pair), World.of(*pair)
    for answer in found.answers().values():
        assert answer.shareable == (answer.own in found.shared)
        assert str(answer)
        if not answer.witness:
            assert answer.reason in {None, Reason.UNKNOWN, Reason.AMBIGUOUS, Reason.MEANING}
            continue
        assert answer.own is not None
        assert answer.peer is not None
        check_witness(found, world, answer.own, answer.peer)


def check_witness(found: Compatibility, world: World, own: TypeName, peer: TypeName) -> None:
    answer = found.answer(own)
    side, far = (OWN, PEER) if answer.witness[0].side == AnswerSide.OWN else (PEER, OWN)
    here, there = (own, peer) if side == OWN else (peer, own)
    assert answer.denied_by is (AnswerSide.PEER if side == OWN else AnswerSide.OWN)
    assert {step.side for step in answer.witness} == {AnswerSide.OWN if side == OWN else AnswerSide.PEER}
    assert all(one.target == other.source for one, other in pairwise(answer.witness))
    steps = [(step.source, step.label, step.target) for step in answer.witness]
    ends = steps[0][0], steps[-1][2]
    forbidden = world.forbidden(joined([(own, peer)]))
    if answer.reason is Reason.FLOW:
        assert set(steps) <= edges(world.systems[side])
        start = (far, there) if ends[0] == here else (side, ends[0])
        end = (far, there) if ends[0] != here else (side, ends[1])
        assert here in ends
        assert (start, end) in forbidden
    else:
        assert ends[0] == here
        assert set(steps[:-1]) <= edges(world.systems[side])
        assert steps[-1] in edges(world.systems[side], released=True)
        assert ((far, there), (side, steps[-1][0]), (side, ends[1])) in forbidden
    assert len(steps) == min(length(world, (own, peer), chain) for chain in forbidden)


def length(world: World, crossing: Pair, chain: Sequence[Node]) -> int:
    """Steps of the shortest chain from its first to its second node that crosses at this pair, and of what follows."""
    (side, start), (other_side, end) = chain[:2]
    arrives = distance(world.systems[side], start, crossing[side])
    return arrives + distance(world.systems[other_side], crossing[other_side], end) + len(chain) - 2


def distance(of: FlowSystem, start: TypeName, end: TypeName) -> int:
    reached, steps = {start}, 0
    while end not in reached:
        reached, steps = reached | {target for source, _, target in edges(of) if source in reached}, steps + 1
        assert steps < len(NAMES), "no chain at all"
    return steps


@given(pair=pairs(), of=st.data())
def test_the_ends_of_a_flow_that_one_side_denies_are_not_shared(
    pair: tuple[FlowSystem, FlowSystem], of: st.DataObject
) -> None:
    """The peer permits one flow more, which own denies. Its ends are not shared then, and if another type is gained,
    own permits all that the peer now permits about it.

    It may be: own lets s flow to a and to b, the peer to a only; with a→b the peer lets s flow to b too.
    """
    own, peer = pair
    source, target = of.draw(st.lists(st.sampled_from(sorted(peer.definitions)), min_size=2, max_size=2, unique=True))
    more = relabelled(peer, label("new", [source], [target]))
    as_own = {theirs: mine for mine, theirs in identified(own, peer)}
    assume((as_own.get(source), as_own.get(target)) not in permitted(own))
    before, after = compatibility(own, peer).shared, compatibility(own, more).shared
    assert not {source, target} & set(after.values())
    for name in after.keys() - before.keys():
        about = {(as_own[start], as_own[end]) for start, end in permitted(more) if after[name] in (start, end)}
        assert about == {flow for flow in permitted(own) if name in flow}


@given(pair=pairs(), of=st.data())
def test_nothing_is_gained_where_the_peer_permits_too_much_already(
    pair: tuple[FlowSystem, FlowSystem], of: st.DataObject
) -> None:
    own, peer = pair
    more = relabelled(peer, replace(of.draw(labels("new", peer.definitions))))
    before, after = compatibility(own, peer), compatibility(own, more)
    for answer in before.answers().values():
        if answer.reason is Reason.FLOW and answer.denied_by is AnswerSide.OWN:
            assert answer.own not in after.shared


# Many hosts


@given(of=st.data())
def test_what_is_shared_pair_by_pair_is_safe_over_many_hosts(of: st.DataObject) -> None:
    hosts = [of.draw(systems(4, 3))]
    hosts += [of.draw(variations(hosts[0])) for _ in (PEER, THIRD)]
    joins: set[Join] = set()
    for one, other in combinations(range(len(hosts)), 2):
        joins |= joined(compatibility(hosts[one], hosts[other]).shared.items(), one, other)
    assert not World.of(*hosts).forbidden(joins)
    event(f"joins: {len(joins)}")


# Single cases

COPY_AB, COPY_BC = label("ab", [A], [B]), label("bc", [B], [C])


def test_an_unknown_end_is_not_permitted() -> None:
    own, peer = system(COPY_AB, types=[A, B]), system(types=[B])
    found = compatibility(own, peer)
    assert not found.shared
    assert str(found.answer(B)) == "org/b: peer does not permit the flow org/a -(ab@own)-> org/b"
    assert str(found.answer(A)) == "org/a is unknown to peer"
    assert str(compatibility(peer, own).answer(A)) == "org/a is unknown to own"


def test_a_label_that_only_reads_keeps_its_type_shareable_one_way_only() -> None:
    own = system(label("guard", [A, B], [B]), types=[A, B])
    assert set(compatibility(own, system(both("all", A, B), types=[A, B])).shared) == set()
    assert set(compatibility(own, system(label("other", [A], [B]), types=[A, B])).shared) == {A, B}


def test_the_shortest_witness_is_told() -> None:
    own = system(COPY_AB, COPY_BC, types=[A, B, C])
    found = compatibility(own, system(COPY_AB, types=[A, B, C]))
    assert str(found.answer(A)) == "org/a: peer does not permit the flow org/a -(ab@own)-> org/b -(bc@own)-> org/c"
    assert str(found.answer(C)) == "org/c: peer does not permit the flow org/b -(bc@own)-> org/c"


def test_types_that_differ_say_in_what_and_so_do_those_that_meet_them() -> None:
    own = system(COPY_AB, types=[A, B, C])
    peer = redefined(redefined(own, A, confidentiality=3), C, integrity=1, confidentiality=1)
    found = compatibility(own, peer)
    assert str(found.answer(A)) == "org/a means something else to each side: confidentiality"
    assert found.answer(C).fields == ("confidentiality", "integrity")
    assert found.answer(B).fields == ("confidentiality",)
    assert str(found.answer(B)).endswith("org/a -(ab@own)-> org/b, where confidentiality of its far end differ")


def test_a_downgrader_that_both_types_name_ends_the_chain() -> None:
    """The bank keeps its ledger from the auditor, who only knows the report that the review lets out."""
    bank = system(label("review", [A, B], [B]), types=[A, B], a=["review"], b=["review"])
    auditor = system(types=[B], b=["review"])
    assert compatibility(bank, auditor).shared == {B: B}
    careless = system(label("review", [A, B], [B]), types=[A, B], b=["review"])
    assert not compatibility(careless, auditor).shared


def test_a_downgrader_releases_nothing_to_where_the_other_side_does_not() -> None:
    """The peer calls a label as own's downgrader is called, and has it let the ledger out to what own does not know."""
    own = system(label("review", [A], [B]), types=[A, B], a=["review"], b=["review"])
    rogue = system(label("review", [A], [C]), types=[A, B, C], a=["review"], b=["review"], c=["review"])
    found = compatibility(own, rogue)
    assert found.shared == {B: B}
    assert str(found.answer(A)) == "org/a: peer does not permit the release org/a -(review@own)-> org/b"


def test_a_release_counts_for_what_came_through_other_types() -> None:
    review, feed = ["review"], label("feed", [D], [A])
    own = system(label("review", [A], [B]), feed, a=review, b=review, c=review)
    rogue = system(label("review", [A], [B, C]), feed, a=review, b=review, c=review)
    found = compatibility(own, rogue)
    assert found.shared.keys() == {B, C, E}
    chain = "org/d -(feed@peer)-> org/a -(review@peer)-> org/c"
    assert str(found.answer(D)) == f"org/d: own does not permit the release {chain}"


def test_a_release_to_a_type_that_differs_is_one_to_another_type() -> None:
    own = system(label("review", [A], [B]), types=[A, B], a=["review"], b=["review"])
    found = compatibility(own, redefined(own, B, integrity=1))
    assert not found.shared
    assert (found.answer(A).reason, found.answer(A).fields) == (Reason.RELEASE, ("integrity",))


def test_a_release_back_to_the_type_itself_is_none_of_it() -> None:
    named, feed = ["review"], label("feed", [D], [A])
    own = system(label("review", [A], [D]), feed, types=[A, D], a=named, d=named)
    peer = system(feed, types=[A, D], a=named, d=named)
    assert compatibility(own, peer).shared == compatibility(peer, own).shared == {D: D}


def test_the_release_that_is_told_is_one_that_matters() -> None:
    named, flow = ["review"], label("ab", [A], [B])
    own = system(label("review", [A], [B, C]), flow, types=[A, B, C], a=named, b=named, c=named)
    answer = compatibility(own, system(flow, types=[A, B, C], a=named, b=named, c=named)).answer(A)
    assert str(answer) == "org/a: peer does not permit the release org/a -(review@own)-> org/c"


def test_a_release_elsewhere_is_not_told() -> None:
    named = ["review"]
    own = system(label("review", [A], [B]), label("de", [D], [E]), a=named, b=named)
    found = compatibility(own, system(a=named, b=named))
    assert found.shared.keys() == {B, C}
    assert str(found.answer(D)) == "org/d: peer does not permit the flow org/d -(de@own)-> org/e"


def test_a_release_is_permitted_where_the_flow_is() -> None:
    own = system(label("review", [A], [B]), label("ab", [A], [B]), types=[A, B], a=["review"], b=["review"])
    peer = system(label("ab", [A], [B]), types=[A, B], a=["review"], b=["review"])
    assert set(compatibility(own, peer).shared) == set(compatibility(peer, own).shared) == {A, B}


def test_an_equivalent_type_is_shared_under_the_first_of_both_names() -> None:
    own = redefined(system(both("ab", A, B), types=[A, B]), A, equivalent=frozenset({X}))
    peer = redefined(system(both("xb", X, B), types=[X, B]), X, equivalent=frozenset({A}))
    found = compatibility(own, peer)
    assert found.shared == {A: X, B: B}
    assert found.common == {A: A, B: B}
    assert compatibility(peer, own).common == {X: A, B: B}
    assert found.answer(X) == found.answer(A)


def test_an_equivalence_that_only_one_side_declares_is_none() -> None:
    own = redefined(system(types=[A]), A, equivalent=frozenset({X}))
    for peer in (system(types=[X]), redefined(system(types=[X]), X, equivalent=frozenset({B}))):
        assert compatibility(own, peer).answer(A).reason is Reason.UNKNOWN


def test_of_several_equivalent_types_none_is_taken() -> None:
    own = redefined(system(types=[A]), A, equivalent=frozenset({X, Y}))
    peer = system(types=[X, Y])
    for name in (X, Y):
        peer = redefined(peer, name, equivalent=frozenset({A}))
    assert {compatibility(own, peer).answer(name).reason for name in (A, X, Y)} == {Reason.AMBIGUOUS}
    assert {compatibility(peer, own).answer(name).reason for name in (A, X, Y)} == {Reason.AMBIGUOUS}
    assert "several types" in str(compatibility(own, peer).answer(A))


def test_the_same_name_counts_for_more_than_an_equivalence() -> None:
    own = redefined(system(types=[A, X]), A, equivalent=frozenset({X}))
    peer = redefined(system(types=[X]), X, equivalent=frozenset({A}))
    for found in (compatibility(own, peer), compatibility(peer, own)):
        assert found.shared == found.common == {X: X}
        assert found.answer(A).reason is Reason.UNKNOWN


def test_a_type_that_neither_knows_is_not_answered_for() -> None:
    with pytest.raises(KeyError):
        compatibility(system(types=[A]), system(types=[A])).answer(Z)


# Big ones


def test_big_policies_share_what_their_differences_do_not_touch() -> None:
    own = big_system()
    peer = changed(own)
    shared = compatibility(own, peer).shared
    assert set(compatibility(own, own).shared) == set(own.definitions)
    assert 500 < len(shared) < len(peer.definitions)
    assert set(compatibility(peer, own).shared) == set(shared)
    gone = own.definitions.keys() - peer.definitions.keys()
    answers = compatibility(own, peer).answers()
    assert {name for name, answer in answers.items() if answer.reason is Reason.UNKNOWN} == gone
    assert all(answer.witness for answer in answers.values() if answer.reason is Reason.FLOW)
