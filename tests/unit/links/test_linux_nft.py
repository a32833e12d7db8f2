"""The guard's rules compared with what nft lists, gates and counters read from it."""

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest

from shamon_host.domain.errors import BackendFailed
from shamon_host.links.linux_gates import Gates
from shamon_host.links.linux_nft import Nft, Object, counters_of, expected_ruleset, gates_of, is_expected


def _listed() -> list[Object]:
    """As nft lists the tables after a while: with handles, counts and elements."""
    listed: list[Object] = []
    for handle, item in enumerate(copy.deepcopy(expected_ruleset())):
        for kind, value in item.items():
            value["handle"] = handle
            if kind == "counter":
                value |= {"packets": handle, "bytes": 100}
            if value.get("name") == "gate4":
                element = {"val": "192.0.2.2", "timeout": 60, "expires": 41}
                value["elem"] = [{"elem": element}, "192.0.2.9"]
            if value.get("name") == "gate6":
                value["elem"] = [{"elem": {"val": "2001:db8::2", "timeout": 60, "expires": 0}}]
        listed.append(item)
    return listed


def test_handles_counts_and_elements_do_not_matter() -> None:
    assert is_expected(_listed())
    assert is_expected(sorted(_listed(), key=lambda item: "rule" in item))


def _drop_rule(listed: list[Object]) -> None:
    del listed[next(index for index, item in enumerate(listed) if "rule" in item)]


def _swap_rules(listed: list[Object]) -> None:
    first, second = [index for index, item in enumerate(listed) if "rule" in item][:2]
    listed[first], listed[second] = listed[second], listed[first]


def _chain(listed: list[Object], **changes: Any) -> None:
    next(item["chain"] for item in listed if "chain" in item).update(changes)


def _table(listed: list[Object], **changes: Any) -> None:
    next(item["table"] for item in listed if "table" in item).update(changes)


def _expression(listed: list[Object]) -> None:
    next(item["rule"] for item in listed if "rule" in item)["expr"][-1] = {"accept": None}


@pytest.mark.parametrize(
    "change",
    [
        _drop_rule,
        _swap_rules,
        _expression,
        lambda listed: _chain(listed, prio=0),
        lambda listed: _chain(listed, policy="drop"),
        lambda listed: _table(listed, flags=["dormant"]),
        lambda listed: listed.append({"chain": {"family": "inet", "table": "shamon", "name": "more"}}),
        lambda listed: listed.clear(),
    ],
)
def test_every_other_difference_does(change: Callable[[list[Object]], None]) -> None:
    listed = _listed()
    change(listed)
    assert not is_expected(listed)


def test_gates() -> None:
    """One without a timeout never closes, and says so."""
    assert gates_of(_listed()) == {"192.0.2.2": 41.0, "192.0.2.9": math.inf, "2001:db8::2": 0.0}
    assert gates_of(expected_ruleset()) == {}


def test_counters() -> None:
    """Those of the host are in two tables, of which each sees a part."""
    found = counters_of(_listed())
    in_bridge = [item["counter"] for item in _listed() if item.get("counter", {}).get("family") == "bridge"]
    assert [found[name] for name in ("guard_out", "guard_in", "gate_out", "gate_in")] == [1, 2, 3, 4]
    assert found["host_in"] == 5 + in_bridge[0]["packets"]
    assert found["host_out"] == 6 + in_bridge[1]["packets"]
    assert found["host_forward"] == 7
    assert counters_of([]) == dict.fromkeys(found, 0)


_LINK: Object = {"oifname": "wire0", "l4proto": "udp", "sport": 16384, "dport": 20000, "ipsec": True, "daddr": "open"}


@pytest.mark.parametrize(
    ("changes", "counter"),
    [
        ({}, None),
        ({"ipsec": False}, "guard_out"),
        ({"ipsec": False, "sport": 40000}, "guard_out"),
        ({"ipsec": False, "dport": 40000}, "guard_out"),
        ({"daddr": "closed"}, "gate_out"),
        ({"daddr": "closed", "dport": 53}, "gate_out"),
        ({"ipsec": False, "sport": 40000, "dport": 53}, None),
        ({"ipsec": False, "sport": None, "dport": None}, None),
        ({"ipsec": False, "l4proto": "esp", "sport": None, "dport": None, "daddr": "closed"}, None),
        ({"oifname": "shbr7", "l4proto": "tcp"}, "host_out"),
        ({"oifname": "shvm0-0"}, "host_out"),
    ],
    ids=str,
)
def test_who_is_dropped_on_the_way_out(changes: Object, counter: str | None) -> None:
    """None: a packet without ports, such as the second part of one over IPv6, which nft lets no rule match."""
    assert _dropped_by({**_LINK, **changes}, "output") == counter


def _dropped_by(packet: Object, chain: str) -> str | None:
    """The counter of the rule that drops it: what nft would do with the rules of one chain."""
    for item in expected_ruleset():
        rule = item.get("rule", {})
        if (rule.get("family"), rule.get("chain")) != ("inet", chain):
            continue
        *matches, verdict = rule["expr"]
        if not all(_holds(each["match"], packet) for each in matches if "match" in each):
            continue
        if "goto" in verdict:
            return _dropped_by(packet, verdict["goto"]["target"])
        return next(str(each["counter"]) for each in matches if "counter" in each) if "drop" in verdict else None
    return None


def _holds(condition: Object, packet: Object) -> bool:
    left, right = condition["left"], condition["right"]
    wanted = next(iter(left.values()))
    if wanted.get("protocol") == "ip6":
        return False  # this packet is none
    found = packet[wanted.get("key") or wanted["field"]]
    if found is None:
        return False
    if isinstance(right, dict):
        equal = right["range"][0] <= found <= right["range"][1]
    elif right == "@gate4":
        equal = found == "open"
    else:
        equal = found.startswith(right.rstrip("*")) if str(right).endswith("*") else found == right
    return equal is (condition["op"] == "==")


@pytest.mark.parametrize("seconds", [0.0, -1.0, 0.0009, math.inf, math.nan])
def test_no_gate_without_an_end(seconds: float) -> None:
    """nft takes a timeout of 0 for none at all."""
    failures = Gates(nft=Nft(program="/nonexistent")).open({"192.0.2.2": seconds})
    assert "for this long" in str(failures["192.0.2.2"])


def test_missing_program_is_an_error() -> None:
    with pytest.raises(BackendFailed, match="nft cannot be run"):
        Nft(program="/nonexistent").read()
