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


@pytest.mark.parametrize("seconds", [0.0, -1.0, 0.0009, math.inf, math.nan])
def test_no_gate_without_an_end(seconds: float) -> None:
    """nft takes a timeout of 0 for none at all."""
    failures = Gates(nft=Nft(program="/nonexistent")).open({"192.0.2.2": seconds})
    assert "for this long" in str(failures["192.0.2.2"])


def test_missing_program_is_an_error() -> None:
    with pytest.raises(BackendFailed, match="nft cannot be run"):
        Nft(program="/nonexistent").read()
