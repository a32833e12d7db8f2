"""Reference Values and parts on disk: JSON, read strictly (`reference_reader`), written whole.

One file for each host of the coalition (`/etc/shamon/reference/NAME.json`), made by `shamon reference record` and
checked here when the daemon first needs it. A mistake is refused with file, key, what was expected and what to do.
"""

import json
import os
from pathlib import Path
from typing import Any

from shamon_host.attestation.reference_model import (
    CodeReference,
    EventReference,
    PcrReference,
    ReferencePart,
    ReferenceValues,
    SelinuxReference,
    SignedFiles,
)
from shamon_host.attestation.reference_part import part_document
from shamon_host.attestation.reference_reader import REMEDY, DocumentReader
from shamon_host.domain.errors import BadInput

__all__ = [
    "CodeReference",
    "EventReference",
    "PcrReference",
    "ReferencePart",
    "ReferenceValues",
    "SelinuxReference",
    "SignedFiles",
    "dump_part",
    "dump_reference_values",
    "load_any",
    "load_reference_values",
    "parse_any",
    "parse_reference_values",
]

MAX_FILE_BYTES = 64 * 1024 * 1024


def load_reference_values(path: Path) -> ReferenceValues:
    """Read a file of Reference Values. Raises BadInput naming file and key."""
    return parse_reference_values(_read(path), where=str(path))


def load_any(path: Path) -> ReferencePart:
    """Read a file of Reference Values, or a part of them. Raises BadInput naming file and key."""
    return parse_any(_read(path), where=str(path))


def dump_reference_values(reference: ReferenceValues, path: Path) -> None:
    """Write a file of Reference Values, whole or not at all. Raises BadInput where it cannot be written."""
    dump_document(reference.to_document(), path)


def dump_part(part: ReferencePart, path: Path) -> None:
    """Write a part, whole or not at all. Raises BadInput where it cannot be written."""
    dump_document(part_document(part), path)


def parse_reference_values(data: bytes, *, where: str = "Reference Values") -> ReferenceValues:
    """Reference Values from JSON text. `where` names the file in errors. Raises BadInput."""
    return DocumentReader(where).values(parse_json(data, where))


def parse_any(data: bytes, *, where: str = "Reference Values") -> ReferencePart:
    """Reference Values, or a part of them, from JSON text. Raises BadInput."""
    return DocumentReader(where).any_of_both(parse_json(data, where))


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise BadInput("the Reference Values cannot be read", where=str(path), found=error.strerror or "") from error


def dump_document(document: dict[str, Any], path: Path) -> None:
    """Write JSON, whole or not at all. Raises BadInput where it cannot be written."""
    text = json.dumps(document, indent=1) + "\n"
    temporary = path.with_name(f".{path.name}.new")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise BadInput("the Reference Values cannot be written", where=str(path), found=error.strerror or "") from error


def parse_json(data: bytes, where: str) -> Any:
    """JSON text in which no key stands twice. Raises BadInput."""
    if len(data) > MAX_FILE_BYTES:
        raise BadInput("the Reference Values are too large", where=where, expected=f"at most {MAX_FILE_BYTES} bytes")
    try:
        return json.loads(data, object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        raise BadInput("not a JSON file", where=where, found=str(error)[:200], remedy=REMEDY) from error


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"key {next(name for name in names if names.count(name) > 1)!r} stands twice")
    return table
