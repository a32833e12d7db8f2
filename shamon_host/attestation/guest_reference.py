"""Reference Values of VMs that are made from one image: what their host must have started, and what they must measure.

The firmware of a VM measures no kernel that QEMU hands over, so the boot chain is what the host itself digested before
the start: kernel, initrd and command line. Everything after that is the guest's own log. Unlike a host, a guest may do
without SELinux: then nothing is asked about it.

A policy names the digest of the whole (`domain.guest_demand`), hence whoever signs the policy stands for it.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

from shamon_host.attestation.reference_model import ReferenceValues
from shamon_host.attestation.reference_reader import DocumentReader
from shamon_host.attestation.reference_values import parse_json
from shamon_host.domain.canonical import canonical_digest
from shamon_host.domain.errors import BadInput
from shamon_host.domain.text import is_sha256

FORMAT = "shamon-guest-reference/1"
MAX_BOOTS = 16
_MAX_CMDLINE = 2048
_KEYS = ("kernel", "initrd", "cmdline")


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestBoot:
    """What QEMU was given to boot. Digests are SHA-256 of the whole file, hexadecimal; empty: there was none."""

    kernel: str = ""
    initrd: str = ""
    cmdline: str = ""

    def to_document(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _KEYS}

    @classmethod
    def from_document(cls, document: object, *, where: str) -> Self:
        """Raises BadInput."""
        if not isinstance(document, dict) or set(document) != set(_KEYS):
            raise BadInput("malformed boot of a guest", where=where, expected=", ".join(_KEYS))
        if not all(isinstance(value, str) for value in document.values()):
            raise BadInput("malformed boot of a guest", where=where, expected="texts")
        for name in ("kernel", "initrd"):
            digest = document[name]
            if digest and not is_sha256(digest):
                raise BadInput(
                    "malformed boot of a guest",
                    where=f"{where}.{name}",
                    expected="a SHA-256 digest, 64 lower-case hexadecimal digits, or nothing",
                    found=repr(digest)[:80],
                )
        if len(document["cmdline"]) > _MAX_CMDLINE:
            raise BadInput("the command line is too long", where=where, expected=f"at most {_MAX_CMDLINE} characters")
        return cls(**document)


@dataclass(frozen=True, kw_only=True)
class GuestReference:
    """What guests made from one image have to show."""

    boots: tuple[GuestBoot, ...]
    """What may have been started; at least one."""
    values: ReferenceValues
    """What they may measure, and must."""

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the canonical form, hexadecimal: what a policy names."""
        return canonical_digest(self.to_document())

    def to_document(self) -> dict[str, Any]:
        """As a JSON object; `read_guest_reference` reads it back."""
        return {
            "format": FORMAT,
            "boots": [boot.to_document() for boot in self.boots],
            "values": self.values.to_document(),
        }


def read_guest_reference(data: bytes, *, where: str) -> GuestReference:
    """From JSON text. `where` names the file in errors. Raises BadInput."""
    root = parse_json(data, where)
    if not isinstance(root, dict) or root.get("format") != FORMAT or set(root) != {"format", "boots", "values"}:
        raise BadInput(
            "not the Reference Values of a guest",
            where=where,
            expected=f"format {FORMAT}, boots and values",
            remedy="Record them with `shamon reference record-vm`.",
        )
    boots = root["boots"]
    if not isinstance(boots, list) or not 0 < len(boots) <= MAX_BOOTS:
        raise BadInput("bad value at boots", where=where, expected=f"a list of 1 to {MAX_BOOTS}")
    return GuestReference(
        boots=tuple(GuestBoot.from_document(boot, where=f"{where}: boots.{at}") for at, boot in enumerate(boots)),
        values=DocumentReader(where, of_guest=True).values(root["values"]),
    )
