"""Which interface of a MAC VM is meant by a MAC address."""

from typing import Any

from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from shamon_host.links.linux_interfaces import cards

MAC, OTHER = "52:54:42:fa:db:8e", "52:54:42:fa:db:8f"


def link(name: str, mac: str, kind: str = "") -> Any:
    message = ifinfmsg()
    message["attrs"] = [("IFLA_IFNAME", name), ("IFLA_ADDRESS", mac)]
    if kind:
        info = ifinfmsg.ifinfo()
        info["attrs"] = [("IFLA_INFO_KIND", kind)]
        message["attrs"].append(("IFLA_LINKINFO", info))
    return message


def named(*links: Any) -> list[str]:
    return [each.get_attr("IFLA_IFNAME") for each in cards(links, MAC)]


def test_a_bridge_that_has_the_address_of_its_port_is_not_meant() -> None:
    """A daemon that starts again sets up a MAC VM whose bridges are there."""
    assert named(link("shup1", MAC), link("shbr1", MAC, "bridge"), link("shup2", OTHER)) == ["shup1"]


def test_two_cards_with_one_address_are_two() -> None:
    assert named(link("eth0", MAC), link("eth1", MAC), link("veth0", MAC, "veth")) == ["eth0", "eth1", "veth0"]
