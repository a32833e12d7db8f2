"""What a host tells its MAC VM before anything else: which interface is which, and where the host's daemon answers.

The control wire is a bridge on the host that has the MAC VM's interface as its only port, with fixed addresses on both
ends. Nobody else is on it, so whoever speaks there is the host, or its MAC VM.
"""

import re
from dataclasses import dataclass
from ipaddress import ip_address, ip_interface

from shamon_host.domain.errors import BadInput
from shamon_host.links.model import BRIDGE_PREFIX

CONTROL_MAC = "52:54:00:4d:41:43"
"""Of the MAC VM's interface to the control wire, the same on every host: its pinned command line names it."""
HOST_ADDRESS, MAC_VM_ADDRESS, CONTROL_PREFIX = "169.254.77.1", "169.254.77.2", 30
"""Link-local (RFC 3927): no route leads there."""
AGENT_PORT, PROXY_PORT = 7701, 7702
"""TCP ports in the MAC VM on the control wire: what is asked of its kernel; connections to peers (HTTP CONNECT, RFC
9110, section 9.3.6)."""
CONTROL_INTERFACE, NETWORK_INTERFACE = "shcontrol", "shnetwork"
UPLINK_PREFIX = "shup"
"""Of the interfaces towards this host's VMs, one for each type."""
HOST_UPLINK_PREFIX = "shmc"
"""Of the taps that these have on the host."""
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", re.ASCII)


def uplink(bridge: str) -> str:
    """The MAC VM's interface in its bridge of this name."""
    return UPLINK_PREFIX + bridge.removeprefix(BRIDGE_PREFIX)


def host_uplink(bridge: str) -> str:
    """The tap of that interface, in the host's bridge of the same name."""
    return HOST_UPLINK_PREFIX + bridge.removeprefix(BRIDGE_PREFIX)


@dataclass(frozen=True, slots=True, kw_only=True)
class MacVmSetup:
    """Raises BadInput."""

    network_mac: str
    address: str
    """Of the host on the network, with its prefix length: `192.0.2.1/24`."""
    gateway: str
    """Next hop for everything else; empty where all peers are on that network."""
    port: int
    """TCP: where peers reach this host's daemon."""
    daemon_port: int
    """TCP: where the daemon answers on the control wire."""
    uplinks: tuple[tuple[str, str], ...]
    """(bridge, MAC address of the interface towards it) for each type that the host may carry."""

    def __post_init__(self) -> None:
        try:
            interface = ip_interface(self.address)
            gateway = ip_address(self.gateway) if self.gateway else None
        except ValueError:
            raise BadInput("bad address for the MAC VM", expected="ADDRESS/LENGTH", found=repr(self.address)) from None
        if gateway is not None and (gateway.version != interface.version or gateway == interface.ip):
            raise BadInput("bad gateway for the MAC VM", where=self.address, found=self.gateway)
        macs = [self.network_mac, *(mac for _, mac in self.uplinks), CONTROL_MAC]
        if len(set(macs)) != len(macs) or not all(_MAC.fullmatch(mac) for mac in macs):
            raise BadInput("interfaces of the MAC VM without MAC addresses of their own", found=", ".join(macs)[:300])
        bridges = [bridge for bridge, _ in self.uplinks]
        if len(set(bridges)) != len(bridges) or not all(_is_bridge(bridge) for bridge in bridges):
            raise BadInput("bad bridge of a type", expected=f"{BRIDGE_PREFIX}N", found=", ".join(bridges)[:300])
        for port in (self.port, self.daemon_port):
            if not 0 < port < 2**16:
                raise BadInput("bad TCP port for the MAC VM", expected="1 to 65535", found=str(port))


def _is_bridge(name: str) -> bool:
    return re.fullmatch(rf"{BRIDGE_PREFIX}[0-9]{{1,4}}", name, re.ASCII) is not None
