"""From what is wanted and what is there to what to do: pure, in an order that is safe to stop at any point.

Guard first. Then what must go, from the outside in: gate, filters that let too much through, port off the bridge,
passage, SAs, tunnel, SPD entries. Then what must come, from the inside out: bridge, SPD entries, receiving SAs, tunnel,
sending SAs, passage, filters of taps, port in the bridge, gate. So wherever a plan breaks off, nothing is open that was
not open before, and a plan for the state it left finishes it.
"""

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass

from shamon_host.links.desired import BLOCK_ENTRIES, DesiredLink, DesiredState
from shamon_host.links.filter_plan import narrow, settle
from shamon_host.links.model import (
    TAP_PREFIX,
    AddSa,
    AddSpdEntry,
    AttachPort,
    ClearTapFilter,
    CloseGate,
    ClosePassage,
    CreateBridge,
    CreateTunnel,
    DeleteBridge,
    DeleteSas,
    DeleteSpdEntry,
    DeleteTunnel,
    DetachPort,
    InstallGuard,
    KernelState,
    OpenGate,
    OpenPassage,
    Operation,
    SaId,
    SecurityAssociation,
    SetTapFilter,
    SpdEntry,
    Tunnel,
)

_BLOCK = frozenset(BLOCK_ENTRIES)
GATE_TOLERANCE_S = 2.0
"""Two readings of one timeout differ by the time between them, and nft tells whole seconds."""


def plan(desired: DesiredState, actual: KernelState) -> tuple[Operation, ...]:
    """What makes the kernel hold `desired`; empty when it does. Never touches the guard but to install it.

    A missing SA is not added again (its key is gone) unless it is among a link's `new_sas`; see `missing_sas`.
    """
    wanted = _wanted(desired, actual)
    return (*_guard(desired, actual), *_remove(desired, wanted, actual), *_build(desired, wanted, actual))


def teardown(addresses: Iterable[str], actual: KernelState) -> tuple[Operation, ...]:
    """What removes everything to these peers' addresses, in one pass. Bridges and VMs' ports stay, and the guard."""
    gone = frozenset(addresses)
    tunnels = _by_port(tunnel for tunnel in actual.tunnels if tunnel.remote in gone)
    devices = {tunnel.interface for tunnel in tunnels}
    operations: list[Operation] = [CloseGate(address=address) for address in sorted(gone)]
    operations += [
        DetachPort(interface=port)
        for bridge in actual.bridges.values()
        for port in sorted(bridge.ports)
        if port in devices
    ]
    operations += _delete_sas(sa.id for sa in actual.sas if sa.source in gone or sa.destination in gone)
    operations += [DeleteTunnel(local_port=tunnel.local_port) for tunnel in tunnels]
    entries = (entry for entry in actual.spd if entry.source in gone or entry.destination in gone)
    operations += [DeleteSpdEntry(entry=entry) for entry in sorted(entries, key=repr) if entry not in _BLOCK]
    return tuple(operations)


def unwanted_taps(wanted: Mapping[str, str], actual: KernelState) -> tuple[str, ...]:
    """VMs' taps that are in a bridge of ours and may not be. `wanted`: tap → the bridge in which it may be."""
    ports = ((port, name) for name, bridge in actual.bridges.items() for port in bridge.ports)
    return tuple(sorted(port for port, name in ports if port.startswith(TAP_PREFIX) and wanted.get(port) != name))


def addresses_of(actual: KernelState) -> frozenset[str]:
    """Every address that something of ours in the kernel is for, this host's own included."""
    ends = {end for sa in actual.sas for end in (sa.source, sa.destination)}
    return frozenset({*actual.gate, *(tunnel.remote for tunnel in actual.tunnels), *ends})


def missing_sas(desired: DesiredState, actual: KernelState) -> tuple[DesiredLink, ...]:
    """Links that should be up and cannot carry packets both ways, for want of an SA or an open gate: rekey them."""
    present = {sa.id for sa in actual.sas}
    return tuple(
        link
        for link in desired.links
        if link.attached
        and not (
            any(SaId(destination=link.local, spi=spi) in present for spi in link.in_spis)
            and any(SaId(destination=link.remote, spi=spi) in present for spi in link.out_spis)
            and link.remote in actual.gate
        )
    )


def describe(operation: Operation) -> str:  # noqa: PLR0912 one case for each operation
    """An operation in words, for the audit log. Never a key."""
    match operation:
        case InstallGuard():
            return "install the guard"
        case AddSa(sa=sa):
            return f"add SA to {sa.destination} spi {sa.spi:#010x} reqid {sa.reqid} {sa.context}"
        case DeleteSas(ids=ids):
            return "delete SAs " + ", ".join(f"to {sa.destination} spi {sa.spi:#010x}" for sa in ids)
        case AddSpdEntry(entry=entry) | DeleteSpdEntry(entry=entry):
            verb = "add" if isinstance(operation, AddSpdEntry) else "delete"
            if entry.foreign:
                return f"{verb} foreign SPD entry: {entry.foreign}"
            what = "block" if entry.block else f"reqid {entry.reqid} {entry.context}"
            return (
                f"{verb} SPD entry {entry.direction} IPv{entry.family} {entry.source or 'any'}"
                f" port {entry.source_port}/{entry.source_port_mask:#x} to {entry.destination or 'any'}"
                f" port {entry.destination_port}/{entry.destination_port_mask:#x} {what}"
            )
        case CreateTunnel(tunnel=tunnel):
            return (
                f"create tunnel {tunnel.interface} port {tunnel.local_port} to {tunnel.remote} port {tunnel.peer_port}"
            )
        case DeleteTunnel(local_port=port):
            return f"delete tunnel at port {port}"
        case OpenPassage(passage=passage):
            way = "giving" if passage.gives else "taking"
            return f"open passage {passage.interface}, {way}, beside the link at port {passage.local_port}"
        case ClosePassage(local_port=port):
            return f"close the passage beside the link at port {port}"
        case CreateBridge(name=name):
            return f"create bridge {name}"
        case DeleteBridge(name=name):
            return f"delete bridge {name}"
        case AttachPort(bridge=bridge, interface=interface, isolated=isolated):
            return f"attach {interface} to {bridge}{' isolated' if isolated else ''}"
        case DetachPort(interface=interface):
            return f"detach {interface}"
        case OpenGate(address=address, seconds=seconds):
            return f"open the gate of {address} for {seconds:.1f} s"
        case CloseGate(address=address):
            return f"close the gate of {address}"
        case SetTapFilter(filter=limits):
            return f"set the filter of tap {limits}"
        case ClearTapFilter(device=device):
            return f"clear the filter of tap {device}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """What the links of a desired state come to, each worked out once: there may be ten thousand."""

    links: tuple[DesiredLink, ...]
    """By their port."""
    by_device: Mapping[str, DesiredLink]
    tunnels: Mapping[int, Tunnel]
    """By their port, as `links`."""
    entries: Mapping[SpdEntry, None]
    """Of the links, in their order."""
    present: Set[SaId]
    """SAs that a link wants and the kernel has as the link would have installed them."""
    nobodys: Set[SaId]
    """The other SAs that the kernel has."""


def _wanted(desired: DesiredState, actual: KernelState) -> _Wanted:
    links = tuple(sorted(desired.links, key=lambda link: link.local_port))
    by_sa = {sa_id: link for link in links for sa_id in link.sa_ids}
    present: set[SaId] = set()
    nobodys: set[SaId] = set()
    for sa in actual.sas:
        sa_id = sa.id
        link = by_sa.get(sa_id)
        (nobodys if link is None or not _is_of(sa, link) else present).add(sa_id)
    return _Wanted(
        links=links,
        by_device={link.device: link for link in links},
        tunnels={link.local_port: link.tunnel for link in links},
        entries=dict.fromkeys(entry for link in links for entry in link.spd_entries),
        present=present,
        nobodys=nobodys,
    )


def _guard(desired: DesiredState, actual: KernelState) -> list[Operation]:
    operations: list[Operation] = []
    if not actual.guard:
        operations.append(InstallGuard())
        # A new table has an empty gate set: put back what was open, never more than that nor than what is allowed.
        operations += [
            OpenGate(address=address, seconds=min(left, desired.gate[address]))
            for address, left in sorted(actual.gate.items())
            if address in desired.gate and address not in desired.opening
        ]
    return operations + [AddSpdEntry(entry=entry) for entry in BLOCK_ENTRIES if entry not in actual.spd]


def _remove(desired: DesiredState, wanted: _Wanted, actual: KernelState) -> list[Operation]:
    operations: list[Operation] = []
    for address, left in sorted(actual.gate.items()):
        allowed = desired.gate.get(address)
        if allowed is None:
            operations.append(CloseGate(address=address))
        elif left > allowed + GATE_TOLERANCE_S and address not in desired.opening and actual.guard:
            operations.append(OpenGate(address=address, seconds=allowed))
    operations += narrow(desired, actual)
    operations += [
        DetachPort(interface=port)
        for bridge in sorted(actual.bridges)
        for port in sorted(actual.bridges[bridge].ports)
        if not _belongs(desired, wanted, actual, bridge, port)
    ]
    operations += [
        ClosePassage(local_port=passage.local_port)
        for passage in sorted(actual.passages, key=lambda passage: passage.local_port)
        if passage not in desired.passages
    ]
    operations += _delete_sas(wanted.nobodys)
    operations += [
        DeleteTunnel(local_port=tunnel.local_port)
        for tunnel in _by_port(tunnel for tunnel in actual.tunnels if wanted.tunnels.get(tunnel.local_port) != tunnel)
    ]
    nobodys = (entry for entry in actual.spd if entry not in wanted.entries and entry not in _BLOCK)
    operations += [DeleteSpdEntry(entry=entry) for entry in sorted(nobodys, key=repr)]
    operations += [DeleteBridge(name=name) for name in sorted(actual.bridges) if name not in desired.bridges]
    return operations


def _build(desired: DesiredState, wanted: _Wanted, actual: KernelState) -> list[Operation]:
    operations: list[Operation] = [
        CreateBridge(name=name)
        for name in sorted(desired.bridges)
        if name not in actual.bridges or not actual.bridges[name].sealed
    ]
    operations += [AddSpdEntry(entry=entry) for entry in wanted.entries if entry not in actual.spd]
    new = [(link, sa) for link in wanted.links for sa in link.new_sas if sa.id not in wanted.present]
    operations += [AddSa(sa=sa) for link, sa in new if sa.destination == link.local]
    missing = {port: tunnel for port, tunnel in wanted.tunnels.items() if tunnel not in actual.tunnels}
    operations += [CreateTunnel(tunnel=tunnel) for tunnel in missing.values()]
    operations += [AddSa(sa=sa) for link, sa in new if sa.destination != link.local]
    operations += [
        OpenPassage(passage=passage)
        for passage in sorted(desired.passages, key=lambda passage: passage.local_port)
        if passage not in actual.passages or passage.local_port in missing
    ]
    operations += settle(desired, actual)
    operations += [
        AttachPort(bridge=link.bridge, interface=link.device, isolated=True)
        for link in wanted.links
        if link.attached and (link.local_port in missing or _isolated(actual, link.bridge, link.device) is not True)
    ]
    operations += [
        AttachPort(bridge=bridge, interface=tap, isolated=False)
        for tap, bridge in sorted((desired.taps or {}).items())
        if _isolated(actual, bridge, tap) is not False
    ]
    operations += [
        OpenGate(address=address, seconds=seconds)
        for address, seconds in sorted(desired.opening.items())
        if abs(actual.gate.get(address, 0.0) - seconds) > GATE_TOLERANCE_S
    ]
    return operations


def _belongs(desired: DesiredState, wanted: _Wanted, actual: KernelState, bridge: str, port: str) -> bool:
    link = wanted.by_device.get(port)
    if link is not None:
        return link.bridge == bridge and link.attached and wanted.tunnels[link.local_port] in actual.tunnels
    if desired.taps is None:
        return port.startswith(TAP_PREFIX)
    return desired.taps.get(port) == bridge


def _is_of(sa: SecurityAssociation, link: DesiredLink) -> bool:
    """The SA, under an id that the link wants, is what the link would have installed."""
    inbound = sa.destination == link.local
    source = link.remote if inbound else link.local
    return (sa.source, sa.reqid, sa.context) == (source, link.reqid, link.link_context)


def _delete_sas(ids: Iterable[SaId]) -> list[Operation]:
    ordered = tuple(sorted(set(ids), key=lambda sa: (sa.destination, sa.spi)))
    return [DeleteSas(ids=ordered)] if ordered else []


def _by_port(tunnels: Iterable[Tunnel]) -> list[Tunnel]:
    return sorted(tunnels, key=lambda tunnel: tunnel.local_port)


def _isolated(actual: KernelState, bridge: str, interface: str) -> bool | None:
    """The port's flag; None when it is no port of this bridge, or one in which something else is set wrongly."""
    found = actual.bridges.get(bridge)
    return None if found is None or interface in found.faulty else found.ports.get(interface)
