"""Who must sign a new version: thresholds of both versions, and each organisation for what concerns its types."""

import base64
import itertools
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from random import Random
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shamon_host.domain.authority import Requirement, coalition_requirement, required_signatures
from shamon_host.domain.chinese_wall import conflicts
from shamon_host.domain.errors import BadInput, Refused
from shamon_host.domain.labels import ResourceLabel, TypeName, VmLabel
from shamon_host.domain.overlay import Overlay
from shamon_host.domain.policy import Department, Organisation, Policy, Renames, Signing, TypeDefinition
from shamon_host.domain.policy_file import parse_policy
from shamon_host.domain.policy_form import with_digest
from tests.examples import examples

T = TypeVar("T")
KEY_NAMES = ("ops-1", "ops-2", "ops-3", "bank-1", "bank-2", "rival-1", "audit-1")


def public(name: str) -> str:
    """As long as an Ed25519 key; the domain does not look inside."""
    prefix = bytes.fromhex("302a300506032b6570032100")  # of an Ed25519 key (RFC 8410)
    return base64.b64encode(prefix + name.encode().ljust(32, b"\0")).decode()


KEYS = "".join(f'[keys.{name}]\npublic = "{public(name)}"\n' for name in KEY_NAMES)
BASE = f"""
walls = ["vault", "lobby"]

[coalition]
name = "finance"
version = 1

[signing]
threshold = 2
keys = ["ops-1", "ops-2", "ops-3"]

{KEYS}

[organisations.bank]
key = "bank-1"
[organisations.rival]
key = "rival-1"
[organisations.audit]
key = "audit-1"
[organisations.acme]

[departments."bank/trading"]
of = "bank"
[departments."bank/desk"]
of = "bank/trading"

[types."bank/ledger"]
owner = "bank/desk"
apart = ["rival"]
downgraders = ["review"]
[types."bank/mail"]
[types."rival/books"]
[types."audit/report"]
[types."acme/red"]
[types."acme/blue"]

[labels.ledger]
types = ["bank/ledger"]
[labels.books]
types = ["rival/books"]
[labels.red]
types = ["acme/red"]
[labels.blue]
types = ["acme/blue"]
[labels.review]
types = ["audit/report"]
reads = ["bank/ledger"]
[labels.mail]
types = ["bank/mail", "acme/red"]

[resources.ledger]
types = ["bank/ledger"]
[resources.red]
types = ["acme/red"]

[conflicts.market]
types = ["bank", "rival", "vault"]

[overlays.night]
label = "books"
rate_bytes_s = 5000

[hosts.alpha]
address = "192.0.2.1"
types = ["bank/ledger", "acme/red"]
[images.app]
sha256 = "{"0" * 64}"
[vms.one]
label = "red"
image = "app"
host = "alpha"
"""
FIRST = parse_policy(BASE.encode(), source="base")


def following(*changes: tuple[str, str], more: str = "", base: str = BASE) -> Policy:
    """The version after `base`, with parts of its text replaced and something added."""
    text = base
    for before, after in changes:
        assert before in text
        text = text.replace(before, after, 1)
    current = parse_policy(base.encode(), source="base")
    version = f'version = {current.version + 1}\nparent = "{current.digest}"'
    text = text.replace(f"version = {current.version}", version, 1)
    return parse_policy((text + more).encode(), source="next")


def asked(new: Policy, current: Policy | None = FIRST) -> set[str]:
    """The names of the keys, each of which alone is a requirement."""
    return {
        requirement.who(requirement.keys)
        for requirement in required_signatures(new, current)
        if len(requirement.keys) == 1
    }


# The coalition


def test_the_first_version_is_signed_by_its_own_threshold_and_every_organisation_with_a_key() -> None:
    first, *others = required_signatures(FIRST, None)
    assert first.keys == {public("ops-1"), public("ops-2"), public("ops-3")}
    assert first.threshold == 2
    assert [(each.who(each.keys), each.threshold) for each in others] == [
        ("audit-1", 1),
        ("bank-1", 1),
        ("rival-1", 1),
    ]
    assert "bank/ledger" in others[1].reason


def test_a_version_that_changes_nothing_needs_the_threshold_once() -> None:
    (only,) = required_signatures(following(), FIRST)
    assert (only.threshold, only.who(only.keys)) == (2, "ops-1, ops-2, ops-3")


def test_rotation_needs_the_threshold_of_both_versions() -> None:
    new = following(('threshold = 2\nkeys = ["ops-1", "ops-2", "ops-3"]', 'threshold = 1\nkeys = ["ops-3", "bank-2"]'))
    standing, own = required_signatures(new, FIRST)
    assert (standing.threshold, standing.who(standing.keys)) == (2, "ops-1, ops-2, ops-3")
    assert (own.threshold, own.who(own.keys)) == (1, "bank-2, ops-3")


def test_a_lower_threshold_alone_is_a_rotation() -> None:
    assert [each.threshold for each in required_signatures(following(("threshold = 2", "threshold = 1")), FIRST)] == [
        2,
        1,
    ]


def test_the_same_name_for_another_key_is_a_rotation() -> None:
    new = following((public("ops-1"), public("ops-9")))
    standing, own = required_signatures(new, FIRST)
    assert public("ops-1") in standing.keys - own.keys
    assert public("ops-9") in own.keys - standing.keys


def test_another_name_for_the_same_key_is_none() -> None:
    new = following(("[keys.ops-1]", "[keys.ops-one]"), ('["ops-1", ', '["ops-one", '))
    assert len(required_signatures(new, FIRST)) == 1


def unsigned(policy: Policy) -> Policy:
    return with_digest(replace(policy, signing=None))


def test_unsigned_policies() -> None:
    assert required_signatures(unsigned(FIRST), None) == ()
    assert required_signatures(unsigned(following()), unsigned(FIRST)) == ()
    assert coalition_requirement(unsigned(FIRST)) is None
    with pytest.raises(Refused, match="unsigned"):
        required_signatures(unsigned(following()), FIRST)


def test_a_policy_that_begins_to_be_signed_is_like_a_first_one() -> None:
    new = following()
    assert required_signatures(new, unsigned(FIRST)) == required_signatures(new, None)


def test_a_threshold_of_nothing_is_no_requirement() -> None:
    with pytest.raises(BadInput):
        Requirement(keys=frozenset({public("ops-1")}), threshold=0, reason="nobody")
    with pytest.raises(BadInput):
        required_signatures(replace(FIRST, signing=Signing(threshold=0, keys=("ops-1",))), None)


def test_a_key_that_is_not_declared_is_bad_input() -> None:
    with pytest.raises(BadInput, match="ops-7"):
        required_signatures(replace(FIRST, signing=Signing(threshold=1, keys=("ops-7",))), None)


# Organisations


@pytest.mark.parametrize(
    ("changes", "more", "wanted"),
    [
        ([], '[types."acme/green"]\n', set()),
        ([], '[labels.violet]\nreads = ["acme/red"]\nwrites = ["acme/blue"]\n', {"bank-1"}),  # bank/mail goes further
        ([], '[labels.violet]\nreads = ["acme/blue"]\nwrites = ["acme/red"]\n', {"bank-1"}),  # and gets more
        ([], '[types."acme/green"]\n[labels.green]\ntypes = ["acme/green", "acme/blue"]\n', set()),
        ([], '[types."bank/new"]\n', {"bank-1"}),
        ([], '[types."bank/new"]\nowner = "rival"\n', {"bank-1", "rival-1"}),
        ([('[types."bank/mail"]', '[types."bank/mail"]\non_failure = "suspend"')], "", {"bank-1"}),
        ([('[types."bank/mail"]', '[types."bank/mail"]\nowner = "rival"')], "", {"bank-1", "rival-1"}),
        ([('[types."rival/books"]', '[types."rival/books"]\ntpm = "hardware"')], "", {"rival-1"}),
        ([('[types."acme/red"]', '[types."acme/red"]\ntpm = "hardware"')], "", set()),
        ([], '[labels.both]\ntypes = ["bank/mail", "acme/blue"]\n', {"bank-1"}),
        ([("[labels.mail]", "[labels.post]")], "", {"bank-1"}),
        ([('reads = ["bank/ledger"]', 'writes = ["bank/ledger"]')], "", {"bank-1", "audit-1"}),
        ([('[labels.books]\ntypes = ["rival/books"]', '[labels.books]\ntypes = ["rival/books"]\nwalls = ["lobby"]')],
         "", {"rival-1"}),
        ([("rate_bytes_s = 5000", "rate_bytes_s = 9000")], "", {"rival-1"}),
        ([('label = "books"', 'label = "ledger"')], "", {"rival-1", "bank-1"}),
        ([], '[overlays.red]\nlabel = "red"\nrate_bytes_s = 9000\n', set()),
        ([('types = ["bank", "rival", "vault"]', 'types = ["bank", "rival"]')], "", {"bank-1", "rival-1"}),
        ([('types = ["bank", "rival", "vault"]', 'types = ["bank", "rival", "vault", "lobby"]')], "", set()),
        ([("[conflicts.market]", "[conflicts.markets]")], "", {"bank-1", "rival-1"}),
        ([], '[conflicts.more]\ntypes = ["rival", "audit"]\n', set()),
        ([('apart = ["rival"]\n', "")], "", {"bank-1"}),
        ([('[resources.ledger]\ntypes = ["bank/ledger"]', '[resources.ledger]\ninaccessible = true')], "", {"bank-1"}),
        ([('[resources.red]\ntypes = ["acme/red"]', '[resources.red]\ntypes = ["acme/red", "rival/books"]')],
         "", {"rival-1", "bank-1"}),  # what bank/mail lets out comes to rival/books
        ([("[resources.red]", "[resources.crimson]")], "", set()),
        ([('[departments."bank/desk"]\nof = "bank/trading"', '[departments."bank/desk"]\nof = "bank"')],
         "", {"bank-1"}),
        ([], '[departments."rival/desk"]\nof = "rival"\n', {"rival-1"}),
        ([], '[departments."acme/desk"]\nof = "acme"\n', set()),
        ([('key = "bank-1"', 'key = "bank-2"')], "", {"bank-1", "bank-2"}),
        ([('[organisations.bank]\nkey = "bank-1"', "[organisations.bank]")], "", {"bank-1"}),
        ([("[organisations.acme]", '[organisations.acme]\nkey = "bank-2"')], "", {"bank-2"}),
        ([], '[organisations.new]\nkey = "bank-2"\n', {"bank-2"}),
        ([], '[organisations.new]\n[types."new/thing"]\n', set()),
        ([('[types."bank/mail"]', '[types."bank/mail"]\nequivalent = ["rival/books"]')], "", {"bank-1", "rival-1"}),
        ([('[types."acme/red"]', '[types."acme/red"]\nequivalent = ["rival/books"]')], "", {"rival-1"}),
        ([('[types."audit/report"]', '[types."audit/report"]\ndowngraders = ["review"]')],
         "", {"audit-1", "bank-1"}),
        ([('types = ["bank/ledger", "acme/red"]\n[images', 'types = ["acme/red"]\n[images')], "", set()),
        ([('address = "192.0.2.1"', 'address = "192.0.2.9"')], "", set()),
    ],
)  # fmt: skip
def test_an_organisation_signs_what_concerns_its_types(
    changes: list[tuple[str, str]], more: str, wanted: set[str]
) -> None:
    assert asked(following(*changes, more=more)) == wanted


def test_a_removed_type_is_its_owners_concern() -> None:
    base = BASE + '[types."rival/old"]\n'
    current = parse_policy(base.encode(), source="base")
    assert asked(following(('[types."rival/old"]\n', ""), base=base), current) == {"rival-1"}


def test_an_organisation_that_leaves_signs_with_the_key_that_is_in_force() -> None:
    base = BASE + '[organisations.guest]\nkey = "bank-2"\n'
    current = parse_policy(base.encode(), source="base")
    new = following(('[organisations.guest]\nkey = "bank-2"\n', ""), base=base)
    assert asked(new, current) == {"bank-2"}


def test_a_key_that_was_revoked_signs_for_nobody() -> None:
    second = following(('key = "bank-1"', 'key = "bank-2"'), (f'[keys.bank-1]\npublic = "{public("bank-1")}"\n', ""))
    third = replace(second, definitions={**second.definitions, TypeName("bank/new"): definition("bank/new", "bank")})
    assert asked(third, second) == {"bank-2"}
    assert not any(public("bank-1") in each.keys for each in required_signatures(third, second))


def test_information_that_goes_further_over_somebody_elses_label_is_everybodys_concern_on_the_way() -> None:
    """From bank/ledger to audit/report, and now from there on to rival/books: the bank's label is the same."""
    base = BASE.replace('apart = ["rival"]\n', "")
    new = following(more='[labels.leak]\nreads = ["audit/report"]\nwrites = ["rival/books"]\n', base=base)
    current = parse_policy(base.encode(), source="base")
    assert new.vm_labels["review"] == current.vm_labels["review"]
    assert asked(new, current) == {"audit-1", "rival-1", "bank-1"}


def test_a_type_that_moves_out_of_a_department_that_a_rival_is_kept_apart_from_is_the_rivals_concern() -> None:
    base = BASE.replace('apart = ["rival"]\n', "").replace('"bank", "rival", "vault"', '"bank/trading", "rival"')
    new = following(('owner = "bank/desk"', 'owner = "bank"'), base=base)
    assert asked(new, parse_policy(base.encode(), source="base")) == {"bank-1", "rival-1"}


RED_TO_CRIMSON = (
    ('[types."acme/red"]', '[types."acme/crimson"]'),
    ('[labels.red]\ntypes = ["acme/red"]', '[labels.red]\ntypes = ["acme/crimson"]'),
    ('"bank/mail", "acme/red"', '"bank/mail", "acme/crimson"'),
    ('[resources.red]\ntypes = ["acme/red"]', '[resources.red]\ntypes = ["acme/crimson"]'),
    ('"bank/ledger", "acme/red"', '"bank/ledger", "acme/crimson"'),
)


def test_a_rename_concerns_the_owner_of_the_type_alone() -> None:
    assert asked(following(*RED_TO_CRIMSON, more='[renames.types]\n"acme/red" = "acme/crimson"\n')) == set()
    assert asked(following(*RED_TO_CRIMSON)) == {"bank-1"}  # bank/mail now flows to another type
    books = (
        ('[types."rival/books"]', '[types."rival/papers"]'),
        ('[labels.books]\ntypes = ["rival/books"]', '[labels.books]\ntypes = ["rival/papers"]'),
    )
    assert asked(following(*books, more='[renames.types]\n"rival/books" = "rival/papers"\n')) == {"rival-1"}


def test_a_rename_to_a_type_that_is_there_hides_nothing() -> None:
    """As if a label of acme/red had held bank/ledger all the time."""
    changes = (
        ('[labels.red]\ntypes = ["acme/red"]', '[labels.red]\ntypes = ["bank/ledger"]'),
        ('[types."acme/red"]\n', ""),
        ('[labels.mail]\ntypes = ["bank/mail", "acme/red"]', '[labels.mail]\ntypes = ["bank/mail", "acme/blue"]'),
        ('[resources.red]\ntypes = ["acme/red"]', '[resources.red]\ntypes = ["acme/blue"]'),
        ('types = ["bank/ledger", "acme/red"]\n[images', 'types = ["bank/ledger"]\n[images'),
    )
    new = following(*changes, more='[renames.types]\n"acme/red" = "bank/ledger"\n')
    assert "label red changes" in next(
        each.reason for each in required_signatures(new, FIRST) if each.who(each.keys) == "bank-1"
    )


def test_two_types_that_become_one_are_not_taken_for_a_rename() -> None:
    """As if the bank had given its mail away. No policy file says this; whoever compares must not rely on that."""
    new, merged = following(), TypeName("acme/x")
    gone = {TypeName("bank/mail"): merged, TypeName("acme/red"): merged}

    def types(names: Iterable[TypeName]) -> frozenset[TypeName]:
        return frozenset(gone.get(name, name) for name in names)

    new = replace(
        new,
        renames=Renames(types=gone),
        definitions={each.name: each for name, each in new.definitions.items() if name not in gone}
        | {merged: replace(new.definitions[TypeName("acme/red")], name=merged)},
        vm_labels={name: replace(each, types=types(each.types)) for name, each in new.vm_labels.items()},
        resource_labels={name: replace(each, types=types(each.types)) for name, each in new.resource_labels.items()},
    )
    assert asked(new) == {"bank-1"}


def test_a_renamed_label_is_another_label() -> None:
    """Its name may be one that a type trusts as its downgrader."""
    new = following(("[labels.mail]", "[labels.post]"), more='[renames.labels]\nmail = "post"\n')
    assert asked(new) == {"bank-1"}


def test_a_policy_that_is_too_large_to_be_compared_is_refused() -> None:
    walls = frozenset(f"wall-{number}" for number in range(1 << 14))
    with pytest.raises(BadInput, match="too many"):
        required_signatures(replace(following(), walls=walls), FIRST)


def test_reasons_are_short_whatever_changes() -> None:
    more = "".join(f'[types."bank/t{number}"]\n' for number in range(200))
    (reason,) = (each.reason for each in required_signatures(following(more=more), FIRST)[1:])
    assert reason.endswith("and 196 more")
    assert len(reason) < 300


def test_the_answer_does_not_depend_on_the_order_of_the_file() -> None:
    document = tomllib.loads(BASE)
    assert list(document["types"]) != sorted(document["types"])
    new = following(more='[types."bank/new"]\n[types."rival/new"]\n')
    turned = replace(new, definitions=dict(sorted(new.definitions.items(), reverse=True)))
    assert required_signatures(turned, FIRST) == required_signatures(new, FIRST)


# The property: whoever is not asked finds everything of theirs as it was

TYPES = [TypeName(name) for name in ("bank/a", "bank/b", "rival/a", "acme/a", "acme/b", "acme/c")]
OWNERS = ("bank", "bank/desk", "rival", "acme")
LABELS = ("one", "two", "three", "four")
SECTIONS = (
    "organisations",
    "departments",
    "definitions",
    "vm_labels",
    "resource_labels",
    "conflict_sets",
    "overlays",
)


def definition(name: str, owner: str) -> TypeDefinition:
    return TypeDefinition(name=TypeName(name), owner=owner)


class Sections:
    """Entries of a policy, made up from few names, so that they meet."""

    def __init__(self, random: Random) -> None:
        self._random = random

    def some(self, of: Sequence[T], most: int) -> frozenset[T]:
        return frozenset(self._random.sample(of, self._random.randint(0, most)))

    def entries(self, section: str) -> dict[str, Any]:
        made: dict[str, Any] = getattr(self, section)()
        return made

    def organisations(self) -> dict[str, Organisation]:
        keys = {
            "bank": self._random.choice(("bank-1", "bank-1", "bank-2")),
            "rival": "rival-1",
            "acme": self._random.choice((None, "audit-1")),
        }
        return {name: Organisation(name=name, key=key) for name, key in keys.items()}

    def departments(self) -> dict[str, Department]:
        return {"bank/desk": Department(name="bank/desk", of=self._random.choice(("bank", "bank", "acme")))}

    def definitions(self) -> dict[TypeName, TypeDefinition]:
        return {
            name: replace(
                definition(name, self._random.choice((name.partition("/")[0], *OWNERS))),
                confidentiality=self._random.randint(0, 1),
                apart=self.some((*OWNERS, *TYPES), 1) - {name},
                downgraders=self.some(LABELS, 2),
                equivalent=self.some(TYPES, 1) - {name},
            )
            for name in TYPES
        }

    def vm_labels(self) -> dict[str, VmLabel]:
        labels = {}
        for name in self.some(LABELS, 4):
            types = self.some(TYPES, 2)
            one_way = self.some(sorted(types), len(types)), frozenset[TypeName]()
            read_only, write_only = one_way if self._random.random() < 0.5 else one_way[::-1]
            labels[name] = VmLabel(name=name, types=types, read_only=read_only, write_only=write_only)
        return labels

    def resource_labels(self) -> dict[str, ResourceLabel]:
        return {name: ResourceLabel(name=name, types=self.some(TYPES, 2)) for name in self.some(["disk"], 1)}

    def conflict_sets(self) -> dict[str, frozenset[str]]:
        return {name: self.some((*OWNERS, *TYPES), 3) for name in self.some(["x", "y"], 2)}

    def overlays(self) -> dict[str, Overlay]:
        return {
            name: Overlay(name=name, label=self._random.choice(LABELS), rate_bytes_s=self._random.randint(1000, 1001))
            for name in self.some(["o"], 1)
        }

    def versions(self) -> tuple[Policy, Policy]:
        """Two versions. In the second one, entries of a few sections are others; sometimes a type has another name."""
        sections: dict[str, Any] = {section: self.entries(section) for section in SECTIONS}
        current = replace(FIRST, **sections)
        changes: dict[str, Any] = {}
        for section in self._random.sample(SECTIONS, self._random.choice((1, 1, 2))):
            before, fresh = dict(getattr(current, section)), self.entries(section)
            for name in self._random.sample(sorted({**before, **fresh}), min(1, len({**before, **fresh}))):
                before.pop(name, None)
                before.update({name: fresh[name]} if name in fresh else {})
            changes[section] = before
        new = replace(current, version=2, **changes)
        old = self._random.choice((None, None, *TYPES))
        return current, new if old is None else renamed(new, old, TypeName(f"{old}2"))


def renamed(policy: Policy, old: TypeName, name: TypeName) -> Policy:
    """The policy with another name for one type everywhere."""

    def types(names: Iterable[TypeName]) -> frozenset[TypeName]:
        return frozenset(name if each == old else each for each in names)

    def walls(names: Iterable[str]) -> frozenset[str]:
        return frozenset(name if each == old else each for each in names)

    return replace(
        policy,
        renames=Renames(types={old: name}),
        definitions={
            (name if key == old else key): replace(
                each, name=name if key == old else key, apart=walls(each.apart), equivalent=types(each.equivalent)
            )
            for key, each in policy.definitions.items()
        },
        vm_labels={
            key: replace(
                each, types=types(each.types), read_only=types(each.read_only), write_only=types(each.write_only)
            )
            for key, each in policy.vm_labels.items()
        },
        resource_labels={key: replace(each, types=types(each.types)) for key, each in policy.resource_labels.items()},
        conflict_sets={key: walls(each) for key, each in policy.conflict_sets.items()},
    )


def owned(policy: Policy, organisation: str) -> set[TypeName]:
    return {name for name in policy.types if organisation in policy.owners_of(name)[-1:]}


def permitted(policy: Policy) -> set[tuple[TypeName, TypeName]]:
    """Every flow, found by walking: edges of labels and resources, releases left out, closed over chains."""
    carriers = [(each.name, each.reads, each.writes) for each in policy.vm_labels.values()]
    carriers += [("", each.types, each.types) for each in policy.resource_labels.values()]
    edges = set()
    for label, reads, writes in carriers:
        for source, target in itertools.product(reads, writes):
            if source != target and not both_trust(policy, label, source, target):
                edges.add((source, target))
    found = set(edges)
    while more := {(a, d) for a, b in found for c, d in edges if b == c and a != d} - found:
        found |= more
    return found


def both_trust(policy: Policy, label: str, one: TypeName, other: TypeName) -> bool:
    return all(label in policy.definitions[each].downgraders for each in (one, other))


def released(policy: Policy) -> set[tuple[str, TypeName, TypeName]]:
    """Label and both types, for each pair that the label is a downgrader between."""
    return {
        (label.name, one, other)
        for label in policy.vm_labels.values()
        for one, other in itertools.permutations(label.types, 2)
        if both_trust(policy, label.name, one, other)
    }


def kept_apart(policy: Policy) -> set[tuple[TypeName, TypeName]]:
    """Types that the monitor does not let run together."""
    alone = {name: VmLabel(name=name, types=frozenset({name})) for name in policy.types}
    return {
        (one, other)
        for one, other in itertools.permutations(policy.types, 2)
        if conflicts(policy, alone[one], (alone[other],)) is not None
    }


def never_run(policy: Policy) -> set[TypeName]:
    """Types that are in conflict with themselves: no policy file has any."""
    return {
        name for name in policy.types if conflicts(policy, VmLabel(name=name, types=frozenset({name})), ()) is not None
    }


def left_alone(organisation: str, current: Policy, new: Policy) -> None:
    """Fails unless everything that concerns the organisation is the same, or only stricter."""
    for old, name in new.renames.types.items():
        assert old not in owned(current, organisation)
        assert name not in owned(new, organisation)
        current = renamed(current, old, name)
    own = owned(current, organisation)
    assert own == owned(new, organisation)
    for type_name in own:
        assert current.definitions[type_name] == new.definitions[type_name]
    for one, other in ((current, new), (new, current)):
        assert inside(one, organisation) <= inside(other, organisation)
        for key, label in one.vm_labels.items():
            assert not label.types & own or other.vm_labels.get(key) == label
        for key, resource in one.resource_labels.items():
            assert not resource.types & own or other.resource_labels.get(key) == resource
        for key, overlay in one.overlays.items():
            limited = one.vm_labels.get(overlay.label)
            assert limited is None or not limited.types & own or other.overlays.get(key) == overlay
        for type_name, each in one.definitions.items():
            assert each.equivalent & own <= other.definitions[type_name].equivalent
    for key, members in current.conflict_sets.items():
        assert not members & {organisation, *inside(current, organisation), *own} or members <= new.conflict_sets[key]
    assert touching(own, released(new)) == touching(own, released(current))
    assert touching(own, permitted(new)) <= touching(own, permitted(current))
    if not never_run(current):
        assert touching(own, kept_apart(current)) <= touching(own, kept_apart(new))
    assert new.organisations[organisation] == current.organisations[organisation]


def inside(policy: Policy, organisation: str) -> set[str]:
    return {name for name, each in policy.departments.items() if each.of == organisation}


def touching(own: set[TypeName], tuples: Iterable[tuple[str, ...]]) -> set[tuple[str, ...]]:
    return {each for each in tuples if own & set(each)}


@given(st.integers(0, 1 << 64))
@settings(max_examples=examples(1000), deadline=None)
def test_whoever_is_not_asked_finds_everything_of_theirs_as_it_was(seed: int) -> None:
    current, new = Sections(Random(seed)).versions()
    keys = asked(new, current)
    for name, organisation in current.organisations.items():
        if organisation.key is not None and organisation.key not in keys:
            left_alone(name, current, new)


@given(st.integers(0, 1 << 64))
@settings(max_examples=examples(300), deadline=None)
def test_only_those_with_a_key_in_either_version_are_asked_and_each_once(seed: int) -> None:
    current, new = Sections(Random(seed)).versions()
    requirements = required_signatures(new, current)
    known = {each.key for policy in (current, new) for each in policy.organisations.values()}
    assert all(each.who(each.keys) in known for each in requirements[1:])
    assert len({each.keys for each in requirements}) == len(requirements)
