"""Values out of Python text that somebody else wrote, without running or compiling any of it unseen.

Xen kept labels of resources in a file that it executed, and the configuration of a domain is a program. Here a value is
read only if it consists of strings, whole numbers, lists, tuples and dictionaries: each token is looked at, and they
are counted, before `ast.literal_eval` sees the text.
"""

import ast
import re

from shamon_host.domain.errors import BadInput

MAX_TOKENS = 100_000
MAX_DEPTH = 6
_STRING = (
    r"""[uU]?(?:'(?:[^'\\\n]|\\[\\'"abfnrtv]|\\x[0-9a-fA-F]{2})*'|"(?:[^"\\\n]|\\[\\'"abfnrtv]|\\x[0-9a-fA-F]{2})*")"""
)
_TOKEN = re.compile(
    rf"(?P<blank>[ \t]+|\\\r?\n)|(?P<line>\r?\n)|(?P<comment>\#[^\n]*)|(?P<open>[\[({{])|(?P<close>[\])}}])"
    rf"|(?P<value>{_STRING}|0[xX][0-9a-fA-F]{{1,16}}|0|[1-9][0-9]{{0,15}}|None\b|True\b|False\b)|(?P<mark>[,:])"
)
_REST = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")


def line_of(text: str, position: int) -> int:
    """The number of the line that has this position."""
    return text.count("\n", 0, position) + 1


def read_literal(text: str, start: int, *, source: str) -> tuple[object, int]:
    """The value that begins at `start` and ends with its line, brackets closed; and where it ends. Raises BadInput."""
    where = f"{source}: line {line_of(text, start)}"
    end = _end(text, start, where)
    try:
        return ast.literal_eval(text[start:end].strip()), end
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
        raise BadInput("not a value that Python can read", where=where, found=str(error)[:120]) from error


def require_nothing_more(text: str, position: int, *, source: str) -> None:
    """Raise BadInput if anything but comments follows."""
    rest = _REST.match(text, position)
    end = rest.end() if rest else position
    if end < len(text):
        raise BadInput(
            "there is more in the file than one value",
            where=f"{source}: line {line_of(text, end)}",
            found=repr(text[end : end + 40]),
        )


def _end(text: str, start: int, where: str) -> int:
    """Where the value ends whose tokens are all harmless."""
    position, depth, tokens = start, 0, 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise BadInput(
                "not a plain value",
                where=where,
                expected="strings, numbers, lists, tuples and dictionaries",
                found=repr(text[position : position + 40]),
            )
        kind = match.lastgroup
        if depth == 0 and kind in {"line", "comment"}:
            break
        depth += (kind == "open") - (kind == "close")
        tokens += kind in {"open", "value"}
        if not 0 <= depth <= MAX_DEPTH or tokens > MAX_TOKENS:
            raise BadInput(
                "a value with too many parts, or with brackets that do not match",
                where=where,
                expected=f"at most {MAX_TOKENS} parts, {MAX_DEPTH} deep",
            )
        position = match.end()
    return position
