"""Whether what a policy says of VMs that are attested hangs together. Part of `consistency`."""

import math
from collections.abc import Iterator

from shamon_host.domain.findings import Finding, quoted, unknown
from shamon_host.domain.guest_demand import GuestDemand
from shamon_host.domain.labels import UNLABELLED, VmName
from shamon_host.domain.leases import MAX_LEASE_S, MIN_LEASE_S
from shamon_host.domain.policy import HypervisorKind, Policy, VmEntry
from shamon_host.domain.quarantine import Grade

MIN_GUEST_PERIOD_S = 1.0


def guest_mistakes(name: str, demand: GuestDemand) -> Iterator[Finding]:
    """What is wrong with one demand."""
    key = f"guests.{quoted(name)}"
    if not math.isfinite(demand.period_s) or demand.period_s < MIN_GUEST_PERIOD_S:
        yield Finding(
            key=f"{key}.period_s",
            what="bad duration",
            expected=f"{MIN_GUEST_PERIOD_S:g} second or more",
            found=f"{demand.period_s:g}",
        )
    if not MIN_LEASE_S <= demand.lease_s <= MAX_LEASE_S:
        yield Finding(
            key=f"{key}.lease_s",
            what="bad lease",
            expected=f"{MIN_LEASE_S:g} to {MAX_LEASE_S:g} seconds",
            found=f"{demand.lease_s:g}",
        )
    if not demand.period_s < demand.lease_s:
        yield Finding(
            key=f"{key}.period_s",
            what="the VM's ports would go down between two answers",
            expected="a period shorter than the lease",
            found=f"period {demand.period_s:g}, lease {demand.lease_s:g}",
        )


def attested_vm_mistakes(policy: Policy, vm: VmName, entry: VmEntry) -> Iterator[Finding]:
    """What keeps a VM from being attested that is to be."""
    if entry.attest is None:
        return
    key = f"vms.{quoted(vm)}.attest"
    if entry.attest not in policy.guests:
        yield unknown(key, "demand on guests", entry.attest, sorted(policy.guests))
    if policy.hypervisor_of(entry.host) is HypervisorKind.XEN:
        yield Finding(
            key=key,
            what="a VM on Xen has no TPM to show anything with",
            expected=f"a VM whose host has {HypervisorKind.QEMU}",
            found=f"{entry.host} with {HypervisorKind.XEN}",
        )
    if entry.may_move_to:
        yield Finding(
            key=key,
            what="a VM that is attested does not move, as its TPM stays behind",
            expected="no may_move_to",
            found=", ".join(sorted(entry.may_move_to))[:200],
        )
    labelled = entry.label in policy.vm_labels or entry.label == UNLABELLED.name
    if labelled and not policy.quarantine_of(vm).cuts_off:
        yield Finding(
            key=key,
            what="a VM that fails would go on as it is",
            expected=f"quarantine {Grade.PORTS_DOWN} or stronger",
            found=policy.quarantine_of(vm),
        )
