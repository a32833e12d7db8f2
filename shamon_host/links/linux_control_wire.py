"""The host's end of the wire to its MAC VM: a bridge with one address, and nft rules about who may speak over it.

From the MAC VM comes nothing but answers and connections to the daemon: what else listens on this host, on every
address, is not for it. To the MAC VM go connections of root's alone; SELinux leaves of these the daemon
(`shamon_control_port_t`).
"""

from ipaddress import ip_interface

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from shamon_host.domain.errors import BackendFailed
from shamon_host.links.linux_devices import read_sysctl, write_sysctl
from shamon_host.links.linux_interfaces import set_address
from shamon_host.links.linux_nft import CONTROL_TABLE, DROP, Nft, Object, comparable, match, payload

_IPV6_OFF, _FORWARDING = "ipv6/conf/{}/disable_ipv6", "ipv4/conf/{}/forwarding"


def make_control_wire(bridge: str, address: str, port: str, daemon_port: int, nft: Nft | None = None) -> list[str]:
    """A bridge with this address (ADDRESS/LENGTH) and no other, without IPv6, and with no other port than `port`, where
    that is there; and the rules. Made, or made right; `daemon_port`: TCP, where the daemon answers on it. Returns what
    was wrong, in words. Raises BackendFailed where it is not right after that."""
    nft = nft or Nft()
    try:
        with IPRoute() as route:
            wrong = [*wrong_rules(nft, bridge, daemon_port), *_wrong_bridge(route, bridge, address, port)]
            if not wrong:
                return []
            _install(nft, bridge, daemon_port)
            _make_bridge(route, bridge, address, port)
            still = [*wrong_rules(nft, bridge, daemon_port), *_wrong_bridge(route, bridge, address, port)]
    except (NetlinkError, OSError) as error:
        raise BackendFailed("the control wire cannot be set up", where=bridge, found=str(error)[:300]) from error
    if still:
        raise BackendFailed("the control wire reads back otherwise", where=bridge, found="; ".join(still)[:300])
    return wrong


def expected_rules(bridge: str, daemon_port: int) -> list[Object]:
    """Every object of the table, in the form in which nft lists them. A first packet of TCP has SYN and not ACK (RFC
    9293, section 3.5)."""
    arrives, leaves = (match("==", {"meta": {"key": key}}, bridge) for key in ("iifname", "oifname"))
    first = match("==", {"&": [payload("tcp", "flags"), ["syn", "ack"]]}, "syn")
    place = {"family": "inet", "table": CONTROL_TABLE}
    chains: dict[str, list[list[Object]]] = {
        "input": [
            [arrives, match("!=", {"meta": {"key": "l4proto"}}, "tcp"), DROP],
            [arrives, first, match("!=", payload("tcp", "dport"), daemon_port), DROP],
        ],
        "forward": [[arrives, DROP]],
        "output": [[leaves, match("!=", {"meta": {"key": "skuid"}}, 0), DROP]],
    }
    return [
        {"table": {"family": "inet", "name": CONTROL_TABLE}},
        *(
            {"chain": {**place, "name": hook, "type": "filter", "hook": hook, "prio": -300, "policy": "accept"}}
            for hook in chains
        ),
        *({"rule": {**place, "chain": hook, "expr": rule}} for hook, rules in chains.items() for rule in rules),
    ]


def wrong_rules(nft: Nft, bridge: str, daemon_port: int) -> list[str]:
    """What is wrong with the table, in words. Raises BackendFailed."""
    listed = nft.list_tables((CONTROL_TABLE,))
    if comparable(listed) == comparable(expected_rules(bridge, daemon_port)):
        return []
    return [f"the rules of table {CONTROL_TABLE} are others" if listed else f"there is no table {CONTROL_TABLE}"]


def _install(nft: Nft, bridge: str, daemon_port: int) -> None:
    """In the place of what has the table's name, in one transaction."""
    table, *rest = expected_rules(bridge, daemon_port)
    commands = [{"add": table}, {"delete": table}, *({"add": item} for item in (table, *rest))]
    nft.transact(commands, "keep the control wire apart")


def _wrong_bridge(route: IPRoute, bridge: str, address: str, port: str) -> list[str]:
    links = {link["index"]: link for link in route.get_links()}
    found = next((link for link in links.values() if link.get_attr("IFLA_IFNAME") == bridge), None)
    if found is None:
        return [f"there is no {bridge}"]
    names = [link.get_attr("IFLA_IFNAME") for link in links.values() if link.get_attr("IFLA_MASTER") == found["index"]]
    addresses = {
        f"{item.get_attr('IFA_LOCAL') or item.get_attr('IFA_ADDRESS')}/{item['prefixlen']}"
        for item in route.get_addr(index=found["index"])
    }
    wrong = {
        f"{bridge} is no bridge": found.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND") != "bridge",
        f"{bridge} is a port itself": found.get_attr("IFLA_MASTER") is not None,
        f"{bridge} is down": not found["flags"] & 1,
        f"{bridge} has addresses {', '.join(sorted(addresses)) or 'none'}": addresses != {str(ip_interface(address))},
        f"{bridge} forwards": read_sysctl(_FORWARDING.format(bridge)) != "0",
        f"{bridge} has IPv6": read_sysctl(_IPV6_OFF.format(bridge)) not in ("1", None),
    }
    return [
        *(words for words, is_so in wrong.items() if is_so),
        *(f"{name} is a port of {bridge}" for name in sorted(names) if name != port),
    ]


def _make_bridge(route: IPRoute, bridge: str, address: str, port: str) -> None:
    links = {link.get_attr("IFLA_IFNAME"): link for link in route.get_links()}
    if bridge not in links:
        route.link("add", ifname=bridge, kind="bridge", br_stp_state=0, br_forward_delay=0)
        links[bridge] = next(iter(route.get_links(ifname=bridge)))
    index = links[bridge]["index"]
    for name, link in links.items():
        if link.get_attr("IFLA_MASTER") == index and name != port:
            route.link("set", index=link["index"], master=0)
    if links[bridge].get_attr("IFLA_MASTER") is not None:
        route.link("set", index=index, master=0)
    if read_sysctl(_IPV6_OFF.format(bridge)) is not None:
        write_sysctl(_IPV6_OFF.format(bridge), "1")
    write_sysctl(_FORWARDING.format(bridge), "0")
    set_address(route, index, address)
    route.link("set", index=index, state="up")
