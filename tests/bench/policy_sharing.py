"""How long it takes to say what two big policies may share, and what one has to take over from the other."""

from collections.abc import Iterator

from shamon_host.domain.adaptation import adapt
from shamon_host.domain.compatibility import compatibility
from shamon_host.domain.flows import FlowSystem, flow_system
from shamon_host.domain.policy import Policy
from tests.bench.answers import require
from tests.bench.big_policies import BigPolicy
from tests.bench.measuring import Measurement, Unit, Work, measured
from tests.bench.plain_answers import edges_of, reachable, shared_types

COMPATIBILITY_S, ADAPTATION_S = 2.0, 10.0


def check_sharing(written: BigPolicy, written_peer: BigPolicy, own: FlowSystem, peer: FlowSystem) -> int:
    """Compare with what the files say; the number of types that may be shared. Raises WrongAnswer."""
    expected = shared_types(written.system, written_peer.system)
    require("shared types", compatibility(own, peer).shared.keys(), expected)
    require("shared types, the other way round", compatibility(peer, own).shared.keys(), expected)
    # The peer is this policy with less in it, so it can take over everything, and this one nothing.
    every = own.definitions.keys()
    found = adapt(peer, own, every)
    require("an adaptation of the peer", found.adapted is not None, True)
    if found.adapted is not None:
        require("shared types after the adaptation", compatibility(found.adapted, own).shared.keys(), every)
        require("shared types after the adaptation, plainly", shared_types(found.adapted, own), every)
    require("an adaptation to the peer", adapt(own, peer, every).adapted, None)
    return len(expected)


def sharing(own: Policy, peer: Policy, rounds: int) -> Iterator[Measurement]:
    """Compatibility and adaptation, from policies that are loaded."""
    systems = flow_system(own), flow_system(peer)
    pass_ = Work(name="one plain search", prepare=lambda: systems[0], run=_search)
    for work, goal in (
        (Work(name="compatibility of two policies", prepare=lambda: (own, peer), run=_compatibility), COMPATIBILITY_S),
        (Work(name="compatibility, with all witnesses", prepare=lambda: (own, peer), run=_answers), None),
        (Work(name="adaptation that shares everything", prepare=lambda: systems, run=_adapt), ADAPTATION_S),
    ):
        yield measured(work, pass_, unit=Unit.SECONDS, rounds=rounds, goal=goal)


def _compatibility(policies: tuple[Policy, Policy]) -> None:
    compatibility(flow_system(policies[0]), flow_system(policies[1]))


def _answers(policies: tuple[Policy, Policy]) -> None:
    compatibility(flow_system(policies[0]), flow_system(policies[1])).answers()


def _adapt(systems: tuple[FlowSystem, FlowSystem]) -> None:
    adapt(systems[1], systems[0], systems[0].definitions)


def _search(system: FlowSystem) -> None:
    reachable(edges_of(system))
