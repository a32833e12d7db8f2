"""Filters of taps as nft's objects: what is written is what is read back, and nothing else is taken for a filter."""

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shamon_host.domain.errors import BackendFailed, BadInput
from shamon_host.links.frame_facts import PortProtocol, PortRule
from shamon_host.links.linux_filter_table import clearing, dispatch, filters_of, setting, spoofed_of
from shamon_host.links.linux_filters import TapFilters
from shamon_host.links.linux_nft import DROP, Nft, Object, expected_ruleset, gates_of, is_expected, table_of
from shamon_host.links.station import Station
from shamon_host.links.tap_filter import TapFilter, shut
from tests.unit.links.test_tap_filter import FILTERS

CAPTURED: list[Object] = json.loads((Path(__file__).parent / "data" / "nft-filter.json").read_text())["nftables"]
"""`nft --json list ruleset` of nft 1.0.6 (Debian 12), the filter below having been set."""
OF_STATION: list[Object] = json.loads((Path(__file__).parent / "data" / "nft-station.json").read_text())["nftables"]
"""The same, a filter with this station and nothing else having been set."""
STATION = Station(mac="52:54:00:12:34:56", addresses=frozenset({"10.1.0.5", "10.1.0.6", "fd00::5", "fd00::a:6"}))
LIMITS = TapFilter(
    device="shvm0-0",
    receives=False,
    peers=frozenset({"02:00:00:00:00:01", "02:00:00:00:00:02"}),
    ports=(PortRule(protocol=PortProtocol.TCP, port=443), PortRule(protocol=PortProtocol.UDP, port=53)),
    rate_bytes_s=1_250_000,
    open_s=59.0,
)


def _listed(*filters: TapFilter) -> list[Object]:
    """As nft lists what was set: with handles, in another order, with what is left of windows."""
    nft = TableNft()
    for limits in filters:
        TapFilters(nft=nft).set(limits)
    for handle, item in enumerate(nft.listed):
        for value in item.values():
            value["handle"] = handle
    return sorted(nft.listed, key=lambda item: "rule" in item)


def test_what_nft_lists_is_the_filter_that_was_set() -> None:
    assert filters_of(CAPTURED) == ({"shvm0-0": LIMITS}, {})


def test_what_nft_lists_is_the_station_that_was_set() -> None:
    assert filters_of(OF_STATION) == ({"shvm0-0": TapFilter(device="shvm0-0", own=STATION)}, {})
    assert spoofed_of([*CAPTURED, *OF_STATION]) == {"shvm0-0": 0}


@given(FILTERS)
def test_every_filter_reads_back(limits: TapFilter) -> None:
    found, changed = filters_of(_listed(limits))
    assert changed == {}
    (read,) = found.values()
    assert read.without_window() == limits.without_window()
    assert (read.open_s is None) is (limits.open_s is None)


@pytest.mark.parametrize(
    "rate", [1, 1023, 1024, 1025, 3 << 10, (3 << 10) + 1, 1 << 20, 5 << 20, (5 << 20) + 1024, 1 << 30, 10**10]
)
def test_rates_read_back_in_whatever_unit(rate: int) -> None:
    limits = TapFilter(device="shvm0-0", rate_bytes_s=rate)
    assert filters_of(_listed(limits)) == ({"shvm0-0": limits}, {})


def test_filters_and_guard_do_not_mix() -> None:
    """A set in a filter's table that is named as the gate opens none, and the guard is the guard beside filters."""
    gate = {"set": {"family": "bridge", "table": "shamon-taps", "name": "shvm0-0.gate4", "elem": ["192.0.2.2"]}}
    listed = [*expected_ruleset(), *CAPTURED, gate]
    assert is_expected(listed)
    assert gates_of(listed) == {}
    assert filters_of(listed)[0] == {}
    assert filters_of([*expected_ruleset(), *CAPTURED])[0] == {"shvm0-0": LIMITS}


def test_other_tables_are_no_filters() -> None:
    for name, family in (("shamon-tap", "bridge"), ("shamon-", "bridge"), ("other", "bridge"), ("shamon-taps", "inet")):
        chain = {"chain": {"family": family, "table": name, "name": "shvm0-0.from"}}
        assert filters_of([{"table": {"family": family, "name": name}}, chain]) == ({}, {})


def _rules(listed: list[Object], chain: str) -> list[Any]:
    return [item["rule"] for item in listed if "rule" in item and item["rule"]["chain"] == f"shvm0-0.{chain}"]


def _remove(listed: list[Object], kind: str, **having: str) -> None:
    wanted = {key: f"shvm0-0.{name}" for key, name in having.items()}
    listed.remove(next(item for item in listed if kind in item and wanted.items() <= item[kind].items()))


def _set(listed: list[Object], name: str) -> Any:
    return next(item["set"] for item in listed if item.get("set", {}).get("name") == f"shvm0-0.{name}")


def _map(listed: list[Object], name: str) -> Any:
    return next(item["map"] for item in listed if item.get("map", {}).get("name") == name)


def _chain(listed: list[Object], name: str) -> Any:
    return next(item["chain"] for item in listed if item.get("chain", {}).get("name") == name)


def _swap(rules: list[Any]) -> None:
    rules[0]["expr"], rules[1]["expr"] = rules[1]["expr"], rules[0]["expr"]


CHANGES: dict[str, Callable[[list[Object]], object]] = {
    "a rule less at the hook": lambda listed: _remove(listed, "rule", chain="from"),
    "a rule less in what it jumps to": lambda listed: _remove(listed, "rule", chain="ports"),
    "another order": lambda listed: _swap(_rules(listed, "from")),
    "a rule more": lambda listed: listed.append(
        {"rule": {"family": "bridge", "table": "shamon-taps", "chain": "shvm0-0.from", "expr": [{"accept": None}]}}
    ),
    "a rule more for all": lambda listed: listed.append(
        {"rule": {"family": "bridge", "table": "shamon-taps", "chain": "from", "expr": [{"accept": None}]}}
    ),
    "not looked up": lambda listed: listed.remove(
        next(item for item in listed if item.get("rule", {}).get("chain") == "from")
    ),
    "no verdict": lambda listed: _map(listed, "from").update(elem=[]),
    "another verdict": lambda listed: _map(listed, "to").update(elem=[["shvm0-0", {"accept": None}]]),
    "a verdict about another device": lambda listed: _map(listed, "to")["elem"].append(["eth0", {"drop": None}]),
    "verdicts that are a number": lambda listed: _map(listed, "to").update(elem=7),
    "another kind of map": lambda listed: _map(listed, "from").update(type="ether_addr"),
    "a map less": lambda listed: listed.remove({"map": _map(listed, "from")}),
    "a reference to another tap": lambda listed: _rules(listed, "from")[-2]["expr"].append(
        {"jump": {"target": "shvm0-1.ports"}}
    ),
    "a rule twice": lambda listed: listed.append({"rule": _rules(listed, "ports")[-1]}),
    "dropped otherwise": lambda listed: _rules(listed, "to")[-1].update(expr=[{"accept": None}]),
    "no chain at all": lambda listed: listed.__setitem__(
        slice(None), [item for item in listed if not item.get("chain", {}).get("name", "").startswith("shvm0-0.")]
    ),
    "a chain more": lambda listed: listed.append(
        {"chain": {"family": "bridge", "table": "shamon-taps", "name": "shvm0-0.more"}}
    ),
    "a hook less": lambda listed: _chain(listed, "to").pop("hook"),
    "another hook": lambda listed: _chain(listed, "to").update(hook="input"),
    "another priority": lambda listed: _chain(listed, "from").update(prio=0),
    "another policy": lambda listed: _chain(listed, "from").update(policy="drop"),
    "a dormant table": lambda listed: listed[0]["table"].update(flags=["dormant"]),
    "a set less": lambda listed: _remove(listed, "set", name="peers"),
    "a set more": lambda listed: listed.append(
        {"set": {"family": "bridge", "table": "shamon-taps", "name": "shvm0-0.more", "type": "ifname"}}
    ),
    "another kind of set": lambda listed: _set(listed, "ports").update(type="inet_service"),
    "peers that come and go": lambda listed: _set(listed, "peers").update(flags=["timeout"]),
    "peers of all kinds": lambda listed: _set(listed, "peers").update(elem=[{"range": ["02:", "03:"]}]),
    "peers that are a number": lambda listed: _set(listed, "peers").update(elem=7),
    "a group of peers": lambda listed: _set(listed, "peers").update(elem=["ff:ff:ff:ff:ff:ff"]),
    "a port without protocol": lambda listed: _set(listed, "ports").update(elem=[443]),
    "a port of another protocol": lambda listed: _set(listed, "ports").update(elem=[{"concat": ["sctp", 443]}]),
    "a window that never closes": lambda listed: _set(listed, "open").update(elem=["shvm0-0"]),
    "a window without an end": lambda listed: _set(listed, "open")["elem"][0]["elem"].pop("expires"),
    "a window too long": lambda listed: _set(listed, "open")["elem"][0]["elem"].update(expires=10**9),
    "another tap's window": lambda listed: _set(listed, "open")["elem"][0]["elem"].update(val="shvm0-1"),
    "another rate's unit": lambda listed: _rules(listed, "from")[-1]["expr"][0]["limit"].update(rate_unit="packets"),
    "another burst": lambda listed: _rules(listed, "from")[-1]["expr"][0]["limit"].update(burst=65),
    "a rate that is text": lambda listed: _rules(listed, "from")[-1]["expr"][0]["limit"].update(rate="9"),
    "a rule that is none": lambda listed: _rules(listed, "from")[-1].update(expr=None),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_is_not_exactly_a_filter_is_changed(name: str) -> None:
    listed = copy.deepcopy(CAPTURED)
    CHANGES[name](listed)
    filters, changed = filters_of(listed)
    assert filters == {}
    assert set(changed) == {"shvm0-0"}


@given(st.data(), st.sampled_from([CAPTURED, OF_STATION]))
def test_no_object_can_go_or_come_unseen(data: st.DataObject, captured: list[Object]) -> None:
    """Whatever is left out, or there twice: it is no filter, or another one that is just what is there."""
    listed, known = copy.deepcopy(captured), filters_of(captured)[0]["shvm0-0"]
    item = data.draw(st.sampled_from(listed))
    (listed.remove if data.draw(st.booleans()) else listed.append)(item)
    found = filters_of(listed)[0].get("shvm0-0")
    assert found is None or (found != known and len(_listed(found)) == len(listed))


STATION_CHANGES: dict[str, Callable[[list[Object]], object]] = {
    **{
        f"a rule less in {chain}": partial(_remove, kind="rule", chain=chain)
        for chain in ("from", "own", "sender", "solicits", "advertises", "targets")
    },
    "another MAC address": lambda listed: _rules(listed, "own")[0]["expr"][0]["match"].update(right=OTHER_MAC),
    "another sender of ARP": lambda listed: _rules(listed, "sender")[0]["expr"][4]["match"].update(right=OTHER_MAC),
    "a group as MAC address": lambda listed: _rules(listed, "own")[0]["expr"][0]["match"].update(right=GROUP_MAC),
    "no counter": lambda listed: _remove(listed, "counter", name="spoofed"),
    "a counter more": lambda listed: listed.append(
        {"counter": {"family": "bridge", "table": "shamon-taps", "name": "shvm0-0.more", "packets": 0, "bytes": 0}}
    ),
    "counted and let pass": lambda listed: _rules(listed, "own")[-1].update(expr=[{"counter": "spoofed"}]),
    "a set less": lambda listed: _remove(listed, "set", name="own4"),
    "no sets": lambda listed: listed.__setitem__(slice(None), [item for item in listed if "set" not in item]),
    "one address more over IPv6": lambda listed: _set(listed, "own6")["elem"].append("fd00::7"),
    "its link-local address less": lambda listed: _set(listed, "own6")["elem"].remove("fe80::5054:ff:fe12:3456"),
    "all addresses": lambda listed: _set(listed, "own4").update(elem=[{"prefix": {"addr": "0.0.0.0", "len": 0}}]),
    "no MAC address": lambda listed: _rules(listed, "own")[0].update(expr=[]),
}  # fmt: skip
GROUP_MAC = "ff:ff:ff:ff:ff:ff"
OTHER_MAC = "52:54:00:12:34:57"


@pytest.mark.parametrize("name", STATION_CHANGES)
def test_what_is_not_exactly_a_station_s_filter_is_changed(name: str) -> None:
    listed = copy.deepcopy(OF_STATION)
    STATION_CHANGES[name](listed)
    filters, changed = filters_of(listed)
    assert (filters, set(changed)) == ({}, {"shvm0-0"})


def test_an_address_more_over_ipv4_is_another_station() -> None:
    """There the set is all that knows."""
    listed = copy.deepcopy(OF_STATION)
    _set(listed, "own4")["elem"].append("10.1.0.7")
    own = replace(STATION, addresses=(STATION.addresses or frozenset()) | {"10.1.0.7"})
    assert filters_of(listed) == ({"shvm0-0": TapFilter(device="shvm0-0", own=own)}, {})


@dataclass(kw_only=True)
class TableNft(Nft):
    """nft in memory, as far as filters use it."""

    listed: list[Object] = field(default_factory=list)
    deaf: bool = False

    def read(self) -> tuple[Object, ...]:
        return tuple(copy.deepcopy(self.listed))

    def transact(self, commands: Sequence[Object], operation: str) -> None:
        for command in [] if self.deaf else commands:
            ((verb, item),) = command.items()
            ((kind, value),) = item.items()
            if verb == "add":
                self._add(kind, copy.deepcopy(value))
            elif verb == "flush":
                assert kind == "chain"
                self.listed = [item for item in self.listed if item.get("rule", {}).get("chain") != value["name"]]
            elif kind == "table":
                self.listed = [item for item in self.listed if table_of(item) != value["name"]]
            elif kind == "element":
                self._of("map", value["name"])["elem"].remove(value["elem"][0])
            else:
                assert kind in ("chain", "set", "counter")
                assert not [item for item in self.listed if item.get("rule", {}).get("chain") == value["name"]]
                assert f'"{value["name"]}"' not in json.dumps(
                    [i for i in self.listed if not {"rule", "map"}.isdisjoint(i)]
                )
                self.listed.remove({kind: self._of(kind, value["name"])})

    def _of(self, kind: str, name: str) -> Any:
        (found,) = [item[kind] for item in self.listed if kind in item and item[kind]["name"] == name]
        return found

    def _add(self, kind: str, value: Any) -> None:
        """A rule is added each time; of anything else there is one, which has to be as it is asked for."""
        if kind == "element":
            elements = self._of("map", value["name"]).setdefault("elem", [])
            assert value["elem"][0] in elements or value["elem"][0][0] not in [key for key, _ in elements]
            elements += [element for element in value["elem"] if element not in elements]
            return
        for element in value.get("elem", []):
            if isinstance(element, dict) and "elem" in element:
                element["elem"]["expires"] = element["elem"]["timeout"] - 1
        there = [
            {key: inner for key, inner in item[kind].items() if key not in ("handle", "packets", "bytes")}
            for item in self.listed
            if kind in item and item[kind]["name"] == value.get("name")
        ] if kind != "rule" else []  # fmt: skip
        assert kind == "table" or there in ([], [value])
        if not there:
            self.listed.append({kind: value})


OTHERS = FILTERS.map(lambda limits: replace(limits, device="shvm0-1"))


@given(FILTERS, FILTERS, OTHERS)
def test_a_filter_takes_the_place_of_another(first: TapFilter, second: TapFilter, other: TapFilter) -> None:
    nft = TableNft()
    taps = TapFilters(nft=nft)
    for limits in (first, other, second):
        taps.set(limits)
        found = filters_of(nft.read())[0][limits.device]
        assert found.without_window() == limits.without_window()
        assert (found.open_s is None) is (limits.open_s is None)
    for _ in range(2):
        taps.clear(second.device)
        assert set(filters_of(nft.read())[0]) == {other.device}
    taps.clear(other.device)
    assert nft.read() == ()


@given(FILTERS, FILTERS)
def test_its_chains_stay_in_the_maps(first: TapFilter, second: TapFilter) -> None:
    """A frame that is under way while a filter takes another's place comes to one of the two."""
    commands = setting(_listed(first), second)
    gone = [item for command in commands if (item := command.get("delete")) is not None]
    assert not [item for item in gone if "table" in item or "element" in item]
    assert not [item for item in gone if item.get("chain", {}).get("name") in ("shvm0-0.from", "shvm0-0.to")]


@pytest.mark.parametrize("name", CHANGES)
def test_other_taps_keep_their_filters_when_the_table_is_made_anew(name: str) -> None:
    other = TapFilter(device="shvm0-1", sends=False)
    nft = TableNft(listed=_listed(LIMITS, other))
    CHANGES[name](nft.listed)
    TapFilters(nft=nft).set(LIMITS)
    assert filters_of(nft.read())[0] == {"shvm0-0": replace(LIMITS, open_s=58.0), "shvm0-1": other}
    CHANGES[name](nft.listed)
    TapFilters(nft=nft).clear("shvm0-0")
    assert filters_of(nft.read()) == ({"shvm0-1": other}, {})


def test_a_table_without_taps_goes() -> None:
    assert clearing(dispatch(), "shvm0-0") != []
    assert clearing((), "shvm0-0") == []


@pytest.mark.parametrize("name", CHANGES)
def test_what_was_changed_is_set_right_and_cleared(name: str) -> None:
    nft = TableNft(listed=copy.deepcopy(CAPTURED))
    CHANGES[name](nft.listed)
    TapFilters(nft=nft).set(LIMITS)
    assert set(filters_of(nft.read())[0]) == {"shvm0-0"}
    CHANGES[name](nft.listed)
    TapFilters(nft=nft).clear("shvm0-0")
    assert nft.read() == ()


def test_what_does_not_read_back_is_an_error() -> None:
    nft = TableNft(deaf=True)
    with pytest.raises(BackendFailed, match="reads back otherwise"):
        TapFilters(nft=nft).set(LIMITS)
    nft.listed = copy.deepcopy(CAPTURED)
    with pytest.raises(BackendFailed, match="reads back otherwise"):
        TapFilters(nft=nft).set(shut("shvm0-0"))
    with pytest.raises(BackendFailed, match="reads back otherwise"):
        TapFilters(nft=nft).set(replace(LIMITS, open_s=30.0))
    with pytest.raises(BackendFailed, match="still there"):
        TapFilters(nft=nft).clear("shvm0-0")


def test_no_name_but_a_taps_comes_to_nft() -> None:
    for name in ("eth0", "shvm0 }", "shvm0-0\nflush ruleset", ""):
        with pytest.raises(BadInput):
            TapFilters(nft=TableNft()).clear(name)


def test_a_tap_that_exchanges_nothing_drops_first() -> None:
    """Whatever else is limited."""
    for chain in ("from", "to"):
        rules = _rules(_listed(replace(LIMITS, sends=False, receives=False)), chain)
        assert rules[0]["expr"] == [DROP]
