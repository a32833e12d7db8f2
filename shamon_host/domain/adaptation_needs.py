"""What every adaptation takes over, whatever labels it chooses: types, and conflict sets about them (`adaptation`)."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import reduce
from itertools import chain
from operator import and_

from shamon_host.domain.additions import Addition, WallAddition
from shamon_host.domain.compatibility import Joined
from shamon_host.domain.flows import FlowSystem, bits
from shamon_host.domain.labels import TypeName
from shamon_host.domain.policy import TypeDefinition


class Needed:
    """What every adaptation takes over: types and conflict sets."""

    def __init__(self, joined: Joined, names: Sequence[TypeName]) -> None:
        """`names`: the wanted types, by the names that both sides use."""
        self.joined = joined
        own, peer = joined.own, joined.peer
        self.wanted = self.down = self.up = joined.index.mask(names)
        """Bits of the wanted types; with what they reach on the peer's side; with what reaches them there."""
        for number in bits(self.wanted):
            self.down |= peer.reach.successors[number]
            self.up |= peer.reach.predecessors[number]
        alike = self.down | self.up
        self.releases = self._releases()
        """What the peer releases and own has to release too: bit of the source, label, bits of the targets."""
        for _, _, to in self.releases:
            alike |= to
        self.types = set(joined.index.types(alike & peer.known & ~own.known))
        """Types to take over: those that have to mean the same to both, and those that what is taken over names."""
        about = {
            members
            for name in joined.index.types(alike & peer.known)
            for members in peer.system.walls_about(peer.local[name])
        }
        sets = {self._local(members) for members in about} - own.system.wall_sets
        new = [*self.types, *self._unknown(chain.from_iterable(sets))]
        while new:
            self.types.update(new)
            new = self._unknown(chain.from_iterable(self.definition(name).apart for name in new))
        apart = (frozenset({name, wall}) for name in self.types for wall in self.definition(name).apart)
        self.walls = sets.difference(apart)
        """Conflict sets to take over, beside those that come with definitions; under own's names."""

    def _releases(self) -> list[tuple[int, str, int]]:
        """Those of what comes through a wanted type to where that type may not flow."""
        peer, found = self.joined.peer, []
        near = [peer.reach.successors[number] | 1 << number for number in bits(self.wanted)]
        for number, labels in peer.releases.items():
            permitted = [types for types in near if types >> number & 1]
            if permitted:
                everywhere = reduce(and_, permitted)
                found += [(number, name, to & ~everywhere) for name, to in labels.items() if to & ~everywhere]
        return found

    def _local(self, members: Iterable[str]) -> frozenset[str]:
        """A conflict set of the peer's under own's names."""
        common, local = self.joined.matching.common, self.joined.own.local
        return frozenset(local.get(common.get(each, TypeName(each)), each) for each in members)

    def _unknown(self, names: Iterable[str]) -> list[TypeName]:
        """Those of these names that are types of the peer's which own does not have and would not have yet."""
        theirs, mine = self.joined.peer.system.definitions, self.joined.own.system.definitions
        types = (TypeName(name) for name in set(names))
        return sorted(name for name in types if name in theirs and name not in mine and name not in self.types)

    def definition(self, name: TypeName) -> TypeDefinition:
        """The peer's definition of a type that own does not have, under own's names."""
        found = self.joined.peer.system.definitions[name]
        return replace(found, apart=self._local(found.apart))

    def base(self) -> FlowSystem:
        """Own with these types and conflict sets."""
        own, peer = self.joined.own.system, self.joined.peer.system
        definitions = {**own.definitions, **{name: self.definition(name) for name in self.types}}
        conflict_sets = set(own.conflict_sets)
        for wall in self._wall_additions():
            if wall.apart_of is None:
                conflict_sets.add(wall.members)
            else:
                definition = definitions[wall.apart_of]
                apart = definition.apart | (wall.members - {wall.apart_of})
                definitions[wall.apart_of] = replace(definition, apart=apart)
        return FlowSystem(
            definitions=definitions,
            owners={**own.owners, **{name: peer.owners.get(name, ()) for name in self.types}},
            labels=own.labels,
            conflict_sets=frozenset(conflict_sets),
        )

    def _wall_additions(self) -> list[WallAddition]:
        peer = self.joined.peer
        declared = {self._local(members) for members in peer.system.conflict_sets}
        apart_of = {
            self._local({name, wall}): self.joined.own.local.get(peer.names[name], name)
            for name, each in sorted(peer.system.definitions.items(), reverse=True)
            for wall in each.apart
        }
        return [
            WallAddition(members=members, apart_of=None if members in declared else apart_of[members])
            for members in sorted(self.walls, key=sorted)
        ]

    def additions(self, base: FlowSystem) -> list[Addition]:
        """The lines that make own into `base`."""
        found = [
            Addition(what=self.definition(name), taken_from=name, signers=frozenset({name}))
            for name in sorted(self.types)
        ]
        for wall in self._wall_additions():
            about = frozenset(name for name in base.definitions if wall.members in base.walls_about(name))
            found.append(Addition(what=wall, taken_from=", ".join(sorted(wall.members)), signers=about))
        return found
