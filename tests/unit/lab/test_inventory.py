"""What is left over in a lab host's kernel is seen: in the words of iproute2 and nft as a host gave them."""

from dataclasses import replace

from tests.integration.lab.inventory import Inventory, differences, read_inventory

_PEER = "192.0.2.2"
_STATES = """\
src 192.0.2.1 dst 192.0.2.2
\tproto esp spi 0x3e841ea1 reqid 16384 mode transport
\treplay-window 0 flag esn
\taead rfc4106(gcm(aes)) 0x00000000 128
\tanti-replay esn context:
\tsecurity context system_u:object_r:shamon_link_t:s0:c0
src 192.0.2.2 dst 192.0.2.1
\tproto esp spi 0x59485533 reqid 16384 mode transport
\taead rfc4106(gcm(aes)) 0x00000000 128
src 192.0.2.2 dst 192.0.2.1
\tproto esp spi 0xee063ea4 reqid 0 mode transport
\treplay-window 0
"""
_LINK = """\
src 192.0.2.{one}/32 dst 192.0.2.{other}/32 proto udp sport 16384 dport 16384
\tsecurity context system_u:object_r:shamon_spd_t:s0:c0
\tdir {way} priority 100
\ttmpl src 192.0.2.{one} dst 192.0.2.{other}
\t\tproto esp reqid 16384 mode transport
"""
_BLOCK = "src 0.0.0.0/0 dst 0.0.0.0/0 proto udp sport 16384\n\tdir out action block priority 1000\n"
_SOCKET = "src 0.0.0.0/0 dst 0.0.0.0/0\n\tsocket in priority 0\n"
_POLICIES = _LINK.format(one=1, other=2, way="out") + _LINK.format(one=2, other=1, way="in") + 8 * _BLOCK + 2 * _SOCKET
_DEVICES = """\
2: wire0: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1500 qdisc pfifo_fast state UP mode DEFAULT
5: shbr0: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1500 qdisc noqueue state UP mode DEFAULT
6: shvm0-0: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1500 qdisc noqueue master shbr0 state UNKNOWN
7: shl20: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1500 qdisc noqueue master shbr0 state UNKNOWN
"""
_RULES = '{"nftables": [{"set": {"name": "gate4", "elem": [{"elem": {"val": "192.0.2.2", "timeout": 57}}]}}]}\n'
_ROW = {
    "device": "shl20",
    "bridge": "shbr0",
    "local_port": 16384,
    "in_spis": ["0x59485533"],
    "out_spis": ["0x3e841ea1"],
}


def _found(policies: str = _POLICIES, members: str = "shbr0 shvm0-0\nshbr0 shl20\n") -> Inventory:
    return read_inventory(f"{_STATES}---\n{policies}---\n{_DEVICES}---\n{members}---\n{_RULES}", _PEER)


def test_a_whole_link_is_no_difference() -> None:
    assert differences(_found(), [_ROW], ["shvm0-0"]) == []


def test_whatever_is_left_over_is_named() -> None:
    found = _found()
    foreign = _found(policies=_POLICIES + "src 0.0.0.0/0 dst 0.0.0.0/0\n\tdir out priority 1\n")
    for changed, words in (
        (replace(found, sas={**found.sas, "0x00000777": 16384}), "0x00000777"),
        (replace(found, sas={**found.sas, "0x3e841ea1": 16385}), "16385"),
        (replace(found, sas={"0x59485533": 16384}), "SAs"),
        (replace(found, policies=4), "SPD entries of links: 4"),
        (replace(found, blocks=7), "block entries: 7"),
        (foreign, "other SPD entries"),
        (replace(found, tunnels=frozenset({"shl20", "shl21"})), "tunnels"),
        (replace(found, bridges=frozenset({"shbr0", "shbr9"})), "bridges"),
        (replace(found, ports={**found.ports, "stray": "shbr0"}), "ports"),
        (replace(found, ports={"shvm0-0": "shbr0", "shl20": "shbr9"}), "shl20 is in shbr9"),
        (replace(found, gate_open=False), "gate"),
    ):
        assert words in "; ".join(differences(changed, [_ROW], ["shvm0-0"]))


def test_a_link_needs_an_association_each_way_and_keeps_no_old_ones() -> None:
    for spis in ([], ["0x1", "0x2", "0x3"]):
        assert "shl20 has" in "; ".join(differences(_found(), [{**_ROW, "out_spis": spis}], ["shvm0-0"]))


def test_a_host_without_links_keeps_only_the_guard() -> None:
    empty = replace(_found(members="shbr0 shvm0-0\n"), sas={}, policies=0, tunnels=frozenset(), gate_open=False)
    assert differences(empty, [], ["shvm0-0"]) == []
    assert differences(_found(), [], ["shvm0-0"])


def test_a_rekey_meanwhile_is_no_difference() -> None:
    """What was asked for before, or is asked for after, may be there; what was both, must."""
    newer = {**_ROW, "in_spis": ["0x59485533", "0x00000777"], "out_spis": ["0x00000778"]}
    found = _found()
    for sas in (found.sas, {**found.sas, "0x00000777": 16384}, {"0x59485533": 16384, "0x00000778": 16384}):
        assert differences(replace(found, sas=sas), [newer], ["shvm0-0"], before=[_ROW]) == []
    for sas, words in (({**found.sas, "0x00000779": 16384}, "0x00000779"), ({"0x3e841ea1": 16384}, "0x59485533")):
        assert words in "; ".join(differences(replace(found, sas=sas), [newer], ["shvm0-0"], before=[_ROW]))
