"""Whose frames a tap sends, as nftables rules of family bridge: from a station to nft's objects, and back. Pure.

The rules are what `Station.permits` says, in chains of the tap's own table (`linux_filter_rules`). What they drop is
counted (`SPOOFED`).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from ipaddress import ip_address
from typing import Any

from shamon_host.links.linux_nft import DROP, Object, match, payload
from shamon_host.links.station import CONTROL_GROUP, CONTROL_MASK, DHCP_SERVERS, Station

OWN = "own"
"""The chain to jump to with what the tap sends: it drops, or returns."""
SPOOFED = "spoofed"
"""The counter of what was dropped."""
_SENDER, _SOLICITS, _ADVERTISES, _TARGETS = "sender", "solicits", "advertises", "targets"
_SETS = {4: "own4", 6: "own6"}
_REFUSED: list[Object] = [{"counter": SPOOFED}, DROP]
_RETURN: Object = {"return": None}
_TYPE = payload("ether", "type")
_SOLICITATION = match("==", payload("icmpv6", "type"), "nd-neighbor-solicit")
_ADVERTISEMENT = match("==", payload("icmpv6", "type"), "nd-neighbor-advert")
_FROM_NOWHERE = match("==", payload("ip6", "saddr"), "::")
_HEADER, _WITH_OPTION = 24, 32
"""Lengths of the two messages (RFC 4861, sections 4.3 and 4.4) without and with one option of eight bytes."""
_SOURCE_OPTION, _TARGET_OPTION = 1, 2
_TARGET: Object = {"payload": {"base": "th", "offset": 64, "len": 128}}
_OPTION: Object = {"payload": {"base": "th", "offset": 8 * _HEADER, "len": 64}}
"""nft has no words for these."""

Chain = Callable[[str, list[list[Object]]], Iterable[Object]]


def station_objects(place: Mapping[str, str], own: Station, chain: Chain) -> list[Object]:
    """Counter, sets and chains of the station. `chain` makes a chain of rules."""
    objects: list[Object] = [{"counter": {**place, "name": SPOOFED}}]
    if own.addresses is not None:
        for version, name in _SETS.items():
            content = {"elem": list(own.of_version(version))} if own.of_version(version) else {}
            objects.append({"set": {**place, "name": name, "type": f"ipv{version}_addr", **content}})
        objects += chain(_TARGETS, _targets(own))
    objects += chain(_SENDER, _sender(own))
    objects += chain(_SOLICITS, [[_FROM_NOWHERE, _RETURN], *_link_address(own, _SOURCE_OPTION)])
    objects += chain(_ADVERTISES, _link_address(own, _TARGET_OPTION))
    return [*objects, *chain(OWN, _own(own))]


def station_of(sets: Mapping[str, Any], rules: Mapping[str, Sequence[Any]]) -> Station | None:
    """The station that the table's sets and rules seem to be of; None without a chain of it. Raises BadInput,
    ValueError, and what lists raise in which nothing is where it was put."""
    if OWN not in rules:
        return None
    mac = rules[OWN][0][0]["match"]["right"]
    if _SETS.keys().isdisjoint(version for version, name in _SETS.items() if name in sets):
        return Station(mac=mac)
    found = {version: sets[name].get("elem", []) for version, name in _SETS.items()}
    own = Station(mac=mac, addresses=frozenset(address for addresses in found.values() for address in addresses))
    if any(sorted(addresses) != sorted(own.of_version(version)) for version, addresses in found.items()):
        raise ValueError("its addresses are not those of a station")
    return own


def _own(own: Station) -> list[list[Object]]:
    """nft adds the Ethernet type, of IPv6 or IPv4, to rules about these: with a VLAN tag it is another one."""
    group: Object = {"&": [payload("ether", "daddr"), CONTROL_MASK]}
    rules: list[list[Object]] = [
        [match("!=", payload("ether", "saddr"), own.mac), *_REFUSED],
        [match("==", group, CONTROL_GROUP), *_REFUSED],
        [match("==", _TYPE, "8021q"), *_REFUSED],
        [match("==", _TYPE, "8021ad"), *_REFUSED],
        [match("==", _TYPE, "arp"), {"goto": {"target": _SENDER}}],
        [_SOLICITATION, {"jump": {"target": _SOLICITS}}],
        [_ADVERTISEMENT, {"jump": {"target": _ADVERTISES}}],
    ]
    if own.addresses is None:
        return rules
    whole = match("==", {"&": [payload("ip", "frag-off"), 0x1FFF]}, 0)  # see `linux_filter_rules._of_ports`
    return [
        *rules,
        [_ADVERTISEMENT, {"jump": {"target": _TARGETS}}],
        [_FROM_NOWHERE, _SOLICITATION, {"goto": {"target": _TARGETS}}],
        [match("==", payload("icmpv6", "type"), "nd-router-advert"), *_REFUSED],
        [whole, match("==", payload("udp", "sport"), DHCP_SERVERS[4]), *_REFUSED],
        [match("==", _TYPE, "ip6"), match("==", payload("udp", "sport"), DHCP_SERVERS[6]), *_REFUSED],
        [match("==", payload("ip", "saddr"), f"@{_SETS[4]}"), _RETURN],
        [match("==", payload("ip6", "saddr"), f"@{_SETS[6]}"), _RETURN],
        _REFUSED,
    ]


def _sender(own: Station) -> list[list[Object]]:
    """Of ARP for Ethernet and IPv4. nft looks for the addresses where they are in that."""
    from_own = [
        match("==", payload("arp", "htype"), 1),
        match("==", payload("arp", "ptype"), "ip"),
        match("==", payload("arp", "hlen"), 6),
        match("==", payload("arp", "plen"), 4),
        match("==", payload("arp", "saddr ether"), own.mac),
    ]
    if own.addresses is None:
        return [[*from_own, _RETURN], _REFUSED]
    sender, target = payload("arp", "saddr ip"), payload("arp", "daddr ip")
    return [
        [*from_own, match("==", sender, f"@{_SETS[4]}"), _RETURN],
        [*from_own, match("==", sender, "0.0.0.0"), match("==", target, f"@{_SETS[4]}"), _RETURN],  # noqa: S104 a probe
        _REFUSED,
    ]


def _link_address(own: Station, option: int) -> list[list[Object]]:
    """No option, or one of this type (RFC 4861, section 4.6.1) with the station's MAC address; no extension header."""
    directly = match("==", payload("ip6", "nexthdr"), "ipv6-icmp")
    mac = int.from_bytes(bytes([option, 1]) + bytes.fromhex(own.mac.replace(":", "")))
    return [
        [match("==", payload("ip6", "length"), _HEADER), directly, _RETURN],
        [match("==", payload("ip6", "length"), _WITH_OPTION), directly, match("==", _OPTION, mac), _RETURN],
        _REFUSED,
    ]


def _targets(own: Station) -> list[list[Object]]:
    return [
        *([match("==", _TARGET, f"{int(ip_address(address)):#x}"), _RETURN] for address in own.of_version(6)),
        _REFUSED,
    ]
