"""Policies for the tests of exporters: any small one, by hypothesis, and big ones, the same for the same seed.

A document has the structure of a policy file. What chance makes contradictory is left out of it, so every one is good.
"""

from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

from hypothesis import strategies as st

from shamon_host.domain.consistency import inconsistencies
from shamon_host.domain.policy import Policy
from shamon_host.domain.policy_form import with_digest
from shamon_host.domain.policy_sections import read_sections
from shamon_host.domain.toml_reader import Reader

DIGEST = "ab" * 32
Document = dict[str, Any]
_SOME_NAMES = ("red", "red-t", "red_t", "red.t", "a--b", "a-b", "a_b", "a.b", "ab", "mac", "dnl", "x.self", "9", "len")
"""Names that are easily taken for each other once they are written in another alphabet."""


def policy_of(document: Mapping[str, Any]) -> Policy:
    """The policy of a document, which has no mistake."""
    reader = Reader(document)
    policy = read_sections(reader)
    mistakes = [*reader.findings, *inconsistencies(policy)]
    assert mistakes == [], "; ".join(map(str, mistakes))
    return with_digest(policy)


@st.composite
def documents(draw: st.DrawFn) -> Document:
    """A small document with most of what the language has."""
    organisations = draw(
        st.lists(st.sampled_from(("acme", "bank", "rival", "x.y-z")), min_size=1, max_size=3, unique=True)
    )
    declared = draw(st.booleans())
    departments = _departments(draw, organisations) if declared else {}
    types = draw(st.lists(st.sampled_from(_type_names(organisations)), min_size=1, max_size=6, unique=True))
    walls = draw(st.lists(st.sampled_from(("board", "lobby")), unique=True))
    names = draw(st.lists(st.sampled_from(_SOME_NAMES), min_size=1, max_size=6, unique=True))
    labels = {name: draw(_labels(types, walls)) for name in names}
    document: Document = {
        "coalition": {"name": draw(st.sampled_from(("c", "two-hosts", "x.1_2"))), "version": 1},
        "walls": walls,
        "types": {name: draw(_definitions(names)) for name in types},
        "labels": labels,
        "resources": {
            name: draw(st.one_of(st.just({"inaccessible": True}), _resources(types)))
            for name in draw(st.lists(st.sampled_from(("disk-1", "net", *_SOME_NAMES[:3])), max_size=3, unique=True))
        },
        "conflicts": draw(_conflicts([*types, *walls, *(organisations if declared else ()), *departments])),
        "hosts": {
            "alpha": {"address": "192.0.2.1", "types": types},
            "beta": {"address": "2001:db8::2", "types": types[:1], "port": draw(st.integers(1, 65535))},
        },
        "images": {"app": {"sha256": DIGEST}},
        "vms": {
            f"vm{number}": {"label": label, "image": "app", "host": "alpha"}
            for number, label in enumerate(draw(st.lists(st.sampled_from((*names, "unlabelled")), max_size=5)))
        },
    }
    if declared:
        document["organisations"] = {name: {} for name in organisations}
        document["departments"] = departments
        for name, definition in document["types"].items():
            mine = [each for each in departments if each.startswith(f"{name.partition('/')[0]}/")]
            if draw(st.booleans()) and mine:
                definition["owner"] = draw(st.sampled_from(mine))
    return without_contradictions(document)


def policies() -> st.SearchStrategy[Policy]:
    return documents().map(policy_of)


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


def _type_names(organisations: Sequence[str]) -> list[str]:
    return [f"{owner}/{name}" for owner in organisations for name in ("red", "blue", "a/b", "a.b")]


def _departments(draw: st.DrawFn, organisations: Sequence[str]) -> Document:
    found: Document = {}
    for owner in organisations:
        above = owner
        for name in draw(st.lists(st.sampled_from(("sales", "lab", "lab/x")), max_size=3, unique=True)):
            found[f"{owner}/{name}"] = {"of": draw(st.sampled_from((owner, above)))}
            above = f"{owner}/{name}"
    return found


@st.composite
def _labels(draw: st.DrawFn, types: Sequence[str], walls: Sequence[str]) -> Document:
    ways = draw(st.lists(st.sampled_from(("types", "reads", "writes", None)), min_size=len(types), max_size=len(types)))
    label: Document = {}
    for name, way in zip(types, ways, strict=True):
        if way:
            label.setdefault(way, []).append(name)
    if not label:
        label["types"] = [types[0]]
    if draw(st.booleans()) and walls:
        label["walls"] = list(walls[:1])
    return label


@st.composite
def _definitions(draw: st.DrawFn, labels: Sequence[str]) -> Document:
    return draw(
        st.fixed_dictionaries(
            {},
            optional={
                "on_failure": st.sampled_from(("keep", "suspend", "replace")),
                "tpm": st.sampled_from(("any", "hardware")),
                "confidentiality": st.integers(0, 2),
                "integrity": st.integers(0, 15),
                "downgraders": st.lists(st.sampled_from(labels), max_size=2, unique=True),
            },
        )
    )


def _resources(types: Sequence[str]) -> st.SearchStrategy[Document]:
    some = st.lists(st.sampled_from(types), min_size=1, max_size=3, unique=True)
    return st.fixed_dictionaries({"types": some}, optional={"kind": st.sampled_from(("disk", "network"))})


def _conflicts(walls: Sequence[str]) -> st.SearchStrategy[Document]:
    if len(set(walls)) < 2:
        return st.just({})
    members = st.lists(st.sampled_from(walls), min_size=2, max_size=3, unique=True)
    return st.dictionaries(
        st.sampled_from(("competitors", "rooms", "c.1")), st.fixed_dictionaries({"types": members}), max_size=3
    )
