"""Three hosts whose daemons may meet a fault at any step, and what must be true of them in the midst of it all.

`FaultyWorld` keeps its own account of what is permitted (leases, types agreed on, what hands have touched) and compares
with it what packets do. It looks around every step that a daemon takes, not only when the daemon has done its work.
"""

import itertools
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from typing import Any

from shamon_host.domain.label_map import EMPTY, LabelMap, allocate
from shamon_host.domain.labels import HostName, TypeName
from shamon_host.links.desired import BLOCK_ENTRIES
from shamon_host.links.manager import LinkManager
from shamon_host.links.model import AddSa, KernelState
from shamon_host.links.ports import AcquireEvent, KernelEvent
from shamon_host.testing.failing_kernel import FailingDocuments, FailingKernel, Lifeline, Step
from shamon_host.testing.kernel import MemoryKernel
from shamon_host.testing.kernel_selinux import SelinuxMode
from shamon_host.testing.kernel_sockets import MemoryFdStore
from shamon_host.testing.wire import MemoryWire
from tests.examples import SHARE
from tests.unit.links.conftest import BLUE, RED, ManualClock, MemoryDocuments, frame, pinned

GREEN = TypeName("acme/green")
TYPES = (RED, BLUE, GREEN)
TAPS = {"shvm0-0": RED, "shvm1-0": RED, "shvm2-0": BLUE, "shvm3-0": GREEN}
LEASE_S, MARGIN_S = 90, 2.0
Pair = tuple[int, int]


class FaultyHost:
    """A host whose daemon is a `LinkManager` on a `Lifeline`; everything else of it outlives that."""

    def __init__(self, world: "FaultyWorld", number: int, label_map: LabelMap) -> None:
        self.world, self.number = world, number
        self.name, self.address = HostName(f"host{number}"), f"192.0.2.{number + 1}"
        self.clock = ManualClock()
        self.kernel = MemoryKernel([self.address], world.wire, self.clock, fd_store=MemoryFdStore())
        self.documents = MemoryDocuments()
        self.label_map = label_map
        self.boot_id = "boot-0"
        self.taps: dict[str, TypeName] = {}
        """Of the VMs that run."""
        self.acquires: list[AcquireEvent] = []
        """Those that the daemon was told and has not answered."""
        self.audited: list[tuple[str, str, Mapping[str, Any]]] = []
        self.keys: set[bytes] = set()
        """That the kernel was ever given, in whatever boot."""
        self.new_daemon()

    @property
    def alive(self) -> bool:
        return not self.life.dead

    def new_daemon(self) -> None:
        """Over the kernel and the store as they are. It has not looked at them yet."""
        self.kernel.close()
        self.acquires.clear()
        self.life = life = Lifeline(before=self._before, after=self._after)
        self.links = LinkManager(
            host=self.name,
            address=self.address,
            kernel=FailingKernel(self.kernel, life),
            documents=FailingDocuments(self.documents, life),
            label_map=lambda: self.label_map,
            audit=lambda *entry: life.take(Step(kind="audit"), lambda: self.audited.append(entry)),
            boottime_s=self.clock.boottime_s,
            boot_id=self.boot_id,
        )
        self.links.kernel.subscribe(self._told)

    def look(self) -> None:
        self.links.reconcile(self.taps, pinned(TAPS))

    def reboot(self) -> None:
        """Off and on: kernel and VMs are gone, clocks start anew, the store stays."""
        self.life.kill()
        self.kernel.reboot()
        self.taps.clear()
        self.boot_id += "x"
        self.clock.boottime = 10.0
        self.new_daemon()

    def plug(self, tap: str, bridge: str) -> None:
        """What the hypervisor does for a VM that starts. Raises BackendFailed."""
        self.kernel.plug_tap(tap, bridge, lambda data: self.world.arrived.append((self.number, tap, data)))
        self.taps[tap] = TAPS[tap]

    def unplug(self, tap: str) -> None:
        self.kernel.unplug_tap(tap)
        self.taps.pop(tap, None)

    def _told(self, event: KernelEvent) -> None:
        if isinstance(event, AcquireEvent):
            self.acquires.append(event)

    def _before(self, step: Step) -> None:
        if isinstance(step.operation, AddSa):
            key = step.operation.sa.key
            assert key is not None
            assert key not in self.keys, f"a key is installed twice, under {step.operation.sa.id}"
            self.keys.add(key)

    def _after(self, step: Step) -> None:
        if step.kind == "apply" and self.world.watching:
            self.world.look_around(self.number)


class FaultyWorld:
    """The hosts, the wire between them, and the account. All times are each host's own CLOCK_BOOTTIME."""

    def __init__(self, hosts: int = 3) -> None:
        self.wire = MemoryWire()
        self.arrived: list[tuple[int, str, bytes]] = []
        """(host, tap, frame) of every frame that reached a VM, since the last one was sent."""
        self.hosts: list[FaultyHost] = []
        self.lease: dict[Pair, float] = {}
        """(who, about whom) → until when the Attestation Result counts."""
        self.grants: defaultdict[Pair, int] = defaultdict(int)
        """How many leases each has granted the other so far."""
        self.gate_end: dict[Pair, float] = {}
        """When the gate of the last whole handshake closes."""
        self.sa_end: defaultdict[Pair, float] = defaultdict(float)
        """When the last SA to or from the peer ends, on the wall clock."""
        self.agreed: defaultdict[Pair, set[TypeName]] = defaultdict(set)
        """Types whose link each side has asked its daemon for and not asked it to close."""
        self.healthy: set[tuple[int, int, TypeName]] = set()
        """Links of two hosts, the lower number first, that nothing has happened to: they lose no packet."""
        self.stepped_back: set[int] = set()
        """Hosts whose wall clock was set back in this boot. The kernel sends with the SA that is newest by it: until
        that one is retired, with one of before, which a peer that lost its end of the link does not have any more."""
        self.loose_spd: set[int] = set()
        self.loose_nft: set[int] = set()
        self.loose_gate: set[int] = set()
        self.loose_ports: set[int] = set()
        """Hosts where a hand opened this, and the daemon has not repaired it since."""
        self.lossy: set[int] = set()
        """Hosts where a hand took something away that the daemon has not put back since."""
        self.unguarded: set[int] = set(range(hosts))
        """Hosts whose daemon has not looked since they booted."""
        self.unseen_permissive: set[int] = set()
        """Hosts that are permissive, and whose daemon has not seen it."""
        self.lenient: set[int] = set()
        """Hosts whose daemon failed to narrow something and has not looked again."""
        self.pending: defaultdict[int, list[Callable[[], None]]] = defaultdict(list)
        """What the account takes back once the host's daemon has looked."""
        self.unclosed: set[Pair] = set()
        """Peers that a daemon could not cut off; it tries again when it looks."""
        self.cut: set[int] = set()
        self.switching = False
        """A handshake is at its sending sides: a fault now may cost packets, until the next handshake."""
        self.watching = True
        """Look around after each step of a daemon, not only after each act."""
        self._numbers, self._turns = itertools.count(), itertools.count()
        maps = [allocate(EMPTY, TYPES, []), allocate(EMPTY, [*TYPES, TypeName("aaa/first")], [])]
        for number in range(hosts):  # a type has not the same category everywhere
            self.hosts.append(FaultyHost(self, number, maps[number % 2]))

    def advance(self, seconds: float) -> None:
        for host in self.hosts:
            host.clock.advance(seconds)

    def repaired(self, i: int) -> None:
        """The host's daemon has looked, and told no failure."""
        for touched in (
            self.loose_spd, self.loose_nft, self.loose_gate, self.loose_ports, self.lossy, self.unguarded,
            self.unseen_permissive, self.lenient,
        ):  # fmt: skip
            touched.discard(i)
        for take_back in self.pending.pop(i, []):
            take_back()

    def killed(self, i: int) -> None:
        """What the host's daemon would have done is forgotten."""
        self.hosts[i].life.kill()
        self.pending.pop(i, None)
        self.unclosed = {pair for pair in self.unclosed if pair[0] != i}

    def unhealthy(self, i: int, j: int | None = None, types: Collection[TypeName] = TYPES) -> None:
        """Links of the host, or of the pair, need a handshake before they are sure to carry again."""
        for link in tuple(self.healthy):
            if i in link[:2] and (j is None or j in link[:2]) and link[2] in types:
                self.healthy.discard(link)

    def pairs(self) -> list[Pair]:
        numbers = range(len(self.hosts))
        return [(i, j) for i in numbers for j in numbers if i != j]

    # What must be true at any moment

    def look_around(self, acting: int | None = None) -> None:
        """Send a frame from every VM, and hold all that is seen against the account.

        In the midst of an act of the host `acting`, while people wait, of its VMs or of the others' by turns."""
        senders: Collection[int] = range(len(self.hosts))
        if acting is not None and SHARE < 1:
            turn, others = next(self._turns), [i for i in senders if i != acting]
            senders = [acting if turn % 2 else others[turn // 2 % len(others)]]
        for i in senders:
            for tap in self.hosts[i].taps:
                self._send(i, tap)
            self._check_guard(i, self.hosts[i].kernel.read())
        clear = [packet for packet in self.wire.packets if not packet.is_esp]
        assert not clear, f"in clear on the wire: {clear[0]}"
        self.wire.packets.clear()

    def _send(self, i: int, tap: str) -> None:
        name = TAPS[tap]
        self.arrived.clear()
        data = frame(f"{i} {tap} {next(self._numbers)}")
        self.hosts[i].kernel.send_from_tap(tap, data)
        got = [(j, other) for j, other, received in self.arrived if received == data]
        assert len(got) == len(self.arrived), "a frame was changed on its way"
        if self.loose_ports:
            return
        assert len(set(got)) == len(got), f"{name} from host {i} arrives twice: {got}"
        for j, other in got:
            assert TAPS[other] == name, f"types met: {name} from host {i} is at {other} of host {j}"
            assert i == j or self._may_cross(i, j, name), f"{name} crosses from host {i} to host {j}"
        for j, receiver in enumerate(self.hosts):
            for other in receiver.taps:
                if TAPS[other] == name and (i, tap) != (j, other) and self._must_arrive(i, j, name):
                    assert (j, other) in got, f"{name} from host {i} is lost on its way to host {j}"

    def _may_cross(self, i: int, j: int, name: TypeName) -> bool:
        for who, whom in ((i, j), (j, i)):
            clock = self.hosts[who].clock
            held = self.lease.get((who, whom), 0.0) > clock.boottime
            # Without the gate what is left is that SAs end.
            backstop = who in self.loose_nft | self.loose_gate and self.sa_end[who, whom] > clock.wall
            if not (held or backstop) or name not in self.agreed[who, whom]:
                return False
            permissive = self.hosts[who].kernel.selinux.mode is not SelinuxMode.ENFORCING
            if permissive and who not in self.unseen_permissive:
                return False
        return True

    def _must_arrive(self, i: int, j: int, name: TypeName) -> bool:
        if self.lossy & {i, j}:
            return False
        if i == j:
            return True
        if self.switching and any(host.life.met for host in self.hosts):
            return False
        return (
            (min(i, j), max(i, j), name) in self.healthy
            and not self.cut & {i, j}
            and all(self.gate_end[pair] > self.hosts[pair[0]].clock.boottime for pair in ((i, j), (j, i)))
        )

    def _check_guard(self, i: int, state: KernelState) -> None:
        """It is there, and no gate outlives its lease."""
        if i not in self.loose_gate | self.lenient:
            numbers = {other.address: j for j, other in enumerate(self.hosts)}
            for address, left_s in state.gate.items():
                lease_s = self.lease.get((i, numbers[address]), 0.0) - self.hosts[i].clock.boottime
                assert left_s <= lease_s + 1e-6, f"host {i}: gate of {address} for {left_s} s, lease for {lease_s} s"
        if i not in self.unguarded:
            assert state.guard or i in self.loose_nft, f"host {i} has lost its guard"
            assert state.spd >= set(BLOCK_ENTRIES) or i in self.loose_spd, f"host {i} has lost block entries"
