"""Interfaces of a MAC VM: found by their MAC addresses, named, given addresses, and switched on (rtnetlink(7)).

Only the MAC VM's own program calls this: the interfaces of a host are its operator's.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from ipaddress import ip_interface
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from shamon_host.domain.errors import BackendFailed


def name_interface(mac: str, name: str, *, address: str = "", gateway: str = "", up: bool = True) -> None:
    """Give the Ethernet interface with this MAC address its name, and, with `address` (ADDRESS/LENGTH), that address
    and no other; `gateway` is the default route over it. One without an address stays without IPv6.

    What is so already stays untouched. Raises BackendFailed.
    """
    with _route(name) as route:
        links = {link.get_attr("IFLA_IFNAME"): link for link in cards(route.get_links(), mac)}
        if len(links) != 1:
            raise BackendFailed("no interface, or several, with this MAC address", where=name, expected=mac)
        ((found, link),) = links.items()
        index = link["index"]
        if found != name:
            route.link("set", index=index, state="down")
            route.link("set", index=index, ifname=name)
        if address:
            set_address(route, index, address)
        if up:
            route.link("set", index=index, state="up")
        if gateway:
            route.route("replace", dst="default", gateway=gateway, oif=index)


def cards(links: Iterable[Any], mac: str) -> Iterator[Any]:
    """Of these interfaces, those with this MAC address, but no bridge: that has the address of one of its ports."""
    for link in links:
        info = link.get_attr("IFLA_LINKINFO")
        kind = None if info is None else info.get_attr("IFLA_INFO_KIND")
        if link.get_attr("IFLA_ADDRESS") == mac and kind != "bridge":
            yield link


def set_address(route: IPRoute, index: int, address: str) -> None:
    """Give the interface this address (ADDRESS/LENGTH) and no other but those of the link. Raises NetlinkError."""
    wanted = ip_interface(address)
    present = {
        (item.get_attr("IFA_LOCAL") or item.get_attr("IFA_ADDRESS"), item["prefixlen"])
        for item in route.get_addr(index=index)
        if item["scope"] == 0
    }
    right = (str(wanted.ip), wanted.network.prefixlen)
    for old, length in present - {right}:
        route.addr("del", index=index, address=old, prefixlen=length)
    if right not in present:
        # nodad: nothing may be bound to an address that IPv6 still tries out (RFC 4862, section 5.4)
        flags = {"flags": ["IFA_F_NODAD"]} if wanted.version == 6 else {}
        route.addr("add", index=index, address=right[0], prefixlen=right[1], **flags)


@contextmanager
def _route(name: str) -> Iterator[IPRoute]:
    try:
        with IPRoute() as route:
            yield route
    except (NetlinkError, OSError) as error:
        raise BackendFailed("an interface cannot be set up", where=name, found=str(error)[:300]) from error
