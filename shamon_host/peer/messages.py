"""The messages of the attested handshake as values, each with its exact bytes.

    initiator                                     responder
      POST /v1/hello     Hello                 →
                         ← Hello, with the id of the session
      POST /v1/evidence  session, Evidence     →    appraises
                         ← verdict, lease, Evidence
      appraises, installs its receive side
      POST /v1/confirm   session, verdict, lease, MAC  →  installs receive side, then send side
                         ← MAC
      installs its send side

Both hellos enter the transcript as the bytes that crossed the wire, so there is nothing to encode twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from shamon_host.attestation.evidence import Role
from shamon_host.domain.errors import BadInput
from shamon_host.domain.labels import HostName, TypeName, plain_name, type_name
from shamon_host.domain.results import AttestationResult, Claim
from shamon_host.domain.text import is_sha256
from shamon_host.peer.ports import LinkOffer, Terms
from shamon_host.peer.wire import MAX_HEADER_BYTES, PROTOCOL_VERSION, Fields, encode_object, join, printable, split

NONCE_BYTES = 32
SHARE_BYTES = 32
SESSION_BYTES = 16
DIGEST_BYTES = 32
MAC_BYTES = 32
MAX_OFFERS = 512
MAX_SHARED = 1024
MAX_FAILURES = 16
MAX_FAILURE_WORDS = 500
"""In characters. All failures, escaped twice, fit into one header."""
MAX_LEASE_MS = 24 * 3600 * 1000
_MAX_OFFSET = 1 << 40
_FIRST_SPI = 256
"""SPI 0 to 255 are reserved (RFC 4303, section 2.1)."""
_NO_SESSION = bytes(SESSION_BYTES)

_HELLO = frozenset(
    {
        "v",
        "role",
        "session",
        "from",
        "to",
        "coalition",
        "policy_version",
        "policy_digest",
        "peer_policy_digest",
        "shared",
        "certificate",
        "ak_name",
        "offers",
        "ima_offset",
        "ima_reset_count",
        "nonce",
        "share",
    }
)
_OFFER = frozenset({"type", "port", "spi"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """What each side opens with. `session` is chosen by the responder, and all zeros from the initiator."""

    role: Role
    session: bytes = _NO_SESSION
    sender: HostName
    receiver: HostName
    terms: Terms
    nonce: bytes
    share: bytes
    """X25519 public value, fresh."""

    def encode(self) -> bytes:
        """The bytes that cross the wire and enter the transcript."""
        terms = self.terms
        return encode_object(
            {
                "v": PROTOCOL_VERSION,
                "role": str(self.role),
                "session": self.session.hex(),
                "from": self.sender,
                "to": self.receiver,
                "coalition": terms.coalition,
                "policy_version": terms.policy_version,
                "policy_digest": terms.policy_digest,
                "peer_policy_digest": terms.peer_policy_digest,
                "shared": None if terms.shared is None else list(terms.shared),
                "certificate": terms.certificate_sha256.hex(),
                "ak_name": terms.ak_name.hex(),
                "offers": [{"type": offer.type, "port": offer.port, "spi": offer.spi} for offer in terms.offers],
                "ima_offset": terms.ima_offset,
                "ima_reset_count": terms.ima_reset_count,
                "nonce": self.nonce.hex(),
                "share": self.share.hex(),
            }
        )

    @classmethod
    def decode(cls, data: bytes, role: Role) -> Self:
        """Read the hello of the side with `role`. Raises BadInput."""
        fields = Fields.parse(data, "hello", _HELLO)
        _require_version(fields)
        found = fields.text("role")
        if found != role:
            raise BadInput("malformed message", where="hello.role", expected=role, found=found)
        session = fields.octets("session", least=SESSION_BYTES)
        if (session == _NO_SESSION) is (role is Role.RESPONDER):
            raise BadInput("malformed message", where="hello.session", expected="the responder's id of the session")
        return cls(
            role=role,
            session=session,
            sender=HostName(plain_name(fields.text("from"), "host name")),
            receiver=HostName(plain_name(fields.text("to"), "host name")),
            terms=Terms(
                coalition=fields.text("coalition"),
                policy_version=fields.number("policy_version", least=0, most=1 << 53),
                policy_digest=_hex_digest(fields, "policy_digest"),
                peer_policy_digest=_hex_digest(fields, "peer_policy_digest"),
                shared=_shared(fields),
                certificate_sha256=fields.octets("certificate", least=DIGEST_BYTES),
                ak_name=fields.octets("ak_name", least=2 + 20, most=2 + 64),
                offers=_offers(fields),
                ima_offset=fields.number("ima_offset", least=0, most=_MAX_OFFSET),
                ima_reset_count=fields.number("ima_reset_count", least=0, most=(1 << 32) - 1),
            ),
            nonce=fields.octets("nonce", least=NONCE_BYTES),
            share=fields.octets("share", least=SHARE_BYTES),
        )


def _hex_digest(fields: Fields, name: str) -> str:
    digest = fields.text(name, most=64)
    if not is_sha256(digest):
        raise BadInput("malformed message", where=f"hello.{name}", expected="SHA-256 in hexadecimal")
    return digest


def _shared(fields: Fields) -> tuple[TypeName, ...] | None:
    if fields.is_null("shared"):
        return None
    names = [type_name(name) for name in fields.texts("shared", most=MAX_SHARED, longest=512)]
    if names != sorted(set(names)):
        raise BadInput("malformed message", where="hello.shared", expected="every type once, by name")
    return tuple(names)


def _offers(fields: Fields) -> tuple[LinkOffer, ...]:
    offers = tuple(
        LinkOffer(
            type=type_name(item.text("type", most=512)),
            port=item.number("port", least=1, most=65535),
            spi=item.number("spi", least=_FIRST_SPI, most=(1 << 32) - 1),
        )
        for item in fields.objects("offers", _OFFER, most=MAX_OFFERS)
    )
    for what, values in (
        ("type", [offer.type for offer in offers]),
        ("port", [offer.port for offer in offers]),
        ("SPI", [offer.spi for offer in offers]),
    ):
        if len(set(values)) != len(values):
            raise BadInput("malformed message", where="hello.offers", expected=f"every {what} once")
    return offers


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What one side says of the other's Evidence, as far as the other needs to know it."""

    trusted: bool
    failures: tuple[str, ...] = ()
    """The claims that failed, in words; none when trusted."""

    @classmethod
    def of(cls, result: AttestationResult) -> Self:
        """The verdict that tells `result` to the host that it is about."""
        if result.trusted:
            return cls(trusted=True)
        return cls(trusted=False, failures=failure_words(result.failures))

    def encode(self) -> bytes:
        """Canonical bytes: they cross the wire, and the confirming MACs cover them."""
        return encode_object({"trusted": self.trusted, "failures": list(self.failures)})

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Raises BadInput, also for a verdict that contradicts itself."""
        fields = Fields.parse(data, "verdict", frozenset({"trusted", "failures"}))
        trusted = fields.flag("trusted")
        failures = fields.texts("failures", most=MAX_FAILURES, longest=MAX_FAILURE_WORDS)
        if trusted is bool(failures):
            raise BadInput("malformed message", where="verdict", expected="failures, or trust, and not both")
        return cls(trusted=trusted, failures=failures)


def failure_words(failures: Sequence[Claim]) -> tuple[str, ...]:
    """Claims as sentences for the host that they are about."""
    words = []
    for claim in failures[:MAX_FAILURES]:
        parts = [f"{claim.name} {claim.status}: " + (f"{claim.where}: " if claim.where else "") + claim.reason]
        if claim.expected:
            parts.append(f"expected {claim.expected}")
        if claim.found:
            parts.append(f"found {claim.found}")
        words.append(printable("; ".join(parts), MAX_FAILURE_WORDS))
    return tuple(words)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceRequest:
    """The initiator's Evidence, as the exact bytes that the confirming MACs cover."""

    session: bytes
    evidence: bytes

    def encode(self) -> bytes:
        return join(encode_object({"session": self.session.hex()}), self.evidence)

    @classmethod
    def decode(cls, body: bytes) -> Self:
        """Raises BadInput."""
        header, evidence = split(body)
        fields = Fields.parse(header, "evidence", frozenset({"session"}))
        return cls(session=fields.octets("session", least=SESSION_BYTES), evidence=evidence)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceAnswer:
    """The responder's verdict on the initiator, the lease that it grants, and its own Evidence."""

    verdict: Verdict
    lease_ms: int
    evidence: bytes

    def encode(self) -> bytes:
        header = encode_object({"verdict": self.verdict.encode().decode(), "lease_ms": self.lease_ms})
        return join(header, self.evidence)

    @classmethod
    def decode(cls, body: bytes) -> Self:
        """Raises BadInput."""
        header, evidence = split(body)
        fields = Fields.parse(header, "evidence answer", frozenset({"verdict", "lease_ms"}))
        return cls(verdict=_verdict(fields), lease_ms=_lease(fields), evidence=evidence)


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirm:
    """The initiator's verdict on the responder, the lease that it grants, and its MAC over the whole handshake."""

    session: bytes
    verdict: Verdict
    lease_ms: int
    mac: bytes

    def encode(self) -> bytes:
        return encode_object(
            {
                "session": self.session.hex(),
                "verdict": self.verdict.encode().decode(),
                "lease_ms": self.lease_ms,
                "mac": self.mac.hex(),
            }
        )

    @classmethod
    def decode(cls, body: bytes) -> Self:
        """Raises BadInput."""
        fields = Fields.parse(body, "confirm", frozenset({"session", "verdict", "lease_ms", "mac"}))
        return cls(
            session=fields.octets("session", least=SESSION_BYTES),
            verdict=_verdict(fields),
            lease_ms=_lease(fields),
            mac=fields.octets("mac", least=MAC_BYTES),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfirmAnswer:
    """The responder's MAC."""

    mac: bytes

    def encode(self) -> bytes:
        return encode_object({"mac": self.mac.hex()})

    @classmethod
    def decode(cls, body: bytes) -> Self:
        """Raises BadInput."""
        fields = Fields.parse(body, "confirm answer", frozenset({"mac"}))
        return cls(mac=fields.octets("mac", least=MAC_BYTES))


@dataclass(frozen=True, slots=True, kw_only=True)
class Hint:
    """A suggestion to attest `about` now: never a verdict to believe."""

    about: HostName

    def encode(self) -> bytes:
        return encode_object({"v": PROTOCOL_VERSION, "about": self.about})

    @classmethod
    def decode(cls, body: bytes) -> Self:
        """Raises BadInput."""
        fields = Fields.parse(body, "hint", frozenset({"v", "about"}))
        _require_version(fields)
        return cls(about=HostName(plain_name(fields.text("about"), "host name")))


def _verdict(fields: Fields) -> Verdict:
    return Verdict.decode(fields.text("verdict", most=MAX_HEADER_BYTES).encode())


def _lease(fields: Fields) -> int:
    return fields.number("lease_ms", least=1, most=MAX_LEASE_MS)


def _require_version(fields: Fields) -> None:
    found = fields.number("v", least=0, most=1 << 31)
    if found != PROTOCOL_VERSION:
        raise BadInput(
            "another version of the protocol",
            expected=str(PROTOCOL_VERSION),
            found=str(found),
            remedy="Run the same release on both hosts.",
        )
