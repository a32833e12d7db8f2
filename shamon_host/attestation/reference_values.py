"""Reference Values on disk: JSON, read strictly, written whole.

One file for each host of the coalition (`/etc/shamon/reference/NAME.json`), made by `shamon reference record` and
checked here when the daemon first needs it. A mistake is refused with file, key, what was expected and what to do;
unknown keys are refused too, since a misspelt demand would be no demand.
"""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shamon_host.attestation.reference_model import (
    APPRAISED_PCRS,
    FORMAT,
    CodeReference,
    EventReference,
    PcrReference,
    ReferenceValues,
    SelinuxReference,
)
from shamon_host.domain.errors import BadInput

__all__ = [
    "CodeReference",
    "EventReference",
    "PcrReference",
    "ReferenceValues",
    "SelinuxReference",
    "dump_reference_values",
    "load_reference_values",
    "parse_reference_values",
]

MAX_FILE_BYTES = 64 * 1024 * 1024
_REMEDY = "Record the Reference Values again with `shamon reference record`."
_HEX_DIGEST = re.compile(r"[0-9a-f]{64}")
_ROOT_KEYS = ("format", "pcrs", "ima_policy", "early", "selinux", "code", "files", "buffers", "early_data")
_TOO_WIDE = ("/*", "/**", "*", "**")
_MIN_GLOB_PARTS = 3


def load_reference_values(path: Path) -> ReferenceValues:
    """Read a file of Reference Values. Raises BadInput naming file and key."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise BadInput("the Reference Values cannot be read", where=str(path), found=error.strerror or "") from error
    return parse_reference_values(data, where=str(path))


def dump_reference_values(reference: ReferenceValues, path: Path) -> None:
    """Write a file of Reference Values, whole or not at all. Raises BadInput where it cannot be written."""
    text = json.dumps(reference.to_document(), indent=1) + "\n"
    temporary = path.with_name(f".{path.name}.new")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise BadInput("the Reference Values cannot be written", where=str(path), found=error.strerror or "") from error


def parse_reference_values(data: bytes, *, where: str = "Reference Values") -> ReferenceValues:
    """Reference Values from JSON text. `where` names the file in errors. Raises BadInput."""
    if len(data) > MAX_FILE_BYTES:
        raise BadInput("the Reference Values are too large", where=where, expected=f"at most {MAX_FILE_BYTES} bytes")
    try:
        document = json.loads(data, object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        raise BadInput("not a JSON file", where=where, found=str(error)[:200], remedy=_REMEDY) from error
    return _Document(where).read(document)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"key {next(name for name in names if names.count(name) > 1)!r} stands twice")
    return table


class _Document:
    """Reads one document; every complaint names the file and the key."""

    def __init__(self, where: str) -> None:
        self._where = where

    def read(self, value: Any) -> ReferenceValues:
        root = self._table("", value, _ROOT_KEYS)
        if root["format"] != FORMAT:
            raise self._bad("format", f'"{FORMAT}"', root["format"])
        pcrs = self._table("pcrs", root["pcrs"], tuple(str(pcr) for pcr in APPRAISED_PCRS))
        selinux = self._table("selinux", root["selinux"], ("states", "policy_digests"))
        code = self._table("code", root["code"], ("prefix", "entries"))
        early = self._mapping("early", root["early"])
        prefix = self._path("code.prefix", code["prefix"])
        if not prefix.endswith("/") or prefix == "/":
            raise self._bad("code.prefix", "a directory's path with its final slash", prefix)
        reference = ReferenceValues(
            pcrs={pcr: self._pcr(f"pcrs.{pcr}", pcrs[str(pcr)]) for pcr in APPRAISED_PCRS},
            ima_policy=self._path("ima_policy", root["ima_policy"]),
            early={name: self._path(f"early.{name}", path) for name, path in early.items()},
            selinux=SelinuxReference(
                states=tuple(
                    self._state(f"selinux.states.{i}", state)
                    for i, state in enumerate(self._list("selinux.states", selinux["states"]))
                ),
                policy_digests=self._digests("selinux.policy_digests", selinux["policy_digests"]),
            ),
            code=CodeReference(
                prefix=prefix,
                entries=tuple(
                    self._path(f"code.entries.{i}", path)
                    for i, path in enumerate(self._list("code.entries", code["entries"]))
                ),
            ),
            files=self._digest_table("files", root["files"]),
            buffers=self._digest_table("buffers", root["buffers"], may_be_empty=True),
            early_data=tuple(
                self._glob(f"early_data.{i}", glob)
                for i, glob in enumerate(self._list("early_data", root["early_data"], may_be_empty=True))
            ),
        )
        for key, path in {"ima_policy": reference.ima_policy, **early}.items():
            # What must be measured but may have no content would make every boot fail, and nobody would know why.
            if path not in reference.files:
                raise self._bad("files", f"digests of {path}, which {key} demands", None, what="missing key")
        return reference

    def _pcr(self, key: str, value: Any) -> tuple[PcrReference, ...]:
        references = []
        for i, item in enumerate(self._list(key, value)):
            table = self._table(f"{key}.{i}", item, ("value", "events"))
            events = []
            for j, raw in enumerate(self._list(f"{key}.{i}.events", table["events"], may_be_empty=True)):
                at = f"{key}.{i}.events.{j}"
                event = self._table(at, raw, ("type", "digest", "description"))
                events.append(
                    EventReference(
                        type=self._text(f"{at}.type", event["type"]),
                        digest=bytes.fromhex(self._digest(f"{at}.digest", event["digest"])),
                        description=self._text(f"{at}.description", event["description"]),
                    )
                )
            digest = self._digest(f"{key}.{i}.value", table["value"])
            references.append(PcrReference(value=bytes.fromhex(digest), events=tuple(events)))
        return tuple(references)

    def _state(self, key: str, value: Any) -> str:
        state = self._text(key, value)
        if not {"initialized=1", "enforcing=1"} <= set(state.split(";")):
            raise self._bad(key, "a state with initialized=1 and enforcing=1", state)
        return state

    def _glob(self, key: str, value: Any) -> str:
        glob = self._path(key, value)
        # A pattern so wide that it excuses programs of early user space would undo the demands on them.
        if glob in _TOO_WIDE or len(glob.split("/")) < _MIN_GLOB_PARTS or glob.startswith(("/usr/", "/opt/", "/boot/")):
            raise self._bad(key, "a pattern of data files, not below /usr, /opt or /boot", glob)
        return glob

    def _path(self, key: str, value: Any) -> str:
        path = self._text(key, value)
        if not path.startswith("/") or "/../" in path:
            raise self._bad(key, "an absolute path", path)
        return path

    def _text(self, key: str, value: Any) -> str:
        if not isinstance(value, str) or not value:
            raise self._bad(key, "a string", value)
        return value

    def _digest(self, key: str, value: Any) -> str:
        if not isinstance(value, str) or not _HEX_DIGEST.fullmatch(value):
            raise self._bad(key, "a SHA-256 digest, 64 lower-case hexadecimal digits", value)
        return value

    def _digests(self, key: str, value: Any) -> frozenset[str]:
        return frozenset(self._digest(f"{key}.{i}", item) for i, item in enumerate(self._list(key, value)))

    def _digest_table(self, key: str, value: Any, *, may_be_empty: bool = False) -> dict[str, frozenset[str]]:
        table = self._mapping(key, value, may_be_empty=may_be_empty)
        return {name: self._digests(f"{key}.{name}", digests) for name, digests in table.items()}

    def _list(self, key: str, value: Any, *, may_be_empty: bool = False) -> list[Any]:
        if not isinstance(value, list) or not (value or may_be_empty):
            raise self._bad(key, "a list" if may_be_empty else "a list that is not empty", value)
        return value

    def _mapping(self, key: str, value: Any, *, may_be_empty: bool = False) -> Mapping[str, Any]:
        if not isinstance(value, dict) or not (value or may_be_empty):
            raise self._bad(key, "a table" if may_be_empty else "a table that is not empty", value)
        return value

    def _table(self, key: str, value: Any, keys: tuple[str, ...]) -> Mapping[str, Any]:
        table = self._mapping(key or "the file", value)
        for name in table:
            if name not in keys:
                raise self._bad(f"{key}.{name}".lstrip("."), f"one of {', '.join(keys)}", name, what="unknown key")
        for name in keys:
            if name not in table:
                raise self._bad(f"{key}.{name}".lstrip("."), "", None, what="missing key")
        return table

    def _bad(self, key: str, expected: str, found: Any, *, what: str = "bad value") -> BadInput:
        shown = "" if found is None else (repr(found) if isinstance(found, str | int) else f"a {type(found).__name__}")
        return BadInput(f"{what} at {key}", where=self._where, expected=expected, found=shown[:200], remedy=_REMEDY)
