"""What the kernel should hold: links, guard, bridges, gates, as one value.

The manager makes a `DesiredState` out of what was agreed with peers; the planner compares it with the `KernelState`
that was read. Here too is what follows from a link: its SPD entries, its SAs' ids, the names of its devices.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address

from shamon_host.domain.errors import BadInput
from shamon_host.domain.labels import HostName, SelinuxContext, TypeName
from shamon_host.links.model import (
    BRIDGE_PREFIX,
    GUARD_PRIORITY,
    LINK_PRIORITY,
    PASSAGE_PREFIX,
    PORT_BLOCK,
    PORT_BLOCK_FIRST,
    PORT_BLOCK_MASK,
    TUNNEL_PREFIX,
    Direction,
    Passage,
    SaId,
    SecurityAssociation,
    SpdEntry,
    Tunnel,
)
from shamon_host.links.sa_limits import RARELY, RekeyAfter
from shamon_host.links.tap_filter import TapFilter, check_devices

EXACT_PORT = 0xFFFF
"""The mask under which one port matches itself alone."""


def canonical_address(text: str) -> str:
    """An IP address as the kernel prints it. Raises BadInput."""
    try:
        return str(ip_address(text))
    except ValueError:
        raise BadInput("bad underlay address", expected="an IPv4 or IPv6 address", found=repr(text[:80])) from None


def bridge_name(category: int) -> str:
    """The bridge of the type with this SELinux category."""
    return f"{BRIDGE_PREFIX}{category}"


def device_name(local_port: int) -> str:
    """The l2tpeth device of the link with this local port."""
    return f"{TUNNEL_PREFIX}{local_port - PORT_BLOCK_FIRST}"


def passage_name(local_port: int) -> str:
    """The device of a passage beside the link with this local port."""
    return f"{PASSAGE_PREFIX}{local_port - PORT_BLOCK_FIRST}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DesiredLink:
    """One type's link to one peer.

    `in_spis` and `out_spis` may be in the kernel; any other SA of the link is superseded and goes. `new_sas` carry keys
    and exist only while they are installed, once. `attached`: both ends are ready, so its device belongs in the bridge.
    """

    peer: HostName
    type: TypeName
    local: str
    remote: str
    local_port: int
    peer_port: int
    bridge: str
    link_context: SelinuxContext
    spd_context: SelinuxContext
    in_spis: frozenset[int] = frozenset()
    out_spis: frozenset[int] = frozenset()
    new_sas: tuple[SecurityAssociation, ...] = field(default=(), repr=False)
    attached: bool = False

    @property
    def device(self) -> str:
        return device_name(self.local_port)

    @property
    def reqid(self) -> int:
        """What ties SPD entries to SAs on this host; the local port is unique on it."""
        return self.local_port

    @property
    def sa_ids(self) -> frozenset[SaId]:
        return frozenset(SaId(destination=self.local, spi=spi) for spi in self.in_spis) | frozenset(
            SaId(destination=self.remote, spi=spi) for spi in self.out_spis
        )

    @property
    def tunnel(self) -> Tunnel:
        return Tunnel(
            interface=self.device,
            local=self.local,
            remote=self.remote,
            local_port=self.local_port,
            peer_port=self.peer_port,
            context=self.link_context,
        )

    def passage(self, *, gives: bool) -> Passage:
        """The one beside it; `gives`: this host gives a VM away over it."""
        return Passage(
            interface=passage_name(self.local_port),
            local_port=self.local_port,
            peer_port=self.peer_port,
            gives=gives,
        )

    @property
    def spd_entries(self) -> tuple[SpdEntry, SpdEntry]:
        """The labelled entries, in and out, with exact addresses and ports."""
        return (
            self._entry(Direction.IN, self.remote, self.local, self.peer_port, self.local_port),
            self._entry(Direction.OUT, self.local, self.remote, self.local_port, self.peer_port),
        )

    def _entry(
        self, direction: Direction, source: str, destination: str, source_port: int, destination_port: int
    ) -> SpdEntry:
        return SpdEntry(
            direction=direction,
            family=6 if ":" in source else 4,
            source=source,
            destination=destination,
            source_port=source_port,
            source_port_mask=EXACT_PORT,
            destination_port=destination_port,
            destination_port_mask=EXACT_PORT,
            priority=LINK_PRIORITY,
            block=False,
            context=self.spd_context,
            reqid=self.reqid,
        )

    def sa(
        self, *, inbound: bool, spi: int, key: bytes, lifetime_s: int, rekey: RekeyAfter = RARELY
    ) -> SecurityAssociation:
        """The SA of one direction, to install."""
        source, destination = (self.remote, self.local) if inbound else (self.local, self.remote)
        return SecurityAssociation(
            source=source,
            destination=destination,
            spi=spi,
            reqid=self.reqid,
            context=self.link_context,
            hard_lifetime_s=lifetime_s,
            limits=rekey.limits(inbound=inbound),
            key=key,
        )


def block_entries() -> tuple[SpdEntry, ...]:
    """The guard's part of the SPD: whatever has a port of the block, on either side, in either direction, in either
    family, and no labelled entry in front of it, is dropped."""
    entries = []
    for direction in (Direction.IN, Direction.OUT):
        for family in (4, 6):
            for own in ("source", "destination"):
                entries.append(
                    SpdEntry(
                        direction=direction,
                        family=family,
                        source="",
                        destination="",
                        source_port=PORT_BLOCK_FIRST if own == "source" else 0,
                        source_port_mask=PORT_BLOCK_MASK if own == "source" else 0,
                        destination_port=PORT_BLOCK_FIRST if own == "destination" else 0,
                        destination_port_mask=PORT_BLOCK_MASK if own == "destination" else 0,
                        priority=GUARD_PRIORITY,
                        block=True,
                    )
                )
    return tuple(entries)


BLOCK_ENTRIES = block_entries()


@dataclass(frozen=True, slots=True, kw_only=True)
class DesiredState:
    """Everything wanted; what is not in it goes, except the guard, which nobody can unwant."""

    links: tuple[DesiredLink, ...] = ()
    passages: frozenset[Passage] = frozenset()
    """Beside links of these that both sides installed."""
    bridges: frozenset[str] = frozenset()
    """One for each type that runs or is carried."""
    gate: Mapping[str, float] = field(default_factory=dict)
    """Peer's address → seconds that its gate may stay open at most. A closed gate is not opened by this."""
    opening: Mapping[str, float] = field(default_factory=dict)
    """Gates to set now: a handshake was confirmed. Each is in `gate` too."""
    taps: Mapping[str, str] | None = None
    """VMs' taps → bridge. None: nothing is known of VMs now, leave their ports alone."""
    filters: Mapping[str, TapFilter] | None = None
    """Tap → its filter, for taps to come too. A tap that is not in it exchanges everything with its bridge. None:
    nothing is known of filters now, leave them alone."""

    def __post_init__(self) -> None:
        """Raises BadInput for a state that no kernel could hold, or that would join what must stay apart."""
        _unique("local port", (link.local_port for link in self.links))
        _unique("type of one peer", ((link.peer, link.type) for link in self.links))
        _unique("SA", (sa for link in self.links for sa in link.sa_ids))
        for link in self.links:
            if link.local_port not in PORT_BLOCK or link.peer_port not in PORT_BLOCK:
                raise BadInput("a link's port is outside the block", where=link.peer, found=str(link.local_port))
            if len(link.link_context.categories) != 1 or link.link_context.categories != link.spd_context.categories:
                raise BadInput("a link's contexts have not one category in common", where=f"{link.peer} {link.type}")
            if link.bridge != bridge_name(min(link.link_context.categories)) or link.bridge not in self.bridges:
                raise BadInput("a link belongs in the bridge of its type", where=link.device, found=link.bridge)
            if any(sa.id not in link.sa_ids for sa in link.new_sas):
                raise BadInput("an SA to install is not one of its link's", where=f"{link.peer} {link.type}")
        beside = {(link.local_port, link.peer_port) for link in self.links if link.attached}
        for passage in self.passages:
            if (passage.local_port, passage.peer_port) not in beside:
                raise BadInput("a passage belongs beside a link that is up", where=passage.interface)
        for tap, bridge in (self.taps or {}).items():
            if bridge not in self.bridges:
                raise BadInput("a tap belongs in a bridge that is not wanted", where=tap, found=bridge)
        check_devices(self.filters or {})
        for address, seconds in (*self.gate.items(), *self.opening.items()):
            if not (math.isfinite(seconds) and seconds > 0) or seconds > self.gate.get(address, 0):
                raise BadInput("a gate cannot be open so long", where=address, found=str(seconds))


def _unique(what: str, values: Iterable[object]) -> None:
    seen: set[object] = set()
    for value in values:
        if value in seen:
            raise BadInput(f"the same {what} twice", found=str(value))
        seen.add(value)
