"""What the policy gives a VM beside its own disk, as far as a VM that runs with it would notice a change."""

from dataclasses import dataclass

from shamon_host.domain.labels import VmName
from shamon_host.domain.policy import Policy
from shamon_host.domain.ste import may_write


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskGrant:
    """A disk of a VM, by its name. `sha256`: of pinned content, else empty."""

    name: str
    written: bool
    sha256: str = ""

    def __str__(self) -> str:
        return f"{self.name} ({'to write' if self.written else 'read-only'}{', pinned' if self.sha256 else ''})"


def disk_grants(policy: Policy, vm: VmName) -> tuple[DiskGrant, ...]:
    """The disks that a VM has beside its own, in the order in which it has them. Raises KeyError."""
    label = policy.label_of(vm)
    return tuple(
        DiskGrant(
            name=name,
            written=bool(may_write(label, policy.resource_labels[name])),
            sha256=policy.resource_labels[name].sha256,
        )
        for name in policy.disks_of(vm)
    )


def grants_differ(found: tuple[DiskGrant, ...], wanted: tuple[DiskGrant, ...]) -> str:
    """How the disks that a VM runs with differ from those that it would have; empty when they do not."""
    if found == wanted:
        return ""
    pins = {grant.name: grant.sha256 for grant in wanted}
    for grant in found:
        if grant.sha256 and pins.get(grant.name, "") not in ("", grant.sha256):
            return f"the pinned content of its disk {grant.name} is another one"
    names = [", ".join(map(str, grants)) or "no further disk" for grants in (found, wanted)]
    return f"it has {names[0]} and would have {names[1]}"
