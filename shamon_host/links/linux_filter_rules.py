"""Filters of VMs' taps as nftables rules of family bridge: from a filter to nft's objects, and back. Pure.

One table has them all (`linux_filter_table`); here is what belongs to one tap: a chain for what comes from the tap, one
for what goes to it, and what these need. It is one value (`filter_objects`): what nft lists is taken for the filter
that it looks like, and is that filter only if its objects are exactly what is listed. A window is a set with the tap in
it, for a time that the kernel counts: without anybody's doing it is empty in the end, and nothing passes. What is not
the VM's own is dropped by the rules of `linux_station_rules`.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from shamon_host.domain.errors import BadInput
from shamon_host.links.frame_facts import PortProtocol, PortRule
from shamon_host.links.linux_nft import DROP, Object, comparable, match, payload
from shamon_host.links.linux_station_rules import OWN, station_objects, station_of
from shamon_host.links.tap_filter import BURST_BYTES, TapFilter, checked_device

_OPEN, _PEERS, _PORTS = "open", "peers", "ports"
FROM, TO = "from", "to"
"""Chains: of what comes from the tap, and of what goes to it."""
_KNOWN = "to_peers"
_UNITS = {"bytes": 1, "kbytes": 2**10, "mbytes": 2**20}
_RETURN: Object = {"return": None}
_ARP_REQUEST = match("==", payload("arp", "operation"), "request")
_SOLICITATION = match("==", payload("icmpv6", "type"), "nd-neighbor-solicit")
_ADVERTISEMENT = match("==", payload("icmpv6", "type"), "nd-neighbor-advert")
"""nft adds the Ethernet type, of ARP and of IPv6, which a frame with a VLAN tag does not have (nft_payload.c)."""


def filter_objects(limits: TapFilter, place: Mapping[str, str]) -> tuple[Object, ...]:
    """Every object of the filter, in the form in which nft lists them and takes them, with names of its own.

    `place`: family and table. Without anonymous sets and ranges: in what order or form they are listed is nft's affair.
    """
    device = checked_device(limits.device)
    objects: list[Object] = []
    if limits.open_s is not None:
        # Whole seconds are all that nft takes in JSON, and 0 would be no timeout at all.
        left = math.floor(limits.open_s)
        elements: list[object] = [{"elem": {"val": device, "timeout": left}}] if left else []
        objects.append(_set(place, _OPEN, "ifname", elements, flags=["timeout"]))
    if limits.own is not None:
        objects += station_objects(place, limits.own, lambda name, rules: _chain(place, name, rules))
    if limits.peers is not None:
        objects.append(_set(place, _PEERS, "ether_addr", sorted(limits.peers)))
        objects += _chain(place, _KNOWN, _to_peers())
    if limits.ports is not None:
        elements = [{"concat": [rule.protocol.value, rule.port]} for rule in limits.ports]
        objects.append(_set(place, _PORTS, ["inet_proto", "inet_service"], elements))
        objects += _chain(place, _PORTS, _of_ports())
    for name in (FROM, TO):
        objects += _chain(place, name, _judging(limits, name))
    return tuple(objects)


def filter_from(device: str, listed: Sequence[Object], place: Mapping[str, str]) -> TapFilter:
    """The filter that these objects are. Raises ValueError for any others, whatever their types."""
    try:
        return _recognised(device, listed, place)
    except (BadInput, KeyError, TypeError, AttributeError, IndexError, OverflowError) as error:
        raise ValueError(f"nothing is where a filter has it: {error}") from error


def _judging(limits: TapFilter, chain: str) -> list[list[Object]]:
    sent = chain == FROM
    tap: Object = {"meta": {"key": "iifname" if sent else "oifname"}}
    rules: list[list[Object]] = []
    if not (limits.sends if sent else limits.receives):
        rules.append([DROP])
    if limits.open_s is not None:
        rules.append([match("!=", tap, f"@{_OPEN}"), DROP])
    if limits.own is not None and sent:
        rules.append([{"jump": {"target": OWN}}])
    if limits.peers is not None:
        stranger = match("!=", payload("ether", "saddr"), f"@{_PEERS}")
        rules.append([{"jump": {"target": _KNOWN}}] if sent else [stranger, DROP])
    if limits.ports is not None:
        rules.append([{"jump": {"target": _PORTS}}])
    if limits.rate_bytes_s is not None and sent:
        rules.append([_limit(limits.rate_bytes_s), DROP])
    return rules


def _to_peers() -> list[list[Object]]:
    """What the VM sends: to peers, or a question to all."""
    to_station: Object = {"&": [payload("ether", "daddr"), "01:00:00:00:00:00"]}
    return [
        [match("==", payload("ether", "daddr"), f"@{_PEERS}"), _RETURN],
        [match("==", to_station, "00:00:00:00:00:00"), DROP],
        [_ARP_REQUEST, _RETURN],
        [_SOLICITATION, _RETURN],
        [DROP],
    ]


def _of_ports() -> list[list[Object]]:
    """A later fragment has data where ports would be, and for all that nft on a bridge finds ports in it, over IPv4."""
    offset: Object = {"&": [payload("ip", "frag-off"), 0x1FFF]}
    rules: list[list[Object]] = [
        [match("==", payload("ether", "type"), "arp"), _RETURN],
        [_SOLICITATION, _RETURN],
        [_ADVERTISEMENT, _RETURN],
        [match("!=", offset, 0), DROP],
    ]
    for version in ("ip", "ip6"):
        for end in ("sport", "dport"):
            listed: Object = {"concat": [{"meta": {"key": "l4proto"}}, payload("th", end)]}
            over_ip = match("==", payload("ether", "type"), version)
            rules.append([over_ip, match("==", listed, f"@{_PORTS}"), _RETURN])
    return [*rules, [DROP]]


def _limit(rate_bytes_s: int) -> Object:
    """As nft lists it: in the largest unit of which it is a whole number."""
    rate, rate_unit = _in_units(rate_bytes_s)
    burst, burst_unit = _in_units(BURST_BYTES)
    return {
        "limit": {
            "rate": rate,
            "rate_unit": rate_unit,
            "per": "second",
            "burst": burst,
            "burst_unit": burst_unit,
            "inv": True,
        }
    }


def _in_units(count: int) -> tuple[int, str]:
    unit = max((unit for unit, size in _UNITS.items() if count % size == 0), key=_UNITS.__getitem__)
    return count // _UNITS[unit], unit


def _set(place: Mapping[str, str], name: str, kind: object, elements: Sequence[object], **more: object) -> Object:
    content = {"elem": list(elements)} if elements else {}
    return {"set": {**place, "name": name, "type": kind, **more, **content}}


def _chain(place: Mapping[str, str], name: str, rules: Iterable[list[Object]]) -> list[Object]:
    return [
        {"chain": {**place, "name": name}},
        *({"rule": {**place, "chain": name, "expr": rule}} for rule in rules),
    ]


def _recognised(device: str, listed: Sequence[Object], place: Mapping[str, str]) -> TapFilter:
    sets = {item["set"]["name"]: item["set"] for item in listed if "set" in item}
    rules: dict[str, list[Any]] = {FROM: [], TO: []}
    for item in listed:
        if "rule" in item:
            rules.setdefault(item["rule"]["chain"], []).append(item["rule"]["expr"])
    limits = [statement["limit"] for expression in rules[FROM] for statement in expression if "limit" in statement]
    found = TapFilter(
        device=device,
        own=station_of(sets, rules),
        sends=[DROP] not in rules[FROM],
        receives=[DROP] not in rules[TO],
        peers=frozenset(sets[_PEERS].get("elem", ())) if _PEERS in sets else None,
        ports=tuple(_port(element) for element in sets[_PORTS].get("elem", ())) if _PORTS in sets else None,
        rate_bytes_s=limits[0]["rate"] * _UNITS[limits[0]["rate_unit"]] if limits else None,
        open_s=_left(device, sets[_OPEN]) if _OPEN in sets else None,
    )
    if comparable(listed) != comparable(filter_objects(found, place)):
        raise ValueError("its rules are not those of a filter")
    return found


def _port(element: Any) -> PortRule:
    protocol, port = element["concat"]
    return PortRule(protocol=PortProtocol(protocol), port=port)


def _left(device: str, window: Any) -> float:
    """Seconds until it closes, whole ones, rounded down."""
    left = 0.0
    for element in window.get("elem", ()):
        inner = element["elem"]
        if inner["val"] != device or set(inner) != {"val", "timeout", "expires"}:
            raise ValueError("its window is none that closes")
        left = float(inner["expires"])
    return left
