"""A policy of sHype/ACM (Xen 3.0 to 3.4) as a value, with the names it has there, and what an import could not keep.

`acm_policy_file` reads it from XML, `acm_labelled` reads which domains and resources wear its labels, and `acm_import`
says it in the language of this project.

Source: Xen 3.0.4 to 3.4, `security_policy.xsd` and the Users' Manual, chapter sHype/Xen Access Control.
"""

from dataclasses import dataclass
from enum import StrEnum

UNLABELED = frozenset({"__UNLABELED__", "__NULL_LABEL__"})
"""Labels that mean: no label. The second is what the compiled policy's map calls the first."""
INACCESSIBLE = "__INACCESSIBLE__"
"""The label of resources that nobody may use."""


class How(StrEnum):
    """What became of something that the language has no equal for."""

    RENAMED = "renamed"
    """It is there under another name."""
    CHANGED = "changed"
    """It is there in another form, or something was added for it."""
    DROPPED = "dropped"
    """It is not there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """One thing that is not in the result as it was. All texts may hold whatever the imported files hold."""

    how: How
    element: str
    """What it was: an element of the XML, or `domain` and `resource`."""
    name: str
    """What ACM calls it."""
    became: str = ""
    """What stands for it in the result; empty where nothing does."""
    why: str


def renamed(element: str, name: str, became: str, why: str) -> Dropped:
    return Dropped(how=How.RENAMED, element=element, name=name, became=became, why=why)


def changed(element: str, name: str, became: str, why: str) -> Dropped:
    return Dropped(how=How.CHANGED, element=element, name=name, became=became, why=why)


def dropped(element: str, name: str, why: str) -> Dropped:
    return Dropped(how=How.DROPPED, element=element, name=name, why=why)


@dataclass(frozen=True, slots=True, kw_only=True)
class AcmLabel:
    """A label of virtual machines or of resources. `where`: file, line and element."""

    name: str
    before: str = ""
    """Its name in the policy before (`<Name from="...">`); empty where it was not renamed."""
    types: tuple[str, ...]
    """Types of Simple Type Enforcement."""
    walls: tuple[str, ...] = ()
    """Chinese Wall types; a resource has none."""
    where: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AcmConflict:
    """A conflict set, which the manual calls a run-time exclusion rule too."""

    name: str
    walls: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AcmPolicy:
    """All names inside resolve, except in `before` of labels. Orders are those of the file."""

    name: str
    version: str = ""
    follows: str = ""
    """Name and version of the policy before (`<FromPolicy>`); empty for a first one."""
    remarks: tuple[tuple[str, str], ...] = ()
    """What else the headers say: element and text."""
    types: tuple[str, ...] | None
    """None: the policy has no Simple Type Enforcement, so everybody may share with everybody."""
    walls: tuple[str, ...] = ()
    conflicts: tuple[AcmConflict, ...] = ()
    ste_first: bool = False
    """Simple Type Enforcement is the primary component, not the Chinese Wall."""
    bootstrap: str = ""
    """The label of Domain-0; empty where the policy has no labels of virtual machines."""
    vm_labels: tuple[AcmLabel, ...] = ()
    resource_labels: tuple[AcmLabel, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AcmReference:
    """The label of a policy, as a file names it. `where`: file, line and setting."""

    policy: str
    label: str
    where: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AcmResource:
    """A disk or VLAN by its name in Xen (`phy:/dev/hda1`, `vlan:4`) and the label that it has.

    `label` is None where ACM took the label away, since its policy had it no more (`INV_ACM`).
    """

    name: str
    label: AcmReference | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AcmDomain:
    """A domain by its configuration file. `disks`: what each is made from; `vifs`: the label of each, if it has one."""

    file: str
    name: str
    label: AcmReference | None
    """None: the file names no label, so the domain is unlabelled."""
    ssidref: bool = False
    """It has the number of a label, and not its name."""
    disks: tuple[str, ...] = ()
    vifs: tuple[AcmReference | None, ...] = ()
    unread: tuple[str, ...] = ()
    """Settings that are not written as plain values."""
