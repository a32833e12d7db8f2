"""What happens in a `FaultyWorld`: each act drives the daemons, whatever they meet, and keeps the world's account.

No act raises for a fault. What the daemon of `shamon_host.daemon` would do about a failure is done here too: it gives
a broken handshake back, tries again to cut a peer off, and does not start on a kernel that it cannot put right.
"""

import contextlib
import math
import secrets
from collections.abc import Callable, Collection, Iterator

from shamon_host.domain.errors import BackendFailed, Refused
from shamon_host.domain.labels import TypeName
from shamon_host.links.agreed import Offer
from shamon_host.links.link_records import load_peers
from shamon_host.links.ports import AcquireEvent
from shamon_host.testing.failing_kernel import DaemonKilled
from tests.unit.links.conftest import Agreed
from tests.unit.links.faulty_world import LEASE_S, MARGIN_S, TAPS, FaultyWorld

WHOLE = 6
"""Steps of a handshake: two offers, two receiving sides, the answerer's sending side, the caller's."""


class _MessageLost(Exception):
    """The handshake ends here for both."""


@contextlib.contextmanager
def mishaps(world: FaultyWorld, i: int) -> Iterator[None]:
    """Faults of the host's daemon end what is inside, and are accounted for."""
    life = world.hosts[i].life
    armed = life.armed
    try:
        yield
    except DaemonKilled:
        world.killed(i)
    except BackendFailed:
        assert armed, "a daemon fails that no fault was made for"
    finally:
        if armed and not life.armed and i in world.lossy | world.loose_nft | world.loose_spd:
            world.unhealthy(i)


def start(world: FaultyWorld, i: int) -> bool:
    """A new daemon looks at what is there. Whether it goes on: one that fails here ends."""
    host = world.hosts[i]
    if not host.life.dead:
        world.killed(i)
    host.new_daemon()
    return look(world, i, starting=True)


def look(world: FaultyWorld, i: int, *, starting: bool = False) -> bool:
    """The daemon puts right what it can, as it does whenever the kernel tells of a change. Whether it got through."""
    host, whole = world.hosts[i], False
    if host.life.dead:
        return start(world, i)
    armed = host.life.armed
    told = len(host.audited)
    in_the_way = [entry.foreign for entry in host.kernel.read().spd if entry.foreign]
    with mishaps(world, i):
        for pair in sorted(world.unclosed):
            if pair[0] == i:
                host.links.close_peer(world.hosts[pair[1]].name, world.hosts[pair[1]].address)
        host.look()
        whole = True
    if whole:
        world.unclosed = {pair for pair in world.unclosed if pair[0] != i}
        if not host.kernel.read().selinux_enforcing:
            for pair in world.pairs():
                if pair[0] == i:
                    world.agreed[pair].clear()
        words = str(host.audited[told:])
        assert all(what in words for what in in_the_way), "a foreign SPD entry went, and nobody was told"
        _knows_what_is_missing(world, i)
        for j in range(len(world.hosts)):
            if j != i and not world.agreed[i, j]:
                _holds_nothing_of(world, i, j)
        _holds_nothing_strange(world, i)
        if armed and not host.life.armed:
            world.lossy.add(i)  # a tap that could not be attached is told, and holds nothing up
        else:
            world.repaired(i)
    elif starting and host.alive:
        world.killed(i)
    world.look_around()
    return whole


def _knows_what_is_missing(world: FaultyWorld, i: int) -> None:
    """A link with its device in the bridge that cannot carry both ways is one that the daemon wants a handshake for."""
    host = world.hosts[i]
    state = host.kernel.read()
    ends = {(sa.reqid, sa.destination) for sa in state.sas}
    ports = {port for bridge in state.bridges.values() for port, isolated in bridge.ports.items() if isolated}
    for tunnel in state.tunnels:
        whole = {(tunnel.local_port, end) for end in (tunnel.local, tunnel.remote)} <= ends
        if tunnel.interface in ports and not (whole and tunnel.remote in state.gate):
            peer = next(other.name for other in world.hosts if other.address == tunnel.remote)
            assert peer in host.links.needs_rekey(), f"host {i} does not miss what its link to {peer} lacks"


def _holds_nothing_strange(world: FaultyWorld, i: int) -> None:
    """Whatever hands have put in the way is gone."""
    host = world.hosts[i]
    state = host.kernel.read()
    assert not [entry for entry in state.spd if entry.foreign]
    assert all(bridge.sealed for bridge in state.bridges.values())
    ports = {port for bridge in state.bridges.values() for port in bridge.ports}
    assert ports <= {tunnel.interface for tunnel in state.tunnels} | set(host.taps)


def _holds_nothing_of(world: FaultyWorld, i: int, j: int) -> None:
    state, address = world.hosts[i].kernel.read(), world.hosts[j].address
    assert address not in state.gate
    assert not [sa for sa in state.sas if address in (sa.source, sa.destination)]
    assert not [entry for entry in state.spd if address in (entry.source, entry.destination)]
    assert not [tunnel for tunnel in state.tunnels if tunnel.remote == address]


def start_vm(world: FaultyWorld, i: int, tap: str) -> None:
    host = world.hosts[i]
    if tap in host.taps or (host.life.dead and not start(world, i)):
        return
    with mishaps(world, i):
        host.plug(tap, host.links.ensure_bridge(TAPS[tap]))
    if tap in host.taps and host.alive:
        look(world, i)


def handshake(
    world: FaultyWorld,
    i: int,
    j: int,
    types: Collection[TypeName],
    *,
    ends_at: int = WHOLE,
    noticed: bool = False,
    permissive_at: int = WHOLE,
) -> bool:
    """`i` calls `j`; both offer `types`. `ends_at`: how many of its steps there are before a message is lost;
    `noticed`: a side that was done hears of the end, and takes back what it did. `permissive_at`: before that step,
    somebody sets the host that takes it permissive."""
    for number in (i, j):
        if world.hosts[number].life.dead and not start(world, number):
            return False
    run = _Handshake(world, i, j, types)
    healthy = frozenset(world.healthy)
    steps: list[tuple[int, Callable[[int], None]]] = [
        (i, run.offer),
        (j, run.offer),
        (i, run.receive),
        (j, run.receive),
        (j, run.send),
        (i, run.send),
    ]
    world.switching = False
    for number, (who, act) in enumerate(steps):
        try:
            if number == ends_at:
                raise _MessageLost
            if number == permissive_at:
                set_enforcing(world, who, enforcing=False)
            act(who)
        except (BackendFailed, Refused, DaemonKilled, _MessageLost) as error:
            if isinstance(error, DaemonKilled):
                world.killed(who)
            if isinstance(error, BackendFailed) and not any(world.hosts[side].life.met for side in (i, j)):
                raise  # no fault was made for this
            world.switching = False
            if run.sending:  # one side may have switched to SAs that the other one takes back
                world.unhealthy(i, j)
            for side in (i, j):
                if (noticed or side not in run.done) and world.hosts[side].alive:
                    run.abandon(side)
            world.look_around()
            return False
        world.look_around()
    world.switching = False
    world.unhealthy(i, j)
    links = {(min(i, j), max(i, j), link.type) for link in run.agreed[i]}
    world.healthy |= links & healthy if world.stepped_back & {i, j} else links
    world.look_around()
    return True


class _Handshake:
    """Both sides of one."""

    def __init__(self, world: FaultyWorld, i: int, j: int, types: Collection[TypeName]) -> None:
        self.world, self.types = world, types
        self.peer = {i: j, j: i}
        self.started = {side: world.hosts[side].clock.boottime for side in self.peer}
        self.old = {side: (world.lease.get((side, peer), 0.0), set(world.agreed[side, peer]))
                    for side, peer in self.peer.items()}  # fmt: skip
        self.offers: dict[int, tuple[Offer, ...]] = {i: (), j: ()}
        self.agreed: dict[int, list[Agreed]] = {i: [], j: []}
        self.grant = {side: world.grants[side, peer] for side, peer in self.peer.items()}
        self.sending: set[int] = set()
        self.done: set[int] = set()

    def offer(self, side: int) -> None:
        host, peer = self.world.hosts[side], self.world.hosts[self.peer[side]]
        self.offers[side] = host.links.offer(peer.name, peer.address, self.types)

    def receive(self, side: int) -> None:
        """The first time, both know both offers, and have the keys."""
        if not any(self.agreed.values()):
            self._derive(side)
        world, peer = self.world, self.peer[side]
        host, other, links = world.hosts[side], world.hosts[peer], self.agreed[side]
        world.lease[side, peer] = max(self.old[side][0], self.started[side] + LEASE_S)
        world.agreed[side, peer] |= {link.type for link in links}
        self.grant[side] = world.grants[side, peer] = world.grants[side, peer] + 1
        self._note_end(side)
        host.links.install_inbound(other.name, other.address, links, lifetime_s=self._lifetime_s(side))
        assert host.kernel.read().selinux_enforcing, "it has installed something, permissive"

    def send(self, side: int) -> None:
        world, peer = self.world, self.peer[side]
        host, other, links = world.hosts[side], world.hosts[peer], self.agreed[side]
        types = {link.type for link in links}
        self.sending.add(side)
        world.switching = True
        world.unhealthy(side, peer, world.agreed[side, peer] - types)
        self._note_end(side)
        gate_s = self.started[side] + LEASE_S - MARGIN_S - host.clock.boottime
        host.links.install_outbound(other.name, other.address, links, gate_s=gate_s, lifetime_s=self._lifetime_s(side))
        assert host.kernel.read().selinux_enforcing or not links, "it has installed something, permissive"
        world.agreed[side, peer] = types
        world.gate_end[side, peer] = self.started[side] + LEASE_S - MARGIN_S
        self.done.add(side)
        host.links.abandon(other.name, other.address, [offer.spi for offer in self.offers[side]
                                                       if offer.type not in types])  # fmt: skip

    def abandon(self, side: int) -> None:
        """What the daemon does with a handshake that came to nothing: the earlier lease goes on."""
        world, peer = self.world, self.peer[side]
        host, other = world.hosts[side], world.hosts[peer]
        lease_s, types = self.old[side]

        def take_back() -> None:
            if self.grant[side] < world.grants[side, peer]:
                return  # a later handshake has granted another
            world.lease[side, peer] = lease_s
            world.agreed[side, peer] = set(types)

        left_s = max(0.0, lease_s - MARGIN_S - host.clock.boottime)
        spis = [offer.spi for offer in self.offers[side]]
        told = len(host.audited)
        with mishaps(world, side):
            try:
                host.links.abandon(other.name, other.address, spis, self.agreed[side], gate_s=left_s)
            except BackendFailed:
                suspend(world, side, peer)
                return
            if any(kind == "link.abandon-failed" for kind, _, _ in host.audited[told:]):
                world.pending[side].append(take_back)
                world.lenient.add(side)
            else:
                take_back()

    def _derive(self, side: int) -> None:
        peer = self.peer[side]
        ours, theirs = ({offer.type: offer for offer in self.offers[number]} for number in (side, peer))
        for name in sorted(set(ours) & set(theirs)):
            x, y, to_x, to_y = ours[name], theirs[name], secrets.token_bytes(36), secrets.token_bytes(36)
            self.agreed[side].append(Agreed(name, x.port, y.port, x.spi, y.spi, to_x, to_y))
            self.agreed[peer].append(Agreed(name, y.port, x.port, y.spi, x.spi, to_y, to_x))

    def _lifetime_s(self, side: int) -> int:
        return math.ceil(self.started[side] + LEASE_S - self.world.hosts[side].clock.boottime)

    def _note_end(self, side: int) -> None:
        pair = (side, self.peer[side])
        end = self.world.hosts[side].clock.wall + self._lifetime_s(side)
        self.world.sa_end[pair] = max(self.world.sa_end[pair], end)


def set_enforcing(world: FaultyWorld, i: int, *, enforcing: bool) -> None:
    """`setenforce`; the daemon has not seen it yet."""
    world.hosts[i].kernel.selinux.set_enforcing(enforcing)
    (world.unseen_permissive.discard if enforcing else world.unseen_permissive.add)(i)
    world.unhealthy(i)


def suspend(world: FaultyWorld, i: int, j: int) -> None:
    """`i` cuts `j` off. From then on nothing crosses, whatever failed on the way."""
    host, other = world.hosts[i], world.hosts[j]
    if host.life.dead and not start(world, i):
        return
    armed = host.life.armed
    world.unhealthy(i, j)
    try:
        host.links.close_peer(other.name, other.address)
    except DaemonKilled:
        world.killed(i)
        if not _recorded(world, i, j):  # it is written down that nothing of it goes on
            world.pending[i].append(lambda: _forget(world, i, j))
    except BackendFailed:
        assert armed
        world.unclosed.add((i, j))
        world.lenient.add(i)
        _forget(world, i, j)
    else:
        _forget(world, i, j)
        if not host.life.met:
            _holds_nothing_of(world, i, j)
    world.look_around()


def close_types(world: FaultyWorld, i: int, j: int, types: Collection[TypeName]) -> None:
    host, other = world.hosts[i], world.hosts[j]
    if host.life.dead and not start(world, i):
        return
    world.unhealthy(i, j, types)
    closed = False
    while host.alive and not closed:
        with mishaps(world, i):
            host.links.close_types(other.name, types, "as the test asked")
            closed = True
    if closed:
        world.agreed[i, j] -= set(types)
    world.look_around()


def stop_unit(world: FaultyWorld, i: int) -> None:
    """`systemctl stop`: the daemon closes all it can, then the service manager closes the sockets."""
    host = world.hosts[i]
    if host.life.dead and not start(world, i):
        return
    world.unhealthy(i)
    with mishaps(world, i):
        host.links.close_all()
    peers = [pair for pair in world.pairs() if pair[0] == i]
    world.killed(i)
    host.kernel.fd_store.stop_unit()
    for pair in peers:
        world.agreed[pair].clear()
    world.lenient.add(i)
    world.look_around()


def answer_acquire(world: FaultyWorld, i: int) -> AcquireEvent | None:
    """The kernel asked for SAs: the daemon calls the peer. Every further question is answered by that."""
    host = world.hosts[i]
    if host.life.dead or not host.acquires:
        return None
    event = host.acquires[0]
    j = next(number for number, other in enumerate(world.hosts) if other.address == event.destination)
    host.acquires[:] = [other for other in host.acquires if other.destination != event.destination]
    label_map = host.label_map
    name = next(name for name in label_map.types if label_map.link_context(name) == event.context)
    handshake(world, i, j, world.agreed[i, j] | {name})
    return event


def reboot(world: FaultyWorld, i: int) -> None:
    world.killed(i)
    world.unhealthy(i)
    for j in range(len(world.hosts)):
        if j != i:
            _forget(world, i, j)
    world.repaired(i)
    world.unguarded.add(i)
    world.stepped_back.discard(i)
    world.hosts[i].reboot()
    start(world, i)


def _forget(world: FaultyWorld, i: int, j: int) -> None:
    world.lease.pop((i, j), None)
    world.agreed[i, j].clear()


def _recorded(world: FaultyWorld, i: int, j: int) -> bool:
    host = world.hosts[i]
    return world.hosts[j].name in load_peers(host.documents, host.boot_id)
