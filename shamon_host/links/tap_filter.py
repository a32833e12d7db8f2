"""What the tap of one VM may exchange with its type's bridge, as a value: which frames pass, and how two limits join.

A tap in the bridge of its type exchanges everything with it. A filter takes some of that away: what is sent has to be
the VM's own (`station`), and overlays of the policy and labels that only read or only write a type ask for more. What
passes is stated here once, as `TapFilter.permits`; `linux_filter_rules` writes the same as nft rules, and the kernel in
memory asks this very function.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from shamon_host.domain.errors import BadInput
from shamon_host.links.frame_facts import FrameFacts, FrameKind, PortRule
from shamon_host.links.station import Station, is_mac

MAX_PEERS, MAX_PORTS = 4096, 1024
MAX_RATE_BYTES_S = 10**10
"""nft counts in nanoseconds of 64 bits: (rate + burst) * 10^9 has to fit."""
BURST_BYTES = 2**16
"""One segment that a VM leaves to be cut up below (GSO) always fits."""
MAX_WINDOW_S = 14 * 24 * 3600.0
"""nft reads a timeout in JSON as milliseconds of 31 bits; a window of a weekly timetable is shorter."""
_DEVICE = re.compile(r"shvm[0-9a-z-]{1,11}", re.ASCII)
"""A VM's tap (`model.TAP_PREFIX`), at most IFNAMSIZ - 1 characters, none of which means anything to nft."""
_ABOUT_NEIGHBOURS = (
    FrameKind.ARP_REQUEST, FrameKind.ARP, FrameKind.NEIGHBOUR_SOLICITATION, FrameKind.NEIGHBOUR_ADVERTISEMENT,
)  # fmt: skip
_Item = TypeVar("_Item")
_Number = TypeVar("_Number", int, float)


@dataclass(frozen=True, slots=True, kw_only=True)
class TapFilter:
    """The limits of one tap; see `permits` for what passes. Each default is no limit. Raises BadInput.

    `own`: who the VM's interface is, hence what it cannot pass itself off as; every VM's tap has it. `peers`: MAC
    addresses of single stations. `ports`: kept sorted and distinct. `rate_bytes_s`: of what the VM sends, without
    Ethernet headers; `BURST_BYTES` and what it may send in a second may go at once. `open_s`: frames pass for so many
    seconds from now and not after; 0 is a window that is shut.
    """

    device: str
    own: Station | None = None
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
        - own: what the VM sends comes from itself (`Station.permits`);
        - peers: what the VM sends goes to one of them, or is a question to a group address, an ARP request or a
          neighbour solicitation, without which no peer could be found (other VMs of the type see these too); what it
          receives, to whatever address, comes from one of them;
        - ports: ARP, neighbour solicitation and advertisement pass, and of the rest TCP and UDP whose source or
          destination port is listed. So ICMP, later fragments, router advertisements and tagged frames do not.
        """
        return (
            self._is_open(frame)
            and not self.is_spoofed(frame)
            and self._permits_peer(frame)
            and self._permits_port(frame)
        )

    def is_spoofed(self, frame: FrameFacts) -> bool:
        """The VM sends it and it is none of its own: dropped and counted, if its direction and window are open."""
        return frame.from_tap and self.own is not None and self._is_open(frame) and not self.own.permits(frame)

    def _is_open(self, frame: FrameFacts) -> bool:
        return (self.sends if frame.from_tap else self.receives) and self.open_s != 0

    def _permits_peer(self, frame: FrameFacts) -> bool:
        if self.peers is None:
            return True
        if not frame.from_tap:
            return frame.source in self.peers
        return frame.destination in self.peers or (
            frame.to_group and frame.kind in (FrameKind.ARP_REQUEST, FrameKind.NEIGHBOUR_SOLICITATION)
        )

    def _permits_port(self, frame: FrameFacts) -> bool:
        if self.ports is None or frame.kind in _ABOUT_NEIGHBOURS:
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
        if self == other:
            return self
        ports = None if self.ports is None else frozenset(self.ports)
        other_ports = None if other.ports is None else frozenset(other.ports)
        both = _common(ports, other_ports)
        own, same = _one_station(self.own, other.own)
        return TapFilter(
            device=self.device,
            own=own,
            sends=self.sends and other.sends and same,
            receives=self.receives and other.receives,
            peers=_common(self.peers, other.peers),
            ports=None if both is None else tuple(sorted(both)),
            rate_bytes_s=_least(self.rate_bytes_s, other.rate_bytes_s),
            open_s=_least(self.open_s, other.open_s),
        )

    def without_window(self) -> "TapFilter":
        """The same at any time."""
        return self if self.open_s is None else replace(self, open_s=None)

    def __str__(self) -> str:
        """In words, for the audit log."""
        parts = [] if self.own is None else [str(self.own)]
        parts.append(
            {(True, True): "both ways", (True, False): "sends only", (False, True): "receives only"}.get(
                (self.sends, self.receives), "nothing"
            )
        )
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
        if not is_mac(mac):
            raise BadInput(
                "this is no MAC address of a peer",
                where=device,
                expected="one station's, in lower case with colons",
                found=repr(mac)[:40],
            )


def _one_station(one: Station | None, other: Station | None) -> tuple[Station | None, bool]:
    """What two say of one interface, and whether both can be true: nobody has two MAC addresses."""
    if one is None or other is None:
        return other if one is None else one, True
    mac = min(one.mac, other.mac)
    return Station(mac=mac, addresses=_common(one.addresses, other.addresses)), one.mac == other.mac


def _common(one: frozenset[_Item] | None, other: frozenset[_Item] | None) -> frozenset[_Item] | None:
    if one is None or other is None:
        return other if one is None else one
    return one & other


def _least(one: _Number | None, other: _Number | None) -> _Number | None:
    given = [value for value in (one, other) if value is not None]
    return min(given) if given else None
