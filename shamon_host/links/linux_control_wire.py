"""The host's end of the wire to its MAC VM: a bridge with one address, and nft rules about who may speak over it.

From the MAC VM comes nothing but answers and connections to the daemon: what else listens on this host, on every
address, is not for it. To the MAC VM go connections of root's alone; SELinux leaves of these the daemon
(`shamon_control_port_t`).
"""

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from shamon_host.domain.errors import BackendFailed
from shamon_host.links.linux_devices import write_sysctl
from shamon_host.links.linux_interfaces import set_address
from shamon_host.links.linux_nft import Nft

TABLE = "shamon-control"
_DROPS = 4


def make_control_wire(bridge: str, address: str, daemon_port: int, nft: Nft | None = None) -> None:
    """A bridge with this address (ADDRESS/LENGTH) and no other, without IPv6, made or made right; `daemon_port`: TCP,
    where the daemon answers on it. Raises BackendFailed."""
    nft = nft or Nft()
    nft.run_script(rules(bridge, daemon_port), "keep the control wire apart")
    found = nft.list_table("inet", TABLE)
    if found.count(" drop") != _DROPS:
        raise BackendFailed("the rules of the control wire read back otherwise", where=TABLE, found=found[:300])
    try:
        with IPRoute() as route:
            index = route.link_lookup(ifname=bridge)
            if not index:
                route.link("add", ifname=bridge, kind="bridge", br_stp_state=0, br_forward_delay=0)
                index = route.link_lookup(ifname=bridge)
            write_sysctl(f"ipv6/conf/{bridge}/disable_ipv6", "1")
            write_sysctl(f"ipv4/conf/{bridge}/forwarding", "0")
            set_address(route, index[0], address)
            route.link("set", index=index[0], state="up")
    except (NetlinkError, OSError) as error:
        raise BackendFailed("the control wire cannot be set up", where=bridge, found=str(error)[:300]) from error


def rules(bridge: str, daemon_port: int) -> str:
    """In nft's language: the table in the place of what has its name. A first packet of TCP has SYN and not ACK (RFC
    9293, section 3.5)."""
    return f"""\
table inet {TABLE} {{}}
delete table inet {TABLE}
table inet {TABLE} {{
    chain input {{
        type filter hook input priority -300; policy accept;
        iifname "{bridge}" meta l4proto != tcp drop
        iifname "{bridge}" tcp flags & (syn | ack) == syn tcp dport != {daemon_port} drop
    }}
    chain forward {{
        type filter hook forward priority -300; policy accept;
        iifname "{bridge}" drop
    }}
    chain output {{
        type filter hook output priority -300; policy accept;
        oifname "{bridge}" meta skuid != 0 drop
    }}
}}
"""
