"""Type bridges and their ports over rtnetlink: no address, IPv6 off, link ports isolated."""

import errno
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from shamon_host.domain.errors import BackendFailed
from shamon_host.links.model import BRIDGE_PREFIX, TUNNEL_PREFIX, Bridge

LINK_MTU = 1500
"""Of link devices: the outer packets are fragmented rather than the VMs' frames refused."""
_SYSCTL = Path("/proc/sys/net")


@dataclass(frozen=True, slots=True, kw_only=True)
class Devices:
    """What rtnetlink tells at one moment: our bridges, and names of devices that look like a link's."""

    bridges: dict[str, Bridge]
    links: frozenset[str]


class LinuxBridges:
    """Devices are found by name in the caller's network namespace. Raises NetlinkError, OSError, BackendFailed."""

    def __init__(self, route: IPRoute) -> None:
        self._route = route

    def read(self) -> Devices:
        links = [_Link.of(message) for message in self._route.get_links()]
        addressed = {message["index"] for message in self._route.get_addr()}
        names = {link.index: link.name for link in links}
        bridges = {}
        for link in links:
            if link.name.startswith(BRIDGE_PREFIX):
                ports = {names[port.index]: port.isolated for port in links if port.master == link.index}
                sealed = link.kind == "bridge" and link.index not in addressed and _is_sealed(link.name)
                bridges[link.name] = Bridge(name=link.name, ports=ports, sealed=sealed)
        return Devices(
            bridges=bridges, links=frozenset(link.name for link in links if link.name.startswith(TUNNEL_PREFIX))
        )

    def create(self, name: str) -> None:
        """Make the bridge, or seal the one that is there; anything else of its name goes first."""
        link = self._find(name)
        if link is not None and link.kind != "bridge":
            self._route.link("del", index=link.index)
            link = None
        if link is None:
            self._route.link("add", ifname=name, kind="bridge", br_stp_state=0, br_mcast_snooping=0)
        index = _index(name)
        _quieten(name)
        self._route.flush_addr(index=index)
        self._route.link("set", index=index, state="up")
        if not self.read().bridges[name].sealed:
            raise BackendFailed(
                "the bridge cannot be sealed", where=name, expected="no address, IPv6 and forwarding off"
            )

    def delete(self, name: str) -> None:
        """Delete the device; none is no error."""
        try:
            self._route.link("del", index=_index(name))
        except (OSError, NetlinkError) as error:
            if not _is_gone(error):
                raise

    def attach(self, bridge: str, interface: str, *, isolated: bool) -> None:
        """Make it a port with this flag, and up. A link's device is down until its flag is set."""
        index, master = _index(interface), _index(bridge)
        _quieten(interface)
        if isolated:
            self._route.link("set", index=index, state="down")
        link = self._find(interface)
        if link is not None and link.master not in (0, master):
            self._route.link("set", index=index, master=0)
        self._route.link("set", index=index, master=master)
        self._route.brport("set", index=index, isolated=int(isolated))
        self._route.link("set", index=index, state="up")
        found = self._find(interface)
        if found is None or (found.master, found.isolated) != (master, isolated):
            raise BackendFailed("the port is not as it should be", where=f"{interface} in {bridge}", found=str(found))

    def detach(self, interface: str) -> None:
        """Take it off its bridge, and a link's device down; none is no error."""
        try:
            index = _index(interface)
            if interface.startswith(TUNNEL_PREFIX):
                self._route.link("set", index=index, state="down")
            self._route.link("set", index=index, master=0)
        except (OSError, NetlinkError) as error:
            if not _is_gone(error):
                raise

    def configure_link(self, interface: str) -> None:
        """Set up a new link device, which is down."""
        _quieten(interface)
        self._route.link("set", index=_index(interface), mtu=LINK_MTU)

    def _find(self, name: str) -> "_Link | None":
        try:
            messages = tuple(self._route.get_links(_index(name)))
        except (OSError, NetlinkError) as error:
            if _is_gone(error):
                return None
            raise
        return _Link.of(messages[0]) if messages else None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Link:
    index: int
    name: str
    kind: str
    master: int
    isolated: bool

    @classmethod
    def of(cls, message: Any) -> "_Link":
        info = message.get_attr("IFLA_LINKINFO")
        slave = None
        if info is not None and info.get_attr("IFLA_INFO_SLAVE_KIND") == "bridge":
            slave = info.get_attr("IFLA_INFO_SLAVE_DATA")
        return cls(
            index=message["index"],
            name=message.get_attr("IFLA_IFNAME") or "",
            kind=(info.get_attr("IFLA_INFO_KIND") or "") if info is not None else "",
            master=message.get_attr("IFLA_MASTER") or 0,
            isolated=slave is not None and bool(slave.get_attr("IFLA_BRPORT_ISOLATED")),
        )


def _index(name: str) -> int:
    """Raises OSError (ENODEV) when there is no such device."""
    try:
        return socket.if_nametoindex(name)
    except OSError:
        raise OSError(errno.ENODEV, "no such device", name) from None


def _is_gone(error: OSError | NetlinkError) -> bool:
    code = error.code if isinstance(error, NetlinkError) else error.errno
    return code in (errno.ENODEV, errno.ENXIO)


def _quieten(name: str) -> None:
    """No IPv6 on the device, no forwarding from it. A kernel without IPv6 has no file for it."""
    v6 = _SYSCTL / "ipv6" / "conf" / name / "disable_ipv6"
    if v6.exists():
        v6.write_text("1")
    (_SYSCTL / "ipv4" / "conf" / name / "forwarding").write_text("0")


def _is_sealed(name: str) -> bool:
    v6 = _SYSCTL / "ipv6" / "conf" / name / "disable_ipv6"
    try:
        quiet = not v6.parent.exists() or v6.read_text().strip() == "1"
        return quiet and (_SYSCTL / "ipv4" / "conf" / name / "forwarding").read_text().strip() == "0"
    except OSError:
        return False
