"""Text of a policy file: tables and keys in the order of the calls, each with a remark about what it was called before.

Remarks have lines of their own and only printable ASCII: what is in them comes from elsewhere.
"""

import json
import re
from collections.abc import Iterable

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_MAX_REMARK = 100
_SHORT = 100
TO_COMPLETE = "TO COMPLETE"
"""Marks lines that need what the other system did not have."""


def quoted(text: str) -> str:
    """A text as a string of TOML, in ASCII."""
    return json.dumps(text).replace("\x7f", "\\u007f")


def shown(text: str) -> str:
    """A foreign text for a remark, shortened."""
    return quoted(text[:_MAX_REMARK] + ("..." if len(text) > _MAX_REMARK else ""))


class TomlWriter:
    """Collects lines."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def text(self) -> str:
        """The file, without blank lines at its begin and end."""
        return "\n".join(self._lines).strip("\n") + "\n"

    def remark(self, text: str) -> None:
        self._lines.append(f"# {text}")

    def gap(self) -> None:
        self._lines.append("")

    def was(self, old: str, new: str) -> None:
        """What the next thing, now called `new`, was called, if that was something else."""
        if old != new:
            self.remark(shown(old))

    def table(self, *path: str) -> None:
        self._lines.append(f"[{'.'.join(_key(part) for part in path)}]")

    def value(self, key: str, value: str | int | bool, *, mark: str = "") -> None:
        text = quoted(value) if isinstance(value, str) else str(value).lower()
        self._lines.append(f"{_key(key)} = {text}" + (f"  # {TO_COMPLETE}: {mark}" if mark else ""))

    def absent(self, key: str, form: str, mark: str) -> None:
        """A line that is still to be written."""
        self._lines.append(f"# {_key(key)} = {form}  # {TO_COMPLETE}: {mark}")

    def names(self, key: str, names: Iterable[str | tuple[str, str]]) -> None:
        """A list of names, or of pairs of new and old name; on one line if it is short and has no old ones."""
        pairs = [(each, each) if isinstance(each, str) else each for each in names]
        line = f"{_key(key)} = [{', '.join(quoted(new) for new, _ in pairs)}]"
        if len(line) <= _SHORT and all(new == old for new, old in pairs):
            self._lines.append(line)
            return
        self._lines.append(f"{_key(key)} = [")
        for new, old in pairs:
            if new != old:
                self._lines.append(f"    # {shown(old)}")
            self._lines.append(f"    {quoted(new)},")
        self._lines.append("]")


def _key(text: str) -> str:
    return text if _BARE.fullmatch(text) else quoted(text)
