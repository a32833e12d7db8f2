"""The messages by which hosts agree on a new version of the policy, and learn each other's, each with its exact bytes.

    coordinator                                        every other host
      POST /v1/policy/prepare  statement, envelope  →  replays what runs against it
                               ← vote: yes, signed; or no, with every violation
      POST /v1/policy/commit   record               →  checks every signature in it, enforces the new version
                               ← {}
      POST /v1/policy/abort    update               →  forgets it
                               ← {}

    any host                                           the host whose policy it does not know
      POST /v1/policy/fetch    digest               →
                               ← envelope, and the record by which it came into force, if there is one

Statement, vote and record are those of `policy_commit`.
"""

from dataclasses import dataclass
from typing import Self

from shamon_host.domain.errors import BadInput
from shamon_host.peer.policy_commit import UPDATE_BYTES, Statement
from shamon_host.peer.signed_record import MAX_RECORD_BYTES
from shamon_host.peer.wire import Fields, encode_object, join, printable, split

MAX_VIOLATIONS = 64
MAX_VIOLATION_WORDS = 400
MAX_RECORD_ENVELOPE_BYTES = 4 * MAX_RECORD_BYTES
_HEX_DIGITS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepare:
    """Agree to this?"""

    statement: Statement
    envelope: bytes

    def encode(self) -> bytes:
        return join(self.statement.encode(), self.envelope)

    @classmethod
    def decode(cls, body: bytes) -> Self:
        """Raises BadInput."""
        header, envelope = split(body)
        return cls(statement=Statement.decode(header), envelope=envelope)


@dataclass(frozen=True, slots=True, kw_only=True)
class Vote:
    """The answer: `signed` is a yes (`policy_commit.signed_vote`), or there are `violations`."""

    violations: tuple[str, ...] = ()
    signed: bytes = b""

    def encode(self) -> bytes:
        words = [printable(violation, MAX_VIOLATION_WORDS) for violation in self.violations[:MAX_VIOLATIONS]]
        return join(encode_object({"violations": words}), self.signed)

    @classmethod
    def decode(cls, body: bytes) -> Self:
        """Raises BadInput, also for an answer that is neither yes nor no."""
        header, signed = split(body)
        fields = Fields.parse(header, "vote", frozenset({"violations"}))
        violations = fields.texts("violations", most=MAX_VIOLATIONS, longest=MAX_VIOLATION_WORDS)
        if bool(violations) is bool(signed):
            raise BadInput("malformed message", where="vote", expected="violations, or a signed yes, and not both")
        return cls(violations=violations, signed=signed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Abort:
    """The update comes to nothing."""

    update: bytes

    def encode(self) -> bytes:
        return encode_object({"update": self.update.hex()})

    @classmethod
    def decode(cls, body: bytes) -> Self:
        """Raises BadInput."""
        fields = Fields.parse(body, "abort", frozenset({"update"}))
        return cls(update=fields.octets("update", least=UPDATE_BYTES))


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetch:
    """Which policy has this digest?"""

    digest: str

    def encode(self) -> bytes:
        return encode_object({"digest": self.digest})

    @classmethod
    def decode(cls, body: bytes) -> Self:
        """Raises BadInput."""
        fields = Fields.parse(body, "fetch", frozenset({"digest"}))
        return cls(digest=fields.octets("digest", least=_HEX_DIGITS // 2).hex())


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """A version's envelope, and the commit record by which it came into force; empty where it did without."""

    envelope: bytes
    record: bytes = b""

    def encode(self) -> bytes:
        return join(encode_object({"record_bytes": len(self.record)}), self.record + self.envelope)

    @classmethod
    def decode(cls, body: bytes) -> Self:
        """Raises BadInput."""
        header, payload = split(body)
        fields = Fields.parse(header, "fetched", frozenset({"record_bytes"}))
        size = fields.number("record_bytes", least=0, most=min(len(payload), MAX_RECORD_ENVELOPE_BYTES))
        return cls(envelope=payload[size:], record=payload[:size])
