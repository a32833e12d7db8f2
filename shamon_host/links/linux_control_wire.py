"""The host's end of the wire to its MAC VM: a bridge with one address, and nft rules about who may speak over it.

From the MAC VM comes nothing but answers and connections to the daemon: what else listens on this host, on every
address, is not for it. To the MAC VM go connections of root's alone; SELinux leaves of these the daemon
(`shamon_control_port_t`).

The rules keep the host off the MAC VM's network, too: Linux takes packets for any of its addresses at any device.
"""

from dataclasses import dataclass, field
from ipaddress import ip_interface

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from shamon_host.domain.errors import BackendFailed
from shamon_host.links.linux_devices import read_sysctl, write_sysctl
from shamon_host.links.linux_interfaces import set_address
from shamon_host.links.linux_nft import DROP, Nft, Object, comparable, match, payload
from shamon_host.links.model import CONTROL_TABLE

_IPV6_OFF, _FORWARDING = "ipv6/conf/{}/disable_ipv6", "ipv4/conf/{}/forwarding"


@dataclass(frozen=True, kw_only=True)
class ControlWire:
    """The bridge with this address (ADDRESS/LENGTH) and no other, without IPv6, and with no other port than `port`,
    where that is there; and the rules. `network`: the bridge to the MAC VM's network."""

    bridge: str
    address: str
    port: str
    network: str
    nft: Nft = field(default_factory=Nft)

    def make(self, daemon_port: int) -> list[str]:
        """Made, or made right; `daemon_port`: TCP, where the daemon answers on it. Returns what was wrong, in words.
        Raises BackendFailed where it is not right after that; and, with nothing changed, while the host has an address
        on `network`."""
        try:
            with IPRoute() as route:
                require_no_address(route, self.network)
                wrong = self._wrong(route, daemon_port)
                if not wrong:
                    return []
                self._install(daemon_port)
                _make_bridge(route, self.bridge, self.address, self.port)
                still = self._wrong(route, daemon_port)
        except (NetlinkError, OSError) as error:
            raise BackendFailed(
                "the control wire cannot be set up", where=self.bridge, found=str(error)[:300]
            ) from error
        if still:
            raise BackendFailed(
                "the control wire reads back otherwise", where=self.bridge, found="; ".join(still)[:300]
            )
        return wrong

    def wrong_rules(self, daemon_port: int) -> list[str]:
        """What is wrong with the table, in words. Raises BackendFailed."""
        listed = self.nft.list_tables((CONTROL_TABLE,))
        if comparable(listed) == comparable(expected_rules(self.bridge, self.network, daemon_port)):
            return []
        return [f"the rules of table {CONTROL_TABLE} are others" if listed else f"there is no table {CONTROL_TABLE}"]

    def _wrong(self, route: IPRoute, daemon_port: int) -> list[str]:
        return [*self.wrong_rules(daemon_port), *_wrong_bridge(route, self.bridge, self.address, self.port)]

    def _install(self, daemon_port: int) -> None:
        """In the place of what has the table's name, in one transaction."""
        table, *rest = expected_rules(self.bridge, self.network, daemon_port)
        commands = [{"add": table}, {"delete": table}, *({"add": item} for item in (table, *rest))]
        self.nft.transact(commands, "keep the control wire apart")


def expected_rules(bridge: str, network: str, daemon_port: int) -> list[Object]:
    """Every object of the table, in the form in which nft lists them. A first packet of TCP has SYN and not ACK (RFC
    9293, section 3.5)."""
    arrives, leaves = (match("==", {"meta": {"key": key}}, bridge) for key in ("iifname", "oifname"))
    from_network, to_network = (match("==", {"meta": {"key": key}}, network) for key in ("iifname", "oifname"))
    first = match("==", {"&": [payload("tcp", "flags"), ["syn", "ack"]]}, "syn")
    place = {"family": "inet", "table": CONTROL_TABLE}
    chains: dict[str, list[list[Object]]] = {
        "input": [
            [arrives, match("!=", {"meta": {"key": "l4proto"}}, "tcp"), DROP],
            [arrives, first, match("!=", payload("tcp", "dport"), daemon_port), DROP],
            [from_network, DROP],
        ],
        "forward": [[arrives, DROP]],
        "output": [[leaves, match("!=", {"meta": {"key": "skuid"}}, 0), DROP], [to_network, DROP]],
    }
    return [
        {"table": {"family": "inet", "name": CONTROL_TABLE}},
        *(
            {"chain": {**place, "name": hook, "type": "filter", "hook": hook, "prio": -300, "policy": "accept"}}
            for hook in chains
        ),
        *({"rule": {**place, "chain": hook, "expr": rule}} for hook, rules in chains.items() for rule in rules),
    ]


def require_no_address(route: IPRoute, network: str) -> None:
    """Raises BackendFailed while the host could be spoken to on this bridge."""
    index = route.link_lookup(ifname=network)
    if not index:
        raise BackendFailed("there is no bridge for the MAC VM's network", where=network, remedy="Make it first.")
    addresses = _addresses(route, index[0])
    has_ipv6 = read_sysctl(_IPV6_OFF.format(network)) not in ("1", None)
    if addresses or has_ipv6:
        raise BackendFailed(
            "the host is on the MAC VM's network itself",
            where=network,
            expected="no address, and IPv6 off",
            found=", ".join([*sorted(addresses), *(["IPv6 on"] if has_ipv6 else [])]),
            remedy=f"Take its addresses away, and set net.ipv6.conf.{network}.disable_ipv6 to 1.",
        )


def _addresses(route: IPRoute, index: int) -> frozenset[str]:
    found = route.get_addr(index=index)
    return frozenset(
        f"{item.get_attr('IFA_LOCAL') or item.get_attr('IFA_ADDRESS')}/{item['prefixlen']}" for item in found
    )


def _wrong_bridge(route: IPRoute, bridge: str, address: str, port: str) -> list[str]:
    links = {link["index"]: link for link in route.get_links()}
    found = next((link for link in links.values() if link.get_attr("IFLA_IFNAME") == bridge), None)
    if found is None:
        return [f"there is no {bridge}"]
    names = [link.get_attr("IFLA_IFNAME") for link in links.values() if link.get_attr("IFLA_MASTER") == found["index"]]
    addresses = _addresses(route, found["index"])
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
