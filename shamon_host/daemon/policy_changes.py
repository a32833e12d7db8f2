"""Updates of the policy: two phases over all hosts, and catching up with what was decided while this host was away.

Any host can coordinate. First every host replays what runs against the new version and answers with its signature, or
with every violation. With a signature of each, the statement that they signed is the commit record; the coordinator
puts the version in force and tells the others, each of which checks the record for itself. Without, everybody forgets
it. Who misses the record gets it at the next handshake, from any host that has it; until then the two hosts share only
what both versions permit. A host that agreed keeps what runs within both versions until it hears, for a while.
"""

import asyncio
import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from shamon_host.daemon.admissions import Admissions
from shamon_host.daemon.audit_log import AuditLog
from shamon_host.daemon.background import Background
from shamon_host.daemon.enforced_policy import EnforcedPolicy
from shamon_host.daemon.peer_policies import PeerPolicies
from shamon_host.daemon.policy_learning import PolicyLearning
from shamon_host.daemon.policy_switch import PolicySwitch
from shamon_host.daemon.policy_versions import PolicyRecord, PolicyVersions
from shamon_host.daemon.ports import Blocking, Clock
from shamon_host.domain.decision import Rule
from shamon_host.domain.errors import BadInput, NotTrusted, Refused, ShamonError
from shamon_host.domain.labels import HostName
from shamon_host.domain.policy import HostEntry, Policy, PolicyVersion
from shamon_host.domain.policy_file import parse_canonical
from shamon_host.domain.replay import Running, violations
from shamon_host.hypervisor.vms import VmManager
from shamon_host.peer.enrolment import PeerRegistry
from shamon_host.peer.policy_authority import require_signers
from shamon_host.peer.policy_commit import (
    UPDATE_BYTES,
    Statement,
    asked_of,
    combined,
    require_signed,
    signed_vote,
    statement_of,
)
from shamon_host.peer.policy_envelope import payload_of
from shamon_host.peer.policy_messages import Abort, Fetch, Fetched, Prepare, Vote
from shamon_host.peer.ports import Membership, PeerTransport
from shamon_host.peer.signed_record import PrivateKey
from shamon_host.peer.wire import POLICY_ABORT, POLICY_COMMIT, POLICY_FETCH, POLICY_PREPARE

_HOLDS = 3
"""For so many handshake timeouts a host keeps to what it agreed to, without hearing of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of an update on the coordinator. `confirmed`: the hosts that said the new version is in force there."""

    version: PolicyVersion
    confirmed: tuple[HostName, ...]
    unconfirmed: Mapping[HostName, str]
    """The others that agreed → why they have not confirmed; they catch up at the next handshake."""


@dataclass(kw_only=True)
class PolicyChanges:
    """`PolicyHandler` of one host, and what its operator asks for. Called in the event loop."""

    name: HostName
    enforced: EnforcedPolicy
    policies: PeerPolicies
    registry: PeerRegistry
    admissions: Admissions
    vms: VmManager
    switch: PolicySwitch
    audit: AuditLog
    versions: PolicyVersions
    transport: PeerTransport
    clock: Clock
    blocking: Blocking
    key: PrivateKey = field(repr=False)
    """Of this host's certificate."""
    background: Background
    changed: Callable[[], None] = lambda: None
    """Another version is in force: attest with everybody."""
    wake: Callable[[HostName], None] = lambda peer: None
    _busy: asyncio.Lock = field(init=False, default_factory=asyncio.Lock)
    _coordinates: bool = field(init=False, default=False)
    _holding: asyncio.Task[None] | None = field(init=False, default=None)
    learning: PolicyLearning = field(init=False)

    def __post_init__(self) -> None:
        self.learning = PolicyLearning(
            enforced=self.enforced,
            policies=self.policies,
            audit=self.audit,
            blocking=self.blocking,
            transport=self.transport,
            background=self.background,
            catch_up=self._catch_up,
            wake=self.wake,
        )

    # At the start

    async def restore(self) -> None:
        """Take up what an earlier run of this daemon agreed to. What it coordinated itself came to nothing."""
        document = self.versions.prepared()
        if document is None:
            return
        statement = Statement.decode(str(document["statement"]).encode())
        policy = parse_canonical(payload_of(document["envelope"].encode()), source="the version agreed to")
        if statement.before != self.enforced.policy.digest or statement.coordinator == self.name:
            await self._forget(statement)
            if statement.coordinator == self.name and statement.before == self.enforced.policy.digest:
                self._tell_abort(statement)
            return
        self.enforced.successor = policy
        self._hold(statement)

    # What peers ask

    async def handle_policy(self, peer: HostName, path: str, body: bytes) -> bytes:
        if path == POLICY_FETCH:
            return await self._answer_fetch(Fetch.decode(body))
        if path == POLICY_PREPARE:
            return (await self._answer_prepare(peer, Prepare.decode(body))).encode()
        if path == POLICY_COMMIT:
            await self._take_commit(peer, body)
        else:
            await self._answer_abort(peer, Abort.decode(body))
        return b"{}"

    async def _answer_fetch(self, request: Fetch) -> bytes:
        sent = await self.blocking(lambda: self.versions.sent(request.digest))
        if sent is None or not sent[0]:
            raise Refused("this host has no signed policy with this digest", where=self.name, found=request.digest)
        return Fetched(envelope=sent[0], record=sent[1]).encode()

    async def _answer_prepare(self, peer: HostName, request: Prepare) -> Vote:
        self._require_admitted(peer)
        if request.statement.coordinator != peer:
            raise NotTrusted("a host may only ask for its own updates", where=peer)
        if self._coordinates:
            return Vote(violations=(f"an update that {self.name} coordinates is under way",))
        async with self._busy:
            return await self._prepare(request.statement, request.envelope)

    async def _answer_abort(self, peer: HostName, request: Abort) -> None:
        async with self._busy:
            statement = self._prepared_statement()
            if statement is not None and statement.update == request.update and statement.coordinator == peer:
                self.audit.append("policy.aborted", peer, {"version": statement.version})
                await self._forget(statement)

    async def _take_commit(self, peer: HostName, record: bytes) -> None:
        statement = statement_of(record)
        if statement.after == self.enforced.policy.digest:
            return
        self._require_decided(record, statement)
        document = self.versions.prepared()
        if document is not None and self._prepared_statement() == statement:
            envelope = str(document["envelope"]).encode()
        else:  # before the lock is taken: a peer may take its time
            envelope = (await self.learning.fetch(peer, statement.after)).envelope
        async with self._busy:
            if statement.after == self.enforced.policy.digest:
                return
            await self._commit(envelope, record)
        self.changed()

    # What the operator asks

    async def update(self, envelope: bytes, without: Collection[HostName] = ()) -> Outcome:
        """Ask every host but those in `without` to agree to the policy in the envelope, and put it in force.

        Raises Refused with every violation, or who did not answer, and then nothing is changed anywhere; BadInput,
        NotTrusted for the envelope.
        """
        policy, current = await self._read(envelope), self.enforced.policy
        asked = asked_of(policy, current)
        unknown = set(without) - (asked - {self.name})
        if unknown:
            raise BadInput("no other host that is asked", expected=_names(asked), found=_names(unknown))
        left_out = {*without, *(asked - self._keys().keys())}
        statement = Statement(
            coalition=current.coalition,
            update=secrets.token_bytes(UPDATE_BYTES),
            before=current.digest,
            after=policy.digest,
            version=policy.version,
            coordinator=self.name,
            participants=tuple(sorted(asked - left_out)),
            without=tuple(sorted(left_out)),
        )
        others = [current.hosts[name] for name in statement.participants if name != self.name]
        async with self._busy:
            self._coordinates = True  # of two coordinators that ask each other neither waits for the other
            try:
                record = await self._agreed(statement, envelope, others)
            finally:
                self._coordinates = False
            await self._commit(envelope, record)
        self.changed()
        answers = await asyncio.gather(*(self._ask(host, POLICY_COMMIT, record) for host in others))
        failed = {
            host.name: str(answer)
            for host, answer in zip(others, answers, strict=True)
            if isinstance(answer, ShamonError)
        }
        confirmed = tuple(host.name for host in others if host.name not in failed)
        self.audit.append("policy.committed", self.name, {"version": policy.version, "confirmed": list(confirmed)})
        return Outcome(version=policy.which, confirmed=confirmed, unconfirmed=failed)

    async def _agreed(self, statement: Statement, envelope: bytes, others: Sequence[HostEntry]) -> bytes:
        """The commit record. Raises Refused, with everybody told to forget it, when anybody does not agree."""
        own = await self._prepare(statement, envelope)
        against = {self.name: own.violations} if own.violations else {}
        votes = [own.signed]
        if not against:
            body = Prepare(statement=statement, envelope=envelope).encode()
            answers = await asyncio.gather(*(self._ask(host, POLICY_PREPARE, body) for host in others))
            for host, answer in zip(others, answers, strict=True):
                vote = answer if isinstance(answer, ShamonError) else _decoded_vote(answer)
                if isinstance(vote, ShamonError):
                    against[host.name] = (f"it did not answer: {vote}",)
                elif vote.violations:
                    against[host.name] = vote.violations
                else:
                    votes.append(vote.signed)
        try:
            if not against:
                record = combined(statement, votes)
                require_signed(record, statement.participants, self._keys())
                return record
        except ShamonError as error:
            against[self.name] = (str(error),)
        await self._forget(statement)
        self._tell_abort(statement)
        words = [f"{host}: {word}" for host, all_words in sorted(against.items()) for word in all_words]
        self.audit.append("policy.not-agreed", self.name, {"version": statement.version, "against": words})
        raise Refused(
            f"version {statement.version} is not agreed to, and nothing was changed",
            expected=f"the agreement of {_names(statement.participants)}",
            found="; ".join(words),
            remedy="Stop or change what it names, or leave out hosts that do not answer with --without.",
        )

    # The two phases on this host

    async def _prepare(self, statement: Statement, envelope: bytes) -> Vote:
        """This host's vote. A yes is written down first, and binds."""
        current = self.enforced.policy
        policy = await self._read(envelope)
        statement.require_about(policy, current, self._keys().keys())
        if self.name not in statement.participants:
            raise NotTrusted("the update does not ask this host", where=self.name)
        held = self._prepared_statement()
        if held is not None and held != statement:
            return Vote(violations=(f"an update that {held.coordinator} coordinates is under way",))
        record = PolicyRecord(policy=policy, envelope=envelope)

        def vote() -> Vote:
            with self.vms.held():
                found = violations(self.enforced.placed(policy), current, self._running())
                decision = self.enforced.decide(record, found)
                self.audit.append(decision.check, self.name, decision.as_detail())
                if not decision.permitted:
                    return Vote(violations=found if decision.rule is Rule.RUNNING else (decision.reason,))
                self.versions.prepare({"statement": statement.encode().decode(), "envelope": envelope.decode("ascii")})
                self.enforced.successor = policy
                return Vote(signed=signed_vote(statement, self.key))

        self._hold(statement)
        return await self.blocking(vote)

    async def _commit(self, envelope: bytes, commit: bytes, *, passing: bool = False) -> None:
        """Put a version in force on the strength of its record. Raises NotTrusted, Refused; BackendFailed where it is
        not in force as links could not be closed before.

        `passing`: on the way to a later version, so that it may have expired meanwhile.
        """
        policy, statement, current = await self._read(envelope), statement_of(commit), self.enforced.policy
        self._require_decided(commit, statement)
        statement.require_about(policy, current, self._keys().keys())
        own, before = policy.hosts.get(self.name), current.hosts[self.name]
        if own is None or own.address != before.address:
            raise Refused(
                f"version {policy.version} has this host no more, or at another address",
                where=self.name,
                expected=before.address,
                found="no such host" if own is None else own.address,
                remedy="Its peers refuse this host from now on. Stop its daemon, or set it up anew.",
            )
        record = PolicyRecord(policy=policy, envelope=envelope, commit=commit)
        decision = await self.blocking(lambda: self.enforced.decide(record, passing=passing))
        self.audit.append(decision.check, self.name, decision.as_detail())
        decision.enforce()
        work = self.switch.to(record)
        name = f"version {policy.version} of the policy"
        kept_from = await asyncio.shield(self.background.spawn(work, name, finish=True))
        if kept_from is not None:
            raise kept_from

    async def _read(self, envelope: bytes) -> Policy:
        """The policy in an envelope, once enough signers of the version in force are known to have signed it. Raises
        NotTrusted, BadInput; Refused where the version in force is unsigned."""
        current = self.enforced.policy
        if current.signing is None:
            raise Refused(
                "the policy in force is unsigned, and changed by hand on each host",
                where=self.name,
                remedy="Install a version with [signing] on every host, and restart the daemons.",
            )

        def read() -> Policy:
            require_signers(envelope, current)
            return parse_canonical(payload_of(envelope), source="the version to come")

        return await self.blocking(read)

    def _require_decided(self, record: bytes, statement: Statement) -> None:
        """Raises NotTrusted unless the record is about what follows the version in force, and signed by everybody."""
        if statement.before != self.enforced.policy.digest:
            raise NotTrusted(
                "the record starts from another version than the one in force",
                where=statement.coordinator,
                expected=self.enforced.policy.digest,
                found=statement.before,
            )
        require_signed(record, statement.participants, self._keys())

    async def _catch_up(self, chain: Sequence[PolicyRecord]) -> None:
        """Put versions in force that were decided on while this host was away, each on the strength of its record."""
        async with self._busy:
            try:
                for record in chain:
                    await self._commit(record.envelope, record.commit, passing=record is not chain[-1])
            finally:
                self.changed()

    async def _let_go_in_time(self, statement: Statement) -> None:
        """Give the coordinator a while; then this host does as it likes, and a late record still counts."""
        await self.clock.sleep(_HOLDS * self.enforced.policy.intervals.timeout_s)
        async with self._busy:
            if self._prepared_statement() == statement:
                self.audit.append("policy.not-heard-of", statement.coordinator, {"version": statement.version})
                await self._forget(statement)

    async def _forget(self, statement: Statement) -> None:
        if self._prepared_statement() == statement:
            await self.blocking(lambda: self.versions.prepare(None))
            self.enforced.successor = None

    def _hold(self, statement: Statement) -> None:
        """From here on this host is bound by its vote, for a while."""
        if self._holding is not None:
            self._holding.cancel()
        name = f"hold for the update to version {statement.version}"
        self._holding = self.background.spawn(self._let_go_in_time(statement), name)

    # Parts

    def _running(self) -> Running:
        """What is there on this host. Synchronous."""
        return Running(
            host=self.name,
            tpm=self.registry.enrolled(self.name).tpm,
            vms=self.vms.states.running(),
            links={peer: self.admissions.carried(peer) for peer in self.admissions.peers},
        )

    def _prepared_statement(self) -> Statement | None:
        document = self.versions.prepared()
        return Statement.decode(str(document["statement"]).encode()) if document else None

    def _keys(self) -> dict[HostName, str]:
        """Who can sign a record: the hosts that are enrolled, and have neither left nor been expelled."""
        return {
            entry.host: entry.record_key
            for entry in self.registry.hosts()
            if entry.record_key and entry.membership is Membership.ENROLLED
        }

    def _require_admitted(self, peer: HostName) -> None:
        state = self.admissions.peers.get(peer)
        if state is None or not state.counts_at(self.clock.boottime_s()):
            raise Refused("only a host that is admitted may ask for an update", where=peer)

    def _tell_abort(self, statement: Statement) -> None:
        hosts = self.enforced.policy.hosts
        body = Abort(update=statement.update).encode()
        for name in statement.participants:
            if name != self.name and name in hosts:
                self.background.spawn(self._tell(hosts[name], POLICY_ABORT, body), f"abort to {name}")

    async def _tell(self, host: HostEntry, path: str, body: bytes) -> None:
        await self._ask(host, path, body)

    async def _ask(self, host: HostEntry, path: str, body: bytes) -> bytes | ShamonError:
        try:
            return await self.transport.call(host, path, body, timeout_s=self.enforced.policy.intervals.timeout_s)
        except ShamonError as error:
            return error


def _decoded_vote(answer: bytes) -> Vote | ShamonError:
    try:
        return Vote.decode(answer)
    except BadInput as error:
        return error


def _names(hosts: Collection[HostName]) -> str:
    return ", ".join(sorted(hosts)) or "none"
