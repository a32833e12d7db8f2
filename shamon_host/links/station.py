"""Who a VM's interface is: its MAC address, and its IP addresses where the policy declares them.

What a tap sends is only taken for its own: nothing from another's address, and nothing that would draw another's
traffic to itself. What that means frame by frame is stated here once, as `Station.permits`; `linux_station_rules`
writes the same as nft rules, and the kernel in memory asks this very function.
"""

import re
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address

from shamon_host.domain.addresses import MAX_ADDRESSES, interface_address
from shamon_host.domain.errors import BadInput
from shamon_host.links.frame_facts import FrameFacts, FrameKind, PortProtocol, is_group

CONTROL_GROUP, CONTROL_MASK = "01:80:c2:00:00:00", "ff:ff:ff:ff:ff:f0"
"""Addresses between a station and its bridge: spanning tree, LACP, 802.1X, LLDP (IEEE 802.1Q, table 8-1)."""
DHCP_SERVERS = {4: 67, 6: 547}
"""UDP source ports of DHCP's answers (RFC 2131, section 4.1; RFC 8415, section 7.2)."""
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", re.ASCII)
_UNSPECIFIED4, _UNSPECIFIED6 = "0.0.0.0", "::"  # noqa: S104 what a station without an address sends from


@dataclass(frozen=True, slots=True, kw_only=True)
class Station:
    """One interface of a VM. Raises BadInput.

    `mac`: of a single station, in lower case. `addresses`: IPv4 and IPv6 in their usual form, without the link-local
    address that follows from `mac`, which is its own anyway; None where none are declared: only the MAC address is
    pinned then.
    """

    mac: str
    addresses: frozenset[str] | None = None

    def __post_init__(self) -> None:
        check_mac(self.mac)
        if self.addresses is None:
            return
        for address in self.addresses:
            interface_address(address)
        object.__setattr__(self, "addresses", self.addresses - {self.link_local})
        if len(self.addresses) > MAX_ADDRESSES:
            raise BadInput("too many addresses for an interface", where=self.mac, expected=f"at most {MAX_ADDRESSES}")

    @property
    def link_local(self) -> str:
        """By EUI-64 (RFC 4291, appendix A)."""
        mac = bytes.fromhex(self.mac.replace(":", ""))
        interface = bytes([mac[0] ^ 2]) + mac[1:3] + b"\xff\xfe" + mac[3:]
        return str(IPv6Address(b"\xfe\x80" + bytes(6) + interface))

    def of_version(self, version: int) -> tuple[str, ...]:
        """Its declared addresses of IPv4 or IPv6, in their order, the link-local one among those of IPv6."""
        own = {*(self.addresses or ()), self.link_local}
        return tuple(sorted((each for each in own if ip_address(each).version == version), key=ip_address))

    def permits(self, frame: FrameFacts) -> bool:
        """Whether the VM may send the frame as far as it is about who it is. All must hold:

        - its source is `mac`; it has no VLAN tag; it is not for the bridge itself (`CONTROL_GROUP`);
        - ARP is for Ethernet and IPv4, and its sender's hardware address is `mac`;
        - a neighbour solicitation or advertisement has no extension header, and no option but a link-layer address,
          which is `mac`; but for a solicitation from `::`, whose options nobody believes (RFC 4861, section 7.1.1).

        And where addresses are declared:

        - it is ARP from one of them, or a probe for one of them (from 0.0.0.0, RFC 5227), or IPv4 or IPv6 from one of
          them, or a solicitation from `::` for one of them (RFC 4862, section 5.4.2): nothing else;
        - a neighbour advertisement is for one of them;
        - it is no router advertisement, and no answer of a DHCP server.
        """
        if frame.source != self.mac or frame.tagged or is_control(frame.destination):
            return False
        if frame.kind in (FrameKind.ARP, FrameKind.ARP_REQUEST):
            return self._permits_arp(frame)
        return self._permits_neighbour(frame) and (self.addresses is None or self._permits_ip(frame))

    def _permits_arp(self, frame: FrameFacts) -> bool:
        if frame.arp is None or frame.arp.sender_mac != self.mac:
            return False
        if self.addresses is None:
            return True
        subject = frame.arp.target if frame.arp.sender == _UNSPECIFIED4 else frame.arp.sender
        return subject in self.addresses

    def _permits_neighbour(self, frame: FrameFacts) -> bool:
        if frame.neighbour is None:
            return True
        if frame.kind is FrameKind.NEIGHBOUR_SOLICITATION and frame.ip_source == _UNSPECIFIED6:
            return True
        return frame.neighbour.link_address in ("", self.mac)

    def _permits_ip(self, frame: FrameFacts) -> bool:
        own = {*(self.addresses or ()), self.link_local}
        if frame.neighbour is not None:
            asks = frame.kind is FrameKind.NEIGHBOUR_SOLICITATION
            if (not asks or frame.ip_source == _UNSPECIFIED6) and frame.neighbour.target not in own:
                return False
            return frame.ip_source in own or (asks and frame.ip_source == _UNSPECIFIED6)
        if frame.kind is FrameKind.ROUTER_ADVERTISEMENT or frame.ip_source not in own:
            return False
        served = frame.protocol is PortProtocol.UDP and frame.source_port
        return served != DHCP_SERVERS[ip_address(frame.ip_source).version]

    def __str__(self) -> str:
        if self.addresses is None:
            return self.mac
        return f"{self.mac} with {', '.join(sorted(self.addresses)) or 'no address'}"


def check_mac(mac: str) -> str:
    """The MAC address of a single station, in lower case with colons. Raises BadInput for any other text."""
    if not _MAC.fullmatch(mac) or is_group(mac):
        raise BadInput(
            "this is no MAC address of a station",
            expected="one station's, in lower case with colons",
            found=repr(mac)[:40],
        )
    return mac


def is_mac(text: str) -> bool:
    return _MAC.fullmatch(text) is not None and not is_group(text)


def is_control(mac: str) -> bool:
    """Whether the address is between a station and its bridge."""
    return mac[:-1] == CONTROL_GROUP[:-1]
