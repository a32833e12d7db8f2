"""Levels (Bell-LaPadula, Biba): nothing lets information go down in confidentiality or up in integrity."""

import re
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shamon_host.domain.consistency import inconsistencies
from shamon_host.domain.labels import TypeName, VmLabel
from shamon_host.domain.policy import TypeDefinition
from tests.unit.domain.policy_text import assert_one_mistake, errors, parse

A, B = TypeName("org/a"), TypeName("org/b")


def text(label: str, *, a: str = "", b: str = "") -> str:
    """A policy with two types and the label `gate`."""
    return f"""
[coalition]
name = "levels"
version = 1

[types."org/a"]
{a}

[types."org/b"]
{b}

[labels.gate]
{label}

[hosts.alpha]
address = "192.0.2.1"
types = ["org/a", "org/b"]
"""


BOTH_WAYS = 'types = ["org/a", "org/b"]'
DOWN, UP = 'reads = ["org/a"]\nwrites = ["org/b"]', 'reads = ["org/b"]\nwrites = ["org/a"]'
SECRET, SOUND = "confidentiality = 3", "integrity = 3"


def joined(*lines: str) -> str:
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("label", "a", "b"),
    [
        (BOTH_WAYS, "", ""),
        (BOTH_WAYS, SECRET, SECRET),
        (BOTH_WAYS, joined(SECRET, SOUND), joined(SECRET, SOUND)),
        (UP, SECRET, ""),  # information goes from b to a: up in confidentiality
        (DOWN, SOUND, ""),  # from a to b: down in integrity
        (DOWN, "confidentiality = 2", SECRET),
        ('reads = ["org/a", "org/b"]', joined(SECRET, SOUND), ""),
        ('writes = ["org/a", "org/b"]', joined(SECRET, SOUND), ""),
        ('types = ["org/a"]', joined(SECRET, SOUND), ""),
        ('types = ["org/a"]\nreads = ["org/b"]', SECRET, ""),
        ('types = ["org/a"]\nwrites = ["org/b"]', SOUND, ""),
        (BOTH_WAYS, joined(SECRET, 'downgraders = ["gate"]'), 'downgraders = ["gate"]'),
        (DOWN, joined(SECRET, 'downgraders = ["gate"]'), joined(SOUND, 'downgraders = ["gate", "other"]')),
    ],
)
def test_labels_that_keep_to_the_levels(label: str, a: str, b: str) -> None:
    assert set(parse(text(label, a=a, b=b)).vm_labels) == {"gate"}


@pytest.mark.parametrize(
    ("label", "a", "b", "words"),
    [
        (DOWN, SECRET, "", ["lets org/a flow to org/b", "against their confidentiality", "confidentiality 3 and 0"]),
        (BOTH_WAYS, SECRET, "", ["lets org/a flow to org/b", "confidentiality 3 and 0"]),
        (BOTH_WAYS, "", SECRET, ["lets org/b flow to org/a", "confidentiality 3 and 0"]),
        (DOWN, "", SOUND, ["lets org/a flow to org/b", "against their integrity", "integrity 0 and 3"]),
        (BOTH_WAYS, SOUND, "", ["lets org/b flow to org/a", "integrity 0 and 3"]),
        ('types = ["org/a"]\nwrites = ["org/b"]', SECRET, "", ["lets org/a flow to org/b"]),
        ('types = ["org/b"]\nreads = ["org/a"]', SECRET, "", ["lets org/a flow to org/b"]),
        # One of them alone cannot let it go, whichever it is, and not through another label.
        (DOWN, joined(SECRET, 'downgraders = ["gate"]'), "", ["both types name"]),
        (DOWN, SECRET, 'downgraders = ["gate"]', ["both types name"]),
        (DOWN, joined(SECRET, 'downgraders = ["door"]'), 'downgraders = ["door"]', ["both types name"]),
    ],
)
def test_labels_that_do_not(label: str, a: str, b: str, words: list[str]) -> None:
    assert_one_mistake(text(label, a=a, b=b), "labels.gate", *words)


def test_both_levels_are_told() -> None:
    error = errors(text(DOWN, a=SECRET, b=SOUND))
    assert [finding.what.rpartition(" ")[2] for finding in error.findings] == ["confidentiality", "integrity"]


# A resource: whoever has one of its types writes it, whoever has another one reads it


@pytest.mark.parametrize(
    ("a", "b", "words"),
    [
        (SECRET, "", ["lets org/a flow to org/b", "against their confidentiality", "types of the same level"]),
        ("", SECRET, ["lets org/b flow to org/a", "against their confidentiality"]),
        (SOUND, "", ["lets org/b flow to org/a", "against their integrity"]),
        # Nobody can be a downgrader by the name of a resource.
        (joined(SECRET, 'downgraders = ["gate"]'), 'downgraders = ["gate"]', ["types of the same level"]),
    ],
)
def test_types_of_a_resource_are_of_one_level(a: str, b: str, words: list[str]) -> None:
    policy = text('types = ["org/a"]', a=a, b=b) + '\n[resources.gate]\ntypes = ["org/a", "org/b"]\n'
    assert_one_mistake(policy, "resources.gate", *words)


@pytest.mark.parametrize("both", ["", SECRET, joined(SECRET, SOUND)])
def test_a_resource_of_two_types_of_one_level(both: str) -> None:
    policy = text('types = ["org/a"]', a=both, b=both) + '\n[resources.gate]\ntypes = ["org/a", "org/b"]\n'
    assert set(parse(policy).resource_labels) == {"gate"}


# Against the definition


TWO = parse(text(BOTH_WAYS))
FLOW = re.compile(r"it lets (\S+) flow to (\S+), against their (?:confidentiality|integrity)")
TYPES = [TypeName(f"org/t{number}") for number in range(4)]
LEVEL = st.integers(0, 2)
WAYS = st.dictionaries(st.sampled_from(TYPES), st.sampled_from(["both", "reads", "writes"]), min_size=1)


@given(
    levels=st.fixed_dictionaries({name: st.tuples(LEVEL, LEVEL, st.booleans()) for name in TYPES}),
    ways=WAYS,
)
def test_against_the_definition(levels: dict[TypeName, tuple[int, int, bool]], ways: dict[TypeName, str]) -> None:
    """Levels of each type and whether it names the label a downgrader; which way the label uses each of its types."""

    def leaks(source: TypeName, target: TypeName) -> bool:
        comes_in, goes_out = ways[source] != "writes", ways[target] != "reads"
        (secret, sound, released), (into_secret, into_sound, taken) = levels[source], levels[target]
        return comes_in and goes_out and (into_secret < secret or into_sound > sound) and not (released and taken)

    oracle = {(one, other) for one, other in product(ways, ways) if one != other and leaks(one, other)}
    label = VmLabel(
        name="gate",
        types=frozenset(ways),
        read_only=frozenset(name for name, way in ways.items() if way == "reads"),
        write_only=frozenset(name for name, way in ways.items() if way == "writes"),
    )
    definitions = {
        name: TypeDefinition(
            name=name, confidentiality=secret, integrity=sound, downgraders=frozenset({"gate"} if lets else ())
        )
        for name, (secret, sound, lets) in levels.items()
    }
    policy = replace(TWO, definitions=definitions, vm_labels={"gate": label})
    told = {
        (source, target)
        for finding in inconsistencies(policy)
        if finding.key == "labels.gate"
        for source, target in [FLOW.fullmatch(finding.what).groups()]  # type: ignore[union-attr]
    }
    assert told <= oracle
    assert {source for source, _ in told} == {source for source, _ in oracle}


def with_resource(resource: str, *, a: str, b: str) -> str:
    return text('types = ["org/a"]', a=a, b=b) + f"\n[resources.disk]\n{resource}\n"


@pytest.mark.parametrize(
    ("a", "b", "words"),
    [
        (SECRET, "", ["lets org/a flow to org/b", "against their confidentiality", "confidentiality 3 and 0"]),
        ("", SECRET, ["lets org/b flow to org/a", "confidentiality 3 and 0"]),
        (SOUND, "", ["lets org/b flow to org/a", "against their integrity", "integrity 0 and 3"]),
        # No label is meant by it, whatever its name.
        (
            joined(SECRET, 'downgraders = ["disk", "gate"]'),
            'downgraders = ["disk", "gate"]',
            ["types of the same level"],
        ),
    ],
)
def test_resources_of_several_levels(a: str, b: str, words: list[str]) -> None:
    assert_one_mistake(with_resource(BOTH_WAYS, a=a, b=b), "resources.disk", *words)


@pytest.mark.parametrize(
    ("resource", "a", "b"),
    [
        (BOTH_WAYS, joined(SECRET, SOUND), joined(SECRET, SOUND)),
        ('types = ["org/a"]', joined(SECRET, SOUND), ""),
        ("inaccessible = true", SECRET, ""),
    ],
)
def test_resources_that_keep_to_the_levels(resource: str, a: str, b: str) -> None:
    assert set(parse(with_resource(resource, a=a, b=b)).resource_labels) == {"disk"}
