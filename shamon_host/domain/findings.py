"""What is wrong with a policy, mistake by mistake, in words that a person can act on."""

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

from shamon_host.domain.text import printable

_LONGEST_NEAREST = 64
_LENGTHS_APART = 12
_MOST_CANDIDATES = 200
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]{1,80}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One mistake. `key` is its path in the file (`vms.web.label`); `nearest` is the right name nearest to `found`."""

    key: str
    what: str
    expected: str = ""
    found: str = ""
    nearest: str = ""
    line: int = 0
    """Where that is in the file, from 1; 0 where there is no file."""

    def __str__(self) -> str:
        text = f"{self.key}: {self.what}" if self.key else self.what
        if self.line:
            text = f"line {self.line}: {text}"
        for word, value in (("expected", self.expected), ("found", self.found)):
            text += f"; {word} {value}" if value else ""
        return printable(text + (f" (did you mean {self.nearest}?)" if self.nearest else ""))


def quoted(name: str) -> str:
    """A part of a key's path, in quotes where TOML would have it so (`red.v2` is one part)."""
    return name if _BARE_KEY.fullmatch(name) else f'"{name[:80]}"'


def nearest(name: str, candidates: Iterable[str]) -> str:
    """The candidate that looks most like `name`, or an empty string; not for long names, nor among very many.

    Whoever wrote the names may want the search to take long: it does not.
    """
    if len(name) > _LONGEST_NEAREST:
        return ""
    as_long = (other for other in candidates if abs(len(other) - len(name)) <= _LENGTHS_APART)
    close = difflib.get_close_matches(name, islice(as_long, _MOST_CANDIDATES), n=1, cutoff=0.6)
    return close[0] if close else ""


def unknown(key: str, kind: str, name: str, known: Sequence[str]) -> Finding:
    """A name that is not there. `known`: those that are, sorted."""
    shown = ", ".join(known[:8]) + (", ..." if len(known) > 8 else "")
    return Finding(
        key=key,
        what=f"unknown {kind}",
        expected=f"one of: {shown or 'none is there'}",
        found=name[:80],
        nearest=nearest(name, known),
    )
