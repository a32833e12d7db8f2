"""Counters of this program's network devices, as rtnetlink tells them (include/uapi/linux/if_link.h)."""

import errno
import struct
from collections.abc import Iterable

from shamon_host.links.linux_devices import IFINFO, device_of
from shamon_host.links.linux_netlink import NetlinkError, parse
from shamon_host.links.model import BRIDGE_PREFIX, TAP_PREFIX, TUNNEL_PREFIX
from shamon_host.links.ports import Traffic

STATS64 = 23
"""IFLA_STATS64."""
_COUNTERS = struct.Struct("=8Q")
"""The start of struct rtnl_link_stats64: packets, bytes, errors and drops, each of what was received and sent."""


def traffic_of(bodies: Iterable[bytes]) -> dict[str, Traffic]:
    """From bodies of RTM_NEWLINK: name → counters, of bridges of types, link devices and VMs' taps. What failed counts
    as dropped. Raises NetlinkError for a body that cannot be understood."""
    found = {}
    for body in bodies:
        device = device_of(body)
        if not device.name.startswith((BRIDGE_PREFIX, TUNNEL_PREFIX, TAP_PREFIX)):
            continue
        counters = parse(body, IFINFO.size, "read counters").get(STATS64, b"")
        if len(counters) < _COUNTERS.size:
            raise NetlinkError(f"read counters of {device.name}", errno.EBADMSG)
        received, sent, _, _, bad_received, bad_sent, rx_dropped, tx_dropped = _COUNTERS.unpack_from(counters)
        found[device.name] = Traffic(
            up=device.up,
            rx_packets=received,
            tx_packets=sent,
            rx_dropped=rx_dropped + bad_received,
            tx_dropped=tx_dropped + bad_sent,
        )
    return found
