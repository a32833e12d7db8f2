"""Every example is a policy that the product accepts, and docs/policy.md names every key with its real default."""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from shamon_host.cli.main import main
from shamon_host.domain.adaptation import adapt
from shamon_host.domain.authority import required_signatures
from shamon_host.domain.compatibility import compatibility
from shamon_host.domain.flows import flow_system
from shamon_host.domain.guest_demand import GuestDemand
from shamon_host.domain.labels import UNLABELLED, TypeName
from shamon_host.domain.overlay import Overlay
from shamon_host.domain.policy import (
    Demands,
    Department,
    HostEntry,
    Intervals,
    Organisation,
    PinnedBoot,
    PinnedImage,
    Policy,
    Primary,
    Renames,
    Signing,
    TypeDefinition,
    VmEntry,
)
from shamon_host.domain.policy_file import parse_policy
from shamon_host.domain.policy_form import policy_document
from shamon_host.domain.policy_sections import DEFAULT_PORT, SECTIONS

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "examples").rglob("*.toml"))
POLICY_DOCUMENT = (ROOT / "docs/policy.md").read_text()
DOCUMENTED = dict(re.findall(r"^## `\[?([a-z]+).*?`\n(.*?)(?=^## |\Z)", POLICY_DOCUMENT, re.MULTILINE | re.DOTALL))
FORMS: Mapping[str, type] = {
    "signing": Signing,
    "organisations": Organisation,
    "departments": Department,
    "types": TypeDefinition,
    "hosts": HostEntry,
    "images": PinnedImage,
    "guests": GuestDemand,
    "vms": VmEntry,
    "overlays": Overlay,
    "renames": Renames,
    "intervals": Intervals,
    "demands": Demands,
}
"""Sections whose keys are the fields of a value."""
OTHER_KEYS = {
    "coalition": {"name", "version", "parent", "expires", "primary"},
    "keys": {"public"},
    "walls": set(),
    "labels": {"types", "reads", "writes", "walls", "quarantine"},
    "resources": {"types", "kind", "inaccessible", "sha256"},
    "conflicts": {"types"},
}
DEFINITION = TypeDefinition(name=TypeName("acme/red"))


def test_there_are_examples() -> None:
    assert {path.relative_to(ROOT / "examples").parent.name for path in EXAMPLES} == {"", "three-organisations"}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_is_a_good_policy(path: Path) -> None:
    policy = parse_policy(path.read_bytes(), source=path.name)
    assert policy.hosts
    assert policy.vms


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_the_command_line_finds_nothing_wrong_with_an_example(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["policy", "check", str(path)]) == 0
    assert "good" in capsys.readouterr().out


def test_the_second_version_of_the_three_organisations_follows_the_first_and_all_of_them_sign_it() -> None:
    first, second = three_organisations("bank-and-rival"), three_organisations("with-auditor")
    assert second.parent == first.digest
    reasons = [requirement.reason.partition(":")[0] for requirement in required_signatures(second, first)]
    assert reasons == [
        "signing keys of version 1",
        "organisation audit",
        "organisation bank",
        "organisation rival",
    ]


def test_the_auditors_own_policy_shares_what_the_bank_discloses_and_nothing_else() -> None:
    theirs, own = (flow_system(three_organisations(name)) for name in ("with-auditor", "auditor-own"))
    assert set(compatibility(own, theirs).shared) == {"bank/disclosed"}
    assert adapt(theirs, own, [TypeName("audit/questions")]).possible
    assert not adapt(theirs, own, [TypeName("audit/report")]).possible


def test_without_the_rivals_word_a_chain_leads_from_the_rival_to_the_bank() -> None:
    permitted, denied = (flow_system(three_organisations(name)) for name in ("rival-own", "with-auditor"))
    steps = compatibility(permitted, denied).answer(TypeName("bank/ledger")).witness
    assert [step.source for step in steps] == ["rival/disclosed", "audit/report"]
    assert steps[-1].target == "bank/ledger"


def three_organisations(name: str) -> Policy:
    path = ROOT / f"examples/three-organisations/{name}.toml"
    return parse_policy(path.read_bytes(), source=path.name)


def test_every_section_of_a_policy_is_documented() -> None:
    assert set(DOCUMENTED) == set(SECTIONS)
    # and a policy has no other sections
    whole = three_organisations("with-auditor")
    assert set(policy_document(whole)) - {"format"} == set(SECTIONS) - {"guests"}, "left out where it is empty"


@pytest.mark.parametrize("section", SECTIONS)
def test_every_key_of_a_section_is_documented(section: str) -> None:
    documented = set(re.findall(r"^\| `([a-z0-9_]+)` \|", DOCUMENTED[section], re.MULTILINE))
    if section in FORMS:
        keys = {field.name for field in dataclasses.fields(FORMS[section])} - {"name"}
        if section == "images":  # the value has these three in one
            keys = keys - {"boot"} | {field.name for field in dataclasses.fields(PinnedBoot)}
        assert documented == keys
    else:
        assert documented == OTHER_KEYS[section]


@pytest.mark.parametrize(
    ("section", "key", "default"),
    [
        ("coalition", "primary", f'"{Primary.CHINESE_WALL}"'),
        ("types", "on_failure", f'"{DEFINITION.on_failure}"'),
        ("types", "tpm", f'"{DEFINITION.tpm}"'),
        ("labels", "quarantine", f'"{UNLABELLED.quarantine}"'),
        ("types", "confidentiality", DEFINITION.confidentiality),
        ("types", "integrity", DEFINITION.integrity),
        ("hosts", "port", DEFAULT_PORT),
        *[
            ("guests", field.name, f'"{field.default}"' if field.name == "on_failure" else field.default)
            for field in dataclasses.fields(GuestDemand)
            if field.name not in ("name", "sha256")
        ],
        *[("intervals", field.name, field.default) for field in dataclasses.fields(Intervals)],
        ("demands", "allow_software_tpm", str(Demands().allow_software_tpm).lower()),
        ("demands", "empty_pcrs", list(Demands().empty_pcrs)),
    ],
)
def test_the_documented_default_is_the_real_one(section: str, key: str, default: object) -> None:
    row = re.search(rf"^\| `{key}` \|[^|]*\| `([^`]*)` \|", DOCUMENTED[section], re.MULTILINE)
    assert row is not None
    assert row[1] == str(default)
