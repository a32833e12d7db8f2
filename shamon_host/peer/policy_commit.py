"""The record of an update: one statement that every host of the coalition has signed with the key of its certificate.

The statement says which version follows which, and who has to agree. Each host that finds nothing against the new
version signs it: that is its vote. The statement with the signatures of all of them is the commit record: it proves by
itself that everybody agreed, whoever shows it, so a coordinator cannot make an update out of fewer votes, and a host
that was away checks the same record as everybody else.
"""

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Self

from shamon_host.domain.errors import BadInput, NotTrusted
from shamon_host.domain.labels import HostName, plain_name
from shamon_host.domain.policy import Policy
from shamon_host.peer.signed_record import (
    COMMIT_TYPE,
    MAX_RECORD_BYTES,
    MAX_SIGNATURES,
    Envelope,
    PrivateKey,
    read_envelope,
    read_public,
)
from shamon_host.peer.wire import Fields, encode_object

UPDATE_BYTES = 16
_FIELDS = frozenset({"coalition", "update", "from", "to", "version", "coordinator", "participants", "without"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """What everybody signs. `before` and `after` are digests of policies."""

    coalition: str
    update: bytes
    """16 bytes that the coordinator chose at random for this attempt."""
    before: str
    after: str
    version: int
    coordinator: HostName
    participants: tuple[HostName, ...]
    """All who have to agree, the coordinator too, by name."""
    without: tuple[HostName, ...] = ()
    """Hosts of the version before whom the operator does not wait for, by name."""

    def encode(self) -> bytes:
        return encode_object(
            {
                "coalition": self.coalition,
                "update": self.update.hex(),
                "from": self.before,
                "to": self.after,
                "version": self.version,
                "coordinator": self.coordinator,
                "participants": list(self.participants),
                "without": list(self.without),
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Raises BadInput."""
        fields = Fields.parse(data, "statement of an update", _FIELDS)
        return cls(
            coalition=fields.text("coalition"),
            update=fields.octets("update", least=UPDATE_BYTES),
            before=fields.octets("from", least=32).hex(),
            after=fields.octets("to", least=32).hex(),
            version=fields.number("version", least=2, most=1 << 53),
            coordinator=HostName(plain_name(fields.text("coordinator"), "host name")),
            participants=_hosts(fields, "participants"),
            without=_hosts(fields, "without"),
        )

    def require_about(self, policy: Policy, current: Policy, members: Set[HostName]) -> None:
        """Raises NotTrusted unless it says that `policy` follows `current`, and asks enough hosts.

        Whom the operator does not wait for is the coordinator's word alone, so the others must be enough to be sure of
        each other (`quorum`): otherwise a host that has gone bad could agree with itself. `members`: the hosts that are
        enrolled and not expelled.
        """
        asked = asked_of(policy, current)
        for what, expected, found in (
            ("it is about another coalition", current.coalition, self.coalition),
            ("it starts from another version than the one in force", current.digest, self.before),
            ("it is about another version", policy.digest, self.after),
            ("it is about another version", str(policy.version), str(self.version)),
            (
                "it does not ask everybody",
                ", ".join(sorted(asked)),
                ", ".join(sorted({*self.participants, *self.without})),
            ),
        ):
            if expected != found:
                raise NotTrusted(f"the statement of the update is not right: {what}", expected=expected, found=found)
        if set(self.participants) & set(self.without) or self.coordinator not in self.participants:
            raise NotTrusted("the statement of the update contradicts itself", where=self.coordinator)
        able = len(asked & members)
        if len(asked & members & set(self.participants)) < quorum(able):
            raise NotTrusted(
                "the update asks too few hosts",
                where=self.coordinator,
                expected=f"{quorum(able)} of the {able} that are enrolled",
                found=", ".join(self.participants),
                remedy="Make a version without the hosts that are gone for good: those are not asked.",
            )


def quorum(hosts: int) -> int:
    """How many of so many hosts have to agree: any two such groups have two hosts in common, so one that is not bad
    where one is. All of up to three."""
    return min(hosts, (hosts + 1) // 2 + 1)


def asked_of(policy: Policy, current: Policy) -> frozenset[HostName]:
    """The hosts that an update concerns: those of the version in force that the next one keeps."""
    return frozenset(current.hosts.keys() & policy.hosts.keys())


def signed_vote(statement: Statement, key: PrivateKey) -> bytes:
    """A host's yes: the statement with its signature."""
    return Envelope(payload=statement.encode(), payload_type=COMMIT_TYPE).signed_by(key).encode()


def combined(statement: Statement, votes: Iterable[bytes]) -> bytes:
    """The statement with the signatures of all votes. Raises BadInput for a vote on something else."""
    payload = statement.encode()
    signatures: list[tuple[str, bytes]] = []
    for vote in votes:
        envelope = _read(vote)
        if envelope.payload != payload:
            raise BadInput("a vote on another statement", where="vote")
        signatures += envelope.signatures
    if len(signatures) > MAX_SIGNATURES:
        raise BadInput("too many signatures for one record", expected=f"at most {MAX_SIGNATURES} hosts")
    return Envelope(payload=payload, payload_type=COMMIT_TYPE, signatures=tuple(signatures)).encode()


def statement_of(record: bytes) -> Statement:
    """What a record is about; nothing is verified. Raises BadInput."""
    return Statement.decode(_read(record).payload)


def require_signed(record: bytes, hosts: Iterable[HostName], keys: Mapping[HostName, str]) -> None:
    """Raises NotTrusted unless every one of the hosts signed the record. `keys`: their public keys, in base64."""
    envelope = _read(record)
    wanted = tuple(hosts)
    known = {keys[host]: read_public(keys[host]) for host in wanted if keys.get(host)}
    signed = envelope.signers(known)
    missing = [host for host in wanted if keys.get(host) not in signed]
    if missing:
        raise NotTrusted(
            "the record of the update is not signed by everybody",
            expected=f"signatures of {', '.join(wanted)}",
            found=f"none of {', '.join(missing)}",
        )


def _read(data: bytes) -> Envelope:
    return read_envelope(data, payload_type=COMMIT_TYPE, most=MAX_RECORD_BYTES, source="record of the update")


def _hosts(fields: Fields, name: str) -> tuple[HostName, ...]:
    hosts = tuple(HostName(plain_name(text, "host name")) for text in fields.texts(name, most=1024, longest=63))
    if list(hosts) != sorted(set(hosts)):
        raise BadInput("malformed message", where=f"statement of an update.{name}", expected="each host once, by name")
    return hosts
