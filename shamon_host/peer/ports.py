"""What the handshake needs of the network and of the host that it speaks for.

Real transport: `http_transport` (aiohttp, mutual TLS 1.3). In memory: `shamon_host.testing.network`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from shamon_host.attestation.evidence import Evidence, Role
from shamon_host.domain.labels import HostName, TypeName
from shamon_host.domain.policy import HostEntry
from shamon_host.domain.results import AttestationResult, TpmKind


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerIdentity:
    """Who a TLS connection belongs to: the name in its certificate, and the certificate's SHA-256."""

    host: HostName
    certificate_sha256: bytes


class Membership(StrEnum):
    """What the newest record of a host says of it."""

    ENROLLED = "enrolled"
    LEFT = "left"
    """It gave up its place; it may be enrolled again."""
    EXPELLED = "expelled"
    """For good: its certificate, its AK and its EK are revoked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrolledPeer:
    """What the coalition wrote down about a host before any handshake with it (`host_record`)."""

    host: HostName
    certificate_sha256: bytes
    """SHA-256 over the DER of its TLS certificate."""
    ak_public: bytes
    """TPMT_PUBLIC of its Attestation Key."""
    ak_name: bytes
    """Name of that key: nameAlg, then the digest of `ak_public` (TPM 2.0 Part 1, section 16)."""
    tpm: TpmKind
    ek_sha256: bytes = b""
    """SHA-256 over the TPMT_PUBLIC of its EK; empty where nobody has shown that the AK is in a TPM with an EK."""
    serial: int = 0
    """Of the record that says so."""
    membership: Membership = Membership.ENROLLED
    reason: str = ""
    """Why it is out, in words."""
    record_key: str = ""
    """Public key of its certificate, base64 of a DER SubjectPublicKeyInfo: signs its votes on policies."""

    @property
    def expelled(self) -> bool:
        return self.membership is Membership.EXPELLED


class PeerDirectory(Protocol):
    """Who is enrolled. Real and in memory: `enrolment.PeerRegistry`."""

    def get(self, host: HostName) -> EnrolledPeer | None:
        """What is known of `host`, be it enrolled or out."""
        ...

    def enrolled(self, host: HostName) -> EnrolledPeer:
        """The entry of `host`. Raises NotTrusted when there is none, or when the host has left or is expelled."""
        ...

    def by_certificate(self, certificate_sha256: bytes) -> EnrolledPeer:
        """Whose certificate this is. Raises NotTrusted when nobody's, or when the host has left or is expelled."""
        ...


class PeerTransport(Protocol):
    """Calls to peers. The certificate that answers must be the one enrolled for `host`."""

    async def call(self, host: HostEntry, path: str, body: bytes, *, timeout_s: float) -> bytes:
        """POST `body` to `path` and return the answer. Raises Unreachable, NotTrusted (another certificate answers),
        BadInput (a body beyond `wire.body_limit`), and Refused with the peer's own words when it refuses, as
        `errors.Busy` when it only has no time now."""
        ...


class PeerHandler(Protocol):
    """The receiving side. ShamonError raised here reaches the caller as Refused, in words."""

    async def handle(self, caller: PeerIdentity, path: str, body: bytes) -> bytes: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkOffer:
    """One side's ids for the link of one type: where it wants to receive."""

    type: TypeName
    port: int
    """Local UDP port, tunnel id and session id of the side that offers."""
    spi: int
    """SPI of the SA towards the side that offers, allocated for this handshake."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a side brings to a handshake, all of it in the transcript."""

    coalition: str
    policy_version: int
    policy_digest: str
    peer_policy_digest: str
    """What this side takes the other's policy to be: `shared` and the offers are for that one."""
    shared: tuple[TypeName, ...] | None
    """The types that this side would share under the two policies, by the names that both use. What is in both sides'
    terms may be carried, and nothing else. None: the two policies are the same, so it would share all types."""
    certificate_sha256: bytes
    ak_name: bytes
    offers: tuple[LinkOffer, ...]
    """One for each type that it may carry to this peer."""
    ima_offset: int
    """Byte offset from which it wants the peer's IMA log."""
    ima_reset_count: int
    """resetCount of the peer's boot which that offset belongs to; the peer answers from 0 if it booted since."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgreedLink:
    """One link that both sides agreed on. Keys are 36 bytes (AES-256 key, salt), one for each direction."""

    type: TypeName
    local_port: int
    peer_port: int
    in_spi: int
    out_spi: int
    in_key: bytes = field(repr=False)
    out_key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A confirmed handshake in which both sides passed."""

    peer: HostName
    role: Role
    result: AttestationResult
    """What this side says of the peer."""
    lease_s: float
    """The shorter of both leases; counted from `started_s`."""
    started_s: float
    """CLOCK_BOOTTIME of this side before its hello was sent or answered: the lease counts from here."""
    links: tuple[AgreedLink, ...]
    unused_spis: tuple[int, ...] = ()
    """SPIs that this side offered for types that the peer did not: to be given back."""
    terms: Terms
    """Of this side."""
    peer_terms: Terms
    transcript: bytes


class PolicyHandler(Protocol):
    """What peers ask about policies (`policy_messages`). The daemon implements it."""

    async def handle_policy(self, peer: HostName, path: str, body: bytes) -> bytes:
        """Answer one request of an enrolled peer. Raises ShamonError."""
        ...


class RegistryHandler(Protocol):
    """What peers say and ask about who is enrolled (`registry_messages`). The daemon implements it."""

    async def handle_registry(self, caller: HostName, body: bytes) -> bytes:
        """Answer one request of whoever has a certificate of the coalition's CA. Raises ShamonError."""
        ...


class MoveHandler(Protocol):
    """What peers say of VMs that they move to this host (`move_messages`). The daemon implements it."""

    async def handle_move(self, peer: HostName, path: str, body: bytes) -> bytes:
        """Answer one request of an enrolled peer. Raises ShamonError."""
        ...


class HandshakeHost(Protocol):
    """The host that a handshake speaks for. The daemon implements it."""

    async def meet(self, peer: HostName, terms: Terms) -> None:
        """The peer says which policy it enforces, before this side relies on it.

        Raises `errors.Busy` while that policy is not known here yet, Refused when nothing can be shared under it.
        """
        ...

    async def terms(self, peer: HostName) -> Terms:
        """What to offer to this peer now. Raises Refused (host expelled, no guard, SELinux permissive).

        Each call that returns is followed by exactly one of: `install_outbound` that returns, or `abandoned`.
        """
        ...

    async def evidence(
        self, peer: HostName, role: Role, transcript: bytes, *, ima_offset: int, ima_reset_count: int
    ) -> Evidence:
        """Evidence bound to this handshake (leaf gathered, quote shared)."""
        ...

    async def appraise(
        self, peer: HostName, role: Role, transcript: bytes, terms: Terms, evidence: Evidence
    ) -> AttestationResult:
        """Appraise the peer's Evidence. Suspends the peer at once when it fails.

        `role` and `terms` are the peer's. The Evidence's `ima_offset` is 0 or what this side's own terms asked for.
        """
        ...

    async def lease_s(self, peer: HostName) -> float:
        """The lease that this side grants."""
        ...

    async def install_inbound(self, outcome: Outcome) -> None:
        """Both verdicts passed and the peer's MAC was right: admit the peer, install the receive side."""
        ...

    async def install_outbound(self, outcome: Outcome) -> None:
        """The peer has its receive side: install the send side, open the gate, drop what is superseded."""
        ...

    async def abandoned(self, peer: HostName, terms: Terms, outcome: Outcome | None) -> None:
        """The handshake that these terms of this side were made for came to nothing: give back its SPIs, and where
        `outcome` is there remove whatever `install_inbound` or `install_outbound` did for it, but for receiving SAs of
        links that carried before where the peer may have switched to them. Links of an earlier handshake with this
        peer stay as they are. Must not raise."""
        ...

    async def refused_by_peer(self, peer: HostName, failures: Sequence[str]) -> None:
        """The peer does not trust this host; its reasons, in words."""
        ...
