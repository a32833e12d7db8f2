"""From two hellos to the transcript, the confirming MACs and the keys of the SAs.

Everything that both sides must agree on is in the bytes of the hellos; the transcript is their digest, the salt of
every key, and inside each side's quote by way of its leaf. So keys exist only between the two TPMs, certificates and
offers that were named. Nothing here is cryptography of our own: X25519 (RFC 7748), HKDF (RFC 5869) and HMAC (RFC 2104)
with SHA-256 come from `cryptography` and the standard library.
"""

import hashlib
import hmac
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from shamon_host.attestation.evidence import Role
from shamon_host.domain.errors import NotTrusted
from shamon_host.domain.labels import TypeName
from shamon_host.peer.wire import PROTOCOL_VERSION

SA_KEY_BYTES = 36
"""AES-256 key and the 4-byte salt of AES-GCM in ESP (RFC 4106, section 8.1)."""
_DOMAIN = b"shamon attested handshake"
_MAC_KEY_BYTES = 32


def length_prefixed(*parts: bytes) -> bytes:
    """The parts, each behind its length in 8 bytes, big-endian: no two lists of parts have the same bytes."""
    return b"".join(len(part).to_bytes(8, "big") + part for part in parts)


def transcript(initiator_hello: bytes, responder_hello: bytes) -> bytes:
    """SHA-256 over the protocol and its version, and both hellos as they crossed the wire: 32 bytes."""
    version = PROTOCOL_VERSION.to_bytes(4, "big")
    return hashlib.sha256(length_prefixed(_DOMAIN, version, initiator_hello, responder_hello)).digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Proceedings:
    """What the confirming MACs cover, beyond the transcript that is in their keys."""

    initiator_evidence_sha256: bytes
    """Over the exact bytes that crossed the wire."""
    responder_evidence_sha256: bytes
    responder_verdict: bytes
    """What the responder says of the initiator, canonical."""
    initiator_verdict: bytes
    responder_lease_ms: int
    initiator_lease_ms: int

    def encode(self) -> bytes:
        return length_prefixed(
            self.initiator_evidence_sha256,
            self.responder_evidence_sha256,
            self.responder_verdict,
            self.initiator_verdict,
            self.responder_lease_ms.to_bytes(8, "big"),
            self.initiator_lease_ms.to_bytes(8, "big"),
        )


class Share:
    """This side's X25519 key for one handshake. Used once."""

    __slots__ = ("_private", "public")

    def __init__(self) -> None:
        self._private = X25519PrivateKey.generate()
        self.public = self._private.public_key().public_bytes_raw()

    def agree(self, peer_public: bytes, transcript_: bytes) -> "HandshakeKeys":
        """The keys of the handshake. Raises NotTrusted for a share of small order, or our own one sent back."""
        if hmac.compare_digest(peer_public, self.public):
            raise NotTrusted("the peer sent this host's own X25519 share back", where="hello.share")
        try:
            secret = self._private.exchange(X25519PublicKey.from_public_bytes(peer_public))
        except ValueError:
            secret = bytes(32)
        if not any(secret):
            raise NotTrusted(
                "the X25519 share gives an all-zero secret",
                where="hello.share",
                expected="a share that is not of small order (RFC 7748, section 6.1)",
            )
        return HandshakeKeys(secret=secret, transcript=transcript_)


@dataclass(frozen=True, slots=True, kw_only=True)
class HandshakeKeys:
    """Derives every key of one handshake. Both sides have the same one."""

    secret: bytes = field(repr=False)
    transcript: bytes

    def mac(self, role: Role, proceedings: Proceedings) -> bytes:
        """The MAC by which the side with `role` confirms the proceedings: 32 bytes."""
        key = self._derive(length_prefixed(b"confirm", role.encode()), _MAC_KEY_BYTES)
        return hmac.digest(key, proceedings.encode(), "sha256")

    def check_mac(self, role: Role, proceedings: Proceedings, mac: bytes) -> None:
        """Raises NotTrusted unless `mac` is that of the side with `role`."""
        if not hmac.compare_digest(self.mac(role, proceedings), mac):
            raise NotTrusted(
                f"the {role}'s confirmation is not right: the two sides saw different handshakes",
                expected="a MAC over both Evidences, verdicts and leases",
            )

    def sa_key(self, type_: TypeName, sender: Role, *, initiator_spi: int, responder_spi: int) -> bytes:
        """The key of the SA of a type in the direction in which `sender` sends: 36 bytes.

        `initiator_spi` is the SPI of the SA towards the initiator, `responder_spi` that towards the responder.
        """
        info = length_prefixed(
            b"sa", type_.encode(), sender.encode(), initiator_spi.to_bytes(4, "big"), responder_spi.to_bytes(4, "big")
        )
        return self._derive(info, SA_KEY_BYTES)

    def _derive(self, info: bytes, length: int) -> bytes:
        full = length_prefixed(_DOMAIN) + info
        return HKDF(algorithm=SHA256(), length=length, salt=self.transcript, info=full).derive(self.secret)
