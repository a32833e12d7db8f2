"""Valid policies of all kinds for property tests. `successors` has versions that follow, `policy_toml` their text.

`policies` gives small ones in which every part of the language comes up: organisations and departments, walls, conflict
sets, labels that go one way, levels with downgraders, resources, unlabelled VMs, interfaces, overlays, renames. They
are valid because of how they are made, not by trying: where parts could contradict each other, one of them gives way.
"""

import base64
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import combinations
from random import Random
from typing import Self, TypeVar

from hypothesis import strategies as st

from shamon_host.domain.guest_demand import AfterFailure, GuestDemand
from shamon_host.domain.key_usage import REKEY_BYTES, REKEY_PACKETS
from shamon_host.domain.labels import UNLABELLED, HostName, ResourceKind, ResourceLabel, TypeName, VmLabel, VmName
from shamon_host.domain.overlay import MAX_RATE_BYTES_S, Overlay, PortLimit, Transport
from shamon_host.domain.policy import (
    Demands,
    Department,
    FailureAction,
    HostEntry,
    HypervisorKind,
    Intervals,
    Organisation,
    PinnedImage,
    Policy,
    Primary,
    Renames,
    Signing,
    TpmDemand,
    TypeDefinition,
    VmEntry,
)
from shamon_host.domain.policy_form import with_digest
from shamon_host.domain.quarantine import Grade
from shamon_host.domain.time_windows import TimeWindow
from tests.unit.domain import oracle

Item = TypeVar("Item")
ORGANISATIONS, WALLS, KEYS = ["acme", "bank", "rival.inc"], ["board", "lobby"], ["key-1", "key-2", "key-3"]
ED25519 = bytes.fromhex("302a300506032b6570032100")
"""How the DER SubjectPublicKeyInfo of an Ed25519 key begins (RFC 8410)."""
PORTS = [PortLimit(transport=transport, port=port) for transport in Transport for port in (1, 443, 65535)]
TIMES = [
    TimeWindow(days=frozenset({0, 1, 4}), start_minute=0, end_minute=1440),
    TimeWindow(days=frozenset(range(7)), start_minute=61, end_minute=62),
]
ADDRESSES = ["192.0.2.1", "2001:db8::2", "192.0.2.3", "2001:db8:0:1::4"]


def public_key(name: str) -> str:
    """A public key that nobody has the private part of."""
    return base64.b64encode(ED25519 + name.encode().ljust(32, b"\0")).decode()


@cache
def _below(end: int) -> st.SearchStrategy[int]:
    return st.integers(0, end - 1)


class Choices:
    """Choices of one example, each a number below an end that `below` gives."""

    def __init__(self, below: Callable[[int], int]) -> None:
        self._below = below

    @classmethod
    def drawn(cls, draw: st.DrawFn) -> Self:
        """Most examples are one number drawn, and what a generator makes of it: as likely one way as any other, and
        fast. The others are drawn number by number, so that they shrink to little and to the first of everything."""
        seed = draw(st.integers(0, (1 << 20) - 1))
        return cls(Random(seed).randrange if seed % 4 else lambda end: draw(_below(end)))

    def number(self, least: int, most: int) -> int:
        return least + self._below(most - least + 1)

    def yes(self) -> bool:
        return self.number(0, 1) == 1

    def one(self, items: Iterable[Item]) -> Item:
        choices = list(items)
        return choices[self.number(0, len(choices) - 1)]

    def some(self, items: Iterable[Item], *, least: int = 0, most: int = 100) -> list[Item]:
        """Some of them, each once, in their order."""
        choices = list(items)
        chosen = self.number(0, (1 << len(choices)) - 1)
        found = [item for place, item in enumerate(choices) if chosen >> place & 1]
        start = chosen % max(1, len(found) - most + 1)
        return found[start : start + most] if len(found) >= least else choices[:least]

    def few(self, items: Iterable[Item]) -> list[Item]:
        """One of them or two, rarely more."""
        choices = list(items)
        start = self.number(0, len(choices) - 1)
        return (choices[start:] + choices[:start])[: self.one([1, 1, 1, 1, 2, 2, 3])]


@st.composite
def policies(draw: st.DrawFn, *, least_hosts: int = 1, least_vms: int = 0) -> Policy:
    """A policy that hangs together, of up to four hosts and eight VMs."""
    choose = Choices.drawn(draw)
    policy = _owned(choose)
    policy = _labelled(choose, policy)
    policy = _walled(choose, policy)
    policy = _deployed(choose, policy, least_hosts, least_vms)
    return with_digest(_limited(choose, policy))


def _owned(choose: Choices) -> Policy:
    """Who signs and who owns which types."""
    version = choose.one([1, 1, 2, 7])
    keys = {name: public_key(name) for name in choose.some(KEYS)}
    organisations = {
        name: Organisation(name=name, key=choose.one([None, *keys])) for name in choose.some(ORGANISATIONS)
    }
    departments: dict[str, Department] = {}
    for number in range(choose.number(0, 3) if organisations else 0):
        above = choose.one([*organisations, *departments])
        name = f"{above.partition('/')[0]}/d{number}"
        departments[name] = Department(name=name, of=above)
    return Policy(
        coalition=choose.one(["one", "coalition-2", "co.ops"]),
        version=version,
        parent=None if version == 1 else choose.one(["0" * 64, "5e" * 32]),
        expires_s=choose.one([None, 0, 1814313600, (1 << 40) - 1]),
        primary=choose.one(Primary),
        signing=choose.one([None, Signing(threshold=choose.number(1, len(keys)), keys=tuple(keys))]) if keys else None,
        keys=keys,
        organisations=organisations,
        departments=departments,
        walls=frozenset(choose.some(WALLS)),
        definitions=_definitions(choose, [*organisations, *departments]),
        vm_labels={},
        resource_labels={},
        conflict_sets={},
        hosts={},
        images={name: PinnedImage(name=name, sha256=digit * 64) for name, digit in (("app", "a"), ("db.v2", "0"))},
        vms={},
        intervals=_intervals(choose),
        demands=Demands(
            allow_software_tpm=choose.yes(), allow_sha1=choose.yes(), empty_pcrs=tuple(choose.some(range(24), most=3))
        ),
        digest="",
    )


def _definitions(choose: Choices, owners: Sequence[str]) -> dict[TypeName, TypeDefinition]:
    definitions: dict[TypeName, TypeDefinition] = {}
    for number in range(choose.one([4, 3, 2, 1, 4, 5, 5])):
        owner = choose.one(owners) if owners else None
        name = TypeName(f"{owner.partition('/')[0] if owner else 'free'}/t{number}")
        definitions[name] = TypeDefinition(
            name=name,
            owner=owner,
            on_failure=choose.one(FailureAction),
            tpm=choose.one([TpmDemand.ANY, TpmDemand.ANY, TpmDemand.HARDWARE]),
            confidentiality=choose.one([0, 0, 0, 1, 15]),
            integrity=choose.one([0, 0, 0, 2]),
            equivalent=frozenset(choose.some(definitions, most=1)),
        )
    return definitions


def _intervals(choose: Choices) -> Intervals:
    lease_s = choose.one([90.0, 1.0, 2.5, 86400.0])
    margin_s = choose.one([0.0, 0.25, 0.5]) * lease_s
    return Intervals(
        lease_s=lease_s,
        margin_s=margin_s,
        period_s=(lease_s - margin_s) * choose.one([0.5, 0.1, 0.99]),
        timeout_s=choose.one([20.0, 1e-3]),
        action_delay_s=choose.one([0.0, 7.5]),
        rekey_bytes=choose.one([REKEY_BYTES[-1], 1 << 30]),
        rekey_packets=choose.one([REKEY_PACKETS[-1], 100]),
    )


def _labelled(choose: Choices, policy: Policy) -> Policy:
    """Labels; where one lets information go against the levels, both types name it their downgrader."""
    definitions, labels = dict(policy.definitions), {}
    for number in range(choose.number(2, 6)):
        name = f"l{number}" if number % 2 else f"label.{number}"
        ways = {each: choose.one(["both", "both", "read", "write"]) for each in choose.few(definitions)}
        label = labels[name] = VmLabel(
            name=name,
            types=frozenset(ways),
            read_only=frozenset(each for each, way in ways.items() if way == "read"),
            write_only=frozenset(each for each, way in ways.items() if way == "write"),
            walls=frozenset(choose.some(sorted(policy.wall_names), most=choose.one([0, 0, 1]))),
            quarantine=choose.one([Grade.SUSPEND, Grade.SUSPEND, *Grade]),
        )
        for source, target in ((one, other) for one in label.reads for other in label.writes):
            if _against_levels(definitions[source], definitions[target]) or choose.number(0, 3) == 3:
                for each in (source, target):
                    released = definitions[each].downgraders | {name}
                    definitions[each] = replace(definitions[each], downgraders=released)
    resources = {
        name: ResourceLabel(
            name=name,
            types=frozenset() if inaccessible else _of_one_level(choose.few(definitions), definitions),
            kind=choose.one(ResourceKind),
            inaccessible=inaccessible,
        )
        for name, inaccessible in ((each, choose.number(0, 3) == 3) for each in choose.some(["disk", "net.1", "old"]))
    }
    resources = {
        name: replace(each, sha256=hashlib.sha256(name.encode()).hexdigest())
        if each.kind is ResourceKind.DISK and not each.inaccessible and choose.number(0, 3) == 3
        else each
        for name, each in resources.items()
    }
    return replace(policy, definitions=definitions, vm_labels=labels, resource_labels=resources)


def _of_one_level(names: Sequence[TypeName], known: Mapping[TypeName, TypeDefinition]) -> frozenset[TypeName]:
    """Those that are as confidential and as trusted as the first."""
    first = known[names[0]]
    return frozenset(
        name
        for name in names
        if (known[name].confidentiality, known[name].integrity) == (first.confidentiality, first.integrity)
    )


def _against_levels(source: TypeDefinition, target: TypeDefinition) -> bool:
    return source.confidentiality > target.confidentiality or source.integrity < target.integrity


def _walled(choose: Choices, policy: Policy) -> Policy:
    """Conflict sets and types apart, most of which keep labels apart; none with which a label contradicts itself."""
    chains = {name: {name, *_owners(policy, name)} for name in policy.definitions}
    held = [label.walls.union(*(chains[name] for name in label.types)) for label in policy.vm_labels.values()]

    def harmless(members: Iterable[str]) -> bool:
        return all(len(walls & set(members)) < 2 for walls in held)

    walls = sorted(policy.wall_names)
    useful = [pair for pair in combinations(sorted(set[str]().union(*held)), 2) if harmless(pair)]
    sets = {name: frozenset(choose.one(useful)) for name in choose.some(["c1", "c2"], least=1) if useful}
    if walls[1:] and choose.yes():
        sets["c.3"] = frozenset(choose.some(walls, least=2, most=3))
    definitions = {
        name: replace(
            definition,
            apart=frozenset(
                wall for wall in choose.some(walls, most=2) if wall not in chains[name] and harmless({name, wall})
            ),
        )
        for name, definition in policy.definitions.items()
    }
    return replace(
        policy,
        definitions=definitions,
        conflict_sets={name: members for name, members in sets.items() if harmless(members)},
    )


def _owners(policy: Policy, name: TypeName) -> list[str]:
    owners: list[str] = []
    above = policy.definitions[name].owner
    while above is not None:
        owners.append(above)
        above = policy.departments[above].of if above in policy.departments else None
    return owners


def _deployed(choose: Choices, policy: Policy, least_hosts: int, least_vms: int) -> Policy:
    """Hosts with most of the types, and VMs on hosts that may run them."""
    hosts = {}
    for number in range(choose.number(least_hosts, 4)):
        name = HostName(f"h{number}" if number % 2 else f"host.{number}")
        types = choose.some(sorted(policy.definitions), least=1) if choose.yes() else sorted(policy.definitions)
        hosts[name] = HostEntry(
            name=name,
            address=ADDRESSES[number],
            port=choose.one([7443, 1, 65535]),
            types=frozenset(types),
            starting=frozenset(choose.some(types)) if choose.yes() else None,
            hypervisor=choose.one(list(HypervisorKind)),
        )
    vms: dict[VmName, VmEntry] = {}
    for number in range(choose.number(least_vms, 8)):
        vm, host = VmName(f"v{number}" if number % 2 else f"vm.{number}"), choose.one([min(hosts), *sorted(hosts)])
        fitting = [label for label in policy.vm_labels.values() if label.types <= hosts[host].types]
        label = choose.one([*fitting, *fitting, *fitting, UNLABELLED])
        usable = [each.name for each in policy.resource_labels.values() if oracle.usable(label, each)]
        interfaces = choose.some(sorted(label.types, reverse=choose.yes())) if choose.yes() else None
        addressed = choose.some(sorted(label.types) if interfaces is None else interfaces)
        vms[vm] = VmEntry(
            name=vm,
            label=label.name,
            image=choose.one(sorted(policy.images)),
            host=host,
            resources=tuple(sorted(choose.some(usable))),
            interfaces=None if interfaces is None else tuple(interfaces),
            addresses={
                name: frozenset(choose.few([f"10.0.{number}.1", f"10.0.{number}.2", f"fd00::{number + 1}"]))
                for name in addressed
            },
            quarantine=choose.one(
                [None, None, *(grade for grade in Grade if not grade.is_weaker_than(label.quarantine))]
            ),
        )
    policy = replace(policy, hosts=hosts, vms=vms, guests=_guests(choose))
    attested = {vm: replace(entry, attest=_attest(choose, policy, entry)) for vm, entry in vms.items()}
    moving = {
        vm: entry if entry.attest else replace(entry, may_move_to=_moves(choose, policy, entry))
        for vm, entry in attested.items()
    }
    return replace(policy, vms=moving)


def _guests(choose: Choices) -> dict[str, GuestDemand]:
    return {
        name: GuestDemand(
            name=name,
            sha256=choose.one(["1", "f"]) * 64,
            period_s=choose.one([30.0, 1.0, 12.5]),
            lease_s=choose.one([90.0, 30.5, 86400.0]),
            on_failure=choose.one(list(AfterFailure)),
        )
        for name in choose.some(["web.1", "tiny"])
    }


def _attest(choose: Choices, policy: Policy, entry: VmEntry) -> str | None:
    """A VM on QEMU whose quarantine cuts it off may be attested."""
    label = oracle.label(policy, entry.name)
    on_xen = policy.hosts[entry.host].hypervisor is HypervisorKind.XEN
    grade = entry.quarantine or label.quarantine
    if on_xen or grade is Grade.NOTE or not policy.guests:
        return None
    return choose.one([None, *policy.guests])


def _moves(choose: Choices, policy: Policy, entry: VmEntry) -> frozenset[HostName]:
    """Some of the other hosts that may run a VM with all that it has."""
    label, home = oracle.label(policy, entry.name), policy.hosts[entry.host]
    written = [
        name
        for name in oracle.disks(policy, entry.name)
        if not policy.resource_labels[name].sha256
        and any(oracle.sends(label, each) for each in policy.resource_labels[name].types & label.types)
    ]
    fit = [
        name
        for name, host in policy.hosts.items()
        if name != entry.host and label.types <= host.types and host.hypervisor is home.hypervisor and not written
    ]
    return frozenset(choose.some(sorted(fit)))


def _limited(choose: Choices, policy: Policy) -> Policy:
    """Overlays and renames."""
    overlays = {
        name: Overlay(
            name=name,
            label=choose.one(sorted(policy.vm_labels)),
            peers=frozenset(choose.some(sorted(policy.vms))) if choose.yes() else None,
            ports=frozenset(choose.some(PORTS)) if choose.yes() else None,
            times=frozenset(choose.some(TIMES)) if choose.yes() else None,
            rate_bytes_s=choose.one([None, 1000, MAX_RATE_BYTES_S]),
        )
        for name in choose.some(["office", "night.2"])
    }
    if policy.version == 1:
        return replace(policy, overlays=overlays)
    new_types, new_labels = (
        choose.some(sorted(policy.definitions), most=2),
        choose.some(sorted(policy.vm_labels), most=2),
    )
    renames = Renames(
        types={TypeName(f"was/{number}"): name for number, name in enumerate(new_types)},
        labels={f"was.{number}": name for number, name in enumerate(new_labels)},
    )
    return replace(policy, overlays=overlays, renames=renames)
