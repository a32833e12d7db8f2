"""Where each key of a TOML document is declared: tomllib gives the values, an operator needs the line.

What is read here was accepted by tomllib before, so this scans and does not check: it takes some text that is not TOML.
It serves hostile files up to the size that the policy may have, so its time and its memory grow with the length of the
text, whatever it says: one pass, no recursion, and patterns whose repetitions are possessive (they never go back).

Source: TOML 1.0 (https://toml.io/en/v1.0.0), and tomllib where a text leaves a choice.
"""

import re
import sys
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

KeyPath: TypeAlias = tuple[str | int, ...]
"""Keys from the root of the document on; an integer is the index (from 0) of an element of an array."""

MAX_UNCLOSED = 1000
"""Brackets in brackets. Python's recursion limit stops tomllib, which calls itself for each, at about half of them."""

_BASIC = r'"[^"\\\n]*+(?:\\.[^"\\\n]*+)*+"'
_LITERAL = r"'[^'\n]*+'"
# Three quotes end a string over several lines, and up to two more right behind them belong to it.
_LONG_BASIC = r'"""[^"\\]*+(?:(?:\\[\s\S]|"(?!""))[^"\\]*+)*+"{3,5}'
_LONG_LITERAL = r"'''[^']*+(?:'(?!'')[^']*+)*+'{3,5}"
# Numbers, booleans, dates and times; only between a date and a time there may be a space.
_BARE_VALUE = r"[A-Za-z0-9_+.:-]++(?: [0-9][0-9]:[0-9:.+Zz-]++)?+"
_EMPTY = r"\[[ \t\n]*+\]|\{[ \t]*+\}"
_LEAF = re.compile(rf"{_LONG_BASIC}|{_LONG_LITERAL}|{_BASIC}|{_LITERAL}|{_BARE_VALUE}|{_EMPTY}")
"""A value with nothing in it that has a path."""
_BLANK = re.compile(r"(?:[ \t\n]++|#[^\n]*+)*+")
"""Between statements."""
_GAP = re.compile(r"(?:[ \t\n,]++|#[^\n]*+)*+")
"""Between values in brackets."""
_ITEM = re.compile(rf"{_GAP.pattern}({_LEAF.pattern})")
_KEY_PART = re.compile(rf"[ \t]*+([A-Za-z0-9_-]++|{_BASIC}|{_LITERAL})[ \t]*+(\.?+)")
_SHORT_PAIR = re.compile(rf"([A-Za-z0-9_-]++)[ \t]*+=[ \t]*+(?:{_LEAF.pattern})")
"""What most lines are, in one step; everything else goes the long way."""
_EQUALS = re.compile(r"=[ \t]*+")
_ESCAPE = re.compile(r"\\(?:u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|(.))")
_ESCAPES = {"b": "\b", "t": "\t", "n": "\n", "f": "\f", "r": "\r", '"': '"', "\\": "\\"}
_PATH_PART = re.compile(r'"((?:[^"]|"(?!\.|\Z))*+)"?\.?|([^.]++)\.?')


@dataclass(slots=True, eq=False)
class _Table:
    """`offset` in the text where the table is declared, and what is in it."""

    offset: int
    children: "dict[str, _Entry]"


@dataclass(slots=True, eq=False)
class _Array:
    offset: int
    children: "list[_Entry]"


_Entry: TypeAlias = int | _Table | _Array
"""A leaf is the offset alone: there may be millions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """Line and column, both from 1; the column in characters."""

    line: int
    column: int


class Positions(Mapping[KeyPath, Position]):
    """Where each key path of a document is declared.

    A table: at its header, else at the first header or key that implies it, there at the part that names it. A key
    likewise, at its own part if it is dotted. An element of an array: where the value begins, or at its `[[header]]`.
    The root is declared nowhere.
    """

    __slots__ = ("_line_starts", "_root")

    def __init__(self, text: str, root: _Table) -> None:
        self._line_starts = [0, *(match.end() for match in re.finditer("\n", text))]
        self._root = root

    def __getitem__(self, path: KeyPath) -> Position:
        depth, entry = self._nearest(path)
        if not 0 < depth == len(path):
            raise KeyError(path)
        offset = _offset(entry)
        line = bisect_right(self._line_starts, offset)
        return Position(line=line, column=offset - self._line_starts[line - 1] + 1)

    def __iter__(self) -> Iterator[KeyPath]:
        """Every path, tables before what is in them."""
        pending: list[tuple[KeyPath, _Entry]] = [((), self._root)]
        while pending:
            path, entry = pending.pop()
            if path:
                yield path
            if not isinstance(entry, int):
                pending += [((*path, part), child) for part, child in reversed(list(_children(entry)))]

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def line(self, path: KeyPath) -> int:
        """The line (from 1) of a path, of its nearest ancestor that is declared where it is not; 0 without either."""
        depth, entry = self._nearest(path)
        return bisect_right(self._line_starts, _offset(entry)) if depth else 0

    def find(self, text_path: str) -> int:
        """The line, as `line` gives it, of a path in one string, as findings have it (see `split_path`)."""
        return self.line(split_path(text_path))

    def _nearest(self, path: KeyPath) -> tuple[int, _Entry]:
        """How many parts of the path are declared, and what the last of them leads to."""
        entry: _Entry = self._root
        depth = 0
        for part in path:
            child = _child(entry, part)
            if child is None:
                break
            entry, depth = child, depth + 1
        return depth, entry


def positions(text: str) -> Positions:
    """Scan a document that tomllib accepted. Raises ValueError, nothing else, for some of the others."""
    # As tomllib does it. It moves no line and no column: what goes stands at the end of its line.
    source = text.replace("\r\n", "\n")
    return Positions(source, _document(source))


def split_path(key: str) -> tuple[str, ...]:
    """The parts of a path in one string, as `Reader.join` makes it: `types."acme/red".on_failure`. Never raises.

    Nothing is escaped there, so the first quote before a dot or the end closes a quoted part: a key that holds `".`
    itself comes apart, and one that was cut because of its length stays cut. `Positions.line` then finds an ancestor.
    """
    return tuple(part[1] if part[1] is not None else part[2] for part in _PATH_PART.finditer(key))


def _document(text: str) -> _Table:
    root = table = _Table(0, {})
    position = _end(_BLANK, text, 0)
    while position < len(text):
        if text[position] == "[":
            position, table = _header(text, position, root)
        else:
            position, opened = _pair(text, position, table)
            if opened is not None:
                position = _fill(text, position, opened)
        position = _end(_BLANK, text, position)
    return root


def _header(text: str, start: int, root: _Table) -> tuple[int, _Table]:
    """Read `[key]` or `[[key]]`: the position behind it and the table that it opens."""
    brackets = 2 if text.startswith("[[", start) else 1
    parts, position = _key(text, start + brackets)
    if not text.startswith("]" * brackets, position):
        raise _refused(text, position, "the end of a header")
    table = root
    for name, offset in parts[:-1]:
        table = _inner(text, table, name, offset)
    name, offset = parts[-1]
    if brackets == 2:
        array = table.children.setdefault(name, _Array(offset, []))
        if not isinstance(array, _Array):
            raise _refused(text, offset, "an array of tables")
        opened = _Table(offset, {})
        array.children.append(opened)
    else:
        opened = _inner(text, table, name, offset)
        opened.offset = offset  # its own header, even if headers or keys before implied it
    return position + brackets, opened


def _pair(text: str, position: int, table: _Table) -> tuple[int, _Table | _Array | None]:
    """Read `key = value`: the position behind it and None; for a value in brackets what they opened, to be filled."""
    short = _SHORT_PAIR.match(text, position)
    if short:
        table.children[short[1]] = position
        return short.end(), None
    parts, position = _key(text, position)
    equals = _EQUALS.match(text, position)
    if not equals:
        raise _refused(text, position, "an equals sign")
    for name, offset in parts[:-1]:
        table = _inner(text, table, name, offset)
    name, offset = parts[-1]
    leaf = _LEAF.match(text, equals.end())
    if leaf:
        table.children[name] = offset
        return leaf.end(), None
    opened = table.children[name] = _opened(text, equals.end(), offset)
    return equals.end() + 1, opened


def _fill(text: str, position: int, outermost: _Table | _Array) -> int:
    """Read what is in a value in brackets, and the values in it; the position behind its own closing bracket."""
    unclosed = [outermost]
    while unclosed:
        innermost = unclosed[-1]
        if isinstance(innermost, _Array):
            while item := _ITEM.match(text, position):
                innermost.children.append(item.start(1))
                position = item.end()
        position = _end(_GAP, text, position)
        if text.startswith("]" if isinstance(innermost, _Array) else "}", position):
            unclosed.pop()
            position += 1
            continue
        opened: _Table | _Array | None
        if isinstance(innermost, _Array):
            opened = _opened(text, position, position)
            innermost.children.append(opened)
            position += 1
        else:
            position, opened = _pair(text, position, innermost)
        if opened is not None:
            if len(unclosed) >= MAX_UNCLOSED:
                raise _refused(text, position, "less nesting")
            unclosed.append(opened)
    return position


def _key(text: str, position: int) -> tuple[list[tuple[str, int]], int]:
    """Read a key, dotted or not: its parts with their offsets, and the position behind it."""
    parts = []
    while part := _KEY_PART.match(text, position):
        name = part[1]
        if name[0] == '"' and "\\" in name:
            name = _ESCAPE.sub(_unescaped, name)
        parts.append((name[1:-1] if name[0] in "\"'" else name, part.start(1)))
        position = part.end()
        if not part[2]:
            return parts, position
    raise _refused(text, position, "a key")


def _unescaped(escape: re.Match[str]) -> str:
    """The character that an escape stands for. Raises ValueError."""
    digits = escape[1] or escape[2]
    if digits and int(digits, 16) <= sys.maxunicode:
        return chr(int(digits, 16))
    if digits or escape[3] not in _ESCAPES:
        raise ValueError("not TOML: no such escape in a key")
    return _ESCAPES[escape[3]]


def _inner(text: str, table: _Table, name: str, offset: int) -> _Table:
    """The table `name` in another, made if need be; of an array of tables the last one."""
    entry = table.children.get(name)
    if entry is None:
        entry = table.children[name] = _Table(offset, {})
    elif isinstance(entry, _Array) and entry.children:
        entry = entry.children[-1]
    if not isinstance(entry, _Table):
        raise _refused(text, offset, "a table")
    return entry


def _opened(text: str, position: int, offset: int) -> _Table | _Array:
    """The empty array or table whose opening bracket stands at `position`, declared at `offset`."""
    if text.startswith("[", position):
        return _Array(offset, [])
    if text.startswith("{", position):
        return _Table(offset, {})
    raise _refused(text, position, "a value")


def _end(pattern: re.Pattern[str], text: str, position: int) -> int:
    match = pattern.match(text, position)
    return match.end() if match else position


def _offset(entry: _Entry) -> int:
    return entry if isinstance(entry, int) else entry.offset


def _children(entry: _Table | _Array) -> Iterable[tuple[str | int, _Entry]]:
    return entry.children.items() if isinstance(entry, _Table) else enumerate(entry.children)


def _child(entry: _Entry, part: str | int) -> _Entry | None:
    if isinstance(entry, _Table) and isinstance(part, str):
        return entry.children.get(part)
    if isinstance(entry, _Array) and isinstance(part, int) and 0 <= part < len(entry.children):
        return entry.children[part]
    return None


def _refused(text: str, position: int, expected: str) -> ValueError:
    return ValueError(f"not TOML at line {text.count(chr(10), 0, position) + 1}: expected {expected}")
