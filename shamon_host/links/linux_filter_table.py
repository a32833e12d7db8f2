"""The one nftables table with the filters of all VMs' taps, and how it is changed. Pure.

Two base chains look up, by the name of the device, which tap's chain judges a frame (verdict maps): a frame costs the
same however many taps there are, and so does, but for its size, a reading. Whatever belongs to one tap is named after
it, `shvm0-0.from`. A filter takes another one's place in one transaction, while its chains stay in the maps, so that
no frame is missed. What is not as this program writes it is not repaired piece by piece: the table is made anew, with
every filter in it that is whole.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shamon_host.links.linux_filter_rules import FROM, TO, filter_from, filter_objects
from shamon_host.links.linux_nft import Object, comparable, table_of
from shamon_host.links.linux_station_rules import SPOOFED
from shamon_host.links.model import FILTER_TABLE
from shamon_host.links.tap_filter import TapFilter, checked_device, is_device

_PRIORITY = -300
_PLACE = {"family": "bridge", "table": FILTER_TABLE}
_TABLE: Object = {"table": {"family": "bridge", "name": FILTER_TABLE}}
_WAYS = ((FROM, "prerouting", "iifname"), (TO, "postrouting", "oifname"))
_NAMED = {"chain": "name", "rule": "chain", "set": "name", "counter": "name", "map": "name"}
"""Kind of an object → where it has the name by which it belongs to a tap, or to none."""


def dispatch() -> tuple[Object, ...]:
    """Table, maps and base chains: what is there whatever taps there are."""
    objects = [_TABLE]
    for name, hook, key in _WAYS:
        judged: Object = {"vmap": {"key": {"meta": {"key": key}}, "data": f"@{name}"}}
        hooked = {"type": "filter", "hook": hook, "prio": _PRIORITY, "policy": "accept"}
        objects += [
            {"map": {**_PLACE, "name": name, "type": "ifname", "map": "verdict"}},
            {"chain": {**_PLACE, "name": name, **hooked}},
            {"rule": {**_PLACE, "chain": name, "expr": [judged]}},
        ]
    return tuple(objects)


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterTable:
    """What nft lists of it. `own`: tap → its objects, under the names that `filter_objects` gives them, or None where
    something goes by another name; `whole`: the rest is `dispatch`, with a verdict for each tap and nothing else."""

    present: bool
    whole: bool
    own: Mapping[str, Sequence[Object] | None]

    @classmethod
    def of(cls, listed: Iterable[Object]) -> "FilterTable":
        """From everything that nft lists."""
        shared: list[Object] = []
        own: dict[str, list[Object] | None] = {}
        for item in listed:
            if table_of(item) != FILTER_TABLE or _value(item).get("family") != "bridge":
                continue
            device, named, _ = _name(item).partition(".")
            if not (named and is_device(device)):
                shared.append(item)
            elif (objects := own.setdefault(device, [])) is not None:
                try:
                    objects.append(_renamed(item, _local(device)))
                except ValueError:
                    own[device] = None
        maps = {item["map"].get("name"): item["map"].get("elem", []) for item in shared if "map" in item}
        wanted = {name: [_verdict(device, name) for device in own] for name, _, _ in _WAYS}
        whole = comparable(shared) == comparable(dispatch()) and all(
            _same(maps.get(name), elements) for name, elements in wanted.items()
        )
        return cls(present=bool(shared or own), whole=whole, own=own)

    def recognised(self) -> tuple[dict[str, TapFilter], dict[str, str]]:
        """Tap → filter, with the seconds left of its window, and tap → why what is there is none of ours. By itself:
        see `whole`."""
        filters: dict[str, TapFilter] = {}
        changed: dict[str, str] = {}
        for device, objects in self.own.items():
            try:
                filters[device] = filter_from(device, objects or (), _PLACE)
            except ValueError:
                changed[device] = "its rules are none that this program writes"
        return filters, changed


def filters_of(listed: Iterable[Object]) -> tuple[dict[str, TapFilter], dict[str, str]]:
    """Of what nft lists: tap → filter, with the seconds left of its window, and tap → why it has none of ours."""
    table = FilterTable.of(listed)
    filters, changed = table.recognised()
    if not table.whole:
        # Which of them a frame comes to, nobody knows.
        return {}, {**dict.fromkeys(filters, "the table of taps is none that this program writes"), **changed}
    return filters, changed


def spoofed_of(listed: Iterable[Object]) -> dict[str, int]:
    """Of what nft lists: tap → frames that its filter dropped because they were not its own, since it was set."""
    return {
        device: int(item["counter"]["packets"])
        for device, objects in FilterTable.of(listed).own.items()
        for item in objects or ()
        if item.get("counter", {}).get("name") == SPOOFED
    }


def setting(listed: Iterable[Object], *wanted: TapFilter) -> list[Object]:
    """Commands that put these filters in the place of what is there for their taps."""
    table = FilterTable.of(listed)
    filters, changed = table.recognised()
    if table.present and (not table.whole or any(limits.device in changed for limits in wanted)):
        return _anew({**filters, **{limits.device: limits for limits in wanted}})
    commands: list[Object] = [] if table.present else [{"add": item} for item in dispatch()]
    for limits in {limits.device: limits for limits in wanted}.values():
        new = filter_objects(limits, _PLACE)
        commands += _removing(limits.device, table.own.get(limits.device) or (), new)
        commands += _adding(limits.device, new)
    return commands


def clearing(listed: Iterable[Object], device: str) -> list[Object]:
    """Commands that remove what is there for the tap; none if there is nothing."""
    table = FilterTable.of(listed)
    filters, changed = table.recognised()
    others = {tap: limits for tap, limits in filters.items() if tap != checked_device(device)}
    if table.present and (not table.whole or device in changed or not others):
        return _anew(others)
    if device not in filters:
        return []
    unlisted = [
        {"delete": {"element": {**_PLACE, "name": name, "elem": [_verdict(device, name)]}}} for name, _, _ in _WAYS
    ]
    return [*unlisted, *_removing(device, table.own[device] or (), ())]


def _anew(filters: Mapping[str, TapFilter]) -> list[Object]:
    """The whole table with these filters, or none without any."""
    commands: list[Object] = [{"add": _TABLE}, {"delete": _TABLE}]
    if filters:
        commands += [{"add": item} for item in dispatch()]
    for device, limits in filters.items():
        commands += _adding(device, filter_objects(limits, _PLACE))
    return commands


def _adding(device: str, objects: Iterable[Object]) -> Iterator[Object]:
    for item in objects:
        yield {"add": _renamed(item, lambda name: f"{device}.{name}")}
    for name, _, _ in _WAYS:
        yield {"add": {"element": {**_PLACE, "name": name, "elem": [_verdict(device, name)]}}}


def _removing(device: str, objects: Sequence[Object], new: Sequence[Object]) -> Iterator[Object]:
    """Nothing of the filter is left, but for the two chains in the maps and counters, where the new one has them too:
    a frame that is under way finds a chain, and what was counted stays."""
    kept = {(kind, item[kind]["name"]) for item in new for kind in ("chain", "counter") if kind in item}
    kept &= {("chain", FROM), ("chain", TO), ("counter", SPOOFED)}
    for item in objects:
        if "chain" in item:
            yield {"flush": {"chain": _reference(device, item["chain"])}}
    for kind in ("chain", "set", "counter"):
        for item in objects:
            if kind in item and (kind, item[kind]["name"]) not in kept:
                yield {"delete": {kind: _reference(device, item[kind])}}


def _reference(device: str, value: Mapping[str, Any]) -> Object:
    return {**_PLACE, "name": f"{device}.{value['name']}"}


def _verdict(device: str, name: str) -> list[object]:
    return [device, {"jump": {"target": f"{device}.{name}"}}]


def _same(found: object, wanted: Sequence[object]) -> bool:
    """The same elements in whatever order."""
    return isinstance(found, list) and sorted(map(repr, found)) == sorted(map(repr, wanted))


def _local(device: str) -> Callable[[str], str]:
    """From a name in the table to the one that `filter_objects` gives. Raises ValueError for one of another tap's."""

    def rename(name: str) -> str:
        if not name.startswith(f"{device}."):
            raise ValueError(f"{name} is not of {device}")
        return name[len(device) + 1 :]

    return rename


def _renamed(item: Object, rename: Callable[[str], str]) -> Object:
    """The same object under another name, its references too: to chains, sets and counters."""
    ((kind, value),) = item.items()
    renamed = {**value, _NAMED[kind]: rename(value[_NAMED[kind]])}
    if kind == "rule":
        renamed["expr"] = _references(value.get("expr"), rename)
    return {kind: renamed}


def _references(value: Any, rename: Callable[[str], str]) -> Any:
    match value:
        case str() if value.startswith("@"):
            return "@" + rename(value[1:])
        case {"target": str(target), **rest} if not rest:
            return {"target": rename(target)}
        case {"counter": str(counter), **rest} if not rest:
            return {"counter": rename(counter)}
        case dict():
            return {key: _references(inner, rename) for key, inner in value.items()}
        case list():
            return [_references(inner, rename) for inner in value]
        case _:
            return value


def _value(item: Object) -> Mapping[str, Any]:
    return next((value for value in item.values() if isinstance(value, dict)), {})


def _name(item: Object) -> str:
    """By which an object belongs to a tap; "" for what belongs to none."""
    kind = next(iter(item), "")
    return str(_value(item).get(_NAMED.get(kind, ""), ""))
