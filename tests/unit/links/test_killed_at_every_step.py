"""Every step of bring-up, rekey and teardown, one after the other: the daemon is killed there, or the step fails.

Then a new daemon starts, does again what was asked for, and must come to what a life without a mishap comes to, with
nothing of the broken one left over. What is in between is looked at as in the state machine (`test_link_machine`).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from shamon_host.links.desired import BLOCK_ENTRIES
from shamon_host.links.model import DeleteSas, DeleteSpdEntry, Direction
from shamon_host.testing.failing_kernel import Fault
from tests.examples import SHARE
from tests.unit.links import faulty_acts as acts
from tests.unit.links.conftest import BLUE, RED
from tests.unit.links.faulty_hands import allow, interfere, settle
from tests.unit.links.faulty_world import FaultyWorld

TYPES = (RED, BLUE) if SHARE >= 1 else (RED,)
TAPS = ("shvm0-0", "shvm2-0")[: len(TYPES)]
Act = Callable[[FaultyWorld], object]


def boot(world: FaultyWorld) -> None:
    for i in range(2):
        acts.look(world, i)
        for tap in TAPS:
            acts.start_vm(world, i, tap)


def join(world: FaultyWorld) -> None:
    acts.handshake(world, 0, 1, TYPES)


def up(world: FaultyWorld) -> None:
    boot(world)
    join(world)


def rekeyed_and_tidy(world: FaultyWorld) -> None:
    """A superseded SA is due to go."""
    up(world)
    join(world)
    world.advance(11.0)


def tidy(world: FaultyWorld) -> None:
    for i, host in enumerate(world.hosts):
        with acts.mishaps(world, i):
            host.links.tidy()


def vm_goes(world: FaultyWorld) -> None:
    """The last VM of a type on a host: with the next handshake its link goes, and its bridge with that."""
    for i, host in enumerate(world.hosts):
        host.unplug(TAPS[-1])
        acts.look(world, i)
    acts.handshake(world, 0, 1, TYPES[:-1])


def permissive(world: FaultyWorld) -> None:
    """The daemon takes every link down while it lasts."""
    acts.set_enforcing(world, 0, enforcing=False)
    acts.look(world, 0)


def late(world: FaultyWorld) -> None:
    """Most of the lease is over: whatever is put back, gates open for what is left of it, and no more."""
    up(world)
    world.advance(60.0)


def lose_a_rule(world: FaultyWorld) -> None:
    late(world)
    interfere(world, 0, "delete nft rule", 0)


def peer_boots(world: FaultyWorld) -> None:
    """Its kernel gives the same SPIs again, under which the other host still has SAs for sending."""
    up(world)
    acts.reboot(world, 1)
    for tap in TAPS:
        acts.start_vm(world, 1, tap)


def lose_an_sa(world: FaultyWorld) -> None:
    """A receiving one. It is not repaired: the daemon says that it wants a handshake."""
    up(world)
    world.unhealthy(0)
    kernel = world.hosts[0].kernel
    kernel.apply([DeleteSas(ids=tuple(sa.id for sa in kernel.read().sas if sa.destination == world.hosts[0].address))])


LIVES: dict[str, tuple[Act, Act]] = {
    "boot": (lambda _: None, boot),
    "bring-up": (boot, join),
    "rekey": (up, join),
    "retirement": (rekeyed_and_tidy, tidy),
    "suspension": (up, lambda world: acts.suspend(world, 0, 1)),
    "a type less": (up, lambda world: acts.close_types(world, 0, 1, TYPES[-1:])),
    "a VM less": (up, vm_goes),
    "stop of the unit": (up, lambda world: acts.stop_unit(world, 0)),
    "permissive": (up, permissive),
    "undone": (late, lambda world: acts.handshake(world, 0, 1, TYPES, ends_at=5, noticed=True)),
    "peer booted": (peer_boots, join),
    "lost SA": (lose_an_sa, lambda world: acts.look(world, 0)),
    "guard": (lose_a_rule, lambda world: acts.look(world, 0)),
    "repair": (up, lambda world: acts.look(world, 0)),
}


@dataclass(frozen=True)
class Case:
    """In this life, this host meets the fault after so many steps of the act."""

    life: str
    victim: int
    fault: Fault

    def of(self, steps: int) -> range:
        """All of them, and while people wait: all for the first host that is killed, some for the rest."""
        every = 1 if self.victim == 0 else 3
        if self.fault not in (Fault.KILLED_BEFORE, Fault.IGNORED):
            every = 17
        return range(0, steps, 1 if SHARE >= 1 else every)


def cases() -> Iterator[Case]:
    for life in LIVES:
        for victim in range(2):
            for fault in Fault:
                if fault is not Fault.IGNORED or life == "repair":
                    yield Case(life, victim, fault)


def prepared(life: str) -> FaultyWorld:
    world = FaultyWorld(hosts=2)
    world.watching = False
    LIVES[life][0](world)
    if life == "repair":
        disturb(world)
    return world


def disturb(world: FaultyWorld) -> None:
    """Something of everything that a daemon repairs."""
    kernel = world.hosts[0].kernel
    for entry in BLOCK_ENTRIES[:2]:
        kernel.apply([DeleteSpdEntry(entry=entry)])
    kernel.put_policy(allow(Direction.OUT))
    world.loose_spd.add(0)
    bridge = min(kernel.read().bridges)
    kernel.put_port(bridge, "eth9")
    kernel.unseal(bridge)
    for port in tuple(kernel.read().bridges[bridge].ports):
        kernel.put_port(bridge, port, isolated=not kernel.read().bridges[bridge].ports[port])
    world.loose_ports.add(0)
    world.lossy.add(0)


def what_there_is(world: FaultyWorld) -> list[tuple[object, ...]]:
    """All that kernels, sockets and stores hold, but for what a handshake draws anew."""
    states = [host.kernel.read() for host in world.hosts]
    return [
        (
            sorted((sa.source, sa.destination, sa.reqid, str(sa.context)) for sa in state.sas),
            state.spd,
            state.tunnels,
            {name: (dict(bridge.ports), bridge.sealed) for name, bridge in state.bridges.items()},
            sorted(state.gate),
            state.guard,
            sorted(host.kernel.fd_store.sockets),
            host.links.carried(world.hosts[1 - host.number].name),
            host.documents.items("link-port"),
        )
        for host, state in zip(world.hosts, states, strict=True)
    ]


def take_policies_away(world: FaultyWorld, i: int) -> None:
    """One by one, while nobody is there to put them back: nothing gets out in clear."""
    kernel = world.hosts[i].kernel
    if not kernel.read().guard:
        return  # before the first daemon's first step there is nothing to protect either
    world.loose_spd.add(i)
    world.lossy.add(i)
    for entry in sorted(kernel.read().spd, key=lambda entry: (entry.block, repr(entry))):
        kernel.apply([DeleteSpdEntry(entry=entry)])
        world.look_around()


@pytest.mark.parametrize("case", [*cases()], ids=lambda case: f"{case.life}-{case.victim}-{case.fault}")
def test_a_mishap_at_any_step_leaves_no_trace(case: Case) -> None:
    act = LIVES[case.life][1]
    world = prepared(case.life)
    before = world.hosts[case.victim].life.steps
    act(world)
    steps = world.hosts[case.victim].life.steps - before
    assert steps > 0 or case.victim == 1, "the act does nothing"
    settle(world)
    right = what_there_is(world)
    for step in case.of(steps):
        world = prepared(case.life)
        world.hosts[case.victim].life.arm(case.fault, step)
        world.watching = True
        whole = act(world)
        host = world.hosts[case.victim]
        assert not host.life.armed, f"step {step} never came"
        world.look_around()
        if step % 2 and not host.alive and case.life != "repair":
            take_policies_away(world, case.victim)
        if case.fault is Fault.IGNORED and whole:
            _nothing_is_left_to_do(world, case.victim)
        if not host.alive:
            assert acts.start(world, case.victim)
            _nothing_is_left_to_do(world, case.victim)
        for tap in TAPS if case.life == "boot" else ():
            acts.start_vm(world, case.victim, tap)  # whoever asked for the VM asks again
        world.watching = False
        settle(world)
        assert what_there_is(world) == right, f"after a mishap at step {step}"


def _nothing_is_left_to_do(world: FaultyWorld, i: int) -> None:
    """What a new daemon keeps is whole, and what is not whole it says to be in want of a handshake."""
    host = world.hosts[i]
    count = len(host.audited)
    host.look()
    applied = [detail["operations"] for kind, _, detail in host.audited[count:] if kind == "link.apply"]
    # A VM may go while its tap is attached, so that alone is not insisted on.
    assert not [words for operations in applied for words in operations if not words.startswith("attach shvm")]
    state = host.kernel.read()
    assert state.spd >= set(BLOCK_ENTRIES)
    assert len(state.spd) == len(BLOCK_ENTRIES) + 2 * len(state.tunnels)
    assert {f"link-{tunnel.local_port}" for tunnel in state.tunnels} == set(host.kernel.fd_store.sockets)
    assert {sa.reqid for sa in state.sas} <= {tunnel.local_port for tunnel in state.tunnels}
    ports = {port for bridge in state.bridges.values() for port in bridge.ports}
    assert ports <= {tunnel.interface for tunnel in state.tunnels} | set(host.taps)
