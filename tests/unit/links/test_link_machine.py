"""Invariants 1, 3, 5 and 7 over any life of links whose daemons meet a fault, or are killed, at any step they take.

Every step of every daemon is looked at while it happens (`FaultyWorld.look_around`): what is on the wire, which VM got
which frame, how long gates are open, which keys the kernel is given. And in the end it converges.
"""

from collections.abc import Callable

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from shamon_host.domain.labels import TypeName
from shamon_host.testing.failing_kernel import Fault
from tests.examples import examples
from tests.unit.links import faulty_acts as acts
from tests.unit.links.faulty_hands import GATE_HANDS, NFT_HANDS, PORT_HANDS, SA_HANDS, SPD_HANDS, interfere, settle
from tests.unit.links.faulty_world import TAPS, TYPES, FaultyWorld

HOSTS = st.integers(0, 2)
PAIRS = st.sampled_from([(0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1)])
SOME_TYPES = st.sets(st.sampled_from(TYPES))
SEEN = st.booleans()
STEPS = st.integers(0, 30)
FAULTS = st.none() | st.tuples(st.sampled_from(sorted(set(Fault) - {Fault.IGNORED})), STEPS)
LIES = st.tuples(st.just(Fault.IGNORED), STEPS)
"""Reading back shows them; only a repair is complete in spite of one, and anything else waits for that."""
Met = tuple[Fault, int] | None
Touches = list[tuple[str, int]]


def touches(*hands: tuple[str, ...]) -> st.SearchStrategy[Touches]:
    """Some of these, each with a number that picks what it is done to."""
    touch = st.tuples(st.sampled_from(sum(hands, ())), st.integers(0, 20))
    return st.lists(touch, min_size=2, max_size=6, unique_by=lambda item: item[0])


class Links(RuleBasedStateMachine):
    """Three hosts, with VMs of all types and every link between them, or with nothing yet."""

    @initialize(linked=st.sampled_from([True, True, False]))
    def boot(self, linked: bool) -> None:
        self.world = FaultyWorld()
        for i in range(3):
            acts.look(self.world, i)
            for tap in TAPS if linked else ():
                acts.start_vm(self.world, i, tap)
        for pair in [(0, 1), (0, 2), (1, 2)] if linked else ():
            acts.handshake(self.world, *pair, TYPES)

    # What daemons do

    @rule(pair=PAIRS, types=SOME_TYPES, fault=FAULTS, of=st.booleans())
    def handshake(self, pair: tuple[int, int], types: set[TypeName], fault: Met, of: bool) -> None:
        """Whole, or broken off by a fault of either side."""
        self._meeting(pair[of], fault, lambda: acts.handshake(self.world, *pair, types))

    @rule(pair=PAIRS, types=SOME_TYPES, ends_at=st.integers(0, 5), noticed=st.booleans(), fault=FAULTS)
    def break_off(self, pair: tuple[int, int], types: set[TypeName], ends_at: int, noticed: bool, fault: Met) -> None:
        """A message of the handshake is lost; one side may meet a fault, too."""
        self._meeting(
            pair[0], fault, lambda: acts.handshake(self.world, *pair, types, ends_at=ends_at, noticed=noticed)
        )

    @rule(pair=PAIRS, at=st.integers(0, 5))
    def permissive_meanwhile(self, pair: tuple[int, int], at: int) -> None:
        acts.handshake(self.world, *pair, TYPES, permissive_at=at)

    @rule(pair=PAIRS)
    def carry_all(self, pair: tuple[int, int]) -> None:
        acts.handshake(self.world, *pair, TYPES)

    @rule(pair=PAIRS, fault=FAULTS)
    def suspend(self, pair: tuple[int, int], fault: Met) -> None:
        self._meeting(pair[0], fault, lambda: acts.suspend(self.world, *pair))

    @rule(pair=PAIRS, types=SOME_TYPES, fault=FAULTS)
    def close_types(self, pair: tuple[int, int], types: set[TypeName], fault: Met) -> None:
        self._meeting(pair[0], fault, lambda: acts.close_types(self.world, *pair, types))

    @rule(i=HOSTS, tap=st.sampled_from(sorted(TAPS)), fault=FAULTS)
    def start_vm(self, i: int, tap: str, fault: Met) -> None:
        self._meeting(i, fault, lambda: acts.start_vm(self.world, i, tap))

    @rule(i=HOSTS, fault=FAULTS | LIES)
    def look(self, i: int, fault: Met) -> None:
        self._meeting(i, fault, lambda: acts.look(self.world, i))

    @rule(i=HOSTS, fault=FAULTS)
    def tidy(self, i: int, fault: Met) -> None:
        def tidy() -> None:
            if self.world.hosts[i].alive:
                with acts.mishaps(self.world, i):
                    self.world.hosts[i].links.tidy()

        self._meeting(i, fault, tidy)

    @precondition(lambda self: any(host.acquires for host in self.world.hosts))
    @rule()
    def answer_acquires(self) -> None:
        """A burst of them makes one handshake with each peer."""
        for i, host in enumerate(self.world.hosts):
            for _ in {event.destination for event in host.acquires}:
                acts.answer_acquire(self.world, i)

    # What happens to them

    @rule(i=HOSTS)
    def kill(self, i: int) -> None:
        self.world.killed(i)

    @rule(i=HOSTS, fault=FAULTS)
    def stop_unit(self, i: int, fault: Met) -> None:
        self._meeting(i, fault, lambda: acts.stop_unit(self.world, i))

    @rule(i=HOSTS)
    def reboot(self, i: int) -> None:
        acts.reboot(self.world, i)

    @rule(i=HOSTS, tap=st.sampled_from(sorted(TAPS)))
    def stop_vm(self, i: int, tap: str) -> None:
        self.world.hosts[i].unplug(tap)

    @rule(i=HOSTS, touches=touches(SPD_HANDS, NFT_HANDS), seen=SEEN)
    def touch_the_guard(self, i: int, touches: Touches, seen: bool) -> None:
        self._interfere(i, touches, seen)

    @rule(i=HOSTS, touches=touches(GATE_HANDS, SA_HANDS), seen=SEEN)
    def touch_gates_and_sas(self, i: int, touches: Touches, seen: bool) -> None:
        self._interfere(i, touches, seen)

    @rule(i=HOSTS, touches=touches(PORT_HANDS), seen=SEEN)
    def touch_ports(self, i: int, touches: Touches, seen: bool) -> None:
        self._interfere(i, touches, seen)

    @rule(i=HOSTS, enforcing=st.booleans(), seen=SEEN)
    def setenforce(self, i: int, enforcing: bool, seen: bool) -> None:
        acts.set_enforcing(self.world, i, enforcing=enforcing)
        if seen:
            acts.look(self.world, i)

    @rule(seconds=st.sampled_from([1.0, 12.0, 40.0, 95.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.advance(seconds)

    @rule(i=HOSTS, seconds=st.sampled_from([-3600.0, 3600.0]))
    def step_clock(self, i: int, seconds: float) -> None:
        if i in self.world.loose_nft | self.world.loose_gate and seconds < 0:
            return  # the gate is gone, and what ends what it let through is a lifetime that counts by this clock
        self.world.hosts[i].clock.wall += seconds
        if seconds > 0:
            self.world.unhealthy(i)
        else:
            self.world.stepped_back.add(i)

    @rule(i=HOSTS, cut=st.booleans())
    def cable(self, i: int, cut: bool) -> None:
        wire, address = self.world.wire, self.world.hosts[i].address
        (wire.cut if cut else wire.restore)(address)
        (self.world.cut.add if cut else self.world.cut.discard)(i)

    @invariant()
    def nothing_is_where_it_should_not_be(self) -> None:
        self.world.look_around()

    def teardown(self) -> None:
        if hasattr(self, "world"):
            settle(self.world, rekeys=True)

    def _interfere(self, i: int, touches: Touches, seen: bool) -> None:
        for what, pick in touches:
            interfere(self.world, i, what, pick)
        if seen:
            acts.look(self.world, i)

    def _meeting(self, i: int, fault: Met, act: Callable[[], object]) -> None:
        if fault is not None and self.world.hosts[i].alive:
            self.world.hosts[i].life.arm(*fault)
        act()
        self.world.hosts[i].life.disarm()


TestLinks = Links.TestCase
TestLinks.settings = settings(max_examples=examples(30), stateful_step_count=20, deadline=None)
