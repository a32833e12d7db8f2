"""Which types the links of this host are for: those that its VMs use now, and that it may carry to the peer.

A link whose type no VM uses any more goes at once (`watchers`), and does not come back out of a handshake that began
before. The peer's end goes with the next handshake, which offers the type no more and is started at once.
"""

import threading
from collections.abc import Iterable, Set
from dataclasses import dataclass, field

from shamon_host.daemon.enforced_policy import EnforcedPolicy
from shamon_host.daemon.peer_policies import PeerPolicies
from shamon_host.domain.labels import HostName, TypeName
from shamon_host.hypervisor.vm_states import VmStates
from shamon_host.peer.ports import AgreedLink


@dataclass(kw_only=True)
class LinkTypes:
    """Safe to call from any thread."""

    name: HostName
    enforced: EnforcedPolicy
    policies: PeerPolicies
    vms: VmStates
    _unused: frozenset[TypeName] = field(init=False, default=frozenset())
    """Types that the last VM of this host has left since somebody asked what to offer."""
    _lock: threading.Lock = field(init=False, default_factory=threading.Lock, repr=False)

    def both_may_carry(self, peer: HostName) -> frozenset[TypeName]:
        """By the labels of the two hosts; whether their policies share them is asked apart."""
        hosts = self.enforced.policy.hosts
        return hosts[self.name].types & hosts[peer].types

    def to_offer(self, peer: HostName) -> frozenset[TypeName]:
        """Types that VMs of this host use now and that both hosts may carry. Asks the hypervisor. Raises
        BackendFailed."""
        used = self.vms.running_types()
        with self._lock:
            self._unused -= used
        return used & self.both_may_carry(peer) & self.policies.shared(peer).types

    def left(self, types: Set[TypeName]) -> None:
        """No VM uses these now."""
        with self._lock:
            self._unused |= types

    def without_unused(self, links: Iterable[AgreedLink]) -> tuple[AgreedLink, ...]:
        """Those of the links that a handshake agreed on which are to be installed."""
        return tuple(link for link in links if link.type not in self._unused)
