"""The never-in-clear guard and the lease gate as nftables rules, put in and read by the nft program.

SPD entries protect what has a label; this is what stands behind them when they are gone: nothing with a port of the
block passes unless IPsec carried it, and carried it from or to a peer whose gate is open. The rules also keep the
bridges of types apart from the host. The table is one value (`expected_ruleset`), installed as it is and compared with
what nft lists. A gate's element has a timeout that the kernel counts: it closes if nobody is left to close it.
"""

import json
import math
import subprocess
import threading
from collections import Counter, deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

from shamon_host.domain.errors import BackendFailed
from shamon_host.links.model import (
    BRIDGE_PREFIX,
    FILTER_TABLE,
    GUARD_TABLE,
    PASSAGE_PREFIX,
    PASSAGE_TCP_PORT,
    PORT_BLOCK,
    TAP_PREFIX,
    TUNNEL_PREFIX,
)

_HOST_COUNTERS = ("host_in", "host_out", "host_forward")
"""Of what was on its way from a type's bridge to the host, from the host to one, and from one through the host."""
COUNTERS = ("guard_out", "guard_in", "gate_out", "gate_in", *_HOST_COUNTERS)
_GATES = {4: "gate4", 6: "gate6"}
_PRIORITY = -300
"""Before connection tracking and address translation: what is matched is what the socket sent."""
_LIMIT_S = 20.0
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
_ABSENT = "No such file or directory"

Object = dict[str, Any]


def expected_ruleset() -> tuple[Object, ...]:
    """Every object of the two tables, in the form in which nft lists them."""
    objects: list[Object] = [
        {"table": {"family": "inet", "name": GUARD_TABLE}},
        *({"counter": {"family": "inet", "table": GUARD_TABLE, "name": name}} for name in COUNTERS),
        *(
            {"set": {
                "family": "inet", "table": GUARD_TABLE, "name": name,
                "type": f"ipv{version}_addr", "flags": ["timeout"],
            }}
            for version, name in _GATES.items()
        ),
        *_guard("out"),
        *_guard("in"),
        *_chain("inet", "output", [
            *_devices("oifname", "host_out"), *_passages("oifname", "host_out"), *_to_guard("out"),
        ]),
        *_chain("inet", "input", [
            *_devices("iifname", "host_in"), *_passages("iifname", "host_in"), *_to_guard("in"),
        ]),
        *_chain("inet", "forward", [
            *_devices("iifname", "host_forward"), _is_from("iifname", PASSAGE_PREFIX, "host_forward"),
            *_devices("oifname", "host_forward"), _is_from("oifname", PASSAGE_PREFIX, "host_forward"),
        ]),
        {"table": {"family": "bridge", "name": GUARD_TABLE}},
        *({"counter": {"family": "bridge", "table": GUARD_TABLE, "name": name}} for name in _HOST_COUNTERS[:2]),
        *_chain("bridge", "input", [_is_from("ibrname", BRIDGE_PREFIX, "host_in")]),
        *_chain("bridge", "output", [_is_from("obrname", BRIDGE_PREFIX, "host_out")]),
    ]  # fmt: skip
    return tuple(objects)


def is_expected(listed: Iterable[Object]) -> bool:
    """What nft lists of the guard's tables is what this program installs. Handles, counts, elements do not matter."""
    return comparable(_of_guard(listed)) == comparable(expected_ruleset())


def gates_of(listed: Iterable[Object]) -> dict[str, float]:
    """Address → seconds left (whole ones, rounded down); infinite for an element without a timeout."""
    gates: dict[str, float] = {}
    for item in _of_guard(listed):
        found = item.get("set", {})
        if found.get("name") not in _GATES.values():
            continue
        for element in found.get("elem", []):
            inner = element.get("elem", {}) if isinstance(element, dict) else {"val": element}
            if isinstance(address := inner.get("val"), str):
                gates[str(ip_address(address))] = float(inner.get("expires", math.inf))
    return gates


def counters_of(listed: Iterable[Object]) -> dict[str, int]:
    """Packets that each rule dropped; 0 for a counter that is not there."""
    found = Counter(dict.fromkeys(COUNTERS, 0))
    for item in _of_guard(listed):
        if item.get("counter", {}).get("name") in COUNTERS:
            found[item["counter"]["name"]] += int(item["counter"]["packets"])
    return dict(found)


@dataclass(kw_only=True)
class Nft:
    """The nft program. `own_pids`: of its recent runs, by which the kernel's notifications tell who changed a rule."""

    program: str = "nft"
    own_pids: deque[int] = field(default_factory=lambda: deque(maxlen=256))
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def read(self) -> tuple[Object, ...]:
        """All objects of the guard's tables and of the filters', () when none is there. Raises BackendFailed."""
        return self.list_tables((GUARD_TABLE, FILTER_TABLE))

    def list_tables(self, names: Collection[str]) -> tuple[Object, ...]:
        """The same of the tables with these names."""
        text = self._run(("--json", "list", "ruleset"), "read the nft rules")
        try:
            listed = json.loads(text)["nftables"]
            return tuple(item for item in listed if table_of(item) in names)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BackendFailed(
                "nft's answer cannot be understood", where=GUARD_TABLE, found=str(error)[:200]
            ) from None

    def install(self) -> None:
        """Put both tables in the place of what has their names, in one transaction. All gates are closed after it."""
        commands: list[Object] = []
        for family in ("inet", "bridge"):
            table = {"table": {"family": family, "name": GUARD_TABLE}}
            # Added so that it is there to be deleted.
            commands += [{"add": table}, {"delete": table}]
        commands += [{"add": item} for item in expected_ruleset()]
        self.transact(commands, "install the guard")
        if not is_expected(self.read()):
            raise BackendFailed("the guard that was read back is not the one that was installed", where="nft")

    def transact(self, commands: Sequence[Object], operation: str) -> None:
        """Carry out nft's commands, all or none of them. Raises BackendFailed naming `operation`."""
        self._run(("--json", "--file", "-"), operation, script=json.dumps({"nftables": commands}))

    def run_script(self, script: str, operation: str, *, absent_is_fine: bool = False) -> None:
        """A transaction in nft's own language. Raises BackendFailed naming `operation`."""
        self._run(("--file", "-"), operation, script=script, absent_is_fine=absent_is_fine)

    def _run(self, arguments: Sequence[str], operation: str, *, script: str = "", absent_is_fine: bool = False) -> str:
        """What nft says; "" if what the script names is not there and that is fine."""
        command = [self.program, *arguments]
        try:
            with (
                self._lock,
                subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=_ENVIRONMENT
                ) as process,
            ):
                self.own_pids.append(process.pid)
                try:
                    output, complaint = process.communicate(script.encode(), timeout=_LIMIT_S)
                except subprocess.TimeoutExpired:
                    process.kill()
                    raise BackendFailed("nft does not answer", where=operation) from None
        except OSError as error:
            raise BackendFailed("nft cannot be run", where=operation, found=error.strerror or "") from None
        if process.returncode == 0:
            return output.decode("utf-8", "replace")
        words = complaint.decode("utf-8", "replace")
        if absent_is_fine and _ABSENT in words:
            return ""
        raise BackendFailed("nft refused", where=operation, found=" ".join(words.split())[:300])


def table_of(item: Object) -> str:
    """The name of the table that a listed object is, or belongs to; "" for what belongs to none."""
    return next((str(value.get("name" if kind == "table" else "table", "")) for kind, value in item.items()), "")


def comparable(listed: Iterable[Object]) -> tuple[list[str], list[str]]:
    """Rules in their order within each chain, everything else in any order, without what changes by itself."""
    others: list[str] = []
    rules: dict[tuple[str, ...], list[Object]] = {}
    for item in listed:
        for kind, value in item.items():
            bare = {key: inner for key, inner in value.items() if key not in _IGNORED.get(kind, ("handle",))}
            if kind == "rule":
                chain = tuple(str(bare.get(key)) for key in ("family", "table", "chain"))
                rules.setdefault(chain, []).append(bare)
            else:
                others.append(json.dumps({kind: bare}, sort_keys=True))
    return sorted(others), [json.dumps(rules[chain], sort_keys=True) for chain in sorted(rules)]


def match(operator: str, left: Object, right: object) -> Object:
    return {"match": {"op": operator, "left": left, "right": right}}


def payload(protocol: str, field_name: str) -> Object:
    return {"payload": {"protocol": protocol, "field": field_name}}


def _of_guard(listed: Iterable[Object]) -> list[Object]:
    return [item for item in listed if table_of(item) == GUARD_TABLE]


def _chain(family: str, hook: str, rules: Iterable[list[Object]]) -> list[Object]:
    return _rules(family, hook, rules, {"type": "filter", "hook": hook, "prio": _PRIORITY, "policy": "accept"})


def _rules(family: str, chain: str, rules: Iterable[list[Object]], hooked: Object) -> list[Object]:
    place = {"family": family, "table": GUARD_TABLE}
    return [
        {"chain": {**place, "name": chain, **hooked}},
        *({"rule": {**place, "chain": chain, "expr": rule}} for rule in rules),
    ]


def _to_guard(way: str) -> list[list[Object]]:
    """`way` is in or out. Either port: the peer's ports are of the block too. Every packet of the host comes by here,
    that of a link once more as ESP, which goes on at the first rule. What has no port, as the second part of a UDP
    packet over IPv6, is matched by none."""
    block = {"range": [PORT_BLOCK.start, PORT_BLOCK.stop - 1]}
    return [
        [match("!=", {"meta": {"key": "l4proto"}}, "udp"), {"accept": None}],
        *(
            [match("==", payload("udp", port), block), {"goto": {"target": f"links_{way}"}}]
            for port in ("sport", "dport")
        ),
    ]


def _guard(way: str) -> list[Object]:
    """The chain that decides about packets with a port of the block."""
    ipsec, far_end = ({"meta": {"key": "ipsec"}}, "saddr") if way == "in" else ({"rt": {"key": "ipsec"}}, "daddr")
    rules = [[match("==", ipsec, False), {"counter": f"guard_{way}"}, DROP]]
    for version, gate in _GATES.items():
        closed = match("!=", payload("ip6" if version == 6 else "ip", far_end), f"@{gate}")
        rules.append([closed, {"counter": f"gate_{way}"}, DROP])
    return _rules("inet", f"links_{way}", rules, {})


def _devices(key: str, counter: str) -> list[list[Object]]:
    return [_is_from(key, prefix, counter) for prefix in (BRIDGE_PREFIX, TUNNEL_PREFIX, TAP_PREFIX)]


def _passages(key: str, counter: str) -> list[list[Object]]:
    """Between the daemons at both ends of a passage: TCP of one port, and how they find each other's device."""
    device = match("==", {"meta": {"key": key}}, f"{PASSAGE_PREFIX}*")
    return [
        *(
            [device, match("==", payload("tcp", port), PASSAGE_TCP_PORT), {"accept": None}]
            for port in ("sport", "dport")
        ),
        [device, match("==", {"meta": {"key": "l4proto"}}, "ipv6-icmp"), {"accept": None}],
        _is_from(key, PASSAGE_PREFIX, counter),
    ]


def _is_from(key: str, prefix: str, counter: str) -> list[Object]:
    return [match("==", {"meta": {"key": key}}, f"{prefix}*"), {"counter": counter}, DROP]


DROP: Object = {"drop": None}


def gate_element(address: str) -> str:
    """The start of an element of the gate's set, as nft's language has it. Raises ValueError."""
    parsed = ip_address(address)
    return f"inet {GUARD_TABLE} {_GATES[parsed.version]} {{ {parsed}"


_IGNORED: Mapping[str, tuple[str, ...]] = {
    "counter": ("handle", "packets", "bytes"),
    "set": ("handle", "elem"),
    "map": ("handle", "elem"),
}
