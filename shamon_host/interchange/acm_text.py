"""The text of a policy file that says what a policy of ACM said, for a person to read and complete.

What ACM called things stands in comments, and what it did not know in lines that are marked.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from shamon_host.domain.labels import ResourceKind
from shamon_host.domain.policy import Intervals, Primary
from shamon_host.interchange.acm_machines import NewResource, NewVm
from shamon_host.interchange.acm_model import AcmPolicy
from shamon_host.interchange.acm_toml import TO_COMPLETE, TomlWriter, shown
from shamon_host.interchange.acm_translation import NewLabel, Translation

_NO_PARENT = "0" * 64
"""The digest of no policy: the file can be read, and takes the place of none before somebody completes it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """The host that has the label of Domain-0. `address`: IPv4 or IPv6."""

    name: str
    address: str


def policy_text(
    policy: AcmPolicy,
    translation: Translation,
    *,
    coalition: str,
    host: Host,
    address_is_known: bool,
    resources: Iterable[NewResource],
    vms: Iterable[NewVm],
    renames: Mapping[str, str],
) -> str:
    """The whole file."""
    text = _Text(policy, translation)
    text.head(coalition, has_renames=bool(renames))
    text.owners_and_types()
    for label in translation.labels.values():
        text.label(label)
    for resource in resources:
        text.resource(resource)
    text.conflicts()
    text.host(host, address_is_known=address_is_known)
    for vm in vms:
        text.vm(vm, host)
    text.renames(renames)
    text.intervals()
    return text.out.text()


class _Text:
    """Writes section by section into `out`."""

    def __init__(self, policy: AcmPolicy, translation: Translation) -> None:
        self._policy = policy
        self._translation = translation
        self.out = TomlWriter()

    def head(self, coalition: str, *, has_renames: bool) -> None:
        out, policy = self.out, self._policy
        out.remark(f"Imported from a policy of sHype/ACM (Xen): {shown(policy.name)}, version {shown(policy.version)}.")
        for element, text in policy.remarks:
            out.remark(f"{element}: {shown(text)}")
        out.remark("A string in a comment is the name that ACM had for what stands below it.")
        out.remark(f"Lines marked {TO_COMPLETE} need what ACM did not know.")
        out.gap()
        if self._translation.walls:
            out.names("walls", self._translation.walls)
            out.gap()
        out.table("coalition")
        out.value("name", coalition)
        if policy.follows or has_renames:
            out.remark(f"It follows {shown(policy.follows)}.")
            out.value("version", 2, mark="one more than the version before has")
            out.value("parent", _NO_PARENT, mark="the digest of the version before")
        else:
            out.value("version", 1)
        out.value("primary", Primary.STE if policy.ste_first else Primary.CHINESE_WALL)

    def owners_and_types(self) -> None:
        out, names = self.out, self._translation.names
        for path, name in sorted(names.owners.items(), key=lambda item: (len(item[0]) > 1, item[1])):
            out.gap()
            out.was(".".join(path) or self._policy.name, name)
            out.table("organisations" if len(path) < 2 else "departments", name)
            if len(path) > 1:
                out.value("of", names.above[name])
        for key, name in names.types.items():
            out.gap()
            if not key.startswith("\0"):
                out.was(key, name)
            out.table("types", name)
            if "/" in names.above[name]:
                out.value("owner", names.above[name])

    def label(self, label: NewLabel) -> None:
        self.out.gap()
        self.out.was(label.old, label.name)
        self.out.table("labels", label.name)
        for key, names in (("types", label.types), ("reads", label.reads), ("walls", label.walls)):
            if names:
                self.out.names(key, names)

    def resource(self, resource: NewResource) -> None:
        self.out.gap()
        self.out.was(resource.old, resource.name)
        self.out.table("resources", resource.name)
        if resource.kind is not ResourceKind.DISK:
            self.out.value("kind", resource.kind)
        if resource.types:
            self.out.names("types", resource.types)
        else:
            self.out.value("inaccessible", True)

    def conflicts(self) -> None:
        for conflict in self._translation.conflicts:
            self.out.gap()
            self.out.was(conflict.old, conflict.name)
            self.out.table("conflicts", conflict.name)
            self.out.names("types", conflict.members)

    def host(self, host: Host, *, address_is_known: bool) -> None:
        out, management = self.out, self._translation.management
        out.gap()
        if self._policy.bootstrap:
            out.remark(f"It has the label of Domain-0, {shown(self._policy.bootstrap)}, from its start on.")
        out.table("hosts", host.name)
        out.value("address", host.address, mark="" if address_is_known else "the host's own; this one is an example")
        out.names("types", management)
        out.names("starting", management)

    def vm(self, vm: NewVm, host: Host) -> None:
        out = self.out
        out.gap()
        out.table("images", vm.name)
        out.absent("sha256", '"64 hex digits"', "digest of the clean image")
        out.gap()
        out.was(vm.old, vm.name)
        out.remark(f"File {shown(vm.file)}.")
        out.table("vms", vm.name)
        out.value("label", vm.label)
        out.value("image", vm.name)
        out.value("host", host.name)
        if vm.resources:
            out.names("resources", vm.resources)
        if vm.interfaces is not None:
            out.names("interfaces", vm.interfaces)

    def renames(self, renames: Mapping[str, str]) -> None:
        if renames:
            self.out.gap()
            self.out.table("renames", "labels")
        for old, new in renames.items():
            self.out.value(old, new)

    def intervals(self) -> None:
        default = Intervals()
        self.out.gap()
        self.out.remark(f"[intervals]  # {TO_COMPLETE}: ACM had none; without these lines the defaults hold:")
        for key in ("period_s", "lease_s", "margin_s", "timeout_s", "action_delay_s"):
            self.out.remark(f"{key} = {getattr(default, key):g}")
        for key in ("rekey_bytes", "rekey_packets"):
            self.out.remark(f"{key} = {getattr(default, key)}")
