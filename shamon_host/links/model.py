"""Kernel objects of links as values, and the operations on them.

The planner compares a desired state with a `KernelState` and returns `Operation`s; a `LinkKernel` carries them out.
Ids: the local UDP port tells a (peer, type) pair apart on one host; tunnel id and session id equal that port.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from shamon_host.domain.labels import SelinuxContext
from shamon_host.links.sa_limits import NO_LIMITS, SaLimits
from shamon_host.links.tap_filter import TapFilter

PORT_BLOCK_FIRST = 0x4000
PORT_BLOCK_MASK = 0xC000
PORT_BLOCK = range(PORT_BLOCK_FIRST, PORT_BLOCK_FIRST + 0x4000)
"""UDP ports of link sockets on every host: one aligned block, so that one selector with a mask covers it."""

GUARD_TABLE, FILTER_TABLE, CONTROL_TABLE = NFT_TABLES = "shamon", "shamon-taps", "shamon-control"
"""Shamon's tables of nft: the guard, the filters of taps, the wire to a MAC VM."""

LINK_PRIORITY = 100
"""Of labelled SPD entries; lower wins."""
GUARD_PRIORITY = 1000
"""Of the block entries of the guard."""
BRIDGE_PREFIX = "shbr"
TUNNEL_PREFIX = "shl2"
TAP_PREFIX = "shvm"
PASSAGE_PREFIX = "shpa"
PASSAGE_SESSION = 0x10000
"""What is added to a link's port to give the session id of a passage beside it."""
PASSAGE_TCP_PORT = 4094
"""Where the host that takes a VM listens in a passage."""


class Direction(StrEnum):
    IN = "in"
    OUT = "out"


@dataclass(frozen=True, slots=True, kw_only=True)
class SaId:
    """What identifies an ESP SA (RFC 4301, section 4.1). `spi` in host byte order."""

    destination: str
    spi: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SecurityAssociation:
    """A transport-mode ESP SA, AES-256-GCM with a 16-byte ICV (RFC 4106), with ESN.

    `key` is 32 bytes of key and 4 of salt; None when read back: keys are never compared or shown.
    """

    source: str
    destination: str
    spi: int
    reqid: int
    context: SelinuxContext | None
    """None only in a foreign object that was read."""
    hard_lifetime_s: int
    """Limit that it was added with, counted from then on the wall clock."""
    limits: SaLimits = NO_LIMITS
    """In bytes and packets."""
    key: bytes | None = field(default=None, repr=False, compare=False)
    packets: int = field(default=0, compare=False)
    """Packets that it carried so far, when read."""
    bytes: int = field(default=0, compare=False)
    """What was in them, as `SaLimits` counts it, when read."""

    @property
    def id(self) -> SaId:
        return SaId(destination=self.destination, spi=self.spi)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpdEntry:
    """An SPD entry for UDP. A labelled entry (reqid set) protects; a block entry has neither label nor template.

    Addresses are "" for any address of `family`. Ports are matched under their masks.
    """

    direction: Direction
    family: int
    """4 or 6."""
    source: str
    destination: str
    source_port: int
    source_port_mask: int
    destination_port: int
    destination_port_mask: int
    priority: int
    block: bool
    context: SelinuxContext | None = None
    reqid: int | None = None
    foreign: str = ""
    """Not empty in an entry that was read, touches the port block and is none that this program writes: what it is,
    in words, with the kernel's number for it. The other fields then say only roughly what it matches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tunnel:
    """An L2TPv3 Ethernet tunnel with its one session, over a labelled, connected UDP socket."""

    interface: str
    local: str
    remote: str
    local_port: int
    peer_port: int
    """tunnel id = session id = local_port; peer tunnel id = peer session id = peer_port."""
    context: SelinuxContext | None
    """The socket's label as read back from it; None when it cannot be read (the tunnel is then removed)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """A second session in the tunnel of a link, for as long as a VM moves over it: what passes has the label, the SAs,
    the SPD entry and the gate of the link's type.

    Its device is in no bridge. It has one link-local address, and the guard lets TCP to one port of its peer through,
    and nothing else."""

    interface: str
    local_port: int
    """Of the link; session id = local_port + PASSAGE_SESSION."""
    peer_port: int
    gives: bool
    """This host gives the VM away; the other one takes it."""
    whole: bool = True
    """False in one that was read and is not as it was made."""

    @property
    def address(self) -> str:
        """This host's own."""
        return _PASSAGE_ADDRESSES[not self.gives]

    @property
    def peer_address(self) -> str:
        return _PASSAGE_ADDRESSES[self.gives]


_PASSAGE_ADDRESSES = ("fe80::5348:1", "fe80::5348:2")
"""Of the host that gives a VM away, and of the one that takes it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bridge:
    """The bridge of a type: no address, IPv6 off, nothing to or from the host. `ports`: interface → isolated flag.
    `faulty`: port → what is set otherwise in it than `AttachPort` sets it (hairpin, for one), in words."""

    name: str
    ports: Mapping[str, bool] = field(default_factory=dict)
    sealed: bool = True
    """IPv6 disabled, no address, forwarding refused, no spanning tree nor anything else that changes where frames go;
    False in a bridge that was read and is not."""
    faulty: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelState:
    """Everything of ours, and everything foreign in our place, that the kernel holds.

    SAs are those labelled as a link's or with a reqid of the port block, without the larval ones (SPIs that are only
    reserved); SPD entries those labelled as a link's and those that touch the port block before or beside the guard's.
    """

    sas: frozenset[SecurityAssociation] = frozenset()
    spd: frozenset[SpdEntry] = frozenset()
    tunnels: frozenset[Tunnel] = frozenset()
    passages: frozenset[Passage] = frozenset()
    bridges: Mapping[str, Bridge] = field(default_factory=dict)
    gate: Mapping[str, float] = field(default_factory=dict)
    """Peer's underlay address → seconds until the gate closes."""
    guard: bool = False
    """The nft guard is there, in both hooks and for both families, as this program installs it."""
    filters: Mapping[str, TapFilter] = field(default_factory=dict)
    """Tap → its filter, there as this program writes it; `open_s` is what is left of its window, in whole seconds."""
    changed_filters: Mapping[str, str] = field(default_factory=dict)
    """Tap → how its filter, not in `filters`, differs from any that this program writes; what passes is not known."""
    selinux_enforcing: bool = False
    selinux_missing: tuple[str, ...] = ()
    """What the loaded SELinux policy lacks for links, in words: Shamon's module, a domain that enforces, ..."""
    sysctls: Mapping[str, str] = field(default_factory=dict)
    """Those of `network_state.SYSCTLS`."""
    foreign: tuple[str, ...] = ()
    """Objects in the way that no operation of ours describes, in words."""

    @property
    def no_links_because(self) -> str:
        """Why SELinux of this host does not let it carry a type, in words; "" when it does."""
        if not self.selinux_enforcing:
            return "SELinux is not enforcing"
        if self.selinux_missing:
            return f"the loaded SELinux policy is not fit for links: {'; '.join(self.selinux_missing)}"[:1000]
        return ""


# Operations, each idempotent, each read back by the adapter. They raise BackendFailed.


@dataclass(frozen=True, slots=True, kw_only=True)
class InstallGuard:
    """The nft table with guard, gate set and bridge rules. Block SPD entries are AddSpdEntry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AddSa:
    sa: SecurityAssociation


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteSas:
    """All in one batch, larval ones too; one that is gone already is no error."""

    ids: tuple[SaId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AddSpdEntry:
    entry: SpdEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteSpdEntry:
    entry: SpdEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateTunnel:
    tunnel: Tunnel


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteTunnel:
    local_port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenPassage:
    """Its link's tunnel is there. One that is as wanted stays."""

    passage: Passage


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosePassage:
    """Of the link with this port. One that is gone already, with its tunnel or by itself, is no error."""

    local_port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateBridge:
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteBridge:
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AttachPort:
    """Link devices are attached isolated (split horizon), VMs' taps not."""

    bridge: str
    interface: str
    isolated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class DetachPort:
    interface: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenGate:
    """Set the gate's timeout for the peer's address, replacing what was left of it."""

    address: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseGate:
    address: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SetTapFilter:
    """Put a tap's filter in the place of what is there for it, changed or not; in between, one of the two holds. The
    tap need not exist yet. A window counts from now, rounded down to seconds."""

    filter: TapFilter


@dataclass(frozen=True, slots=True, kw_only=True)
class ClearTapFilter:
    """The tap exchanges everything with its bridge. Its filter goes, whatever became of it."""

    device: str


Operation = (
    InstallGuard
    | AddSa
    | DeleteSas
    | AddSpdEntry
    | DeleteSpdEntry
    | CreateTunnel
    | DeleteTunnel
    | OpenPassage
    | ClosePassage
    | CreateBridge
    | DeleteBridge
    | AttachPort
    | DetachPort
    | OpenGate
    | CloseGate
    | SetTapFilter
    | ClearTapFilter
)
