"""Lines of keys: against documents that are written together with what is expected, and against tomllib's own keys."""

import random
import re
import time
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, TypeAlias

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shamon_host.domain.toml_positions import MAX_UNCLOSED, KeyPath, Position, positions, split_path
from shamon_host.domain.toml_reader import Reader

Tree: TypeAlias = "str | list[Tree] | dict[str, Tree]"
"""What a document holds; a string is a scalar as it is spelled."""
Pairs: TypeAlias = list[tuple[tuple[str, ...], Tree]]

EXAMPLE = r"""# [none]
title = "x" # b = 1
"two words".'a.b' . c = [ # ]
  1, [2,
  3], # "
  {x = 1, y.z = [
  4]},
]

[deep.er]
text = '''
[no]
no = 1''''
"\u0041\"" = 1979-05-27 07:32:00
[[list]]
[list.inner]
[[list]]
[deep]
late = {}
"""
EXAMPLE_PLACES = {
    ("title",): (2, 1),
    ("two words",): (3, 1),
    ("two words", "a.b"): (3, 13),
    ("two words", "a.b", "c"): (3, 21),
    ("two words", "a.b", "c", 0): (4, 3),
    ("two words", "a.b", "c", 1): (4, 6),
    ("two words", "a.b", "c", 1, 0): (4, 7),
    ("two words", "a.b", "c", 1, 1): (5, 3),
    ("two words", "a.b", "c", 2): (6, 3),
    ("two words", "a.b", "c", 2, "x"): (6, 4),
    ("two words", "a.b", "c", 2, "y"): (6, 11),
    ("two words", "a.b", "c", 2, "y", "z"): (6, 13),
    ("two words", "a.b", "c", 2, "y", "z", 0): (7, 3),
    ("deep",): (18, 2),
    ("deep", "er"): (10, 7),
    ("deep", "er", "text"): (11, 1),
    ("deep", "er", 'A"'): (14, 1),
    ("deep", "late"): (19, 1),
    ("list",): (15, 3),
    ("list", 0): (15, 3),
    ("list", 0, "inner"): (16, 7),
    ("list", 1): (17, 3),
}


def paths(value: object, path: KeyPath = ()) -> Iterator[KeyPath]:
    """Every path of what tomllib made."""
    children: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for part, child in children:
        yield (*path, part)
        yield from paths(child, (*path, part))


def places(text: str) -> dict[KeyPath, tuple[int, int]]:
    return {path: (place.line, place.column) for path, place in positions(text).items()}


# Examples


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_every_key_has_its_place(newline: str) -> None:
    text = EXAMPLE.replace("\n", newline)
    assert set(paths(tomllib.loads(text))) == set(EXAMPLE_PLACES)
    assert places(text) == EXAMPLE_PLACES


def test_what_is_not_declared_has_the_line_of_its_ancestor() -> None:
    found = positions(EXAMPLE)
    assert found.line(("deep", "er", "text")) == 11
    assert found.line(("deep", "er", "missing")) == 10
    assert found.line(("deep", "er", "text", "too", "deep")) == 11
    assert found.line(("list", 1, "inner")) == 17
    assert found.line(("list", 2)) == found.line(("list", -1)) == found.line(("list", "0")) == 15
    assert found.line(("missing", "er")) == found.line(()) == found.line((0,)) == 0


def test_nesting_goes_deeper_than_that_of_tomllib() -> None:
    limit = MAX_UNCLOSED
    assert positions("a = " + "[" * limit + "1" + "]" * limit).line(("a", *(0,) * limit)) == 1
    for deeper in ("[" * (limit + 1) + "1", "{a = " * (limit + 1)):
        with pytest.raises(ValueError, match="nesting"):
            positions(f"a = {deeper}")
    with pytest.raises(RecursionError):
        tomllib.loads("a = " + "[" * limit + "1" + "]" * limit)


def test_positions_are_a_mapping() -> None:
    found = positions(EXAMPLE)
    assert found[("list", 1)] == Position(line=17, column=3)
    assert len(found) == len(EXAMPLE_PLACES)
    assert () not in found
    assert ("list", 2) not in found
    assert ("list", "0") not in found
    assert (0,) not in found
    assert list(positions("b = [1]\na.c = {}")) == [("b",), ("b", 0), ("a",), ("a", "c")]
    assert dict(positions("")) == {}


def test_escapes_in_keys() -> None:
    text = r""" "\b\t\n\f\r\"\\\u00e9\U0001F600\u0041" = 1 """
    assert list(positions(text)) == list(paths(tomllib.loads(text)))
    assert positions(text).line(('\b\t\n\f\r"\\\xe9\N{GRINNING FACE}A',)) == 1


def test_a_finding_leads_to_its_line() -> None:
    found = positions('[labels.red]\ntypes = ["acme/red"]\n[types."acme/red"]\non_failure = "stay"\n')
    assert found.find('types."acme/red".on_failure') == 4
    assert found.find("labels.red.types") == 2
    assert found.find("labels.red.missing") == 1
    assert found.find("hosts") == found.find("") == 0


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ()),
        ("labels.red.types", ("labels", "red", "types")),
        ('types."acme/red".on_failure', ("types", "acme/red", "on_failure")),
        ('"".""', ("", "")),
        ('"a.b"."c"d"', ("a.b", 'c"d')),
        ('"""', ('"',)),
        ('a."never closed.b', ("a", "never closed.b")),
    ],
)
def test_splitting(text: str, parts: tuple[str, ...]) -> None:
    assert split_path(text) == parts


@pytest.mark.parametrize(
    "text",
    [
        "a",
        "a =",
        "a = [",
        "a = [1",
        "a = {b = 1",
        "a = ]",
        "[a",
        "[[a]",
        "[a]]]",
        "[]",
        "a. = 1",
        'a = "',
        'a = "\n"',
        "a = '''",
        'a = """""',
        "a = 1\n[a.b]",
        "a = 1\n[[a]]",
        "a = [1]\n[a.b]",
        'a = {}\na."b" = 1',
        '"\\x" = 1',
        '"\\UFFFFFFFF" = 1',
        '"\\U00110000" = 1',
        '"\\u00" = 1',
    ],
)
def test_what_tomllib_refuses_may_be_refused(text: str) -> None:
    with pytest.raises(ValueError):
        tomllib.loads(text)
    with pytest.raises(ValueError):
        positions(text)


# Documents that are written together with the places of their keys

NUMBERS = ["1", "+1_000", "-0", "0xDEAD_beef", "0b1", "1.5e-3", "-nan", "inf", "true", "false"]
TIMES = ["1979-05-27", "07:32:00", "1979-05-27 07:32:00", "1979-05-27 07:32:00.5Z", "1979-05-27T07:32:00.999999-07:00"]
BASICS = ['""', r'"a \" = # [x]\\"', '"\'"', '""""""', '"""a""""', '"""a"""""', '"""""""', '""""""""']
LITERALS = ["''", "'\\'", "'\"'", "''''''", "'''a''''", "'''a'''''", "'''''''", "''''''''"]
SCALAR = st.sampled_from([*NUMBERS, *TIMES, *BASICS, *LITERALS])
LINES = st.lists(
    st.sampled_from(["[x]", "[[x]]", "a = 1", "# no", "", "]", "},", "it's", '""', "''", "\t"]), max_size=5
)
LONG_BASIC = st.builds(
    lambda lines, end: '"""' + "\n".join(lines) + f'{end}"""',
    LINES,
    st.sampled_from(["", '\\"""', "\\\\", "\\\n  ", '"']),
).filter(lambda text: '""""""' not in text)
LONG_LITERAL = st.builds(
    lambda lines, end: "'''" + "\n".join(lines) + f"{end}'''", LINES, st.sampled_from(["", "\\", "'", '"""'])
).filter(lambda text: "''''''" not in text)
KEYS = st.one_of(
    st.sampled_from(
        ["a", "b", "c-d", "1", "x_", "", "a.b", '"', "'", "[a]", "a = 1", "#", "é", "\n", "\x00", "\\", '".']
    ),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=4),
)
TREES: st.SearchStrategy[Tree] = st.recursive(
    st.one_of(SCALAR, LONG_BASIC, LONG_LITERAL),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(KEYS, inner, max_size=4),
        st.lists(st.dictionaries(KEYS, inner, max_size=3), min_size=1, max_size=3),
    ),
    max_leaves=20,
)
DOCUMENTS = st.dictionaries(KEYS, TREES, max_size=5)


class Writer:
    """Writes a tree as TOML, each time spelled differently, and notes where it put what."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.places: dict[KeyPath, tuple[int, int]] = {}
        self.text = ""

    def declare(self, path: KeyPath, *, again: bool = False) -> None:
        if again or path not in self.places:
            self.places[path] = (self.text.count("\n") + 1, len(self.text) - self.text.rfind("\n"))

    def document(self, tree: dict[str, Tree]) -> str:
        pairs, sections = self.split(tree)
        self.pairs((), pairs)
        self.sections((), sections)
        self.filler()
        return self.text

    def split(self, tree: dict[str, Tree]) -> tuple[Pairs, dict[str, Tree]]:
        """What is written as `key = value`, and what gets headers."""
        sections = {
            name: value
            for name, value in tree.items()
            if (isinstance(value, dict) or _is_tables(value)) and self.rng.random() < 0.6
        }
        pairs = self.dotted({name: value for name, value in tree.items() if name not in sections})
        self.rng.shuffle(pairs)
        return pairs, sections

    def dotted(self, tree: dict[str, Tree]) -> Pairs:
        pairs: Pairs = []
        for name, value in tree.items():
            if isinstance(value, dict) and value and self.rng.random() < 0.5:
                pairs += [((name, *key), inner) for key, inner in self.dotted(value)]
            else:
                pairs.append(((name,), value))
        return pairs

    def sections(self, path: KeyPath, sections: dict[str, Tree]) -> None:
        for name, value in sections.items():
            if isinstance(value, dict):
                self.table((*path, name), value)
            for index, element in enumerate(value if isinstance(value, list) else ()):
                assert isinstance(element, dict)
                pairs, inner = self.split(element)
                self.header((*path, name, index))
                self.pairs((*path, name, index), pairs)
                self.sections((*path, name, index), inner)

    def table(self, path: KeyPath, tree: dict[str, Tree]) -> None:
        pairs, sections = self.split(tree)
        late = bool(sections) and self.rng.random() < 0.5
        if late:
            self.sections(path, sections)
        if not sections or pairs or self.rng.random() < 0.5:
            self.header(path)
            self.pairs(path, pairs)
        if not late:
            self.sections(path, sections)

    def header(self, path: KeyPath) -> None:
        """The header of a table, or of an element of an array of tables if the path ends in its index."""
        depth = 1 if isinstance(path[-1], str) else 2
        self.filler()
        self.text += "[" * depth + self.space()
        for end, part in enumerate(path, start=1):
            if isinstance(part, str):
                self.text += "." + self.space() if end > 1 else ""
                self.declare(path[:end], again=end == len(path))
                if depth == 2 and end == len(path) - 1:
                    self.declare(path)
                self.text += self.key(part) + self.space()
        self.text += "]" * depth
        self.end_of_line()

    def pairs(self, path: KeyPath, pairs: Pairs) -> None:
        for key, value in pairs:
            self.filler()
            self.pair(path, key, value)
            self.end_of_line()

    def pair(self, path: KeyPath, key: Sequence[str], value: Tree) -> None:
        for end, part in enumerate(key, start=1):
            self.text += "." + self.space() if end > 1 else ""
            self.declare((*path, *key[:end]))
            self.text += self.key(part) + self.space()
        self.text += "=" + self.space()
        self.value((*path, *key), value)

    def value(self, path: KeyPath, value: Tree) -> None:
        if isinstance(value, str):
            self.text += value
        elif isinstance(value, list):
            self.text += "["
            for index, element in enumerate(value):
                self.text += ("," if index else "") + self.gap()
                self.declare((*path, index))
                self.value((*path, index), element)
                self.text += self.gap()
            self.text += ("," if value and self.rng.random() < 0.5 else "") + self.gap() + "]"
        else:
            self.text += "{" + self.space()
            for index, (key, inner) in enumerate(self.dotted(value)):
                self.text += "," + self.space() if index else ""
                self.pair(path, key, inner)
                self.text += self.space()
            self.text += "}"

    def key(self, name: str) -> str:
        spellings = ['"' + "".join(self.character(each) for each in name) + '"']
        if re.fullmatch("[A-Za-z0-9_-]+", name):
            spellings += [name, name]
        if not re.search(r"['\x00-\x08\x0a-\x1f\x7f]", name):
            spellings.append(f"'{name}'")
        return self.rng.choice(spellings)

    def character(self, each: str) -> str:
        short = {"\b": r"\b", "\t": r"\t", "\n": r"\n", "\f": r"\f", "\r": r"\r", '"': r"\"", "\\": r"\\"}.get(each)
        spellings = [rf"\U{ord(each):08x}"]
        if ord(each) < 0x10000:
            spellings.append(rf"\u{ord(each):04X}")
        if short or (each >= " " and each != "\x7f"):
            spellings += [short or each] * 3
        return self.rng.choice(spellings)

    def space(self) -> str:
        return self.rng.choice(["", " ", "\t "])

    def gap(self) -> str:
        return self.rng.choice(["", "", " ", "\n", ' # ] } """ \'\n\t', "\n\n#,\n"])

    def filler(self) -> None:
        self.text += self.rng.choice(["", "", "", " ", "\n", "# [a]\n", "  \t# a = [ \"\"\" '''\n", "\n\n"])

    def end_of_line(self) -> None:
        self.text += self.space() + self.rng.choice(["\n", "\n", "# b = 1\n", "#\n\n"])


def _is_tables(value: Tree) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(element, dict) for element in value)


@given(DOCUMENTS, st.randoms(use_true_random=False), st.sampled_from(["\n", "\r\n"]))
def test_keys_are_where_they_were_written(tree: dict[str, Tree], rng: random.Random, newline: str) -> None:
    writer = Writer(rng)
    text = writer.document(tree).replace("\n", newline)
    assert set(writer.places) == set(paths(tomllib.loads(text)))

    assert places(text) == writer.places
    found = positions(text)
    assert {path: found.line(path) for path in writer.places} == {path: at[0] for path, at in writer.places.items()}


@given(st.lists(KEYS.filter(lambda key: '".' not in key), min_size=1, max_size=4))
def test_a_path_that_the_reader_joined_is_split_again(parts: list[str]) -> None:
    joined = ""
    for part in parts:
        joined = Reader.join(joined, part)
    assert split_path(joined) == tuple(parts)


# What is not TOML

SIGNS = [*"[]{}=,.#\"'\\ab1- \t\n\r\x00é", '"""', "'''", "[[", "]]", "\r\n"]
WORDS = [r"\u0041", "07:32:00", "1979-05-27", "true", "a = 1\n", "[a]\n", "[a.b]\n", "[[a]]\n", "a.b = {}\n"]
PIECES = st.sampled_from([*SIGNS, *WORDS, "a = [{b = 1}]\n"])


def check(text: str) -> None:
    """Places for exactly the keys that tomllib finds; where it finds no TOML, no error but a ValueError."""
    parsed = found = None
    with suppress(ValueError):
        parsed = tomllib.loads(text)
    with suppress(ValueError):
        found = places(text)
    if parsed is not None:
        assert found is not None
        assert set(found) == set(paths(parsed))


@given(st.one_of(st.text(), st.lists(PIECES, max_size=25).map("".join)))
@example('a = \'\'\'\'\'\'\'\nb = """"""""')
@example("a = [[], {}, [[]], {b = []}]")
@example("[[a]]\n[a.b]\n[[a.c]]\n[[a.c]]\n[a.c.d]\n[[a]]\nc.e = 1")
@example("a.b.c = 1\na.b.d = 2\n")
def test_any_text_is_scanned_or_refused(text: str) -> None:
    check(text)


@given(DOCUMENTS, st.randoms(use_true_random=False))
def test_a_document_with_a_mistake(tree: dict[str, Tree], rng: random.Random) -> None:
    text = Writer(rng).document(tree)
    start, end = (rng.randint(0, len(text)) for _ in range(2))
    for piece in ("", "]", '"', "'", "\n", "#", "[", "{", "\\", text[min(start, end) : max(start, end)]):
        check(text[:start] + piece + text[start:])
        check(text[:start] + piece + text[end:])


@given(st.text())
def test_any_text_can_be_split(text: str) -> None:
    assert "".join(split_path(text)).count("x") == text.count("x")


# Time

SIZE = 1 << 18
GENEROUS_S = 10.0
"""Seconds for SIZE characters: what grows with the square would take minutes."""


@pytest.mark.parametrize(
    ("start", "again", "end"),
    [
        ("a = ", "[", ""),
        ("a = ", "[ ", "]"),
        ("a = [", "[" * 900 + "1" + "]" * 900 + ",", "]"),
        ("a = ", "{a = ", ""),
        ("a = [", "[],", "]"),
        ("a = [", "{},", "]"),
        ("a = [", "1,", "]"),
        ("a = [", "#\n", ""),
        ("a = [", " ", "!"),
        ("a = [", "1 #,\n", "!"),
        ("a = ", "1", "!"),
        ("a = 1979-05-27", " 07:32:00", "!"),
        ("a = ", '"', ""),
        ("a = ", "'", ""),
        ('a = "', "\\", ""),
        ('a = "', '\\"', ""),
        ('a = """', '"" ', ""),
        ('a = """', '\\"""', ""),
        ('a = """', "\\\n", ""),
        ("a = '''", "'' ", ""),
        ("", '"', ""),
        ("", '"" ', ""),
        ('"', "\\u0041", '" = 1'),
        ('"', "\\u", '" = 1'),
        ("", "a.", "a = 1"),
        ("", "a . ", ""),
        ("[", "a.", "a]"),
        ("a", " ", ""),
        ("a =", " ", ""),
        ("", " ", "!"),
        ("", "#\n", "!"),
        ("", "\r\n", "!"),
        ("", "\r", "!"),
        ("", "[[a]]\n", ""),
        ("", "[[a.b.c]]\n", ""),
        ("", "a = 1\n", "!"),
        ("", "[", ""),
    ],
)
def test_no_text_takes_long(start: str, again: str, end: str) -> None:
    text = start + again * (SIZE // len(again)) + end
    begun = time.process_time()
    with suppress(ValueError):
        positions(text)
    assert time.process_time() - begun < GENEROUS_S


@pytest.mark.parametrize("again", ['"', '"x.', '"".', ".", "a.", '"x" '])
def test_no_path_takes_long_to_split(again: str) -> None:
    begun = time.process_time()
    split_path(again * (SIZE // len(again)))
    assert time.process_time() - begun < GENEROUS_S


def test_a_large_document() -> None:
    section = (
        '[vms.vm{0}] # nr {0}\nlabel = "red"\ninterfaces = [\n  "acme/red",\n  "acme/blue", # both\n]\n'
        '"odd key".x = {{y = 1}}\n\n'
    )
    count = 500_000 // len(section)
    text = "".join(section.format(number) for number in range(count))

    begun = time.process_time()
    found = positions(text)
    scanned_s = time.process_time() - begun
    tomllib.loads(text)
    parsed_s = time.process_time() - begun - scanned_s

    print(f"\n{len(text)} characters: {scanned_s:.3f} s; tomllib itself {parsed_s:.3f} s")
    for number in (0, count // 2, count - 1):
        assert found.find(f"vms.vm{number}") == 8 * number + 1
        assert found.find(f'vms.vm{number}."odd key".x.y') == 8 * number + 7
        assert found.line(("vms", f"vm{number}", "interfaces", 1)) == 8 * number + 5
    assert scanned_s < GENEROUS_S
