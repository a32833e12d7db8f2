"""Network devices over rtnetlink and /proc/sys: read, made, removed, and put into bridges.

Sources: rtnetlink(7), include/uapi/linux/{if_link,if_bridge}.h.
"""

import errno
import os
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from shamon_host.domain.errors import BackendFailed
from shamon_host.links.linux_bridge_settings import (
    BRIDGE_SETTINGS,
    ISOLATED,
    MTU,
    PORT_SETTINGS,
    faults_of,
    right_settings,
)
from shamon_host.links.linux_netlink import (
    NETLINK_ROUTE,
    NLM_F_CREATE,
    NLM_F_EXCL,
    Netlink,
    NetlinkError,
    number_of,
    pack_number,
    pack_text,
    parse,
    text_of,
)
from shamon_host.links.network_state import sysctl_value
from shamon_host.pyxfrm.attributes import pack_attribute

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_NEWADDR, RTM_GETADDR = 16, 17, 18, 20, 22
IFINFO = struct.Struct("=BxHiII")
"""struct ifinfomsg: family, device type, index, flags, which flags to change."""
IFADDR = struct.Struct("=BBBBI")
"""struct ifaddrmsg: family, prefix length, flags, scope, index."""
_IFF_UP = 1
_NLA_F_NESTED = 0x8000
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_IFA_F_NODAD, _SCOPE_LINK, _LINK_LOCAL_PREFIX = 0x02, 253, 64
_IFNAME, _MTU, _MASTER, _LINKINFO = 3, 4, 10, 18
_KIND, _DATA, _SLAVE_KIND, _SLAVE_DATA = 1, 2, 4, 5
_BR_FORWARD_DELAY, _BR_STP_STATE, _BR_MCAST_SNOOPING = 1, 5, 23
_MTU_FAULT = "MTU is "
_SYSCTL = Path("/proc/sys/net")


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """`master`: index of the bridge that it is a port of, 0 for none. `isolated`: None unless it is a bridge's port.
    `faults`: what is set otherwise in it than `linux_bridge_settings` says, if it is a bridge or a bridge's port."""

    index: int
    name: str
    kind: str
    up: bool
    master: int
    isolated: bool | None
    faults: tuple[str, ...] = ()


def device_of(body: bytes) -> Device:
    """From the body of RTM_NEWLINK or RTM_DELLINK. Raises NetlinkError for one that cannot be understood."""
    operation = "read a device"
    if len(body) < IFINFO.size:
        raise NetlinkError(operation, errno.EBADMSG)
    _, _, index, flags, _ = IFINFO.unpack_from(body)
    found = parse(body, IFINFO.size, operation)
    info = parse(found.get(_LINKINFO, b""), 0, operation)
    data = parse(info.get(_DATA, b""), 0, operation) if text_of(info.get(_KIND, b"")) == "bridge" else {}
    is_port = text_of(info.get(_SLAVE_KIND, b"")) == "bridge"
    port = parse(info.get(_SLAVE_DATA, b""), 0, operation) if is_port else {}
    faults = (*faults_of(BRIDGE_SETTINGS, data), *faults_of(PORT_SETTINGS, port))
    mtu = number_of(found[_MTU]) if _MTU in found and is_port else MTU
    return Device(
        index=index,
        name=text_of(found.get(_IFNAME, b"")),
        kind=text_of(info.get(_KIND, b"")),
        up=bool(flags & _IFF_UP),
        master=number_of(found.get(_MASTER, b"")),
        isolated=bool(number_of(port.get(ISOLATED, b""))) if is_port else None,
        faults=faults if mtu == MTU else (*faults, f"{_MTU_FAULT}{mtu}"),
    )


class Devices:
    """The host's network devices. `expect` is told each change before it is made, as the kernel will report it."""

    def __init__(self, expect: Callable[[object], None]) -> None:
        self._route = Netlink(NETLINK_ROUTE)
        self._expect = expect

    def close(self) -> None:
        self._route.close()

    def read(self) -> dict[str, Device]:
        """All of them, by name."""
        return {device.name: device for device in map(device_of, self.bodies())}

    def bodies(self) -> list[bytes]:
        """All of them, as bodies of RTM_NEWLINK."""
        return self._route.dump(RTM_GETLINK, IFINFO.pack(socket.AF_UNSPEC, 0, 0, 0, 0), operation="read devices")

    def find(self, name: str) -> Device | None:
        return self._find(IFINFO.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + pack_text(_IFNAME, name), name)

    def find_index(self, index: int) -> Device | None:
        return self._find(IFINFO.pack(socket.AF_UNSPEC, 0, index, 0, 0), f"with index {index}")

    def _find(self, body: bytes, which: str) -> Device | None:
        try:
            answers = self._route.request(RTM_GETLINK, body, operation=f"read device {which}")
        except NetlinkError as error:
            if error.errno == errno.ENODEV:
                return None
            raise
        return device_of(answers[0]) if answers else None

    def exists(self, name: str) -> bool:
        return self.find(name) is not None

    def indices_with_address(self) -> frozenset[int]:
        """Indices of devices that have an address of IPv4 or IPv6."""
        return frozenset(IFADDR.unpack_from(body)[4] for body in self._addresses())

    def own_addresses(self) -> frozenset[str]:
        """Every address of this host, as the kernel prints it."""
        found = (parse(body, IFADDR.size, "read addresses") for body in self._addresses())
        # IFA_ADDRESS is the peer's on a point-to-point device, where IFA_LOCAL is told too.
        own = (item.get(_IFA_LOCAL, item.get(_IFA_ADDRESS, b"")) for item in found)
        return frozenset(str(ip_address(address)) for address in own if len(address) in (4, 16))

    def addresses_at(self, index: int) -> frozenset[str]:
        """Addresses of one device, as the kernel prints them."""
        bodies = (body for body in self._addresses() if IFADDR.unpack_from(body)[4] == index)
        found = (parse(body, IFADDR.size, "read addresses").get(_IFA_ADDRESS, b"") for body in bodies)
        return frozenset(str(ip_address(address)) for address in found if len(address) in (4, 16))

    def add_address(self, index: int, address: str) -> None:
        """A link-local one of IPv6, usable at once. One that is there already stays."""
        packed = ip_address(address).packed
        body = IFADDR.pack(socket.AF_INET6, _LINK_LOCAL_PREFIX, _IFA_F_NODAD, _SCOPE_LINK, index)
        body += pack_attribute(_IFA_LOCAL, packed) + pack_attribute(_IFA_ADDRESS, packed)
        try:
            self._route.request(RTM_NEWADDR, body, operation=f"add address {address}", flags=NLM_F_CREATE | NLM_F_EXCL)
        except NetlinkError as error:
            if error.errno != errno.EEXIST:
                raise

    def create_bridge(self, name: str) -> None:
        """Down, without STP and multicast snooping: it forwards from the first moment that it is up."""
        data = (
            pack_number(_BR_STP_STATE, 0, 4) + pack_number(_BR_FORWARD_DELAY, 0, 4)
            + pack_number(_BR_MCAST_SNOOPING, 0, 1)
        )  # fmt: skip
        info = pack_text(_KIND, "bridge") + pack_attribute(_DATA | _NLA_F_NESTED, data)
        self._expect(("device", name))
        self._set(name, pack_attribute(_LINKINFO | _NLA_F_NESTED, info), create=True)

    def remove(self, name: str) -> None:
        """No error if there is none."""
        if not self.exists(name):
            return
        self.expect_removal(name)
        try:
            body = IFINFO.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + pack_text(_IFNAME, name)
            self._route.request(RTM_DELLINK, body, operation=f"delete device {name}")
        except NetlinkError as error:
            if error.errno != errno.ENODEV:
                raise

    def expect_removal(self, name: str) -> None:
        """A device of ours is about to go."""
        self._expect(("delete device", name))

    def set_up(self, name: str, *, up: bool) -> None:
        flags = _IFF_UP if up else 0
        body = IFINFO.pack(socket.AF_UNSPEC, 0, 0, flags, _IFF_UP) + pack_text(_IFNAME, name)
        self._route.request(RTM_NEWLINK, body, operation=f"set device {name} {'up' if up else 'down'}")

    def set_mtu(self, name: str, mtu: int) -> None:
        self._set(name, pack_number(_MTU, mtu, 4))

    def set_master(self, name: str, index: int) -> None:
        """Index 0: no port of any bridge."""
        self._expect(("port", name))
        self._set(name, pack_number(_MASTER, index, 4))

    def set_port(self, name: str, *, isolated: bool, faults: tuple[str, ...] = ()) -> None:
        """Set the flag, and right what is wrong with a port (`Device.faults`)."""
        if any(fault.startswith(_MTU_FAULT) for fault in faults):
            self._expect(("port", name))
            self.set_mtu(name, MTU)
        self._expect(("port", name))
        data = pack_number(ISOLATED, isolated, 1) + right_settings(PORT_SETTINGS, faults)
        info = pack_text(_SLAVE_KIND, "bridge") + pack_attribute(_SLAVE_DATA | _NLA_F_NESTED, data)
        self._set(name, pack_attribute(_LINKINFO | _NLA_F_NESTED, info))

    def set_ipv6_off(self, name: str) -> None:
        """A kernel without IPv6 has nothing to switch off."""
        if (_SYSCTL / "ipv6").exists():
            write_sysctl(f"ipv6/conf/{name}/disable_ipv6", "1")

    def set_forwarding_off(self, name: str) -> None:
        write_sysctl(f"ipv4/conf/{name}/forwarding", "0")

    def ip_is_off(self, name: str) -> bool:
        """IPv6 is disabled on the device and IPv4 not forwarded."""
        return read_sysctl(f"ipv6/conf/{name}/disable_ipv6") in ("1", None) and (
            read_sysctl(f"ipv4/conf/{name}/forwarding") == "0"
        )

    def _addresses(self) -> list[bytes]:
        body = IFADDR.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
        bodies = self._route.dump(RTM_GETADDR, body, operation="read addresses")
        return [body for body in bodies if len(body) >= IFADDR.size]

    def _set(self, name: str, attributes: bytes, *, create: bool = False) -> None:
        body = IFINFO.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + pack_text(_IFNAME, name) + attributes
        flags, verb = (NLM_F_CREATE | NLM_F_EXCL, "create") if create else (0, "set")
        self._route.request(RTM_NEWLINK, body, operation=f"{verb} device {name}", flags=flags)


def read_sysctl(path: str) -> str | None:
    """Below /proc/sys/net. None if there is no such file. Raises BackendFailed if it cannot be read."""
    try:
        return (_SYSCTL / path).read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BackendFailed("a sysctl cannot be read", where=path, found=error.strerror or "") from None


def write_sysctl(path: str, value: str) -> None:
    """Below /proc/sys/net. Raises BackendFailed, also if it reads back otherwise."""
    try:
        (_SYSCTL / path).write_text(value, encoding="ascii")
    except OSError as error:
        raise BackendFailed("a sysctl cannot be set", where=path, found=error.strerror or "") from None
    if (found := read_sysctl(path)) != value:
        raise BackendFailed("a sysctl reads back otherwise", where=path, expected=value, found=str(found))


def read_sysctls(name: str) -> str:
    """A sysctl of `network_state.SYSCTLS`, as `sysctl_value` tells it."""
    return sysctl_value(name, read=read_sysctl, interfaces=_sysctl_directory)


def _sysctl_directory(path: str) -> list[str]:
    try:
        return os.listdir(_SYSCTL / path)
    except OSError:
        return []
