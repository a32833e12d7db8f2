"""What a policy has to take over from a peer's so that wanted types may be shared: the least that does, or why nothing.

A policy can take types, conflict sets (`apart` in a definition is one) and labels from the peer. A label is taken as
far as both sides mean the same by its types, under its own name where that is free. Nothing is taken away, and the peer
stays as it is. docs/information-flow.md proves what this module rests on:

* Types and conflict sets leave no choice. A wanted type needs the same flows on both sides, so every type at the far
  end of one of the peer's must be there and mean the same.
* A label that is taken adds no flow that the peer denies. So if the labels all together do not suffice, or a flow is
  denied even then, no selection of them will do: that is the proof that there is no adaptation.
* What is left is to choose few labels. Any choice that suffices has at least one label out of each *demand*: the labels
  that could carry on a chain which does not arrive yet. The search branches on the smallest demand.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from shamon_host.domain.adaptation_labels import candidates, label_additions, with_labels
from shamon_host.domain.adaptation_needs import Needed
from shamon_host.domain.adaptation_search import Search
from shamon_host.domain.additions import Addition, Minimality
from shamon_host.domain.compatibility import Answer, Joined, compatibility
from shamon_host.domain.errors import BadInput, Refused
from shamon_host.domain.flows import FlowSystem
from shamon_host.domain.labels import TypeName


@dataclass(frozen=True, slots=True, kw_only=True)
class Adaptation:
    """The additions, or the proof that there are none."""

    wanted: frozenset[TypeName]
    additions: tuple[Addition, ...] = ()
    """In an order in which they can be made."""
    minimality: Minimality = Minimality.SMALLEST
    adapted: FlowSystem | None = None
    """This policy with the additions; None: no adaptation exists."""
    obstacle: Answer | None = None
    """Why none exists: the answer for a wanted type with everything taken over that can be."""

    @property
    def possible(self) -> bool:
        return self.adapted is not None


def adapt(own: FlowSystem, peer: FlowSystem, wanted: Iterable[TypeName]) -> Adaptation:
    """The least additions to `own` under which all `wanted` types may be shared (names of either side, own first).

    Raises BadInput for a wanted type that neither side knows.
    """
    wanted, joined = frozenset(wanted), Joined(own, peer)
    for name in sorted(wanted - own.definitions.keys() - peer.definitions.keys()):
        raise BadInput("an unknown type is wanted", expected="a type of either policy", found=repr(name[:80]))
    names = sorted(joined.own.names.get(name) or joined.peer.names[name] for name in wanted)
    needed = Needed(joined, names)
    for name in (*names, *sorted(needed.types)):
        if name in joined.matching.ambiguous or name not in joined.peer.local:
            return Adaptation(wanted=wanted, obstacle=joined.answer(name))
    base = needed.base()
    joined = Joined(base, peer)
    offered = candidates(joined, needed)
    most = Joined(with_labels(base, offered), peer)
    for name in names:
        if not most.shareable(most.index.number[name]):
            return Adaptation(wanted=wanted, obstacle=most.answer(name))
    chosen, minimality = Search(joined, needed, offered).least()
    adapted = with_labels(base, chosen)
    missing = {*names} - {*compatibility(adapted, peer).common.values()}
    if missing:  # nothing above is believed without this
        raise Refused("an adaptation does not do what it is for", found=", ".join(sorted(missing)))
    additions = (*needed.additions(base), *label_additions(joined, chosen))
    return Adaptation(wanted=wanted, additions=additions, minimality=minimality, adapted=adapted)
