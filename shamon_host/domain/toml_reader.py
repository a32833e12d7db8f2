"""Takes values out of tables that a TOML parser made, and collects what is wrong with them instead of stopping.

What cannot be read is replaced by something harmless, and the finding sees to it that nothing comes of the result.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

from shamon_host.domain.errors import BadInput
from shamon_host.domain.findings import Finding, nearest, quoted
from shamon_host.domain.labels import TypeName, plain_name, type_name
from shamon_host.domain.text import is_sha256

MAX_FINDINGS = 100
_BAD_VALUE = "bad value"
_MOMENTS = range(1 << 40)
Value = TypeVar("Value")


class Reader:
    """Reads below `root`. Methods take the path of a table, the table and a key in it."""

    def __init__(self, root: Mapping[str, Any]) -> None:
        self.root = root
        self.findings: list[Finding] = []

    def only(self, path: str, table: Mapping[str, Any], allowed: Sequence[str]) -> None:
        """Complain about every key of the table that is not allowed."""
        for key in table:
            if key not in allowed:
                self._found(path, key, "unknown key", expected=", ".join(allowed), close_to=allowed)

    def table(self, key: str, *, required: bool = False) -> Mapping[str, Any]:
        """A table of the root; empty where there is none."""
        value = self.root.get(key)
        if isinstance(value, dict):
            return value
        if value is not None or required:
            self._wrong("", self.root, key, "a table")
        return {}

    def inner_table(self, path: str, table: Mapping[str, Any], key: str) -> Mapping[str, Any]:
        """A table in a table; empty where there is none."""
        value = table.get(key, {})
        if isinstance(value, dict):
            return value
        self._wrong(path, table, key, "a table")
        return {}

    def tables(self, section: str, *, type_names: bool = False) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Name and table of each table of a section. Its names are types' names, or plain ones."""
        for name, value in self.table(section).items():
            self._name(section, name, name, is_type=type_names)
            if isinstance(value, dict):
                yield name, value
            else:
                self._wrong(section, self.table(section), name, "a table")
                yield name, {}

    def name(self, path: str, table: Mapping[str, Any], key: str) -> str:
        """A plain name."""
        value = self.string(path, table, key, what="a name")
        if value:
            self._name(path, key, value, is_type=False)
        return value

    def string(self, path: str, table: Mapping[str, Any], key: str, *, what: str) -> str:
        """A string that must be there, not empty; `what` says of what kind."""
        value = table.get(key)
        if isinstance(value, str) and value:
            return value
        self._wrong(path, table, key, f"a string, {what}")
        return ""

    def choice(self, path: str, table: Mapping[str, Any], key: str, choices: Sequence[str], *, default: str) -> str:
        """One of several strings."""
        value = table.get(key, default)
        if isinstance(value, str) and value in choices:
            return value
        self._wrong(path, table, key, "one of " + ", ".join(f'"{choice}"' for choice in choices), close_to=choices)
        return default

    def digest(self, path: str, table: Mapping[str, Any], key: str) -> str:
        """A SHA-256 digest."""
        value = table.get(key)
        if isinstance(value, str) and is_sha256(value):
            return value
        self._wrong(path, table, key, "a SHA-256 digest, 64 lower-case hexadecimal digits")
        return ""

    def boolean(self, path: str, table: Mapping[str, Any], key: str, *, default: bool) -> bool:
        value = table.get(key, default)
        if isinstance(value, bool):
            return value
        self._wrong(path, table, key, "true or false")
        return default

    def integer(
        self, path: str, table: Mapping[str, Any], key: str, *, allowed: range, default: int | None = None
    ) -> int:
        value = table.get(key, default)
        if type(value) is int and value in allowed:
            return value
        self._wrong(path, table, key, f"an integer from {allowed.start} to {allowed.stop - 1}")
        return allowed.start

    def number(self, path: str, table: Mapping[str, Any], key: str, *, default: float) -> float:
        """A number of seconds; `consistency` knows which ones make sense."""
        value = table.get(key, default)
        if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9:
            return float(value)
        self._wrong(path, table, key, "a number of seconds")
        return default

    def integers(
        self, path: str, table: Mapping[str, Any], key: str, *, allowed: range, default: tuple[int, ...]
    ) -> tuple[int, ...]:
        value = table.get(key, list(default))
        if isinstance(value, list) and all(type(item) is int and item in allowed for item in value):
            return tuple(sorted(set(value)))
        self._wrong(path, table, key, f"a list of integers from {allowed.start} to {allowed.stop - 1}")
        return default

    def optional_integer(self, path: str, table: Mapping[str, Any], key: str, *, allowed: range) -> int | None:
        return self.integer(path, table, key, allowed=allowed) if key in table else None

    def moment(self, path: str, table: Mapping[str, Any], key: str) -> int | None:
        """A date and time with its offset, or seconds since the epoch: the latter, UTC. None where there is none."""
        value = table.get(key)
        if value is None and key not in table:
            return None
        seconds = value
        if isinstance(value, datetime) and value.tzinfo is not None:
            seconds = math.floor(value.timestamp())
        if type(seconds) is int and seconds in _MOMENTS:
            return seconds
        self._wrong(path, table, key, "a date and time with its offset, such as 2027-06-30T00:00:00Z")
        return None

    def parsed(
        self, path: str, table: Mapping[str, Any], key: str, *, what: str, parse: Callable[[str], Value]
    ) -> frozenset[Value] | None:
        """A set of values, each from a string by `parse`, which raises BadInput. None where there is none."""
        if key not in table:
            return None
        values = set()
        for text in self.strings(path, table, key, what=what):
            try:
                values.add(parse(text))
            except BadInput as error:
                self._found(path, key, error.what, expected=error.expected, found=error.found)
        return frozenset(values)

    def strings(self, path: str, table: Mapping[str, Any], key: str, *, what: str) -> list[str]:
        """A list of different strings; empty where there is none."""
        if key not in table:
            return []
        value = table[key]
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            self._wrong(path, table, key, f"a list of strings, {what}")
            return []
        if len(set(value)) < len(value):
            for item in sorted(item for item, count in Counter(value).items() if count > 1):
                self._found(path, key, "given twice", found=_shown(item))
        return value

    def types(self, path: str, table: Mapping[str, Any], key: str, *, required: bool = True) -> frozenset[TypeName]:
        """A list of types' names."""
        return frozenset(self.type_list(path, table, key, required=required))

    def type_list(self, path: str, table: Mapping[str, Any], key: str, *, required: bool = True) -> list[TypeName]:
        """A list of different types' names, in its order."""
        if required and key not in table:
            self._wrong(path, table, key, "a list of strings, types")
            return []
        names = self.strings(path, table, key, what="types")
        for name in names:
            self._name(path, key, name, is_type=True)
        return [TypeName(name) for name in names]

    def names(self, path: str, table: Mapping[str, Any], key: str, *, what: str) -> frozenset[str]:
        """A list of plain names; empty where there is none."""
        names = self.strings(path, table, key, what=what)
        for name in names:
            self._name(path, key, name, is_type=False)
        return frozenset(names)

    def pairs(self, path: str, table: Mapping[str, Any], key: str, *, are_types: bool) -> dict[str, str]:
        """A table of old name → new name; empty where there is none."""
        inner, pairs = self.inner_table(path, table, key), {}
        where = self.join(path, key)
        for old, new in inner.items():
            self._name(where, old, old, is_type=are_types)
            if isinstance(new, str):
                self._name(where, old, new, is_type=are_types)
                pairs[old] = new
            else:
                self._wrong(where, inner, old, "a string, the new name")
        return pairs

    def type_keys(self, path: str, table: Mapping[str, Any]) -> list[TypeName]:
        """The keys of a table, which are types' names."""
        for name in table:
            self._name(path, name, name, is_type=True)
        return [TypeName(name) for name in table]

    def complain(self, path: str, key: str, what: str, *, expected: str = "", found: str = "") -> None:
        """Note a mistake that the caller found."""
        self._found(path, key, what, expected=expected, found=found)

    @staticmethod
    def join(path: str, key: str) -> str:
        """The path of a key, quoted where TOML would have it quoted."""
        return f"{path}.{quoted(key)}" if path else quoted(key)

    def _name(self, path: str, key: str, name: str, *, is_type: bool) -> None:
        try:
            if is_type:
                type_name(name)
            else:
                plain_name(name)
        except BadInput as error:
            self._found(path, key, error.what, expected=error.expected, found=error.found)

    def _wrong(
        self, path: str, table: Mapping[str, Any], key: str, expected: str, *, close_to: Sequence[str] = ()
    ) -> None:
        if key not in table:
            self._found(path, key, "missing", expected=expected)
        else:
            self._found(
                path, key, _BAD_VALUE, expected=expected, found=_shown(table[key]), close_to=close_to, name=table[key]
            )

    def _found(
        self,
        path: str,
        key: str,
        what: str,
        *,
        expected: str = "",
        found: str = "",
        close_to: Sequence[str] = (),
        name: object = None,
    ) -> None:
        told = any(finding.key == path and finding.what == _BAD_VALUE for finding in self.findings)
        if not told and len(self.findings) < MAX_FINDINGS:
            wrong = key if name is None else name
            self.findings.append(
                Finding(
                    key=self.join(path, key),
                    what=what,
                    expected=expected,
                    found=found,
                    nearest=nearest(wrong, close_to) if isinstance(wrong, str) else "",
                )
            )


def _shown(value: object) -> str:
    """A value of a TOML file in an error: its kind and, if it is short, itself."""
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return f"the integer {value}" if abs(value) < 1 << 64 else "a large integer"
        case float():
            return f"the float {value:g}"
        case str():
            return f"the string {value[:80]!r}"
        case list():
            return "a list" + (f" with {_shown(value[0])}" if value and not isinstance(value[0], list | dict) else "")
        case dict():
            return "a table"
        case _:
            return f"a {type(value).__name__}"
