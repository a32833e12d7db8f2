"""What Reference Values accept, in the form in which a walk over a log asks: once for each of its entries.

The usual entry is a file that is known by path and digest. The kernel hashed `digest field ‖ path field (‖ signature
field)` for it, so those bytes are put together beforehand, and one look-up in a set decides. Whatever is not found
there is read field by field and asked for rule by rule.

Source: Linux security/integrity/ima/ima_template_lib.c (`ima_eventdigest_init_common`, `ima_eventname_init_common`).
"""

import base64
import struct
from collections.abc import Iterable

from shamon_host.attestation.ima_entry import ImaFields
from shamon_host.attestation.ima_signature import SignatureVerdict, SigningKeys, check_signature, load_signing_key
from shamon_host.attestation.reference_part import Digests, ReferencePart, merged_digests
from shamon_host.attestation.reference_paths import PathPatterns

_NONE: frozenset[str] = frozenset()
_NO_MEASUREMENTS: frozenset[bytes] = frozenset()
_EMPTY_FIELD = bytes(4)
_TEMPLATES = {"ima-ng": b"", "ima-sig": _EMPTY_FIELD, "ima-ngv2": b"", "ima-sigv2": _EMPTY_FIELD}
"""Template → what follows the path where the file has no signature."""
_WITH_KIND = ("ima-ngv2", "ima-sigv2")
"""Templates whose digests say of what kind they are (`d-ngv2`); the others have none that is not of the content."""
_PATH_AT = {"ima-sig": 4 + 8 + 32, "ima-sigv2": 4 + 12 + 32}
"""Where the path field begins behind a SHA-256 digest, under the templates that have a signature."""
_LENGTH = struct.Struct("<I")
_SIGNED_DIGESTS = ("sha256", "sha384", "sha512")
"""Hashes of which a signed digest names one file and no other."""


class ReferenceLookup:
    """Made once for Reference Values. `demanded` are paths of which something is demanded: only a digest under that
    very path will do for them, as for everything below `code_prefix`."""

    def __init__(self, part: ReferencePart, *, demanded: Iterable[str], code_prefix: str) -> None:
        self._part = part
        self._files: Digests = merged_digests(part.files, *part.packages.values()) if part.packages else part.files
        self._demanded = frozenset(demanded)
        self._code_prefix = code_prefix
        self._patterns = PathPatterns(part.patterns)
        self._violations = PathPatterns(part.violations)
        self._early_data = PathPatterns(part.early_data)
        self._keys = _keys_below(part)
        self._measured: dict[str, frozenset[bytes]] = {}

    def digests(self, path: str) -> frozenset[str]:
        """What a file under this path may have, by its own entry or its package's."""
        return self._files.get(path, _NONE)

    def is_demanded(self, path: str) -> bool:
        """Whether something is demanded of this path, so that no rule that is wider than a path excuses it."""
        return path in self._demanded or path.startswith(self._code_prefix)

    def excused_early(self, path: str) -> bool:
        """Whether any content will do under this path until the IMA policy is in force."""
        return not self.is_demanded(path) and self._early_data.match(path)

    def has_digest(self, path: str, digest: str) -> bool:
        """Whether the content is accepted under any path, this one included."""
        return digest in self._part.digests and not self.is_demanded(path)

    def is_signed(self, path: str, fields: ImaFields) -> bool:
        """Whether one of the keys for this path made a good signature over the digest in the entry."""
        digest = fields.file_digest
        if not fields.signature or digest is None or digest.algorithm not in _SIGNED_DIGESTS or self.is_demanded(path):
            return False
        return any(
            path.startswith(prefix) and check_signature(fields, keys) is SignatureVerdict.GOOD
            for prefix, keys in self._keys.items()
        )

    def excused(self, path: str) -> bool:
        """Whether any content will do under this path."""
        return not self.is_demanded(path) and self._patterns.match(path)

    def may_be_written(self, path: str) -> bool:
        """Whether this file may be open for writing while it is measured."""
        return not self.is_demanded(path) and self._violations.match(path)

    def package(self, path: str) -> str:
        """The packages that this file is of, as `coreutils 9.1-1`; empty where it is of none."""
        return ", ".join(name for name, files in self._part.packages.items() if path in files)

    def measured(self, template: str) -> frozenset[bytes]:
        """The bytes that a kernel hashes under this template for each known file without a signature, except those
        that are demanded. Empty for a template whose entries have to be read."""
        known = self._measured.get(template)
        if known is None:
            known = self._measured[template] = self._compiled(template)
        return known

    def _compiled(self, template: str) -> frozenset[bytes]:
        if template not in _TEMPLATES:
            return _NO_MEASUREMENTS
        behind, with_kind = _TEMPLATES[template], template in _WITH_KIND
        compiled = set()
        for path, digests in self._files.items():
            if path in self._demanded or not path.startswith("/"):
                continue
            try:
                name = path.encode() + b"\0"
            except UnicodeEncodeError:
                continue  # half of a surrogate pair: no path that is read from a log has one
            tail = len(name).to_bytes(4, "little") + name + behind
            compiled |= {field + tail for digest in digests if (field := _digest_field(digest, with_kind=with_kind))}
        return frozenset(compiled)


def _digest_field(text: str, *, with_kind: bool) -> bytes:
    """A digest as a kernel writes it, after its length. Empty where it has no such form under the template."""
    head, _, digest = text.rpartition(":")
    kind, _, algorithm = (head or "sha256").rpartition(":")
    if kind and not with_kind:
        return b""
    named = f"{kind or 'ima'}:{algorithm}:" if with_kind else f"{algorithm}:"
    field = named.encode() + b"\0" + bytes.fromhex(digest)
    return len(field).to_bytes(4, "little") + field


def _keys_below(part: ReferencePart) -> dict[str, SigningKeys]:
    """Prefix → the keys whose signatures count below it."""
    prefixes = dict.fromkeys(rule.prefix for rule in part.signed)
    return {
        prefix: SigningKeys(
            load_signing_key(base64.b64decode(rule.key), where="signed")
            for rule in part.signed
            if rule.prefix == prefix
        )
        for prefix in prefixes
    }


def without_signature(template: str, measured: bytes) -> bytes:
    """What the kernel would have hashed, had the file no signature; as it is where there is none, or no such field.

    For entries with a SHA-256 digest: of others come bytes that are not those of any known file.
    """
    path_at = _PATH_AT.get(template)
    if path_at is None or len(measured) < path_at + 8:
        return measured
    end = path_at + 4 + _LENGTH.unpack_from(measured, path_at)[0]
    if len(measured) < end + 4 or len(measured) != end + 4 + _LENGTH.unpack_from(measured, end)[0]:
        return measured
    return measured[:end] + _EMPTY_FIELD
