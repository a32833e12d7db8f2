"""The never-in-clear guard, the lease gate and the bridge rules, by the nft program and its JSON (libnftables-json(5)).

The rules are written here in the form in which nft lists them, so that what is there can be compared with what should
be: any other rule, flag or hook in our tables makes the guard not whole.
"""

import json
import math
import os
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from shamon_host.domain.errors import BackendFailed
from shamon_host.links.model import BRIDGE_PREFIX, PORT_BLOCK, TUNNEL_PREFIX

TABLE = "shamon"
COUNTERS = ("guard_out", "guard_in", "gate_out", "gate_in")
_NFT = "/usr/sbin/nft"
_TIMEOUT_S = 20
_MAX_LISTING_BYTES = 32 << 20

Json = dict[str, Any]


def run_nft(document: Json) -> Json:
    """Carry out one JSON document (all of it or nothing) and return the answer. Raises BackendFailed."""
    command = [_NFT, "--json", "--file", "-"]
    try:
        done = subprocess.run(
            command, input=json.dumps(document).encode(), capture_output=True, timeout=_TIMEOUT_S, check=False,
            env={"PATH": os.defpath, "LC_ALL": "C"},
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BackendFailed("nft cannot be run", where=_NFT, found=str(error), remedy="Install nftables.") from None
    if done.returncode != 0 or len(done.stdout) > _MAX_LISTING_BYTES:
        raise BackendFailed("nft refused", where=_NFT, found=done.stderr.decode(errors="replace").strip()[:500])
    try:
        answer = json.loads(done.stdout or b"{}")
    except ValueError as error:
        raise BackendFailed("nft's answer is no JSON", where=_NFT, found=str(error)) from None
    return answer if isinstance(answer, dict) else {}


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardReading:
    """`whole`: exactly our tables. `gate`: address → whole seconds left, rounded down. `counters`: packets dropped."""

    whole: bool
    gate: Mapping[str, float]
    counters: Mapping[str, int]


class NftGuard:
    """The tables `inet shamon` and `bridge shamon`. Raises BackendFailed."""

    def __init__(self, run: Callable[[Json], Json] = run_nft) -> None:
        self._run = run

    def read(self) -> GuardReading:
        listing = self._run(_document({"list": {"ruleset": None}}))
        objects = [item for item in listing.get("nftables", []) if isinstance(item, dict) and _is_ours(item)]
        gate: dict[str, float] = {}
        counters = dict.fromkeys(COUNTERS, 0)
        for item in objects:
            if "set" in item:
                for element in item["set"].get("elem", []):
                    gate |= _element(element)
            elif "counter" in item and item["counter"]["name"] in counters:
                counters[item["counter"]["name"]] = int(item["counter"]["packets"])
        return GuardReading(whole=_normal(objects) == _WANTED, gate=gate, counters=counters)

    def install(self) -> None:
        """Put our tables in the place of whatever has their names, in one transaction; the gates are closed then."""
        fresh: list[Json] = []
        for family in ("inet", "bridge"):
            table = {"table": {"family": family, "name": TABLE}}
            fresh += [{"add": table}, {"delete": table}]
        self._run(_document(*fresh, *({"add": item} for item in _RULESET)))
        if not self.read().whole:
            raise BackendFailed("the guard is not as it was installed", where=f"nft table {TABLE}")

    def open_gate(self, address: str, seconds: float) -> None:
        """For whole seconds, rounded down; read back."""
        whole = math.floor(seconds)
        if whole < 1:
            raise BackendFailed("too little is left of the lease", where=address, found=f"{seconds:.2f} s")
        element = {**_gate_element(address), "elem": [{"elem": {"val": address, "timeout": whole}}]}
        # What is there keeps its timeout when it is added again: it must go first, in the same transaction.
        self._run(_document(*_removal(address), {"add": {"element": element}}))
        left = self.read().gate.get(address, 0.0)
        if not whole - _TIMEOUT_S <= left <= whole:
            raise BackendFailed("the gate is not as it was set", where=address, expected=str(whole), found=str(left))

    def close_gate(self, address: str) -> None:
        """No error when it is closed. Where there is no table there is then an empty one, which the guard replaces."""
        self._run(_document(*_removal(address)))


def _document(*commands: Json) -> Json:
    return {"nftables": list(commands)}


def _gate_element(address: str) -> Json:
    return {"family": "inet", "table": TABLE, "name": f"gate{ip_address(address).version}"}


def _removal(address: str) -> list[Json]:
    """Commands after which the element is not there, whether it was or not."""
    element = {**_gate_element(address), "elem": [address]}
    table: Json = {"table": {"family": "inet", "name": TABLE}}
    sets: list[Json] = [{"add": item} for item in _SETS]
    return [{"add": table}, *sets, {"add": {"element": element}}, {"delete": {"element": element}}]


def _match(left: Json, right: Any, operator: str = "==") -> Json:
    return {"match": {"op": operator, "left": left, "right": right}}


def _payload(protocol: str, name: str) -> Json:
    return {"payload": {"protocol": protocol, "field": name}}


def _rule(family: str, chain: str, *expressions: Json) -> Json:
    return {"rule": {"family": family, "table": TABLE, "chain": chain, "expr": [*expressions, {"drop": None}]}}


def _chain(family: str, name: str, hook: str) -> Json:
    fields = {"family": family, "table": TABLE, "name": name, "type": "filter", "hook": hook, "prio": 0}
    return {"chain": {**fields, "policy": "accept"}}


def _guard_rules() -> list[Json]:
    """Nothing of the port block without IPsec, and nothing past a closed gate: out and in, IPv4 and IPv6."""
    block = {"range": [PORT_BLOCK.start, PORT_BLOCK.stop - 1]}
    rules = []
    for chain, ipsec, end in (
        ("out", {"rt": {"key": "ipsec"}}, "daddr"),
        ("in", {"meta": {"key": "ipsec"}}, "saddr"),
    ):
        for port in ("sport", "dport"):
            ours = _match(_payload("udp", port), block)
            rules.append(_rule("inet", chain, ours, _match(ipsec, False), {"counter": f"guard_{chain}"}))
            for protocol, gate in (("ip", "@gate4"), ("ip6", "@gate6")):
                closed = _match(_payload(protocol, end), gate, "!=")
                rules.append(_rule("inet", chain, ours, closed, {"counter": f"gate_{chain}"}))
    return rules


def _host_rules() -> list[Json]:
    """Nothing between a type's bridge and the host, at the bridge and, should a frame get past it, at the IP layer."""
    bridges, links = f"{BRIDGE_PREFIX}*", f"{TUNNEL_PREFIX}*"
    rules = [
        _rule("bridge", "input", _match({"meta": {"key": "ibrname"}}, bridges)),
        _rule("bridge", "output", _match({"meta": {"key": "obrname"}}, bridges)),
    ]
    for chain, keys in (("in", ["iifname"]), ("out", ["oifname"]), ("forward", ["iifname", "oifname"])):
        rules += [
            _rule("inet", chain, _match({"meta": {"key": key}}, name)) for key in keys for name in (bridges, links)
        ]
    return rules


_SETS: list[Json] = [
    {"set": {"family": "inet", "name": f"gate{version}", "table": TABLE, "type": kind, "flags": ["timeout"]}}
    for version, kind in ((4, "ipv4_addr"), (6, "ipv6_addr"))
]
_RULESET: list[Json] = [
    {"table": {"family": "inet", "name": TABLE}},
    {"table": {"family": "bridge", "name": TABLE}},
    *({"counter": {"family": "inet", "name": name, "table": TABLE}} for name in COUNTERS),
    *_SETS,
    _chain("inet", "out", "output"),
    _chain("inet", "in", "input"),
    _chain("inet", "forward", "forward"),
    _chain("bridge", "input", "input"),
    _chain("bridge", "output", "output"),
    *_guard_rules(),
    *_host_rules(),
]


def _is_ours(item: Json) -> bool:
    body = next(iter(item.values()), None)
    return isinstance(body, dict) and (body.get("table") == TABLE or ("table" in item and body.get("name") == TABLE))


def _normal(objects: list[Json]) -> list[str]:
    """What counts of a listing: all but handles, counts and elements; rules in their order, the rest sorted."""
    rules: list[str] = []
    others: list[str] = []
    for item in objects:
        (kind, body), *_ = item.items()
        bare = {key: value for key, value in body.items() if key not in ("handle", "packets", "bytes", "elem")}
        text = json.dumps({kind: bare}, sort_keys=True)
        (rules if kind == "rule" else others).append(text)
    # A listing gives the rules of one chain together; chains of one family in the order in which they were made.
    return sorted(others) + sorted(rules, key=_chain_of)


def _chain_of(text: str) -> tuple[str, str]:
    rule = json.loads(text)["rule"]
    return rule["family"], rule["chain"]


_WANTED = _normal(_RULESET)


def _element(element: Any) -> dict[str, float]:
    """Address → seconds left. One without a timeout would never close: for ever, so that it is seen and removed."""
    if isinstance(element, dict):
        body = element.get("elem", {})
        return {str(body.get("val")): float(body["expires"]) if "expires" in body else 1e9}
    return {str(element): 1e9}
