"""Reads the JSON objects of Reference Values and of their parts, key by key; every complaint names file and key.

Unknown keys are refused too: a misspelt demand would be no demand.
"""

import base64
import re
from collections.abc import Mapping
from typing import Any

from shamon_host.attestation.ima_signature import load_signing_key
from shamon_host.attestation.reference_model import (
    APPRAISED_PCRS,
    FORMAT,
    CodeReference,
    EventReference,
    PcrReference,
    ReferencePart,
    ReferenceValues,
    SelinuxReference,
    SignedFiles,
)
from shamon_host.attestation.reference_part import PART_FORMAT
from shamon_host.attestation.reference_paths import literal_part, overlaps, too_wide
from shamon_host.domain.errors import BadInput
from shamon_host.domain.text import is_sha256

OLD_FORMAT = "shamon-reference-values/1"
"""Without versions, and without rules other than `files`."""
REMEDY = "Correct it there, or make the file again (`shamon reference record`, `from-packages` and the like)."
_FILE_DIGEST = re.compile(
    r"[0-9a-f]{64}|(verity:)?(sha384:[0-9a-f]{96}|sha512:[0-9a-f]{128})|verity:sha256:[0-9a-f]{64}"
)
_PACKAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9+._-]*(:[a-z0-9-]+)? [!-~]+")
_OLD_KEYS = ("format", "pcrs", "ima_policy", "early", "selinux", "code", "files", "buffers", "early_data")
_NEW_KEYS = ("version", "parent")
_RULES = ("packages", "digests", "signed", "patterns", "violations")
"""Keys that an object may be without: then nothing is accepted by such a rule."""
_PART_KEYS = ("pcrs", "selinux", "files", "buffers", "early_data", *_RULES)
_TOO_WIDE = ("/*", "/**", "*", "**")
_MIN_GLOB_PARTS = 3
_MAX_VERSION = 2**53 - 1


class DocumentReader:
    """Reads one document. `where` names the file in errors."""

    def __init__(self, where: str, *, of_guest: bool = False) -> None:
        """`of_guest`: they may do without SELinux, as guests may."""
        self._where = where
        self._of_guest = of_guest

    def any_of_both(self, value: Any) -> ReferencePart:
        """Reference Values or a part, as the format says. Raises BadInput."""
        if isinstance(value, dict) and value.get("format") == PART_FORMAT:
            return self.part(value)
        return self.values(value)

    def part(self, value: Any) -> ReferencePart:
        """A part. Raises BadInput."""
        root = self._table("", value, ("format",), optional=_PART_KEYS)
        if root["format"] != PART_FORMAT:
            raise self._bad("format", f'"{PART_FORMAT}"', root["format"])
        pcrs = self._table("pcrs", root.get("pcrs", {}), (), optional=tuple(map(str, APPRAISED_PCRS)))
        selinux = self._table("selinux", root.get("selinux", {}), (), optional=("states", "policy_digests"))
        return ReferencePart(
            pcrs={int(pcr): self._pcr(f"pcrs.{pcr}", references) for pcr, references in pcrs.items()},
            selinux=self._selinux(selinux, may_be_empty=True),
            files=self._file_table("files", root.get("files", {}), may_be_empty=True),
            buffers=self._digest_table("buffers", root.get("buffers", {}), may_be_empty=True),
            early_data=self._early_data(root.get("early_data", [])),
            **self._rules(root),
        )

    def values(self, value: Any) -> ReferenceValues:
        """Reference Values, of this format or of the one before it. Raises BadInput."""
        old = isinstance(value, dict) and value.get("format") == OLD_FORMAT
        keys = _OLD_KEYS if old else (*_OLD_KEYS, *_NEW_KEYS)
        root = self._table("", value, keys, optional=() if old else _RULES)
        if not old and root["format"] != FORMAT:
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
            selinux=self._selinux(selinux, may_be_empty=self._of_guest),
            code=CodeReference(
                prefix=prefix,
                entries=tuple(
                    self._path(f"code.entries.{i}", path)
                    for i, path in enumerate(self._list("code.entries", code["entries"]))
                ),
            ),
            files=self._file_table("files", root["files"], may_be_empty=True),
            buffers=self._digest_table("buffers", root["buffers"], may_be_empty=True),
            early_data=self._early_data(root["early_data"]),
            version=1 if old else self._version("version", root["version"]),
            parent="" if old else self._parent("parent", root["parent"]),
            **self._rules(root),
        )
        self._check(reference)
        return reference

    def _check(self, reference: ReferenceValues) -> None:
        """What is demanded can be met, and is not excused."""
        selinux = reference.selinux
        if bool(selinux.states) != bool(selinux.policy_digests):
            raise self._bad(
                "selinux", "states and policy_digests, or in a guest without SELinux neither", "one of them"
            )
        for key, path in {"ima_policy": reference.ima_policy, **reference.early}.items():
            # What must be measured but may have no content would make every boot fail, and nobody would know why.
            if not reference.lookup.digests(path):
                raise self._bad("files", f"digests of {path}, which {key} demands", None, what="missing key")
        demanded = (reference.ima_policy, *reference.early.values(), *reference.code.entries)
        for key in ("patterns", "violations"):
            for i, pattern in enumerate(getattr(reference, key)):
                if overlaps(pattern, reference.code.prefix) or any(overlaps(pattern, path) for path in demanded):
                    expected = "a pattern that names nothing which is demanded, nor Shamon's own code"
                    raise self._bad(f"{key}.{i}", expected, pattern)

    def _rules(self, root: Mapping[str, Any]) -> dict[str, Any]:
        packages = self._mapping("packages", root.get("packages", {}), may_be_empty=True)
        for group in packages:
            if not _PACKAGE.fullmatch(group):
                raise self._bad(f"packages.{group}"[:200], "a package's name, a space, and its version", group)
        return {
            "packages": {name: self._file_table(f"packages.{name}", files) for name, files in packages.items()},
            "digests": self._file_digests("digests", root.get("digests", []), may_be_empty=True),
            "signed": tuple(
                self._signed(f"signed.{i}", rule)
                for i, rule in enumerate(self._list("signed", root.get("signed", []), may_be_empty=True))
            ),
            "patterns": self._patterns("patterns", root.get("patterns", [])),
            "violations": self._patterns("violations", root.get("violations", [])),
        }

    def _signed(self, key: str, value: Any) -> SignedFiles:
        rule = self._table(key, value, ("key", "prefix"))
        text = self._text(f"{key}.key", rule["key"])
        try:
            load_signing_key(base64.b64decode(text, validate=True), where=key)
        except (ValueError, BadInput):
            raise self._bad(f"{key}.key", "base64 of a certificate or public key (DER), RSA or ECDSA", text) from None
        prefix = self._path(f"{key}.prefix", rule["prefix"])
        if not prefix.endswith("/"):
            raise self._bad(f"{key}.prefix", "a directory's path with its final slash", prefix)
        return SignedFiles(key=text, prefix=prefix)

    def _patterns(self, key: str, value: Any) -> tuple[str, ...]:
        patterns = tuple(
            self._text(f"{key}.{i}", item) for i, item in enumerate(self._list(key, value, may_be_empty=True))
        )
        for i, pattern in enumerate(patterns):
            if why := too_wide(pattern):
                raise self._bad(f"{key}.{i}", f"a pattern of data files: {why}", pattern)
        return patterns

    def _early_data(self, value: Any) -> tuple[str, ...]:
        globs = self._list("early_data", value, may_be_empty=True)
        return tuple(self._glob(f"early_data.{i}", glob) for i, glob in enumerate(globs))

    def _selinux(self, selinux: Mapping[str, Any], *, may_be_empty: bool = False) -> SelinuxReference:
        states = self._list("selinux.states", selinux.get("states", []), may_be_empty=may_be_empty)
        return SelinuxReference(
            states=tuple(self._state(f"selinux.states.{i}", state) for i, state in enumerate(states)),
            policy_digests=self._digests(
                "selinux.policy_digests", selinux.get("policy_digests", []), may_be_empty=may_be_empty
            ),
        )

    def _version(self, key: str, value: Any) -> int:
        if type(value) is not int or not 0 < value <= _MAX_VERSION:
            raise self._bad(key, f"a number from 1 to {_MAX_VERSION}", value)
        return value

    def _parent(self, key: str, value: Any) -> str:
        return "" if value == "" else self._digest(key, value)

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
        if (
            glob in _TOO_WIDE
            or len(glob.split("/")) < _MIN_GLOB_PARTS
            or glob.startswith(("/usr/", "/opt/", "/boot/"))
            or literal_part(glob).count("/") < 2  # the first directory is named
        ):
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
        if not isinstance(value, str) or not is_sha256(value):
            raise self._bad(key, "a SHA-256 digest, 64 lower-case hexadecimal digits", value)
        return value

    def _digests(self, key: str, value: Any, *, may_be_empty: bool = False) -> frozenset[str]:
        items = self._list(key, value, may_be_empty=may_be_empty)
        return frozenset(self._digest(f"{key}.{i}", item) for i, item in enumerate(items))

    def _digest_table(self, key: str, value: Any, *, may_be_empty: bool = False) -> dict[str, frozenset[str]]:
        table = self._mapping(key, value, may_be_empty=may_be_empty)
        return {name: self._digests(f"{key}.{name}", digests) for name, digests in table.items()}

    def _file_table(self, key: str, value: Any, *, may_be_empty: bool = False) -> dict[str, frozenset[str]]:
        table = self._mapping(key, value, may_be_empty=may_be_empty)
        return {path: self._file_digests(f"{key}.{path}", digests) for path, digests in table.items()}

    def _file_digests(self, key: str, value: Any, *, may_be_empty: bool = False) -> frozenset[str]:
        digests = self._list(key, value, may_be_empty=may_be_empty)
        for i, digest in enumerate(digests):
            if not isinstance(digest, str) or not _FILE_DIGEST.fullmatch(digest):
                expected = "a SHA-256 digest, 64 lower-case hexadecimal digits, or one with its hash, as sha512:..."
                raise self._bad(f"{key}.{i}", expected, digest)
        return frozenset(digests)

    def _list(self, key: str, value: Any, *, may_be_empty: bool = False) -> list[Any]:
        if not isinstance(value, list) or not (value or may_be_empty):
            raise self._bad(key, "a list" if may_be_empty else "a list that is not empty", value)
        return value

    def _mapping(self, key: str, value: Any, *, may_be_empty: bool = False) -> Mapping[str, Any]:
        if not isinstance(value, dict) or not (value or may_be_empty):
            raise self._bad(key, "a table" if may_be_empty else "a table that is not empty", value)
        return value

    def _table(
        self, key: str, value: Any, keys: tuple[str, ...], *, optional: tuple[str, ...] = ()
    ) -> Mapping[str, Any]:
        table = self._mapping(key or "the file", value, may_be_empty=not keys)
        known = (*keys, *optional)
        for name in table:
            if name not in known:
                raise self._bad(f"{key}.{name}".lstrip("."), f"one of {', '.join(known)}", name, what="unknown key")
        for name in keys:
            if name not in table:
                raise self._bad(f"{key}.{name}".lstrip("."), "", None, what="missing key")
        return table

    def _bad(self, key: str, expected: str, found: Any, *, what: str = "bad value") -> BadInput:
        shown = "" if found is None else (repr(found) if isinstance(found, str | int) else f"a {type(found).__name__}")
        return BadInput(f"{what} at {key}", where=self._where, expected=expected, found=shown[:200], remedy=REMEDY)
