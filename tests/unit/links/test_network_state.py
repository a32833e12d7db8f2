"""The network security state: what passes, what each thing that is wrong is called, and any bytes at all."""

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shamon_host.domain.canonical import canonical_json
from shamon_host.domain.label_map import EMPTY, allocate
from shamon_host.domain.labels import TypeName
from shamon_host.domain.results import ClaimName, ClaimStatus
from shamon_host.links.filter_report import ATTESTED_WINDOW_S, filters_from_document
from shamon_host.links.frame_facts import PortProtocol, PortRule
from shamon_host.links.model import PORT_BLOCK, KernelState
from shamon_host.links.network_state import MAX_STATE_BYTES, check_network_state, encode_network_state
from shamon_host.links.station import Station
from shamon_host.links.tap_filter import TapFilter
from shamon_host.testing.wire import MemoryWire
from tests.examples import examples
from tests.unit.links.conftest import BLUE, RED, Host, join
from tests.unit.links.test_planner import a_link

Change = Callable[[Any], object]


FILTERS = {
    "shvm0-0": TapFilter(
        device="shvm0-0",
        own=Station(mac="52:54:00:00:00:01", addresses=frozenset({"fd00::5", "10.1.0.5"})),
        receives=False,
        peers=frozenset({"02:00:00:00:00:02", "02:00:00:00:00:01"}),
        ports=(PortRule(protocol=PortProtocol.UDP, port=53), PortRule(protocol=PortProtocol.TCP, port=443)),
        rate_bytes_s=1000,
        open_s=600.0,
    ),
    "shvm9-0": TapFilter(device="shvm9-0", own=Station(mac="52:54:00:00:00:02")),
}


def a_state() -> dict[str, Any]:
    wire = MemoryWire()
    alpha, beta = Host("alpha", "192.0.2.1", wire), Host("beta", "192.0.2.2", wire)
    for host in (alpha, beta):
        host.links.reconcile({})
        host.start_vm("shvm0-0", RED)
    alpha.links.reconcile(alpha.taps, FILTERS)
    join(alpha, beta, (RED, BLUE))
    data = alpha.links.network_state()
    assert check_network_state(data).status is ClaimStatus.PASS
    state: dict[str, Any] = json.loads(data)
    return state


STATE = a_state()


def test_types_are_named_and_spis_and_gates_are_not_in_it() -> None:
    ends = {name: [entry[0] for entry in item["entries"]] for name, item in STATE["links"].items()}
    assert ends == {RED: ["in", "out"], BLUE: ["in", "out"]}
    assert STATE["labelled"] == []
    assert "spi" not in json.dumps(STATE)
    assert set(STATE) == {
        "version", "guard", "selinux_enforcing", "block", "links", "labelled", "bridges", "filters", "sysctls",
        "foreign",
    }  # fmt: skip


def test_filters_are_told_without_what_is_left_of_windows() -> None:
    assert STATE["filters"] == {
        "shvm0-0": {
            "own": {"mac": "52:54:00:00:00:01", "addresses": ["10.1.0.5", "fd00::5"]},
            "sends": True,
            "receives": False,
            "peers": ["02:00:00:00:00:01", "02:00:00:00:00:02"],
            "ports": [["tcp", 443], ["udp", 53]],
            "rate_bytes_s": 1000,
            "windowed": True,
        },
        "shvm9-0": {
            "own": {"mac": "52:54:00:00:00:02", "addresses": None},
            "sends": True, "receives": True, "peers": None, "ports": None, "rate_bytes_s": None, "windowed": False,
        },
    }  # fmt: skip
    read = filters_from_document(STATE["filters"])
    assert read == {tap: replace(item, open_s=item.open_s and ATTESTED_WINDOW_S) for tap, item in FILTERS.items()}


def test_a_changed_filter_is_foreign() -> None:
    state = KernelState(changed_filters={"shvm0-0": "a rule is missing"})
    told = json.loads(encode_network_state(state, EMPTY))
    assert told["foreign"] == ["filter of tap shvm0-0: a rule is missing"]
    claim = check_network_state(canonical_json({**STATE, "foreign": told["foreign"]}))
    assert claim.status is ClaimStatus.FAIL
    assert "shvm0-0" in claim.found


def _limit(state: Any, **changes: object) -> None:
    state["filters"]["shvm0-0"].update(changes)


def _odd(state: Any, **changes: object) -> None:
    """An entry that is told whole, for it is not plainly of a link; without changes it would pass."""
    direction, source, port, destination, peer_port = state["links"][RED]["entries"][0]
    entry = {
        "direction": direction, "family": 4, "source": source, "destination": destination,
        "source_port": [port, 65535], "destination_port": [peer_port, 65535], "priority": 100, "block": False,
        "context": state["links"][RED]["context"], "type": RED, "foreign": "",
    }  # fmt: skip
    state["labelled"].append({**entry, **changes})


def _link(state: Any, key: str, value: object) -> None:
    state["links"][RED][key] = value


def _ends(state: Any, place: int, value: object) -> None:
    state["links"][RED]["entries"][0][place] = value


WRONG: dict[str, tuple[Change, str]] = {
    "no guard": (lambda s: s.update(guard=False), "guard"),
    "truth that is not true": (lambda s: s.update(guard=1), "guard"),
    "permissive": (lambda s: s.update(selinux_enforcing=False), "SELinux"),
    "no block entries": (lambda s: s.update(block=[]), "block entry"),
    "a block entry less": (lambda s: s["block"].pop(), "block entry"),
    "a weaker mask": (lambda s: s["block"][0].update(destination_port=[24576, 65535]), "block entry"),
    "an entry without label": (lambda s: _odd(s, context=None), "label"),
    "two categories": (lambda s: _odd(s, context="u:r:shamon_spd_t:s0:c1,c2"), "no type"),
    "another type of label": (lambda s: _odd(s, context="u:r:unlabeled_t:s0:c1"), "no type"),
    "a label of no type": (lambda s: _odd(s, type=None), "no type"),
    "any address": (lambda s: _odd(s, source=""), "one link"),
    "any port": (lambda s: _odd(s, source_port=[0, 0]), "one link"),
    "a port outside": (lambda s: _odd(s, source_port=[22, 65535]), "one link"),
    "a priority": (lambda s: _odd(s, priority=7), "priority"),
    "a foreign entry": (lambda s: _odd(s, foreign="allow all"), "foreign"),
    "a type's label that is another's": (lambda s: s["links"].update(other=s["links"][RED]), "one label"),
    "a type's label of two categories": (lambda s: _link(s, "context", "u:r:shamon_spd_t:s0:c1,c2"), "no type"),
    "a type's label of another type": (lambda s: _link(s, "context", "u:r:unlabeled_t:s0:c1"), "no type"),
    "a type's label that is none": (lambda s: _link(s, "context", "x"), "bad SELinux context"),
    "a type's links with more": (lambda s: _link(s, "more", 1), "malformed"),
    "a type's links in a list": (lambda s: s["links"].update({RED: []}), "malformed"),
    "no links": (lambda s: s.pop("links"), "malformed"),
    "a link without an address": (lambda s: _ends(s, 1, ""), "one link"),
    "a link with a number for an address": (lambda s: _ends(s, 3, 7), "one link"),
    "a link's port outside": (lambda s: _ends(s, 2, 22), "one link"),
    "a link's port that is true": (lambda s: _ends(s, 4, True), "one link"),
    "a link in no direction": (lambda s: _ends(s, 0, "fwd"), "one link"),
    "a link's direction in a list": (lambda s: _ends(s, 0, ["in"]), "one link"),
    "a link with less": (lambda s: s["links"][RED]["entries"][0].pop(), "malformed"),
    "an open bridge": (lambda s: s["bridges"]["shbr1"].update(sealed=False), "open"),
    "a bridge of another": (lambda s: s["bridges"].update(br0=s["bridges"]["shbr1"]), "bridge"),
    "a port of another": (lambda s: s["bridges"]["shbr1"]["ports"].update(eth0=False), "port"),
    "an isolated tap": (lambda s: s["bridges"]["shbr1"]["ports"].update({"shvm0-0": True}), "port"),
    "a link that is not isolated": (lambda s: s["bridges"]["shbr1"]["ports"].update(shl20=False), "isolated"),
    "forwarding": (lambda s: s["sysctls"].update({"net.ipv4.ip_forward": "1"}), "sysctl"),
    "a sysctl less": (lambda s: s["sysctls"].pop("net.ipv4.conf.*.disable_policy"), "sysctl"),
    "a filter of no tap": (lambda s: s["filters"].update(eth0=s["filters"]["shvm0-0"]), "filter"),
    "a filter that is a list": (lambda s: s["filters"].update({"shvm0-0": []}), "filter"),
    "a filter with less": (lambda s: s["filters"]["shvm0-0"].pop("windowed"), "filter"),
    "a filter with more": (lambda s: _limit(s, open_s=5), "filter"),
    "a direction that is a number": (lambda s: _limit(s, sends=1), "filter"),
    "peers in another order": (lambda s: s["filters"]["shvm0-0"]["peers"].reverse(), "filter"),
    "a peer twice": (lambda s: _limit(s, peers=["02:00:00:00:00:01"] * 2), "filter"),
    "a group as a peer": (lambda s: _limit(s, peers=["ff:ff:ff:ff:ff:ff"]), "filter"),
    "a peer that is a list": (lambda s: _limit(s, peers=[[]]), "filter"),
    "a port of no protocol": (lambda s: _limit(s, ports=[["sctp", 5]]), "filter"),
    "a port that is text": (lambda s: _limit(s, ports=["tcp/443"]), "filter"),
    "a port that is true": (lambda s: _limit(s, ports=[["tcp", True]]), "filter"),
    "port 0": (lambda s: _limit(s, ports=[["tcp", 0]]), "filter"),
    "ports in another order": (lambda s: s["filters"]["shvm0-0"]["ports"].reverse(), "filter"),
    "a rate that is true": (lambda s: _limit(s, rate_bytes_s=True), "filter"),
    "no rate at all": (lambda s: _limit(s, rate_bytes_s=0), "filter"),
    "a station that is text": (lambda s: _limit(s, own="52:54:00:00:00:01"), "filter"),
    "a station with more": (lambda s: s["filters"]["shvm0-0"]["own"].update(more=1), "filter"),
    "a station without addresses": (lambda s: s["filters"]["shvm0-0"]["own"].pop("addresses"), "filter"),
    "a station's group": (lambda s: s["filters"]["shvm0-0"]["own"].update(mac="ff:ff:ff:ff:ff:ff"), "filter"),
    "an address that is a number": (lambda s: s["filters"]["shvm0-0"]["own"].update(addresses=[7]), "filter"),
    "an address in another form": (lambda s: s["filters"]["shvm0-0"]["own"].update(addresses=["FD00::5"]), "filter"),
    "addresses in another order": (lambda s: s["filters"]["shvm0-0"]["own"]["addresses"].reverse(), "filter"),
    "a tap that may be anybody": (lambda s: _limit(s, own=None), "anybody"),
    "a tap without a filter": (lambda s: s["filters"].pop("shvm0-0"), "anybody"),
    "filters in a list": (lambda s: s.update(filters=[]), "malformed"),
    "no filters": (lambda s: s.pop("filters"), "malformed"),
    "something foreign": (lambda s: s.update(foreign=["a device"]), "foreign"),
    "another version": (lambda s: s.update(version=1), "version"),
    "no bridges": (lambda s: s.pop("bridges"), "malformed"),
    "bridges in a list": (lambda s: s.update(bridges=[1]), "malformed"),
    "a bad context": (lambda s: _odd(s, context="x"), "malformed"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_fails_and_is_named(name: str) -> None:
    change, word = WRONG[name]
    state = copy.deepcopy(STATE)
    change(state)
    claim = check_network_state(canonical_json(state))
    assert claim.name is ClaimName.NETWORK_STATE
    assert claim.status is ClaimStatus.FAIL
    assert word in claim.reason


def test_an_entry_told_whole_passes_if_nothing_is_wrong_with_it() -> None:
    state = copy.deepcopy(STATE)
    _odd(state)
    assert check_network_state(canonical_json(state)).status is ClaimStatus.PASS


def test_entries_that_are_not_plainly_of_a_link_are_told_whole() -> None:
    label_map = allocate(EMPTY, [RED], [])
    entry = replace(a_link(0, 1).spd_entries[0], context=label_map.spd_context(RED))
    odd = (
        replace(entry, priority=7),
        replace(entry, source_port_mask=0xFF00),
        replace(entry, context=label_map.link_context(RED)),
        replace(entry, context=None),
        replace(entry, foreign="allow all"),
        replace(entry, destination=""),
        replace(entry, source_port=22),
    )
    told = json.loads(encode_network_state(KernelState(spd=frozenset({entry, *odd})), label_map))
    assert told["links"] == {
        RED: {
            "context": str(entry.context),
            "entries": [["in", entry.source, entry.source_port, entry.destination, entry.destination_port]],
        }
    }
    assert len(told["labelled"]) == len(odd)


def test_a_host_with_as_many_links_as_there_are_ports_is_within_bounds() -> None:
    """With the longest addresses there are."""
    label_map = allocate(EMPTY, [TypeName(f"{'organisation' * 3}/{'type' * 8}{number}") for number in range(500)], [])
    contexts = [label_map.spd_context(name) for name in label_map.types]
    own, peer = (f"2001:db8:{'ffff:' * 5}{end}" for end in ("fff1", "fff2"))
    link = replace(a_link(2, 1), local=own, remote=peer)
    entries = [
        replace(entry, context=contexts[place % len(contexts)])
        for place, port in enumerate(PORT_BLOCK)
        for entry in replace(link, local_port=port, peer_port=port).spd_entries
    ]
    state = KernelState(spd=frozenset(entries))
    assert len(state.spd) == 2 * len(PORT_BLOCK)
    assert 3 << 20 < len(encode_network_state(state, label_map)) < MAX_STATE_BYTES * 9 // 10


def test_nothing_is_absent_and_too_much_fails() -> None:
    assert check_network_state(b"").status is ClaimStatus.ABSENT
    assert check_network_state(b"1" * (MAX_STATE_BYTES + 1)).status is ClaimStatus.FAIL
    assert check_network_state(json.dumps(STATE, indent=1).encode()).status is ClaimStatus.FAIL
    assert check_network_state(b"[" * 100_000).status is ClaimStatus.FAIL


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)


@settings(max_examples=examples(150), deadline=None)
@given(st.binary(max_size=200) | JSON_VALUES.map(canonical_json))
def test_bytes_of_a_stranger_never_pass_and_never_raise(data: bytes) -> None:
    assert check_network_state(data).status is not ClaimStatus.PASS


@settings(max_examples=examples(150), deadline=None)
@given(st.sampled_from(sorted(STATE)), JSON_VALUES)
def test_any_value_in_any_place_is_judged(key: str, value: object) -> None:
    claim = check_network_state(canonical_json({**STATE, key: value}))
    # no link and no bridge is as good as some
    assert (
        claim.status is not ClaimStatus.PASS or STATE[key] == value or (key, value) in (("links", {}), ("bridges", {}))
    )
    assert len(claim.found) < 1000
