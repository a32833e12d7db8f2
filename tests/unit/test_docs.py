"""The documents keep pace: their links lead somewhere, and every command that they show exists."""

import argparse
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from shamon_host.cli.main import build_parser
from shamon_host.domain.decision import Check
from shamon_host.testing.memory_world import MemoryWorld
from shamon_host.testing.story import Story

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
MAX_LINE = 120

each_document = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))


def test_what_the_readme_shows_of_the_demo_are_its_steps() -> None:
    shown = re.findall(r"^ok   (.*) \(\d+ ms\)$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert shown
    assert set(shown) <= _steps()


def test_the_threat_model_names_steps_of_the_story() -> None:
    text = (ROOT / "docs/threat-model.md").read_text()
    named = {
        name for row in re.findall(r"the story: (.*) \|$", text, re.MULTILINE) for name in re.findall('"(.*?)"', row)
    }
    assert named
    assert {name for name in named if not any(step.startswith(name) for step in _steps())} == set()


def test_every_check_of_the_monitor_is_either_asked_or_said_not_to_be() -> None:
    text = (ROOT / "docs/threat-model.md").read_text().replace("\n", " ")
    asked, later = re.findall(r"Asked today: (.*?)\. The others \((.*?)\)", text)[0]
    code = "".join(path.read_text() for path in sorted((ROOT / "shamon_host").rglob("*.py")))
    called = {check.value for check in Check if f"monitor.{check.value.replace('.', '_')}" in code}
    assert set(re.findall("`(.*?)`", asked)) == called
    assert set(re.findall("`(.*?)`", later)) == {check.value for check in Check} - called


def test_every_contract_suite_is_in_the_table_of_ports() -> None:
    text = (ROOT / "docs/architecture.md").read_text()
    suites = [path.name for path in (ROOT / "shamon_host/testing/contracts").glob("[a-z]*.py")]
    assert [name for name in suites if f"`testing/contracts/{name}`" not in text] == []


@each_document
def test_every_relative_link_resolves(path: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if "://" in link:
            continue
        target, _, anchor = link.partition("#")
        file = (path.parent / target).resolve() if target else path
        assert file.exists(), link
        if anchor:
            assert anchor in _anchors(file), link


@each_document
def test_no_line_is_too_long(path: Path) -> None:
    """Tables cannot be wrapped."""
    long = [line for line in path.read_text().splitlines() if len(line) > MAX_LINE and not line.startswith("|")]
    assert long == []


@each_document
def test_every_make_target_exists(path: Path) -> None:
    wanted = {name for code in _code(path) for name in re.findall(r"(?:^|\s)make ([a-z-]+)", code)}
    assert wanted <= TARGETS


@each_document
def test_every_file_of_the_repository_that_is_named_exists(path: Path) -> None:
    text = path.read_text()
    named = re.findall(r"`((?:shamon_host|tests|vm_images|examples|requirements|tools)/[\w./*-]+)`", text)
    below = r"`((?:attestation|cli|daemon|domain|hypervisor|links|peer|testing)/[\w./*-]+)`"
    named += [f"shamon_host/{name}" for name in re.findall(below, text)]
    assert [name for name in named if not list(ROOT.glob(name.rstrip("/")))] == []


@each_document
def test_every_module_that_a_table_of_a_package_names_exists(path: Path) -> None:
    sections = re.findall(r"^### `(shamon_host/\w+)`\n(.*?)(?=^##)", path.read_text(), re.MULTILINE | re.DOTALL)
    named = [
        f"{package}/{module}"
        for package, section in sections
        for row in re.findall(r"^\|([^|]*)\|", section, re.MULTILINE)
        for module in re.findall(r"`(\w+)`", row)
    ]
    assert [name for name in named if not (ROOT / name).exists() and not (ROOT / f"{name}.py").exists()] == []


@each_document
def test_every_shamon_command_exists(path: Path) -> None:
    for code in _code(path):
        for words in re.findall(r"(?:^|[\s/])shamon ([a-z][^\n#<]*)", code):
            _check_command(words.split())


def _steps() -> set[str]:
    return {name for name, _ in Story(world=MemoryWorld()).steps()}


def _check_command(words: list[str]) -> None:
    """The words name a command of the parser (`a|b` names two), and their options are its options."""
    for name in _alternatives(words[0]):
        parser = _subparsers(build_parser()).get(name)
        assert parser is not None, f"shamon {name}"
        actions = _subparsers(parser)
        rest = words[1:]
        if actions and rest and re.match(r"[a-z]", rest[0]):
            for action in _alternatives(rest[0]):
                assert action in actions, f"shamon {name} {action}"
                _check_options(actions[action], rest[1:])
        else:
            _check_options(parser, rest)


def _check_options(parser: argparse.ArgumentParser, words: list[str]) -> None:
    for word in words:
        if match := re.fullmatch(r"\[?(--[a-z-]+)\]?", word):
            assert match[1] in parser._option_string_actions, f"{parser.prog} {match[1]}"


def _alternatives(word: str) -> list[str]:
    return word.split("|")


def _subparsers(parser: argparse.ArgumentParser) -> Mapping[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def _code(path: Path) -> Iterator[str]:
    """What stands in fenced blocks, indented blocks and code spans, continued lines joined."""
    text = path.read_text().replace("\\\n", " ")
    for block in re.findall(r"^```[^\n]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        yield from block.splitlines()
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    yield from (line for line in text.splitlines() if line.startswith("    "))
    yield from re.findall(r"`([^`\n]+)`", text)


def _anchors(path: Path) -> set[str]:
    """The anchors that headings get: lower case, blanks as hyphens, punctuation left out."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
