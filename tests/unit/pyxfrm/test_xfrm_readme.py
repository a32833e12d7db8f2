"""The package's README: its examples name what exists, its tables name everything, its links and lines hold."""

import ast
import re
from pathlib import Path

import pytest

pytest.importorskip("pyroute2", reason="needs the host extra: pyroute2")

from shamon_host import pyxfrm
from shamon_host.pyxfrm.async_client import AsyncXfrm
from shamon_host.pyxfrm.client import Xfrm
from shamon_host.pyxfrm.constants import Message

PACKAGE = Path(pyxfrm.__file__).parent
TEXT = (PACKAGE / "README.md").read_text()
EXAMPLES = re.findall(r"^```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 4


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_names_what_exists(example: str) -> None:
    tree = compile(example, "README.md", "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "shamon_host.pyxfrm":
            assert {alias.name for alias in node.names} <= set(pyxfrm.__all__)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "xfrm":
            assert hasattr(Xfrm, node.attr)
            assert hasattr(AsyncXfrm, node.attr)


def test_every_module_is_in_the_table() -> None:
    named = set(re.findall(r"`(\w+)`", TEXT))
    modules = {path.stem for path in PACKAGE.glob("[a-z]*.py")}
    assert modules - {"errors"} <= named


def test_every_message_and_method_is_in_the_table() -> None:
    table = TEXT[TEXT.index("| message |") : TEXT.index("## Why so")]
    told = {"NEWSADINFO", "REPORT", "MAPPING"}  # as an answer, or as Reported and Mapped
    assert {message.name for message in Message} - told <= set(re.findall(r"[A-Z]{4,}", table))
    methods = {name for name in vars(Xfrm) if not name.startswith("_")}
    others = {"close", "run", "statistics", "delete_sas", "delete_policies"}
    assert methods - others <= set(re.findall(r"`(\w+)`", table))


def test_lines_are_short() -> None:
    assert [line for line in TEXT.splitlines() if len(line) > 120 and not line.startswith("|")] == []
