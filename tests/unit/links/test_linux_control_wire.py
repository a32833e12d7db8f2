"""The control wire's rules as nft lists them: all of them are compared, and each change shows."""

import json
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest

from shamon_host.links.linux_control_wire import expected_rules, wrong_rules
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


def listed() -> list[Any]:
    found: list[Any] = json.loads(json.dumps(LISTED))
    return found


def test_what_was_installed_is_right() -> None:
    assert wrong_rules(PlayedNft(listed()), "shcontrol", 7443) == []


def test_no_table_is_wrong() -> None:
    assert wrong_rules(PlayedNft([]), "shcontrol", 7443) == ["there is no table shamon-control"]


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
    assert wrong_rules(PlayedNft(found), "shcontrol", 7443) == ["the rules of table shamon-control are others"]


def test_the_rules_are_of_one_bridge_and_one_port() -> None:
    assert expected_rules("shcontrol", 7443) != expected_rules("shcontrol", 7444)
    assert wrong_rules(PlayedNft(listed()), "other", 7443)
    assert wrong_rules(PlayedNft(listed()), "shcontrol", 7444)
