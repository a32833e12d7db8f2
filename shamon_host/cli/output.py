"""How the command line prints: JSON when asked for, else aligned plain tables; errors as sentences on stderr; what goes
into a file of its own, never over another one."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shamon_host.domain.errors import BadInput, ShamonError
from shamon_host.domain.text import printable as plain


def print_json(value: Any) -> None:
    """One JSON value, indented, in one write. In ASCII: it may hold a peer's words, and end on a terminal."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def print_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], *, empty: str) -> None:
    """Rows as columns of text with a heading; `empty` when there are no rows."""
    if not rows:
        print(empty)
        return
    cells = [[column.upper().replace("_", " ") for column in columns]]
    cells += [[printable(row.get(column, "")) for column in columns] for row in rows]
    widths = [max(len(row[index]) for row in cells) for index in range(len(columns))]
    for row in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def printable(value: Any) -> str:
    """A value in one line, without control characters: it may come from a peer."""
    if isinstance(value, (list, tuple)):
        text = ", ".join(printable(item) for item in value)
    elif isinstance(value, Mapping):
        text = ", ".join(f"{key}={printable(item)}" for key, item in value.items())
    else:
        text = str(value)
    return plain(text) or "-"


def print_explanations(answers: Sequence[Mapping[str, Any]], *, as_json: bool, file: Path | None = None) -> int:
    """Answers of checks, each with its rule, its reason and the keys of the policy that it comes from, with their lines
    where `file` was asked. Returns the exit code: 1 if one of them denies."""
    code = 0 if all(answer["permitted"] for answer in answers) else 1
    if as_json:
        print_json(list(answers))
        return code
    for answer in answers:
        word = "permitted" if answer["permitted"] else "denied"
        print(f"{word:9}  {printable(answer['check'])}: {printable(answer['subject'])}, {printable(answer['object'])}")
        print(f"           {printable(answer['rule'])}: {printable(answer['reason'])}")
        lines = answer.get("lines") or [0] * len(answer["keys"])
        for key, line in zip(answer["keys"], lines, strict=True):
            print("           " + (f"{printable(file)}:{line}: " if line else "") + printable(key))
    return code


def print_error(error: ShamonError, *, as_json: bool) -> None:
    """What went wrong, where, what was expected and found, what to do."""
    if as_json:
        fields = {name: getattr(error, name) for name in ("what", "where", "expected", "found", "remedy")}
        print_json({"error": fields | {"exit_code": error.exit_code}})
        return
    place = f"{printable(error.where)}: " if error.where else ""
    # Several mistakes at once are told one on each line; nothing else that is told here has lines of its own.
    first, *others = error.what.split("\n  ")
    lines = [f"shamon: {place}{printable(first)}", *(f"  {printable(other)}" for other in others)]
    lines += [f"  {name}: {printable(getattr(error, name))}" for name in ("expected", "found") if getattr(error, name)]
    if error.remedy:
        lines.append(f"  {printable(error.remedy)}")
    print("\n".join(lines), file=sys.stderr)


def in_file(error: BadInput, path: Path, *, expected: str = "") -> BadInput:
    """The same mistake, which now names the file; `expected` is for one that does not say what was expected."""
    return BadInput(
        error.what,
        where=f"{path}: {error.where}" if error.where else str(path),
        expected=error.expected or expected,
        found=error.found,
        remedy=error.remedy,
    )


def write_new(path: Path, text: str, *, remedy: str = "") -> None:
    """Write a text into a new file. Raises BadInput, with the remedy, where there is one of this name."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise BadInput(
            "the file is there already", where=str(path), expected="the name of a new file", remedy=remedy
        ) from error
