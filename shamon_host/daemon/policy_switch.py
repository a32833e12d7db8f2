"""From one version of the policy to the next on one host, at a moment of its own: what is not allowed any more goes
first, then the new version counts, then the rest is looked at.

What has to go from the kernel before the new version counts and cannot, for a MAC VM that is away, keeps the old one in
force. What cannot follow afterwards is left to whoever watches the kernel, and looks again until it is as it should be.

At no moment do an old permission and a new one make something that neither version allows: links stay only for types
that the two versions could share with each other, as if they were the policies of two hosts (`domain.compatibility`).
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from shamon_host.daemon.admissions import Admissions
from shamon_host.daemon.audit_log import AuditLog
from shamon_host.daemon.enforced_policy import EnforcedPolicy
from shamon_host.daemon.hypervisor_policy import HypervisorPolicy
from shamon_host.daemon.link_reconciler import LinkReconciler
from shamon_host.daemon.policy_versions import PolicyRecord
from shamon_host.daemon.ports import Blocking
from shamon_host.domain.compatibility import compatibility
from shamon_host.domain.errors import BackendFailed
from shamon_host.domain.flows import flow_system
from shamon_host.domain.labels import HostName, TypeName
from shamon_host.domain.policy import Policy
from shamon_host.hypervisor.vms import VmManager


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicySwitch:
    """One for each daemon."""

    name: HostName
    enforced: EnforcedPolicy
    admissions: Admissions
    vms: VmManager
    xen: HypervisorPolicy | None
    """What loads the new version into Xen: only now, as Xen takes the label from a domain that the next policy does not
    know. Where it fails the version counts all the same, and no VM starts under it (`HypervisorPolicy.require`)."""
    reconciler: LinkReconciler
    audit: AuditLog
    blocking: Blocking
    on_dropped: Callable[[HostName], None]
    """The new version has this host no more, and everything of it is closed."""

    async def to(self, record: PolicyRecord) -> BackendFailed | None:
        """Put a version that was decided on in force; or return what kept a link from being closed that it does not
        permit: then it is not in force, and links are gone that the next handshakes bring back. Raises BackendFailed,
        Refused; once something was written down, the next start finishes it (`EnforcedPolicy.change`).
        """
        before, after, admissions = self.enforced.policy, record.policy, self.admissions
        async with admissions.exclusively():
            if self.xen is not None:
                # Somebody else's policy is told of as such, and does not keep what is forbidden from being stopped.
                await self.blocking(self.xen.bring_about)
            kept = await self.blocking(lambda: _unchanged(before, after, self.name))
            for peer in tuple(admissions.peers):
                stays = kept(peer) if peer in after.hosts else frozenset()
                try:
                    await admissions.close_types(peer, admissions.carried_ever(peer) - stays, "the policy changes")
                except BackendFailed as error:
                    self.audit.append("policy.not-followed", self.name, {"digest": after.digest, "reason": str(error)})
                    return error
            await self.blocking(lambda: self.enforced.change(record))
            for name in after.hosts.keys() - {self.name}:
                admissions.meet_host(name)
            for name in admissions.peers.keys() - after.hosts.keys():
                await self._or_watched(admissions.drop_host(name, before.hosts[name].address))
                self.on_dropped(name)
            await self.blocking(lambda: self.vms.rename_types(after.renames))
            await self.blocking(lambda: self.vms.stop_forbidden(before))
            if self.xen is not None:
                await self.blocking(self.xen.bring_about)
                await self.blocking(self.vms.enforce_labels)
            await self.blocking(self.vms.withdraw_disks)
            await self._or_watched(self.blocking(self.reconciler.reconcile))
        return None

    async def _or_watched(self, work: Awaitable[object]) -> None:
        """What a reconcile finishes too: `watchers` tries it again until it succeeds."""
        try:
            await work
        except BackendFailed as error:
            self.audit.append("links.not-reconciled", self.name, {"reason": str(error)})


def _unchanged(before: Policy, after: Policy, own: HostName) -> Callable[[HostName], frozenset[TypeName]]:
    """For a peer, the types of links that may stay: those that the versions may share with each other under one name,
    and let both hosts carry at the addresses that they have."""
    shared = compatibility(flow_system(before), flow_system(after)).shared
    same = frozenset(name for name, other in shared.items() if name == other)

    def kept(peer: HostName) -> frozenset[TypeName]:
        if own not in after.hosts or after.hosts[peer].address != before.hosts[peer].address:
            return frozenset()
        return same & after.hosts[own].types & after.hosts[peer].types

    return kept
