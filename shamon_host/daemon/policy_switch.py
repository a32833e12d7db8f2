"""From one version of the policy to the next on one host, at a moment of its own: what is not allowed any more goes
first, then the new version counts, then the rest is looked at.

At no moment do an old permission and a new one make something that neither version allows: links stay only for types
that the two versions could share with each other, as if they were the policies of two hosts (`domain.compatibility`).
"""

from collections.abc import Callable

from shamon_host.daemon.coalition_host import CoalitionHost
from shamon_host.daemon.policy_versions import PolicyRecord
from shamon_host.domain.compatibility import compatibility
from shamon_host.domain.flows import flow_system
from shamon_host.domain.labels import HostName, TypeName
from shamon_host.domain.policy import Policy


async def switch(host: CoalitionHost, record: PolicyRecord) -> None:
    """Put a version that was decided on in force. Raises BackendFailed, Refused.

    When it raises before anything was written down, links are gone that the next handshakes bring back; after that, the
    next start finishes it (`EnforcedPolicy.change`).
    """
    before, after = host.policy, record.policy
    async with host.exclusively():
        kept = await host.blocking(lambda: _unchanged(before, after, host.name))
        for peer in tuple(host.peers):
            stays = kept(peer) if peer in after.hosts else frozenset()
            await host.close_types(peer, host.carried_ever(peer) - stays, "the policy changes")
        await host.blocking(lambda: host.enforced.change(record))
        for name in after.hosts.keys() - {host.name}:
            host.meet_host(name)
        for name in host.peers.keys() - after.hosts.keys():
            await host.drop_host(name, before.hosts[name].address)
        await host.blocking(lambda: host.vms.rename_types(after.renames))
        await host.blocking(lambda: host.vms.stop_forbidden(before))
        await host.blocking(host.reconcile_links)


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
