"""What Reference Values accept, in the form in which a walk over a log asks: once for each of its entries.

The usual entry is a file that is known by path and digest. The kernel hashed `digest field ‖ path field (‖ signature
field)` for it; once such bytes were found to be good, one look-up in a set says so again. Whatever is not recognised
like that is read field by field and asked for rule by rule.

Source: Linux security/integrity/ima/ima_template_lib.c (`ima_eventdigest_init_common`, `ima_eventname_init_common`).
"""

import base64
import struct
from collections.abc import Iterable, Mapping, Set

from shamon_host.attestation.ima_entry import ImaFields
from shamon_host.attestation.ima_signature import SignatureVerdict, SigningKeys, check_signature, load_signing_key
from shamon_host.attestation.reference_part import Digests, ReferencePart, merged_digests
from shamon_host.attestation.reference_paths import PathPatterns

_NONE: frozenset[str] = frozenset()
_NO_MEASUREMENTS: frozenset[bytes] = frozenset()
_EMPTY_FIELD = bytes(4)
_PLAIN = {b"sha256": "", b"sha384": "sha384:", b"sha512": "sha512:"}
_OF_A_KIND = {b"ima:" + name: text for name, text in _PLAIN.items()} | {
    b"verity:" + name: f"verity:{name.decode()}:" for name in _PLAIN
}
"""How a digest begins in its field (`d-ng`, `d-ngv2`), and in Reference Values: see `digest_text`."""
_TEMPLATES = {
    "ima-ng": (_PLAIN, False),
    "ima-sig": (_PLAIN, True),
    "ima-ngv2": (_OF_A_KIND, False),
    "ima-sigv2": (_OF_A_KIND, True),
}
"""For each template whose entries may be recognised, its digests, and whether a signature field follows."""
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
        self._heads: set[bytes] = set()
        self._measured: dict[str, set[bytes]] = {template: set() for template in _TEMPLATES}

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

    def recognised(self, template: str) -> Set[bytes]:
        """What was hashed under this template for files without a signature that were recognised before. It grows, but
        never beyond the files that are known."""
        return self._measured.get(template, _NO_MEASUREMENTS)

    def recognises(self, template: str, measured: bytes) -> bool:
        """Whether these are the bytes that a kernel hashes for a known file of which nothing is demanded, with a
        signature or without. False says nothing: then the entry has to be read."""
        digests, signed = _TEMPLATES.get(template, (None, False))
        size = len(measured)
        if digests is None or size < 4:
            return False
        path_at = 4 + _LENGTH.unpack_from(measured)[0]
        if size < path_at + 4:
            return False
        end = path_at + 4 + _LENGTH.unpack_from(measured, path_at)[0]
        if signed and (size < end + 4 or size != end + 4 + _LENGTH.unpack_from(measured, end)[0]):
            return False
        if not signed and size != end:
            return False
        head = measured[:end]
        if head not in self._heads:
            if not self._knows(measured[4:path_at], measured[path_at + 4 : end], digests):
                return False
            self._heads.add(head)
        if size - end <= len(_EMPTY_FIELD):
            self._measured[template].add(measured)
        return True

    def _knows(self, digest: bytes, name: bytes, digests: Mapping[bytes, str]) -> bool:
        """Whether a file of this name may have this digest, both as their fields have them."""
        algorithm, _, value = digest.partition(b":\0")
        text = digests.get(algorithm)
        if text is None or name.find(b"\0") != len(name) - 1:
            return False
        try:
            path = name[:-1].decode()
        except UnicodeDecodeError:
            return False
        # What has no slash in front may be a word of the kernel, as the boot aggregate.
        return path.startswith("/") and path not in self._demanded and f"{text}{value.hex()}" in self.digests(path)


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
