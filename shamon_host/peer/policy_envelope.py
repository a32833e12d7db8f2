"""Signed policies: envelopes around the canonical form, and whether everybody who must sign one did.

Only the keys of the requirements count, and a requirement counts distinct keys (see `signed_record`). Who must sign
what is for `domain.authority` to say; to say it, it has to know the new policy, so that the payload is read before it
can be trusted: `payload_of` reads it, and `verify` is what makes it trusted.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from shamon_host.domain.authority import Requirement
from shamon_host.domain.errors import BadInput, NotTrusted
from shamon_host.domain.policy_file import MAX_POLICY_BYTES
from shamon_host.peer import signed_record
from shamon_host.peer.signed_record import Envelope, PrivateKey, key_id, public_text, read_public

__all__ = [
    "MAX_ENVELOPE_BYTES",
    "POLICY_TYPE",
    "Assessment",
    "assess",
    "key_id",
    "lacking",
    "payload_of",
    "public_text",
    "read_envelope",
    "read_public",
    "sign",
    "verify",
]

POLICY_TYPE = "application/vnd.shamon.policy+json"
MAX_ENVELOPE_BYTES = signed_record.encoded_size(MAX_POLICY_BYTES)
"""The largest policy in base64, and its signatures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assessment:
    """How far one requirement is met."""

    requirement: Requirement
    signed: frozenset[str]
    """Those of its keys that signed."""

    @property
    def met(self) -> bool:
        return len(self.signed) >= self.requirement.threshold

    def __str__(self) -> str:
        wanted = self.requirement
        text = f"{wanted.reason}: {len(self.signed)} of {wanted.threshold}"
        if self.signed:
            text += f", signed by {wanted.who(self.signed)}"
        return text if self.met else f"{text}, not signed by {wanted.who(wanted.keys - self.signed)}"


def read_envelope(data: bytes, *, source: str = "envelope") -> Envelope:
    """The envelope of a policy, nothing verified. `source` names it in errors. Raises BadInput."""
    return signed_record.read_envelope(data, payload_type=POLICY_TYPE, most=MAX_POLICY_BYTES, source=source)


def payload_of(data: bytes, *, source: str = "envelope") -> bytes:
    """What the envelope says the policy is, not verified. Raises BadInput."""
    return read_envelope(data, source=source).payload


def sign(what: bytes | Envelope, key: PrivateKey) -> Envelope:
    """Sign a policy (its canonical form), or an envelope with or without signatures of others.

    Raises BadInput for a policy that is too large, a key of another kind, or an envelope that is full.
    """
    envelope = what if isinstance(what, Envelope) else Envelope(payload=what, payload_type=POLICY_TYPE)
    if len(envelope.payload) > MAX_POLICY_BYTES:
        raise BadInput("the policy is too large to be signed", expected=f"at most {MAX_POLICY_BYTES} bytes")
    return envelope.signed_by(key)


def assess(envelope: Envelope, requirements: Iterable[Requirement]) -> tuple[Assessment, ...]:
    """How far each requirement is met, in their order. Raises BadInput for a requirement's key that is none."""
    wanted = tuple(requirements)
    keys = {text: read_public(text) for requirement in wanted for text in sorted(requirement.keys)}
    signed = envelope.signers(keys)
    return tuple(Assessment(requirement=each, signed=each.keys & signed) for each in wanted)


def lacking(envelope: Envelope, requirements: Iterable[Requirement]) -> tuple[str, ...]:
    """In words, each requirement that is not met, and whose signatures it lacks. Raises BadInput."""
    return tuple(str(each) for each in assess(envelope, requirements) if not each.met)


def verify(data: bytes, requirements: Sequence[Requirement], *, source: str = "envelope") -> bytes:
    """The policy in an envelope, in its canonical form, once every requirement is met.

    Raises BadInput for what is malformed, NotTrusted that says which requirement lacks how many signatures and whose.
    An envelope of which nobody has to sign anything is not trusted either: unsigned policies are carried by hand.
    """
    envelope = read_envelope(data, source=source)
    if not requirements:
        raise NotTrusted("nobody has to sign this policy", where=source, expected="a policy with [signing]")
    missing = lacking(envelope, requirements)
    if missing:
        raise NotTrusted(
            "signatures are missing",
            where=source,
            expected="those of everybody who must sign this policy",
            found="; ".join(missing)[:2000],
            remedy="Let them sign with `shamon policy sign`.",
        )
    return envelope.payload
