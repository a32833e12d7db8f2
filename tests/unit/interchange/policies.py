"""Policies for the tests of exporters, big ones and such with awkward names, the same for the same arguments.

A document has the structure of a policy file. What chance makes contradictory is left out of it, so every one is good.
"""

from collections.abc import Mapping
from random import Random
from typing import Any

from shamon_host.domain.consistency import inconsistencies
from shamon_host.domain.policy import Policy
from shamon_host.domain.policy_form import with_digest
from shamon_host.domain.policy_sections import read_sections
from shamon_host.domain.toml_reader import Reader

DIGEST = "ab" * 32
Document = dict[str, Any]
AWKWARD_NAMES = (
    "red",
    "red-t",
    "red_t",
    "red.t",
    "a--b",
    "a-b",
    "a_b",
    "a.b",
    "ab",
    "mac",
    "dnl",
    "x.self",
    "9",
    "len",
)
"""Names that are easily taken for each other once written in another alphabet, or that mean something in it."""


def policy_of(document: Mapping[str, Any]) -> Policy:
    """The policy of a document, which has no mistake."""
    reader = Reader(document)
    policy = read_sections(reader)
    mistakes = [*reader.findings, *inconsistencies(policy)]
    assert mistakes == [], "; ".join(map(str, mistakes))
    return with_digest(policy)


def awkward_document() -> Document:
    """Labels with awkward names: VMs of every two that are next to each other may communicate."""
    types = [f"acme/t{number}" for number in range(len(AWKWARD_NAMES))]
    labels = {name: {"types": types[number : number + 2]} for number, name in enumerate(AWKWARD_NAMES)}
    return {
        "coalition": {"name": "awkward", "version": 1},
        "types": {name: {} for name in types},
        "labels": labels,
        "hosts": {"alpha": {"address": "192.0.2.1", "types": types}},
    }


def without_contradictions(document: Document) -> Document:
    """Without conflict sets in which a label would be with itself, and without levels if a label goes against them."""
    kept = dict(document, conflicts={})
    if any("against their" in finding.what for finding in inconsistencies(read_sections(Reader(kept)))):
        for definition in kept["types"].values():
            definition.pop("confidentiality", None)
            definition.pop("integrity", None)
    policy_of(kept)
    for name, conflict in document.get("conflicts", {}).items():
        tried = dict(kept, conflicts={**kept["conflicts"], name: conflict})
        if not list(inconsistencies(read_sections(Reader(tried)))):
            kept = tried
    return kept


def big_document(*, organisations: int, types: int, seed: int = 1, labels_of_several: int = 8) -> Document:
    """A coalition of so many organisations and types: a label for each type, some for several, and conflict sets."""
    random = Random(seed)
    owners = [f"org{number}" for number in range(organisations)]
    departments = {f"{name}/{part}": {"of": name} for name in owners for part in ("sales", "research")}
    names: list[str] = []
    for number in range(types):
        owner = owners[number % organisations]
        names.append(f"{owner}/{random.choice(('ledger', 'mail', 'orders', 'archive', 'build'))}-{number}")
    definitions: Document = {}
    for number, name in enumerate(names):
        owner = name.partition("/")[0]
        definitions[name] = {"owner": random.choice((owner, f"{owner}/sales", f"{owner}/research"))}
        if number % 5 == 0:
            definitions[name] |= {"tpm": "hardware"}
    labels: Document = {f"app-{name.partition('/')[2]}": {"types": [name]} for name in names}
    for number in range(labels_of_several):
        near = [name for name in names if name.startswith(f"{random.choice(owners)}/")]
        chosen = random.sample(names if number % 2 else near, min(len(near), random.randrange(2, 4)))
        one_way = random.random() < 0.5
        labels[f"joint-{number}"] = {"reads": chosen[:1], "writes": chosen[1:]} if one_way else {"types": chosen}
    review = random.sample(names, 2)
    labels["review"] = {"types": review[:1], "reads": review[1:]}
    for name in review:
        definitions[name]["downgraders"] = ["review"]
    conflicts = {"competitors": {"types": owners[:2]}} if organisations > 2 else {}
    conflicts |= {f"set-{number}": {"types": random.sample(names, 2)} for number in range(max(2, types // 10))}
    return without_contradictions(
        {
            "coalition": {"name": f"coalition-{types}", "version": 1},
            "organisations": {name: {} for name in owners},
            "departments": departments,
            "types": definitions,
            "labels": labels,
            "resources": {"joint-disk": {"types": names[:2]}},
            "conflicts": conflicts,
            "hosts": {"alpha": {"address": "192.0.2.1", "types": names}},
            "images": {"app": {"sha256": DIGEST}},
            "vms": {"tools": {"label": "unlabelled", "image": "app", "host": "alpha"}},
        }
    )
