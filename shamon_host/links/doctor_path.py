"""The way of a frame through this host's kernel, stage by stage: out from a VM's tap to the wire, and in from there."""

from collections.abc import Iterable, Iterator

from shamon_host.links.agreed import words_of
from shamon_host.links.desired import BLOCK_ENTRIES, DesiredLink
from shamon_host.links.doctor_facts import Facts, VmFacts
from shamon_host.links.model import (
    LINK_PRIORITY,
    TAP_PREFIX,
    TUNNEL_PREFIX,
    Direction,
    KernelState,
    SaId,
    SpdEntry,
)
from shamon_host.links.path_report import Part, Stage, Verdict
from shamon_host.links.tap_filter import TapFilter

_OK, _WRONG, _UNKNOWN = Verdict.OK, Verdict.WRONG, Verdict.UNKNOWN
_REPAIRED = "The daemon repairs this within a moment. If it stays, `journalctl -u shamon` and `shamon audit` say why."
_REKEY = "Its key is gone, so only a handshake brings it back: the daemon starts one, `shamon attest` does so now."


def outgoing(facts: Facts) -> Iterator[Stage]:
    """From the taps of the VMs to the wire."""
    for vm, tap in _taps(facts):
        yield _tap(facts, vm, tap)
        yield _filter(facts, vm, tap, Part.OUT)
    yield _bridge(facts)
    yield from _of_link(facts, Part.OUT)


def incoming(facts: Facts) -> Iterator[Stage]:
    """From the wire to the taps. The devices that are the same both ways are not judged again."""
    yield from _of_link(facts, Part.IN)
    for vm, tap in _taps(facts):
        yield _filter(facts, vm, tap, Part.IN)


def _taps(facts: Facts) -> list[tuple[VmFacts, str]]:
    return [(vm, tap) for vm in facts.exchanging for tap in vm.taps]


def _of_link(facts: Facts, part: Part) -> Iterator[Stage]:
    """The stages that only a link has."""
    names = ("device", "socket", "SPD", "SA", "gate") if part is Part.OUT else ("SA", "SPD", "device")
    for name in names:
        if facts.after.link is None:
            yield facts.stage(part, name, "nothing", _UNKNOWN, "there is no link")
        elif facts.state is None:
            yield facts.unread(part, name, "the kernel")
        else:
            yield _STAGES[name](facts, facts.state, facts.after.link, part)


def _tap(facts: Facts, vm: VmFacts, tap: str) -> Stage:
    name, looked_at = f"tap of {vm.name}", f"device {tap}, a port of {facts.bridge}"
    state, traffic = facts.state, facts.after.traffic
    if state is None or traffic is None:
        return facts.unread(Part.OUT, name, looked_at)
    bridge = state.bridges.get(facts.bridge)
    flag = bridge.ports.get(tap) if bridge else None
    elsewhere = next((other for other, item in state.bridges.items() if tap in item.ports), "")
    moved = facts.traffic_of(tap, from_vm="rx_packets", to_vm="tx_packets", not_taken="tx_dropped")
    wrong = ""
    if tap not in traffic:
        wrong = f"there is no device {tap}"
    elif flag is None:
        wrong = f"{tap} is a port of {elsewhere}" if elsewhere else f"{tap} is a port of no bridge of a type"
    elif flag:
        wrong = f"{tap} is isolated, so that it exchanges nothing with links"
    elif not traffic[tap].up:
        wrong = f"{tap} is down"
    if wrong:
        return facts.stage(
            Part.OUT, name, looked_at, _WRONG, wrong,
            expected=f"a port of {facts.bridge} that is up and not isolated",
            remedy=f"{_REPAIRED} A tap that is gone comes back when the VM starts anew.",
            moved=moved,
        )  # fmt: skip
    return facts.stage(Part.OUT, name, looked_at, _OK, f"{tap} is up in {facts.bridge}", moved=moved)


def _filter(facts: Facts, vm: VmFacts, tap: str, part: Part) -> Stage:
    """What the tap's filter lets pass in this direction, and whether it is the one that the policy asks for."""
    verb = "sends" if part is Part.OUT else "receives"
    name, looked_at = f"filter of {vm.name}", f"the nft table of {tap}: what the VM {verb}"
    moved = {} if part is Part.OUT else facts.traffic_of(tap, to_vm="tx_packets")
    if facts.state is None:
        return facts.unread(part, name, looked_at)
    found, changed = facts.state.filters.get(tap), facts.state.changed_filters.get(tap)
    wanted = None if facts.after.filters is None else facts.after.filters.get(tap)
    if changed is not None or (facts.after.filters is not None and not _alike(found, wanted)):
        words = changed or ("it is missing" if found is None else f"it is another one: {found}")
        return facts.stage(
            part, name, looked_at, _WRONG, words,
            expected=str(wanted) if wanted else "no filter",
            remedy=f"Somebody changed it. {_REPAIRED}",
            moved=moved,
        )  # fmt: skip
    if found is None:
        verdict = _OK if facts.after.filters is not None else _UNKNOWN
        known = "no filter: everything passes" if verdict is _OK else "no filter, and none is asked for yet"
        return facts.stage(part, name, looked_at, verdict, known, moved=moved)
    passes = (found.sends if part is Part.OUT else found.receives) and found.open_s != 0
    if not passes:
        return facts.stage(
            part, name, looked_at, _WRONG, f"nothing passes that the VM {verb}: {found}",
            expected="frames pass",
            remedy="The policy says so: a one-way label, or an overlay, shuts it. See `shamon policy explain`.",
            moved=moved,
        )  # fmt: skip
    return facts.stage(part, name, looked_at, _OK, f"it lets pass: {found}", moved=moved)


def _alike(found: TapFilter | None, wanted: TapFilter | None) -> bool:
    """The same but for what is left of a window."""
    if found is None or wanted is None:
        return found is wanted
    return (found.without_window(), found.open_s is None) == (wanted.without_window(), wanted.open_s is None)


def _bridge(facts: Facts) -> Stage:
    name, looked_at = "bridge", f"{facts.bridge or 'the bridge of the type'}, its ports, its addresses"
    if facts.state is None or facts.after.traffic is None:
        return facts.unread(Part.OUT, name, looked_at)
    if not facts.bridge:
        return facts.stage(Part.OUT, name, looked_at, _UNKNOWN, "the type has no category, hence no bridge")
    bridge, traffic = facts.state.bridges.get(facts.bridge), facts.after.traffic.get(facts.bridge)
    wrong = ""
    if bridge is None or traffic is None:
        wrong = f"there is no bridge {facts.bridge}"
    elif not traffic.up:
        wrong = f"{facts.bridge} is down"
    elif not bridge.sealed:
        wrong = f"{facts.bridge} is open to the host: it has an address, or IPv6, or forwards"
    elif strangers := sorted(port for port in bridge.ports if not port.startswith((TAP_PREFIX, TUNNEL_PREFIX))):
        wrong = f"{', '.join(strangers[:5])} in {facts.bridge} is neither a VM's tap nor a link's device"
    if wrong:
        return facts.stage(
            Part.OUT, name, looked_at, _WRONG, wrong, expected="up, sealed, with ports of VMs and links alone",
            remedy=_REPAIRED,
        )  # fmt: skip
    ports = ", ".join(sorted(bridge.ports)) if bridge and bridge.ports else "none"
    return facts.stage(Part.OUT, name, looked_at, _OK, f"up and sealed; ports: {ports}")


def _device(facts: Facts, state: KernelState, link: DesiredLink, part: Part) -> Stage:
    name, looked_at = "device", f"{link.device}, an L2TP tunnel to {link.remote} and a port of {link.bridge}"
    if part is Part.IN:
        moved = facts.traffic_of(link.device, from_peer="rx_packets", refused="rx_dropped")
        if link.device in (facts.after.traffic or {}):
            return facts.stage(part, name, looked_at, _OK, "as on the way out", moved=moved)
        return facts.stage(part, name, looked_at, _UNKNOWN, "there is none, as on the way out")
    if facts.after.traffic is None:
        return facts.unread(part, name, looked_at)
    moved = facts.traffic_of(link.device, to_peer="tx_packets", refused="tx_dropped")
    tunnel = next((item for item in state.tunnels if item.local_port == link.local_port), None)
    bridge, wanted = state.bridges.get(link.bridge), link.tunnel
    flag = bridge.ports.get(link.device) if bridge else None
    traffic = facts.after.traffic.get(link.device)
    wrong = ""
    if tunnel is None or traffic is None:
        wrong = f"there is no tunnel {link.device}"
    elif (tunnel.interface, tunnel.local, tunnel.remote, tunnel.peer_port) != (
        wanted.interface,
        wanted.local,
        wanted.remote,
        wanted.peer_port,
    ):
        wrong = f"the tunnel at port {link.local_port} is another one: {tunnel.interface} to {tunnel.remote}"
    elif flag is None:
        wrong = f"{link.device} is no port of {link.bridge}"
    elif not flag:
        wrong = f"{link.device} is not isolated, so frames of other links of the type would loop"
    elif not traffic.up:
        wrong = f"{link.device} is down"
    if wrong:
        return facts.stage(
            part, name, looked_at, _WRONG, wrong, expected=f"an isolated port of {link.bridge} that is up",
            remedy=_REPAIRED, moved=moved,
        )  # fmt: skip
    found = f"up and isolated in {link.bridge}, port {link.local_port} to {link.peer_port}"
    return facts.stage(part, name, looked_at, _OK, found, moved=moved)


def _socket(facts: Facts, state: KernelState, link: DesiredLink, part: Part) -> Stage:
    name, looked_at = "socket", f"the SELinux label of the UDP socket at port {link.local_port}"
    tunnel = next((item for item in state.tunnels if item.local_port == link.local_port), None)
    if tunnel is None:
        return facts.stage(part, name, looked_at, _UNKNOWN, "there is no tunnel")
    if tunnel.context != link.link_context:
        return facts.stage(
            part, name, looked_at, _WRONG,
            f"its label is {tunnel.context}" if tunnel.context else "its label cannot be read",
            expected=str(link.link_context),
            remedy=f"Its packets match no SA of the type. {_REPAIRED}",
        )  # fmt: skip
    return facts.stage(part, name, looked_at, _OK, str(tunnel.context))


def _spd(facts: Facts, state: KernelState, link: DesiredLink, part: Part) -> Stage:
    way = Direction.OUT if part is Part.OUT else Direction.IN
    wanted = next(entry for entry in link.spd_entries if entry.direction is way)
    name, looked_at = "SPD", f"the labelled entry {way}, and others before it"
    strangers = sorted((entry for entry in state.spd if _is_stranger(entry, wanted)), key=lambda entry: entry.priority)
    wrong, remedy = "", f"Somebody changed the SPD (`ip xfrm policy`). {_REPAIRED}"
    if strangers:
        place = "before" if strangers[0].priority <= LINK_PRIORITY else "behind"
        wrong = f"a foreign entry stands {place} the labelled one: {strangers[0].foreign or 'no label'}"
    elif wanted not in state.spd:
        wrong = "the labelled entry is missing"
    ours = f"{wanted.context}, reqid {wanted.reqid}"
    if wrong:
        return facts.stage(part, name, looked_at, _WRONG, wrong, expected=f"{ours}, before any other", remedy=remedy)
    return facts.stage(part, name, looked_at, _OK, f"{ours}, no other before it")


def _is_stranger(entry: SpdEntry, wanted: SpdEntry) -> bool:
    """It touches the port block the same way, and is neither the guard's nor labelled."""
    same_way = (entry.direction, entry.family) == (wanted.direction, wanted.family)
    return same_way and (bool(entry.foreign) or (entry.context is None and entry not in BLOCK_ENTRIES))


def _sa(facts: Facts, state: KernelState, link: DesiredLink, part: Part) -> Stage:
    inbound = part is Part.IN
    spis, destination = (link.in_spis, link.local) if inbound else (link.out_spis, link.remote)
    name, looked_at = (
        "SA",
        f"SAs to {destination}: SPI " + (", ".join(words_of(spis)) or "none"),
    )
    ids = {SaId(destination=destination, spi=spi) for spi in spis}
    present = [sa for sa in state.sas if sa.id in ids]
    earlier = {sa.id: sa.packets for sa in facts.before.state.sas} if facts.before.state else {}
    moved = {"packets": sum(max(0, sa.packets - earlier.get(sa.id, 0)) for sa in present)} if present else {}
    others = [sa for sa in state.sas if (sa.destination, sa.reqid) == (destination, link.reqid) and sa.id not in ids]
    strange = [sa for sa in present if (sa.context, sa.reqid) != (link.link_context, link.reqid)]
    if not present:
        return facts.stage(
            part, name, looked_at, _WRONG, "there is no SA " + ("to receive with" if inbound else "to send with"),
            expected=f"an SA of {link.link_context}", remedy=_REKEY,
        )  # fmt: skip
    if strange:
        return facts.stage(
            part, name, looked_at, _WRONG, f"SPI {strange[0].spi:#010x} has the label {strange[0].context}",
            expected=str(link.link_context), remedy=_REPAIRED, moved=moved,
        )  # fmt: skip
    if others:
        return facts.stage(
            part, name, looked_at, _WRONG, f"SPI {others[0].spi:#010x} is of no handshake, and may be used",
            expected="the SAs of the last handshakes alone", remedy=f"Somebody added it. {_REPAIRED}", moved=moved,
        )  # fmt: skip
    found = f"{', '.join(words_of(sa.spi for sa in present))}, {_sum(sa.packets for sa in present)} so far"
    return facts.stage(part, name, looked_at, _OK, found, moved=moved)


def _gate(facts: Facts, state: KernelState, link: DesiredLink, part: Part) -> Stage:
    name, looked_at, left = "gate", f"the nft sets of gates: {link.remote}", state.gate.get(link.remote)
    if left is None:
        return facts.stage(
            part, name, looked_at, _WRONG, f"the gate of {link.remote} is closed", expected="open for the lease",
            remedy="Only a handshake opens it: the daemon starts one, `shamon attest` does so now.",
        )  # fmt: skip
    return facts.stage(part, name, looked_at, _OK, f"open for {left:.0f} s")


def _sum(counts: Iterable[int]) -> str:
    total = sum(counts)
    return f"{total} packet" + ("" if total == 1 else "s")


_STAGES = {"device": _device, "socket": _socket, "SPD": _spd, "SA": _sa, "gate": _gate}
