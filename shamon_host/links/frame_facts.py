"""One frame as far as filters of taps look at it, as a value. `tap_filter` and `station` say which frames pass."""

from dataclasses import dataclass
from enum import StrEnum

from shamon_host.domain.errors import BadInput


class PortProtocol(StrEnum):
    TCP = "tcp"
    UDP = "udp"


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class PortRule:
    """One port of a limit, 1 to 65535. Raises BadInput for any other."""

    protocol: PortProtocol
    port: int

    def __post_init__(self) -> None:
        if not isinstance(self.protocol, PortProtocol):
            raise BadInput("this protocol has no ports", expected="tcp or udp", found=repr(self.protocol)[:40])
        if type(self.port) is not int or not 0 < self.port < 2**16:
            raise BadInput("this is no port", expected="1 to 65535", found=repr(self.port)[:40])

    def __str__(self) -> str:
        """As policies write it: `tcp/443`."""
        return f"{self.protocol}/{self.port}"


class FrameKind(StrEnum):
    """What a frame is to a filter. A frame with a VLAN tag is OTHER, whatever is behind the tag."""

    ARP_REQUEST = "arp-request"
    ARP = "arp"
    """Any other operation of ARP."""
    NEIGHBOUR_SOLICITATION = "neighbour-solicitation"
    NEIGHBOUR_ADVERTISEMENT = "neighbour-advertisement"
    ROUTER_ADVERTISEMENT = "router-advertisement"
    PORTS = "ports"
    """TCP or UDP over IPv4 or IPv6, extension headers or not, with its ports in it: no fragment but the first."""
    OTHER = "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class ArpFacts:
    """What an ARP packet for Ethernet and IPv4 (RFC 826) says of who sends it, and whom it is about: "" where it ends
    before that."""

    sender_mac: str
    sender: str
    target: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NeighbourFacts:
    """What a neighbour solicitation or advertisement says (RFC 4861, sections 4.3 and 4.4)."""

    target: str
    """"" when the packet ends before it does."""
    link_address: str | None
    """The sender's MAC address by its only option, source or target link-layer address; "" without options. None when
    there is something else, or an extension header: a message of which more could be believed than is looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameFacts:
    """MAC and IP addresses in their usual form, in lower case; ports only of kind PORTS."""

    from_tap: bool
    """The VM sends it; otherwise it is on its way to the VM."""
    source: str
    destination: str
    kind: FrameKind
    protocol: PortProtocol | None = None
    source_port: int = 0
    destination_port: int = 0
    tagged: bool = False
    """It has a VLAN tag (IEEE 802.1Q or 802.1ad)."""
    ip_source: str = ""
    """Of IPv4 or IPv6; "" in any other frame."""
    arp: ArpFacts | None = None
    """None too in an ARP packet for anything but Ethernet and IPv4, or that ends before its sender's MAC address."""
    neighbour: NeighbourFacts | None = None
    """Of neighbour solicitations and advertisements."""

    @property
    def to_group(self) -> bool:
        """Broadcast or multicast."""
        return is_group(self.destination)


def is_group(mac: str) -> bool:
    """The first bit on the wire (IEEE 802.3, clause 3.2.3) tells groups from stations."""
    return bool(int(mac[:2], 16) & 1)
