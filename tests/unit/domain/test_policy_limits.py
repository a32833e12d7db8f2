"""Limits: what a host has SELinux categories for, and that no policy of any size or shape takes long to refuse or take.

A policy comes from peers too, before anybody could check a signature.
"""

import json
import time
import tracemalloc
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from shamon_host.daemon.files import read_limited
from shamon_host.domain.contexts import allocate_for
from shamon_host.domain.errors import BadInput
from shamon_host.domain.policy_file import MAX_POLICY_BYTES, PolicyErrors, parse_canonical
from shamon_host.domain.policy_form import policy_document
from tests.unit.domain.policy_text import assert_one_mistake, changed_finance, errors, parse
from tests.unit.domain.values import ALPHA, POLICY

MANY = 4000
"""Large enough that whatever grows with the square takes minutes."""


@contextmanager
def quickly() -> Iterator[None]:
    """Seconds, also on a busy machine."""
    started = time.perf_counter()
    yield
    assert time.perf_counter() - started < 10


# What one host has categories for


def crowded(*, types: int = 1, vms: int = 0) -> str:
    """Two hosts; alpha has so many types and VMs, beta a few more VMs of its own."""
    names = ", ".join(f'"org/t{number}"' for number in range(types))
    text = f"""
        types = [{names}]
        coalition = {{name = "crowd", version = 1}}
        labels.first = {{types = ["org/t0"]}}
        images.app.sha256 = "{"0" * 64}"
        hosts.alpha = {{address = "192.0.2.1", types = [{names}]}}
        hosts.beta = {{address = "192.0.2.2", types = ["org/t0"]}}
    """
    for number in range(vms):
        text += f'vms.v{number} = {{label = "first", image = "app", host = "alpha"}}\n'
    for number in range(3):
        text += f'vms.w{number} = {{label = "unlabelled", image = "app", host = "beta"}}\n'
    return text


def test_as_many_as_there_are_categories_for_and_all_get_some() -> None:
    policy = parse(crowded(types=511, vms=256))
    label_map = allocate_for(policy, ALPHA)
    assert (len(label_map.types), len(label_map.vms)) == (511, 256)


@pytest.mark.parametrize(
    ("text", "key", "words"),
    [
        (crowded(types=512), "hosts.alpha.types", "too many types for one host; expected at most 511; found 512"),
        (crowded(vms=257), "hosts.alpha", "too many VMs and disks for one host; expected at most 256; found 257"),
    ],
)
def test_more_for_one_host_are_refused(text: str, key: str, words: str) -> None:
    error = errors(text)
    assert [finding.key for finding in error.findings] == [key]
    assert words in str(error)


def test_the_coalition_may_have_more_than_one_host() -> None:
    text = crowded(types=511, vms=256)
    more = ", ".join(f'"other/t{number}"' for number in range(511))
    text = text.replace("types = [", f"types = [{more}, ", 1)
    text += f'hosts.gamma = {{address = "192.0.2.3", types = [{more}]}}\n'
    assert len(parse(text).types) == 1022


# What is too large


def test_a_huge_file_is_refused_without_reading_it(tmp_path: Path) -> None:
    huge = tmp_path / "policy.toml"
    with huge.open("wb") as file:
        file.truncate(100 << 20)
    tracemalloc.start()
    try:
        with quickly(), pytest.raises(BadInput, match=r"policy\.toml: the policy is too large; expected at most"):
            read_limited(huge, MAX_POLICY_BYTES, "policy")
        assert tracemalloc.get_traced_memory()[1] < 2 * MAX_POLICY_BYTES
    finally:
        tracemalloc.stop()


def test_the_limit_is_the_last_that_is_read(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(100))
    assert read_limited(file, 100, "file") == bytes(100)
    with pytest.raises(BadInput, match="the file is too large"):
        read_limited(file, 99, "file")
    with pytest.raises(BadInput, match="cannot read the file"):
        read_limited(tmp_path / "none", 99, "file")
    with pytest.raises(BadInput, match="cannot read the file"):
        read_limited(tmp_path, 99, "file")


def test_a_canonical_form_that_is_too_large_is_refused_unread() -> None:
    with quickly(), pytest.raises(BadInput, match="too large"):
        parse_canonical(b"[" * (MAX_POLICY_BYTES + 1), source="peer")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "[" * (MAX_POLICY_BYTES // 2)])
def test_a_deeply_nested_canonical_form_is_refused(text: str) -> None:
    with quickly(), pytest.raises(BadInput, match="not JSON"):
        parse_canonical(text.encode(), source="peer")


def test_a_document_that_is_nested_just_less_deeply_is_refused_too() -> None:
    document = policy_document(POLICY)
    inner: object = []
    for _ in range(400):
        inner = [inner]
    for key in ("walls", "types", "labels", "hosts", "intervals", "format"):
        with quickly(), pytest.raises(BadInput):
            parse_canonical(json.dumps({**document, key: inner}).encode(), source="peer")


# What is large in one way


TYPE = policy_document(POLICY)["types"]["supplier/orders"]
NAMES = [f"org/t{number:05}" for number in range(MANY)]
LONG = ["org/" + ("ab" * 31 + "/") * 2 + "ab" * 20 + f"{number:05}" for number in range(1000)]


def label(*types: str, walls: tuple[str, ...] = ()) -> dict[str, Any]:
    return {"types": list(types), "reads": [], "writes": [], "walls": list(walls)}


def departments(of_last: str) -> dict[str, Any]:
    return {f"org/d{number}": {"of": f"org/d{number + 1}"} for number in range(MANY)} | {
        f"org/d{MANY}": {"of": of_last}
    }


def hosts() -> dict[str, Any]:
    return {
        f"h{number}": {"address": f"10.0.{number // 250}.{number % 250 + 1}", "port": 1, "types": ["org/t0"]}
        for number in range(MANY)
    }


SHAPES: dict[str, Callable[[], Mapping[str, Any]]] = {
    "one label with every type": lambda: {
        "types": dict.fromkeys(NAMES, TYPE),
        "labels": {"wide": label(*NAMES)},
    },
    "one label with every type, and most flows against their levels": lambda: {
        "types": {name: {**TYPE, "confidentiality": number % 16} for number, name in enumerate(NAMES)},
        "labels": {"wide": label(*NAMES)},
    },
    "labels, each in all conflict sets": lambda: {
        "types": {"org/t0": TYPE, "org/t1": TYPE},
        "conflicts": {f"c{number}": {"types": ["org/t0", "org/t1"]} for number in range(MANY)},
        "labels": {f"l{number}": label("org/t0") for number in range(MANY)},
    },
    "one conflict set with everything": lambda: {
        "types": dict.fromkeys(NAMES, TYPE),
        "conflicts": {"all": {"types": NAMES}},
        "labels": {f"l{number}": label(name) for number, name in enumerate(NAMES)},
    },
    "a type apart from all walls": lambda: {
        "walls": [f"w{number:04}" for number in range(MANY)],
        "types": {"org/t0": {**TYPE, "apart": [f"w{number:04}" for number in range(MANY)]}},
        "labels": {f"l{number}": label("org/t0") for number in range(MANY)},
    },
    "labels of unknown types": lambda: {
        "types": dict.fromkeys(NAMES, TYPE),
        "labels": {f"l{number}": label("org/no") for number in range(MANY)},
    },
    "long names, nearly those that are there": lambda: {
        "types": dict.fromkeys(LONG, TYPE),
        "labels": {f"l{number}": label(name.replace("ab", "ba")) for number, name in enumerate(LONG)},
    },
    "departments above one another": lambda: {
        "organisations": {"org": {}},
        "departments": departments("org"),
        "types": {"org/t0": {**TYPE, "owner": "org/d0"}},
    },
    "departments in a circle": lambda: {
        "organisations": {"org": {}},
        "departments": departments("org/d0"),
        "types": {"org/t0": {**TYPE, "owner": "org/d0"}},
    },
    "owners of types": lambda: {
        "organisations": {"org": {}},
        "departments": {f"org/d{number}": {"of": "org"} for number in range(MANY)},
        "types": {name: {**TYPE, "owner": f"org/d{number}"} for number, name in enumerate(NAMES)},
    },
    "hosts, each with a VM": lambda: {
        "types": {"org/t0": TYPE},
        "labels": {f"l{number}": label("org/t0") for number in range(MANY)},
        "images": {"app": {"sha256": "0" * 64}},
        "hosts": hosts(),
        "vms": {
            f"v{number}": {"label": f"l{number}", "image": "app", "host": f"h{number}", "resources": []}
            for number in range(MANY)
        },
    },
    "every type renamed": lambda: {
        "coalition": {"name": "x", "version": 2, "parent": "0" * 64, "primary": "ste"},
        "types": dict.fromkeys(NAMES, TYPE),
        "renames": {"types": {f"old/{name[4:]}": name for name in NAMES}, "labels": {}},
    },
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=list(SHAPES))
def test_no_shape_takes_long(shape: Callable[[], Mapping[str, Any]]) -> None:
    small = {"types": {"org/t0": TYPE}, "labels": {}, "resources": {}, "conflicts": {}, "vms": {}}
    alpha = {"hosts": {"alpha": {"address": "192.0.2.1", "port": 1, "types": ["org/t0"]}}}
    document = {**policy_document(POLICY), **small, **alpha, **shape()}
    data = json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
    assert len(data) < MAX_POLICY_BYTES
    with quickly(), suppress(PolicyErrors):
        parse_canonical(data, source="peer")


def test_there_is_an_end_to_conflict_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shamon_host.domain.consistency.MAX_CONFLICT_SETS", 4)
    text = """
        types = {"org/t0" = {apart = ["roof", "cellar"]}}
        walls = ["roof", "cellar"]
        coalition = {name = "sets", version = 1}
        hosts.alpha = {address = "192.0.2.1", types = ["org/t0"]}
        conflicts.c0 = {types = ["org/t0", "roof"]}
        conflicts.c1 = {types = ["roof", "cellar"]}
    """
    assert len(parse(text).wall_sets) == 4
    error = errors(text + 'conflicts.c2 = {types = ["roof", "cellar"]}')
    assert [(finding.key, finding.line) for finding in error.findings] == [("conflicts", 6)]
    assert "too many conflict sets" in str(error)
    assert "expected at most 4; found 5" in str(error)


@pytest.mark.parametrize(
    ("limit", "key", "words"),
    [
        ("MAX_PEERS", "overlays.office-hours.peers", "too many peers; expected at most 1; found 2"),
        ("MAX_PORTS", "overlays.office-hours.ports", "too many ports; expected at most 1; found 2"),
    ],
)
def test_there_is_an_end_to_what_an_overlay_lists(
    limit: str, key: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The filter of a tap holds no more."""
    text = changed_finance('peers = ["reviewer"]', 'peers = ["reviewer", "reader"]')
    assert len(parse(text).overlays["office-hours"].peers or ()) == 2
    monkeypatch.setattr(f"shamon_host.domain.consistency.{limit}", 1)
    assert_one_mistake(text, key, words)


def test_of_what_a_peer_sent_one_mistake_is_told_and_of_a_file_all() -> None:
    document = policy_document(POLICY)
    for host in ("alpha", "beta", "gamma"):
        document["hosts"][host]["types"] = ["no/such"]
    with pytest.raises(PolicyErrors) as caught:
        parse_canonical(json.dumps(document, sort_keys=True, separators=(",", ":")).encode(), source="peer")
    assert len(caught.value.findings) == 1
    assert caught.value.findings[0].line == 0
    assert str(caught.value).startswith("peer: hosts.alpha.types: unknown type")


def narrowed(limits: str, *, vms: int = 1) -> str:
    """As many hosts as its VMs need, and an overlay."""
    text = crowded()
    for number in range(0, vms, 256):
        text += f'hosts.h{number // 256} = {{address = "10.0.0.{number // 256 + 1}", types = ["org/t0"]}}\n'
    for number in range(vms):
        text += f'vms.v{number} = {{label = "first", image = "app", host = "h{number // 256}"}}\n'
    return text + f'overlays.limit = {{label = "first", {limits}}}\n'


def ports(count: int) -> str:
    return "ports = [" + ", ".join(f'"tcp/{number}"' for number in range(1, count + 1)) + "]"


def peers(count: int) -> str:
    return "peers = [" + ", ".join(f'"v{number}"' for number in range(count)) + "]"


def test_an_overlay_has_as_many_ports_and_peers_as_a_filter_can_hold() -> None:
    assert len(parse(narrowed(ports(1024))).overlays["limit"].ports or ()) == 1024
    error = errors(narrowed(ports(1025)))
    assert [finding.key for finding in error.findings] == ["overlays.limit.ports"]
    assert "too many ports; expected at most 1024; found 1025" in str(error)
    assert len(parse(narrowed(peers(4096), vms=4096)).overlays["limit"].peers or ()) == 4096
    error = errors(narrowed(peers(4097), vms=4097))
    assert [finding.key for finding in error.findings] == ["overlays.limit.peers"]
    assert "too many peers; expected at most 4096; found 4097" in str(error)
