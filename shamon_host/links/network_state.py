"""The network security state of a host: what its quote vouches for, and what a Verifier demands of it.

The host writes it down canonically (its digest is in the leaf that the TPM signs); the Verifier reads the same bytes,
which come from a peer and may hold anything. SAs, gates and what is left of taps' windows are not in it: they change
by themselves.
"""

import json
from collections.abc import Callable, Iterable
from typing import Any

from shamon_host.domain.canonical import canonical_json
from shamon_host.domain.errors import BadInput
from shamon_host.domain.label_map import LabelMap
from shamon_host.domain.labels import SelinuxContext
from shamon_host.domain.results import Claim, ClaimName, ClaimStatus
from shamon_host.links.desired import BLOCK_ENTRIES, EXACT_PORT
from shamon_host.links.filter_report import filters_document, filters_from_document
from shamon_host.links.model import (
    BRIDGE_PREFIX,
    LINK_PRIORITY,
    PORT_BLOCK,
    TAP_PREFIX,
    TUNNEL_PREFIX,
    KernelState,
    SpdEntry,
)
from shamon_host.links.spd_report import links_document, links_from_document

MAX_STATE_BYTES = 4 << 20
"""16,384 links with the longest IPv6 addresses take 3.5 MiB."""
_SHAPE = {
    "block": list,
    "links": dict,
    "labelled": list,
    "bridges": dict,
    "filters": dict,
    "sysctls": dict,
    "foreign": list,
}
_BLOCK = frozenset(BLOCK_ENTRIES)
_VERSION = 3
"""2 was of hosts with another port block, and told each entry of a link whole."""

SYSCTLS = {
    "net.ipv4.conf.*.disable_policy": ("0",),
    "net.ipv4.conf.*.disable_xfrm": ("0",),
    "net.ipv6.conf.*.disable_policy": ("0", "absent"),
    "net.ipv4.ip_forward": ("0",),
    "net.ipv6.conf.all.forwarding": ("0", "absent"),
    "net.bridge.bridge-nf-call-iptables": ("0", "absent"),
    "net.bridge.bridge-nf-call-ip6tables": ("0", "absent"),
}
"""What is read and the values that are right. `*` is every interface but lo, and `all` and `default`: the value is
"0" only when it is 0 for each. A file that is not there reads as "absent"."""


def sysctl_value(name: str, *, read: Callable[[str], str | None], interfaces: Callable[[str], Iterable[str]]) -> str:
    """A sysctl of SYSCTLS: its value; with `*`, that of every interface but lo if all agree on 0.

    Files that are not there read as "absent"; with `*`, the first other value is named with its interface. `read`: path
    below /proc/sys/net → its text, None where it is not there; `interfaces`: directory there → what is in it.
    """
    parts = name.split(".")[1:]
    if "*" not in parts:
        return read("/".join(parts)) or "absent"
    place = parts.index("*")
    base, leaf = "/".join(parts[:place]), "/".join(parts[place + 1 :])
    values = {each: read(f"{base}/{each}/{leaf}") for each in sorted(interfaces(base)) if each != "lo"}
    known = {interface: value for interface, value in values.items() if value is not None}
    if not known:
        return "absent"
    return next((f"{value} at {interface}" for interface, value in known.items() if value != "0"), "0")


def encode_network_state(state: KernelState, label_map: LabelMap) -> bytes:
    """The state as canonical JSON. Contexts are local to a host, so entries are told by type; `labelled` are those that
    are not plainly of a link.

    Raises BadInput when that is more than a Verifier would read.
    """

    def entry(item: SpdEntry) -> dict[str, Any]:
        name = label_map.type_of(item.context) if item.context is not None else None
        return {
            "direction": item.direction,
            "family": item.family,
            "source": item.source,
            "destination": item.destination,
            "source_port": [item.source_port, item.source_port_mask],
            "destination_port": [item.destination_port, item.destination_port_mask],
            "priority": item.priority,
            "block": item.block,
            "context": None if item.context is None else str(item.context),
            "type": name,
            "foreign": item.foreign,
        }

    def key(item: dict[str, Any]) -> bytes:
        return canonical_json(item)

    links, others = links_document((item for item in state.spd if not _is_block(item)), label_map)
    data = canonical_json(
        {
            "version": _VERSION,
            "guard": state.guard,
            "selinux_enforcing": not state.no_links_because,
            "block": sorted((entry(item) for item in state.spd if _is_block(item)), key=key),
            "links": links,
            "labelled": sorted(map(entry, others), key=key),
            "bridges": {
                bridge.name: {"sealed": bridge.sealed, "ports": dict(bridge.ports)} for bridge in state.bridges.values()
            },
            "filters": filters_document(state.filters),
            "sysctls": dict(state.sysctls),
            "foreign": sorted([*state.foreign, *changed_by_others(state)]),
        }
    )
    if len(data) > MAX_STATE_BYTES:
        raise BadInput(
            "the network state is too large", expected=f"{MAX_STATE_BYTES} bytes", found=f"{len(data)} bytes"
        )
    return data


def check_network_state(data: bytes) -> Claim:
    """The claim that a peer's network security state is as it must be. Never raises; `data` is not trusted."""
    if len(data) > MAX_STATE_BYTES:
        return _fail("it is too large", found=f"{len(data)} bytes", expected=f"at most {MAX_STATE_BYTES}")
    if not data:
        return Claim(name=ClaimName.NETWORK_STATE, status=ClaimStatus.ABSENT, reason="no network state was given")
    try:
        state = json.loads(data)
        if canonical_json(state) != data:
            return _fail("it is not in canonical form")
        if not isinstance(state, dict) or state.get("version") != _VERSION:
            return _fail("it is of another version", where="version", expected=str(_VERSION))
        for key, kind in _SHAPE.items():
            if not isinstance(state[key], kind):
                return _fail("it is malformed", where=key, expected=kind.__name__)
        for check in _CHECKS:
            if (failure := check(state)) is not None:
                return failure
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, BadInput) as error:
        return _fail("it is malformed", found=f"{type(error).__name__}: {error}"[:200])
    count = len(state["bridges"])
    return Claim(
        name=ClaimName.NETWORK_STATE,
        status=ClaimStatus.PASS,
        reason=f"guard, block entries, sysctls and {count} sealed bridges are as they must be, SELinux is enforcing",
    )


def _selinux(state: Any) -> Claim | None:
    if state["selinux_enforcing"] is not True:
        return _fail(
            "SELinux is not enforcing, or its policy is not fit for links", where="selinux_enforcing", expected="true"
        )
    return None


def _guard(state: Any) -> Claim | None:
    if state["guard"] is not True:
        return _fail("the nft guard is not there as it should be", where="guard", expected="true")
    return None


def _block_entries(state: Any) -> Claim | None:
    """Every block entry, for both directions and families; others may be there too: they only take away."""
    found = [_bare(item) for item in state["block"]]
    for wanted in BLOCK_ENTRIES:
        if _bare_entry(wanted) not in found:
            return _fail(
                "a block entry of the guard is missing in the SPD",
                where=f"{wanted.direction} IPv{wanted.family}",
                expected=f"ports {wanted.source_port}/{wanted.source_port_mask:#x} to "
                f"{wanted.destination_port}/{wanted.destination_port_mask:#x} blocked",
            )
    return None


def _links(state: Any) -> Claim | None:
    try:
        links_from_document(state["links"])
    except BadInput as error:
        return _fail(error.what, where=error.where, expected=error.expected[:200], found=error.found[:200])
    return None


def _labelled(state: Any) -> Claim | None:
    for item in state["labelled"]:
        where = f"SPD entry {str(item['direction'])[:8]} {str(item['source'])[:40]} to {str(item['destination'])[:40]}"
        if item["foreign"]:
            return _fail("a foreign SPD entry touches the port block", where=where, found=str(item["foreign"])[:200])
        for end in ("source", "destination"):
            port, mask = item[f"{end}_port"]
            if not item[end] or mask != EXACT_PORT or port not in PORT_BLOCK:
                return _fail("a labelled SPD entry is not for one link alone", where=where)
        if item["context"] is None:
            return _fail("an SPD entry lets the port block through without a label", where=where)
        context = SelinuxContext.parse(item["context"])
        if context.type != "shamon_spd_t" or len(context.categories) != 1 or not isinstance(item["type"], str):
            return _fail("an SPD entry's label stands for no type", where=where, found=str(context))
        if item["priority"] != LINK_PRIORITY:
            return _fail("an SPD entry has another priority", where=where, expected=str(LINK_PRIORITY))
    return None


def _bridges(state: Any) -> Claim | None:
    for name, bridge in state["bridges"].items():
        where = str(name)[:40]
        if not name.startswith(BRIDGE_PREFIX):
            return _fail("this is no bridge of a type", where=where)
        if bridge["sealed"] is not True:
            return _fail("a type's bridge is open to the host", where=where, expected="no address, IPv6 off")
        for port, isolated in bridge["ports"].items():
            at = f"{where} {str(port)[:40]}"
            if port.startswith(TUNNEL_PREFIX):
                if isolated is not True:
                    return _fail("a link's port is not isolated", where=at)
            elif not port.startswith(TAP_PREFIX) or isolated is not False:
                return _fail("a port of a type's bridge is neither a link's nor a VM's", where=at)
    return None


def _filters(state: Any) -> Claim | None:
    """Their shape, and that each VM in a type's bridge is held to an address of its own. Which one it is, and what
    else a filter must keep out, is the policy's to say."""
    try:
        filters = filters_from_document(state["filters"])
    except BadInput as error:
        return _fail("a filter is none that this program sets", where=error.where, found=str(error)[:200])
    for bridge in state["bridges"].values():
        for port in bridge["ports"]:
            if port.startswith(TAP_PREFIX) and (port not in filters or filters[port].own is None):
                return _fail(
                    "a VM may pass itself off as anybody", where=str(port)[:40], expected="a filter with its MAC"
                )
    return None


def _sysctls(state: Any) -> Claim | None:
    for name, right in SYSCTLS.items():
        found = state["sysctls"].get(name)
        if found not in right:
            return _fail("a sysctl is wrong", where=name, expected=" or ".join(right), found=str(found)[:80])
    return None


def _foreign(state: Any) -> Claim | None:
    if state["foreign"] != []:
        return _fail(
            "foreign objects are in the way", found="; ".join(str(item)[:100] for item in state["foreign"][:5])
        )
    return None


_CHECKS: tuple[Callable[[Any], Claim | None], ...] = (
    _selinux,
    _guard,
    _block_entries,
    _links,
    _labelled,
    _bridges,
    _filters,
    _sysctls,
    _foreign,
)


def changed_by_others(state: KernelState) -> list[str]:
    """What is set otherwise than this program sets it, in words."""
    filters = [f"filter of tap {tap}: {how}" for tap, how in sorted(state.changed_filters.items())]
    ports = [
        f"port {port} of {name}: {how}"
        for name, bridge in sorted(state.bridges.items())
        for port, how in sorted(bridge.faulty.items())
    ]
    return [*filters, *ports]


def _is_block(item: SpdEntry) -> bool:
    return item in _BLOCK


def _bare(item: Any) -> tuple[Any, ...]:
    return (
        item["direction"],
        item["family"],
        item["source"],
        item["destination"],
        tuple(item["source_port"]),
        tuple(item["destination_port"]),
        item["priority"],
        item["block"],
        item["context"],
        item["foreign"],
    )


def _bare_entry(entry: SpdEntry) -> tuple[Any, ...]:
    return (
        entry.direction.value,
        entry.family,
        entry.source,
        entry.destination,
        (entry.source_port, entry.source_port_mask),
        (entry.destination_port, entry.destination_port_mask),
        entry.priority,
        entry.block,
        None,
        "",
    )


def _fail(reason: str, *, where: str = "", expected: str = "", found: str = "") -> Claim:
    return Claim(
        name=ClaimName.NETWORK_STATE,
        status=ClaimStatus.FAIL,
        reason=f"network security state: {reason}",
        where=where,
        expected=expected,
        found=found,
    )
