"""What others do to the kernel of a host in a `FaultyWorld`, behind the back of its daemon, and what settles it all."""

import secrets
from dataclasses import replace

from shamon_host.domain.labels import TypeName
from shamon_host.domain.results import ClaimStatus
from shamon_host.links.desired import BLOCK_ENTRIES
from shamon_host.links.model import (
    CloseGate,
    DeleteSas,
    DeleteSpdEntry,
    DeleteTunnel,
    DetachPort,
    Direction,
    OpenGate,
    SecurityAssociation,
    SpdEntry,
)
from shamon_host.links.network_state import check_network_state
from tests.unit.links.faulty_acts import handshake, look
from tests.unit.links.faulty_world import LEASE_S, TAPS, TYPES, FaultyWorld

SPD_HANDS = ("flush SPD", "delete SPD entry", "delete block entry", "allow out", "allow in")
NFT_HANDS = ("flush nft", "delete nft rule")
GATE_HANDS = ("extend gate", "open gate", "close gate")
SA_HANDS = ("flush SAs", "delete SA", "put SA")
PORT_HANDS = ("detach port", "change flag", "move tap", "put port", "give address", "delete tunnel")


def allow(direction: Direction) -> SpdEntry:
    """An unlabelled entry of better priority: everything may pass as it is."""
    return SpdEntry(
        direction=direction, family=4, source="", destination="", source_port=0, source_port_mask=0,
        destination_port=0, destination_port_mask=0, priority=1, block=False,
    )  # fmt: skip


def interfere(world: FaultyWorld, i: int, what: str, pick: int) -> None:
    """One touch. Who takes away both layers of the guard, policies and nft, is root and has won: that is left out."""
    if (what in SPD_HANDS and i in world.loose_nft) or (what in NFT_HANDS and i in world.loose_spd):
        return
    if what in SPD_HANDS:
        world.loose_spd.add(i)
        world.lossy.add(i)
        _touch_spd(world, i, what, pick)
    elif what in NFT_HANDS:
        _touch_nft(world, i, what, pick)
    else:
        _touch(world, i, what, pick)
    world.look_around()


def _touch_spd(world: FaultyWorld, i: int, what: str, pick: int) -> None:
    kernel = world.hosts[i].kernel
    entries = sorted(kernel.read().spd, key=repr)
    match what:
        case "flush SPD":
            kernel.flush_policies()
        case "delete SPD entry" if entries:
            kernel.apply([DeleteSpdEntry(entry=entries[pick % len(entries)])])
        case "delete block entry":
            kernel.apply([DeleteSpdEntry(entry=BLOCK_ENTRIES[pick % len(BLOCK_ENTRIES)])])
        case "allow out":
            kernel.put_policy(allow(Direction.OUT))
        case _:
            kernel.put_policy(allow(Direction.IN))


def _touch_nft(world: FaultyWorld, i: int, what: str, pick: int) -> None:
    kernel = world.hosts[i].kernel
    match what:
        case "flush nft":
            kernel.flush_nft()
            world.loose_nft.add(i)
            world.unhealthy(i)
        case "delete nft rule":
            kernel.damage_guard()
            world.loose_nft.add(i)
            world.lossy.add(i)
        case _:
            raise ValueError(what)


def _touch(world: FaultyWorld, i: int, what: str, pick: int) -> None:
    host = world.hosts[i]
    kernel, state = host.kernel, host.kernel.read()
    sas, tunnels = sorted(state.sas, key=lambda sa: sa.spi), sorted(state.tunnels, key=lambda item: item.local_port)
    bridges = sorted(state.bridges)
    others = [other.address for other in world.hosts if other.number != i]
    ports = sorted((port, name) for name, bridge in state.bridges.items() for port in bridge.ports)
    match what:
        case "extend gate" if state.gate:
            world.loose_gate.add(i)
            kernel.apply([OpenGate(address=sorted(state.gate)[pick % len(state.gate)], seconds=86400.0)])
        case "open gate" if state.guard:
            world.loose_gate.add(i)
            kernel.apply([OpenGate(address=others[pick % len(others)], seconds=86400.0)])
        case "close gate" if state.gate:
            kernel.apply([CloseGate(address=sorted(state.gate)[pick % len(state.gate)])])
            world.unhealthy(i)
        case "flush SAs":
            kernel.flush_sas()
            world.unhealthy(i)
        case "delete SA" if sas:
            kernel.apply([DeleteSas(ids=(sas[pick % len(sas)].id,))])
            world.unhealthy(i)
        case "put SA":
            _put_sa(world, i, sas)
        case "detach port" if ports:
            kernel.apply([DetachPort(interface=ports[pick % len(ports)][0])])
            world.lossy.add(i)
        case "change flag" if ports:
            port, bridge = ports[pick % len(ports)]
            kernel.put_port(bridge, port, isolated=not state.bridges[bridge].ports[port])
            world.loose_ports.add(i)
            world.lossy.add(i)
        case "move tap" if ports and len(bridges) > 1:
            port, bridge = ports[pick % len(ports)]
            kernel.put_port(next(name for name in bridges if name != bridge), port)
            world.loose_ports.add(i)
            world.lossy.add(i)
        case "put port" if bridges:
            kernel.put_port(bridges[pick % len(bridges)], "eth9")
        case "give address" if bridges:
            kernel.unseal(bridges[pick % len(bridges)])
        case "delete tunnel" if tunnels:
            kernel.apply([DeleteTunnel(local_port=tunnels[pick % len(tunnels)].local_port)])
            world.unhealthy(i)


def _put_sa(world: FaultyWorld, i: int, sas: list[SecurityAssociation]) -> None:
    """With a label and a reqid of ours, and a key of its own: packets take the newest that fits."""
    sending = [sa for sa in sas if sa.source == world.hosts[i].address]
    if sending:
        spi = 0x1000 + secrets.randbelow(1 << 24)
        world.hosts[i].kernel.put_sa(replace(sending[0], spi=spi, key=secrets.token_bytes(36)))
        world.lossy.add(i)


def settle(world: FaultyWorld, *, rekeys: bool = False) -> None:
    """The end of all faults: everything that should be there comes, nothing else stays, and frames flow; also once more
    after a rekey of everything.

    What should be there is counted from the VMs that run, not taken from what the daemons believe."""
    for i, host in enumerate(world.hosts):
        host.life.disarm()
        host.kernel.selinux.set_enforcing(True)
        world.unseen_permissive.discard(i)
        world.wire.restore(host.address)
    world.cut.clear()
    for i in range(len(world.hosts)):
        assert look(world, i)
    wanted = {
        (i, j): {name for name in TYPES if all(name in world.hosts[side].taps.values() for side in (i, j))}
        for i, j in world.pairs()
    }
    for _ in range(1 + rekeys):
        for i, j in world.pairs():
            if i < j:
                assert handshake(world, i, j, wanted[i, j])
        for _ in range(4):  # superseded SAs go, and SPIs that nobody gave back expire
            _all_tidy(world)
        for i in range(len(world.hosts)):
            _is_settled(world, i, {j: wanted[i, j] for j in range(len(world.hosts)) if j != i})
    world.look_around()


def _all_tidy(world: FaultyWorld) -> None:
    world.look_around()
    world.advance(11.0)
    for host in world.hosts:
        host.links.tidy()


def _is_settled(world: FaultyWorld, i: int, wanted: dict[int, set[TypeName]]) -> None:
    host = world.hosts[i]
    applied = [entry for entry in host.audited if entry[0] == "link.apply"]
    assert look(world, i)
    assert [entry for entry in host.audited if entry[0] == "link.apply"] == applied, "looking again finds work"
    assert host.links.needs_rekey() == ()
    state, count = host.kernel.read(), sum(len(types) for types in wanted.values())
    linked = {world.hosts[j].address for j, types in wanted.items() if types}
    assert (len(state.tunnels), len(state.sas), len(state.spd)) == (count, 2 * count, 2 * count + len(BLOCK_ENTRIES))
    assert set(state.gate) == linked
    assert all(0 < left_s <= LEASE_S for left_s in state.gate.values())
    assert state.spd >= set(BLOCK_ENTRIES)
    assert not [entry for entry in state.spd if entry.foreign]
    assert not host.kernel.reserved_spis
    assert len(host.kernel.fd_store.sockets) == count
    types = {*host.taps.values()}
    names = {name: f"shbr{host.label_map.types[name]}" for name in TYPES}
    assert set(state.bridges) == {names[name] for name in types}
    for name in types:
        bridge = state.bridges[names[name]]
        assert bridge.sealed
        taps = {tap for tap in host.taps if TAPS[tap] == name}
        assert {port for port, isolated in bridge.ports.items() if not isolated} == taps
        devices = {port for port, isolated in bridge.ports.items() if isolated}
        assert len(devices) == sum(name in carried for carried in wanted.values())
        assert devices <= {tunnel.interface for tunnel in state.tunnels}
    for j, carried in wanted.items():
        assert host.links.carried(world.hosts[j].name) == carried
    assert check_network_state(host.links.network_state()).status is ClaimStatus.PASS
