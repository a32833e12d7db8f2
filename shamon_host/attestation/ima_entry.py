"""One entry of the IMA log: its template, its fields, and what the kernel extended into the PCRs for it.

`ima_log` reads and replays whole logs; an appraiser asks the entries for their fields. What the replay proves is the
*measured bytes* of an entry and their order, and that a violation took place. It does not prove the template's name
(the kernel leaves it out of the hash), and for a violation nothing of the content: a violation extends all ones
whatever it says. Hence the fields are read strictly, so that bytes measured under one template hardly pass under
another, and an appraiser should refuse an entry whose `file_digest` or `path` is None.

Source: Linux Documentation/security/IMA-templates.rst; security/integrity/ima/ima_template.c, ima_template_lib.c,
ima_crypto.c (`ima_calc_field_array_hash_tfm`), ima_queue.c (violations).
"""

from collections.abc import Mapping
from typing import NamedTuple

from shamon_host.attestation.pcr import Bank
from shamon_host.domain.errors import BadInput

IMA_PCR = 10
"""CONFIG_IMA_MEASURE_PCR_IDX."""

IMA_TEMPLATE = "ima"
"""The one template without field lengths, whose path is hashed padded to 256 bytes."""
SHA1_BYTES = 20
MD5_BYTES = 16
IMA_NAME_BYTES = 256

TEMPLATES: Mapping[str, tuple[str, ...]] = {
    IMA_TEMPLATE: ("d", "n"),
    "ima-ng": ("d-ng", "n-ng"),
    "ima-sig": ("d-ng", "n-ng", "sig"),
    "ima-ngv2": ("d-ngv2", "n-ng"),
    "ima-sigv2": ("d-ngv2", "n-ng", "sig"),
    "ima-buf": ("d-ng", "n-ng", "buf"),
    "ima-modsig": ("d-ng", "n-ng", "sig", "d-modsig", "modsig"),
    "evm-sig": ("d-ng", "n-ng", "evmsig", "xattrnames", "xattrlengths", "xattrvalues", "iuid", "igid", "imode"),
}
"""Builtin templates by name (ima_template.c, `builtin_templates`)."""

_FIELD_IDS = frozenset(field for fields in TEMPLATES.values() for field in fields)

_DIGEST_BYTES = {
    "md4": 16,
    "md5": 16,
    "sha1": 20,
    "rmd128": 16,
    "rmd160": 20,
    "rmd256": 32,
    "rmd320": 40,
    "sha224": 28,
    "sha256": 32,
    "sha384": 48,
    "sha512": 64,
    "sm3": 32,
    "sm3-256": 32,
    "sm3_256": 32,
    "streebog256": 32,
    "streebog512": 64,
    "sha3-256": 32,
    "sha3-384": 48,
    "sha3-512": 64,
    "tgr128": 16,
    "tgr160": 20,
    "tgr192": 24,
    "wp256": 32,
    "wp384": 48,
    "wp512": 64,
}
"""Digest sizes by the kernel's name of the hash (crypto/hash_info.c)."""


_SHA256_PREFIX = b"sha256:\0"
_SHA256_FIELD_BYTES = len(_SHA256_PREFIX) + 32


class ImaLogError(BadInput):
    """The bytes are no IMA log that a kernel wrote."""


class FileDigest(NamedTuple):
    """A file's digest. `kind` is `ima` for a hash over the content, `verity` for fs-verity's."""

    algorithm: str
    digest: bytes
    kind: str = "ima"

    def __str__(self) -> str:
        return f"{'' if self.kind == 'ima' else self.kind + ':'}{self.algorithm}:{self.digest.hex()}"


class ImaFields(NamedTuple):
    """The fields of an entry; what its template lacks is None or empty. A NamedTuple for speed, like `ImaEntry`."""

    file_digest: FileDigest | None
    """`d`, `d-ng`, `d-ngv2`. Of a buffer (`ima-buf`): the hash of `buf`."""
    path: str | None
    """`n`, `n-ng`: path, or name of a buffer. Bytes that are not UTF-8 are shown as `\\xNN`."""
    signature: bytes
    """`sig`: the security.ima signature, or empty."""
    buf: bytes | None
    """`buf`: measured data, e.g. of `selinux-state`; None under a template without it."""
    modsig_digest: FileDigest | None
    """`d-modsig`."""
    raw: Mapping[str, bytes]
    """Every field as it stands in the log, by field id; `modsig`, `evmsig`, `xattr*`, `iuid`... are only here."""

    @property
    def buffer_matches_digest(self) -> bool:
        """Whether `file_digest` is that of `buf`, as in every entry the kernel makes of critical data.

        False also where the algorithm is none of a PCR bank.
        """
        if self.buf is None or self.file_digest is None or self.file_digest.algorithm not in _BANK_NAMES:
            return False
        return Bank(self.file_digest.algorithm).digest(self.buf) == self.file_digest.digest


_BANK_NAMES = frozenset(Bank)


class ImaEntry(NamedTuple):
    """One measurement. A NamedTuple because logs have tens of thousands, and are read whole after each boot."""

    pcr: int
    template: str
    """Name, or the field list (`n-ng|d-ng`) of a custom template."""
    template_hash: bytes
    """The log's own digest of the entry; all zeros for a violation."""
    measured: bytes
    """The bytes the kernel hashed."""
    end_offset: int = 0
    """Offset of the byte behind the entry, in the whole log."""

    @property
    def violation(self) -> bool:
        """Whether the kernel recorded that a measurement could not be relied on (open writers, ToMToU)."""
        return not any(self.template_hash)

    def pcr_digest(self, bank: Bank) -> bytes:
        """What a kernel of version 5.8 or later extends into the PCR of `bank` for this entry."""
        if self.violation:
            return b"\xff" * bank.digest_size
        return bank.digest(self.measured)

    def fields(self) -> ImaFields:
        """The template's fields. Raises `ImaLogError` where they do not fill the entry exactly as they must."""
        if self.template == IMA_TEMPLATE:
            digest, name = self.measured[:SHA1_BYTES], self.measured[SHA1_BYTES:].rstrip(b"\0")
            return ImaFields(FileDigest("sha1", digest), _text(name), b"", None, None, {"d": digest, "n": name})
        raw = self._raw_fields()
        get = raw.get
        lenient = not any(self.template_hash)
        file_digest = None
        if "d-ng" in raw:
            file_digest = _digest_ng(raw["d-ng"], lenient=lenient)
        elif "d-ngv2" in raw:
            file_digest = _digest_v2(raw["d-ngv2"], lenient=lenient)
        elif "d" in raw:
            file_digest = _plain_digest(raw["d"])
        path = get("n-ng", get("n"))
        modsig_digest = get("d-modsig")
        return ImaFields(
            file_digest=file_digest,
            path=None if path is None else _path(path),
            signature=get("sig", b""),
            buf=get("buf"),
            modsig_digest=_digest_ng(modsig_digest, lenient=True) if modsig_digest else None,
            raw=raw,
        )

    def _raw_fields(self) -> dict[str, bytes]:
        data = self.measured
        end = len(data)
        raw: dict[str, bytes] = {}
        position = 0
        for field in TEMPLATES.get(self.template) or template_fields(self.template):
            start = position + 4
            position = start + int.from_bytes(data[position:start], "little")
            raw[field] = data[start:position]
        # Lengths are not negative, so only the last end can show that one of them was too long.
        if position != end:
            raise ImaLogError(f"the fields of a {self.template} entry do not fill it", expected=f"{end} bytes")
        return raw

    def describe(self) -> str:
        """One line for people; unprintable characters escaped."""
        try:
            fields = self.fields()
        except ImaLogError as error:
            return f"{self.template}: unreadable ({error})"
        parts = [self.template, printable(fields.path or "(no path)")]
        if self.violation:
            parts.append("violation")
        elif fields.buf is not None:
            parts.append(printable(fields.buf[:200].decode("utf-8", "backslashreplace")))
        elif fields.file_digest is not None:
            parts.append(str(fields.file_digest))
        return " ".join(parts)


def template_fields(template: str) -> tuple[str, ...]:
    """Field ids of a template, by its name or as its own list. Raises `ImaLogError` for one that is not known."""
    builtin = TEMPLATES.get(template)
    if builtin is not None:
        return builtin
    fields = tuple(template.split("|"))
    if len(set(fields)) != len(fields) or not _FIELD_IDS.issuperset(fields):
        raise ImaLogError(
            "unknown IMA template", expected="a builtin template or a list of known fields", found=printable(template)
        )
    return fields


def printable(text: str) -> str:
    """`text` with every character escaped that could move a terminal's cursor or forge a line."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")


def _path(data: bytes) -> str:
    if data.find(b"\0") != len(data) - 1 or not data:
        raise ImaLogError("a path does not end in its one NUL byte")
    return _text(data[:-1])


def _plain_digest(data: bytes) -> FileDigest:
    """`d`, which names no hash: SHA-1, or MD5 under `ima_hash=md5`."""
    if len(data) == MD5_BYTES:
        return FileDigest("md5", data)
    if len(data) != SHA1_BYTES:
        raise ImaLogError("a digest has the wrong length", expected=f"{SHA1_BYTES} bytes", found=str(len(data)))
    return FileDigest("sha1", data)


def _digest_ng(data: bytes, *, lenient: bool, kind: str = "ima") -> FileDigest:
    """`algorithm:\\0digest`. Lenient for violations, whose zero digest had another length in older kernels."""
    if data.startswith(_SHA256_PREFIX) and len(data) == _SHA256_FIELD_BYTES:
        return FileDigest("sha256", data[len(_SHA256_PREFIX) :], kind)
    name, separator, digest = data.partition(b":\0")
    algorithm = name.decode("ascii", "backslashreplace")
    size = _DIGEST_BYTES.get(algorithm)
    if not separator or size is None:
        raise ImaLogError("a file digest names no known hash", found=printable(algorithm[:40]))
    if len(digest) != size and not (lenient and not any(digest)):
        raise ImaLogError(
            f"a {algorithm} digest has the wrong length", expected=f"{size} bytes", found=str(len(digest))
        )
    return FileDigest(algorithm, digest, kind)


def _digest_v2(data: bytes, *, lenient: bool) -> FileDigest:
    """`ima:algorithm:\\0digest` or `verity:algorithm:\\0digest`."""
    kind, _, rest = data.partition(b":")
    if kind not in {b"ima", b"verity"}:
        raise ImaLogError("a file digest is of no known kind", expected="ima or verity")
    return _digest_ng(rest, lenient=lenient, kind=kind.decode())
