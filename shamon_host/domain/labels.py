"""Names of types, labels of VMs and resources, and contexts of SELinux and FLASK as values.

A type's name is universal (`acme/red`) and travels between hosts; an SELinux context is local to one host and does not.
A FLASK context follows from the name of a VM's label, and is the same on every host with Xen.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import NewType, Self

from shamon_host.domain.errors import BadInput
from shamon_host.domain.quarantine import Grade

TypeName = NewType("TypeName", str)
HostName = NewType("HostName", str)
VmName = NewType("VmName", str)

_SEGMENT = r"[a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9])?"
_TYPE_NAME = re.compile(rf"{_SEGMENT}(?:/{_SEGMENT}){{1,7}}")
_PLAIN_NAME = re.compile(_SEGMENT)
_CONTEXT = re.compile(
    r"(?P<user>[A-Za-z0-9_]+):(?P<role>[A-Za-z0-9_]+):(?P<type>[A-Za-z0-9_]+):"
    r"s(?P<sensitivity>[0-9]{1,4})(?::(?P<categories>c[0-9]{1,4}(?:[.,]c[0-9]{1,4})*))?"
)
_FLASK_CONTEXT = re.compile(
    r"(?P<user>[A-Za-z][A-Za-z0-9_]{0,63}):(?P<role>[A-Za-z][A-Za-z0-9_]{0,63}):(?P<type>[A-Za-z][A-Za-z0-9_]{0,254})"
)
CATEGORIES = range(1024)
"""SELinux MCS categories of the reference policy: c0 to c1023."""


def type_name(text: str) -> TypeName:
    """Return `text` as a type's name, `organisation/type` in lower case. Raises BadInput."""
    if not _TYPE_NAME.fullmatch(text):
        raise BadInput(
            "bad type name",
            expected="organisation/type, in lower case letters, digits, '.', '_', '-'",
            found=repr(text[:80]),
        )
    return TypeName(text)


def plain_name(text: str, kind: str = "name") -> str:
    """Return `text` as the name of a host, VM, label or image. Raises BadInput."""
    if not _PLAIN_NAME.fullmatch(text):
        raise BadInput(f"bad {kind}", expected="1-63 lower case letters, digits, '.', '_', '-'", found=repr(text[:80]))
    return text


class ResourceKind(StrEnum):
    """What kind of thing a resource is."""

    DISK = "disk"
    NETWORK = "network"


@dataclass(frozen=True, slots=True, kw_only=True)
class VmLabel:
    """The label of a VM: the types it may use, which way, and its Chinese Wall types beside those that follow."""

    name: str
    types: frozenset[TypeName]
    """All of them, whichever way information goes."""
    read_only: frozenset[TypeName] = frozenset()
    """Those of `types` from which it only receives."""
    write_only: frozenset[TypeName] = frozenset()
    """Those of `types` to which it only sends."""
    walls: frozenset[str] = frozenset()
    """Further Chinese Wall types; its types and their owners count anyway (`Policy.walls_of`)."""
    quarantine: Grade = Grade.SUSPEND
    """The least that a quarantine does to such a VM."""

    @property
    def reads(self) -> frozenset[TypeName]:
        """The types that it may receive from."""
        return self.types - self.write_only

    @property
    def writes(self) -> frozenset[TypeName]:
        """The types that it may send to."""
        return self.types - self.read_only


UNLABELLED = VmLabel(name="unlabelled", types=frozenset())
"""The label of VMs that run beside the others and share nothing with anybody. Its name is reserved."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceLabel:
    """The label of a disk or a network: the types that may use it; none may use an inaccessible one."""

    name: str
    types: frozenset[TypeName]
    kind: ResourceKind = ResourceKind.DISK
    inaccessible: bool = False
    sha256: str = ""
    """Of a disk that nobody writes: digest of its content, lower-case hexadecimal."""

    @property
    def pinned(self) -> bool:
        """Its content is the policy's own: nobody writes it, so nothing flows from one of its types to another."""
        return bool(self.sha256)


@dataclass(frozen=True, slots=True, kw_only=True)
class SelinuxContext:
    """`user:role:type:sN[:categories]` with one sensitivity (low level equals high level).

    `categories` is the set of category numbers. Contexts are compared as values, so `c1.c3` equals `c1,c2,c3`.
    """

    user: str
    role: str
    type: str
    sensitivity: int = 0
    categories: frozenset[int] = frozenset()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a context as the kernel or libvirt prints it. Raises BadInput; a range of levels is refused."""
        match = _CONTEXT.fullmatch(text)
        if not match or len(text) > 4096:
            raise BadInput("bad SELinux context", expected="user:role:type:sN[:cN,...]", found=repr(text[:120]))
        categories: set[int] = set()
        for part in (match["categories"] or "").split(","):
            if not part:
                continue
            first, _, last = part.partition(".")
            low, high = int(first[1:]), int((last or first)[1:])
            if high not in CATEGORIES or low > high:
                raise BadInput("bad category in SELinux context", expected="c0 to c1023, ascending", found=repr(part))
            categories.update(range(low, high + 1))
        return cls(
            user=match["user"],
            role=match["role"],
            type=match["type"],
            sensitivity=int(match["sensitivity"]),
            categories=frozenset(categories),
        )

    def __str__(self) -> str:
        """Print as the kernel prints it: runs of three or more as `cA.cB`, runs of two as `cA,cB`."""
        runs: list[list[int]] = []
        for number in sorted(self.categories):
            if runs and number == runs[-1][-1] + 1:
                runs[-1].append(number)
            else:
                runs.append([number])
        parts = [f"c{run[0]}.c{run[-1]}" if len(run) > 2 else ",".join(f"c{number}" for number in run) for run in runs]
        level = f"s{self.sensitivity}" + (":" + ",".join(parts) if parts else "")
        return f"{self.user}:{self.role}:{self.type}:{level}"


@dataclass(frozen=True, slots=True, kw_only=True)
class FlaskContext:
    """`user:role:type`, a security context of Xen's FLASK (`xen/xsm/flask`), whose policy here has no MLS part."""

    user: str
    role: str
    type: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a context as the hypervisor or libvirt prints it. Raises BadInput."""
        match = _FLASK_CONTEXT.fullmatch(text)
        if not match:
            raise BadInput("bad FLASK context", expected="user:role:type", found=repr(text[:120]))
        return cls(user=match["user"], role=match["role"], type=match["type"])

    def __str__(self) -> str:
        return f"{self.user}:{self.role}:{self.type}"


VmContext = SelinuxContext | FlaskContext
"""What a hypervisor labels a domain with: QEMU/KVM's sVirt with the one, Xen's FLASK with the other."""
