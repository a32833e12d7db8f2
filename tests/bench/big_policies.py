"""Big policies as files, the same for the same seed: what the policy bench measures with, and what is in them.

The systems are those of `tests/unit/domain/big_systems.py`. Here they become policies that hang together: no label is
in conflict with itself or lets information flow down. Every organisation has a host with VMs, and every type a disk.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import count, islice
from random import Random

from shamon_host.domain.flows import FlowLabel, FlowSystem
from shamon_host.domain.labels import TypeName
from tests.unit.domain import big_systems
from tests.unit.domain.big_systems import big_system, without

VMS_OF_A_HOST = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much there is of everything. At least 40 types: conflicts are between organisations too."""

    types: int = big_systems.TYPES
    labels: int = big_systems.LABELS
    conflict_sets: int = big_systems.CONFLICT_SETS
    asked: int = 250
    """Labels that decisions are asked about, each with each: as many as one host has VMs at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BigPolicy:
    """A policy as a file, and what it has to be read as."""

    system: FlowSystem
    """Without its resources: each has one type, so nothing flows through them."""
    vms: Mapping[str, tuple[str, str]]
    """VM → label and host."""
    toml: bytes


def big_policy(size: Size, seed: int = 1) -> BigPolicy:
    """A policy of exactly this size."""
    system = big_system(
        seed, types=size.types, labels=size.labels, conflict_sets=4 * size.conflict_sets, multi=0.05, far=0.02
    )
    walls = [walls_of(system, label) for label in system.labels.values()]
    harmless = [
        members
        for members in sorted(system.conflict_sets, key=sorted)
        if not any(len(members & each) > 1 for each in walls)
    ]
    chosen = Random(seed).sample(harmless, size.conflict_sets)
    return _policy(replace(_without_downward_flows(system), conflict_sets=frozenset(chosen)))


def peer_of(policy: BigPolicy, seed: int = 2) -> BigPolicy:
    """The policy without some lines: labels, types, conflict sets."""
    less = big_systems.changed(policy.system, seed)
    empty = [name for name, label in less.labels.items() if not label.reads | label.writes]
    known = less.definitions.keys() | {owner for owners in less.owners.values() for owner in owners}
    unresolved = [members for members in less.conflict_sets if not members <= known]
    return _policy(without(less, labels=empty, conflict_sets=unresolved))


def walls_of(system: FlowSystem, label: FlowLabel) -> frozenset[str]:
    """Its types and all who own them."""
    types = label.reads | label.writes
    return frozenset[str](types).union(*(system.owners[name] for name in types))


def _without_downward_flows(system: FlowSystem) -> FlowSystem:
    """The same level for all types that labels join."""
    joined = {name for label in system.labels.values() if label.joins for name in label.reads | label.writes}
    definitions = {
        name: replace(each, confidentiality=0) if name in joined else each for name, each in system.definitions.items()
    }
    return replace(system, definitions=definitions)


def _policy(system: FlowSystem) -> BigPolicy:
    hosts = _types_of_hosts(system)
    vms = dict(_vms(system, hosts))
    return BigPolicy(system=system, vms=vms, toml="".join(_lines(system, hosts, vms)).encode())


def _types_of_hosts(system: FlowSystem) -> Mapping[str, list[TypeName]]:
    """A host of each organisation, with all its types."""
    hosts: dict[str, list[TypeName]] = {}
    for name, owners in sorted(system.owners.items()):
        hosts.setdefault(f"{owners[-1]}-host", []).append(name)
    return hosts


def _vms(system: FlowSystem, hosts: Mapping[str, list[TypeName]]) -> Iterator[tuple[str, tuple[str, str]]]:
    """The first labels that a host carries, a VM each."""
    host_of = {name: host for host, types in hosts.items() for name in types}
    carried: dict[str, list[str]] = {host: [] for host in hosts}
    for name, label in system.labels.items():
        possible = {host_of[each] for each in label.reads | label.writes}
        if len(possible) == 1:
            carried[possible.pop()].append(name)
    for host, labels in carried.items():
        for number, label_name in enumerate(islice(labels, VMS_OF_A_HOST)):
            yield f"{host}-vm{number}", (label_name, host)


# The file


def _lines(
    system: FlowSystem, hosts: Mapping[str, list[TypeName]], vms: Mapping[str, tuple[str, str]]
) -> Iterator[str]:
    yield from _table("coalition", name="big", version=1)
    owners = sorted(set(system.owners.values()))
    for organisation in sorted({chain[-1] for chain in owners}):
        yield from _table(f"organisations.{organisation}")
    for department, organisation in owners:
        yield from _table(f'departments."{department}"', of=organisation)
    for type_name, each in system.definitions.items():
        yield from _table(
            f'types."{type_name}"',
            owner=each.owner,
            confidentiality=each.confidentiality or None,
            downgraders=each.downgraders or None,
        )
    for name, label in system.labels.items():
        both = label.reads & label.writes
        yield from _table(
            f"labels.{name}",
            types=both or None,
            reads=label.reads - both or None,
            writes=label.writes - both or None,
        )
    for number, members in enumerate(sorted(system.conflict_sets, key=sorted)):
        yield from _table(f"conflicts.c{number}", types=members)
    for type_name in system.definitions:
        yield from _table(f"resources.{_disk(type_name)}", types=[type_name])
    for number, (host, types) in enumerate(hosts.items()):
        yield from _table(f"hosts.{host}", address=f"10.0.{number // 250}.{number % 250 + 1}", types=types)
    yield from _table("images.app", sha256="0" * 64)
    for vm, (label_name, host) in vms.items():
        label = system.labels[label_name]
        disks = [_disk(min(label.reads))] if label.reads else None
        yield from _table(f"vms.{vm}", label=label_name, image="app", host=host, resources=disks)


def _disk(name: TypeName) -> str:
    return name.replace("/", "-")


def _table(table: str, /, **values: str | int | Iterable[str] | None) -> Iterator[str]:
    """A table with the values that are not None. JSON's form of a name, number or list of names is TOML's too."""
    yield f"[{table}]\n"
    for key, value in values.items():
        if value is not None:
            plain = value if isinstance(value, str | int) else sorted(value)
            yield f"{key} = {json.dumps(plain)}\n"


def with_mistakes(toml: bytes) -> bytes:
    """The file with an unknown type in every label that has a list of types."""
    numbers = count()
    lines = toml.decode().splitlines(keepends=True)
    for number, line in enumerate(lines):
        if line.startswith("[labels.") and lines[number + 1].startswith("types = ["):
            lines[number + 1] = f'types = ["nobody/t{next(numbers)}"]\n'
    return "".join(lines).encode()
