"""Filters of taps in the network state that a quote covers: as JSON, and read back from a peer's bytes.

Without what is left of windows, which changes by itself: only whether a tap has one. A Verifier compares the filters
that it reads with those that the policy asks for.
"""

from collections.abc import Mapping
from typing import Any

from shamon_host.domain.errors import BadInput
from shamon_host.links.frame_facts import PortProtocol, PortRule
from shamon_host.links.station import Station
from shamon_host.links.tap_filter import TapFilter

_FIELDS = {"own", "sends", "receives", "peers", "ports", "rate_bytes_s", "windowed"}
ATTESTED_WINDOW_S = 0.0
"""`open_s` of a filter with a window that was read from a report."""


def filters_document(filters: Mapping[str, TapFilter]) -> dict[str, dict[str, Any]]:
    """Tap → its filter, with every list sorted."""
    return {
        device: {
            "own": None if limits.own is None else _station_document(limits.own),
            "sends": limits.sends,
            "receives": limits.receives,
            "peers": None if limits.peers is None else sorted(limits.peers),
            "ports": None if limits.ports is None else [[rule.protocol.value, rule.port] for rule in limits.ports],
            "rate_bytes_s": limits.rate_bytes_s,
            "windowed": limits.open_s is not None,
        }
        for device, limits in filters.items()
    }


def filters_from_document(document: Any) -> dict[str, TapFilter]:
    """What `filters_document` gave. Raises BadInput for anything that it does not give, whatever the types."""
    if not isinstance(document, dict):
        raise BadInput("filters are malformed", expected="an object", found=type(document).__name__)
    filters = {device: _filter(device, fields) for device, fields in document.items()}
    for device, fields in filters_document(filters).items():
        if fields != document[device]:
            raise BadInput("a filter is not in canonical form", where=device)
    return filters


def _filter(device: Any, fields: Any) -> TapFilter:
    if not isinstance(device, str) or not isinstance(fields, dict) or set(fields) != _FIELDS:
        raise BadInput("a filter is malformed", where=str(device)[:40], expected=", ".join(sorted(_FIELDS)))
    for key, kinds in _KINDS.items():
        if type(fields[key]) not in kinds:
            raise BadInput("a filter is malformed", where=f"{device[:40]} {key}", found=type(fields[key]).__name__)
    peers, ports = fields["peers"], fields["ports"]
    if not all(isinstance(mac, str) for mac in peers or []):
        raise BadInput("a filter's peers are malformed", where=device[:40])
    return TapFilter(
        device=device,
        own=None if fields["own"] is None else _station(device, fields["own"]),
        sends=fields["sends"],
        receives=fields["receives"],
        peers=None if peers is None else frozenset(peers),
        ports=None if ports is None else tuple(_port(device, item) for item in ports),
        rate_bytes_s=fields["rate_bytes_s"],
        open_s=ATTESTED_WINDOW_S if fields["windowed"] else None,
    )


def _station_document(own: Station) -> dict[str, Any]:
    return {"mac": own.mac, "addresses": None if own.addresses is None else sorted(own.addresses)}


def _station(device: str, fields: Any) -> Station:
    match fields:
        case {"mac": str(mac), "addresses": None, **rest} if not rest:
            return Station(mac=mac)
        case {"mac": str(mac), "addresses": list(addresses), **rest} if not rest:
            if all(isinstance(address, str) for address in addresses):
                return Station(mac=mac, addresses=frozenset(addresses))
    raise BadInput("whose tap a filter is of is malformed", where=device[:40], expected="mac, addresses")


def _port(device: str, item: Any) -> PortRule:
    match item:
        case ["tcp" | "udp" as protocol, int(port)]:
            return PortRule(protocol=PortProtocol(protocol), port=port)
        case _:
            raise BadInput("a filter's ports are malformed", where=device[:40], found=repr(item)[:40])


_NONE = type(None)
_KINDS: Mapping[str, tuple[type, ...]] = {
    "own": (dict, _NONE),
    "sends": (bool,),
    "receives": (bool,),
    "peers": (list, _NONE),
    "ports": (list, _NONE),
    "rate_bytes_s": (int, _NONE),
    "windowed": (bool,),
}
"""JSON's types, exactly: true is no number."""
