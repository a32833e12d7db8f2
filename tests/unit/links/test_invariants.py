"""Invariants 1, 3, 5 and 7 over any life: hosts join and leave, daemons are killed, operations fail, hands interfere.

The model keeps, for each pair of hosts, until when each of them holds a lease for the other. A packet may cross only
while both do, only under its own type, never in clear, and never against a filter of one of the two taps.
"""

import contextlib

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from shamon_host.domain.errors import BackendFailed, Refused
from shamon_host.domain.label_map import EMPTY, allocate
from shamon_host.domain.labels import TypeName
from shamon_host.links.desired import BLOCK_ENTRIES
from shamon_host.links.model import Direction, SpdEntry
from shamon_host.links.tap_filter import TapFilter
from shamon_host.testing.wire import MemoryWire
from tests.examples import examples
from tests.unit.links.conftest import BLUE, LEASE_S, RED, Agreed, Host, agree, frame

NAMES = ("alpha", "beta", "gamma")
TAPS = {RED: "shvm0-0", BLUE: "shvm0-1"}
PAIRS = st.sampled_from([(0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1)])
TYPES = st.sampled_from([(RED,), (BLUE,), (RED, BLUE), ()])
HOSTS = st.integers(0, 2)
FILTERS = st.dictionaries(st.sampled_from(sorted(TAPS.values())), st.tuples(st.booleans(), st.booleans())).map(
    lambda limits: {tap: TapFilter(device=tap, sends=ways[0], receives=ways[1]) for tap, ways in limits.items()}
)
ANYTHING_OUT = SpdEntry(
    direction=Direction.OUT, family=4, source="", destination="", source_port=0, source_port_mask=0,
    destination_port=0, destination_port_mask=0, priority=1, block=False,
)  # fmt: skip


class Coalition(RuleBasedStateMachine):
    """Three hosts on one wire; each has a red and a blue VM."""

    leases = Bundle("leases")

    @initialize()
    def boot(self) -> None:
        self.wire = MemoryWire()
        self.hosts = [Host(name, f"192.0.2.{number}", self.wire) for number, name in enumerate(NAMES, 1)]
        # One name has different categories on different hosts.
        self.hosts[1].label_map = allocate(EMPTY, [RED, BLUE, TypeName("aaa/first"), TypeName("bbb/second")], [])
        self.lease: dict[tuple[int, int], float] = {}
        """(who, about whom) → until when, in seconds since the start."""
        self.now = 0.0
        self.touched: set[int] = set()
        """Hosts where somebody interfered and the daemon has not looked since."""
        for host in self.hosts:
            host.links.reconcile({})
            for name, tap in TAPS.items():
                host.start_vm(tap, name)

    # What daemons do

    @rule(pair=PAIRS, types=TYPES, fail=st.none() | st.integers(0, 25))
    def handshake(self, pair: tuple[int, int], types: tuple[TypeName, ...], fail: int | None) -> None:
        """A whole handshake, during which one operation of the first host may fail."""
        (i, j), (a, b) = pair, (self.hosts[pair[0]], self.hosts[pair[1]])
        of_a: list[Agreed] = []
        of_b: list[Agreed] = []
        done = False
        try:
            of_a, of_b = agree(a, b, types)
            a.kernel.fail_after = fail
            a.links.install_inbound(b.name, b.address, of_a, lifetime_s=LEASE_S)
            b.links.install_inbound(a.name, a.address, of_b, lifetime_s=LEASE_S)
            for host, peer, links in ((a, b, of_a), (b, a, of_b)):
                who = (i, j) if host is a else (j, i)
                self.lease[who] = max(self.lease.get(who, 0.0), self.now + LEASE_S)
                host.links.install_outbound(peer.name, peer.address, links, gate_s=LEASE_S - 2, lifetime_s=LEASE_S)
            done = True
        except (BackendFailed, Refused):
            pass
        finally:
            a.kernel.fail_after = None
        if not done:
            a.links.abandon(b.name, b.address, [link.in_spi for link in of_a], of_a)
            b.links.abandon(a.name, a.address, [link.in_spi for link in of_b], of_b)
            a.look()  # a tap whose filter could not be set is off its bridge
        self.touched -= {i, j}
        if done and fail is None and len(types) > 0 and self._enforcing(i, j):
            for name in types:
                assert self._arrives(i, j, name) is self._may(i, j, name)
                assert self._arrives(j, i, name) is self._may(j, i, name)

    @rule(pair=PAIRS, fail=st.none() | st.integers(0, 12))
    def suspend(self, pair: tuple[int, int], fail: int | None) -> None:
        """The first host cuts the second one off; whatever fails on the way, nothing passes afterwards."""
        (i, j), (a, b) = pair, (self.hosts[pair[0]], self.hosts[pair[1]])
        a.kernel.fail_after = fail
        with contextlib.suppress(BackendFailed):
            a.links.close_peer(b.name, b.address)
        a.kernel.fail_after = None
        self.lease.pop((i, j), None)
        state = a.kernel.read()
        if fail is None:
            assert b.address not in state.gate
            assert not [tunnel for tunnel in state.tunnels if tunnel.remote == b.address]
            assert not [sa for sa in state.sas if b.address in (sa.source, sa.destination)]

    @rule(i=HOSTS)
    def kill_and_restart(self, i: int) -> None:
        host = self.hosts[i]
        host.restart()
        host.look()
        self._settled(i)

    @rule(i=HOSTS, fail=st.integers(0, 6))
    def kill_while_it_repairs(self, i: int, fail: int) -> None:
        host = self.hosts[i]
        host.kernel.fail_after = fail
        with contextlib.suppress(BackendFailed):
            host.look()
        host.kernel.fail_after = None
        host.restart()
        host.look()
        self._settled(i)

    @rule(i=HOSTS)
    def look(self, i: int) -> None:
        self.hosts[i].look()
        self._settled(i)

    @rule(i=HOSTS, filters=FILTERS, fail=st.none() | st.integers(0, 4))
    def limit(self, i: int, filters: dict[str, TapFilter], fail: int | None) -> None:
        """The daemon asks for other filters; one operation may fail, and it asks again."""
        host = self.hosts[i]
        host.filters = filters
        host.kernel.fail_after = fail
        with contextlib.suppress(BackendFailed):
            host.look()
        host.kernel.fail_after = None
        host.look()
        self._settled(i)

    @rule(i=HOSTS)
    def tidy(self, i: int) -> None:
        self.hosts[i].links.tidy()

    # What happens to them

    @rule(seconds=st.sampled_from([1.0, 12.0, 40.0, 95.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        for host in self.hosts:
            host.clock.advance(seconds)

    @rule(i=HOSTS, seconds=st.sampled_from([-3600.0, 3600.0]))
    def step_clock(self, i: int, seconds: float) -> None:
        if i not in self.touched:  # without its guard a host has SA lifetimes alone, which a step moves
            self.hosts[i].clock.wall += seconds

    @rule(i=HOSTS, what=st.sampled_from(["policies", "nft", "sas", "rule", "filter"]))
    def flush(self, i: int, what: str) -> None:
        """One of the two layers of the guard, never both before the daemon looked."""
        kernel = self.hosts[i].kernel
        if i in self.touched:
            return
        self.touched.add(i)
        match what:
            case "policies":
                kernel.flush_policies()
            case "nft":
                kernel.flush_nft()
            case "rule":
                kernel.damage_guard()
            case "filter":
                for tap in kernel.read().filters:
                    kernel.damage_filter(tap)
            case _:
                kernel.flush_sas()

    @rule(i=HOSTS, bridge=st.sampled_from(["shbr1", "shbr2"]))
    def interfere(self, i: int, bridge: str) -> None:
        kernel = self.hosts[i].kernel
        if i in self.touched:
            return
        self.touched.add(i)
        kernel.put_policy(ANYTHING_OUT)
        if bridge in kernel.read().bridges:
            kernel.put_port(bridge, "eth9")
            kernel.unseal(bridge)

    @rule(i=HOSTS)
    def reboot(self, i: int) -> None:
        host = self.hosts[i]
        host.reboot()
        self.touched.discard(i)
        for pair in [pair for pair in self.lease if pair[0] == i]:
            del self.lease[pair]
        host.links.reconcile({}, host.filters)
        for name, tap in TAPS.items():
            host.start_vm(tap, name)

    @rule(i=HOSTS)
    def setenforce(self, i: int) -> None:
        host = self.hosts[i]
        host.kernel.selinux.set_enforcing(False)
        host.links.reconcile(host.taps)
        assert host.links.status() == ()
        assert host.kernel.read().tunnels == frozenset()
        host.kernel.selinux.set_enforcing(True)
        self.touched.discard(i)

    @rule(i=HOSTS, permissive=st.sampled_from([None, "shamon_t", "shamon_link_t"]))
    def load_policy(self, i: int, permissive: str | None) -> None:
        """Without the module, or with a domain that denies nothing, until the next load puts it right."""
        host = self.hosts[i]
        host.kernel.load_policy(module=permissive is not None, permissive=[permissive] if permissive else [])
        host.links.reconcile(host.taps)
        assert host.links.status() == ()
        state = host.kernel.read()
        assert (state.tunnels, state.sas) == (frozenset(), frozenset())
        host.kernel.load_policy()
        self.touched.discard(i)

    # What must hold

    @invariant()
    def packets_cross_only_under_lease_and_type(self) -> None:
        for i, _ in enumerate(self.hosts):
            for j, _ in enumerate(self.hosts):
                for name in TAPS:
                    arrived = self._arrives(i, j, name) if i != j else False
                    held = all(self.lease.get(pair, 0.0) > self.now for pair in ((i, j), (j, i)))
                    assert held or not arrived, f"{name} from {NAMES[i]} to {NAMES[j]} without a lease"
                    if not self.touched & {i, j}:
                        assert not arrived or self._may(i, j, name), f"{name} against a filter"

    @invariant()
    def the_guard_stays(self) -> None:
        for i, host in enumerate(self.hosts):
            if i not in self.touched:
                state = host.kernel.read()
                assert state.guard
                assert set(BLOCK_ENTRIES) <= state.spd

    @invariant()
    def nothing_is_ever_in_clear(self) -> None:
        assert not [packet for packet in self.wire.packets if packet.is_clear_link]
        self.wire.packets.clear()

    def _arrives(self, i: int, j: int, name: TypeName) -> bool:
        """A frame of this type from one host's VM gets to the other's; never to a VM of another type."""
        sender, receiver = self.hosts[i], self.hosts[j]
        text = f"{i}{j}{name}{self.now}"
        for host in self.hosts:
            for received in host.received.values():
                received.clear()
        sender.kernel.send_from_tap(TAPS[name], frame(text))
        for host in self.hosts:
            for other, tap in TAPS.items():
                copies = sum(text.encode() in item for item in host.received[tap])
                assert copies <= 1, "a loop"
                assert copies == 0 or other == name, "types met"
        return any(text.encode() in item for item in receiver.received[TAPS[name]])

    def _may(self, i: int, j: int, name: TypeName) -> bool:
        """Filters at both ends let it pass."""
        limits = [self.hosts[number].filters.get(TAPS[name], TapFilter(device=TAPS[name])) for number in (i, j)]
        return limits[0].sends and limits[1].receives

    def _enforcing(self, *numbers: int) -> bool:
        return all(self.hosts[i].kernel.read().selinux_enforcing for i in numbers)

    def _settled(self, i: int) -> None:
        """Looking again finds nothing to do."""
        self.touched.discard(i)
        host = self.hosts[i]
        count = len([kind for kind, _, _ in host.audited if kind == "link.apply"])
        host.look()
        assert len([kind for kind, _, _ in host.audited if kind == "link.apply"]) == count


TestCoalition = Coalition.TestCase
TestCoalition.settings = settings(max_examples=examples(20), stateful_step_count=30, deadline=None)
