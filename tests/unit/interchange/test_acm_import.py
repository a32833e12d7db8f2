"""Import of sHype/ACM policies: what it gives forbids what the policy forbade, and hostile files are refused."""

import argparse
import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shamon_host.cli.policy_import import add_parser
from shamon_host.domain.chinese_wall import conflicts
from shamon_host.domain.errors import BadInput
from shamon_host.domain.labels import ResourceKind, VmLabel
from shamon_host.domain.policy import Policy, Primary
from shamon_host.domain.policy_file import parse_policy
from shamon_host.interchange.acm_import import Dropped, Host, How, Imported, import_acm
from tests.examples import examples

ALPHA = Host(name="alpha", address="192.0.2.7")
DIGEST = "ab" * 32


# Writing policies of ACM


def ste(names: Iterable[str]) -> str:
    return f"<SimpleTypeEnforcementTypes>{listed(names)}</SimpleTypeEnforcementTypes>"


def chwall(names: Iterable[str]) -> str:
    return f"<ChineseWallTypes>{listed(names)}</ChineseWallTypes>"


def listed(names: Iterable[str]) -> str:
    return "".join(f"<Type>{escape(name)}</Type>" for name in names)


def vm(name: str, types: Iterable[str] = (), walls: Iterable[str] = (), before: str = "") -> str:
    attribute = f" from={quoteattr(before)}" if before else ""
    return (
        f"<VirtualMachineLabel>\n<Name{attribute}>{escape(name)}</Name>\n{ste(types)}\n{chwall(walls)}\n"
        "</VirtualMachineLabel>\n"
    )


def resource(name: str, types: Iterable[str] = (), before: str = "") -> str:
    attribute = f" from={quoteattr(before)}" if before else ""
    return f"<ResourceLabel><Name{attribute}>{escape(name)}</Name>{ste(types)}</ResourceLabel>\n"


def conflict(name: str, *members: str) -> str:
    attribute = f" name={quoteattr(name)}" if name else ""
    return f"<Conflict{attribute}>{listed(members)}</Conflict>\n"


def template(bootstrap: str, labels: str, resources: str = "", header: str = "") -> str:
    objects = f"<ObjectLabels>{resources}</ObjectLabels>" if resources else ""
    return (
        f'<SecurityLabelTemplate xmlns="http://www.ibm.com">{header}'
        f"<SubjectLabels bootstrap={quoteattr(bootstrap)}>{labels}</SubjectLabels>{objects}</SecurityLabelTemplate>"
    )


def definition(*sections: str, root: str = "SecurityPolicyDefinition", attributes: str = "") -> bytes:
    namespaces = (
        'xmlns="http://www.ibm.com" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" '
        'xsi:schemaLocation="http://www.ibm.com ../../security_policy.xsd "'
    )
    text = "\n".join(sections)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<{root} {namespaces}{attributes}>\n{text}\n</{root}>\n'.encode()


def header(name: str, more: str = "") -> str:
    return f"<PolicyHeader><PolicyName>{escape(name)}</PolicyName>{more}</PolicyHeader>"


def types_section(names: Iterable[str], attributes: str = "") -> str:
    return f"<SimpleTypeEnforcement{attributes}>{ste(names)}</SimpleTypeEnforcement>"


def walls_section(names: Iterable[str], *sets: str, attributes: str = "") -> str:
    conflict_sets = f"<ConflictSets>{''.join(sets)}</ConflictSets>" if sets else ""
    return f"<ChineseWall{attributes}>{chwall(names)}{conflict_sets}</ChineseWall>"


# Three companies, one with two departments that must not run together; Domain-0 has all types


BANK = "SecurityUnderwriting", "MarketAnalysis"
DEPARTMENTS = tuple(f"A-Bank.{name}" for name in BANK)
COMPANIES = ("A-Bank", *DEPARTMENTS, "B-Bank", "AutoCorp")
BANK_LABELS = "".join(
    [
        vm("SystemManagement", ["SystemManagement", *COMPANIES], ["SystemManagement"]),
        vm("A-Bank", ["A-Bank"], ["A-Bank"]),
        *(vm(name, [name], ["A-Bank", name]) for name in DEPARTMENTS),
        vm("B-Bank", ["B-Bank"], ["B-Bank"]),
        vm("AutoCorp", ["AutoCorp"], ["AutoCorp"]),
    ]
)
BANK_SECTIONS = (
    types_section(["SystemManagement", *COMPANIES]),
    walls_section(
        ["SystemManagement", *COMPANIES],
        conflict("RER1", "A-Bank", "B-Bank"),
        conflict("RER2", *DEPARTMENTS),
        attributes=' priority="PrimaryPolicyComponent"',
    ),
)
BANKS = definition(
    header("example.banks", "<Date>2007-04-16</Date><Version>1.0</Version>"),
    *BANK_SECTIONS,
    template("SystemManagement", BANK_LABELS, resource("A-Bank", ["A-Bank"]) + resource("AutoCorp", ["AutoCorp"])),
)
DOMAIN = b"""
kernel = "/boot/vmlinuz-2.6.18-xen"   # Python, for xm
memory = 128
name = "Desk1"
vif = [ '' ]
disk = ['file:/srv/desk1.img,sda1,w', \\
        'phy:hda3,sda2,r']
access_control = ['policy=example.banks,label=A-Bank']
"""
RESOURCES = b"""# written by xend
resources = {
    'file:/srv/desk1.img': ('ACM', 'example.banks', 'A-Bank'),
    'phy:/dev/hda3': ('example.banks', 'AutoCorp'),
    'phy:/dev/hdb': ('ACM', '*', '__INACCESSIBLE__'),
    'phy:/dev/hdc': ('INV_ACM', 'example.banks', 'sold'),
    'phy:/dev/hdd': ('ACM', 'another', 'A-Bank'),
    'vlan:4': ('ACM', 'example.banks', 'AutoCorp'),
}
"""


def take(xml: bytes, **more: Any) -> Imported:
    return import_acm(xml, coalition="finance", host=ALPHA, **more)


def parsed(imported: Imported) -> Policy:
    return parse_policy(imported.toml.encode(), source="imported.toml")


def completed(imported: Imported) -> Policy:
    """With digests for its images."""
    lines = [f'sha256 = "{DIGEST}"' if line.startswith("# sha256") else line for line in imported.toml.splitlines()]
    return parse_policy("\n".join(lines).encode(), source="imported.toml")


def became(imported: Imported, element: str, how: How = How.RENAMED) -> dict[str, str]:
    return {
        change.name: change.became for change in imported.dropped if change.element == element and change.how == how
    }


def reasons(imported: Imported, element: str) -> dict[str, str]:
    found = [change for change in imported.dropped if change.element == element and change.how is How.DROPPED]
    return {change.name: change.why for change in found}


def refused(xml: bytes, **more: Any) -> BadInput:
    with pytest.raises(BadInput) as caught:
        take(xml, **more)
    assert caught.value.exit_code == 2
    assert caught.value.where
    return caught.value


# What a whole policy becomes


def test_dots_become_organisations_and_conflict_sets_name_them() -> None:
    policy = parsed(take(BANKS))
    assert policy.coalition == "finance"
    assert (policy.version, policy.parent) == (1, None)
    assert set(policy.organisations) == {"a-bank", "example.banks"}
    assert policy.types == {
        "a-bank/a-bank",
        "a-bank/securityunderwriting",
        "a-bank/marketanalysis",
        "example.banks/b-bank",
        "example.banks/autocorp",
        "example.banks/systemmanagement",
    }
    assert policy.definitions[next(iter(policy.types & {"a-bank/a-bank"}))].owner == "a-bank"
    assert policy.vm_labels["a-bank.marketanalysis"].types == {"a-bank/marketanalysis"}
    assert policy.conflict_sets == {
        "rer1": {"a-bank", "example.banks/b-bank"},
        "rer2": {"a-bank/securityunderwriting", "a-bank/marketanalysis"},
    }
    assert policy.walls == frozenset()
    assert policy.resource_labels["autocorp"].types == {"example.banks/autocorp"}


def test_a_department_inherits_the_wall_of_its_organisation() -> None:
    policy = parsed(take(BANKS))
    labels = policy.vm_labels
    assert conflicts(policy, labels["b-bank"], [labels["a-bank.marketanalysis"]]) is not None
    assert conflicts(policy, labels["autocorp"], [labels["a-bank"], labels["a-bank.marketanalysis"]]) is None


def test_the_label_of_domain_0_is_that_of_the_host() -> None:
    imported = take(BANKS)
    host = parsed(imported).hosts[next(iter(parsed(imported).hosts))]
    assert (host.name, host.address) == ("alpha", "192.0.2.7")
    assert host.types == host.starting == parsed(imported).types
    assert "systemmanagement" not in parsed(imported).vm_labels
    assert became(imported, "VirtualMachineLabel", How.CHANGED) == {"SystemManagement": "hosts.types"}
    assert "SystemManagement" in reasons(imported, "VirtualMachineLabel/ChineseWallTypes")


def test_what_was_renamed_and_what_has_no_place_is_told() -> None:
    imported = take(BANKS)
    types = became(imported, "SimpleTypeEnforcementTypes/Type")
    assert types["A-Bank.MarketAnalysis"] == "a-bank/marketanalysis"
    assert types["AutoCorp"] == "example.banks/autocorp"
    assert became(imported, "ChineseWallTypes/Type")["A-Bank"] == "a-bank"
    assert became(imported, "VirtualMachineLabel")["AutoCorp"] == "autocorp"
    assert became(imported, "Conflict") == {"RER1": "rer1", "RER2": "rer2"}
    assert became(imported, "PolicyName") == {"example.banks": "finance"}
    assert set(reasons(imported, "Date")) == {"2007-04-16"}
    for old in ("A-Bank.MarketAnalysis", "RER1", "AutoCorp", "2007-04-16", "example.banks"):
        assert f'"{old}"' in imported.toml, "the file tells old names in comments"


def test_names_that_are_ours_already_stay() -> None:
    xml = definition(
        header("finance"),
        types_section(["acme/red", "rival/blue"]),
        walls_section(["acme/red", "rival/blue", "board"], conflict("set", "acme/red", "rival/blue")),
        template("boot", vm("boot", ["acme/red", "rival/blue"]) + vm("red", ["acme/red"], ["acme/red", "board"])),
    )
    imported = take(xml)
    assert [change for change in imported.dropped if change.how is How.RENAMED] == []
    policy = parsed(imported)
    assert policy.types == {"acme/red", "rival/blue"}
    assert policy.walls == {"board"}
    assert policy.vm_labels["red"].walls == {"board"}
    assert set(policy.organisations) == {"acme", "rival"}
    assert '# "acme' not in imported.toml


def test_a_wall_stays_one_of_its_own_where_a_type_would_forbid_more() -> None:
    """A virtual I/O server has the types of both companies, and must run beside either."""
    xml = definition(
        header("drinks"),
        types_section(["Blue", "Red"]),
        walls_section(["Blue", "Red", "Server"], conflict("both", "Blue", "Red")),
        template(
            "Boot",
            vm("Boot", ["Blue", "Red"])
            + vm("Blue", ["Blue"], ["Blue"])
            + vm("Red", ["Red"], ["Red"])
            + vm("VIO", ["Blue", "Red"], ["Server"]),
        ),
    )
    policy = parsed(take(xml))
    labels = policy.vm_labels
    assert policy.walls == {"blue", "red", "server"}
    assert conflicts(policy, labels["vio"], [labels["blue"]]) is None
    assert conflicts(policy, labels["red"], [labels["blue"]]) is not None


def test_three_parts_make_a_department() -> None:
    names = ["Acme.Trade.Ledger", "Acme.Trade.Desk", "Acme.Trade"]
    labels = vm("Boot", names) + vm("Ledger", names[:1], ["Acme.Trade"])
    xml = definition(header("p"), types_section(names), walls_section(["Acme.Trade"]), template("Boot", labels))
    policy = parsed(take(xml))
    assert {name: department.of for name, department in policy.departments.items()} == {"acme/trade": "acme"}
    assert policy.types == {"acme/trade/ledger", "acme/trade/desk", "acme/trade/trade"}
    assert {definition.owner for definition in policy.definitions.values()} == {"acme/trade"}
    assert policy.walls == frozenset()


@pytest.mark.parametrize("order", [1, -1])
def test_names_that_become_equal_are_numbered_the_same_way_in_any_order(order: int) -> None:
    names = ["Red", "red", "RED", "r é d"][::order]
    xml = definition(
        header("p"),
        types_section(names),
        template(names[0], "".join(vm(name, [name]) for name in names)),
    )
    assert became(take(xml), "SimpleTypeEnforcementTypes/Type") == {
        "red": "p/red",
        "RED": "p/red-2",
        "Red": "p/red-3",
        "r é d": "p/r-d",
    }


def test_the_text_is_the_same_each_time() -> None:
    assert take(BANKS, domains={"d": DOMAIN}, resources=RESOURCES) == take(
        BANKS, domains={"d": DOMAIN}, resources=RESOURCES
    )


# Which component is the primary one


@pytest.mark.parametrize(
    ("on_types", "on_walls", "on_root", "primary"),
    [
        ("", ' priority="PrimaryPolicyComponent"', "", Primary.CHINESE_WALL),
        (' priority="PrimaryPolicyComponent"', "", "", Primary.STE),
        (' order="PrimaryPolicyComponent"', "", "", Primary.STE),
        ("", "", ' primaryPolicyComponent="STE"', Primary.STE),
        ("", "", ' primaryPolicyComponent="CHWALL"', Primary.CHINESE_WALL),
        ("", "", "", Primary.CHINESE_WALL),
    ],
)
def test_the_primary_component(on_types: str, on_walls: str, on_root: str, primary: Primary) -> None:
    xml = definition(
        header("p"), types_section(["a"], on_types), walls_section(["b"], attributes=on_walls), attributes=on_root
    )
    assert parsed(take(xml)).primary is primary


def test_without_walls_type_enforcement_is_primary() -> None:
    assert parsed(take(definition(header("p"), types_section(["a"])))).primary is Primary.STE


def test_two_primary_components_are_refused() -> None:
    priority = ' priority="PrimaryPolicyComponent"'
    xml = definition(header("p"), types_section(["a"], priority), walls_section(["b"], attributes=priority))
    assert "two primary" in refused(xml).what


# Policies with one component, or none


def test_without_type_enforcement_everybody_shares_one_type() -> None:
    xml = definition(
        header("chwall"),
        walls_section(["cw_Sensitive", "cw_Distrusted"], conflict("Protection1", "cw_Sensitive", "cw_Distrusted")),
        template(
            "dom_Boot", vm("dom_Boot") + vm("dom_Bank", (), ["cw_Sensitive"]) + vm("dom_Fun", (), ["cw_Distrusted"])
        ),
    )
    imported = take(xml)
    policy = parsed(imported)
    assert policy.types == {"chwall/shared"}
    assert policy.vm_labels["dom_bank"].types == {"chwall/shared"}
    assert policy.walls == {"cw_sensitive", "cw_distrusted"}
    assert conflicts(policy, policy.vm_labels["dom_bank"], [policy.vm_labels["dom_fun"]]) is not None
    assert became(imported, "SimpleTypeEnforcement", How.CHANGED) == {"absent": "chwall/shared"}


def test_a_policy_without_anything() -> None:
    assert parsed(take(definition(header("null")))).types == {"null/shared"}


def test_a_label_without_a_type_shares_with_nobody() -> None:
    xml = definition(header("p"), types_section(["a"]), template("Boot", vm("Boot", ["a"]) + vm("mute")))
    policy = parsed(take(xml))
    label = policy.vm_labels["mute"]
    assert label.types == {"p/mute-alone"}
    assert label.writes == frozenset()
    assert label.types < policy.hosts[next(iter(policy.hosts))].types


def test_conflict_sets_that_keep_nothing_apart_are_dropped() -> None:
    xml = definition(header("p"), walls_section(["a", "b"], conflict("one", "a"), conflict("", "a", "b")))
    imported = take(xml)
    assert parsed(imported).conflict_sets == {"conflict": {"a", "b"}}
    assert set(reasons(imported, "Conflict")) == {"one"}


# The older form: labels in a file of their own, headers with a name


@pytest.mark.parametrize("root", ["SecurityPolicyDefinition", "PolicyDefinition", "Definition"])
def test_labels_in_a_file_of_their_own(root: str) -> None:
    old_header = "<PolicyHeader><Name>banks-security_policy</Name><Date>2005-08-10</Date></PolicyHeader>"
    label_header = (
        "<LabelHeader><Name>banks-security_label_template</Name><Date>2005-08-10</Date>"
        "<PolicyName><Url>banks-security_policy.xml</Url><Reference>abcdef</Reference></PolicyName></LabelHeader>"
    )
    split = take(
        definition(old_header, *BANK_SECTIONS, root=root),
        labels_xml=template("SystemManagement", BANK_LABELS, header=label_header).encode(),
    )
    policy = parsed(split)
    assert set(policy.organisations) == {"a-bank", "banks"}
    assert policy.vm_labels.keys() == parsed(take(BANKS)).vm_labels.keys()
    assert set(reasons(split, "LabelHeader/PolicyName/Url")) == {"banks-security_policy.xml"}


def test_a_definition_inside() -> None:
    inner = definition(*BANK_SECTIONS, root="Definition").decode().partition("\n")[2]
    assert parsed(take(definition(inner, root="PolicyDefinition"))).conflict_sets.keys() == {"rer1", "rer2"}


def test_without_labels_the_host_has_all_types() -> None:
    policy = parsed(take(definition(header("banks"), *BANK_SECTIONS)))
    assert policy.vm_labels == {}
    assert policy.hosts[next(iter(policy.hosts))].types == policy.types


def test_labels_inside_and_in_a_file_are_refused() -> None:
    error = refused(BANKS, labels_xml=template("a", vm("a")).encode())
    assert "SecurityLabelTemplate" in error.where


def test_files_without_a_namespace_are_read() -> None:
    assert parsed(take(b"<SecurityPolicyDefinition><PolicyHeader/></SecurityPolicyDefinition>")).types


# Labels with a meaning of their own


UNLABELLED_POLICY = definition(
    header("DEFAULT-UL", "<Version>1.0</Version>"),
    types_section(["SystemManagement", "__UNLABELED__"]),
    walls_section(["SystemManagement", "__UNLABELED__"]),
    template(
        "SystemManagement",
        vm("SystemManagement", ["SystemManagement", "__UNLABELED__"], [""])
        + vm("__UNLABELED__", ["__UNLABELED__"], ["__UNLABELED__"])
        + vm("Unlabelled", ["SystemManagement"]),
        resource("__UNLABELED__", ["__UNLABELED__"]),
    ),
)


def test_what_is_unlabelled() -> None:
    imported = take(
        UNLABELLED_POLICY,
        domains={
            "a.xm": b"name = 'a'\naccess_control = ['policy=DEFAULT-UL,label=__UNLABELED__']\n",
            "b.xm": b"name = 'b'\ndisk = ['phy:sda,hda,w']",
        },
    )
    policy = completed(imported)
    assert policy.types == {"default-ul/systemmanagement"}
    assert policy.walls == {"systemmanagement"}
    assert {vm.label for vm in policy.vms.values()} == {"unlabelled"}
    assert policy.vm_labels.keys() == {"unlabelled-2"}, "an ordinary label may not take the reserved name"
    assert policy.resource_labels["unlabelled"].inaccessible
    assert became(imported, "VirtualMachineLabel", How.CHANGED)["__UNLABELED__"] == "unlabelled"
    assert set(reasons(imported, "SimpleTypeEnforcementTypes/Type")) == {"__UNLABELED__"}
    assert set(reasons(imported, "ChineseWallTypes/Type")) == {"__UNLABELED__"}


def test_a_type_of_unlabelled_things_stays_where_a_label_has_it() -> None:
    names = ["a", "__UNLABELED__"]
    xml = definition(header("p"), types_section(names), template("Boot", vm("Boot", names) + vm("guest", names)))
    assert parsed(take(xml)).vm_labels["guest"].types == {"p/a", "p/unlabeled"}


def test_a_resource_label_without_a_type_is_inaccessible() -> None:
    xml = definition(header("p"), types_section(["a"]), template("Boot", vm("Boot", ["a"]), resource("r")))
    assert parsed(take(xml)).resource_labels["r"].inaccessible


# Versions and renames


FOLLOWS = "<Version>1.1</Version><FromPolicy><PolicyName>p</PolicyName><Version>1.0</Version></FromPolicy>"


def renaming(*labels: str, more: str = FOLLOWS) -> Imported:
    return take(
        definition(
            header("p", more),
            types_section(["a"]),
            template("Boot", vm("Boot", ["a"]) + "".join(labels), resource("Disk", ["a"], before="Drum")),
        )
    )


def test_a_policy_that_follows_another_is_left_to_complete() -> None:
    policy = parsed(renaming())
    assert (policy.version, policy.parent) == (2, "0" * 64)
    assert "# TO COMPLETE: the digest of the version before" in renaming().toml


def test_renames_of_labels() -> None:
    imported = renaming(vm("Crimson", ["a"], before="Red"), vm("Navy", ["a"], before="blue"))
    assert parsed(imported).renames.labels == {"red": "crimson", "blue": "navy"}
    assert became(imported, "VirtualMachineLabel/Name[@from]") == {"Red": "red"}
    assert "Drum" in reasons(imported, "ResourceLabel/Name[@from]")["Disk"]


def test_a_rename_makes_a_second_version_even_without_the_first() -> None:
    assert parsed(renaming(vm("Crimson", ["a"], before="Red"), more="")).version == 2


def test_renames_that_are_none_here() -> None:
    imported = renaming(
        vm("RED", ["a"], before="red"),
        vm("one", ["a"], before="two"),
        vm("two", ["a"], before="three"),
        vm("four", ["a"], before="Three"),
        vm("five", ["a"], before="__UNLABELED__"),
    )
    assert parsed(imported).renames.labels == {"three": "two"}
    assert set(reasons(imported, "VirtualMachineLabel/Name[@from]")) == {"red", "two", "Three", "__UNLABELED__"}


# Resources and domains


def test_resources_get_the_types_of_their_labels() -> None:
    imported = take(BANKS, resources=RESOURCES)
    resources = parsed(imported).resource_labels
    assert resources["file-srv-desk1.img"].types == {"a-bank/a-bank"}
    assert resources["phy-dev-hda3"].types == {"example.banks/autocorp"}
    assert resources["vlan-4"].kind is ResourceKind.NETWORK
    inaccessible = {name for name, each in resources.items() if each.inaccessible}
    assert inaccessible == {"phy-dev-hdb", "phy-dev-hdc", "phy-dev-hdd"}
    changed = became(imported, "resource", How.CHANGED)
    assert changed == {"phy:/dev/hdc": "phy-dev-hdc", "phy:/dev/hdd": "phy-dev-hdd"}


def test_a_resource_label_of_vlans_alone_is_of_networks() -> None:
    text = b"{'vlan:4': ('ACM', 'example.banks', 'AutoCorp')}"
    resources = parsed(take(BANKS, resources=text)).resource_labels
    assert resources["autocorp"].kind is ResourceKind.NETWORK
    assert resources["a-bank"].kind is ResourceKind.DISK


def test_a_domain_becomes_a_vm_whose_image_is_to_be_completed() -> None:
    imported = take(BANKS, domains={"/etc/xen/desk1": DOMAIN}, resources=RESOURCES)
    assert tomllib.loads(imported.toml)["images"] == {"desk1": {}}
    with pytest.raises(BadInput, match="sha256"):
        parsed(imported)
    entry = next(iter(completed(imported).vms.values()))
    assert (entry.name, entry.label, entry.host, entry.image) == ("desk1", "a-bank", "alpha", "desk1")
    assert entry.resources == ("file-srv-desk1.img",)
    assert set(reasons(imported, "domain/disk")) == {"Desk1: phy:/dev/hda3"}, "ACM would not start it with this one"


def test_labels_of_interfaces_become_their_types() -> None:
    xml = definition(
        header("p"),
        types_section(["a", "b"]),
        template(
            "Boot", vm("Boot", ["a", "b"]) + vm("both", ["a", "b"]), resource("na", ["a"]) + resource("nb", ["b"])
        ),
    )
    vif = "vif = ['mac=00:16:3e:00:00:01,policy=p,label=nb', 'bridge=xenbr0,policy=p,label=na']\n"
    setting = "access_control = ['policy=p,label=both']\n"
    imported = take(xml, domains={"a.xm": (setting + vif).encode()})
    assert next(iter(completed(imported).vms.values())).interfaces == ("p/b", "p/a")
    twice = take(xml, domains={"a.xm": (setting + vif.replace("label=na", "label=nb")).encode()})
    assert next(iter(completed(twice).vms.values())).interfaces is None
    assert set(reasons(twice, "domain/vif")) == {"a"}


def test_a_domain_with_the_label_of_domain_0_keeps_that_label() -> None:
    text = b"name = 'helper'\naccess_control = ['policy=example.banks,label=SystemManagement']"
    policy = completed(take(BANKS, domains={"helper": text}))
    assert policy.vms[next(iter(policy.vms))].label == "systemmanagement"
    assert policy.vm_labels["systemmanagement"].types == policy.types


def test_the_label_that_setlabel_wrote() -> None:
    text = b"name = 'old'\n#ACM_POLICY=example.banks-security_policy.xml\n#ACM_LABEL=B-Bank\nssidref = 0x00020002\n"
    assert completed(take(BANKS, domains={"old": text})).vms.popitem()[1].label == "b-bank"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"name = 'x'\nssidref = 0x00020002\n", "ssidref"),
        (b"name = 'x'\naccess_control = ['policy=another,label=A-Bank']\n", "another policy"),
    ],
)
def test_domains_that_cannot_start_are_left_out(text: bytes, why: str) -> None:
    imported = take(BANKS, domains={"x": text})
    assert parsed(imported).vms == {}
    assert why in reasons(imported, "domain")["x"]


def test_a_domain_that_domain_0_may_not_carry_is_left_out() -> None:
    xml = definition(header("p"), types_section(["a", "b"]), template("Boot", vm("Boot", ["a"]) + vm("x", ["b"])))
    imported = take(xml, domains={"x": b"access_control = ['policy=p,label=x']"})
    assert parsed(imported).vms == {}
    assert "p/b" in reasons(imported, "domain")["x"]


def test_a_domain_is_never_run() -> None:
    text = b"import os\nname = os.name\ndisk = [open('/etc/passwd').read()]\nif 1:\n    vif = ['']\nprint 'py2'\n"
    imported = take(BANKS, domains={"dir/some.xm": text})
    assert completed(imported).vms.keys() == {"some"}
    changes = {change.element for change in imported.dropped if change.name == "some"}
    assert {"domain/name", "domain/disk", "domain/vif"} <= changes


@pytest.mark.parametrize(
    "text",
    [
        b"access_control = labels[0]",
        b"access_control = ['policy=example.banks,label=A-Bank', 'policy=example.banks,label=B-Bank']",
        b"access_control = ['policy=example.banks']",
        b"access_control = 7",
        b"if secret:\n    access_control = ['policy=example.banks,label=A-Bank']",
        b"access_control = ['policy=example.banks,label=C-Bank']",
        b"\0",
        b"x" * (1 << 17),
    ],
)
def test_domains_whose_label_cannot_be_told_are_refused(text: bytes) -> None:
    assert "some.xm" in refused(BANKS, domains={"some.xm": text}).where


def test_the_nearest_label_is_told_with_file_and_line() -> None:
    text = b"name = 'x'\n\naccess_control = ['policy=example.banks,label=C-Bank']"
    error = refused(BANKS, domains={"some.xm": text})
    assert error.where == "some.xm: line 3: access_control"
    assert "Bank" in error.remedy


@pytest.mark.parametrize(
    "text",
    [
        "resources = __import__('os').environ",
        "resources = {'a': ('ACM', 'p', open('/etc/passwd').read())}",
        "resources = {'phy:/dev/hda': ('ACM', 'example.banks', 'A-Bank')}\nimport os",
        "resources = {'phy:/dev/hda': ('ACM', 'example.banks', 'A-Bank')} or {}",
        "resources = {'phy:/dev/hda': ('ACM', 'example.banks', 'unknown')}",
        "resources = {'phy:/dev/hda': ('FLASK', 'example.banks', 'A-Bank')}",
        "resources = {'phy:/dev/hda': ('A-Bank',)}",
        "resources = {'phy:/dev/hda': 'A-Bank'}",
        "resources = {'phy:/dev/hda': (1, 2)}",
        "resources = {'phy:hda': ('p', 'l'), 'phy:/dev/hda': ('p', 'l')}",
        "resources = {7: ('p', 'l')}",
        "resources = {'a\\x00b': ('p', 'l')}",
        "resources = {'a\\qb': ('p', 'l')}",
        "resources = {['a']: ('p', 'l')}",
        "resources = {'a': " + "(" * 50 + ")" * 50 + "}",
        "resources = {" + "'a': ('p', 'l')," * 40_000 + "}",
        "resources = {'a': -" + "-" * 100_000 + "1}",
        "resources = ['a']",
        "resources = {'a': ('p', 'l')",
        "resources =",
        "",
        "\0",
        " " * (2 << 20),
    ],
)
def test_bad_files_of_resources_are_refused(text: str) -> None:
    assert "resource_labels" in refused(BANKS, resources=text.encode()).where


# Hostile and broken XML


LAUGHS = (
    '<?xml version="1.0"?>\n<!DOCTYPE l [<!ENTITY a "ha">'
    + "".join(f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip("abcdefgh", "bcdefghi", strict=True))
    + "]>\n<SecurityPolicyDefinition>&i;</SecurityPolicyDefinition>"
).encode()


@pytest.mark.parametrize(
    ("xml", "words"),
    [
        pytest.param(LAUGHS, "document type", id="billion laughs"),
        pytest.param(
            b'<!DOCTYPE p SYSTEM "http://192.0.2.9/p.dtd"><SecurityPolicyDefinition/>', "document type", id="DTD"
        ),
        pytest.param(
            b"<!DOCTYPE p [<!ELEMENT p ANY>]>\n<SecurityPolicyDefinition/>", "document type", id="DTD without entities"
        ),
        pytest.param(
            b'<!DOCTYPE p [<!ENTITY x SYSTEM "file:///etc/passwd">]><SecurityPolicyDefinition>&x;'
            b"</SecurityPolicyDefinition>",
            "document type",
            id="external entity",
        ),
        pytest.param(b"<SecurityPolicyDefinition>&x;</SecurityPolicyDefinition>", "not XML", id="unknown entity"),
        pytest.param(b" " * (10 << 20), "too large", id="10 MiB"),
        pytest.param(b"<a>" * 10_000, "nested too deeply", id="deep"),
        pytest.param(
            b"<SecurityPolicyDefinition>" + b"<PolicyHeader/>" * 200_000 + b"</SecurityPolicyDefinition>",
            "too many elements",
            id="many",
        ),
        pytest.param(definition(header("p"), types_section(str(n) for n in range(5000))), "too many", id="types"),
        pytest.param(b"<Policy/>", "root element", id="another root"),
        pytest.param(template("a", vm("a")).encode(), "root element", id="labels alone"),
        pytest.param(b'<SecurityPolicyDefinition xmlns="http://example.com"/>', "another namespace", id="namespace"),
        pytest.param(b'<SecurityPolicyDefinition xmlns:a="b" a:c="d"/>', "another namespace", id="attribute"),
        pytest.param(b"", "not XML", id="nothing"),
        pytest.param(BANKS[: len(BANKS) // 2], "not XML", id="half"),
        pytest.param(b'<?xml version="1.0" encoding="utf-7"?><a/>', "XML", id="encoding"),
        pytest.param(b'<?xml version="1.0" encoding="nonsense"?><a/>', "XML", id="no encoding"),
        pytest.param(b"\xff\xfe\xfd", "XML", id="bytes"),
    ],
)
def test_hostile_xml_is_refused(xml: bytes, words: str) -> None:
    error = refused(xml)
    assert words in error.what
    assert error.where.startswith("policy")


@pytest.mark.parametrize(
    ("sections", "words", "where"),
    [
        ((header("p"), "<ChineseWal/>"), "unknown element", "line 4: ChineseWal"),
        ((header("p"), "<ChineseWall prority='x'/>"), "unknown attribute", "line 4: ChineseWall"),
        ((header("p"), "<ChineseWall priority='x'/>"), "bad priority", "ChineseWall"),
        ((header("p"), "<ChineseWall>x</ChineseWall>"), "text between", "ChineseWall"),
        ((header("p"), types_section(["a"]), types_section(["b"])), "more than one", "SecurityPolicyDefinition"),
        ((header("p"), types_section(["a", "a"])), "declared twice", "Type"),
        ((header("p"), types_section(["a" * 200])), "bad name", "Type"),
        ((header(""),), "bad name", "PolicyName"),
        ((header("p", "<Version>one</Version>"),), "bad version", "Version"),
        ((header("p"), walls_section(["a"], conflict("c", "a", "b"))), "unknown Chinese Wall type", "Conflict"),
        ((header("p"), walls_section(["a"], conflict("c" * 200, "a"))), "bad name", "Conflict"),
        ((header("p"), template("x", vm("a"))), "unknown bootstrap label", "SubjectLabels"),
        ((header("p"), template("a", vm("a", ["b"]))), "unknown type", "VirtualMachineLabel"),
        ((header("p"), template("a", vm("a", (), ["b"]))), "unknown Chinese Wall type", "VirtualMachineLabel"),
        ((header("p"), template("a", vm("a") + vm("a"))), "two labels", "Name"),
        ((header("p"), template("a", vm("a", before="b" * 200))), "bad name", "Name"),
        ((header("p"), template("a", "<VirtualMachineLabel/>")), "without a name", "VirtualMachineLabel"),
    ],
)
def test_what_the_schema_does_not_know_is_refused(sections: Sequence[str], words: str, where: str) -> None:
    error = refused(definition(*sections))
    assert words in error.what
    assert where in error.where


def test_a_label_in_conflict_with_itself_is_refused() -> None:
    labels = vm("Boot", (), ["a", "b"]) + vm("both", (), ["a", "b"])
    error = refused(
        definition(header("p"), walls_section(["a", "b"], conflict("set", "a", "b")), template("Boot", labels))
    )
    assert "conflict with itself" in error.what
    assert "'both'" in error.where


def test_foreign_text_stays_within_comments() -> None:
    nasty = 'x"\n[demands]\nallow_software_tpm = true\n#\x7f'
    imported = take(definition(header("p", f"<Date>{nasty}</Date>"), types_section([nasty])))
    policy = parsed(imported)
    assert not policy.demands.allow_software_tpm
    assert imported.toml.isascii()
    assert policy.types == {"p/x-demands-allow_software_tpm-true"}


@pytest.mark.parametrize(
    ("coalition", "host"),
    [("Finance", ALPHA), ("finance", Host(name="A", address="192.0.2.1")), ("finance", Host(name="a", address="here"))],
)
def test_bad_names_from_the_caller_are_refused(coalition: str, host: Host) -> None:
    with pytest.raises(BadInput):
        import_acm(BANKS, coalition=coalition, host=host)


def test_without_a_host_the_address_is_to_be_completed() -> None:
    imported = import_acm(BANKS, coalition="finance")
    assert parsed(imported).hosts.keys() == {"host"}
    assert 'address = "192.0.2.1"  # TO COMPLETE' in imported.toml


@given(st.binary(max_size=300))
@settings(max_examples=examples(60), deadline=None)
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for more in ({"labels_xml": data}, {"resources": data}, {"domains": {"d": data}}):
        for xml in (data, BANKS):
            with suppress(BadInput):
                take(xml, **more)


# Any policy


@dataclass(frozen=True, kw_only=True)
class Acm:
    """A policy of ACM as the test knows it."""

    types: tuple[str, ...]
    walls: tuple[str, ...]
    labels: Mapping[str, tuple[frozenset[str], frozenset[str]]]
    """The first is that of Domain-0."""
    resources: Mapping[str, frozenset[str]]
    sets: tuple[tuple[str, frozenset[str]], ...]

    def xml(self) -> bytes:
        bootstrap = next(iter(self.labels))
        labels = "".join(vm(name, sorted(types), sorted(walls)) for name, (types, walls) in self.labels.items())
        resources = "".join(resource(name, sorted(types)) for name, types in self.resources.items())
        return definition(
            header("Some.Policy"),
            types_section(self.types),
            walls_section(self.walls, *(conflict(name, *sorted(members)) for name, members in self.sets)),
            template(bootstrap, labels, resources),
        )


_PARTS = st.sampled_from(["A", "a", "B-Bank", "b_bank", "Ledger", "é", "x y", "a.", "unlabelled", "A/a"])
_NAMES = st.one_of(
    st.lists(_PARTS, min_size=1, max_size=4).map(".".join),
    st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S")), min_size=1, max_size=20),
)


@st.composite
def policies(draw: st.DrawFn) -> Acm:
    pool = draw(st.lists(_NAMES, min_size=2, max_size=10, unique=True))
    types = tuple(draw(st.lists(st.sampled_from(pool), min_size=1, unique=True)))
    walls = tuple(draw(st.lists(st.sampled_from(pool), unique=True)))
    some_types, some_walls = (
        st.frozensets(st.sampled_from(each)) if each else st.just(frozenset()) for each in (types, walls)
    )
    names = draw(st.lists(_NAMES, min_size=1, max_size=6, unique=True))
    labels = {name: (draw(some_types), draw(some_walls)) for name in names}
    worn = [held for _, held in list(labels.values())[1:]]
    sets = [(name, draw(some_walls)) for name in draw(st.lists(_NAMES, max_size=4))]
    resources = {name: draw(some_types) for name in draw(st.lists(_NAMES, max_size=3, unique=True))}
    return Acm(
        types=types,
        walls=walls,
        labels=labels,
        resources=resources,
        sets=tuple((name, held) for name, held in sets if all(len(held & label) < 2 for label in worn)),
    )


def translated(imported: Imported, element: str, names: Iterable[str]) -> dict[str, str]:
    """Old → new, from what the import says; what it does not speak of has kept its name."""
    told = became(imported, element)
    mapping = {name: told.get(name, name) for name in names}
    assert len(set(mapping.values())) == len(mapping), "two became one"
    return mapping


@given(policies())
@settings(max_examples=examples(150), deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_every_policy_forbids_the_same_after_its_import(acm: Acm) -> None:
    imported = take(acm.xml())
    assert imported == take(acm.xml())
    tomllib.loads(imported.toml)
    policy = parsed(imported)
    types = translated(imported, "SimpleTypeEnforcementTypes/Type", acm.types)
    walls = translated(imported, "ChineseWallTypes/Type", acm.walls)
    labels = translated(imported, "VirtualMachineLabel", list(acm.labels)[1:])
    resources = translated(imported, "ResourceLabel", [name for name, held in acm.resources.items() if held])
    made = {change.became for change in imported.dropped if change.element == "VirtualMachineLabel"}
    assert policy.types - made == set(types.values())
    assert policy.vm_labels.keys() == set(labels.values())
    assert policy.walls <= set(walls.values())
    for old, new in labels.items():
        held, worn = acm.labels[old]
        label = policy.vm_labels[new]
        assert label.types - made == {types[name] for name in held}
        assert policy.walls_of(label) & set(walls.values()) == {walls[name] for name in worn}
    for old, new in resources.items():
        assert policy.resource_labels[new].types == {types[name] for name in acm.resources[old]}
    assert sum(not each.inaccessible for each in policy.resource_labels.values()) == len(resources)
    real = sorted(sorted(walls[name] for name in members) for _, members in acm.sets if len(members) > 1)
    assert sorted(map(sorted, policy.conflict_sets.values())) == real
    _, host = policy.hosts.popitem()  # type: ignore[attr-defined]
    management = {types[name] for name in next(iter(acm.labels.values()))[0]}
    assert host.types - made == management
    for one, other in combinations(labels, 2):
        assert shares(policy, labels[one], labels[other]) == bool(acm.labels[one][0] & acm.labels[other][0])
        assert excludes(policy, labels[one], labels[other]) == any(
            len((acm.labels[one][1] | acm.labels[other][1]) & members) > 1 for _, members in acm.sets
        )


def shares(policy: Policy, one: str, other: str) -> bool:
    a, b = policy.vm_labels[one], policy.vm_labels[other]
    return bool(a.writes & b.reads or b.writes & a.reads)


def excludes(policy: Policy, one: str, other: str) -> bool:
    others: list[VmLabel] = [policy.vm_labels[other]]
    return conflicts(policy, policy.vm_labels[one], others) is not None


# The command


def run(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    chosen = parser.parse_args(["import-acm", *arguments])
    return int(chosen.run(chosen))


@pytest.fixture
def policy_path(tmp_path: Path) -> Path:
    path = tmp_path / "banks-security_policy.xml"
    path.write_bytes(BANKS)
    return path


def test_the_command_writes_a_new_file_and_says_what_changed(
    policy_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, domain, resources = tmp_path / "policy.toml", tmp_path / "desk1", tmp_path / "resource_labels"
    domain.write_bytes(DOMAIN)
    resources.write_bytes(RESOURCES)
    arguments = [str(policy_path), "--coalition", "finance", "--host", "alpha=192.0.2.7", "--out", str(out)]
    assert run([*arguments, "--domain", str(domain), "--resources", str(resources)]) == 0
    imported = take(BANKS, domains={str(domain): DOMAIN}, resources=RESOURCES)
    assert out.read_text() == imported.toml
    said = capsys.readouterr().out
    for words in ("TO COMPLETE", "dropped:", "renamed:", "A-Bank.MarketAnalysis", "a-bank/marketanalysis"):
        assert words in said


def test_the_command_overwrites_nothing(policy_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "policy.toml"
    out.write_text("mine")
    with pytest.raises(BadInput, match="there already") as caught:
        run([str(policy_path), "--coalition", "finance", "--out", str(out)])
    assert caught.value.exit_code == 2
    assert out.read_text() == "mine"


def test_the_command_prints_the_file_where_none_is_named(policy_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([str(policy_path), "--coalition", "finance"]) == 0
    said = capsys.readouterr()
    assert said.out == import_acm(BANKS, coalition="finance").toml
    assert "renamed:" in said.err


def test_the_command_prints_json(policy_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([str(policy_path), "--coalition", "finance", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["toml"] == import_acm(BANKS, coalition="finance").toml
    first = Dropped(**document["changes"][0])
    assert (first.how, first.element, first.name) == (How.RENAMED, "PolicyName", "example.banks")


def test_the_command_names_the_file_that_is_wrong(tmp_path: Path, policy_path: Path) -> None:
    labels = tmp_path / "labels.xml"
    labels.write_bytes(b"<no/>")
    policy_path.write_bytes(definition(header("banks"), *BANK_SECTIONS))
    with pytest.raises(BadInput, match=str(labels)):
        run([str(policy_path), "--labels", str(labels), "--coalition", "finance"])
    with pytest.raises(BadInput, match="--host"):
        run([str(policy_path), "--coalition", "finance", "--host", "alpha"])
    with pytest.raises(BadInput, match="missing"):
        run([str(tmp_path / "missing.xml"), "--coalition", "finance"])
