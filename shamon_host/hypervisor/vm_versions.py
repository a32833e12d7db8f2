"""What a version of the policy forbids about a VM beyond the monitor's `vm.start`: running otherwise than it would.

A VM keeps the interfaces and the label that it was started with. Under another version it may get others; then it may
not go on as it is, nor be started while such a version is to come. Pure: `vms` asks before it starts anything, and
stops what is forbidden.
"""

from collections.abc import Iterator, Sequence

from shamon_host.domain.decision import Check, Decision, Rule
from shamon_host.domain.disk_grants import DiskGrant, disk_grants, grants_differ
from shamon_host.domain.labels import TypeName, VmContext, VmName
from shamon_host.domain.policy import Policy
from shamon_host.domain.replay import flask_label_changes, renamed, renamed_label
from shamon_host.domain.ste import listed


def runs_otherwise(
    name: VmName,
    *,
    interfaces: Sequence[TypeName] | None,
    wanted_interfaces: Sequence[TypeName],
    grants: tuple[DiskGrant, ...] | None,
    wanted_grants: tuple[DiskGrant, ...],
    context: VmContext | None,
    wanted_context: VmContext | None,
    lacks_tpm: bool,
) -> Decision | None:
    """Why a VM may not go on: the interfaces, the disks or the label that it runs with are not those that it would get.

    `interfaces`, `grants`: None where nobody noted them; `wanted_context`: None where labels are looked at elsewhere;
    `lacks_tpm`: it is to be attested, and has nothing to show.
    """
    if lacks_tpm:
        return _denied(name, "it is attested under this version, and has not the TPM for that")
    if interfaces is not None and tuple(interfaces) != tuple(wanted_interfaces):
        return _denied(name, _interfaces_differ(interfaces, wanted_interfaces))
    differ = "" if grants is None else grants_differ(grants, wanted_grants)
    if differ:
        return _denied(name, differ)
    if wanted_context is not None and context != wanted_context:
        return _denied(name, f"it runs under {context or 'no label'} and would have {wanted_context}")
    return None


def kept_by(policy: Policy, successor: Policy, name: VmName) -> Iterator[Decision]:
    """What forbids a start because the version to come, which knows the VM, gives it other types, interfaces, disks,
    or has it attested."""
    renames = successor.renames
    types = renamed_label(policy.label_of(name), renames).types
    if types != successor.label_of(name).types:
        after = listed(successor.label_of(name).types)
        yield _denied(name, f"version {successor.version} is to come: its types {listed(types)} become {after}")
    relabelled = flask_label_changes(policy, successor, name)
    if relabelled:
        yield _denied(name, f"version {successor.version} is to come: it {relabelled}")
    interfaces = tuple(renamed(each, renames) for each in policy.interfaces_of(name))
    if interfaces != successor.interfaces_of(name):
        differ = _interfaces_differ(interfaces, successor.interfaces_of(name))
        yield _denied(name, f"version {successor.version} is to come: {differ}")
    unattested = policy.attested(name) is None and successor.attested(name) is not None
    if unattested and not successor.is_mac_vm(name):  # which gets its TPM when the version is in force
        yield _denied(name, f"version {successor.version} is to come: it is attested then, and would have no TPM")
    disks_differ = grants_differ(disk_grants(policy, name), disk_grants(successor, name))
    if disks_differ:
        yield _denied(name, f"version {successor.version} is to come: {disks_differ}")


def _interfaces_differ(found: Sequence[TypeName], wanted: Sequence[TypeName]) -> str:
    return f"it has interfaces for {', '.join(found) or 'none'} and would have {', '.join(wanted) or 'none'}"


def _denied(name: VmName, reason: str) -> Decision:
    return Decision(check=Check.VM_START, permitted=False, rule=Rule.RUNNING, reason=reason, subject=name, object=name)
