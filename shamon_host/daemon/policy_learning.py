"""Learning which policy a peer enforces, and catching up with it where the peer is ahead on this host's own way.

A digest that is not known here is asked of the peer that named it. If what comes back follows the version in force
here, at once or through versions between, and brings the records of those updates, this host missed them and takes them
up. Otherwise it is the policy of a host on a way of its own, and is only kept to compare with (`peer_policies`).
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from shamon_host.daemon.audit_log import AuditLog
from shamon_host.daemon.background import Background
from shamon_host.daemon.enforced_policy import EnforcedPolicy
from shamon_host.daemon.peer_policies import PeerPolicies
from shamon_host.daemon.policy_versions import PolicyRecord
from shamon_host.daemon.ports import Blocking
from shamon_host.domain.errors import NotTrusted, Refused, ShamonError
from shamon_host.domain.labels import HostName
from shamon_host.domain.policy import PolicyVersion
from shamon_host.domain.policy_file import parse_canonical
from shamon_host.peer.policy_envelope import payload_of
from shamon_host.peer.policy_messages import Fetch, Fetched
from shamon_host.peer.ports import PeerTransport
from shamon_host.peer.wire import POLICY_FETCH

MAX_BEHIND = 8
"""Versions that a host can be behind and still catch up."""


@dataclass(kw_only=True)
class PolicyLearning:
    """Called in the event loop. `catch_up` gets records of versions, the oldest first; `wake` attests with a peer."""

    enforced: EnforcedPolicy
    policies: PeerPolicies
    audit: AuditLog
    blocking: Blocking
    transport: PeerTransport
    background: Background
    catch_up: Callable[[Sequence[PolicyRecord]], Awaitable[None]]
    wake: Callable[[HostName], None]
    _under_way: set[HostName] = field(init=False, default_factory=set)
    _told: dict[HostName, tuple[str, str]] = field(init=False, default_factory=dict)
    """Peer → digest and reason that the audit log was told last."""

    def learn(self, peer: HostName, which: PolicyVersion) -> None:
        """Begin to; whoever is waiting attests again afterwards."""
        if peer not in self._under_way:
            self._under_way.add(peer)
            self.background.spawn(self._learn(peer, which), f"the policy of {peer}")

    async def fetch(self, peer: HostName, digest: str) -> Fetched:
        """What the peer sends for a digest; nothing is checked. Raises what `PeerTransport.call` raises, BadInput."""
        policy = self.enforced.policy
        if peer not in policy.hosts:  # it was, when somebody began to ask
            raise Refused("the policy knows no such host", where=peer)
        answer = await self.transport.call(
            policy.hosts[peer], POLICY_FETCH, Fetch(digest=digest).encode(), timeout_s=policy.intervals.timeout_s
        )
        return Fetched.decode(answer)

    async def _learn(self, peer: HostName, which: PolicyVersion) -> None:
        try:
            newest = await self._fetched(peer, which.digest)
            self.policies.learn(peer, which, newest)
        except ShamonError as error:
            self._tell("policy.not-learnt", peer, which, error)
            self.policies.not_learnt(peer, which, str(error))
        else:
            await self._follow(peer, which, newest)
            self.wake(peer)
        finally:
            self._under_way.discard(peer)

    async def _follow(self, peer: HostName, which: PolicyVersion, newest: PolicyRecord) -> None:
        """Catch up with the peer where it is ahead. What hinders that is no reason not to compare the policies: a host
        on a way of its own has no versions between, whatever its number is."""
        chain = [newest]
        try:
            while self._is_behind(chain):
                chain.append(await self._fetched(peer, str(chain[-1].policy.parent)))
            if chain[-1].policy.parent == self.enforced.policy.digest and all(record.commit for record in chain):
                await self.catch_up(chain[::-1])
        except ShamonError as error:
            self._tell("policy.not-followed", peer, which, error)

    def _tell(self, kind: str, peer: HostName, which: PolicyVersion, error: ShamonError) -> None:
        if self._told.get(peer) != (which.digest, str(error)):
            self._told[peer] = (which.digest, str(error))
            self.audit.append(kind, peer, {"digest": which.digest, "reason": str(error)})

    def _is_behind(self, chain: Sequence[PolicyRecord]) -> bool:
        """There may be a version between the oldest one in the chain and the one in force here."""
        oldest, own = chain[-1].policy, self.enforced.policy
        return (
            len(chain) < MAX_BEHIND
            and oldest.parent not in (None, own.digest)
            and oldest.coalition == own.coalition
            and oldest.version > own.version + 1
        )

    async def _fetched(self, peer: HostName, digest: str) -> PolicyRecord:
        """Raises NotTrusted for another policy than the one asked for, BadInput."""
        fetched = await self.fetch(peer, digest)
        policy = await self.blocking(lambda: parse_canonical(payload_of(fetched.envelope), source=f"policy of {peer}"))
        if policy.digest != digest:
            raise NotTrusted("the peer sent another policy", where=peer, expected=digest, found=policy.digest)
        return PolicyRecord(policy=policy, envelope=fetched.envelope, commit=fetched.record)
