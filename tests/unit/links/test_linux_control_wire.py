"""The control wire's rules as nft lists them: all of them are compared, and each change shows."""

import json
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest

from shamon_host.domain.errors import BackendFailed
from shamon_host.links import linux_control_wire
from shamon_host.links.linux_control_wire import ControlWire, require_no_address
from shamon_host.links.linux_nft import Nft, Object, table_of

LISTED = json.loads(Path(__file__).with_name("data").joinpath("nft-control.json").read_text())["nftables"]
"""By nft 1.0.6, of the table as `make_control_wire` installed it."""


class PlayedNft(Nft):
    """Lists what it was given."""

    def __init__(self, listed: list[Object]) -> None:
        super().__init__()
        self.listed = listed

    def list_tables(self, names: Collection[str]) -> tuple[Object, ...]:
        return tuple(item for item in self.listed if table_of(item) in names)


def wire(nft: Nft, *, bridge: str = "shcontrol", network: str = "wirebr") -> ControlWire:
    return ControlWire(bridge=bridge, address="169.254.77.1/30", port="shmc-control", network=network, nft=nft)


def listed() -> list[Any]:
    found: list[Any] = json.loads(json.dumps(LISTED))
    return found


def test_what_was_installed_is_right() -> None:
    assert wire(PlayedNft(listed())).wrong_rules(7443) == []


def test_no_table_is_wrong() -> None:
    assert wire(PlayedNft([])).wrong_rules(7443) == ["there is no table shamon-control"]


def _accept_first(found: list[Any]) -> None:
    first = next(index for index, item in enumerate(found) if "rule" in item)
    found.insert(first, {"rule": {**found[first]["rule"], "expr": [{"accept": None}]}})


def _drop_twice(found: list[Any]) -> None:
    """As many drops as there were."""
    rules = [item["rule"] for item in found if "rule" in item]
    rules[0]["expr"] = rules[-1]["expr"]


def _other_hook(found: list[Any]) -> None:
    next(item["chain"] for item in found if "chain" in item)["prio"] = 300


def _without_a_rule(found: list[Any]) -> None:
    del found[next(index for index, item in enumerate(found) if "rule" in item)]


@pytest.mark.parametrize("change", [_accept_first, _drop_twice, _other_hook, _without_a_rule])
def test_any_other_rule_is_wrong(change: Callable[[list[Any]], None]) -> None:
    found = listed()
    change(found)
    assert wire(PlayedNft(found)).wrong_rules(7443) == ["the rules of table shamon-control are others"]


def test_the_rules_are_of_two_bridges_and_one_port() -> None:
    assert wire(PlayedNft(listed()), bridge="shcontrol", network="other").wrong_rules(7443)
    assert wire(PlayedNft(listed()), bridge="other", network="wirebr").wrong_rules(7443)
    assert wire(PlayedNft(listed())).wrong_rules(7444)


class PlayedRoute:
    """rtnetlink of a host with one bridge, `wirebr`, that has these addresses."""

    def __init__(self, addresses: list[tuple[str, int]]) -> None:
        self.addresses = addresses

    def link_lookup(self, *, ifname: str) -> list[int]:
        return [7] if ifname == "wirebr" else []

    def get_addr(self, *, index: int) -> list[Any]:
        assert index == 7
        return [PlayedAddress(address, length) for address, length in self.addresses]


class PlayedAddress(dict[str, int]):
    def __init__(self, address: str, length: int) -> None:
        super().__init__(prefixlen=length)
        self.address = address

    def get_attr(self, name: str) -> str | None:
        return self.address if name == "IFA_ADDRESS" else None


@pytest.mark.parametrize(
    ("bridge", "addresses", "ipv6_off", "wrong"),
    [
        ("wirebr", [], "1", None),
        ("wirebr", [], None, None),
        ("wirebr", [], "0", "IPv6 on"),
        ("wirebr", [("192.0.2.9", 24)], "1", "192.0.2.9/24"),
        ("wirebr", [("fe80::1", 64)], "0", "fe80::1/64, IPv6 on"),
        ("other", [], "1", "no bridge"),
    ],
)
def test_the_host_is_not_on_the_mac_vms_network(
    monkeypatch: pytest.MonkeyPatch,
    bridge: str,
    addresses: list[tuple[str, int]],
    ipv6_off: str | None,
    wrong: str | None,
) -> None:
    monkeypatch.setattr(linux_control_wire, "read_sysctl", lambda _: ipv6_off)
    if wrong is None:
        require_no_address(PlayedRoute(addresses), bridge)
    else:
        with pytest.raises(BackendFailed) as raised:
            require_no_address(PlayedRoute(addresses), bridge)
        assert wrong in str(raised.value)
