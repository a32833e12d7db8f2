"""A policy as a file in TOML: what a program made of a policy, for people to read, change and sign.

Reading the file gives the same policy again, digest and all. Comments of a file that the policy once came from are not
in the policy, hence not here either.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from shamon_host.domain.policy import Policy
from shamon_host.domain.policy_form import policy_document
from shamon_host.domain.policy_sections import SECTIONS

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_MEANT_EMPTY = ("types", "starting", "interfaces", "peers", "ports", "times", "empty_pcrs")
_LONGEST = 120
"""Characters of a list in one line; a longer one has a line for each item (`policy_file.MAX_DOTS_IN_LINE`)."""


def policy_toml(policy: Policy, *, comment: str = "") -> str:
    """The policy in TOML 1.0, sections in the order of the documentation; `comment` goes on top, what is not printable
    in it as `?`."""
    document = policy_document(policy)
    lines = [f"# {_printable(line)}".rstrip() for line in comment.splitlines()]
    if policy.walls:
        lines += ["", f"walls = {_value(document['walls'])}"]
    for section in SECTIONS:
        content = document.get(section)
        if content and section != "walls":  # which stands before the first table
            lines += _table((section,), content)
    return "\n".join(lines).lstrip("\n") + "\n"


def _table(path: tuple[str, ...], content: Mapping[str, Any]) -> Iterator[str]:
    """A table, its own keys first, then the tables in it; empty lists and empty tables below it say nothing."""
    own = {key: value for key, value in content.items() if not isinstance(value, Mapping)}
    inner = {key: value for key, value in content.items() if isinstance(value, Mapping)}
    if own or not inner:
        yield ""
        yield f"[{'.'.join(map(_key, path))}]"
    for key, value in own.items():
        if value != [] or path[2:] == ("addresses",) or key in _MEANT_EMPTY:
            yield f"{_key(key)} = {_value(value)}"
    for key, value in sorted(inner.items()):
        if value or path != ("renames",):
            yield from _table((*path, key), value)


def _key(key: str) -> str:
    return key if _BARE.fullmatch(key) else json.dumps(key)


def _value(value: Any) -> str:
    """Strings of a policy are printable ASCII, for which JSON and TOML have one form."""
    if not isinstance(value, list):
        return json.dumps(value)
    items = [_value(item) for item in value]
    line = f"[{', '.join(items)}]"
    return line if len(line) <= _LONGEST else "[\n" + "".join(f"    {item},\n" for item in items) + "]"


def _printable(text: str) -> str:
    """TOML has no control characters in comments, and UTF-8 no surrogates."""
    return "".join(character if character.isprintable() else "?" for character in text)
