"""What the tap of one VM may exchange with its type's bridge, as a value: which frames pass, and how two limits join.

A tap in the bridge of its type exchanges everything with it. A filter takes some of that away: an overlay of the policy
or a label that only reads or only writes a type asks for one. What passes is stated here once, as `TapFilter.permits`;
`linux_filter_rules` writes the same as nft rules, and the kernel in memory asks this very function.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TypeVar

from shamon_host.domain.errors import BadInput

MAX_PEERS, MAX_PORTS = 4096, 1024
MAX_RATE_BYTES_S = 10**10
"""nft counts in nanoseconds of 64 bits: (rate + burst) * 10^9 has to fit."""
BURST_BYTES = 2**16
"""One segment that a VM leaves to be cut up below (GSO) always fits."""
MAX_WINDOW_S = 14 * 24 * 3600.0
"""nft reads a timeout in JSON as milliseconds of 31 bits; a window of a weekly timetable is shorter."""
_DEVICE = re.compile(r"shvm[0-9a-z-]{1,11}", re.ASCII)
"""A VM's tap (`model.TAP_PREFIX`), at most IFNAMSIZ - 1 characters, none of which means anything to nft."""
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", re.ASCII)
_Item = TypeVar("_Item")
_Number = TypeVar("_Number", int, float)


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
    PORTS = "ports"
    """TCP or UDP over IPv4 or IPv6, extension headers or not, with its ports in it: no fragment but the first."""
    OTHER = "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameFacts:
    """One frame as far as filters look at it. MAC addresses in lower case; ports only of kind PORTS."""

    from_tap: bool
    """The VM sends it; otherwise it is on its way to the VM."""
    source: str
    destination: str
    kind: FrameKind
    protocol: PortProtocol | None = None
    source_port: int = 0
    destination_port: int = 0

    @property
    def to_group(self) -> bool:
        """Broadcast or multicast."""
        return _is_group(self.destination)


@dataclass(frozen=True, slots=True, kw_only=True)
class TapFilter:
    """The limits of one tap; see `permits` for what passes. Each default is no limit. Raises BadInput.

    `peers`: MAC addresses of single stations. `ports`: kept sorted and distinct. `rate_bytes_s`: of what the VM sends,
    without Ethernet headers; `BURST_BYTES` and what it may send in a second may go at once. `open_s`: frames pass for
    so many seconds from now and not after; 0 is a window that is shut.
    """

    device: str
    sends: bool = True
    receives: bool = True
    peers: frozenset[str] | None = None
    ports: tuple[PortRule, ...] | None = None
    rate_bytes_s: int | None = None
    open_s: float | None = None

    def __post_init__(self) -> None:
        checked_device(self.device)
        if self.peers is not None:
            _check_peers(self.device, self.peers)
        if self.ports is not None:
            object.__setattr__(self, "ports", tuple(sorted(set(self.ports))))
            if len(self.ports) > MAX_PORTS:
                raise BadInput("too many ports for a tap", where=self.device, expected=f"at most {MAX_PORTS}")
        rate = self.rate_bytes_s
        if rate is not None and (type(rate) is not int or not 0 < rate <= MAX_RATE_BYTES_S):
            raise BadInput(
                "this is no rate", where=self.device, expected=f"1 to {MAX_RATE_BYTES_S} bytes/s", found=str(rate)[:40]
            )
        if self.open_s is not None and not 0 <= self.open_s <= MAX_WINDOW_S:
            raise BadInput(
                "a tap's window cannot be this long",
                where=self.device,
                expected=f"0 to {MAX_WINDOW_S:.0f} s, or no window at all",
                found=f"{self.open_s} s",
            )

    def permits(self, frame: FrameFacts) -> bool:
        """Whether the frame passes, as long as the rate is kept. All limits must let it pass:

        - direction: `sends` for frames of the VM, `receives` for frames to it; not even ARP passes against it;
        - window: open;
        - peers: what the VM sends goes to one of them, or is a question to a group address, an ARP request or a
          neighbour solicitation, without which no peer could be found (other VMs of the type see these too); what it
          receives, to whatever address, comes from one of them;
        - ports: ARP, neighbour solicitation and advertisement pass, and of the rest TCP and UDP whose source or
          destination port is listed. So ICMP, later fragments, router advertisements and tagged frames do not.
        """
        direction = self.sends if frame.from_tap else self.receives
        return direction and self.open_s != 0 and self._permits_peer(frame) and self._permits_port(frame)

    def _permits_peer(self, frame: FrameFacts) -> bool:
        if self.peers is None:
            return True
        if not frame.from_tap:
            return frame.source in self.peers
        return frame.destination in self.peers or (
            frame.to_group and frame.kind in (FrameKind.ARP_REQUEST, FrameKind.NEIGHBOUR_SOLICITATION)
        )

    def _permits_port(self, frame: FrameFacts) -> bool:
        if self.ports is None or frame.kind not in (FrameKind.PORTS, FrameKind.OTHER):
            return True
        listed = {rule.port for rule in self.ports if rule.protocol is frame.protocol}
        return frame.kind is FrameKind.PORTS and not listed.isdisjoint((frame.source_port, frame.destination_port))

    def narrowed_by(self, other: "TapFilter") -> "TapFilter":
        """Both limits at once: what it permits, each of the two permits. Raises BadInput for filters of two taps.

        Commutative, associative, idempotent. A frame that both permit may still be denied: one that one of them lets
        pass for its source port and the other for its destination port.
        """
        if self.device != other.device:
            raise BadInput("filters of two taps do not join", where=self.device, found=other.device)
        ports = None if self.ports is None else frozenset(self.ports)
        other_ports = None if other.ports is None else frozenset(other.ports)
        both = _common(ports, other_ports)
        return TapFilter(
            device=self.device,
            sends=self.sends and other.sends,
            receives=self.receives and other.receives,
            peers=_common(self.peers, other.peers),
            ports=None if both is None else tuple(sorted(both)),
            rate_bytes_s=_least(self.rate_bytes_s, other.rate_bytes_s),
            open_s=_least(self.open_s, other.open_s),
        )

    def without_window(self) -> "TapFilter":
        """The same at any time."""
        return replace(self, open_s=None)

    def __str__(self) -> str:
        """In words, for the audit log."""
        parts = [
            {(True, True): "both ways", (True, False): "sends only", (False, True): "receives only"}.get(
                (self.sends, self.receives), "nothing"
            )
        ]
        if self.peers is not None:
            parts.append(f"{len(self.peers)} peers")
        if self.ports is not None:
            parts.append("ports " + (" ".join(map(str, self.ports[:20])) or "none"))
        if self.rate_bytes_s is not None:
            parts.append(f"{self.rate_bytes_s} bytes/s")
        if self.open_s is not None:
            parts.append(f"for {self.open_s:.1f} s" if self.open_s else "not now")
        return f"{self.device}: {', '.join(parts)}"


def shut(device: str) -> TapFilter:
    """Nothing passes."""
    return TapFilter(device=device, sends=False, receives=False)


def checked_device(name: str) -> str:
    """The name of a VM's tap. Raises BadInput for any other text: names become part of nft's."""
    if not _DEVICE.fullmatch(name):
        raise BadInput("this is no name of a VM's tap", expected="shvm and digits", found=repr(name)[:40])
    return name


def is_device(name: str) -> bool:
    return _DEVICE.fullmatch(name) is not None


def check_devices(filters: Mapping[str, TapFilter]) -> None:
    """Raises BadInput for a filter under another name than its tap's."""
    for tap, limits in filters.items():
        if tap != limits.device:
            raise BadInput("a filter is another tap's", where=tap[:40], found=limits.device)


def _check_peers(device: str, peers: frozenset[str]) -> None:
    if len(peers) > MAX_PEERS:
        raise BadInput("too many peers for a tap", where=device, expected=f"at most {MAX_PEERS}")
    for mac in peers:
        if not _MAC.fullmatch(mac) or _is_group(mac):
            raise BadInput(
                "this is no MAC address of a peer",
                where=device,
                expected="one station's, in lower case with colons",
                found=repr(mac)[:40],
            )


def _is_group(mac: str) -> bool:
    """The first bit on the wire (IEEE 802.3, clause 3.2.3) tells groups from stations."""
    return bool(int(mac[:2], 16) & 1)


def _common(one: frozenset[_Item] | None, other: frozenset[_Item] | None) -> frozenset[_Item] | None:
    if one is None or other is None:
        return other if one is None else one
    return one & other


def _least(one: _Number | None, other: _Number | None) -> _Number | None:
    given = [value for value in (one, other) if value is not None]
    return min(given) if given else None
