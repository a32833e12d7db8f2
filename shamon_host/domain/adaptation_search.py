"""The search for few labels that suffice: branch on the smallest demand, within a budget of work (`adaptation`)."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import accumulate, islice

from shamon_host.domain.adaptation_labels import Candidate
from shamon_host.domain.adaptation_needs import Needed
from shamon_host.domain.additions import Minimality
from shamon_host.domain.compatibility import Joined
from shamon_host.domain.flows import Reachability, bits

MOST_CHOSEN = 12
"""Up to so many labels, beside those without which it cannot be, the smallest choice is searched for."""
MOST_WORK = 1_000_000
"""Of the search, in types and labels looked at, some microseconds each; beyond it the choice is only minimal."""
_MOST_DEMANDS = 2_000
"""Demands that are looked at before the search, for labels without which it cannot be and for how few may do."""


class Search:
    """Which candidates to take. A set of candidates is an integer, with the bits of their numbers."""

    def __init__(self, joined: Joined, needed: Needed, candidates: Sequence[Candidate]) -> None:
        self.candidates = candidates
        self.wanted = bits(needed.wanted)
        self.own, self.peer = joined.own.reach, joined.peer.reach
        self._out_of: dict[int, int] = {}
        self._into: dict[int, int] = {}
        self.releases = [
            self._releasing(source, target, name)
            for source, name, to in needed.releases
            for target in bits(to & ~joined.own.releases.get(source, {}).get(name, 0))
        ]
        """For each thing that own has yet to release: the candidates that do."""
        self.work = MOST_WORK
        self.node_work = 1 + len(joined.index.names) // 10 + len(self.wanted) + len(candidates)

    def least(self) -> tuple[list[Candidate], Minimality]:
        """The choice, and whether it is known that none is smaller. All candidates together must suffice."""
        forced = self._forced()
        start = self._with(forced)
        found = self._greedy(start, forced)
        size, most = self._bound(self._some(start, forced, _MOST_DEMANDS)), (found & ~forced).bit_count()
        while size < most and size <= MOST_CHOSEN:
            smaller = self._within(size, start, forced, 0)
            if smaller is not None:
                found = smaller
                break
            if self.work < 0:
                return self._labels(found), Minimality.MINIMAL
            size += 1
        else:
            if size < most:
                return self._labels(found), Minimality.MINIMAL
        return self._labels(found), Minimality.SMALLEST

    def _labels(self, chosen: int) -> list[Candidate]:
        return [self.candidates[number] for number in bits(chosen)]

    def _with(self, chosen: int, onto: Reachability | None = None) -> Reachability:
        """What is reached with these candidates, on top of own or of `onto`."""
        reach = (self.own if onto is None else onto).copy()
        for number in bits(chosen):
            for sources, targets in self.candidates[number].chains:
                reach.add(sources, targets)
        return reach

    def _demands(self, reach: Reachability, chosen: int) -> Iterator[int]:
        """Sets of candidates of each of which every choice that suffices and includes `chosen` has one more."""
        for number in self.wanted:
            itself, after, before = 1 << number, reach.successors[number], reach.predecessors[number]
            lacking = self.peer.successors[number] & ~after
            if lacking:
                yield self._leaving(after | itself)
            for end in bits(lacking):
                yield self._entering(reach.predecessors[end] | 1 << end)
            lacking = self.peer.predecessors[number] & ~before
            if lacking:
                yield self._entering(before | itself)
            for end in bits(lacking):
                yield self._leaving(reach.successors[end] | 1 << end)
        yield from (releasing for releasing in self.releases if not releasing & chosen)

    def _some(self, reach: Reachability, chosen: int, most: int = 48) -> set[int]:
        """The first demands: as many as pay at one node."""
        return set(islice(self._demands(reach, chosen), most))

    def _suffices(self, reach: Reachability, chosen: int) -> bool:
        return next(self._demands(reach, chosen), None) is None

    def _leaving(self, inside: int) -> int:
        """Candidates that lead out of a set of types."""
        if inside not in self._out_of:
            self._out_of[inside] = self._those(each.leads_out_of(inside) for each in self.candidates)
        return self._out_of[inside]

    def _entering(self, inside: int) -> int:
        """Candidates that lead into a set of types."""
        if inside not in self._into:
            self._into[inside] = self._those(each.leads_into(inside) for each in self.candidates)
        return self._into[inside]

    @staticmethod
    def _those(whether: Iterable[bool]) -> int:
        return sum(1 << number for number, holds in enumerate(whether) if holds)

    def _releasing(self, source: int, target: int, name: str) -> int:
        """Candidates of this name that release from one type to another."""
        return self._those(
            each.label.name == name and bool(each.releases[0] >> source & each.releases[1] >> target & 1)
            for each in self.candidates
        )

    def _forced(self) -> int:
        """Candidates that every choice has."""
        forced, more, reach = 0, -1, self.own
        while more:
            more = 0
            for demand in self._some(reach, forced, _MOST_DEMANDS):
                if demand.bit_count() == 1:
                    more |= demand
            forced, reach = forced | more, self._with(more, reach)
        return forced

    def _greedy(self, reach: Reachability, forced: int) -> int:
        """A choice of which nothing can be left out."""
        start, chosen, picked = reach, forced, list[int]()
        while demands := self._some(reach, chosen):
            votes = Counter(number for demand in demands for number in bits(demand))
            best = max(sorted(votes), key=votes.__getitem__)
            picked.append(best)
            chosen, reach = chosen | 1 << best, self._with(1 << best, reach)
        return forced | self._thinned(start, forced, picked)

    def _thinned(self, reach: Reachability, chosen: int, picked: Sequence[int]) -> int:
        """As many of `picked` as it takes beside `chosen`, of which none can be left out (Junker 2004, QuickXplain)."""
        if not picked or self._suffices(reach, chosen):
            return 0
        if len(picked) == 1:
            return 1 << picked[0]
        half = len(picked) // 2
        first = sum(1 << number for number in picked[:half])
        second = self._thinned(self._with(first, reach), chosen | first, picked[half:])
        return second | self._thinned(self._with(second, reach), chosen | second, picked[:half])

    @staticmethod
    def _bound(demands: Collection[int]) -> int:
        """How many more there must be at least: as many as demands without a common candidate, and so many that even
        those in most demands are in as many as there are."""
        disjoint = taken = 0
        for demand in sorted(demands, key=int.bit_count):
            if not demand & taken:
                disjoint, taken = disjoint + 1, taken | demand
        votes = Counter(number for demand in demands for number in bits(demand))
        met = accumulate((count for _, count in votes.most_common()), initial=0)
        return max(disjoint, sum(1 for each in met if each < len(demands)))

    def _within(self, size: int, reach: Reachability, chosen: int, banned: int) -> int | None:
        """A choice with at most `size` more, none of them banned, or None. Proves nothing if `work` fell below 0."""
        self.work -= self.node_work
        demands = [demand & ~banned for demand in self._some(reach, chosen)]
        if not demands:
            return chosen
        if self.work < 0 or 0 in demands or self._bound(demands) > size:
            return None
        for number in bits(min(demands, key=int.bit_count)):
            found = self._within(size - 1, self._with(1 << number, reach), chosen | 1 << number, banned)
            if found is not None:
                return found
            banned |= 1 << number  # every choice with it has been tried
        return None
