"""The documents keep pace: their links lead somewhere, every command that they show exists, and where one is shown with
what it prints, it prints that.
"""

import argparse
import hashlib
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from itertools import takewhile
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from shamon_host.cli.main import build_parser, main
from shamon_host.domain.decision import Check
from shamon_host.domain.policy_file import parse_policy
from shamon_host.peer.signed_record import public_text
from shamon_host.testing.memory_world import MemoryWorld
from shamon_host.testing.story import Story

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
MAX_LINE = 120
STORY_EXAMPLES = ROOT / "examples/three-organisations"
CONSOLES = [path for path in DOCUMENTS if "```console\n" in path.read_text()]

each_document = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))


def test_what_the_readme_shows_of_the_demo_is_what_it_prints(capsys: pytest.CaptureFixture[str]) -> None:
    """But for what took how long here."""
    [block] = re.findall(r"^```\n(\.\.\.\nok   .*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    shown = [line for line in block.splitlines()[:-1] if line != "..."]
    assert main(["demo"]) == 0
    printed = {_without_duration(line) for line in capsys.readouterr().out.splitlines()}
    assert [line for line in shown if _without_duration(line) not in printed] == []


def test_the_threat_model_names_steps_of_the_story() -> None:
    text = (ROOT / "docs/threat-model.md").read_text()
    named = {
        name for row in re.findall(r"the story: (.*) \|$", text, re.MULTILINE) for name in re.findall('"(.*?)"', row)
    }
    assert named
    assert {name for name in named if not any(step.startswith(name) for step in _steps())} == set()


def test_every_check_of_the_monitor_is_asked() -> None:
    text = (ROOT / "docs/threat-model.md").read_text().replace("\n", " ")
    [asked] = re.findall(r"Asked today: (.*?)\. These are all 13\.", text)
    code = "".join(path.read_text() for path in sorted((ROOT / "shamon_host").rglob("*.py")))
    called = {check.value for check in Check if f"monitor.{check.value.replace('.', '_')}" in code}
    assert set(re.findall("`(.*?)`", asked)) == called == {check.value for check in Check}


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


def test_the_story_of_the_policies_is_shown_with_what_its_commands_print() -> None:
    assert ROOT / "docs/three-organisations.md" in CONSOLES


@pytest.mark.parametrize("path", CONSOLES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_on_a_console_prints_what_the_page_says(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One page is one session, in a directory with the examples of the story and the private keys that they name."""
    for policy in STORY_EXAMPLES.glob("*.toml"):
        shutil.copy(policy, tmp_path)
        for name, public in parse_policy(policy.read_bytes(), source=policy.name).keys.items():
            (tmp_path / f"{name}.key").write_bytes(_private_key(name, public))
    monkeypatch.chdir(tmp_path)
    for command, shown in _console(path):
        words = shlex.split(command)
        if words[0] == "sed":
            *words, redirection, target = words
            assert redirection == ">", command
            (tmp_path / target).write_bytes(subprocess.run(words, check=True, capture_output=True).stdout)
        else:
            assert words[0] == "shamon", command
            main(words[1:])
        printed = "".join(capsys.readouterr())
        assert re.fullmatch(_pattern(shown), _in_one_line(printed)), f"{command}\n{printed}"
    for picture in tmp_path.glob("*.svg"):
        assert picture.read_bytes() == (path.parent / picture.name).read_bytes(), f"{picture.name} is not up to date"


def _private_key(name: str, public: str) -> bytes:
    """The private half of a key of the story, in PEM. They are derived from their names: nobody should use them."""
    key = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(f"three-organisations/{name}".encode()).digest())
    assert public_text(key) == public, name
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _console(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Each command of the page's consoles, in order, with the lines that are shown under it."""
    for block in re.findall(r"^```console\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL):
        lines = block.splitlines()
        assert lines[0].startswith("$ "), lines[0]
        for number, line in enumerate(lines):
            if line.startswith("$ "):
                yield line[2:], list(takewhile(lambda each: not each.startswith("$ "), lines[number + 1 :]))


def _pattern(shown: list[str]) -> str:
    """A regular expression for the output of which these lines are shown: a line `...` stands for any lines. Blanks and
    the ends of lines do not count, since long lines are broken."""
    parts = re.split(r"^\.\.\.$", "\n".join(shown), flags=re.MULTILINE)
    return "(?:.* )?".join(re.escape(_in_one_line(part)) for part in parts)


def _in_one_line(text: str) -> str:
    """The words of a text, each with one blank behind it."""
    return "".join(f"{word} " for word in text.split())


def _without_duration(line: str) -> str:
    return re.sub(r" \(\d+ ms\)$", "", line)


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
