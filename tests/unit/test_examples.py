"""Every example is a policy that the product accepts, and docs/policy.md names every key with its real default."""

import dataclasses
import re
from pathlib import Path

import pytest

from shamon_host.cli.main import main
from shamon_host.domain.policy import Demands, HostEntry, Intervals, PinnedImage, VmEntry
from shamon_host.domain.policy_file import DEFAULT_PORT, parse_policy
from shamon_host.domain.policy_form import policy_document

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.toml"))
POLICY_DOCUMENT = (ROOT / "docs/policy.md").read_text()
SECTIONS = dict(re.findall(r"^## `\[?([a-z]+).*?`\n(.*?)(?=^## |\Z)", POLICY_DOCUMENT, re.MULTILINE | re.DOTALL))


def test_there_are_examples() -> None:
    assert EXAMPLES


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_is_a_good_policy(path: Path) -> None:
    policy = parse_policy(path.read_bytes(), source=path.name)
    assert policy.hosts
    assert policy.vms


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_the_command_line_finds_nothing_wrong_with_an_example(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["policy", "check", str(path)]) == 0
    assert "good" in capsys.readouterr().out


def test_every_section_of_a_policy_is_documented() -> None:
    policy = parse_policy(EXAMPLES[0].read_bytes(), source=EXAMPLES[0].name)
    assert set(policy_document(policy)) - {"format"} == set(SECTIONS)


@pytest.mark.parametrize(
    ("section", "form"),
    [("hosts", HostEntry), ("images", PinnedImage), ("vms", VmEntry), ("intervals", Intervals), ("demands", Demands)],
)
def test_every_key_of_a_section_is_documented(section: str, form: type[HostEntry]) -> None:
    documented = set(re.findall(r"^\| `([a-z0-9_]+)` \|", SECTIONS[section], re.MULTILINE))
    assert documented == {field.name for field in dataclasses.fields(form)} - {"name"}


@pytest.mark.parametrize(
    ("section", "key", "default"),
    [
        ("hosts", "port", DEFAULT_PORT),
        *[("intervals", field.name, field.default) for field in dataclasses.fields(Intervals)],
        ("demands", "allow_software_tpm", str(Demands().allow_software_tpm).lower()),
        ("demands", "empty_pcrs", list(Demands().empty_pcrs)),
    ],
)
def test_the_documented_default_is_the_real_one(section: str, key: str, default: object) -> None:
    row = re.search(rf"^\| `{key}` \|[^|]*\| `([^`]*)` \|", SECTIONS[section], re.MULTILINE)
    assert row is not None
    assert row[1] == str(default)
