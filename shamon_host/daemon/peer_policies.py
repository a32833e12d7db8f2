"""Which policy each peer enforces, as far as this host knows, and which types the two may therefore share.

A peer names its policy by digest in every handshake, and the digest is in what its TPM signs. What a digest stands for
is fetched from the peer once. With the same policy everything may be shared; with another one what both policies permit
(`domain.compatibility`) and what somebody signed whom this host has to believe (`peer.policy_authority`).
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field

from shamon_host.daemon.audit_log import AuditLog
from shamon_host.daemon.enforced_policy import EnforcedPolicy
from shamon_host.daemon.policy_versions import MAX_HISTORY, PolicyRecord
from shamon_host.daemon.store import Store
from shamon_host.domain.compatibility import Compatibility, compatibility
from shamon_host.domain.errors import NotTrusted, Refused, ShamonError
from shamon_host.domain.flows import flow_system
from shamon_host.domain.labels import HostName, TypeName
from shamon_host.domain.policy import Policy, PolicyVersion
from shamon_host.peer.errors import Busy
from shamon_host.peer.policy_authority import authorised_types
from shamon_host.peer.ports import Outcome, Terms

_KIND = "peer-policy"
MAX_WORK = 4_000_000
"""Types times labels that join some, of a policy that is compared: 1,000 types and 500 such labels are an eighth."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """What this host and one peer may share: own name of a type → the name that both use for it."""

    names: Mapping[TypeName, TypeName]
    answers: Compatibility | None = None
    """What the policies themselves permit; None where they are one and the same, or where nobody asked."""
    unsigned: bool = False
    """Nobody who is responsible for any type signed the peer's policy."""
    too_large: bool = False
    """Comparing the policies would take too long."""

    @property
    def types(self) -> frozenset[TypeName]:
        return frozenset(self.names)

    def why_not(self, name: TypeName) -> str:
        """Why an own type is not shared, in words; empty where it is."""
        if name in self.names:
            return ""
        if self.too_large:
            return f"{name}: the peer's policy is too large to be compared"
        if self.unsigned or (self.answers is not None and name in self.answers.shared):
            return f"{name}: nobody who is responsible for it signed the peer's policy"
        return f"{name} is unknown" if self.answers is None else str(self.answers.answer(name))

    def own_name(self, common: TypeName) -> TypeName | None:
        """The own name of what both call `common`."""
        return next((own for own, name in self.names.items() if name == common), None)


@dataclass(kw_only=True)
class PeerPolicies:
    """Synchronous, but for the fetching that `wanted` asks for."""

    enforced: EnforcedPolicy
    store: Store
    audit: AuditLog
    wanted: Callable[[HostName, PolicyVersion], None] = lambda peer, which: None
    """A peer has a policy that is not known here: fetch it, then attest again."""
    _says: dict[HostName, PolicyVersion] = field(init=False, default_factory=dict)
    _known: dict[HostName, PolicyRecord] = field(init=False, default_factory=dict)
    """Peer → what it sent of its policy, where that is another one than this host's own. Not by digest: what one peer
    sent must not stand for another, whose envelope may have other signatures."""
    _earlier: dict[str, Policy] = field(init=False, default_factory=dict)
    """Versions that this host enforced itself, by digest."""
    _shared: dict[tuple[str, str, bytes], Shared] = field(init=False, default_factory=dict)
    """By the digests of both policies, and the envelope around the peer's."""
    _unlearnt: dict[HostName, tuple[str, str]] = field(init=False, default_factory=dict)
    """Peer → the last digest of which it did not send what it stands for, and the reason."""

    def __post_init__(self) -> None:
        for peer, document in self.store.items(_KIND):
            self._says[HostName(peer)] = PolicyVersion(**document["says"])
            if document["record"] is not None:
                self._known[HostName(peer)] = PolicyRecord.from_document(document["record"])

    def of(self, peer: HostName) -> Policy:
        """The policy that the peer enforces, as it said last; this host's own for one that has not said yet."""
        says = self._says.get(peer)
        return self.enforced.policy if says is None else (self._policy(peer, says.digest) or self.enforced.policy)

    def says(self, peer: HostName) -> PolicyVersion | None:
        return self._says.get(peer)

    def same(self, peer: HostName) -> bool:
        """True iff the peer enforces this host's own policy, as far as is known."""
        says = self._says.get(peer)
        return says is None or says.digest == self.enforced.policy.digest

    def has_met(self, peer: HostName, digest: str) -> bool:
        """True iff `meet` has nothing to do: the peer says what it said before, and it is this host's own policy."""
        says = self._says.get(peer)
        return says is not None and says.digest == digest == self.enforced.policy.digest

    def newest_seen(self, peer: HostName) -> int:
        """The highest version that the peer ever said it enforces, and was admitted with; 0 for none."""
        document = self.store.get(_KIND, peer)
        return int(document["newest"]) if document else 0

    def meet(self, peer: HostName, terms: Terms) -> None:
        """The peer says which policy it enforces. Raises Busy while that one is being fetched, and Refused where
        nothing may be shared with a host that enforces it, or the peer is no host of this policy."""
        if peer not in self.enforced.policy.hosts:
            raise Refused("the policy knows no such host", where=peer)
        which = PolicyVersion(coalition=terms.coalition, version=terms.policy_version, digest=terms.policy_digest)
        policy = self._policy(peer, which.digest)
        if policy is None:
            digest, reason = self._unlearnt.pop(peer, ("", ""))
            if digest == which.digest:
                raise self._refusal(peer, which, reason)
            self.wanted(peer, which)
            raise Busy(f"version {which.version} of the policy is new to this host", where=peer)
        if policy.which != which:
            raise NotTrusted("the peer names its policy wrongly", where=peer, expected=str(policy.which))
        if self._says.get(peer) != which:
            self._remember(peer, which)
        if which.digest != self.enforced.policy.digest and not self.shared(peer).names:
            shared = self.shared(peer)
            reasons = "; ".join(shared.why_not(name) for name in sorted(self.enforced.policy.types)[:4])
            raise self._refusal(peer, which, f"they may share nothing: {reasons}")

    def not_learnt(self, peer: HostName, which: PolicyVersion, reason: str) -> None:
        """What the peer's digest stands for could not be had: its next handshake is refused with the reason, and the
        one after that has it tried again."""
        self._unlearnt[peer] = (which.digest, reason)

    def learn(self, peer: HostName, which: PolicyVersion, record: PolicyRecord) -> None:
        """Take what the peer sent for the digest that it named. Raises NotTrusted for anything else."""
        if record.policy.which != which:
            raise NotTrusted(
                "the peer sent another policy than it names",
                where=peer,
                expected=f"version {which.version}, digest {which.digest}",
                found=f"version {record.policy.version}, digest {record.policy.digest}",
            )
        self._known[peer] = record
        self._remember(peer, which)

    def admitted(self, peer: HostName) -> None:
        """The peer was admitted under the policy that it named: it may not go back behind that version."""
        says = self._says.get(peer) or self.enforced.policy.which
        if says.version > self.newest_seen(peer) and self._is_coalitions(peer, says.digest):
            self._remember(peer, says, newest=says.version)

    def _is_coalitions(self, peer: HostName, digest: str) -> bool:
        """Whether a version is the coalition's: this host's own or an earlier one, or one that its signers signed. What
        one organisation alone signed says nothing of the coalition's versions."""
        own = self.enforced.policy
        if digest == own.digest or self._enforced_earlier(digest) is not None:
            return True
        record = self._known.get(peer)
        return (
            record is not None
            and record.policy.digest == digest
            and own.signing is not None
            and self._authorised(own, record.policy, record.envelope) == own.types
        )

    def require_still_so(self, outcome: Outcome) -> None:
        """Raises Refused if the handshake was about other versions of the two policies than are in force by now."""
        for whose, now, then in (
            ("this host's", self.enforced.policy.digest, outcome.terms.policy_digest),
            (f"{outcome.peer}'s", self.of(outcome.peer).digest, outcome.peer_terms.policy_digest),
        ):
            if now != then:
                raise Refused(f"{whose} policy changed while the handshake ran", where=outcome.peer)

    def shared(self, peer: HostName) -> Shared:
        """What this host and the peer may share, under the policies that both enforce now. Nothing where the peer's is
        not known."""
        says = self._says.get(peer)
        if says is not None and self._policy(peer, says.digest) is None:
            return Shared(names={})
        own, theirs = self.enforced.policy, self.of(peer)
        record = self._known.get(peer)
        envelope = record.envelope if record and record.policy.digest == theirs.digest else b""
        key = (own.digest, theirs.digest, envelope)
        known = self._shared.get(key)
        if known is None:
            if len(self._shared) > 2 * len(self._says) + 2:
                self._shared.clear()
            known = self._shared[key] = self._compute(own, theirs, envelope)
        return known

    def _compute(self, own: Policy, theirs: Policy, envelope: bytes) -> Shared:
        if own.digest == theirs.digest:
            return Shared(names={name: name for name in own.types})
        authorised = self._authorised(own, theirs, envelope)
        if not authorised:  # else whoever makes up a policy has it compared, however long that takes
            return Shared(names={}, unsigned=True)
        if _work(theirs) > MAX_WORK:
            return Shared(names={}, too_large=True)
        answer = compatibility(flow_system(own), flow_system(theirs))
        names = {name: answer.common[name] for name in answer.shared if name in authorised}
        return Shared(names=names, answers=answer)

    def _authorised(self, own: Policy, theirs: Policy, envelope: bytes) -> frozenset[TypeName]:
        """A version that this host enforced itself needs nobody's word again."""
        if self._enforced_earlier(theirs.digest) is not None:
            return own.types
        try:
            return authorised_types(envelope, theirs, own)
        except ShamonError:
            return frozenset()

    def _policy(self, peer: HostName, digest: str) -> Policy | None:
        if digest == self.enforced.policy.digest:
            return self.enforced.policy
        record = self._known.get(peer)
        return record.policy if record and record.policy.digest == digest else self._enforced_earlier(digest)

    def _enforced_earlier(self, digest: str) -> Policy | None:
        if digest not in self._earlier:
            record = self.enforced.versions.enforced(digest)
            if record is None:
                return None
            if len(self._earlier) >= MAX_HISTORY:
                self._earlier.clear()
            self._earlier[digest] = record.policy
        return self._earlier[digest]

    def _remember(self, peer: HostName, which: PolicyVersion, *, newest: int | None = None) -> None:
        self._says[peer] = which
        record = self._known.get(peer)
        if record and (record.policy.digest != which.digest or which.digest == self.enforced.policy.digest):
            del self._known[peer]
            record = None
        self.store.put(
            _KIND,
            peer,
            {
                "says": asdict(which),
                "newest": self.newest_seen(peer) if newest is None else newest,
                "record": record.to_document() if record else None,
            },
        )

    def _refusal(self, peer: HostName, which: PolicyVersion, reason: str) -> Refused:
        own = self.enforced.policy
        return Refused(
            "the hosts run different policies",
            where=peer,
            expected=f"version {own.version}, digest {own.digest}",
            found=f"version {which.version}, digest {which.digest}; {reason}",
            remedy="Install the same policy on both hosts, or see `shamon policy compatible`.",
        )


def _work(policy: Policy) -> int:
    return len(policy.definitions) * sum(len(label.types) > 1 for label in policy.vm_labels.values())
