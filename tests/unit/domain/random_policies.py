"""Policies with something in every section, the same for the same seed; and pairs of them that differ in a few lines.

All of them hang together: what contradicts the rest is left out again while a policy is made up.
"""

import base64
import hashlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from random import Random
from typing import TypeVar

from shamon_host.domain.consistency import inconsistencies
from shamon_host.domain.labels import HostName, ResourceKind, ResourceLabel, TypeName, VmLabel, VmName
from shamon_host.domain.overlay import Overlay, parse_port
from shamon_host.domain.policy import (
    Demands,
    Department,
    FailureAction,
    HostEntry,
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
from shamon_host.domain.time_windows import parse_window

T = TypeVar("T")
ORGANISATIONS = ("audit", "bank", "rival.inc")
TYPES = tuple(map(TypeName, ("audit/report", "audit/vault", "bank/ledger", "bank/mail.v2", "rival.inc/books")))
LABELS = ("archive", "clerk", "clerk.v2", "mailer", "review", "trader")
WALLS = ("board", "lobby.east")
VMS = tuple(map(VmName, ("db", "desk", "spy", "web.v2")))
HOSTS = tuple(map(HostName, ("alpha", "beta.lab")))
_ADDRESSES = ("192.0.2.1", "2001:db8::2")
_WINDOWS = ("mon-fri 08:00-18:00", "sat 00:00-24:00", "sun,tue 12:00-12:30", "daily 23:00-24:00")
_PORTS = ("tcp/443", "tcp/80", "udp/53", "udp/443")


def public(name: str) -> str:
    """In the form of an Ed25519 key (RFC 8410); nobody has the private one."""
    return base64.b64encode(bytes.fromhex("302a300506032b6570032100") + hashlib.sha256(name.encode()).digest()).decode()


def random_policy(seed: int, *, machines: bool = True) -> Policy:
    """A policy that hangs together. `machines`: with VMs, resources, overlays and renames."""
    made = _Maker(Random(seed)).policy(machines=machines)
    assert not list(inconsistencies(made)), list(inconsistencies(made))
    return made


def random_pair(seed: int) -> tuple[Policy, Policy]:
    """Two versions of one policy, each of which lacks a few types, labels and conflict sets of the whole."""
    random, whole = Random(seed), random_policy(seed, machines=False)

    def part(most: int) -> Policy:
        def gone(names: Iterable[T]) -> list[T]:
            known = sorted(names, key=str)
            return random.sample(known, min(len(known), random.randint(0, most)))

        types = gone(whole.types)
        return without(
            whole,
            types=types if len(types) < len(whole.types) else types[1:],
            labels=gone(whole.vm_labels),
            conflict_sets=gone(whole.conflict_sets),
        )

    return part(2), part(1)


def without(
    policy: Policy, *, types: Collection[TypeName], labels: Collection[str], conflict_sets: Collection[str]
) -> Policy:
    """A policy without VMs, less these entries and whatever named them; owners of nothing go too."""
    definitions = {name: each for name, each in policy.definitions.items() if name not in types}
    kept = replace(policy, definitions=definitions)
    owners = {owner for name in definitions for owner in kept.owners_of(name)}
    kept = replace(
        kept,
        organisations={name: each for name, each in policy.organisations.items() if name in owners},
        departments={name: each for name, each in policy.departments.items() if name in owners},
    )
    walls = kept.wall_names
    kept = replace(
        kept,
        definitions={name: replace(each, apart=each.apart & walls) for name, each in definitions.items()},
        vm_labels={
            name: replace(
                label,
                types=label.types.difference(types),
                read_only=label.read_only.difference(types),
                write_only=label.write_only.difference(types),
                walls=label.walls & walls,
            )
            for name, label in policy.vm_labels.items()
            if name not in labels and label.types.difference(types)
        },
        conflict_sets={
            name: members & walls
            for name, members in policy.conflict_sets.items()
            if name not in conflict_sets and len(members & walls) > 1
        },
        hosts={
            name: replace(host, types=host.types.difference(types) or kept.types, starting=None)
            for name, host in policy.hosts.items()
        },
    )
    assert not list(inconsistencies(kept)), list(inconsistencies(kept))
    return with_digest(kept)


class _Maker:
    def __init__(self, random: Random) -> None:
        self._random = random

    def _some(self, of: Sequence[T], most: int, least: int = 0) -> list[T]:
        return self._random.sample(list(of), min(len(of), self._random.randint(least, most)))

    def _maybe(self) -> bool:
        return self._random.random() < 0.5

    def policy(self, *, machines: bool) -> Policy:
        version = self._random.choice((1, 2, 7))
        keys = {name: public(name) for name in self._some(("k1", "k2", "k.3"), 3)}
        organisations = {
            name: Organisation(name=name, key=self._random.choice([None, *keys])) for name in ORGANISATIONS
        }
        departments = {"bank/trading": Department(name="bank/trading", of="bank")}
        if self._maybe():
            departments["bank/desk.2"] = Department(
                name="bank/desk.2", of=self._random.choice(("bank", "bank/trading"))
            )
        owned = self._random.random() < 0.8
        signers = sorted(self._some(list(keys), 3))
        policy = Policy(
            coalition="lab.one",
            version=version,
            parent=None if version == 1 else "ab" * 32,
            expires_s=self._random.choice((None, 1_900_000_000)),
            primary=self._random.choice(tuple(Primary)),
            signing=Signing(threshold=self._random.randint(1, len(signers)), keys=tuple(signers)) if signers else None,
            keys=keys,
            organisations=organisations if owned else {},
            departments=departments if owned else {},
            walls=frozenset(self._some(WALLS, 2)),
            definitions={},
            vm_labels={},
            resource_labels={},
            conflict_sets={},
            hosts={},
            images={"app": PinnedImage(name="app", sha256="0" * 64)},
            vms={},
            intervals=Intervals(
                period_s=self._random.choice((0.1, 20, 30.5)), lease_s=self._random.choice((60, 90.25))
            ),
            demands=Demands(allow_software_tpm=self._maybe(), empty_pcrs=tuple(sorted(self._some(range(24), 3)))),
            digest="",
        )
        policy = self._with_types(policy)
        policy = self._with_labels(policy)
        types = sorted(policy.types)
        policy = replace(
            policy,
            hosts={
                name: HostEntry(
                    name=name,
                    address=address,
                    port=self._random.choice((7443, 9)),
                    types=policy.types,
                    starting=frozenset(self._some(types, 2)) if self._maybe() else None,
                )
                for name, address in zip(HOSTS, _ADDRESSES, strict=True)
            },
        )
        return with_digest(self._with_machines(policy) if machines else policy)

    def _with_types(self, policy: Policy) -> Policy:
        owners = sorted([*policy.organisations, *policy.departments])
        definitions = {}
        for name in self._some(TYPES, len(TYPES), 1):
            first = name.partition("/")[0]
            owner = self._random.choice((first, first, *owners)) if owners else None
            definitions[name] = TypeDefinition(
                name=name,
                owner=owner,
                on_failure=self._random.choice(tuple(FailureAction)),
                tpm=self._random.choice(tuple(TpmDemand)),
                confidentiality=self._random.choice((0, 0, 0, 15)),
                integrity=self._random.choice((0, 0, 0, 3)),
                downgraders=frozenset(self._some(LABELS, 2)) if self._maybe() else frozenset(),
                equivalent=frozenset(self._some(TYPES, 1)) - {name},
            )
        policy = replace(policy, definitions=definitions)
        for name in self._some(sorted(definitions), 2):
            apart = frozenset(self._some(sorted(policy.wall_names), 1)) - {name, *policy.owners_of(name)}
            definitions[name] = replace(definitions[name], apart=apart)
        sets = {
            name: frozenset(self._some(sorted(policy.wall_names), 3, 2))
            for name in self._some(("rooms", "rivals.v2"), 2)
        }
        return replace(
            policy,
            definitions=dict(definitions),
            conflict_sets={name: members for name, members in sets.items() if len(members) > 1},
        )

    def _with_labels(self, policy: Policy) -> Policy:
        labels = {}
        for name in self._some(LABELS, len(LABELS), 1):
            types = frozenset(self._some(sorted(policy.types), 3, 1))
            one_way = frozenset(self._some(sorted(types), len(types))) if self._maybe() else frozenset()
            reads = frozenset(self._some(sorted(one_way), len(one_way)))
            walls = frozenset(self._some(sorted(policy.walls), 1))
            label = VmLabel(name=name, types=types, read_only=reads, write_only=one_way - reads, walls=walls)
            alone = replace(policy, vm_labels={name: label})
            if not any(finding.key.startswith("labels.") for finding in inconsistencies(alone)):
                labels[name] = label
        return replace(policy, vm_labels=labels)

    def _with_machines(self, policy: Policy) -> Policy:
        types, labels = sorted(policy.types), [*policy.vm_labels, "unlabelled"]
        resources = {}
        for name in self._some(("books", "net.v2", "old"), 3):
            gone, kind = self._random.random() < 0.2, self._random.choice(tuple(ResourceKind))
            resources[name] = ResourceLabel(
                name=name,
                types=frozenset() if gone else frozenset(self._some(types, 3, 1)),
                kind=kind,
                inaccessible=gone,
            )
        vms = {}
        for name in self._some(VMS, len(VMS)):
            label = self._random.choice(labels)
            own = sorted(policy.vm_labels[label].types) if label in policy.vm_labels else []
            usable = [name for name, each in resources.items() if each.types.intersection(own)]
            vms[name] = VmEntry(
                name=name,
                label=label,
                image="app",
                host=self._random.choice(HOSTS),
                resources=tuple(sorted(self._some(usable, 2))),
                interfaces=tuple(self._some(own, len(own))) if self._maybe() else None,
            )
        overlays = {
            name: Overlay(
                name=name,
                label=self._random.choice(sorted(policy.vm_labels)),
                peers=frozenset(self._some(sorted(vms), 2)) if self._maybe() else None,
                ports=frozenset(map(parse_port, self._some(_PORTS, 3))) if self._maybe() else None,
                times=frozenset(map(parse_window, self._some(_WINDOWS, 2))) if self._maybe() else None,
                rate_bytes_s=self._random.choice((None, 1000, 1_250_000)),
            )
            for name in self._some(("night", "office.hours", "quiet"), 3 if policy.vm_labels else 0)
        }
        renames = Renames()
        if policy.version > 1 and policy.vm_labels and self._maybe():
            renames = Renames(types={TypeName("old/type.v1"): types[0]}, labels={"old.label": min(policy.vm_labels)})
        return replace(policy, resource_labels=resources, vms=vms, overlays=overlays, renames=renames)
