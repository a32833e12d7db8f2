"""Filters of VMs' taps as nftables rules of family bridge: from a filter to nft's objects, and back. Pure.

Each filter is a table of its own, named after its tap. It judges what comes from the tap as it enters the bridge
(prerouting) and what goes to the tap as it leaves (postrouting), and does not see other frames. The table is one value
(`filter_ruleset`): what nft lists is taken for the filter that it looks like, and is that filter only if its ruleset is
exactly what is listed. A window is a set with the tap in it, for a time that the kernel counts: without anybody's doing
it is empty in the end, and nothing passes.

What is not the VM's own is dropped by the rules of `linux_station_rules`.

Each filter costs every bridged frame two comparisons of names, and the kernel takes 1024 chains at a hook
(MAX_HOOK_COUNT, net/netfilter/core.c).
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from shamon_host.domain.errors import BadInput
from shamon_host.links.frame_facts import PortProtocol, PortRule
from shamon_host.links.linux_nft import DROP, FILTER_TABLE, Object, comparable, match, payload, table_of
from shamon_host.links.linux_station_rules import OWN, SPOOFED, station_objects, station_of
from shamon_host.links.tap_filter import BURST_BYTES, TapFilter, checked_device, is_device

FAMILY = "bridge"
_PRIORITY = -300
_OPEN, _PEERS, _PORTS = "open", "peers", "ports"
_FROM, _TO = "from", "to"
"""Chains at the hooks: of what comes from the tap, and of what goes to it."""
_KNOWN = "to_peers"
_UNITS = {"bytes": 1, "kbytes": 2**10, "mbytes": 2**20}
_RETURN: Object = {"return": None}
_ARP_REQUEST = match("==", payload("arp", "operation"), "request")
_SOLICITATION = match("==", payload("icmpv6", "type"), "nd-neighbor-solicit")
_ADVERTISEMENT = match("==", payload("icmpv6", "type"), "nd-neighbor-advert")
"""nft adds the Ethernet type, of ARP and of IPv6, which a frame with a VLAN tag does not have (nft_payload.c)."""


def filter_ruleset(limits: TapFilter) -> tuple[Object, ...]:
    """Every object of the filter's table, in the form in which nft lists them and takes them.

    Without anonymous sets and ranges: in what order or form they are listed is nft's affair."""
    device = checked_device(limits.device)
    place = {"family": FAMILY, "table": FILTER_TABLE + device}
    objects: list[Object] = [{"table": {"family": FAMILY, "name": FILTER_TABLE + device}}]
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
    for name, hook in ((_FROM, "prerouting"), (_TO, "postrouting")):
        hooked = {"type": "filter", "hook": hook, "prio": _PRIORITY, "policy": "accept"}
        objects += _chain(place, name, _judging(limits, name), **hooked)
    return tuple(objects)


def filters_of(listed: Iterable[Object]) -> tuple[dict[str, TapFilter], dict[str, str]]:
    """Of what nft lists: tap → filter, with the seconds left of its window, and tap → why its table is none of ours."""
    filters: dict[str, TapFilter] = {}
    changed: dict[str, str] = {}
    for device, objects in tables_of(listed).items():
        try:
            filters[device] = _recognised(device, objects)
        except (BadInput, ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError):
            # Lists in which nothing is where it was put.
            changed[device] = "its table is none that this program writes"
    return filters, changed


def tables_of(listed: Iterable[Object]) -> dict[str, list[Object]]:
    """Of what nft lists: tap → the objects of its filter's table."""
    tables: dict[str, list[Object]] = {}
    for item in listed:
        name = table_of(item)
        device = name.removeprefix(FILTER_TABLE)
        family = next((value.get("family") for value in item.values()), None)
        if name.startswith(FILTER_TABLE) and is_device(device) and family == FAMILY:
            tables.setdefault(device, []).append(item)
    return tables


def spoofed_of(listed: Iterable[Object]) -> dict[str, int]:
    """Of what nft lists: tap → frames that its filter dropped because they were not its own, since it was set."""
    return {
        device: int(item["counter"]["packets"])
        for device, objects in tables_of(listed).items()
        for item in objects
        if item.get("counter", {}).get("name") == SPOOFED
    }


def _judging(limits: TapFilter, chain: str) -> list[list[Object]]:
    """The rules of a chain at a hook."""
    sent = chain == _FROM
    tap: Object = {"meta": {"key": "iifname" if sent else "oifname"}}
    rules: list[list[Object]] = [[match("!=", tap, limits.device), {"accept": None}]]
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


def _set(place: Object, name: str, kind: object, elements: Sequence[object], **more: object) -> Object:
    content = {"elem": list(elements)} if elements else {}
    return {"set": {**place, "name": name, "type": kind, **more, **content}}


def _chain(place: Object, name: str, rules: Iterable[list[Object]], **more: object) -> list[Object]:
    return [
        {"chain": {**place, "name": name, **more}},
        *({"rule": {**place, "chain": name, "expr": rule}} for rule in rules),
    ]


def _recognised(device: str, listed: list[Object]) -> TapFilter:
    """The filter whose table this is. Raises what `filters_of` catches."""
    sets = {item["set"]["name"]: item["set"] for item in listed if "set" in item}
    rules: dict[str, list[Any]] = {_FROM: [], _TO: []}
    for item in listed:
        if "rule" in item:
            rules.setdefault(item["rule"]["chain"], []).append(item["rule"]["expr"])
    limits = [statement["limit"] for expression in rules[_FROM] for statement in expression if "limit" in statement]
    found = TapFilter(
        device=device,
        own=station_of(sets, rules),
        sends=[DROP] not in rules[_FROM],
        receives=[DROP] not in rules[_TO],
        peers=frozenset(sets[_PEERS].get("elem", ())) if _PEERS in sets else None,
        ports=tuple(_port(element) for element in sets[_PORTS].get("elem", ())) if _PORTS in sets else None,
        rate_bytes_s=limits[0]["rate"] * _UNITS[limits[0]["rate_unit"]] if limits else None,
        open_s=_left(device, sets[_OPEN]) if _OPEN in sets else None,
    )
    if comparable(listed) != comparable(filter_ruleset(found)):
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
